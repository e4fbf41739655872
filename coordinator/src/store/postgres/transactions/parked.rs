//! Open transactions that stay so: they are parked, so that whoever adopts them reads no history.
//!
//! A transaction that lives for less than some seconds is nowhere but in the log. Those that are open for longer
//! get a row in `parked`. An incarnation does that for its own now and then, for one range of identifiers after
//! the other; what a fenced one had not come to is done for it, once.

use sqlx::postgres::PgConnection;
use unanimo_core::Incarnation;
use uuid::Uuid;

/// Raises the mark before which batches park what they begin. It waits for those that are under way: they hold
/// the fence. Where nothing was begun it stays.
const RAISE: &str = "
UPDATE fences SET parks_before = greatest(parks_before,
    (lpad(to_hex(((extract(epoch FROM clock_timestamp()) - 5) * 1000)::int8), 12, '0')
        || repeat('0', 20))::uuid)
WHERE incarnation = $1 AND nonce = $2 AND NOT fenced
    AND EXISTS (SELECT 1 FROM log WHERE tx_id >= parked_before)
RETURNING parked_before, parks_before";

/// Parks what an incarnation has open in a range. What was parked with more about it stays as it is.
const PARK: &str = "
INSERT INTO parked (tx_id, owner)
SELECT tx_id, owner FROM (
    SELECT DISTINCT ON (tx_id) tx_id, owner, kind FROM log
    WHERE tx_id >= $2 AND tx_id < $3 ORDER BY tx_id, follows DESC) AS last
WHERE owner = $1 AND kind & 15 < 5
ON CONFLICT DO NOTHING";

/// One that ended while it was parked has its row still.
const UNPARK_ENDED: &str = "
DELETE FROM parked WHERE owner = $1 AND wake_ms IS NULL AND reasons = 0
    AND (SELECT kind & 15 FROM log WHERE log.tx_id = parked.tx_id ORDER BY follows DESC LIMIT 1) >= 5";

const SET_PARKED: &str = "
UPDATE fences SET parked_before = greatest(parked_before, $3)
WHERE incarnation = $1 AND nonce = $2 AND NOT fenced";

/// Parks what an incarnation of this process has open for some seconds.
pub(super) async fn park_own(
    connection: &mut PgConnection,
    me: Incarnation,
    nonce: Uuid,
) -> Result<(), sqlx::Error> {
    let raised: Option<(Uuid, Uuid)> =
        sqlx::query_as(RAISE).bind(me.0).bind(nonce).fetch_optional(&mut *connection).await?;
    let Some((from, to)) = raised else { return Ok(()) };
    sqlx::query(PARK).bind(me.0).bind(from).bind(to).execute(&mut *connection).await?;
    sqlx::query(UNPARK_ENDED).bind(me.0).execute(&mut *connection).await?;
    sqlx::query(SET_PARKED).bind(me.0).bind(nonce).bind(to).execute(connection).await?;
    Ok(())
}

/// Incarnations that were fenced, and may have left something that is not parked.
const LEFT: &str = "
SELECT incarnation, parked_before FROM fences WHERE fenced AND NOT all_parked
    AND EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $2 AND NOT fenced)";

const ALL_PARKED: &str = "UPDATE fences SET all_parked = true WHERE incarnation = $1 AND fenced";

/// Parks what fenced incarnations left open. They write nothing any more.
pub(super) async fn park_fenced(
    connection: &mut PgConnection,
    me: Incarnation,
    nonce: Uuid,
) -> Result<(), sqlx::Error> {
    let left: Vec<(i64, Uuid)> =
        sqlx::query_as(LEFT).bind(me.0).bind(nonce).fetch_all(&mut *connection).await?;
    for (incarnation, from) in left {
        let park = sqlx::query(PARK).bind(incarnation).bind(from).bind(Uuid::max());
        park.execute(&mut *connection).await?;
        sqlx::query(ALL_PARKED).bind(incarnation).execute(&mut *connection).await?;
    }
    Ok(())
}
