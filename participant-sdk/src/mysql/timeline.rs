//! History of the server. The servers do not number theirs; but each has an id of its own, which says that a
//! replica was promoted, and a note beside the barrier says how far this database had come.

use std::time::{Duration, UNIX_EPOCH};

use sqlx::{AssertSqlSafe, QueryBuilder};

use super::MySql;
use super::error::fault;
use crate::doubt::{Histories, History, RowKey, TxIdColumn};
use crate::resource::Fault;

/// Id of the server; whether it is a node of Galera, or of a group with several primaries, where each session may be on
/// another one; the id that was noted,
/// whether that was a moment ago, and when.
pub(super) const HISTORIES: &str = "
SELECT /*M! CAST(@@server_id AS signed),
        EXISTS (SELECT 1 FROM information_schema.global_variables
                WHERE variable_name = 'WSREP_ON' AND variable_value = 'ON') */
    /*!80000 CAST(CONV(LEFT(REPLACE(@@server_uuid, '-', ''), 15), 16, 10) AS signed),
        EXISTS (SELECT 1 FROM performance_schema.global_variables
                WHERE variable_name = 'group_replication_single_primary_mode' AND variable_value = 'OFF') */,
    noted.system_id, noted.noted_at > SYSDATE(6) - INTERVAL 1 MINUTE,
    TIMESTAMPDIFF(MICROSECOND, '1970-01-01', noted.noted_at) DIV 1000
FROM (SELECT 1 AS one) AS asked LEFT JOIN {table}_timeline AS noted ON noted.participant = ?";

pub(super) const NOTE: &str = "
INSERT INTO {table}_timeline (participant, system_id, noted_at) VALUES (?, ?, SYSDATE(6))
ON DUPLICATE KEY UPDATE system_id = VALUES(system_id), noted_at = VALUES(noted_at)";

/// The keys follow as a list of rows.
pub(super) const ROWS_HERE: &str =
    "SELECT tx_id, branch_id FROM {table} WHERE (tx_id, branch_id) IN ";

type Row = (i64, i64, Option<i64>, Option<i64>, Option<i64>);

impl MySql {
    pub(super) async fn read_histories(
        &self,
        participant: &str,
    ) -> Result<Option<Histories>, Fault> {
        const DOING: &str = "read the history of the server";
        // A proxy sends a transaction that writes to the server that takes writes.
        let mut reading = self.sweeping().await?;
        let read = sqlx::query_as(AssertSqlSafe(self.statements.sweep.histories()))
            .bind(participant)
            .fetch_one(&mut *reading)
            .await;
        let read: Row = read.map_err(fault(DOING))?;
        reading.release();
        let (system, is_one_of_many, noted, is_fresh, noted_ms) = read;
        let time = |ms: i64| Some(UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).ok()?));
        let of = |system| History { system, timeline: 0 };
        Ok((is_one_of_many == 0).then(|| Histories {
            present: of(system),
            noted: noted.map(of),
            is_fresh: is_fresh == Some(1),
            noted_at: noted_ms.and_then(time),
            written: 0,
            replayed_until: None,
        }))
    }

    pub(super) async fn write_history(
        &self,
        participant: &str,
        history: History,
    ) -> Result<(), Fault> {
        const DOING: &str = "note the history of the server";
        let mut noting = self.sweeping().await?;
        let noted = sqlx::query(AssertSqlSafe(self.statements.sweep.note()))
            .bind(participant)
            .bind(history.system)
            .execute(&mut *noting)
            .await;
        noted.map_err(fault(DOING))?;
        noting.commit().await.map_err(fault(DOING))
    }

    pub(super) async fn find_rows(
        &self,
        participant: &str,
        keys: &[RowKey],
    ) -> Result<Vec<RowKey>, Fault> {
        const DOING: &str = "look for rows of branches";
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut statement = QueryBuilder::new(&*self.statements.sweep.rows_here());
        statement.push_tuples(keys, |mut row, (tx_id, branch_id)| {
            row.push_bind(tx_id.to_string()).push_bind(branch_id);
        });
        statement.push(" AND participant = ").push_bind(participant);
        let mut reading = self.sweeping().await?;
        let found = statement.build_query_as().persistent(false).fetch_all(&mut *reading).await;
        let found: Vec<(String, String)> = found.map_err(fault(DOING))?;
        reading.release();
        found.into_iter().map(|(tx_id, branch_id)| Ok((tx_id.read()?, branch_id))).collect()
    }
}
