//! Open transactions that stay so: they are parked, so that whoever adopts them reads no history.
//!
//! A transaction that lives for less than some seconds is nowhere but in the log. Those that are open for longer
//! get a row in `parked`. An incarnation does that for its own now and then, for one range of identifiers after
//! the other; what a fenced one had not come to is done for it, once. The range has two ends, so that it never
//! grows, whatever a clock says and however long nobody comes to parking:
//!
//! ```text
//!            parked_before     parks_before                      parks_from
//!  parked ---------|--- being parked ---|--- in the log alone ---------|--- parked when they begin
//! ```
//!
//! **The rule that adoption relies on**: each open transaction has a row in `parked`, with its owner or one that is
//! fenced, or its identifier is in the range from its owner's `parked_before` to its owner's `parks_from`. It holds
//! because
//!
//! - a batch reads the marks in the fence's row that it has locked, and parks what begins outside the range. A mark is
//!   raised after the batches that have seen the one before: they hold that row;
//! - `parks_before` is raised only once all before it is parked, and `parks_from` with it. So the range is as long as
//!   a minute and some seconds, also where parking fails for hours: then what begins is parked when it begins;
//! - `parked_before` is raised to what was parked by statements that are committed;
//! - each write that changes the owner parks: a claim, and a move that follows another's row, or this one's of an
//!   earlier time;
//! - a row of `parked` goes only with the end, in the same statement or after it.
//!
//! Only `wake_ms` in `parked` says that a transaction sleeps.

use sqlx::postgres::PgConnection;
use unanimo_core::Incarnation;
use uuid::Uuid;

/// Rows of the log that are looked at in one statement of parking: some milliseconds, in which a batch may wait for
/// a row that both park.
const CHUNK: i64 = 4_096;

/// Tries of a statement that meets the fence's row, which a batch holds until it is committed.
const TRIES_MAX: u32 = 3;

/// Time of some identifier, by the database's clock and so many seconds later.
macro_rules! identifier_at {
    ($seconds:literal) => {
        concat!(
            "(lpad(to_hex(((extract(epoch FROM clock_timestamp()) + ",
            $seconds,
            ") * 1000)::int8), 12, '0') || repeat('0', 20))::uuid"
        )
    };
}
pub(in crate::store::postgres) use identifier_at;

/// Raises the marks outside of which batches park what they begin, unless something before the last one is not parked
/// yet. It waits for those that are under way: they hold the fence. Where nothing was begun they stay.
const RAISE: &str = concat!(
    "
UPDATE fences SET parks_before = greatest(parks_before, ",
    identifier_at!("-5"),
    "), parks_from = greatest(parks_from, ",
    identifier_at!("60"),
    ")
WHERE incarnation = $1 AND nonce = $2 AND NOT fenced AND parked_before >= parks_before
    AND EXISTS (SELECT 1 FROM log WHERE tx_id >= parked_before)"
);

const MARKS: &str = "
SELECT parked_before, parks_before FROM fences WHERE incarnation = $1 AND nonce = $2 AND NOT fenced";

/// Parks what an incarnation has open in a part of a range, and tells where the part ends. What was parked with more
/// about it stays as it is.
const PARK: &str = "
WITH part AS MATERIALIZED (
    SELECT coalesce((
        SELECT tx_id FROM log WHERE tx_id > $2 AND tx_id < $3 ORDER BY tx_id OFFSET $4 LIMIT 1), $3) AS until
), parks AS (
    INSERT INTO parked (tx_id, owner)
    SELECT tx_id, owner FROM (
        SELECT DISTINCT ON (tx_id) tx_id, owner, kind FROM log
        WHERE tx_id >= $2 AND tx_id < (SELECT until FROM part) ORDER BY tx_id, follows DESC) AS last
    WHERE owner = $1 AND kind & 15 < 5
    ON CONFLICT DO NOTHING
)
SELECT until FROM part";

/// One that ended while it was parked has its row still.
const UNPARK_ENDED: &str = "
DELETE FROM parked WHERE owner = $1 AND wake_ms IS NULL AND reasons = 0
    AND (SELECT kind & 15 FROM log WHERE log.tx_id = parked.tx_id ORDER BY follows DESC LIMIT 1) >= 5";

const SET_PARKED: &str = "
UPDATE fences SET parked_before = greatest(parked_before, $3)
WHERE incarnation = $1 AND nonce = $2 AND NOT fenced";

/// Parks what an incarnation of this process has open for some seconds. Whatever fails, it is done by the next that
/// succeeds: until then the range is as it was.
pub(super) async fn park_own(
    connection: &mut PgConnection,
    me: Incarnation,
    nonce: Uuid,
) -> Result<(), sqlx::Error> {
    let raise = || sqlx::query(RAISE).bind(me.0).bind(nonce);
    let raised = past_batches(connection, raise).await;
    let marks: Option<(Uuid, Uuid)> =
        sqlx::query_as(MARKS).bind(me.0).bind(nonce).fetch_optional(&mut *connection).await?;
    let Some((mut from, to)) = marks.filter(|(from, to)| from < to) else { return raised };
    let mut parked = raised;
    while from < to {
        match park_part(connection, me.0, from, to).await {
            Ok(until) => from = until,
            Err(error) => {
                parked = parked.and(Err(error));
                break;
            }
        }
    }
    sqlx::query(UNPARK_ENDED).bind(me.0).execute(&mut *connection).await?;
    let set = || sqlx::query(SET_PARKED).bind(me.0).bind(nonce).bind(from);
    parked.and(past_batches(connection, set).await)
}

type Query = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// Runs a statement that waits for batches, which come one after the other.
async fn past_batches(
    connection: &mut PgConnection,
    statement: impl Fn() -> Query,
) -> Result<(), sqlx::Error> {
    let mut tries = 1;
    loop {
        match statement().execute(&mut *connection).await {
            Err(error) if tries < TRIES_MAX && is_lock_timeout(&error) => tries += 1,
            done => return done.map(drop),
        }
    }
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.code().is_some_and(|code| code == "55P03")
}

async fn park_part(
    connection: &mut PgConnection,
    incarnation: i64,
    from: Uuid,
    to: Uuid,
) -> Result<Uuid, sqlx::Error> {
    let park = sqlx::query_scalar(PARK).bind(incarnation).bind(from).bind(to).bind(CHUNK);
    park.fetch_one(connection).await
}

/// Incarnations that were fenced, and may have left something that is not parked.
const LEFT: &str = "
SELECT incarnation, parked_before, parks_from FROM fences WHERE fenced AND NOT all_parked
    AND EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $2 AND NOT fenced)
ORDER BY incarnation";

const SET_PARKED_OF_FENCED: &str = "
UPDATE fences SET parked_before = greatest(parked_before, $2), all_parked = all_parked OR $2 >= parks_from
WHERE incarnation = $1 AND fenced";

/// Parks what fenced incarnations left open. They write nothing any more. One of which that fails does not hold up
/// those after it.
pub(super) async fn park_fenced(
    connection: &mut PgConnection,
    me: Incarnation,
    nonce: Uuid,
) -> Result<(), sqlx::Error> {
    let left: Vec<(i64, Uuid, Uuid)> =
        sqlx::query_as(LEFT).bind(me.0).bind(nonce).fetch_all(&mut *connection).await?;
    let mut parked = Ok(());
    for (incarnation, from, to) in left {
        parked = parked.and(park_all_of(connection, incarnation, from, to).await);
    }
    parked
}

async fn park_all_of(
    connection: &mut PgConnection,
    incarnation: i64,
    mut from: Uuid,
    to: Uuid,
) -> Result<(), sqlx::Error> {
    loop {
        if from < to {
            from = park_part(connection, incarnation, from, to).await?;
            crash_point!("adoption-while-parking");
        }
        let set = sqlx::query(SET_PARKED_OF_FENCED).bind(incarnation).bind(from);
        set.execute(&mut *connection).await?;
        if from >= to {
            return Ok(());
        }
    }
}
