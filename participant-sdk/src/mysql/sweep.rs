//! Branches in doubt and rows to purge.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::{AssertSqlSafe, MySql as Db, MySqlConnection, QueryBuilder};
use uuid::Uuid;

use super::MySql;
use super::error::fault;
use super::statements::begin_reading_all;
use super::timeline::{HISTORIES, NOTE, ROWS_HERE};
use super::two_phase::listed;
use super::xid::Xid;
use crate::doubt::{
    BranchName, Doubt, GROUP_ROWS_MAX, GroupRows, Histories, History, Named, Question, RowChange,
    RowKey, Sweepable, TxIdColumn, age, answer_questions, is_ahead,
};
use crate::resource::{Fault, Local};

/// The server's clock, in milliseconds since 1970. Sessions are in UTC.
const NOW_MS: &str = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', SYSDATE(6)) DIV 1000";

const AGE_MS: &str = "TIMESTAMPDIFF(MICROSECOND, changed_at, SYSDATE(6)) DIV 1000";

/// Milliseconds from the row's making to its last change.
const LIVED_MS: &str = "TIMESTAMPDIFF(MICROSECOND, created_at, changed_at) DIV 1000";

/// Condition of a row that can be read: its `tx_id` is one. Whoever writes rows by hand may have written anything.
const READABLE: &str = "tx_id REGEXP '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'";

const COUNT: &str = "
SELECT count(CASE WHEN mode <> 'saga' THEN 1 END),
    coalesce(max(CASE WHEN mode <> 'saga' THEN {age} END), 0),
    count(CASE WHEN mode = 'saga' THEN 1 END)
FROM {table} WHERE state = 'prepared' AND participant = ?";

const ROWS: &str = "
SELECT cluster_id, tx_id, branch_id, {age}, mode FROM {table}
WHERE state = 'prepared' AND participant = ? AND {readable}
    AND ({age} < -60000
        OR {age} >= ? AND (mode <> 'saga' OR {age} >= LEAST({lived} DIV 2, 3600000)))
    AND (tx_id, branch_id) > (?, ?)
ORDER BY tx_id, branch_id LIMIT ?";

const OPEN: &str = "
SELECT tx_id, branch_id, action, mode FROM {table}
WHERE state = 'prepared' AND participant = ? AND {readable} AND (tx_id, branch_id) > (?, ?)
ORDER BY tx_id, branch_id LIMIT ?";

const OPEN_OUTPUT: &str = "
SELECT output, output_type FROM {table}
WHERE state = 'prepared' AND participant = ? AND tx_id = ? AND branch_id = ?";

const NAMES: &str = "
SELECT participant, cluster_id, count(*), max({age}) FROM {table}
WHERE state = 'prepared' AND {age} >= ? AND (mode <> 'saga' OR {age} > 3 * 3600000)
GROUP BY participant, cluster_id";

const GROUPS: &str = "
SELECT cluster_id, count(*), count(CASE WHEN state = 'prepared' THEN 1 END)
FROM (SELECT cluster_id, state FROM {table} WHERE participant = ? LIMIT ?) AS found
GROUP BY cluster_id";

/// The ids of transactions follow as a list.
const AGES: &str = "
SELECT tx_id, participant, max({age}) FROM {table} WHERE mode = '2pc' AND tx_id IN (";

/// Transactions in one such question.
const AGES_MAX: usize = 500;

/// Without a lock: a DELETE that looks for its rows would wait for those of branches in doubt.
const UNDONE: &str = "
SELECT tx_id, branch_id FROM {table}
WHERE state IN ('read_only', 'refused', 'cancelled') AND participant = ? AND {readable}
    AND prepare_until_ms < ?
ORDER BY prepare_until_ms, tx_id, branch_id LIMIT ?";

const UNREADABLE: &str = "
SELECT count(*) FROM {table} WHERE state = 'prepared' AND participant = ? AND NOT {readable}";

const CLOCK: &str = "SELECT {now}";

const COMMITTED: &str = "
SELECT cluster_id, tx_id, branch_id, prepare_until_ms FROM {table}
WHERE state = 'committed' AND participant = ? AND {readable} AND prepare_until_ms < {now} - ?
    AND (prepare_until_ms, tx_id, branch_id) > (?, ?, ?)
ORDER BY prepare_until_ms, tx_id, branch_id LIMIT ?";

const UNBOUNDED: &str = "
SELECT cluster_id, tx_id, branch_id, 0 FROM {table}
WHERE state = 'committed' AND participant = ? AND prepare_until_ms IS NULL AND {age} >= ?
    AND {readable} AND (tx_id, branch_id) > (?, ?)
ORDER BY tx_id, branch_id LIMIT ?";

const PURGE_UNDONE: &str = "
DELETE FROM {table} WHERE state IN ('read_only', 'refused', 'cancelled') AND (tx_id, branch_id) IN ";

/// The keys follow as a list of rows. Each database knows another way to pass many keys.
const PURGE: &str = "
DELETE FROM {table} WHERE state = 'committed' AND (tx_id, branch_id) IN ";

const BOUND: &str = "
UPDATE {table} SET prepare_until_ms = {now}
WHERE state = 'committed' AND prepare_until_ms IS NULL AND (tx_id, branch_id) IN ";

const COMMIT_STEPS: &str = "
UPDATE {table} SET state = 'committed', changed_at = SYSDATE(6)
WHERE state = 'prepared' AND mode = 'saga' AND (tx_id, branch_id) IN ";

const KEEP_STEPS: &str = "
UPDATE {table} SET changed_at = SYSDATE(6)
WHERE state = 'prepared' AND mode = 'saga' AND (tx_id, branch_id) IN ";

const MARK_STEPS: &str = "
UPDATE {table} SET changed_at = SYSDATE(6) - INTERVAL 1 HOUR
WHERE state = 'prepared' AND mode = 'saga' AND {age} > 3600000 AND (tx_id, branch_id) IN ";

/// The statements for one database: as those of local transactions they name it.
#[derive(Clone, Debug)]
pub(super) struct Statements {
    groups: Arc<str>,
    count: Arc<str>,
    rows: Arc<str>,
    open: Arc<str>,
    open_output: Arc<str>,
    names: Arc<str>,
    unreadable: Arc<str>,
    clock: Arc<str>,
    undone: Arc<str>,
    purge_undone: Arc<str>,
    committed: Arc<str>,
    unbounded: Arc<str>,
    purge: Arc<str>,
    bound: Arc<str>,
    commit_steps: Arc<str>,
    keep_steps: Arc<str>,
    mark_steps: Arc<str>,
    ages: Arc<str>,
    histories: Arc<str>,
    note: Arc<str>,
    rows_here: Arc<str>,
}

impl Statements {
    pub(super) fn new(table: &str) -> Self {
        let of = |statement: &str| {
            let statement = statement.replace("{table}", table).replace("{readable}", READABLE);
            let statement = statement.replace("{age}", AGE_MS).replace("{lived}", LIVED_MS);
            statement.replace("{now}", NOW_MS).into()
        };
        Self {
            groups: of(GROUPS),
            count: of(COUNT),
            rows: of(ROWS),
            open: of(OPEN),
            open_output: of(OPEN_OUTPUT),
            names: of(NAMES),
            unreadable: of(UNREADABLE),
            clock: of(CLOCK),
            undone: of(UNDONE),
            purge_undone: of(PURGE_UNDONE),
            committed: of(COMMITTED),
            unbounded: of(UNBOUNDED),
            purge: of(PURGE),
            bound: of(BOUND),
            commit_steps: of(COMMIT_STEPS),
            keep_steps: of(KEEP_STEPS),
            mark_steps: of(MARK_STEPS),
            ages: of(AGES),
            histories: of(HISTORIES),
            note: of(NOTE),
            rows_here: of(ROWS_HERE),
        }
    }

    pub(super) fn histories(&self) -> Arc<str> {
        Arc::clone(&self.histories)
    }

    pub(super) fn note(&self) -> Arc<str> {
        Arc::clone(&self.note)
    }

    pub(super) fn rows_here(&self) -> Arc<str> {
        Arc::clone(&self.rows_here)
    }
}

impl MySql {
    pub(super) async fn sweeping(&self) -> Result<Local<Db>, Fault> {
        let begun = Local::begin(&self.phase_two, "START TRANSACTION READ WRITE").await;
        begun.map_err(fault("begin a transaction"))
    }

    /// Names that prepared transactions of this database bear.
    async fn other_names(&self) -> Result<Vec<Named>, Fault> {
        let all = self.all_prepared().await?;
        let names = all.into_iter().map(|(xid, age_ms)| Named {
            participant: xid.participant,
            cluster_id: xid.cluster_id,
            count: 1,
            oldest: age(age_ms),
        });
        Ok(names.collect())
    }

    /// Every prepared transaction of ours in this database, with its age in milliseconds. The server lists those of all
    /// databases, and not since when they are prepared: their rows tell.
    async fn all_prepared(&self) -> Result<Vec<(Xid, i64)>, Fault> {
        if !self.can_prepare() {
            return Ok(Vec::new());
        }
        let names = listed(&self.phase_two).await?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let connection = self.phase_two.acquire().await;
        let mut connection = connection.map_err(fault("list prepared transactions"))?;
        let mut ages = HashMap::new();
        for some in names.chunks(AGES_MAX) {
            let tx_ids: Vec<Uuid> = some.iter().map(|xid| xid.tx_id).collect();
            ages.extend(self.ages(&mut connection, &tx_ids).await?);
        }
        let of_here = |xid: Xid| {
            let age_ms = ages.get(&(xid.tx_id, xid.participant.clone())).copied();
            age_ms.map(|age_ms| (xid, age_ms))
        };
        let mut all: Vec<_> = names.into_iter().filter_map(of_here).collect();
        all.sort_by_key(|(_, age_ms)| std::cmp::Reverse(*age_ms));
        Ok(all)
    }

    /// Ages of the rows of two-phase commit of these transactions in this database, committed or not: nobody
    /// else sees the row of a prepared one. Each participant has its own.
    async fn ages(
        &self,
        connection: &mut MySqlConnection,
        tx_ids: &[Uuid],
    ) -> Result<Vec<((Uuid, String), i64)>, Fault> {
        const DOING: &str = "read rows of prepared transactions";
        let begin = sqlx::raw_sql(AssertSqlSafe(begin_reading_all()));
        begin.execute(&mut *connection).await.map_err(fault(DOING))?;
        let mut statement = QueryBuilder::<Db>::new(&*self.statements.sweep.ages);
        let mut list = statement.separated(", ");
        for tx_id in tx_ids {
            list.push_bind(tx_id.to_string());
        }
        statement.push(") GROUP BY tx_id, participant");
        let found = statement.build_query_as().persistent(false).fetch_all(&mut *connection).await;
        let found: Vec<(String, String, i64)> = found.map_err(fault(DOING))?;
        sqlx::raw_sql("ROLLBACK").execute(connection).await.map_err(fault(DOING))?;
        let named = |(tx_id, participant, age_ms): (String, _, _)| {
            Ok(((tx_id.read()?, participant), age_ms))
        };
        found.into_iter().map(named).collect()
    }

    fn question(&self, question: Question) -> AssertSqlSafe<Arc<str>> {
        let statements = &self.statements.sweep;
        AssertSqlSafe(Arc::clone(match question {
            Question::CountPrepared => &statements.count,
            Question::PreparedRows => &statements.rows,
            Question::OpenRows => &statements.open,
            Question::OpenOutput => &statements.open_output,
            Question::Names => &statements.names,
            Question::Unreadable => &statements.unreadable,
            Question::Clock => &statements.clock,
            Question::PurgeUndone => &statements.undone,
            Question::CommittedRows => &statements.committed,
            Question::UnboundedRows => &statements.unbounded,
        }))
    }
}

impl Sweepable for MySql {
    async fn group_rows(&self, participant: &str) -> Result<Vec<GroupRows>, Fault> {
        let all: Vec<(String, i64, i64)> =
            sqlx::query_as(AssertSqlSafe(Arc::clone(&self.statements.sweep.groups)))
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

    async fn histories(&self, participant: &str) -> Result<Option<Histories>, Fault> {
        self.read_histories(participant).await
    }

    async fn note_history(&self, participant: &str, history: History) -> Result<(), Fault> {
        self.write_history(participant, history).await
    }

    async fn rows_here(&self, participant: &str, keys: &[RowKey]) -> Result<Vec<RowKey>, Fault> {
        self.find_rows(participant, keys).await
    }

    async fn prepared_transactions(&self, participant: &str) -> Result<Vec<Doubt>, Fault> {
        let all = self.all_prepared().await?;
        let own = all.into_iter().filter(|(xid, _)| xid.participant == participant);
        let doubts = own.map(|(xid, age_ms)| Doubt {
            cluster_id: xid.cluster_id,
            tx_id: xid.tx_id,
            branch: BranchName::Number(xid.number),
            age: age(age_ms),
            is_step: false,
            is_ahead: is_ahead(age_ms),
        });
        Ok(doubts.collect())
    }

    answer_questions!(fault, String, |tx_id: Uuid| tx_id.to_string());

    async fn purge_undone(
        &self,
        participant: &str,
        until_ms: i64,
        limit: usize,
    ) -> Result<u64, Fault> {
        let mut sweeping = self.sweeping().await?;
        let keys = sqlx::query_as(self.question(Question::PurgeUndone))
            .bind(participant)
            .bind(until_ms)
            .bind(crate::doubt::limit(limit))
            .fetch_all(&mut *sweeping)
            .await;
        let keys: Vec<(String, String)> = keys.map_err(fault("list barrier rows to purge"))?;
        sweeping.release();
        let keys = keys.into_iter().map(|(tx_id, branch_id)| Ok((tx_id.read()?, branch_id)));
        let keys = keys.collect::<Result<Vec<RowKey>, Fault>>()?;
        self.of_keys(&self.statements.sweep.purge_undone, participant, &keys).await
    }

    async fn change_rows(
        &self,
        participant: &str,
        keys: &[RowKey],
        change: RowChange,
    ) -> Result<u64, Fault> {
        let statements = &self.statements.sweep;
        let statement = match change {
            RowChange::Purge => &statements.purge,
            RowChange::Bound => &statements.bound,
            RowChange::CommitSteps => &statements.commit_steps,
            RowChange::KeepSteps => &statements.keep_steps,
            RowChange::MarkSteps => &statements.mark_steps,
        };
        self.of_keys(statement, participant, keys).await
    }
}

impl MySql {
    /// Runs a statement for rows of these keys; tells how many it has changed.
    async fn of_keys(
        &self,
        statement: &Arc<str>,
        participant: &str,
        keys: &[RowKey],
    ) -> Result<u64, Fault> {
        if keys.is_empty() {
            return Ok(0);
        }
        let mut statement = QueryBuilder::<Db>::new(&**statement);
        // Not `push_values`: what it makes is no list to either server.
        statement.push_tuples(keys, |mut row, (tx_id, branch_id)| {
            row.push_bind(tx_id.to_string()).push_bind(branch_id);
        });
        statement.push(" AND participant = ").push_bind(participant);
        let mut changing = self.sweeping().await?;
        let changed = statement.build().persistent(false).execute(&mut *changing).await;
        let changed = changed.map_err(fault("change barrier rows"))?;
        changing.commit().await.map_err(fault("change barrier rows"))?;
        Ok(changed.rows_affected())
    }
}
