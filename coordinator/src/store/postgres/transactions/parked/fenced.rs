//! Parking of what incarnations left open that were fenced before they came to it.

use sqlx::postgres::PgConnection;
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::damage::Damage;
use super::park_what_can_be_read;

/// Incarnations that were fenced, and may have left something that is not parked.
const LEFT: &str = "
SELECT incarnation, parked_before, parks_from FROM fences WHERE fenced AND NOT all_parked
    AND EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $2 AND NOT fenced)
ORDER BY incarnation";

const SET_PARKED_OF_FENCED: &str = concat!(
    "
WITH ",
    fence!("$2"),
    "
UPDATE fences SET parked_before = greatest(parked_before, $4), all_parked = all_parked OR $4 >= parks_from
WHERE incarnation = $3 AND fenced AND EXISTS (SELECT 1 FROM fence)"
);

/// Parks what fenced incarnations left open. They write nothing any more. One of which that fails does not hold up
/// those after it.
pub(in super::super) async fn park_fenced(
    connection: &mut PgConnection,
    damage: &Damage,
    me: Incarnation,
    nonce: Uuid,
) -> Result<(), sqlx::Error> {
    let left: Vec<(i64, Uuid, Uuid)> =
        sqlx::query_as(LEFT).bind(me.0).bind(nonce).fetch_all(&mut *connection).await?;
    let mut parked = Ok(());
    for (incarnation, from, to) in left {
        parked =
            parked.and(park_all_of(connection, damage, (me, nonce), incarnation, from, to).await);
    }
    parked
}

async fn park_all_of(
    connection: &mut PgConnection,
    damage: &Damage,
    right: (Incarnation, Uuid),
    incarnation: i64,
    mut from: Uuid,
    to: Uuid,
) -> Result<(), sqlx::Error> {
    let (me, nonce) = right;
    loop {
        if from < to {
            let part =
                park_what_can_be_read(connection, damage, right, incarnation, from, to).await?;
            let Some(until) = part else { return Ok(()) };
            from = until;
            crash_point!("adoption-while-parking");
        }
        let set = sqlx::query(SET_PARKED_OF_FENCED).bind(me.0).bind(nonce);
        set.bind(incarnation).bind(from).execute(&mut *connection).await?;
        if from >= to {
            return Ok(());
        }
    }
}
