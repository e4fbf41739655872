//! Open transactions that stay so. The rule that adoption relies on is explained beside the same statements for
//! PostgreSQL.

use std::sync::Arc;

use sqlx::sqlite::SqliteConnection;
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::Error;
use super::super::damage::{Damage, sound};
use super::super::{Sqlite, is_unfenced};
use super::is_last;

/// Rows of the log that are looked at in one transaction of parking: it holds the write lock for some milliseconds.
const CHUNK: i64 = 4_096;

const DOING: &str = "park open transactions";

pub(super) const IS_ANY_YOUNG: &str = "
SELECT EXISTS (
    SELECT 1 FROM log WHERE tx_id >= (SELECT parked_before FROM fences WHERE incarnation = $1))";

const RAISE: &str = "
UPDATE fences SET
    parked_before = CASE WHEN parked_before < parks_from THEN parked_before ELSE max(parked_before, $2) END,
    parks_before = max(parks_before, CASE WHEN parked_before < parks_from THEN min($2, parks_from) ELSE $2 END),
    parks_from = CASE WHEN parked_before < parks_from AND $2 > parks_from THEN parks_from
        ELSE max(parks_from, $3) END
WHERE incarnation = $1 AND parked_before >= parks_before";

const MARKS: &str =
    "SELECT parked_before, parks_before, parks_from FROM fences WHERE incarnation = $1";

pub(super) const PART: &str = "
SELECT coalesce((
    SELECT tx_id FROM log WHERE tx_id > $1 AND tx_id < $2 AND length(tx_id) = 16 ORDER BY tx_id LIMIT 1 OFFSET $3), $2)";

pub(super) const PARK: &str = concat!(
    "
INSERT INTO parked (tx_id, owner)
SELECT tx_id, owner FROM log AS last
WHERE tx_id >= $2 AND tx_id < $3 AND owner = $1 AND kind & 15 < 5 AND ",
    is_last!("last"),
    sound!("last"),
    "
ON CONFLICT DO NOTHING"
);

const SET_PARKED: &str =
    "UPDATE fences SET parked_before = max(parked_before, $2) WHERE incarnation = $1";

const LEFT: &str = "
SELECT incarnation, parked_before, parks_from FROM fences WHERE fenced AND NOT all_parked
ORDER BY incarnation";

const SET_PARKED_OF_FENCED: &str = "
UPDATE fences SET parked_before = max(parked_before, $2), all_parked = all_parked OR $2 >= parks_from
WHERE incarnation = $1 AND fenced";

/// Returns the identifiers before which, and from which on, an incarnation parks what it begins: of some seconds ago,
/// and of a minute from now, by the database's clock.
pub(in crate::store::sqlite) async fn marks(
    connection: &mut SqliteConnection,
) -> Result<(Uuid, Uuid), sqlx::Error> {
    let ms: i64 = sqlx::query_scalar("SELECT CAST(unixepoch('subsec') * 1000 AS integer)")
        .fetch_one(connection)
        .await?;
    let at = |ms: i64| Uuid::from_u128(u128::from(ms.cast_unsigned()) << 80);
    Ok((at(ms - 5_000), at(ms + 60_000)))
}

impl Sqlite {
    /// Parks what an incarnation of this process has open for some seconds, part by part.
    pub(super) async fn park_own(&self, me: Incarnation) -> Result<(), Error> {
        // Where nothing was begun there is nothing to write.
        let (is_any,): (bool,) = self.row(DOING, sqlx::query_as(IS_ANY_YOUNG).bind(me.0)).await?;
        let mut goes_on = is_any;
        while goes_on {
            let (right, opened) = (self.right(me), Arc::clone(&self.opened));
            let parking = self.write(DOING, None, move |connection| {
                Box::pin(async move {
                    if !is_unfenced(connection, right).await? {
                        return Ok(false);
                    }
                    park_some(connection, &opened.damage, me).await
                })
            });
            goes_on = parking.await?;
        }
        Ok(())
    }

    /// Parks what fenced incarnations left open. One of which that fails does not hold up those after it.
    pub(super) async fn park_fenced(&self, me: Incarnation) -> Result<(), Error> {
        let left: Vec<(i64, Uuid, Uuid)> = self.rows(DOING, sqlx::query_as(LEFT)).await?;
        let mut parked = Ok(());
        for (incarnation, from, to) in left {
            parked = parked.and(self.park_all_of(me, incarnation, from, to).await);
        }
        parked
    }

    async fn park_all_of(
        &self,
        me: Incarnation,
        incarnation: i64,
        mut from: Uuid,
        to: Uuid,
    ) -> Result<(), Error> {
        loop {
            let opened = Arc::clone(&self.opened);
            let parking = self.write(DOING, Some(me), move |connection| {
                Box::pin(async move {
                    let until = match from < to {
                        true => {
                            park_part(connection, &opened.damage, incarnation, from, to).await?
                        }
                        false => from,
                    };
                    let set = sqlx::query(SET_PARKED_OF_FENCED).bind(incarnation).bind(until);
                    set.execute(connection).await?;
                    Ok(until)
                })
            });
            from = parking.await?;
            crash_point!("adoption-while-parking");
            if from >= to {
                return Ok(());
            }
        }
    }
}

/// Parks the next part, and tells whether there are more.
async fn park_some(
    connection: &mut SqliteConnection,
    damage: &Damage,
    me: Incarnation,
) -> Result<bool, sqlx::Error> {
    let (before, from) = marks(connection).await?;
    let raise = sqlx::query(RAISE).bind(me.0).bind(before).bind(from);
    raise.execute(&mut *connection).await?;
    let (from, to, end): (Uuid, Uuid, Uuid) =
        sqlx::query_as(MARKS).bind(me.0).fetch_one(&mut *connection).await?;
    if from >= to {
        return Ok(false);
    }
    let until = park_part(connection, damage, me.0, from, to).await?;
    sqlx::query(SET_PARKED).bind(me.0).bind(until).execute(connection).await?;
    // Where that is all that is not parked when it begins, the marks are raised to the present.
    Ok(until < to || to == end)
}

/// Parks what an incarnation has open in a part of a range, and returns where the part ends.
async fn park_part(
    connection: &mut SqliteConnection,
    damage: &Damage,
    incarnation: i64,
    from: Uuid,
    to: Uuid,
) -> Result<Uuid, sqlx::Error> {
    let part = sqlx::query_scalar(PART).bind(from).bind(to).bind(CHUNK);
    let until: Uuid = part.fetch_one(&mut *connection).await?;
    let park = sqlx::query(damage.sparing(PARK)).bind(incarnation).bind(from).bind(until);
    park.execute(connection).await?;
    Ok(until)
}
