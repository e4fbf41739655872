//! Count of the statements with which a handler may have kept something outside of its local transaction.
//!
//! The servers end a whole transaction by themselves, as after a deadlock, and tell nobody. What a handler does
//! behind that keeps nothing: the session does not commit by itself, and only reads. A handler that has begun
//! another transaction, or has committed, may have kept something. The server counts such statements, in
//! procedures and triggers, too, and also those that fail: what commits implicitly does so first.

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Row as _};

/// By `SHOW`, because MySQL has these counts in no table that everybody may read. By lists, because `REGEXP` fails in
/// some character sets that a handler may set. MySQL counts temporary tables among the others.
const SHOW: &str = "SHOW SESSION STATUS WHERE Value <> '0'
    AND (Variable_name IN ('Com_begin', 'Com_commit', 'Com_xa_commit', 'Com_rollback', 'Com_set_option',
            'Com_truncate', 'Com_lock_tables', 'Com_analyze', 'Com_check', 'Com_optimize', 'Com_repair',
            'Com_flush', 'Com_install_plugin', 'Com_uninstall_plugin', 'Com_assign_to_keycache',
            'Com_preload_keys', 'Com_reset', 'Com_backup', 'Com_set_password')
        OR Variable_name LIKE 'Com_alter_%' OR Variable_name LIKE 'Com_create_%'
        OR Variable_name LIKE 'Com_drop_%' OR Variable_name LIKE 'Com_rename_%'
        OR Variable_name LIKE 'Com_grant%' OR Variable_name LIKE 'Com_revoke%')
    AND Variable_name NOT LIKE '%_temporary_table'";

/// Asks for the session's number, in a row like those of the counts.
const NUMBER: &str = "SELECT 'number', CONNECTION_ID()";

/// Tells that the session commits nothing by itself, and only reads outside of transactions that say otherwise.
const KEEPS_NOTHING: &str = "SELECT 'keeps', @@autocommit = 0
    /*M! AND @@tx_read_only = 1 */ /*!80000 AND @@transaction_read_only = 1 */";

/// Numbers of these statements that a session has run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    /// Number of the session.
    pub(super) session: u64,
    /// Those that begin a transaction which may write, or commit one.
    explicit: u64,
    /// Those that commit implicitly.
    implicit: u64,
    /// Those that roll back. `ROLLBACK AND CHAIN` begins another transaction; a plain `ROLLBACK` alone keeps nothing.
    rollbacks: u64,
    /// Those that set something: `SET TRANSACTION READ WRITE` opens another transaction behind any end, and
    /// `SET autocommit = 1` commits it.
    sets: u64,
}

impl Ends {
    /// Counts them, behind other statements that find no rows.
    pub(super) async fn counted(
        connection: &mut MySqlConnection,
        behind: &str,
    ) -> sqlx::Result<Self> {
        let statements = AssertSqlSafe(format!("{behind}; {NUMBER}; {SHOW}"));
        let rows = sqlx::raw_sql(statements).fetch_all(connection).await?;
        let mut ends = Self::default();
        for row in rows {
            let (name, number): (String, String) =
                (row.try_get_unchecked(0)?, row.try_get_unchecked(1)?);
            let sum = match name.as_str() {
                "number" => &mut ends.session,
                "Com_begin" | "Com_commit" | "Com_xa_commit" => &mut ends.explicit,
                "Com_rollback" => &mut ends.rollbacks,
                "Com_set_option" => &mut ends.sets,
                _ => &mut ends.implicit,
            };
            *sum += number.parse::<u64>().unwrap_or_default();
        }
        Ok(ends)
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
        let now = Self::counted(connection, "DO 0").await?;
        let is_explicit = now.explicit != self.explicit;
        let (rolls_back, sets) = (now.rollbacks != self.rollbacks, now.sets != self.sets);
        // Without one of these no other transaction than the given one is there to be committed implicitly.
        let is_implicit = now.implicit != self.implicit && (rolls_back || sets);
        // By a change of `autocommit` that was undone.
        let is_by_setting = rolls_back && sets;
        Ok(!nothing || is_explicit || is_implicit || is_by_setting)
    }
}
