//! Branches in doubt and rows to purge.

use sqlx::{AssertSqlSafe, MySql as Db, QueryBuilder, Transaction};
use std::sync::Arc;
use uuid::Uuid;

use super::MySql;
use super::error::fault;
use crate::doubt::{Question, Row, RowKey, Sweepable, answer_questions};
use crate::resource::Fault;

/// The server's clock, in milliseconds since 1970. Sessions are in UTC.
const NOW_MS: &str = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', SYSDATE(6)) DIV 1000";

const AGE_MS: &str = "TIMESTAMPDIFF(MICROSECOND, changed_at, SYSDATE(6)) DIV 1000";

const COUNT: &str = "
SELECT count(*), coalesce(max({age}), 0) FROM {table}
WHERE state = 'prepared' AND participant = ?";

const ROWS: &str = "
SELECT cluster_id, tx_id, branch_id, {age} FROM {table}
WHERE state = 'prepared' AND participant = ? AND {age} >= ?
    AND (tx_id, branch_id) > (?, ?)
ORDER BY tx_id, branch_id LIMIT ?";

const PURGE_UNDONE: &str = "
DELETE FROM {table}
WHERE state IN ('read_only', 'refused', 'cancelled') AND participant = ?
    AND prepare_until_ms < {now} - ?
ORDER BY prepare_until_ms, tx_id, branch_id LIMIT ?";

const COMMITTED: &str = "
SELECT cluster_id, tx_id, branch_id, prepare_until_ms FROM {table}
WHERE state = 'committed' AND participant = ? AND prepare_until_ms < {now} - ?
    AND (prepare_until_ms, tx_id, branch_id) > (?, ?, ?)
ORDER BY prepare_until_ms, tx_id, branch_id LIMIT ?";

/// The keys follow as a list of rows. Each database knows another way to pass many keys.
const PURGE_COMMITTED: &str = "
DELETE FROM {table} WHERE state = 'committed' AND (tx_id, branch_id) IN ";

/// The statements for one database: as those of local transactions they name it.
#[derive(Clone, Debug)]
pub(super) struct Statements {
    count: Arc<str>,
    rows: Arc<str>,
    purge_undone: Arc<str>,
    committed: Arc<str>,
    purge_committed: Arc<str>,
}

impl Statements {
    pub(super) fn new(table: &str) -> Self {
        let of = |statement: &str| {
            let statement = statement.replace("{table}", table);
            statement.replace("{age}", AGE_MS).replace("{now}", NOW_MS).into()
        };
        Self {
            count: of(COUNT),
            rows: of(ROWS),
            purge_undone: of(PURGE_UNDONE),
            committed: of(COMMITTED),
            purge_committed: of(PURGE_COMMITTED),
        }
    }
}

impl MySql {
    async fn sweeping(&self) -> Result<Transaction<'static, Db>, Fault> {
        self.phase_two.begin().await.map_err(fault("begin a transaction"))
    }

    fn question(&self, question: Question) -> AssertSqlSafe<Arc<str>> {
        let statements = &self.statements.sweep;
        AssertSqlSafe(Arc::clone(match question {
            Question::CountPrepared => &statements.count,
            Question::PreparedRows => &statements.rows,
            Question::PurgeUndone => &statements.purge_undone,
            Question::CommittedRows => &statements.committed,
        }))
    }
}

impl Sweepable for MySql {
    answer_questions!(fault, Row<String>, |tx_id: Uuid| tx_id.to_string());

    async fn purge_committed(&self, participant: &str, keys: &[RowKey]) -> Result<u64, Fault> {
        if keys.is_empty() {
            return Ok(0);
        }
        let mut delete = QueryBuilder::<Db>::new(&*self.statements.sweep.purge_committed);
        // Not `push_values`: what it makes is no list to either server.
        delete.push_tuples(keys, |mut row, (tx_id, branch_id)| {
            row.push_bind(tx_id.to_string()).push_bind(branch_id);
        });
        delete.push(" AND participant = ").push_bind(participant);
        let mut purging = self.sweeping().await?;
        let purged = delete.build().persistent(false).execute(&mut *purging).await;
        let purged = purged.map_err(fault("purge barrier rows"))?;
        purging.commit().await.map_err(fault("purge barrier rows"))?;
        Ok(purged.rows_affected())
    }
}
