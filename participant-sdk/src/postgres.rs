//! Participants whose data is in PostgreSQL, 13 or later.

mod address;
mod at_work;
mod block;
pub mod driver;
mod durable;
mod error;
mod migrate;
mod name;
#[cfg(feature = "tokio-postgres")]
mod over_deadpool;
mod over_sqlx;
mod own;
mod session;
mod set_up;
mod statements;
mod sweep;
mod timeline;
mod two_phase;
mod waiting;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use sqlx::ConnectOptions;
use sqlx::migrate::MigrateError;
use unanimo_migrations::participant::POSTGRES as MIGRATIONS;
use unanimo_proto::v1::Mode;

use self::block::PgBlocks;
use self::driver::{Care, Connection, Driver, Pool, Session, Sqlx};
use self::migrate::Migrating;
#[cfg(feature = "tokio-postgres")]
pub use self::over_deadpool::{TokioConnection, TokioPostgres};
use self::session::Settings;
use self::set_up::{SetUp, can_prepare};
use crate::action::Registered;
use crate::barrier::{self, Losses};
use crate::handler::BoxError;
use crate::refusal::Refusal;
use crate::resource::{
    Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall, Resource, SWEEP_CONNECTIONS, Slots,
    TwoPhaseResource, Voted, options, sealed,
};
use crate::schema::{self, CONNECT_MAX, Error, Found, LOOK_MAX, MAKE_MAX, within};

/// Session of a driver's pools.
type SessionOf<D> = <<D as Driver>::Pool as Pool>::Session;

options! {
    PostgresOptions,
    lock: "(`lock_timeout`)",
    statement: "(`statement_timeout`)",
    idle: "(`idle_in_transaction_session_timeout`)",
    own: { role: Option<String> },
}

impl PostgresOptions {
    /// Connects, and creates or upgrades the table `unanimo_barrier` in the first schema of the
    /// connection's `search_path`. Where branches in doubt hold the table, it is upgraded once
    /// [`Participant::serve`](crate::Participant::serve) has ended them.
    ///
    /// # Errors
    /// The database cannot be reached or is a standby, it does not take the settings that a session needs,
    /// the table cannot be made, or it is of a later version.
    pub async fn connect(self, url: &str) -> Result<Postgres, Error> {
        let given = address::read(url)?.application_name(own::APPLICATION_NAME);
        let given = given.disable_statement_logging();
        self.open_sqlx(given, Vec::new()).await
    }

    /// Connects by a driver of another crate than sqlx, as [`connect`](Self::connect) does.
    ///
    /// # Errors
    /// As of [`connect`](Self::connect).
    pub async fn over<D: Driver>(self, driver: D) -> Result<Postgres<D>, Error> {
        self.open(driver, &[]).await
    }

    /// Opens the pools, with sessions of these settings besides ours.
    async fn open<D: Driver>(
        self,
        driver: D,
        more: &[(String, String)],
    ) -> Result<Postgres<D>, Error> {
        let care = Care::new(self.session_settings(), more, self.role.as_deref());
        let set_up = SetUp { driver, care, role: self.role.clone(), is_made: OnceLock::new() };
        let pool = |sessions_max| set_up.driver.pool(sessions_max, set_up.care.clone());
        let postgres = Postgres {
            prepare: pool(self.prepare_connections),
            phase_two: pool(self.phase_two_connections),
            sweep: pool(SWEEP_CONNECTIONS),
            slots: self.slots(),
            can_prepare: can_prepare(&set_up).await?,
            losses: Arc::default(),
            set_up: Arc::new(set_up),
        };
        match postgres.make_table().await {
            Ok(()) | Err(Error::InUse { .. }) => {}
            Err(error) => return Err(error),
        }
        // What the server does not allow is found out now, and not by the first transaction.
        within(CONNECT_MAX, postgres.set_up.try_session()).await?;
        Ok(postgres)
    }

    fn session_settings(&self) -> Settings {
        // Zero would be no limit at all, and more than the server can hold would be an error.
        let ms = |duration: Duration| {
            let ms = duration.as_micros().div_ceil(1000);
            ms.clamp(1, TIMEOUT_MS_MAX).to_string()
        };
        [
            ("lock_timeout", ms(self.lock_timeout)),
            ("statement_timeout", ms(self.statement_timeout)),
            ("idle_in_transaction_session_timeout", ms(self.idle_timeout)),
            ("synchronous_commit", "on".to_owned()),
            ("default_transaction_isolation", "read committed".to_owned()),
            // Our own transactions say that they write. What a handler does after it has lost its
            // transaction fails.
            ("default_transaction_read_only", "on".to_owned()),
            // A participant that vanished must not leave its locks behind for hours.
            ("tcp_keepalives_idle", "10".to_owned()),
            ("tcp_keepalives_interval", "5".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
        ]
    }
}

/// Longest timeout that PostgreSQL knows, in milliseconds: more than three weeks.
const TIMEOUT_MS_MAX: u128 = 2_147_483_647;

/// Upgrades the table. Whoever waits for it keeps everybody out who comes behind, and a prepared
/// transaction that is in doubt holds it until it has ended: hence the bound of the connection.
async fn migrate<C: Connection>(connection: &mut C) -> Result<(), Error> {
    let done = schema::migrate(&MIGRATIONS, &mut Migrating(connection)).await;
    done.map_err(|error| match error {
        Error::Migrate(error) if is_locked_out(&error) => {
            Error::InUse { waited: MIGRATION_LOCK_TIMEOUT }
        }
        other => other,
    })
}

fn is_locked_out(error: &MigrateError) -> bool {
    migrate::failure(error).and_then(error::code) == Some(error::LOCK_TIMEOUT)
}

/// Longest wait for those who use the table while it is upgraded: a second or two is enough where
/// handlers are at work.
const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// A participant's PostgreSQL database, with its barrier.
///
/// It has connections of its own, apart from the service's: handlers run on them. They are sqlx's, or those of
/// another [`driver`].
#[derive(Clone, Debug)]
pub struct Postgres<D: Driver = Sqlx> {
    prepare: D::Pool,
    phase_two: D::Pool,
    sweep: D::Pool,
    slots: Slots,
    can_prepare: bool,
    losses: Arc<Losses>,
    set_up: Arc<SetUp<D>>,
}

impl Postgres {
    /// Connects with [default options](PostgresOptions).
    ///
    /// # Errors
    /// As of [`PostgresOptions::connect`].
    pub async fn connect(url: &str) -> Result<Self, Error> {
        PostgresOptions::default().connect(url).await
    }
}

impl<D: Driver> Postgres<D> {
    /// Connects by a driver of another crate than sqlx, with [default options](PostgresOptions).
    ///
    /// # Errors
    /// As of [`PostgresOptions::over`].
    pub async fn over(driver: D) -> Result<Self, Error> {
        PostgresOptions::default().over(driver).await
    }

    /// Tells whether the server allows prepared transactions (`max_prepared_transactions` is not 0).
    #[must_use]
    pub fn can_prepare(&self) -> bool {
        self.can_prepare
    }

    fn for_prepare(&self) -> PgBlocks<'_, D::Pool> {
        self.blocks(&self.prepare, false)
    }

    fn for_phase_two(&self) -> PgBlocks<'_, D::Pool> {
        self.blocks(&self.phase_two, true)
    }

    fn blocks<'p>(&'p self, pool: &'p D::Pool, with_savepoint: bool) -> PgBlocks<'p, D::Pool> {
        PgBlocks { pool, sweep: &self.sweep, care: &self.set_up.care, with_savepoint }
    }

    /// Makes or upgrades the table, and learns its database's id.
    async fn make_table(&self) -> Result<(), Error> {
        let mut connection = self.set_up.connect().await?;
        let found = within(LOOK_MAX, async { Ok(find(&mut connection).await) }).await?;
        if schema::is_to_be_made(&MIGRATIONS, found)? {
            match within(MAKE_MAX, migrate(&mut connection)).await {
                Err(error) if found.columns && migrate::is_not_permitted(&error) => {
                    schema::tell_not_upgraded(found, &MIGRATIONS, &error);
                    // It may have failed in the midst of a transaction.
                    connection.run("ROLLBACK").await?;
                }
                done => done?,
            }
        }
        let end = async {
            let id = statements::optional(&mut connection, schema::READ_ID, &[]).await;
            connection.close().await;
            Ok(schema::readable(id))
        };
        if let Some((id,)) = within(LOOK_MAX, end).await? {
            self.set_up.care.is_at(id)?;
        }
        self.set_up.is_made.get_or_init(|| ());
        Ok(())
    }
}

/// Looks for the table and its history.
async fn find<C: Connection>(connection: &mut C) -> Found {
    let columns = connection.run(COLUMNS).await.is_ok();
    let table = connection.run("SELECT 1 FROM unanimo_barrier WHERE 1 = 0").await.is_ok();
    let version = "SELECT max(version) FROM unanimo_barrier_migrations WHERE success";
    let version = statements::one(connection, version, &[]).await;
    Found { table, columns, version: version.ok().map(|(version,)| version) }
}

const COLUMNS: &str = "
SELECT tx_id, branch_id, cluster_id, participant, gid, action, mode, state, output, output_type, reason, message,
    prepare_until
FROM unanimo_barrier WHERE 1 = 0";

impl<D: Driver> sealed::Sealed for Postgres<D> {}

impl<D: Driver> Resource for Postgres<D> {
    type Connection = D::Connection;

    fn slots(&self) -> Slots {
        self.slots
    }

    fn database_id(&self) -> Option<&str> {
        self.set_up.care.database_id()
    }

    async fn place(&self) -> Result<Option<String>, Fault> {
        self.read_place().await.map(Some)
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

    async fn to_set_up(&self) -> Result<D::Connection, Error> {
        self.set_up.connect().await
    }

    fn is_locked_out(error: &BoxError) -> bool {
        error::is_locked_out::<D::Connection>(error.as_ref())
    }

    async fn is_there(&self) -> Result<(), Fault> {
        for pool in [&self.prepare, &self.phase_two] {
            pool.acquire().await.map_err(error::fault("open a session"))?.release();
        }
        Ok(())
    }

    async fn prepare(
        &self,
        call: &RawCall,
        until: Option<SystemTime>,
        action: &Registered<D::Connection>,
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
        action: Option<&Registered<D::Connection>>,
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

impl<D: Driver> TwoPhaseResource for Postgres<D> {
    fn cannot_prepare(&self) -> Option<&str> {
        (!self.can_prepare).then_some(
            "the server allows no prepared transactions: set max_prepared_transactions of PostgreSQL to at \
             least the number of branches that may be in doubt at once, and restart it",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_timeout_is_none_at_all_or_more_than_the_server_takes() {
        for (given, expected) in [
            (Duration::ZERO, "1"),
            (Duration::from_nanos(1), "1"),
            (Duration::from_micros(1500), "2"),
            (Duration::from_secs(2), "2000"),
            (Duration::MAX, "2147483647"),
        ] {
            let options = PostgresOptions::default();
            let options = options.lock_timeout(given).statement_timeout(given).idle_timeout(given);
            for (name, value) in &options.session_settings()[..3] {
                assert_eq!(value, expected, "{name}: {given:?}");
            }
        }
    }

    #[test]
    fn connecting_may_move_between_threads() {
        fn is_send(_: impl Send) {}
        is_send(Postgres::connect("never"));
    }
}
