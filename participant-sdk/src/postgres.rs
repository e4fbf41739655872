//! Participants whose data is in PostgreSQL, 13 or later.

mod block;
mod error;
mod name;
mod sweep;
mod two_phase;

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use unanimo_migrations::participant::POSTGRES as MIGRATIONS;
use unanimo_proto::v1::Mode;

use self::block::PgBlocks;
use crate::action::Registered;
use crate::barrier;
use crate::refusal::Refusal;
use crate::resource::{
    ACQUIRE_TIMEOUT, Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall, Resource, Slots, Voted,
    options, sealed,
};
use crate::schema::{self, Error};

options! {
    PostgresOptions,
    lock: "(`lock_timeout`)",
    statement: "(`statement_timeout`)",
    idle: "(`idle_in_transaction_session_timeout`)",
}

impl PostgresOptions {
    /// Connects, and creates or upgrades the table `unanimo_barrier` in the first schema of the
    /// connection's `search_path`.
    ///
    /// # Errors
    /// The database cannot be reached, the table cannot be made, or it is of a later version.
    pub async fn connect(self, url: &str) -> Result<Postgres, Error> {
        let given = PgConnectOptions::from_str(url).map_err(|e| Error::Url(e.to_string()))?;
        let given = given.application_name("unanimo-participant").disable_statement_logging();
        let mut connection = PgConnection::connect_with(&given).await.map_err(Error::Connect)?;
        let found = schema::find!(connection, "prepare_until");
        if schema::is_to_be_made(&MIGRATIONS, found)? {
            migrate(&mut connection).await?;
        }
        let prepared_max: String = sqlx::query_scalar("SHOW max_prepared_transactions")
            .fetch_one(&mut connection)
            .await
            .map_err(Error::Connect)?;
        // Nothing depends on how the connection ends.
        let _ = connection.close().await;

        let connect = given.options(self.session_settings());
        let pool = |connections| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                // What a handler has set must not meet the next one.
                .after_release(|connection, _| Box::pin(async move { Ok(clean(connection).await) }))
                .connect_lazy_with(connect.clone())
        };
        Ok(Postgres {
            prepare: pool(self.prepare_connections),
            phase_two: pool(self.phase_two_connections),
            slots: self.slots(),
            can_prepare: prepared_max != "0",
        })
    }

    fn session_settings(&self) -> [(&'static str, String); 9] {
        let ms = |duration: Duration| duration.as_millis().to_string();
        [
            ("lock_timeout", ms(self.lock_timeout)),
            ("statement_timeout", ms(self.statement_timeout)),
            ("idle_in_transaction_session_timeout", ms(self.idle_timeout)),
            ("synchronous_commit", "on".to_owned()),
            ("default_transaction_isolation", "read committed".to_owned()),
            ("default_transaction_read_only", "off".to_owned()),
            // A participant that vanished must not leave its locks behind for hours.
            ("tcp_keepalives_idle", "10".to_owned()),
            ("tcp_keepalives_interval", "5".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
        ]
    }
}

/// Upgrades the table. Whoever waits for it keeps everybody out who comes behind, and a prepared
/// transaction that is in doubt holds it until it has ended: hence the bound.
async fn migrate(connection: &mut PgConnection) -> Result<(), Error> {
    let bound = format!("SET lock_timeout = {}", MIGRATION_LOCK_TIMEOUT.as_millis());
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

/// Does the same as `DISCARD ALL`, but keeps prepared statements and plans, as sqlx does.
const CLEAN: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; \
                     UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

/// Makes a connection as it was; answers whether it may be used again.
async fn clean(connection: &mut PgConnection) -> bool {
    // A handler may have left a transaction open inside its own: sqlx then ended that one only.
    !connection.is_in_transaction() && sqlx::raw_sql(CLEAN).execute(connection).await.is_ok()
}

/// A participant's PostgreSQL database, with its barrier.
///
/// It has connections of its own, apart from the service's: handlers run on them.
#[derive(Clone, Debug)]
pub struct Postgres {
    prepare: PgPool,
    phase_two: PgPool,
    slots: Slots,
    can_prepare: bool,
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
        PgBlocks { pool: &self.prepare, with_savepoint: false }
    }

    fn for_phase_two(&self) -> PgBlocks<'_> {
        PgBlocks { pool: &self.phase_two, with_savepoint: true }
    }
}

impl sealed::Sealed for Postgres {}

impl Resource for Postgres {
    type Connection = PgConnection;

    fn slots(&self) -> Slots {
        self.slots
    }

    async fn prepare(
        &self,
        call: &RawCall,
        until: Option<SystemTime>,
        action: &Registered<PgConnection>,
    ) -> Result<Voted, Fault> {
        match action.mode {
            Mode::TwoPhaseCommit if action.read_only => self.read(call, until, action).await,
            Mode::TwoPhaseCommit => self.prepare_transaction(call, until, action).await,
            _ => barrier::try_(&self.for_prepare(), call, until, action).await,
        }
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
        match (call.mode, operation) {
            (Mode::TwoPhaseCommit, PhaseTwoOperation::Commit) => self.commit_prepared(call).await,
            (Mode::TwoPhaseCommit, PhaseTwoOperation::Cancel) => self.rollback_prepared(call).await,
            _ => barrier::phase_two(&self.for_phase_two(), operation, call, action).await,
        }
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
