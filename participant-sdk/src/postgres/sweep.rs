//! Branches in doubt and rows to purge. On connections of phase two, which no Prepare keeps waiting.

use std::time::Duration;

use sqlx::Postgres as Db;
use uuid::Uuid;

use super::Postgres;
use super::error::fault;
use super::name::{self, PREFIX};
use crate::doubt::{
    BranchName, Doubt, GROUP_ROWS_MAX, GroupRows, Histories, History, Named, Question, RowChange,
    RowKey, Sweepable, age, answer_questions, purge_undone,
};
use crate::resource::{Fault, Local};

/// Names are those of the whole server, and can be ended only from their own database.
const PREPARED: &str = "
SELECT gid, (extract(epoch FROM clock_timestamp() - prepared) * 1000)::bigint
FROM pg_prepared_xacts
WHERE database = current_database() AND left(gid, length($1)) = $1
ORDER BY prepared";

const COUNT: &str = "
SELECT count(*) FILTER (WHERE mode <> 'saga'),
    (extract(epoch FROM clock_timestamp()
        - coalesce(min(changed_at) FILTER (WHERE mode <> 'saga'), now())) * 1000)::bigint,
    count(*) FILTER (WHERE mode = 'saga')
FROM unanimo_barrier WHERE state = 'prepared' AND participant = $1";

const ROWS: &str = "
SELECT cluster_id, tx_id, branch_id,
    (extract(epoch FROM clock_timestamp() - changed_at) * 1000)::bigint, mode
FROM unanimo_barrier
WHERE state = 'prepared' AND participant = $1
    AND changed_at <= clock_timestamp() - $2::bigint * interval '1 millisecond'
    AND (mode <> 'saga' OR changed_at
        <= clock_timestamp() - least((changed_at - created_at) / 2, interval '1 hour'))
    AND (tx_id, branch_id) > ($3, $4)
ORDER BY tx_id, branch_id LIMIT $5";

const OPEN: &str = "
SELECT tx_id, branch_id, action, mode FROM unanimo_barrier
WHERE state = 'prepared' AND participant = $1 AND (tx_id, branch_id) > ($2, $3)
ORDER BY tx_id, branch_id LIMIT $4";

const OPEN_OUTPUT: &str = "
SELECT output, output_type FROM unanimo_barrier
WHERE state = 'prepared' AND participant = $1 AND tx_id = $2 AND branch_id = $3";

const NAMES: &str = "
SELECT participant, cluster_id, count(*),
    (extract(epoch FROM clock_timestamp() - min(changed_at)) * 1000)::bigint
FROM unanimo_barrier WHERE state = 'prepared' AND mode <> 'saga' GROUP BY participant, cluster_id";

/// Of the whole server, whoever made it.
const OLDEST: &str = "
SELECT (extract(epoch FROM clock_timestamp() - min(prepared)) * 1000)::bigint FROM pg_prepared_xacts";
const GROUPS: &str = "
SELECT cluster_id, count(*), count(*) FILTER (WHERE state = 'prepared')
FROM (SELECT cluster_id, state FROM unanimo_barrier WHERE participant = $1 LIMIT $2) AS found
GROUP BY cluster_id";

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
    AND (prepare_until, tx_id, branch_id)
        > (timestamptz 'epoch' + $3::bigint * interval '1 microsecond', $4, $5)
ORDER BY prepare_until, tx_id, branch_id LIMIT $6";

const UNBOUNDED: &str = "
SELECT cluster_id, tx_id, branch_id, 0::bigint FROM unanimo_barrier
WHERE state = 'committed' AND participant = $1 AND prepare_until IS NULL
    AND changed_at <= clock_timestamp() - $2::bigint * interval '1 millisecond'
    AND (tx_id, branch_id) > ($3, $4)
ORDER BY tx_id, branch_id LIMIT $5";

/// A statement for rows whose keys are two arrays. Each database knows another way to pass many keys.
macro_rules! of_keys {
    ($statement:literal, $condition:literal) => {
        concat!(
            $statement,
            " WHERE (tx_id, branch_id) IN (
                SELECT tx_id, branch_id FROM unanimo_barrier
                JOIN unnest($2::uuid[], $3::text[]) AS k (tx_id, branch_id) USING (tx_id, branch_id)
                WHERE participant = $1 AND ",
            $condition,
            " ORDER BY tx_id, branch_id FOR UPDATE OF unanimo_barrier SKIP LOCKED)"
        )
    };
}

fn change(change: RowChange) -> &'static str {
    match change {
        RowChange::Purge => of_keys!("DELETE FROM unanimo_barrier", "state = 'committed'"),
        RowChange::Bound => of_keys!(
            "UPDATE unanimo_barrier SET prepare_until = clock_timestamp()",
            "state = 'committed' AND prepare_until IS NULL"
        ),
        RowChange::CommitSteps => of_keys!(
            "UPDATE unanimo_barrier SET state = 'committed', changed_at = clock_timestamp()",
            "state = 'prepared' AND mode = 'saga'"
        ),
        RowChange::KeepSteps => of_keys!(
            "UPDATE unanimo_barrier SET changed_at = clock_timestamp()",
            "state = 'prepared' AND mode = 'saga'"
        ),
    }
}

impl Postgres {
    pub(super) async fn sweeping(&self) -> Result<Local<Db>, Fault> {
        let begun = Local::begin(&self.phase_two, "BEGIN READ WRITE").await;
        begun.map_err(fault("begin a transaction"))
    }

    /// Names of all prepared transactions of this database that begin as ours, and their ages.
    async fn all_prepared(&self) -> Result<Vec<(String, i64)>, Fault> {
        let listed = sqlx::query_as(PREPARED).bind(PREFIX).fetch_all(&self.phase_two).await;
        listed.map_err(fault("list prepared transactions"))
    }

    /// Names that prepared transactions bear.
    async fn other_names(&self) -> Result<Vec<Named>, Fault> {
        let all = self.all_prepared().await?;
        let names = all.iter().filter_map(|(gid, age_ms)| {
            let parsed = name::parse(gid)?;
            Some(Named {
                participant: parsed.participant.to_owned(),
                cluster_id: parsed.cluster_id.to_owned(),
                count: 1,
                oldest: age(*age_ms),
            })
        });
        Ok(names.collect())
    }

    fn question(&self, question: Question) -> &'static str {
        match question {
            Question::CountPrepared => COUNT,
            Question::PreparedRows => ROWS,
            Question::OpenRows => OPEN,
            Question::OpenOutput => OPEN_OUTPUT,
            Question::Names => NAMES,
            Question::PurgeUndone => PURGE_UNDONE,
            Question::CommittedRows => COMMITTED,
            Question::UnboundedRows => UNBOUNDED,
        }
    }
}

impl Sweepable for Postgres {
    async fn group_rows(&self, participant: &str) -> Result<Vec<GroupRows>, Fault> {
        let all: Vec<(String, i64, i64)> = sqlx::query_as(GROUPS)
            .bind(participant)
            .bind(i64::from(GROUP_ROWS_MAX))
            .fetch_all(&self.phase_two)
            .await
            .map_err(fault("count rows by coordinator group"))?;
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        let groups = all.into_iter().map(|(cluster_id, rows, prepared)| GroupRows {
            cluster_id,
            rows: count(rows),
            prepared: count(prepared),
        });
        Ok(groups.collect())
    }

    async fn prepared_transactions(&self, participant: &str) -> Result<Vec<Doubt>, Fault> {
        let all = self.all_prepared().await?;
        let own = all.iter().filter_map(|(gid, age_ms)| {
            let parsed = name::parse(gid).filter(|name| name.participant == participant)?;
            Some(Doubt {
                cluster_id: parsed.cluster_id.to_owned(),
                tx_id: parsed.tx_id,
                branch: BranchName::Number(parsed.number),
                age: age(*age_ms),
                is_step: false,
            })
        });
        Ok(own.collect())
    }

    async fn oldest_prepared(&self) -> Result<Option<Duration>, Fault> {
        let oldest = sqlx::query_scalar(OLDEST).fetch_one(&self.phase_two).await;
        let oldest: Option<i64> = oldest.map_err(fault("look for prepared transactions"))?;
        Ok(oldest.map(age))
    }

    async fn histories(&self, participant: &str) -> Result<Option<Histories>, Fault> {
        self.read_histories(participant).await.map(Some)
    }

    async fn note_history(&self, participant: &str, history: History) -> Result<(), Fault> {
        self.write_history(participant, history).await
    }

    async fn rows_here(&self, participant: &str, keys: &[RowKey]) -> Result<Vec<RowKey>, Fault> {
        self.find_rows(participant, keys).await
    }

    answer_questions!(fault, Uuid, std::convert::identity);

    purge_undone!(fault);

    async fn change_rows(
        &self,
        participant: &str,
        keys: &[RowKey],
        how: RowChange,
    ) -> Result<u64, Fault> {
        let (tx_ids, branch_ids): (Vec<Uuid>, Vec<String>) = keys.iter().cloned().unzip();
        let mut changing = self.sweeping().await?;
        let changed = sqlx::query(change(how))
            .bind(participant)
            .bind(tx_ids)
            .bind(branch_ids)
            .execute(&mut *changing)
            .await
            .map_err(fault("change barrier rows"))?;
        changing.commit().await.map_err(fault("change barrier rows"))?;
        Ok(changed.rows_affected())
    }
}
