//! Participants whose data is in MariaDB or MySQL, in tables of InnoDB.

mod block;
mod error;
mod statements;
mod sweep;

use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use sqlx::migrate::MigrateError;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlPool, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use unanimo_migrations::participant::MYSQL as MIGRATIONS;

use self::block::MySqlBlocks;
use self::error::NO_SUCH_TABLE;
use self::statements::Statements;
use crate::action::Registered;
use crate::barrier;
use crate::refusal::Refusal;
use crate::resource::{
    ACQUIRE_TIMEOUT, Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall, Resource, Slots, Voted,
    options, sealed,
};
use crate::schema::{self, Error};

options! {
    MySqlOptions,
    lock: "(`innodb_lock_wait_timeout`, `lock_wait_timeout`), in whole seconds, rounded up",
    statement: "(MariaDB: `max_statement_time`; MySQL: `max_execution_time`, which bounds only what \
                reads)",
    idle: "(MariaDB: `idle_transaction_timeout`; MySQL: `wait_timeout`), in whole seconds, rounded \
           up",
}

impl MySqlOptions {
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
        let found = schema::find!(connection, "prepare_until_ms");
        if schema::is_to_be_made(&MIGRATIONS, found)? {
            migrate(&mut connection).await?;
        }
        let statements = Statements::new(&database, &self);
        // What the server does not allow is found out now, and not by the first transaction.
        let allowed = set_up(Arc::clone(&statements.session), &mut connection).await;
        allowed.map_err(Error::Connect)?;
        // Nothing depends on how the connection ends.
        let _ = connection.close().await;

        let pool = |connections| {
            let [for_new, for_used] = [(); 2].map(|()| Arc::clone(&statements.session));
            MySqlPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .after_connect(move |connection, _| {
                    Box::pin(set_up(Arc::clone(&for_new), connection))
                })
                // What a handler has set or left open must not meet the next one.
                .after_release(move |connection, _| {
                    let session = Arc::clone(&for_used);
                    Box::pin(async move { Ok(set_up(session, connection).await.is_ok()) })
                })
                .connect_lazy_with(given.clone())
        };
        Ok(MySql {
            prepare: pool(self.prepare_connections),
            phase_two: pool(self.phase_two_connections),
            slots: self.slots(),
            statements: Arc::new(statements),
        })
    }
}

async fn set_up(session: Arc<str>, connection: &mut MySqlConnection) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(session)).execute(connection).await.map(drop)
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
    // DDL cannot be undone. A migration that a crash has interrupted is run again: they are written
    // for that.
    let unfinished = "DELETE FROM unanimo_barrier_migrations WHERE success = false";
    match sqlx::query(unfinished).execute(&mut *connection).await {
        Err(error) if error::number(&error) != Some(NO_SUCH_TABLE) => {
            return Err(Error::Migrate(error.into()));
        }
        _ => {}
    }
    // The lock ends with the connection.
    schema::migrate(&MIGRATIONS, connection).await
}

/// Longest wait for another process that makes the table, which takes far less than a second.
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
    phase_two: MySqlPool,
    slots: Slots,
    statements: Arc<Statements>,
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
        MySqlBlocks { pool: &self.prepare, statements: &self.statements }
    }

    fn for_phase_two(&self) -> MySqlBlocks<'_> {
        MySqlBlocks { pool: &self.phase_two, statements: &self.statements }
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

    async fn phase_two(
        &self,
        operation: PhaseTwoOperation,
        call: &RawCall,
        action: Option<&Registered<MySqlConnection>>,
    ) -> Result<PhaseTwoAnswer, Fault> {
        barrier::phase_two(&self.for_phase_two(), operation, call, action).await
    }
}
