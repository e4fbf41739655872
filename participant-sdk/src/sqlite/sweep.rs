//! Branches in doubt and rows to purge.

use sqlx::{QueryBuilder, Sqlite as Db};
use uuid::Uuid;

use super::Sqlite;
use super::block::fault;
use crate::doubt::{
    GROUP_ROWS_MAX, GroupRows, Named, Question, RowChange, RowKey, Sweepable, answer_questions,
    purge_undone,
};
use crate::resource::{Fault, Local};

/// Condition of a row that can be read: its `tx_id` is one. Whoever writes rows by hand may have written anything.
macro_rules! readable {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "tx_id LIKE '________-____-____-____-____________' AND tx_id NOT GLOB '*[^0-9a-f-]*' \
             AND length(replace(tx_id, '-', '')) = 32",
            $after
        )
    };
}

const COUNT: &str = "
SELECT count(*) FILTER (WHERE mode <> 'saga'),
    coalesce(CAST(unixepoch('subsec') * 1000 AS integer)
        - min(changed_ms) FILTER (WHERE mode <> 'saga'), 0),
    count(*) FILTER (WHERE mode = 'saga')
FROM unanimo_barrier WHERE state = 'prepared' AND participant = $1";

const ROWS: &str = readable!(
    "
SELECT cluster_id, tx_id, branch_id, CAST(unixepoch('subsec') * 1000 AS integer) - changed_ms, mode
FROM unanimo_barrier
WHERE state = 'prepared' AND participant = $1 AND ",
    "
    AND (changed_ms > CAST(unixepoch('subsec') * 1000 AS integer) + 60000
        OR changed_ms <= CAST(unixepoch('subsec') * 1000 AS integer) - $2
        AND (mode <> 'saga' OR changed_ms <= CAST(unixepoch('subsec') * 1000 AS integer)
            - min((changed_ms - created_ms) / 2, 3600000)))
    AND (tx_id, branch_id) > ($3, $4)
ORDER BY tx_id, branch_id LIMIT $5"
);

const OPEN: &str = readable!(
    "
SELECT tx_id, branch_id, action, mode FROM unanimo_barrier
WHERE state = 'prepared' AND participant = $1 AND ",
    " AND (tx_id, branch_id) > ($2, $3)
ORDER BY tx_id, branch_id LIMIT $4"
);

const OPEN_OUTPUT: &str = "
SELECT output, output_type FROM unanimo_barrier
WHERE state = 'prepared' AND participant = $1 AND tx_id = $2 AND branch_id = $3";

const NAMES: &str = "
SELECT participant, cluster_id, count(*),
    CAST(unixepoch('subsec') * 1000 AS integer) - min(changed_ms)
FROM unanimo_barrier
WHERE state = 'prepared' AND CAST(unixepoch('subsec') * 1000 AS integer) - changed_ms >= $1
    AND (mode <> 'saga' OR changed_ms < CAST(unixepoch('subsec') * 1000 AS integer) - 3 * 3600000)
GROUP BY participant, cluster_id";

const GROUPS: &str = "
SELECT cluster_id, count(*), count(*) FILTER (WHERE state = 'prepared')
FROM (SELECT cluster_id, state FROM unanimo_barrier WHERE participant = $1 LIMIT $2) AS found
GROUP BY cluster_id";

const PURGE_UNDONE: &str = "
DELETE FROM unanimo_barrier WHERE (tx_id, branch_id) IN (
    SELECT tx_id, branch_id FROM unanimo_barrier
    WHERE state IN ('read_only', 'refused', 'cancelled') AND participant = $1
        AND prepare_until_ms < $2
    ORDER BY prepare_until_ms, tx_id, branch_id LIMIT $3)";

const UNREADABLE: &str = readable!(
    "SELECT count(*) FROM unanimo_barrier WHERE state = 'prepared' AND participant = $1 AND NOT (",
    ")"
);

const CLOCK: &str = "SELECT CAST(unixepoch('subsec') * 1000 AS integer)";

const COMMITTED: &str = readable!(
    "
SELECT cluster_id, tx_id, branch_id, prepare_until_ms FROM unanimo_barrier
WHERE state = 'committed' AND participant = $1 AND ",
    "
    AND prepare_until_ms < CAST(unixepoch('subsec') * 1000 AS integer) - $2
    AND (prepare_until_ms, tx_id, branch_id) > ($3, $4, $5)
ORDER BY prepare_until_ms, tx_id, branch_id LIMIT $6"
);

const UNBOUNDED: &str = readable!(
    "
SELECT cluster_id, tx_id, branch_id, 0 FROM unanimo_barrier
WHERE state = 'committed' AND participant = $1 AND prepare_until_ms IS NULL AND ",
    "
    AND changed_ms <= CAST(unixepoch('subsec') * 1000 AS integer) - $2
    AND (tx_id, branch_id) > ($3, $4)
ORDER BY tx_id, branch_id LIMIT $5"
);

/// The keys follow as VALUES. Each database knows another way to pass many keys.
fn change(change: RowChange) -> &'static str {
    match change {
        RowChange::Purge => {
            "DELETE FROM unanimo_barrier WHERE state = 'committed' AND (tx_id, branch_id) IN ("
        }
        RowChange::Bound => {
            "UPDATE unanimo_barrier
             SET prepare_until_ms = CAST(unixepoch('subsec') * 1000 AS integer)
             WHERE state = 'committed' AND prepare_until_ms IS NULL AND (tx_id, branch_id) IN ("
        }
        RowChange::CommitSteps => {
            "UPDATE unanimo_barrier
             SET state = 'committed', changed_ms = CAST(unixepoch('subsec') * 1000 AS integer)
             WHERE state = 'prepared' AND mode = 'saga' AND (tx_id, branch_id) IN ("
        }
        RowChange::KeepSteps => {
            "UPDATE unanimo_barrier SET changed_ms = CAST(unixepoch('subsec') * 1000 AS integer)
             WHERE state = 'prepared' AND mode = 'saga' AND (tx_id, branch_id) IN ("
        }
        RowChange::MarkSteps => {
            "UPDATE unanimo_barrier
             SET changed_ms = CAST(unixepoch('subsec') * 1000 AS integer) - 3600000
             WHERE state = 'prepared' AND mode = 'saga'
                AND changed_ms < CAST(unixepoch('subsec') * 1000 AS integer) - 3600000
                AND (tx_id, branch_id) IN ("
        }
    }
}

impl Sqlite {
    async fn sweeping(&self) -> Result<Local<Db>, Fault> {
        Local::begin(&self.phase_two, "BEGIN").await.map_err(fault("begin a transaction"))
    }

    /// Nothing but rows bears a name.
    #[expect(clippy::unused_async, reason = "another database has to ask")]
    async fn other_names(&self) -> Result<Vec<Named>, Fault> {
        Ok(Vec::new())
    }

    fn question(&self, question: Question) -> &'static str {
        match question {
            Question::CountPrepared => COUNT,
            Question::PreparedRows => ROWS,
            Question::OpenRows => OPEN,
            Question::OpenOutput => OPEN_OUTPUT,
            Question::Names => NAMES,
            Question::Unreadable => UNREADABLE,
            Question::Clock => CLOCK,
            Question::PurgeUndone => PURGE_UNDONE,
            Question::CommittedRows => COMMITTED,
            Question::UnboundedRows => UNBOUNDED,
        }
    }
}

impl Sweepable for Sqlite {
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

    answer_questions!(fault, String, |tx_id: Uuid| tx_id.to_string());

    purge_undone!(fault);

    async fn change_rows(
        &self,
        participant: &str,
        keys: &[RowKey],
        how: RowChange,
    ) -> Result<u64, Fault> {
        if keys.is_empty() {
            return Ok(0);
        }
        let mut statement = QueryBuilder::<Db>::new(change(how));
        statement.push_values(keys, |mut row, (tx_id, branch_id)| {
            row.push_bind(tx_id.to_string()).push_bind(branch_id);
        });
        statement.push(") AND participant = ").push_bind(participant);
        let changed = statement.build().persistent(false).execute(&self.phase_two).await;
        Ok(changed.map_err(fault("change barrier rows"))?.rows_affected())
    }
}
