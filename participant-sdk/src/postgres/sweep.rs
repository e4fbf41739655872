//! Branches in doubt and rows to purge. On connections of phase two, which no Prepare keeps waiting.

use std::time::Duration;

use sqlx::PgPool;
use uuid::Uuid;

use super::Postgres;
use super::error::fault;
use super::name::{self, PREFIX};
use crate::doubt::{BranchName, Committed, Count, Doubt, RowKey, Sweepable};
use crate::resource::Fault;

/// Names are those of the whole server, and can be ended only from their own database.
const PREPARED: &str = "
SELECT gid, (extract(epoch FROM clock_timestamp() - prepared) * 1000)::bigint
FROM pg_prepared_xacts
WHERE database = current_database() AND left(gid, length($1)) = $1
ORDER BY prepared";

const COUNT: &str = "
SELECT count(*),
    (extract(epoch FROM clock_timestamp() - coalesce(min(changed_at), now())) * 1000)::bigint
FROM unanimo_barrier WHERE state = 'prepared' AND participant = $1";

const ROWS: &str = "
SELECT cluster_id, tx_id, branch_id,
    (extract(epoch FROM clock_timestamp() - changed_at) * 1000)::bigint
FROM unanimo_barrier
WHERE state = 'prepared' AND participant = $1
    AND changed_at <= clock_timestamp() - $2::bigint * interval '1 millisecond'
    AND ($3::uuid IS NULL OR (tx_id, branch_id) > ($3, $4))
ORDER BY tx_id, branch_id LIMIT $5";

/// Rows that somebody else is at stay for the next time, and nobody waits for anybody.
const PURGE_UNDONE: &str = "
DELETE FROM unanimo_barrier WHERE (tx_id, branch_id) IN (
    SELECT tx_id, branch_id FROM unanimo_barrier
    WHERE state IN ('read_only', 'refused', 'cancelled') AND participant = $1
        AND prepare_until < clock_timestamp() - $2::bigint * interval '1 millisecond'
    ORDER BY prepare_until, tx_id, branch_id LIMIT $3
    FOR UPDATE SKIP LOCKED)";

const COMMITTED: &str = "
SELECT cluster_id, tx_id, branch_id, (extract(epoch FROM prepare_until) * 1000000)::bigint
FROM unanimo_barrier
WHERE state = 'committed' AND participant = $1
    AND prepare_until < clock_timestamp() - $2::bigint * interval '1 millisecond'
    AND ($3::bigint IS NULL OR (prepare_until, tx_id, branch_id)
        > (timestamptz 'epoch' + $3 * interval '1 microsecond', $4::uuid, $5::text))
ORDER BY prepare_until, tx_id, branch_id LIMIT $6";

const PURGE_COMMITTED: &str = "
DELETE FROM unanimo_barrier WHERE (tx_id, branch_id) IN (
    SELECT tx_id, branch_id FROM unanimo_barrier
    JOIN unnest($2::uuid[], $3::text[]) AS k (tx_id, branch_id) USING (tx_id, branch_id)
    WHERE state = 'committed' AND participant = $1
    ORDER BY tx_id, branch_id
    FOR UPDATE OF unanimo_barrier SKIP LOCKED)";

impl Postgres {
    fn sweeping(&self) -> &PgPool {
        &self.finish
    }
}

impl Sweepable for Postgres {
    async fn prepared_transactions(&self, participant: &str) -> Result<Vec<Doubt>, Fault> {
        let all: Vec<(String, i64)> = sqlx::query_as(PREPARED)
            .bind(PREFIX)
            .fetch_all(self.sweeping())
            .await
            .map_err(fault("list prepared transactions"))?;
        let own = all.iter().filter_map(|(gid, age_ms)| {
            let parsed = name::parse(gid).filter(|name| name.participant == participant)?;
            Some(Doubt {
                cluster_id: parsed.cluster_id.to_owned(),
                tx_id: parsed.tx_id,
                branch: BranchName::Number(parsed.number),
                age: millis(*age_ms),
            })
        });
        Ok(own.collect())
    }

    async fn count_prepared(&self, participant: &str) -> Result<Count, Fault> {
        let (count, oldest_ms): (i64, i64) = sqlx::query_as(COUNT)
            .bind(participant)
            .fetch_one(self.sweeping())
            .await
            .map_err(fault("count the rows that are prepared"))?;
        Ok(Count { count: count.unsigned_abs(), oldest: millis(oldest_ms) })
    }

    async fn prepared_rows(
        &self,
        participant: &str,
        grace: Duration,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Vec<Doubt>, Fault> {
        let rows: Vec<(String, Uuid, String, i64)> = sqlx::query_as(ROWS)
            .bind(participant)
            .bind(as_millis(grace))
            .bind(after.map(|key| key.0))
            .bind(after.map(|key| key.1.as_str()))
            .bind(as_limit(limit))
            .fetch_all(self.sweeping())
            .await
            .map_err(fault("list the rows that are prepared"))?;
        let doubt = |(cluster_id, tx_id, branch_id, age_ms)| Doubt {
            cluster_id,
            tx_id,
            branch: BranchName::Id(branch_id),
            age: millis(age_ms),
        };
        Ok(rows.into_iter().map(doubt).collect())
    }

    async fn purge_undone(
        &self,
        participant: &str,
        retention: Duration,
        limit: usize,
    ) -> Result<u64, Fault> {
        let purged = sqlx::query(PURGE_UNDONE)
            .bind(participant)
            .bind(as_millis(retention))
            .bind(as_limit(limit))
            .execute(self.sweeping())
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
        let rows: Vec<(String, Uuid, String, i64)> = sqlx::query_as(COMMITTED)
            .bind(participant)
            .bind(as_millis(retention))
            .bind(after.map(|row| row.prepare_until))
            .bind(after.map(|row| row.key.0))
            .bind(after.map(|row| row.key.1.as_str()))
            .bind(as_limit(limit))
            .fetch_all(self.sweeping())
            .await
            .map_err(fault("list the rows that are committed"))?;
        let committed = |(cluster_id, tx_id, branch_id, prepare_until)| Committed {
            cluster_id,
            key: (tx_id, branch_id),
            prepare_until,
        };
        Ok(rows.into_iter().map(committed).collect())
    }

    async fn purge_committed(&self, participant: &str, keys: &[RowKey]) -> Result<u64, Fault> {
        let (tx_ids, branch_ids): (Vec<Uuid>, Vec<String>) = keys.iter().cloned().unzip();
        let purged = sqlx::query(PURGE_COMMITTED)
            .bind(participant)
            .bind(tx_ids)
            .bind(branch_ids)
            .execute(self.sweeping())
            .await
            .map_err(fault("purge barrier rows"))?;
        Ok(purged.rows_affected())
    }
}

fn millis(ms: i64) -> Duration {
    // A clock that was set back makes nothing older than it is.
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn as_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn as_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
