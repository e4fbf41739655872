//! Branches in doubt and rows to purge.

use std::time::Duration;

use sqlx::{QueryBuilder, Sqlite as Db};

use super::Sqlite;
use super::block::fault;
use crate::doubt::{Committed, Count, Doubt, RowKey, Sweepable, columns};
use crate::resource::Fault;

const COUNT: &str = "
SELECT count(*), coalesce(CAST(unixepoch('subsec') * 1000 AS integer) - min(changed_ms), 0)
FROM unanimo_barrier WHERE state = 'prepared' AND participant = $1";

const ROWS: &str = "
SELECT cluster_id, tx_id, branch_id, CAST(unixepoch('subsec') * 1000 AS integer) - changed_ms
FROM unanimo_barrier
WHERE state = 'prepared' AND participant = $1
    AND changed_ms <= CAST(unixepoch('subsec') * 1000 AS integer) - $2
    AND ($3 IS NULL OR (tx_id, branch_id) > ($3, $4))
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
    AND ($3 IS NULL OR (prepare_until_ms, tx_id, branch_id) > ($3, $4, $5))
ORDER BY prepare_until_ms, tx_id, branch_id LIMIT $6";

const PURGE_COMMITTED: &str = "
DELETE FROM unanimo_barrier WHERE state = 'committed' AND (tx_id, branch_id) IN (";

impl Sweepable for Sqlite {
    async fn count_prepared(&self, participant: &str) -> Result<Count, Fault> {
        let (count, oldest_ms): (i64, i64) = sqlx::query_as(COUNT)
            .bind(participant)
            .fetch_one(&self.finish)
            .await
            .map_err(fault("count the rows that are prepared"))?;
        Ok(columns::count(count, oldest_ms))
    }

    async fn prepared_rows(
        &self,
        participant: &str,
        grace: Duration,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Vec<Doubt>, Fault> {
        let rows: Vec<columns::Row> = sqlx::query_as(ROWS)
            .bind(participant)
            .bind(columns::millis(grace))
            .bind(after.map(|key| key.0.to_string()))
            .bind(after.map(|key| key.1.as_str()))
            .bind(columns::limit(limit))
            .fetch_all(&self.finish)
            .await
            .map_err(fault("list the rows that are prepared"))?;
        rows.into_iter().map(columns::doubt).collect()
    }

    async fn purge_undone(
        &self,
        participant: &str,
        retention: Duration,
        limit: usize,
    ) -> Result<u64, Fault> {
        let purged = sqlx::query(PURGE_UNDONE)
            .bind(participant)
            .bind(columns::millis(retention))
            .bind(columns::limit(limit))
            .execute(&self.finish)
            .await
            .map_err(fault("purge barrier rows"))?;
        Ok(purged.rows_affected())
    }

    async fn committed_rows(
        &self,
        participant: &str,
        retention: Duration,
        after: Option<&Committed>,
        limit: usize,
    ) -> Result<Vec<Committed>, Fault> {
        let rows: Vec<columns::Row> = sqlx::query_as(COMMITTED)
            .bind(participant)
            .bind(columns::millis(retention))
            .bind(after.map(|row| row.prepare_until))
            .bind(after.map(|row| row.key.0.to_string()))
            .bind(after.map(|row| row.key.1.as_str()))
            .bind(columns::limit(limit))
            .fetch_all(&self.finish)
            .await
            .map_err(fault("list the rows that are committed"))?;
        rows.into_iter().map(columns::committed).collect()
    }

    async fn purge_committed(&self, participant: &str, keys: &[RowKey]) -> Result<u64, Fault> {
        if keys.is_empty() {
            return Ok(0);
        }
        let mut delete = QueryBuilder::<Db>::new(PURGE_COMMITTED);
        delete.push_values(keys, |mut row, (tx_id, branch_id)| {
            row.push_bind(tx_id.to_string()).push_bind(branch_id);
        });
        delete.push(") AND participant = ").push_bind(participant);
        let purged = delete.build().persistent(false).execute(&self.finish).await;
        Ok(purged.map_err(fault("purge barrier rows"))?.rows_affected())
    }
}
