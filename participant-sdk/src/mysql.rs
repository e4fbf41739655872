//! Participants whose data is in MariaDB or MySQL, in tables of InnoDB.

mod block;
mod error;

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use sqlx::migrate::MigrateError;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlPool, MySqlPoolOptions};
use sqlx::{ConnectOptions, Connection};

use self::block::MySqlBlocks;
use crate::action::Registered;
use crate::barrier;
use crate::refusal::Refusal;
use crate::resource::{Fault, Finish, Finished, RawCall, Resource, Slots, Voted, sealed};
use crate::schema::{self, Error};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/participant/mysql");

/// How a participant connects to its database.
#[derive(Clone, Debug)]
pub struct MySqlOptions {
    prepare_connections: u32,
    finish_connections: u32,
    lock_timeout: Duration,
    statement_timeout: Duration,
    idle_timeout: Duration,
}

impl Default for MySqlOptions {
    fn default() -> Self {
        Self {
            prepare_connections: 16,
            finish_connections: 16,
            lock_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

impl MySqlOptions {
    /// Connections for phase one, and so Prepares at once. Default 16.
    #[must_use]
    pub fn prepare_connections(mut self, connections: u32) -> Self {
        self.prepare_connections = connections.max(1);
        self
    }

    /// Connections for phase two, and so Commits and Cancels at once. Never used for phase one,
    /// which may wait for locks that only phase two frees. Default 16.
    #[must_use]
    pub fn finish_connections(mut self, connections: u32) -> Self {
        self.finish_connections = connections.max(1);
        self
    }

    /// How long a statement may wait for a lock (`innodb_lock_wait_timeout`, `lock_wait_timeout`), in
    /// whole seconds, rounded up. An operation that meets another one of its branch for longer
    /// answers that it is still working. Default 2 s.
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// How long a statement of a handler may take (MariaDB: `max_statement_time`; MySQL:
    /// `max_execution_time`, which bounds only what reads). Default 30 s.
    #[must_use]
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }

    /// How long a handler may do something else than the database's work before its local
    /// transaction is ended (MariaDB: `idle_transaction_timeout`; MySQL: `wait_timeout`), in whole
    /// seconds, rounded up. Default 60 s.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Connects to `mysql://USER:PASSWORD@HOST/DATABASE` (or `…/DATABASE?socket=PATH`), and creates
    /// or upgrades the table `unanimo_barrier` in that database.
    ///
    /// # Errors
    /// The URL names no database, the database cannot be reached, the table cannot be made, or it is
    /// of a later version.
    pub async fn connect(self, url: &str) -> Result<MySql, Error> {
        let given = MySqlConnectOptions::from_str(url).map_err(|e| Error::Url(e.to_string()))?;
        let given = given.timezone(Some("+00:00".to_owned())).disable_statement_logging();
        let Some(database) = given.get_database().map(str::to_owned) else {
            return Err(Error::Url("it must name a database".to_owned()));
        };
        let mut connection = MySqlConnection::connect_with(&given).await.map_err(Error::Connect)?;
        migrate(&mut connection).await?;
        // Nothing depends on how the connection ends.
        let _ = connection.close().await;

        let pool = |connections| {
            MySqlPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .connect_lazy_with(given.clone())
        };
        Ok(MySql {
            prepare: pool(self.prepare_connections),
            finish: pool(self.finish_connections),
            slots: Slots {
                prepare: self.prepare_connections as usize,
                finish: self.finish_connections as usize,
            },
            session: self.session(&database),
        })
    }

    /// What makes a pooled connection fit for a local transaction, whatever the handler before has
    /// done to it: nothing of that one's is left open, to be committed by the next BEGIN, and its
    /// database and settings are ours again.
    ///
    /// `autocommit` is off because a deadlock ends the whole transaction: a handler that swallows
    /// the error and goes on would otherwise commit statement by statement. The two servers name
    /// some limits differently, in comments that only one of them reads.
    fn session(&self, database: &str) -> String {
        let lock_secs = whole_secs(self.lock_timeout);
        let idle_secs = whole_secs(self.idle_timeout);
        let statement_ms = self.statement_timeout.as_millis().clamp(1, u128::from(u32::MAX));
        let statement_secs = statement_ms as f64 / 1000.0;
        let mut session = format!("ROLLBACK; USE `{}`; ", database.replace('`', "``"));
        // Writing to a String cannot fail.
        let _ = write!(
            session,
            "SET autocommit = 0, time_zone = '+00:00', \
             sql_mode = CONCAT(@@GLOBAL.sql_mode, \
                 ',STRICT_ALL_TABLES,PIPES_AS_CONCAT,NO_ENGINE_SUBSTITUTION'), \
             foreign_key_checks = 1, unique_checks = 1, \
             innodb_lock_wait_timeout = {lock_secs}, lock_wait_timeout = {lock_secs} \
             /*M! , max_statement_time = {statement_secs}, \
                 idle_transaction_timeout = {idle_secs} */ \
             /*!80000 , max_execution_time = {statement_ms}, wait_timeout = {idle_secs} */; "
        );
        session
    }
}

/// How long an operation waits for a connection: it has a slot, so only for a database that is away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The server takes no fractions and at most a year, and 0 means at once or never.
fn whole_secs(timeout: Duration) -> u128 {
    timeout.as_millis().div_ceil(1000).clamp(1, 31_536_000)
}

/// Two processes that start at once must not both make the table: MariaDB does not know the endless
/// wait that the migrations' own lock asks for, and goes on without it.
async fn migrate(connection: &mut MySqlConnection) -> Result<(), Error> {
    let turn: Option<i64> =
        sqlx::query_scalar("SELECT GET_LOCK('unanimo_barrier_migrations', ?)")
            .bind(MIGRATION_TURN_SECS)
            .fetch_one(&mut *connection)
            .await
            .map_err(Error::Connect)?;
    if turn != Some(1) {
        let text = "another process has been at it for too long";
        return Err(Error::Migrate(MigrateError::Source(text.into())));
    }
    // The lock ends with the connection.
    schema::migrate(&MIGRATIONS, connection).await
}

/// How long to wait for another process that makes the table, which takes far less than a second.
const MIGRATION_TURN_SECS: i64 = 60;

/// A participant's MariaDB or MySQL database, with its barrier.
///
/// It has connections of its own, apart from the service's: handlers run on them. All tables that
/// handlers write must be InnoDB's. The server's `binlog_format` must be `MIXED` or `ROW`, which are
/// the defaults, if it writes a binary log: InnoDB refuses READ COMMITTED with `STATEMENT`.
///
/// A handler must do nothing that MariaDB and MySQL commit implicitly: no DDL, no `LOCK TABLES`, no
/// `SET autocommit`. One that does never gets a yes, but what it has committed stays.
#[derive(Clone, Debug)]
pub struct MySql {
    prepare: MySqlPool,
    finish: MySqlPool,
    slots: Slots,
    /// See [`MySqlOptions::session`].
    session: String,
}

impl MySql {
    /// Connects with [default options](MySqlOptions).
    ///
    /// # Errors
    /// As of [`MySqlOptions::connect`].
    pub async fn connect(url: &str) -> Result<Self, Error> {
        MySqlOptions::default().connect(url).await
    }

    fn for_prepare(&self) -> MySqlBlocks<'_> {
        MySqlBlocks { pool: &self.prepare, session: &self.session }
    }

    fn for_finish(&self) -> MySqlBlocks<'_> {
        MySqlBlocks { pool: &self.finish, session: &self.session }
    }
}

impl sealed::Sealed for MySql {}

impl Resource for MySql {
    type Connection = MySqlConnection;

    fn slots(&self) -> Slots {
        self.slots
    }

    async fn prepare(
        &self,
        call: &RawCall,
        until: Option<SystemTime>,
        action: &Registered<MySqlConnection>,
    ) -> Result<Voted, Fault> {
        barrier::try_(&self.for_prepare(), call, until, action).await
    }

    async fn refuse(&self, call: &RawCall, refusal: Refusal) -> Result<Voted, Fault> {
        barrier::refuse(&self.for_prepare(), call, refusal).await
    }

    async fn finish(
        &self,
        operation: Finish,
        call: &RawCall,
        action: Option<&Registered<MySqlConnection>>,
    ) -> Result<Finished, Fault> {
        barrier::finish(&self.for_finish(), operation, call, action).await
    }
}
