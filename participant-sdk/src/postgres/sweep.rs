//! Branches in doubt and rows to purge. On connections of phase two, which no Prepare keeps waiting.

use std::time::Duration;

use uuid::Uuid;

use super::Postgres;
use super::block::begun;
use super::driver::{Connection, Driver, FromRow, Parameter as P, Session};
use super::error::fault;
use super::name::{self, PREFIX};
use super::statements;
use super::waiting::{Backend, ended_with_its_client};
use crate::doubt::{
    self, BranchName, Committed, Count, Doubt, GROUP_ROWS_MAX, GroupRows, Histories, History,
    Named, NamedRow, Open, RowChange, RowKey, Sweepable, age, is_ahead, limit, millis, position,
};
use crate::payload::Payload;
use crate::resource::Fault;

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
    AND (changed_at > clock_timestamp() + interval '1 minute'
        OR changed_at <= clock_timestamp() - $2::bigint * interval '1 millisecond'
        AND (mode <> 'saga' OR changed_at
            <= clock_timestamp() - least((changed_at - created_at) / 2, interval '1 hour')))
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
FROM unanimo_barrier
WHERE state = 'prepared' AND extract(epoch FROM clock_timestamp() - changed_at) * 1000 >= $1::bigint
    AND (mode <> 'saga' OR changed_at < clock_timestamp() - interval '3 hours')
GROUP BY participant, cluster_id";

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
        AND prepare_until < timestamptz 'epoch' + $2::bigint * interval '1 millisecond'
    ORDER BY prepare_until, tx_id, branch_id LIMIT $3
    FOR UPDATE SKIP LOCKED)";

const CLOCK: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

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
        RowChange::MarkSteps => of_keys!(
            "UPDATE unanimo_barrier SET changed_at = clock_timestamp() - interval '1 hour'",
            "state = 'prepared' AND mode = 'saga'
                AND changed_at < clock_timestamp() - interval '1 hour'"
        ),
    }
}

impl<D: Driver> Postgres<D> {
    /// Returns all rows, read in a transaction of their own.
    async fn read<T: FromRow>(
        &self,
        doing: &'static str,
        statement: &str,
        parameters: &[P<'_>],
    ) -> Result<Vec<T>, Fault> {
        let mut sweeping = begun(&self.phase_two, "BEGIN READ WRITE").await?;
        let rows = statements::all(sweeping.connection(), statement, parameters).await;
        let rows = rows.map_err(fault(doing))?;
        sweeping.release();
        Ok(rows)
    }

    /// Changes rows; tells how many.
    pub(super) async fn change(
        &self,
        doing: &'static str,
        statement: &str,
        parameters: &[P<'_>],
    ) -> Result<u64, Fault> {
        let mut sweeping = begun(&self.phase_two, "BEGIN READ WRITE").await?;
        let backend = match self.set_up.care.standbys().are_waited_for() {
            true => Some(Backend::of(&mut sweeping).await.map_err(fault(doing))?),
            false => None,
        };
        let changed = sweeping.connection().execute(statement, parameters).await;
        let changed = changed.map_err(fault(doing))?;
        let committed = ended_with_its_client(backend, &self.sweep, sweeping.commit()).await;
        committed.map_err(fault(doing))?;
        sweeping.release();
        Ok(changed)
    }

    /// Names of all prepared transactions of this database that begin as ours, and their ages.
    async fn all_prepared(&self) -> Result<Vec<(String, i64)>, Fault> {
        let listed = statements::all_on(&self.phase_two, PREPARED, &[P::Text(PREFIX)]).await;
        listed.map_err(fault("list prepared transactions"))
    }
}

impl<D: Driver> Sweepable for Postgres<D> {
    async fn group_rows(&self, participant: &str) -> Result<Vec<GroupRows>, Fault> {
        let parameters = [P::Text(participant), P::Int(Some(i64::from(GROUP_ROWS_MAX)))];
        let all = statements::all_on(&self.phase_two, GROUPS, &parameters).await;
        let all: Vec<(String, i64, i64)> = all.map_err(fault("count rows by coordinator group"))?;
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
                is_ahead: is_ahead(*age_ms),
            })
        });
        Ok(own.collect())
    }

    async fn oldest_prepared(&self) -> Result<Option<Duration>, Fault> {
        let oldest = statements::one_on(&self.phase_two, OLDEST, &[]).await;
        let (oldest,): (Option<i64>,) = oldest.map_err(fault("look for prepared transactions"))?;
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

    async fn count_prepared(&self, participant: &str) -> Result<Count, Fault> {
        const DOING: &str = "count the rows that are prepared";
        let counted = self.read(DOING, COUNT, &[P::Text(participant)]).await?;
        Ok(counted.into_iter().next().map(doubt::count).unwrap_or_default())
    }

    async fn prepared_rows(
        &self,
        participant: &str,
        grace: Duration,
        after: Option<&RowKey>,
        at_most: usize,
    ) -> Result<Vec<Doubt>, Fault> {
        let [tx_id, branch_id] = from(after);
        let parameters = [P::Text(participant), ms(grace), tx_id, branch_id, rows(at_most)];
        let found = self.read("list the rows that are prepared", ROWS, &parameters).await?;
        found.into_iter().map(doubt::doubt::<Uuid>).collect()
    }

    async fn names(&self, too_old: Duration) -> Result<Vec<Named>, Fault> {
        const DOING: &str = "list the names of rows that are prepared";
        let rows: Vec<NamedRow> = self.read(DOING, NAMES, &[ms(too_old)]).await?;
        let transactions = self.all_prepared().await?;
        let of_transactions = transactions.iter().filter_map(|(gid, age_ms)| {
            let parsed = name::parse(gid)?;
            Some(Named {
                participant: parsed.participant.to_owned(),
                cluster_id: parsed.cluster_id.to_owned(),
                count: 1,
                oldest: age(*age_ms),
            })
        });
        Ok(rows.into_iter().map(doubt::named).chain(of_transactions).collect())
    }

    async fn open_rows(
        &self,
        participant: &str,
        after: Option<&RowKey>,
        at_most: usize,
    ) -> Result<Vec<Open>, Fault> {
        let [tx_id, branch_id] = from(after);
        let parameters = [P::Text(participant), tx_id, branch_id, rows(at_most)];
        let found = self.read("list the rows that are open", OPEN, &parameters).await?;
        found.into_iter().map(doubt::open::<Uuid>).collect()
    }

    async fn open_output(&self, participant: &str, key: &RowKey) -> Result<Option<Payload>, Fault> {
        const DOING: &str = "read the output of a row that is open";
        let [tx_id, branch_id] = from(Some(key));
        let parameters = [P::Text(participant), tx_id, branch_id];
        let output: Vec<(Vec<u8>, String)> = self.read(DOING, OPEN_OUTPUT, &parameters).await?;
        let output = output.into_iter().next();
        Ok(output.map(|(data, media_type)| Payload::new(data, media_type)))
    }

    async fn clock_ms(&self) -> Result<i64, Fault> {
        let told = statements::one_on(&self.phase_two, CLOCK, &[]).await;
        let (now_ms,): (i64,) = told.map_err(fault("read the clock"))?;
        Ok(now_ms)
    }

    async fn purge_undone(
        &self,
        participant: &str,
        until_ms: i64,
        at_most: usize,
    ) -> Result<u64, Fault> {
        let parameters = [P::Text(participant), P::Int(Some(until_ms)), rows(at_most)];
        self.change("purge barrier rows", PURGE_UNDONE, &parameters).await
    }

    async fn committed_rows(
        &self,
        participant: &str,
        retention: Duration,
        after: Option<&Committed>,
        at_most: usize,
    ) -> Result<Vec<Committed>, Fault> {
        let until = P::Int(Some(after.map_or(0, |row| row.prepare_until)));
        let [tx_id, branch_id] = from(after.map(|row| &row.key));
        let parameters =
            [P::Text(participant), ms(retention), until, tx_id, branch_id, rows(at_most)];
        let found = self.read("list the rows that are committed", COMMITTED, &parameters).await?;
        found.into_iter().map(doubt::committed::<Uuid>).collect()
    }

    async fn unbounded_rows(
        &self,
        participant: &str,
        retention: Duration,
        after: Option<&RowKey>,
        at_most: usize,
    ) -> Result<Vec<Committed>, Fault> {
        let [tx_id, branch_id] = from(after);
        let parameters = [P::Text(participant), ms(retention), tx_id, branch_id, rows(at_most)];
        let found = self.read("list the rows that have no bound", UNBOUNDED, &parameters).await?;
        found.into_iter().map(doubt::committed::<Uuid>).collect()
    }

    async fn change_rows(
        &self,
        participant: &str,
        keys: &[RowKey],
        how: RowChange,
    ) -> Result<u64, Fault> {
        let (tx_ids, branch_ids): (Vec<Uuid>, Vec<String>) = keys.iter().cloned().unzip();
        let parameters = [P::Text(participant), P::Uuids(&tx_ids), P::Texts(&branch_ids)];
        self.change("change barrier rows", change(how), &parameters).await
    }
}

/// Parameters of the key to go on after.
fn from(after: Option<&RowKey>) -> [P<'_>; 2] {
    let (tx_id, branch_id) = position(after);
    [P::Uuid(tx_id), P::Text(branch_id)]
}

fn ms(duration: Duration) -> P<'static> {
    P::Int(Some(millis(duration)))
}

fn rows(at_most: usize) -> P<'static> {
    P::Int(Some(limit(at_most)))
}
