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
//! **The rule that adoption relies on**: each open transaction has a row in `parked`, with its owner, one that is fenced,
//! or 0 where nobody could read whose it is; or its identifier is in the range from its owner's `parked_before` to its
//! owner's `parks_from`. It holds because
//!
//! - a batch reads the marks in the fence's row that it has locked, and parks what begins outside the range. A mark is
//!   raised after the batches that have seen the one before: they hold that row;
//! - `parks_before` is raised only once all before it is parked, and never past `parks_from`, which is raised with it
//!   and stays where the present is past it. So the range is never longer than two minutes and some seconds, also where
//!   parking fails for hours: what begins meanwhile is parked when it begins;
//! - once all before `parks_from` is parked, nothing is in the log alone: all three marks come to the present at once;
//! - `parked_before` is raised to what was parked by statements that are committed, after the first part, after each second,
//!   and where a run ends or fails: a run that is cut off is gone on with. Beside a damaged page that is so only if all names are known that there
//!   still are. Not after each part: beside a snapshot that somebody holds open the server keeps each version of the fence's
//!   row, and whoever looks at the fences passes over all of them;
//! - each write that changes the owner parks: a claim, and a move that follows another's row, or this one's of an
//!   earlier time;
//! - a row of `parked` goes only with the end, in the same statement or after it.
//!
//! The marks are raised without a wait for the disk or a standby: that wait would hold the row that batches lock. Of a
//! database that lost a mark nothing else is lost: a batch that has read it is committed later in the log of the
//! database, and so is durable only with it; and what it was raised to had been parked earlier in that log.
//!
//! Only `wake_ms` in `parked` says that a transaction sleeps.

mod fenced;

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use unanimo_core::Incarnation;
use uuid::Uuid;

pub(super) use self::fenced::park_fenced;
use super::super::super::error::is_corrupt;
use super::super::damage::{Damage, Parts, ends, in_halves};
use super::open::LAST_OF;

/// Rows of the log that are looked at in one statement of parking: some milliseconds, in which a batch may wait for
/// a row that both park.
const CHUNK: i64 = 4_096;

/// Parked transactions that are looked at in one statement, where some cannot be read.
const UNPARK_CHUNK: usize = 256;

/// Owner of what is parked and cannot be read. Incarnations begin at 1.
const UNKNOWN: i64 = 0;

/// Time of parking after which its progress is noted again.
const NOTE_PAUSE: Duration = Duration::from_secs(1);

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

/// Ends the wait of this one transaction for its commit: the setting is the session's again with its end.
macro_rules! commits_unsynced {
    () => {
        "set_config('synchronous_commit', 'off', true)"
    };
}

/// Raises the marks outside of which batches park what they begin, unless something before the last one is not parked
/// yet. It waits for those that are under way: they hold the fence. Where nothing was begun they stay.
macro_rules! raise {
    ($begun:literal) => {
        concat!(
            "
WITH now AS MATERIALIZED (
    SELECT ",
            commits_unsynced!(),
            ", ",
            identifier_at!("-5"),
            " AS mark, ",
            identifier_at!("60"),
            " AS until
)
UPDATE fences SET
    parked_before = CASE WHEN parked_before < parks_from THEN parked_before ELSE greatest(parked_before, mark) END,
    parks_before = greatest(parks_before,
        CASE WHEN parked_before < parks_from THEN least(mark, parks_from) ELSE mark END),
    parks_from = CASE WHEN parked_before < parks_from AND mark > parks_from THEN parks_from
        ELSE greatest(parks_from, until) END
FROM now
WHERE incarnation = $1 AND nonce = $2 AND NOT fenced AND parked_before >= parks_before
    AND ",
            $begun
        )
    };
}

const RAISE: &str = raise!("EXISTS (SELECT 1 FROM log WHERE tx_id >= parked_before)");

/// Raises them where nobody can read whether anything was begun.
const RAISE_UNREAD: &str = raise!("true");

const MARKS: &str = "
SELECT parked_before, parks_before, parks_from FROM fences
WHERE incarnation = $1 AND nonce = $2 AND NOT fenced";

/// Parks what an incarnation has open in a part of a range, and tells where the part ends. What was parked with more
/// about it stays as it is, but for an owner that was not known. No other row of `parked` is locked.
const PARK: &str = concat!(
    "
WITH ",
    fence!("$2"),
    ", part AS MATERIALIZED (
    SELECT coalesce((
        SELECT tx_id FROM log WHERE tx_id > $4 AND tx_id < $5 ORDER BY tx_id OFFSET $6 LIMIT 1), $5) AS until
), open AS MATERIALIZED (
    SELECT tx_id, owner FROM (
        SELECT DISTINCT ON (tx_id) tx_id, owner, kind FROM log
        WHERE tx_id >= $4 AND tx_id < (SELECT until FROM part) ORDER BY tx_id DESC, follows DESC) AS last
    WHERE owner = $3 AND kind & 15 < 5 AND EXISTS (SELECT 1 FROM fence)
), parks AS (
    INSERT INTO parked (tx_id, owner) SELECT tx_id, owner FROM open ORDER BY tx_id
    ON CONFLICT DO NOTHING
), known AS (
    UPDATE parked SET owner = open.owner FROM open
    WHERE parked.tx_id = open.tx_id AND parked.owner = 0 AND parked.wake_ms IS NULL
)
SELECT until FROM part WHERE EXISTS (SELECT 1 FROM fence)"
);

/// Parks what is open, and what may be, with the owner 0: whoever claims it finds out.
const PARK_BY_NAME: &str = concat!(
    "
WITH ",
    fence!("$2"),
    "
INSERT INTO parked (tx_id, owner)
SELECT tx_id, owner FROM UNNEST($3::uuid[], $4::int8[]) AS new (tx_id, owner) WHERE EXISTS (SELECT 1 FROM fence)
ON CONFLICT DO NOTHING"
);

/// One that ended while it was parked has its row still. What somebody holds is left for the next run.
const UNPARK_ENDED: &str = concat!(
    "
WITH ",
    fence!("$2"),
    ", ended AS MATERIALIZED (
    SELECT tx_id FROM parked WHERE owner IN ($1, 0) AND wake_ms IS NULL AND reasons = 0 AND EXISTS (SELECT 1 FROM fence)
        AND ($3::uuid[] IS NULL OR tx_id = ANY($3))
        AND (SELECT kind & 15 FROM log WHERE log.tx_id = parked.tx_id ORDER BY follows DESC LIMIT 1) >= 5
    FOR UPDATE SKIP LOCKED
)
DELETE FROM parked USING ended WHERE parked.tx_id = ended.tx_id
RETURNING parked.tx_id"
);

const AWAKE_OF: &str = "
SELECT tx_id FROM parked WHERE owner IN ($1, 0) AND wake_ms IS NULL AND reasons = 0 ORDER BY tx_id";

const SET_PARKED: &str = concat!(
    "
WITH unsynced AS MATERIALIZED (SELECT ",
    commits_unsynced!(),
    ")
UPDATE fences SET parked_before = greatest(parked_before, $3) FROM unsynced
WHERE incarnation = $1 AND nonce = $2 AND NOT fenced"
);

/// Parks what an incarnation of this process has open for some seconds. Whatever fails, it is done by the next that
/// succeeds, which goes on where this one was.
pub(super) async fn park_own(
    connection: &mut PgConnection,
    damage: &Damage,
    me: Incarnation,
    nonce: Uuid,
) -> Result<(), sqlx::Error> {
    let mut parked = park_to_mark(connection, damage, me, nonce).await;
    if let Ok(true) = parked {
        parked = park_to_mark(connection, damage, me, nonce).await;
    }
    let unparked = unpark_ended(connection, me, nonce).await;
    parked.and(unparked)
}

async fn unpark_ended(
    connection: &mut PgConnection,
    me: Incarnation,
    nonce: Uuid,
) -> Result<(), sqlx::Error> {
    let unpark = |ids: Option<Vec<Uuid>>| {
        sqlx::query_as::<_, (Uuid,)>(UNPARK_ENDED).bind(me.0).bind(nonce).bind(ids)
    };
    match unpark(None).fetch_all(&mut *connection).await {
        Err(error) if is_corrupt(&error) => {}
        unparked => return unparked.map(drop),
    }
    let names = sqlx::query_scalar(AWAKE_OF).bind(me.0);
    let names: Vec<Uuid> = names.fetch_all(&mut *connection).await?;
    for part in names.chunks(UNPARK_CHUNK) {
        let unparked = in_halves(connection, part, |ids| unpark(Some(ids.to_vec()))).await?;
        if let Some(error) = unparked.cut {
            return Err(error);
        }
    }
    Ok(())
}

/// Raises the marks, and parks what is before them. Tells whether that is all that is not parked when it begins: then
/// the marks can be raised to the present.
async fn park_to_mark(
    connection: &mut PgConnection,
    damage: &Damage,
    me: Incarnation,
    nonce: Uuid,
) -> Result<bool, sqlx::Error> {
    let raise = |statement: &'static str| move || sqlx::query(statement).bind(me.0).bind(nonce);
    let mut raised = past_batches(connection, raise(RAISE)).await;
    if raised.as_ref().is_err_and(is_corrupt) {
        raised = past_batches(connection, raise(RAISE_UNREAD)).await;
    }
    let marks: Option<(Uuid, Uuid, Uuid)> =
        sqlx::query_as(MARKS).bind(me.0).bind(nonce).fetch_optional(&mut *connection).await?;
    let Some((mut from, to, end)) = marks.filter(|(from, to, _)| from < to) else {
        return raised.map(|()| false);
    };
    let (mut noted, mut noted_at) = (from, None::<Instant>);
    let parked = loop {
        if from >= to {
            break raised.map(|()| to == end);
        }
        match park_what_can_be_read(connection, damage, (me, nonce), me.0, from, to).await {
            Ok(Some(until)) => from = until,
            Ok(None) => return Ok(false),
            Err(error) => break Err(error),
        }
        if from < to && noted_at.is_none_or(|at| at.elapsed() >= NOTE_PAUSE) {
            note(connection, (me, nonce), from).await?;
            (noted, noted_at) = (from, Some(Instant::now()));
        }
    };
    if from > noted {
        // The error by which it ends comes first.
        let noted = note(connection, (me, nonce), from).await;
        return parked.and_then(|parked| noted.map(|()| parked));
    }
    parked
}

/// Notes what is parked.
async fn note(
    connection: &mut PgConnection,
    (me, nonce): (Incarnation, Uuid),
    from: Uuid,
) -> Result<(), sqlx::Error> {
    past_batches(connection, || sqlx::query(SET_PARKED).bind(me.0).bind(nonce).bind(from)).await
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

/// Tells whether a statement has waited for a lock for as long as it may.
pub(in crate::store::postgres) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.code().is_some_and(|code| code == "55P03")
}

/// Parks a part, and returns where it ends; `None` if whoever parks is fenced.
async fn park_part(
    connection: &mut PgConnection,
    (me, nonce): (Incarnation, Uuid),
    owner: i64,
    from: Uuid,
    to: Uuid,
) -> Result<Option<Uuid>, sqlx::Error> {
    let park = sqlx::query_scalar(PARK).bind(me.0).bind(nonce).bind(owner);
    park.bind(from).bind(to).bind(CHUNK).fetch_optional(connection).await
}

/// Parks a part, also where something of it cannot be read: what is on other pages and was begun in the same
/// milliseconds is read by its name, and the rest is parked by it. Returns where the part ends; `None` if whoever parks is
/// fenced.
async fn park_what_can_be_read(
    connection: &mut PgConnection,
    damage: &Damage,
    right: (Incarnation, Uuid),
    owner: i64,
    from: Uuid,
    to: Uuid,
) -> Result<Option<Uuid>, sqlx::Error> {
    match park_part(connection, right, owner, from, to).await {
        Err(error) if is_corrupt(&error) => {}
        parked => return parked,
    }
    let mut parts = Parts::new(from, to);
    while let Some(part) = parts.next() {
        let (mut first, last) = ends(part);
        while first < last {
            match park_part(connection, right, owner, first, last).await {
                Err(error) if is_corrupt(&error) => {
                    parts.failed((first.as_u128(), last.as_u128()), error)?;
                    break;
                }
                parked => match parked? {
                    Some(until) => first = until,
                    None => return Ok(None),
                },
            }
        }
    }
    let names = damage.names(connection, &parts).await?;
    park_by_name(connection, right, owner, &names.known).await?;
    match parts.error {
        // Somebody may be open of whom nobody has heard.
        Some(error) if names.are_some => Err(error),
        _ => Ok(Some(to)),
    }
}

/// Parks those of these that an owner has open, and those that cannot be read, whose owner is not known.
async fn park_by_name(
    connection: &mut PgConnection,
    (me, nonce): (Incarnation, Uuid),
    owner: i64,
    names: &[Uuid],
) -> Result<(), sqlx::Error> {
    let last_of =
        |ids: &[Uuid]| sqlx::query_as::<_, (Uuid, i64)>(LAST_OF).bind(owner).bind(ids.to_vec());
    let read = in_halves(connection, names, last_of).await?;
    if let Some(error) = read.cut {
        return Err(error);
    }
    let unread = read.failed.into_iter().map(|(tx_id, _)| (tx_id, UNKNOWN));
    let (ids, owners): (Vec<Uuid>, Vec<i64>) =
        read.done.into_iter().map(|(tx_id, _)| (tx_id, owner)).chain(unread).unzip();
    let park = sqlx::query(PARK_BY_NAME).bind(me.0).bind(nonce).bind(ids).bind(owners);
    park.execute(connection).await.map(drop)
}
