//! Numbers of transactions by phase.

use unanimo_core::Timestamp;
use uuid::Uuid;

use super::super::super::counts::{AWAKE_MAX, Counting, PART_MAX};
use super::super::super::{Error, PhaseCount};
use super::super::Sqlite;
use super::super::damage::sound;
use super::{is_last, young_from, young_until};

pub(super) const AWAKE: &str = concat!(
    "
SELECT kind, count(*) FROM (
    SELECT kind & 15 AS kind FROM (
        SELECT last.tx_id, last.kind FROM parked CROSS JOIN log AS last ON last.tx_id = parked.tx_id
        WHERE parked.wake_ms IS NULL AND ",
    is_last!("last"),
    sound!("last"),
    "
        UNION
        SELECT last.tx_id, last.kind FROM log AS last WHERE last.tx_id >= ",
    young_from!(),
    " AND last.tx_id < ",
    young_until!(),
    " AND ",
    is_last!("last"),
    sound!("last"),
    ")
    WHERE kind & 15 < 5 AND kind & 16 = 0 LIMIT $1)
GROUP BY kind"
);

/// Reads the next names of what may sleep, with the phases of those that do.
pub(super) const ASLEEP: &str = concat!(
    "
SELECT page.tx_id, (
    SELECT last.kind & 15 FROM log AS last
    WHERE last.tx_id = page.tx_id AND last.kind & 15 < 5 AND last.kind & 16 <> 0 AND ",
    is_last!("last"),
    sound!("last"),
    ")
FROM (
    SELECT tx_id FROM parked WHERE tx_id > $1 AND wake_ms IS NOT NULL AND length(tx_id) = 16
    ORDER BY tx_id LIMIT $2) AS page
ORDER BY page.tx_id"
);

/// Each part has the condition of an index.
pub(super) const LAST_END: &str = concat!(
    "
SELECT max(ended_ms) FROM (
    SELECT max(ended_ms) AS ended_ms FROM log WHERE ended_ms IS NOT NULL AND stripped_ms IS NULL",
    sound!("log"),
    "
    UNION ALL
    SELECT max(ended_ms) FROM log WHERE ended_ms IS NOT NULL AND stripped_ms IS NOT NULL",
    sound!("log"),
    ")"
);

pub(super) const ENDED: &str = concat!(
    "
SELECT kind, count(*) FROM (
    SELECT kind & 15 AS kind FROM (
        SELECT tx_id, follows, kind FROM log WHERE ended_ms >= $1 AND ended_ms < $2 AND stripped_ms IS NULL",
    sound!("log"),
    "
        UNION ALL
        SELECT tx_id, follows, kind FROM log WHERE ended_ms >= $1 AND ended_ms < $2 AND stripped_ms IS NOT NULL",
    sound!("log"),
    "
    ) AS last
    WHERE ",
    is_last!("last"),
    " LIMIT $3)
GROUP BY kind"
);

impl Sqlite {
    pub(super) async fn count_once(&self, ended_from: Timestamp) -> Result<Vec<PhaseCount>, Error> {
        const DOING: &str = "count transactions";
        let (mut counting, damage) = (Counting::new(ended_from), &self.opened.damage);
        let awake = sqlx::query_as::<_, (i64, i64)>(damage.sparing(AWAKE)).bind(AWAKE_MAX);
        counting.add_awake(Some(self.rows(DOING, awake).await?));
        while let Some(after) = counting.asleep_after() {
            let page = sqlx::query_as::<_, (Uuid, Option<i64>)>(damage.sparing(ASLEEP));
            let page = self.rows(DOING, page.bind(after).bind(PART_MAX)).await?;
            counting.add_asleep(Some(page));
        }
        let last = sqlx::query_as(damage.sparing(LAST_END));
        let (last,): (Option<i64>,) = self.row(DOING, last).await?;
        counting.last_end(Some(last));
        while let Some(window) = counting.window() {
            let ended = sqlx::query_as::<_, (i64, i64)>(damage.sparing(ENDED));
            let ended = ended.bind(window.0).bind(window.1).bind(PART_MAX);
            counting.add_ended(window, Some(self.rows(DOING, ended).await?));
        }
        Ok(counting.finish())
    }
}
