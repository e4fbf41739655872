//! Participants whose data is in PostgreSQL, 13 or later.

mod block;
mod error;
mod name;
mod own;
mod session;
mod sweep;
mod timeline;
mod two_phase;

use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use unanimo_migrations::participant::POSTGRES as MIGRATIONS;
use unanimo_proto::v1::Mode;

use self::block::PgBlocks;
use self::own::Given;
use self::session::{Reset, Session};
use crate::action::Registered;
use crate::barrier;
use crate::handler::BoxError;
use crate::refusal::Refusal;
use crate::resource::{
    ACQUIRE_TIMEOUT, Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall, Resource,
    SWEEP_CONNECTIONS, Slots, TwoPhaseResource, Voted, options, sealed,
};
use crate::schema::{self, Error};

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
        let given = PgConnectOptions::from_str(url).map_err(|e| Error::Url(e.to_string()))?;
        let given = given.application_name(own::APPLICATION_NAME).disable_statement_logging();
        self.open(given, Vec::new()).await
    }

    /// Opens the pools, with connections of these options and, on top, these settings.
    async fn open(
        self,
        given: PgConnectOptions,
        more: Vec<(String, String)>,
    ) -> Result<Postgres, Error> {
        let settings = self.session_settings();
        let session = Arc::new(Session::new(&settings, &more, self.role.as_deref()));
        let given = Given::new(given, more, settings, self.role.clone());
        let connect = given.for_sessions();
        let pool = |connections| {
            let [for_new, for_used] = [(); 2].map(|()| Arc::clone(&session));
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .after_connect(move |connection, _| {
                    let session = Arc::clone(&for_new);
                    Box::pin(async move { session.set_up(connection).await })
                })
                // Asked of every session that is taken up again, instead of a mere ping.
                .test_before_acquire(false)
                .before_acquire(|connection, _| Box::pin(session::is_primary(connection)))
                // What a handler has set must not meet the next one.
                .after_release(move |connection, _| {
                    let session = Arc::clone(&for_used);
                    Box::pin(async move { session.clean(connection).await })
                })
                .connect_lazy_with(connect.clone())
        };
        let postgres = Postgres {
            prepare: pool(self.prepare_connections),
            phase_two: pool(self.phase_two_connections),
            sweep: pool(SWEEP_CONNECTIONS),
            slots: self.slots(),
            can_prepare: postgres_can_prepare(&given).await?,
            set_up: Arc::new(SetUp { given, session, is_made: OnceLock::new() }),
        };
        match postgres.make_table().await {
            Ok(()) | Err(Error::InUse { .. }) => {}
            Err(error) => return Err(error),
        }
        // What the server does not allow is found out now, and not by the first transaction.
        let mut real = PgConnection::connect_with(&connect).await.map_err(Error::Connect)?;
        postgres.set_up.session.set_up(&mut real).await.map_err(Error::Connect)?;
        // Nothing depends on how the connection ends.
        let _ = real.close().await;
        Ok(postgres)
    }

    fn session_settings(&self) -> [(&'static str, String); 9] {
        let ms = |duration: Duration| duration.as_millis().to_string();
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

async fn postgres_can_prepare(given: &Given) -> Result<bool, Error> {
    let mut connection = given.connect().await?;
    let prepared_max: String = sqlx::query_scalar("SHOW max_prepared_transactions")
        .fetch_one(&mut connection)
        .await
        .map_err(Error::Connect)?;
    let _ = connection.close().await;
    Ok(prepared_max != "0")
}

/// Upgrades the table. Whoever waits for it keeps everybody out who comes behind, and a prepared
/// transaction that is in doubt holds it until it has ended: hence the bound.
async fn migrate(connection: &mut PgConnection) -> Result<(), Error> {
    let bound = format!(
        "SET lock_timeout = {}; SET default_transaction_read_only = off",
        MIGRATION_LOCK_TIMEOUT.as_millis()
    );
    let bounded = sqlx::raw_sql(AssertSqlSafe(bound)).execute(&mut *connection).await;
    bounded.map_err(Error::Connect)?;
    schema::migrate(&MIGRATIONS, connection).await.map_err(|error| match error {
        Error::Migrate(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))
            if error::code(&error) == Some(error::LOCK_TIMEOUT) =>
        {
            Error::InUse { waited: MIGRATION_LOCK_TIMEOUT }
        }
        other => other,
    })
}

/// Longest wait for those who use the table while it is upgraded: a second or two is enough where
/// handlers are at work.
const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// A participant's PostgreSQL database, with its barrier.
///
/// It has connections of its own, apart from the service's: handlers run on them.
#[derive(Clone, Debug)]
pub struct Postgres {
    prepare: PgPool,
    phase_two: PgPool,
    sweep: PgPool,
    slots: Slots,
    can_prepare: bool,
    set_up: Arc<SetUp>,
}

/// Set-up of the database, which comes once.
#[derive(Debug)]
struct SetUp {
    given: Given,
    session: Arc<Session>,
    /// The table is there as this version needs it.
    is_made: OnceLock<()>,
}

impl SetUp {
    /// A connection for statements that set something up. They wait for nobody for long: whoever waits
    /// for a lock of a prepared transaction keeps out everybody who comes behind.
    async fn connect(&self) -> sqlx::Result<PgConnection> {
        let options = [
            ("lock_timeout", MIGRATION_LOCK_TIMEOUT.as_millis().to_string()),
            ("default_transaction_read_only", "off".to_owned()),
        ];
        PgConnection::connect_with(&self.given.get().options(options)).await
    }
}

impl Postgres {
    /// Connects with [default options](PostgresOptions).
    ///
    /// # Errors
    /// As of [`PostgresOptions::connect`].
    pub async fn connect(url: &str) -> Result<Self, Error> {
        PostgresOptions::default().connect(url).await
    }

    /// Tells whether the server allows prepared transactions (`max_prepared_transactions` is not 0).
    #[must_use]
    pub fn can_prepare(&self) -> bool {
        self.can_prepare
    }

    fn for_prepare(&self) -> PgBlocks<'_> {
        self.blocks(&self.prepare, false)
    }

    fn for_phase_two(&self) -> PgBlocks<'_> {
        self.blocks(&self.phase_two, true)
    }

    fn blocks<'p>(&'p self, pool: &'p PgPool, with_savepoint: bool) -> PgBlocks<'p> {
        PgBlocks { pool, reset: self.set_up.session.reset(), with_savepoint }
    }

    /// Makes or upgrades the table, and learns its database's id.
    async fn make_table(&self) -> Result<(), Error> {
        let mut connection = self.set_up.connect().await.map_err(Error::Connect)?;
        let found = schema::find!(connection, "prepare_until");
        if schema::is_to_be_made(&MIGRATIONS, found)? {
            migrate(&mut connection).await?;
        }
        if let Some(id) = schema::read_id!(connection) {
            self.set_up.session.is_at(id)?;
        }
        let _ = connection.close().await;
        self.set_up.is_made.get_or_init(|| ());
        Ok(())
    }
}

impl sealed::Sealed for Postgres {}

impl Resource for Postgres {
    type Connection = PgConnection;

    fn slots(&self) -> Slots {
        self.slots
    }

    fn database_id(&self) -> Option<&str> {
        self.set_up.session.database_id()
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

    async fn to_set_up(&self) -> Result<PgConnection, Error> {
        self.set_up.connect().await.map_err(Error::Connect)
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
        action: &Registered<PgConnection>,
    ) -> Result<Voted, Fault> {
        let voted = match action.mode {
            Mode::TwoPhaseCommit if action.read_only => {
                crate::two_phase::read(self, call, until, action).await
            }
            Mode::TwoPhaseCommit => crate::two_phase::prepare(self, call, until, action).await,
            _ => barrier::try_(&self.for_prepare(), call, until, action).await,
        };
        barrier::recorded(&self.for_prepare(), call, voted).await
    }

    async fn refuse(&self, call: &RawCall, refusal: Refusal) -> Result<Voted, Fault> {
        barrier::refuse(&self.for_prepare(), call, refusal).await
    }

    async fn phase_two(
        &self,
        operation: PhaseTwoOperation,
        call: &RawCall,
        action: Option<&Registered<PgConnection>>,
    ) -> Result<PhaseTwoAnswer, Fault> {
        match call.mode {
            Mode::TwoPhaseCommit => crate::two_phase::end(self, operation, call).await,
            _ => barrier::phase_two(&self.for_phase_two(), operation, call, action).await,
        }
    }
}

impl TwoPhaseResource for Postgres {
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
    fn connecting_may_move_between_threads() {
        fn is_send(_: impl Send) {}
        is_send(Postgres::connect("never"));
    }
}
