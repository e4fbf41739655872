//! Detaching a prepared XA transaction from the session that prepared it, so that others can end it.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlConnection;

use super::branch_lock::{BranchLock, asks};
use super::error;
use super::statements::{VANISHES_SOON, own};
use super::xid::Xid;
use crate::schema::Error;

/// Time that the end of a session takes behind the moment at which its locks are free. Mostly it is far
/// below a millisecond; a session with a thousand prepared statements took 2 ms.
const SESSION_END: Duration = Duration::from_millis(20);

/// The time at which a server detaches a prepared transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detach {
    /// In XA PREPARE itself: MySQL with `xa_detach_on_prepare`.
    ByItself,
    /// The same in a session that works as the applier of a replica does: MariaDB.
    AsApplier,
    /// At the end of the session.
    AtSessionEnd,
}

impl Detach {
    /// Asks the server.
    pub(super) async fn of(connection: &mut MySqlConnection) -> Result<Self, Error> {
        let version = sqlx::query_scalar("SELECT VERSION()").persistent(false);
        let version: String = version.fetch_one(&mut *connection).await.map_err(Error::Connect)?;
        let (question, at_once) = if version.to_ascii_lowercase().contains("mariadb") {
            ("SET pseudo_slave_mode = 1; SELECT @@pseudo_slave_mode", Self::AsApplier)
        } else {
            ("SELECT @@xa_detach_on_prepare", Self::ByItself)
        };
        let refused = match asks(&mut *connection, question.to_owned()).await {
            Ok(true) => {
                let reset = sqlx::raw_sql("SET pseudo_slave_mode = 0");
                if at_once == Self::AsApplier {
                    reset.execute(connection).await.map_err(Error::Connect)?;
                }
                return Ok(at_once);
            }
            Ok(false) => "it is off".to_owned(),
            Err(error) if error::number(&error).is_some() => error.to_string(),
            Err(error) => return Err(Error::Connect(error)),
        };
        tracing::warn!(
            "the server detaches prepared transactions only at their session's end, as it refuses `{question}`: \
             {refused}; so each Prepare that votes yes costs a session, and each Commit and Cancel of two-phase \
             commit waits {SESSION_END:?}"
        );
        Ok(Self::AtSessionEnd)
    }

    /// Prepares a transaction at its end, under the branch's lock. Answers whether the session may be used again:
    /// it has let go of the transaction, and of the lock. Otherwise the end of the session does that.
    pub(super) async fn prepare(
        self,
        connection: &mut MySqlConnection,
        xid: &Xid,
    ) -> sqlx::Result<bool> {
        let lock = BranchLock::of(xid);
        let (itself, give_back) = (lock.is_session_itself(), lock.give_back());
        let statements = match self {
            Self::ByItself => format!("XA END {xid}; XA PREPARE {xid}; {itself}; {give_back}"),
            Self::AsApplier => format!(
                "{own}; XA END {xid}; SET pseudo_slave_mode = 1; XA PREPARE {xid}; \
                 SET pseudo_slave_mode = 0; {itself}; {give_back}",
                own = own(2)
            ),
            Self::AtSessionEnd => {
                let statements =
                    AssertSqlSafe(format!("SET {VANISHES_SOON}; XA END {xid}; XA PREPARE {xid}"));
                return sqlx::raw_sql(statements).execute(connection).await.map(|_| false);
            }
        };
        asks(connection, statements).await
    }

    /// Waits until a session that has lost its locks has come to its end.
    pub(super) async fn is_over(self) {
        if self == Self::AtSessionEnd {
            tokio::time::sleep(SESSION_END).await;
        }
    }
}
