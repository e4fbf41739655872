//! Sessions: what they rely on is set and read back, and whoever has changed them leaves none behind.
//!
//! A handler may leave on its session what no statement undoes, such as a temporary table, whose rows the next
//! handler would take for its own. The server counts the statements that can do so. Where their number is not that
//! of our own, or a variable was made, the session is closed behind its use.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection};

use super::branch_lock::asks;
use super::statements::Statements;
use crate::schema::{self, Error};

/// Longest time of the statements that make a session fit for its next use. Beyond it the server has
/// vanished, or is still at work for somebody who has gone; the session is closed.
const CARE_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings, and the database, that every session relies on.
#[derive(Debug)]
pub(super) struct Session {
    statements: Arc<Statements>,
    /// The id beside the barrier's table, once it is known.
    database_id: OnceLock<String>,
}

impl Session {
    pub(super) fn new(statements: &Arc<Statements>) -> Self {
        Self { statements: Arc::clone(statements), database_id: OnceLock::new() }
    }

    pub(super) fn database_id(&self) -> Option<&str> {
        self.database_id.get().map(String::as_str)
    }

    /// Learns the database's id, or compares it with the one that is known.
    pub(super) fn is_at(&self, id: String) -> Result<(), Error> {
        match self.database_id.get_or_init(|| id.clone()) {
            known if *known == id => Ok(()),
            known => Err(Error::OtherDatabase { known: known.clone(), found: id }),
        }
    }

    /// Makes a new session one of ours, or says what is wrong with it.
    pub(super) async fn set_up(&self, connection: &mut MySqlConnection) -> sqlx::Result<()> {
        let settings = AssertSqlSafe(Arc::clone(&self.statements.settings));
        sqlx::raw_sql(settings).execute(&mut *connection).await?;
        let read_back = AssertSqlSafe(Arc::clone(&self.statements.read_back));
        let read_back: String =
            sqlx::query_scalar(read_back).persistent(false).fetch_one(&mut *connection).await?;
        if *read_back != *self.statements.expected {
            let text = format!(
                "a session of this database, or of the proxy before it, does not keep its settings: they are \
                 {read_back} instead of {}",
                self.statements.expected
            );
            return Err(sqlx::Error::Configuration(text.into()));
        }
        if !is_writable(connection).await? {
            return Err(sqlx::Error::Configuration("the server is read-only".into()));
        }
        if self.database_id.get().is_some() {
            let id = sqlx::query_scalar(schema::READ_ID).persistent(false);
            let id = id.fetch_one(&mut *connection).await?;
            self.is_at(id).map_err(|error| sqlx::Error::Configuration(error.into()))?;
            // The question has begun a transaction.
            sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
        }
        let baseline = AssertSqlSafe(Arc::clone(&self.statements.baseline));
        sqlx::raw_sql(baseline).execute(connection).await.map(drop)
    }

    /// Ends what a use of a session has left open; answers whether it may be used again.
    pub(super) async fn clean(&self, connection: &mut MySqlConnection) -> sqlx::Result<bool> {
        // A handler may have left a transaction open inside its own: sqlx then ended that one only.
        if connection.is_in_transaction() {
            return Ok(false);
        }
        let cleaned = asks(connection, self.statements.clean.to_string());
        match tokio::time::timeout(CARE_TIMEOUT, cleaned).await {
            Ok(is_as_it_was) => Ok(is_as_it_was.unwrap_or(false)),
            // It is closed without another word to the server.
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }
}

/// The setting is a number, and a word from MariaDB 12 on.
const IS_WRITABLE: &str = "SELECT UPPER(CAST(@@GLOBAL.read_only AS CHAR)) IN ('0', 'OFF')";

/// Tells whether the session's server takes writes: after a switchover the sessions stay where they were.
pub(super) async fn is_writable(connection: &mut MySqlConnection) -> sqlx::Result<bool> {
    let asked = sqlx::query_scalar(IS_WRITABLE).fetch_one(connection);
    match tokio::time::timeout(CARE_TIMEOUT / 2, asked).await {
        Ok(told) => told.map(|writable: i64| writable != 0),
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}
