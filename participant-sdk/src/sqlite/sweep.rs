//! Branches in doubt and rows to purge.

use sqlx::{QueryBuilder, Sqlite as Db, Transaction};
use uuid::Uuid;

use super::Sqlite;
use super::block::fault;
use crate::doubt::{Question, Row, RowKey, Sweepable, answer_questions};
use crate::resource::Fault;

const COUNT: &str = "
SELECT count(*), coalesce(CAST(unixepoch('subsec') * 1000 AS integer) - min(changed_ms), 0)
FROM unanimo_barrier WHERE state = 'prepared' AND participant = $1";

const ROWS: &str = "
SELECT cluster_id, tx_id, branch_id, CAST(unixepoch('subsec') * 1000 AS integer) - changed_ms
FROM unanimo_barrier
WHERE state = 'prepared' AND participant = $1
    AND changed_ms <= CAST(unixepoch('subsec') * 1000 AS integer) - $2
    AND (tx_id, branch_id) > ($3, $4)
ORDER BY tx_id, branch_id LIMIT $5";

const PURGE_UNDONE: &str = "
DELETE FROM unanimo_barrier WHERE (tx_id, branch_id) IN (
    SELECT tx_id, branch_id FROM unanimo_barrier
    WHERE state IN ('read_only', 'refused', 'cancelled') AND participant = $1
        AND prepare_until_ms < CAST(unixepoch('subsec') * 1000 AS integer) - $2
    ORDER BY prepare_until_ms, tx_id, branch_id LIMIT $3)";

const COMMITTED: &str = "
SELECT cluster_id, tx_id, branch_id, prepare_until_ms FROM unanimo_barrier
WHERE state = 'committed' AND participant = $1
    AND prepare_until_ms < CAST(unixepoch('subsec') * 1000 AS integer) - $2
    AND (prepare_until_ms, tx_id, branch_id) > ($3, $4, $5)
ORDER BY prepare_until_ms, tx_id, branch_id LIMIT $6";

/// The keys follow as VALUES. Each database knows another way to pass many keys.
const PURGE_COMMITTED: &str = "
DELETE FROM unanimo_barrier WHERE state = 'committed' AND (tx_id, branch_id) IN (";

impl Sqlite {
    async fn sweeping(&self) -> Result<Transaction<'static, Db>, Fault> {
        self.phase_two.begin().await.map_err(fault("begin a transaction"))
    }

    fn question(&self, question: Question) -> &'static str {
        match question {
            Question::CountPrepared => COUNT,
            Question::PreparedRows => ROWS,
            Question::PurgeUndone => PURGE_UNDONE,
            Question::CommittedRows => COMMITTED,
        }
    }
}

impl Sweepable for Sqlite {
    answer_questions!(fault, Row<String>, |tx_id: Uuid| tx_id.to_string());

    async fn purge_committed(&self, participant: &str, keys: &[RowKey]) -> Result<u64, Fault> {
        if keys.is_empty() {
            return Ok(0);
        }
        let mut delete = QueryBuilder::<Db>::new(PURGE_COMMITTED);
        delete.push_values(keys, |mut row, (tx_id, branch_id)| {
            row.push_bind(tx_id.to_string()).push_bind(branch_id);
        });
        delete.push(") AND participant = ").push_bind(participant);
        let purged = delete.build().persistent(false).execute(&self.phase_two).await;
        Ok(purged.map_err(fault("purge barrier rows"))?.rows_affected())
    }
}
