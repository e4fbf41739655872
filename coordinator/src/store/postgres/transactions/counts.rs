//! Numbers of transactions by phase.

use sqlx::postgres::PgConnection;
use unanimo_core::Timestamp;
use uuid::Uuid;

use super::super::super::PhaseCount;
use super::super::super::counts::{AWAKE_MAX, Counting, PART_MAX};
use super::super::super::error::is_of_data;
use super::last_row;
use super::listed::{young_from, young_until};

/// Counts what is awake. Nobody's rows are of what has ended and needs a person.
const AWAKE: &str = concat!(
    "
SELECT kind, count(*) FROM (
    SELECT kind & 15 AS kind FROM (
        SELECT parked.tx_id, last.kind FROM parked
        CROSS JOIN LATERAL ",
    last_row!("parked.tx_id"),
    " AS last
        WHERE parked.wake_ms IS NULL AND parked.owner >= 0
        UNION
        SELECT * FROM (
            SELECT DISTINCT ON (tx_id) tx_id, kind FROM log
            WHERE tx_id >= ",
    young_from!(),
    " AND tx_id < ",
    young_until!(),
    "
            ORDER BY tx_id DESC, follows DESC) AS young) AS known
    WHERE kind & 15 < 5 AND kind & 16 = 0 LIMIT $1) AS awake
GROUP BY kind"
);

/// Reads the next names of what may sleep, with the phases of those that do.
const ASLEEP: &str = concat!(
    "
SELECT page.tx_id, CASE WHEN last.kind & 15 < 5 AND last.kind & 16 <> 0 THEN last.kind & 15 END
FROM (SELECT tx_id FROM parked WHERE tx_id > $1 AND wake_ms IS NOT NULL ORDER BY tx_id LIMIT $2) AS page
LEFT JOIN LATERAL ",
    last_row!("page.tx_id"),
    " AS last ON true
ORDER BY page.tx_id"
);

/// Each part has the condition of an index.
const LAST_END: &str = "
SELECT max(ended_ms) FROM (
    SELECT max(ended_ms) AS ended_ms FROM log WHERE ended_ms IS NOT NULL AND stripped_ms IS NULL
    UNION ALL
    SELECT max(ended_ms) FROM log WHERE ended_ms IS NOT NULL AND stripped_ms IS NOT NULL) AS ends";

const ENDED: &str = concat!(
    "
SELECT kind, count(*) FROM (
    SELECT kind & 15 AS kind FROM (
        SELECT tx_id, version, kind FROM log WHERE ended_ms >= $1 AND ended_ms < $2 AND stripped_ms IS NULL
        UNION ALL
        SELECT tx_id, version, kind FROM log WHERE ended_ms >= $1 AND ended_ms < $2 AND stripped_ms IS NOT NULL
    ) AS entry
    WHERE (SELECT version FROM ",
    last_row!("entry.tx_id"),
    " AS last) = entry.version LIMIT $3) AS ended
GROUP BY kind"
);

type Numbers = Vec<(i32, i64)>;

/// Counts, of what has ended since then and of what has not. What the server cannot read is not counted.
pub(super) async fn count(
    connection: &mut PgConnection,
    ended_from: Timestamp,
) -> Result<Vec<PhaseCount>, sqlx::Error> {
    let mut counting = Counting::new(ended_from);
    let awake = sqlx::query_as(AWAKE).bind(AWAKE_MAX).fetch_all(&mut *connection).await;
    counting.add_awake::<i32>(readable(awake)?);
    while let Some(after) = counting.asleep_after() {
        let page = sqlx::query_as(ASLEEP).bind(after).bind(PART_MAX);
        let page = page.fetch_all(&mut *connection).await;
        counting.add_asleep::<i32>(readable::<(Uuid, Option<i32>)>(page)?);
    }
    let last = sqlx::query_scalar::<_, Option<i64>>(LAST_END).fetch_all(&mut *connection).await;
    counting.last_end(readable(last)?.map(|last| last.into_iter().flatten().next()));
    while let Some(window) = counting.window() {
        let ended = sqlx::query_as(ENDED).bind(window.0).bind(window.1).bind(PART_MAX);
        let ended: Result<Numbers, _> = ended.fetch_all(&mut *connection).await;
        counting.add_ended(window, readable(ended)?);
    }
    Ok(counting.finish())
}

/// Returns rows; nothing where the server gives up on one.
fn readable<T>(rows: Result<Vec<T>, sqlx::Error>) -> Result<Option<Vec<T>>, sqlx::Error> {
    match rows {
        Err(error) if is_of_data(&error) => Ok(None),
        rows => rows.map(Some),
    }
}
