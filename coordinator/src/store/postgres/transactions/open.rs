//! Open transactions of an owner. Where the database gives up on a page of the log's rows, they are looked for in parts:
//! those that can be read are found, and those that cannot are told by name where that is known.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::error::is_of_data;
use super::{SELECT_OPEN, last_row};

/// Parked transactions that are read at once where some cannot be read.
const CHUNK: usize = 256;

/// Shortest range of identifiers: a millisecond.
const RANGE_MIN: u128 = 1 << 80;

/// Ranges of which something cannot be read, after which the search for what is in the log alone ends: a page costs some
/// hundred.
const FAILURES_MAX: u32 = 4_096;

/// Longest time of the search: it is one request to the store, and what was found counts.
const SEARCH_MAX: Duration = Duration::from_secs(5);

const PARKED: &str = "
SELECT tx_id FROM parked WHERE owner = $1 AND wake_ms IS NULL
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = parked.tx_id AND incarnation = $1)
ORDER BY tx_id";

const LAST_OF: &str = concat!(
    "
SELECT new.tx_id, last.version FROM UNNEST($2::uuid[]) AS new (tx_id)
CROSS JOIN LATERAL ",
    last_row!("new.tx_id"),
    " AS last
WHERE last.owner = $1 AND last.kind & 15 < 5"
);

const MARKS: &str = "SELECT parked_before, parks_from FROM fences WHERE incarnation = $1";

const YOUNG: &str = "
SELECT tx_id, version FROM (
    SELECT DISTINCT ON (tx_id) tx_id, version, owner, kind FROM log
    WHERE tx_id >= $2 AND tx_id < $3
    ORDER BY tx_id, follows DESC) AS young
WHERE owner = $1 AND kind & 15 < 5 AND kind & 16 = 0
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = young.tx_id AND incarnation = $1)";

/// Names and versions of open transactions, but for those that sleep or are set aside. One that cannot be read has the
/// version 0, which none has: whoever claims it meets what is wrong with it.
pub(super) async fn of_owner(
    connection: &mut PgConnection,
    owner: Incarnation,
) -> Result<Vec<(Uuid, i64)>, sqlx::Error> {
    match sqlx::query_as(SELECT_OPEN).bind(owner.0).fetch_all(&mut *connection).await {
        Err(error) if is_of_data(&error) => {
            let until = Instant::now() + SEARCH_MAX;
            let mut found = parked(connection, owner, until).await?;
            found.extend(young(connection, owner, until).await?);
            found.sort_unstable();
            // One of both may be parked by now.
            found.dedup_by_key(|(tx_id, _)| *tx_id);
            Ok(found)
        }
        found => found,
    }
}

fn tell_end() {
    tracing::warn!(
        "the search for open transactions meets too much damage, and ends with what it has found"
    );
}

async fn parked(
    connection: &mut PgConnection,
    owner: Incarnation,
    until: Instant,
) -> Result<Vec<(Uuid, i64)>, sqlx::Error> {
    let ids: Vec<Uuid> =
        sqlx::query_scalar(PARKED).bind(owner.0).fetch_all(&mut *connection).await?;
    let (mut found, mut work) = (Vec::new(), ids.chunks(CHUNK).collect::<Vec<_>>());
    while let Some(part) = work.pop() {
        if Instant::now() >= until {
            tell_end();
            break;
        }
        let query = sqlx::query_as::<_, (Uuid, i64)>(LAST_OF).bind(owner.0).bind(part);
        match query.fetch_all(&mut *connection).await {
            Err(error) if is_of_data(&error) && part.len() > 1 => {
                let (first, second) = part.split_at(part.len() / 2);
                work.extend([first, second]);
            }
            Err(error) if is_of_data(&error) => found.push((part[0], 0)),
            rows => found.extend(rows?),
        }
    }
    Ok(found)
}

/// Finds those that are in the log alone. Their names are nowhere else: those of a millisecond are passed over of which
/// something cannot be read.
async fn young(
    connection: &mut PgConnection,
    owner: Incarnation,
    until: Instant,
) -> Result<Vec<(Uuid, i64)>, sqlx::Error> {
    let marks = sqlx::query_as(MARKS).bind(owner.0).fetch_optional(&mut *connection);
    let marks: Option<(Uuid, Uuid)> = marks.await?;
    let mut work: Vec<(u128, u128)> =
        marks.iter().map(|(from, to)| (from.as_u128(), to.as_u128())).collect();
    let (mut found, mut failures) = (Vec::new(), 0_u32);
    while let Some((from, to)) = work.pop() {
        if from >= to {
            continue;
        }
        let query = sqlx::query_as::<_, (Uuid, i64)>(YOUNG).bind(owner.0);
        let query = query.bind(Uuid::from_u128(from)).bind(Uuid::from_u128(to));
        match query.fetch_all(&mut *connection).await {
            Err(error) if is_of_data(&error) => {
                failures += 1;
                if failures >= FAILURES_MAX || Instant::now() >= until {
                    tell_end();
                    break;
                }
                if to - from > RANGE_MIN {
                    let middle = from + (to - from) / 2;
                    work.extend([(from, middle), (middle, to)]);
                }
            }
            rows => found.extend(rows?),
        }
    }
    Ok(found)
}
