//! Participants whose data is in MariaDB or MySQL, in tables of InnoDB.

mod at_work;
mod block;
mod branch_lock;
mod detach;
mod end;
mod ends;
mod error;
mod held;
mod own;
mod place;
mod reading;
mod server;
mod session;
mod statements;
mod sweep;
mod timeline;
mod two_phase;
mod xid;

use std::str::FromStr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use sqlx::migrate::MigrateError;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlPool, MySqlPoolOptions};
use sqlx::{ConnectOptions, Connection};
use unanimo_migrations::participant::MYSQL as MIGRATIONS;
use unanimo_proto::v1::Mode;

use self::block::MySqlBlocks;
use self::detach::Detach;
use self::error::{LOCK_WAIT_TIMEOUT, NO_SUCH_TABLE};
use self::session::Session;
use self::statements::Statements;
use crate::action::Registered;
use crate::barrier::{self, Losses};
use crate::handler::BoxError;
use crate::refusal::Refusal;
use crate::resource::{
    ACQUIRE_TIMEOUT, Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall, Resource,
    SWEEP_CONNECTIONS, Slots, TwoPhaseResource, Voted, options, sealed,
};
use crate::schema::{self, CONNECT_MAX, Error, LOOK_MAX, MAKE_MAX, within};

options! {
    MySqlOptions,
    lock: "(`innodb_lock_wait_timeout`, `lock_wait_timeout`), in whole seconds, rounded up",
    statement: "(MariaDB: `max_statement_time`; MySQL: `max_execution_time`, which bounds only what \
                reads)",
    idle: "(MariaDB: `idle_transaction_timeout`; MySQL: `wait_timeout`), in whole seconds, rounded \
           up",
    own: {},
}

impl MySqlOptions {
    /// Connects to `mysql://USER:PASSWORD@HOST/DATABASE` (or `…/DATABASE?socket=PATH`), and creates
    /// or upgrades the table `unanimo_barrier` in that database.
    ///
    /// # Errors
    /// The URL names no database, the database cannot be reached or is read-only, it does not take the
    /// settings that a session needs, the table cannot be made, or it is of a later version.
    pub async fn connect(self, url: &str) -> Result<MySql, Error> {
        let given = MySqlConnectOptions::from_str(url).map_err(|e| Error::Url(e.to_string()))?;
        self.open(given.disable_statement_logging()).await
    }

    /// Opens the pools, with connections of these options.
    async fn open(self, given: MySqlConnectOptions) -> Result<MySql, Error> {
        let given = own::completed(given);
        let Some(database) = given.get_database().map(str::to_owned) else {
            return Err(Error::Url("it must name a database".to_owned()));
        };
        let (cannot_prepare, detach, place) = within(LOOK_MAX, abilities(&given)).await?;
        let statements = Arc::new(Statements::new(&database, &self));
        let session = Arc::new(Session::new(&statements));
        let pool = |connections| {
            let [for_new, for_used] = [(); 2].map(|()| Arc::clone(&session));
            MySqlPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .after_connect(move |connection, _| {
                    let session = Arc::clone(&for_new);
                    Box::pin(async move { session.set_up(connection).await })
                })
                // Asked of every session that is taken up again, instead of a mere ping.
                .test_before_acquire(false)
                .before_acquire(|connection, _| Box::pin(session::is_writable(connection)))
                // What a handler has set or left must not meet the next one.
                .after_release(move |connection, _| {
                    let session = Arc::clone(&for_used);
                    Box::pin(async move { session.clean(connection).await })
                })
                .connect_lazy_with(given.clone())
        };
        let mysql = MySql {
            prepare: pool(self.prepare_connections),
            phase_two: pool(self.phase_two_connections),
            sweep: pool(SWEEP_CONNECTIONS),
            slots: self.slots(),
            lock_timeout: self.lock_timeout,
            statements,
            set_up: Arc::new(SetUp {
                given: RwLock::new(given),
                session,
                is_made: OnceLock::new(),
            }),
            cannot_prepare: cannot_prepare.map(Into::into),
            detach,
            losses: Arc::default(),
            place: place.into(),
        };
        match mysql.make_table().await {
            Ok(()) | Err(Error::InUse { .. }) => {}
            Err(error) => return Err(error),
        }
        // What the server does not allow is found out now, and not by the first transaction.
        within(CONNECT_MAX, mysql.set_up.try_session()).await?;
        Ok(mysql)
    }
}

/// Asks the server why it cannot prepare transactions, when it detaches those that it does, and how it tells where
/// it is.
async fn abilities(given: &MySqlConnectOptions) -> Result<(Option<String>, Detach, String), Error> {
    let connecting = async { MySqlConnection::connect_with(given).await.map_err(Error::Connect) };
    let mut connection = within(CONNECT_MAX, connecting).await?;
    server::warn_if_not_durable(&mut connection).await?;
    let why_not = server::cannot_prepare(&mut connection).await?;
    let detach = match why_not {
        None => Detach::of(&mut connection).await?,
        Some(_) => Detach::AtSessionEnd,
    };
    let place = place::statement(&mut connection).await?;
    let _ = connection.close().await;
    Ok((why_not, detach, place))
}

/// Two processes that start at once must not both make the table: MariaDB does not know the endless
/// wait that the migrations' own lock asks for, and goes on without it.
async fn migrate(connection: &mut MySqlConnection) -> Result<(), Error> {
    let turn = sqlx::query_scalar("SELECT GET_LOCK('unanimo_barrier_migrations', ?)");
    let turn: Option<i64> =
        turn.bind(MIGRATION_TURN_SECS).fetch_one(&mut *connection).await.map_err(Error::Connect)?;
    if turn != Some(1) {
        let text = "another process has been migrating the table for too long";
        return Err(Error::Migrate(MigrateError::Source(text.into())));
    }
    let made = make(connection).await;
    // A server, or a proxy before it, may keep the session of a connection that has gone.
    let release = sqlx::query("SELECT RELEASE_LOCK('unanimo_barrier_migrations')");
    let released = release.execute(connection).await;
    made.and_then(|()| released.map(drop).map_err(Error::Connect))
}

async fn make(connection: &mut MySqlConnection) -> Result<(), Error> {
    // DDL cannot be undone. A migration that a crash has interrupted is run again: they are written
    // for that.
    let unfinished = "DELETE FROM unanimo_barrier_migrations WHERE success = false";
    match sqlx::query(unfinished).execute(&mut *connection).await {
        Err(error) if error::number(&error) != Some(NO_SUCH_TABLE) => {
            return Err(Error::Migrate(error.into()));
        }
        _ => {}
    }
    schema::migrate(&MIGRATIONS, connection).await.map_err(|error| match error {
        Error::Migrate(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))
            if error::number(&error) == Some(LOCK_WAIT_TIMEOUT) =>
        {
            Error::InUse { waited: Duration::from_secs(MIGRATION_LOCK_SECS) }
        }
        other => other,
    })
}

/// Longest wait for those who use the table while it is upgraded. Whoever waits for it keeps everybody out
/// who comes behind.
const MIGRATION_LOCK_SECS: u64 = 5;

/// Longest wait for another process that makes the table, which takes far less than a second.
const MIGRATION_TURN_SECS: i64 = 60;

/// A participant's MariaDB or MySQL database, with its barrier. It is tested with MariaDB 10.11 and MySQL 9.7. On MySQL
/// each operation takes a session of its own: the server does not tell everybody what a session has done.
///
/// It has connections of its own, apart from the service's: handlers run on them. All tables that
/// handlers write must be InnoDB's. The server's `binlog_format` must be `MIXED` or `ROW`, which are
/// the defaults, if it writes a binary log: InnoDB refuses READ COMMITTED with `STATEMENT`.
///
/// A handler must do nothing that MariaDB and MySQL commit implicitly: no DDL, no `LOCK TABLES`, no
/// `SET autocommit`. One that does never gets a yes, but what it has committed stays: its branch is then a
/// hazard.
///
/// A session on which a handler has left something, such as a setting, a role, a temporary table or a variable, is
/// closed behind it, so that nobody meets it: such a handler costs a new connection each time. MySQL does not tell of
/// variables that are set within a query (`SELECT @x := …`): leave none there.
#[derive(Clone, Debug)]
pub struct MySql {
    prepare: MySqlPool,
    phase_two: MySqlPool,
    sweep: MySqlPool,
    slots: Slots,
    /// Longest wait for a transaction that another session holds, as for a lock.
    lock_timeout: Duration,
    statements: Arc<Statements>,
    set_up: Arc<SetUp>,
    cannot_prepare: Option<Arc<str>>,
    detach: Detach,
    losses: Arc<Losses>,
    /// Statement that tells where the database is.
    place: Arc<str>,
}

/// Set-up of the database, which comes once.
#[derive(Debug)]
struct SetUp {
    /// They may change while the participant lives.
    given: RwLock<MySqlConnectOptions>,
    session: Arc<Session>,
    /// The table is there as this version needs it.
    is_made: OnceLock<()>,
}

impl SetUp {
    fn given(&self) -> MySqlConnectOptions {
        self.given.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A connection for statements that set something up. They wait for nobody for long.
    async fn connect(&self) -> Result<MySqlConnection, Error> {
        within(CONNECT_MAX, async { self.open().await.map_err(Error::Connect) }).await
    }

    /// Opens a session as the pools do, and closes it.
    async fn try_session(&self) -> Result<(), Error> {
        let real = MySqlConnection::connect_with(&self.given()).await;
        let mut real = real.map_err(Error::Connect)?;
        self.session.set_up(&mut real).await.map_err(Error::Connect)?;
        // Nothing depends on how the connection ends.
        let _ = real.close().await;
        Ok(())
    }

    async fn open(&self) -> sqlx::Result<MySqlConnection> {
        let mut connection = MySqlConnection::connect_with(&self.given()).await?;
        let bound = format!(
            "SET lock_wait_timeout = {MIGRATION_LOCK_SECS}, innodb_lock_wait_timeout = {MIGRATION_LOCK_SECS}"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(bound)).execute(&mut connection).await?;
        Ok(connection)
    }
}

impl MySql {
    /// Connects with [default options](MySqlOptions).
    ///
    /// # Errors
    /// As of [`MySqlOptions::connect`].
    pub async fn connect(url: &str) -> Result<Self, Error> {
        MySqlOptions::default().connect(url).await
    }

    /// Tells whether the server can prepare transactions, for [two-phase commit](crate::TwoPhase): it is
    /// MariaDB 10.5.2 or later, or MySQL 8.0.30 or later, no node of Galera, and lets the participant's
    /// user list them (on MySQL the privilege `XA_RECOVER_ADMIN`).
    #[must_use]
    pub fn can_prepare(&self) -> bool {
        self.cannot_prepare.is_none()
    }

    /// Makes or upgrades the table, and learns its database's id.
    async fn make_table(&self) -> Result<(), Error> {
        let mut connection = self.set_up.connect().await?;
        let found = async { Ok(schema::find!(connection, "prepare_until_ms")) };
        let found = within(LOOK_MAX, found).await?;
        if schema::is_to_be_made(&MIGRATIONS, found)? {
            match within(MAKE_MAX, migrate(&mut connection)).await {
                Err(error) if found.columns && error::is_not_permitted(&error) => {
                    schema::tell_not_upgraded(found, &MIGRATIONS, &error);
                }
                done => done?,
            }
        }
        let end = async {
            let id = schema::read_id!(connection);
            let _ = connection.close().await;
            Ok(id)
        };
        if let Some(id) = within(LOOK_MAX, end).await? {
            self.set_up.session.is_at(id)?;
        }
        self.set_up.is_made.get_or_init(|| ());
        Ok(())
    }

    fn for_prepare(&self) -> MySqlBlocks<'_> {
        MySqlBlocks { pool: &self.prepare, sweep: &self.sweep, statements: &self.statements }
    }

    fn for_phase_two(&self) -> MySqlBlocks<'_> {
        MySqlBlocks { pool: &self.phase_two, sweep: &self.sweep, statements: &self.statements }
    }
}

impl sealed::Sealed for MySql {}

impl Resource for MySql {
    type Connection = MySqlConnection;

    fn slots(&self) -> Slots {
        self.slots
    }

    fn database_id(&self) -> Option<&str> {
        self.set_up.session.database_id()
    }

    async fn place(&self) -> Result<Option<String>, Fault> {
        self.read_place().await
    }

    fn losses(&self) -> &Losses {
        &self.losses
    }

    async fn record_losses(&self) -> bool {
        barrier::record_all(&self.for_phase_two(), &self.losses).await
    }

    fn for_sweeper(&self) -> Self {
        let sweep = self.sweep.clone();
        Self { prepare: sweep.clone(), phase_two: sweep, ..self.clone() }
    }

    fn is_made(&self) -> bool {
        self.set_up.is_made.get().is_some()
    }

    async fn make(&self) -> Result<(), Error> {
        if self.is_made() { Ok(()) } else { self.make_table().await }
    }

    async fn to_set_up(&self) -> Result<MySqlConnection, Error> {
        self.set_up.connect().await
    }

    fn is_locked_out(error: &BoxError) -> bool {
        error::is_locked_out(error.as_ref())
    }

    async fn is_there(&self) -> Result<(), Fault> {
        for pool in [&self.prepare, &self.phase_two] {
            pool.acquire().await.map_err(error::fault("open a session"))?;
        }
        Ok(())
    }

    async fn prepare(
        &self,
        call: &RawCall,
        until: Option<SystemTime>,
        action: &Registered<MySqlConnection>,
    ) -> Result<Voted, Fault> {
        barrier::recorded_before(&self.for_prepare(), &self.losses, call).await?;
        let voted = match action.mode {
            Mode::TwoPhaseCommit if action.read_only => {
                crate::two_phase::read(self, call, until, action).await
            }
            Mode::TwoPhaseCommit => crate::two_phase::prepare(self, call, until, action).await,
            _ => barrier::try_(&self.for_prepare(), call, until, action).await,
        };
        barrier::recorded(&self.for_prepare(), &self.losses, call, voted).await
    }

    async fn refuse(&self, call: &RawCall, refusal: Refusal) -> Result<Voted, Fault> {
        barrier::refuse(&self.for_prepare(), call, refusal).await
    }

    async fn phase_two(
        &self,
        operation: PhaseTwoOperation,
        call: &RawCall,
        action: Option<&Registered<MySqlConnection>>,
    ) -> Result<PhaseTwoAnswer, Fault> {
        if call.mode == Mode::TwoPhaseCommit {
            return crate::two_phase::end(self, &self.losses, operation, call).await;
        }
        let blocks = self.for_phase_two();
        barrier::recorded_before(&blocks, &self.losses, call).await?;
        let ended = barrier::phase_two(&blocks, operation, call, action).await;
        barrier::recorded_end(&blocks, &self.losses, call, ended).await
    }
}

impl TwoPhaseResource for MySql {
    fn cannot_prepare(&self) -> Option<&str> {
        self.cannot_prepare.as_deref()
    }
}
