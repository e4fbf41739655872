//! Branches in doubt and rows to purge.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, MySql as Db, QueryBuilder};

use super::MySql;
use super::error::fault;
use crate::doubt::{Committed, Count, Doubt, RowKey, Sweepable, columns};
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
    AND (? IS NULL OR (tx_id, branch_id) > (?, ?))
ORDER BY tx_id, branch_id LIMIT ?";

const PURGE_UNDONE: &str = "
DELETE FROM {table}
WHERE state IN ('read_only', 'refused', 'cancelled') AND participant = ?
    AND prepare_until_ms < {now} - ?
ORDER BY prepare_until_ms, tx_id, branch_id LIMIT ?";

const COMMITTED: &str = "
SELECT cluster_id, tx_id, branch_id, prepare_until_ms FROM {table}
WHERE state = 'committed' AND participant = ? AND prepare_until_ms < {now} - ?
    AND (? IS NULL OR (prepare_until_ms, tx_id, branch_id) > (?, ?, ?))
ORDER BY prepare_until_ms, tx_id, branch_id LIMIT ?";

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

impl Sweepable for MySql {
    async fn count_prepared(&self, participant: &str) -> Result<Count, Fault> {
        let mut reading = self.reading().await?;
        let (count, oldest_ms): (i64, i64) =
            sqlx::query_as(AssertSqlSafe(Arc::clone(&self.statements.sweep.count)))
                .bind(participant)
                .fetch_one(&mut *reading)
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
        let mut reading = self.reading().await?;
        let after_tx = after.map(|key| key.0.to_string());
        let rows: Vec<columns::Row> =
            sqlx::query_as(AssertSqlSafe(Arc::clone(&self.statements.sweep.rows)))
                .bind(participant)
                .bind(columns::millis(grace))
                .bind(after_tx.clone())
                .bind(after_tx)
                .bind(after.map(|key| key.1.as_str()))
                .bind(columns::limit(limit))
                .fetch_all(&mut *reading)
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
        let mut purging = self.reading().await?;
        let purged = sqlx::query(AssertSqlSafe(Arc::clone(&self.statements.sweep.purge_undone)))
            .bind(participant)
            .bind(columns::millis(retention))
            .bind(columns::limit(limit))
            .execute(&mut *purging)
            .await
            .map_err(fault("purge barrier rows"))?;
        purging.commit().await.map_err(fault("purge barrier rows"))?;
        Ok(purged.rows_affected())
    }

    async fn committed_rows(
        &self,
        participant: &str,
        retention: Duration,
        after: Option<&Committed>,
        limit: usize,
    ) -> Result<Vec<Committed>, Fault> {
        let mut reading = self.reading().await?;
        let rows: Vec<columns::Row> =
            sqlx::query_as(AssertSqlSafe(Arc::clone(&self.statements.sweep.committed)))
                .bind(participant)
                .bind(columns::millis(retention))
                .bind(after.map(|row| row.prepare_until))
                .bind(after.map(|row| row.prepare_until))
                .bind(after.map(|row| row.key.0.to_string()))
                .bind(after.map(|row| row.key.1.as_str()))
                .bind(columns::limit(limit))
                .fetch_all(&mut *reading)
                .await
                .map_err(fault("list the rows that are committed"))?;
        rows.into_iter().map(columns::committed).collect()
    }

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
        let mut purging = self.reading().await?;
        let purged = delete.build().persistent(false).execute(&mut *purging).await;
        let purged = purged.map_err(fault("purge barrier rows"))?;
        purging.commit().await.map_err(fault("purge barrier rows"))?;
        Ok(purged.rows_affected())
    }
}

impl MySql {
    /// `autocommit` is off: without a transaction of its own a statement would leave one open.
    async fn reading(&self) -> Result<sqlx::Transaction<'static, Db>, Fault> {
        self.finish.begin().await.map_err(fault("begin a transaction"))
    }
}
