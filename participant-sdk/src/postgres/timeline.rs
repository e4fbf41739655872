//! History of the server: PostgreSQL numbers it by timelines, and a promoted standby, or a restored backup, begins
//! a new one.

use std::time::{Duration, UNIX_EPOCH};

use uuid::Uuid;

use super::Postgres;
use super::driver::{Driver, Parameter as P};
use super::error::fault;
use super::statements;
use crate::doubt::{Histories, History, RowKey};
use crate::resource::Fault;

/// The first 8 digits of the name of a file of the write-ahead log are its timeline. Unlike what
/// `pg_control_checkpoint` shows they are new at once. After the end of recovery
/// `pg_last_xact_replay_timestamp` stays the time of the last commit that was replayed, by the clock of the
/// former primary, until the server is started again.
const HISTORIES: &str = "
SELECT (SELECT system_identifier FROM pg_control_system()),
    ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint,
    noted.system_id, noted.timeline,
    noted.noted_at > clock_timestamp() - interval '1 minute',
    (extract(epoch FROM noted.noted_at) * 1000)::bigint,
    (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000)::bigint,
    pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint
FROM (SELECT $1::text AS participant) AS asked
LEFT JOIN unanimo_barrier_timeline AS noted USING (participant)";

const NOTE: &str = "
INSERT INTO unanimo_barrier_timeline (participant, system_id, timeline, noted_at)
VALUES ($1, $2, $3, clock_timestamp())
ON CONFLICT (participant) DO UPDATE
SET system_id = excluded.system_id, timeline = excluded.timeline, noted_at = excluded.noted_at";

const ROWS_HERE: &str = "
SELECT tx_id, branch_id FROM unanimo_barrier
JOIN unnest($2::uuid[], $3::text[]) AS k (tx_id, branch_id) USING (tx_id, branch_id)
WHERE participant = $1";

/// System and timeline now, both as they were noted, whether that was a moment ago, and when, the time of the last
/// commit that was replayed, and the place in the log.
type Row = (i64, i64, Option<i64>, Option<i64>, Option<bool>, Option<i64>, Option<i64>, i64);

/// The server's identifier, which a standby shares, and the numbers of the database and of the table there. None
/// of them goes along into a dump.
const PLACE: &str = "
SELECT concat_ws('.', 'pg', (SELECT system_identifier FROM pg_control_system()),
    (SELECT oid FROM pg_database WHERE datname = current_database()), 'unanimo_barrier_id'::regclass::oid)";

impl<D: Driver> Postgres<D> {
    pub(super) async fn read_place(&self) -> Result<String, Fault> {
        let read = statements::one_on(&self.phase_two, PLACE, &[]).await;
        read.map(|(place,)| place).map_err(fault("read where the database is"))
    }

    pub(super) async fn read_histories(&self, participant: &str) -> Result<Histories, Fault> {
        let read = statements::one_on(&self.phase_two, HISTORIES, &[P::Text(participant)]).await;
        let read: Row = read.map_err(fault("read the history of the server"))?;
        let (system, timeline, noted_system, noted_timeline, is_fresh, noted_ms, ..) = read;
        let (.., replayed_ms, written) = read;
        let noted = noted_system.zip(noted_timeline);
        let time = |ms: i64| Some(UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).ok()?));
        Ok(Histories {
            present: History { system, timeline },
            noted: noted.map(|(system, timeline)| History { system, timeline }),
            is_fresh: is_fresh.unwrap_or(false),
            noted_at: noted_ms.and_then(time),
            written,
            replayed_until: replayed_ms.and_then(time),
        })
    }

    pub(super) async fn write_history(
        &self,
        participant: &str,
        History { system, timeline }: History,
    ) -> Result<(), Fault> {
        let note = [P::Text(participant), P::Int(Some(system)), P::Int(Some(timeline))];
        self.change("note the history of the server", NOTE, &note).await.map(drop)
    }

    pub(super) async fn find_rows(
        &self,
        participant: &str,
        keys: &[RowKey],
    ) -> Result<Vec<RowKey>, Fault> {
        let (tx_ids, branch_ids): (Vec<Uuid>, Vec<String>) = keys.iter().cloned().unzip();
        let parameters = [P::Text(participant), P::Uuids(&tx_ids), P::Texts(&branch_ids)];
        let found = statements::all_on(&self.phase_two, ROWS_HERE, &parameters).await;
        found.map_err(fault("look for rows of branches"))
    }
}
