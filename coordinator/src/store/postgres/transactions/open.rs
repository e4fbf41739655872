//! Open transactions of an owner. Where the database gives up on a page of the log's rows, they are looked for in parts:
//! those that can be read are found, and those that cannot are told by name where that is known.

use std::collections::HashSet;

use sqlx::postgres::PgConnection;
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::error::is_of_data;
use super::super::damage::{Damage, Halves, Parts, ends};
use super::{SELECT_OPEN, last_row, not_aside};

const PARKED: &str = concat!(
    "
SELECT tx_id FROM parked WHERE owner IN ($1, 0) AND wake_ms IS NULL AND ",
    not_aside!("parked.tx_id"),
    "
ORDER BY tx_id"
);

macro_rules! last_of {
    ($more:literal) => {
        concat!(
            "
SELECT new.tx_id, last.version FROM UNNEST($2::uuid[]) AS new (tx_id)
CROSS JOIN LATERAL ",
            last_row!("new.tx_id"),
            " AS last
WHERE last.owner = $1 AND last.kind & 15 < 5",
            $more
        )
    };
}

/// Those of these names that an owner has open, with their versions.
pub(super) const LAST_OF: &str = last_of!("");

/// Those that do not sleep.
const AWAKE_OF: &str = last_of!(" AND last.kind & 16 = 0");

const ASIDE: &str = "
SELECT tx_id FROM aside WHERE incarnation IN (SELECT incarnation FROM fences WHERE NOT fenced)";

const MARKS: &str = "SELECT parked_before, parks_from FROM fences WHERE incarnation = $1";

const YOUNG: &str = "
SELECT tx_id, version FROM (
    SELECT DISTINCT ON (tx_id) tx_id, version, owner, kind FROM log
    WHERE tx_id >= $2 AND tx_id < $3
    ORDER BY tx_id DESC, follows DESC) AS young
WHERE owner = $1 AND kind & 15 < 5 AND kind & 16 = 0
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = young.tx_id AND incarnation = $1)";

/// Names and versions of open transactions, but for those that sleep or are set aside. One that cannot be read has the
/// version 0, which none has: whoever claims it meets what is wrong with it.
pub(super) async fn of_owner(
    connection: &mut PgConnection,
    damage: &Damage,
    owner: Incarnation,
) -> Result<Vec<(Uuid, i64)>, sqlx::Error> {
    match sqlx::query_as(SELECT_OPEN).bind(owner.0).fetch_all(&mut *connection).await {
        Err(error) if is_of_data(&error) => {
            let mut found = parked(connection, owner).await?;
            found.extend(young(connection, damage, owner).await?);
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
) -> Result<Vec<(Uuid, i64)>, sqlx::Error> {
    let ids: Vec<Uuid> =
        sqlx::query_scalar(PARKED).bind(owner.0).fetch_all(&mut *connection).await?;
    by_name(connection, LAST_OF, owner, &ids).await
}

/// Reads those of these that an owner has open, and tells those that cannot be read.
async fn by_name(
    connection: &mut PgConnection,
    statement: &'static str,
    owner: Incarnation,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, i64)>, sqlx::Error> {
    let (mut found, mut halves) = (Vec::new(), Halves::new(ids));
    while let Some(part) = halves.next() {
        let query = sqlx::query_as::<_, (Uuid, i64)>(statement).bind(owner.0).bind(part.clone());
        match query.fetch_all(&mut *connection).await {
            Err(error) if is_of_data(&error) => {
                if halves.failed(part, error).is_err() {
                    tell_end();
                    break;
                }
            }
            rows => found.extend(rows?),
        }
    }
    found.extend(halves.unreadable.iter().map(|(tx_id, _)| (*tx_id, 0)));
    Ok(found)
}

/// Finds those that are in the log alone. The names of those that cannot be read are in `gids`, where nothing tells whether
/// they have ended.
async fn young(
    connection: &mut PgConnection,
    damage: &Damage,
    owner: Incarnation,
) -> Result<Vec<(Uuid, i64)>, sqlx::Error> {
    let marks = sqlx::query_as(MARKS).bind(owner.0).fetch_optional(&mut *connection);
    let marks: Option<(Uuid, Uuid)> = marks.await?;
    let Some((from, to)) = marks else { return Ok(Vec::new()) };
    let (mut parts, mut found) = (Parts::new(from, to), Vec::new());
    while let Some(part) = parts.next() {
        let (first, last) = ends(part);
        let query = sqlx::query_as::<_, (Uuid, i64)>(YOUNG).bind(owner.0).bind(first).bind(last);
        match query.fetch_all(&mut *connection).await {
            Err(error) if is_of_data(&error) => {
                if parts.failed(part, error).is_err() {
                    tell_end();
                    break;
                }
            }
            rows => found.extend(rows?),
        }
    }
    let aside: Vec<Uuid> = sqlx::query_scalar(ASIDE).fetch_all(&mut *connection).await?;
    let aside: HashSet<Uuid> = aside.into_iter().collect();
    let mut names = damage.names(connection, &parts).await?.known;
    names.retain(|name| !aside.contains(name));
    found.extend(by_name(connection, AWAKE_OF, owner, &names).await?);
    Ok(found)
}
