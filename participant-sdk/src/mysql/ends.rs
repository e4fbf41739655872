//! Count of the statements with which a handler may have kept something outside of its local transaction.
//!
//! The servers end a whole transaction by themselves, as after a deadlock, and tell nobody. What a handler does
//! behind that keeps nothing: the session does not commit by itself, and only reads. A handler that has begun
//! another transaction, or has committed, may have kept something. The server counts such statements, in
//! procedures and triggers, too.

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Row as _};

/// By `SHOW`, because MySQL has these counts in no table that everybody may read. Nothing commits an XA transaction
/// implicitly. A rollback keeps nothing.
const SHOW: &str =
    "SHOW SESSION STATUS WHERE Variable_name IN ('Com_begin', 'Com_commit', 'Com_xa_commit')";

/// The same where the transaction may write: `ROLLBACK AND CHAIN` begins another one that may, which is not counted, and
/// which DDL commits implicitly.
const SHOW_WITH_ROLLBACKS: &str = "SHOW SESSION STATUS
    WHERE Variable_name IN ('Com_begin', 'Com_commit', 'Com_rollback', 'Com_xa_commit')";

/// Tells that the session commits nothing by itself, and only reads outside of transactions that say otherwise.
const KEEPS_NOTHING: &str = "SELECT 'keeps', @@autocommit = 0
    /*M! AND @@tx_read_only = 1 */ /*!80000 AND @@transaction_read_only = 1 */";

/// Number of these statements that a session has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    number: u64,
    show: &'static str,
}

impl Ends {
    /// Counts those of a transaction that may write, behind other statements that find no rows.
    pub(super) async fn counted(
        connection: &mut MySqlConnection,
        behind: &str,
    ) -> sqlx::Result<Self> {
        Self::shown(connection, behind, SHOW_WITH_ROLLBACKS).await
    }

    /// Counts those of a transaction that only reads.
    pub(super) async fn counted_of_reading(
        connection: &mut MySqlConnection,
        behind: &str,
    ) -> sqlx::Result<Self> {
        Self::shown(connection, behind, SHOW).await
    }

    async fn shown(
        connection: &mut MySqlConnection,
        behind: &str,
        show: &'static str,
    ) -> sqlx::Result<Self> {
        let statements = AssertSqlSafe(format!("{behind}; {show}"));
        let rows = sqlx::raw_sql(statements).fetch_all(connection).await?;
        let mut number = 0;
        for row in rows {
            let of_one: String = row.try_get_unchecked(1)?;
            number += of_one.parse::<u64>().unwrap_or_default();
        }
        Ok(Self { number, show })
    }

    /// Tells whether something may have been kept since then without the transaction that was given, which is
    /// gone.
    pub(super) async fn may_have_kept(
        self,
        connection: &mut MySqlConnection,
    ) -> sqlx::Result<bool> {
        let keeps = sqlx::raw_sql(KEEPS_NOTHING).fetch_all(&mut *connection).await?;
        let nothing = keeps.last().map(|row| row.try_get_unchecked::<Option<i64>, _>(1));
        let nothing = nothing.transpose()?.flatten() == Some(1);
        Ok(!nothing || Self::shown(connection, "DO 0", self.show).await? != self)
    }
}
