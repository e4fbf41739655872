//! Locks on PostgreSQL.

use async_trait::async_trait;
use sqlx::Connection;
use sqlx::postgres::{PgConnection, PgDatabaseError};
use unanimo_core::{Incarnation, TxId};
use uuid::Uuid;

use super::super::rows::{self, TakenRow, select_log};
use super::super::{Error, LockTake, LockTaken, Locks};
use super::Postgres;

/// Times that a request is made whose database transaction was ended for the sake of another one: for
/// a deadlock, or for what cannot be put in one order with it. The server has then undone it.
const TRIES_MAX: u32 = 5;

/// Waits until nobody else decides about these names, and keeps others out until the end of the
/// database transaction. The array is in the order that everybody keeps. Two names with one hash wait
/// for each other needlessly, and that is all. The first number tells these locks from those of other
/// programs in the database.
const ONE_AFTER_THE_OTHER: &str = "
SELECT count(*) FROM (
    SELECT pg_advisory_xact_lock(1970170221, hash) FROM UNNEST($1::int4[]) AS ordered (hash)
) AS waited";

/// Decides, and writes the rows. A statement of its own, because its snapshot must be younger than the
/// wait: it sees every row of these names.
///
/// The last row of a transaction tells whether it is decided (its phase is at least that) and who owns it. Who
/// waits counts until it is decided, who holds until it has ended. Whatever the family holds
/// already, in this mode or a stricter one, nobody else can stand in the way of, whoever waits. A grant is
/// rewritten even if nothing changes: one that is only found may not be durable, the answer is. A row that
/// waits already is left as it is: there may be many of them, which come again and again.
///
/// Looks at what the family holds and an older one waits for only for one that is to wait for an older one. Requests
/// for those names may be decided at the same time: whoever waits asks again, and sees them then.
///
/// A batch may end the transaction at the same time and not see the new rows. They count for nothing, and are
/// deleted by whoever asks for these names next, or with the transaction's details.
const TAKE: &str = concat!(
    "
WITH ",
    fence!("$6"),
    ", own AS MATERIALIZED (
    SELECT 1 FROM (
        SELECT owner, kind FROM log WHERE tx_id = $2 ORDER BY follows DESC LIMIT 1) AS last
    WHERE owner = $1 AND kind & 15 < 2 AND EXISTS (SELECT 1 FROM fence)
), others AS MATERIALIZED (
    SELECT locks.*, (SELECT kind & 15 FROM log WHERE log.tx_id = locks.tx_id ORDER BY follows DESC LIMIT 1)
        AS phase
    FROM locks WHERE name = ANY($4)
), wanted AS MATERIALIZED (
    SELECT name, exclusive, EXISTS (
            SELECT 1 FROM others AS held
            WHERE held.name = new.name AND held.family = $3 AND held.granted
                AND held.exclusive >= new.exclusive AND held.phase < 5) AS is_held
    FROM UNNEST($4::text[], $5::bool[]) AS new (name, exclusive)
), obstacle AS MATERIALIZED (
    SELECT other.name, other.tx_id AS holder, other.family < $3 AS older, NOT other.granted AS waits
    FROM wanted JOIN others AS other USING (name)
    WHERE NOT wanted.is_held AND other.family <> $3
        AND (other.exclusive OR wanted.exclusive)
        AND (other.granted OR (other.family < $3 AND other.phase < 2))
        AND other.phase < 5
    ORDER BY older DESC, other.granted DESC, other.family, other.name LIMIT 1
), held AS MATERIALIZED (
    SELECT name, exclusive, (SELECT kind & 15 FROM log WHERE log.tx_id = all_of_it.tx_id ORDER BY follows DESC LIMIT 1)
        AS phase
    FROM (
        SELECT name, tx_id, exclusive, granted FROM locks WHERE tx_id = $3
        UNION ALL
        SELECT name, tx_id, exclusive, granted FROM locks WHERE family = $3 AND family <> tx_id
    ) AS all_of_it
    WHERE granted
), taken AS (
    INSERT INTO locks (name, tx_id, family, exclusive, granted)
    SELECT name, $2, $3, exclusive, NOT EXISTS (SELECT 1 FROM obstacle)
    FROM wanted WHERE EXISTS (SELECT 1 FROM own)
    ON CONFLICT (name, tx_id, exclusive)
    DO UPDATE SET granted = excluded.granted WHERE excluded.granted
), no_longer AS (
    DELETE FROM locks AS old USING others AS ended
    WHERE old.name = ended.name AND old.tx_id = ended.tx_id AND ended.phase >= 5
)
SELECT EXISTS (SELECT 1 FROM fence) AS unfenced, EXISTS (SELECT 1 FROM own) AS open,
    obstacle.name, obstacle.holder, obstacle.older, obstacle.waits, CASE WHEN obstacle.older THEN EXISTS (
        SELECT 1 FROM held JOIN locks AS waiter USING (name)
        WHERE held.phase < 5 AND waiter.family < $3 AND NOT waiter.granted
            AND (held.exclusive OR waiter.exclusive)
            AND (SELECT kind & 15 FROM log WHERE log.tx_id = waiter.tx_id ORDER BY follows DESC LIMIT 1) < 2
    ) END AS blocks_older
FROM (SELECT) AS answer LEFT JOIN obstacle ON true"
);

#[async_trait]
impl Locks for Postgres {
    async fn take(&self, me: Incarnation, take: &LockTake) -> Result<LockTaken, Error> {
        let mut tries = 1;
        loop {
            match self.take_once(me, take).await {
                Err(Error::Database { source, .. }) if tries < TRIES_MAX && was_undone(&source) => {
                    tries += 1;
                }
                taken => return taken,
            }
        }
    }
}

impl Postgres {
    async fn take_once(&self, me: Incarnation, take: &LockTake) -> Result<LockTaken, Error> {
        let (tx_id, family, wanted) = (take.tx_id, take.family, take.in_order());
        let right = (me, self.nonces.nonce(me));
        let taking = self.run("take locks", move |connection| {
            Box::pin(async move { decide(connection, right, tx_id, family, wanted).await })
        });
        let (row, gid) = taking.await?;
        row.into_taken(me, take, gid)
    }
}

/// Runs to its end in a task that nobody cancels, or its connection is closed ([`Postgres::run`]).
async fn decide(
    connection: &mut PgConnection,
    (me, nonce): (Incarnation, Uuid),
    tx_id: TxId,
    family: TxId,
    (names, exclusive): (Vec<String>, Vec<bool>),
) -> Result<(TakenRow, Option<String>), sqlx::Error> {
    let mut hashes: Vec<i32> = names.iter().map(|name| hash(name)).collect();
    hashes.sort_unstable();
    hashes.dedup();
    let mut transaction = connection.begin().await?;
    sqlx::query(ONE_AFTER_THE_OTHER).bind(hashes).execute(&mut *transaction).await?;
    let row: TakenRow = sqlx::query_as(TAKE)
        .bind(me.0)
        .bind(tx_id.0)
        .bind(family.0)
        .bind(names)
        .bind(exclusive)
        .bind(nonce)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    // It is only told: it may have ended, or have gone, meanwhile.
    let gid = match row.holder() {
        Some(holder) => {
            let first = select_log!("WHERE tx_id = $1 ORDER BY follows LIMIT 1");
            let rows = sqlx::query(first).bind(holder).fetch_all(connection).await?;
            rows::read(&rows).first().map(|read| read.gid().to_owned())
        }
        None => None,
    };
    Ok((row, gid))
}

/// FNV-1a: every version of the program must come to the same number.
fn hash(name: &str) -> i32 {
    let hash = name
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.cast_signed()
}

/// Tells whether the server has undone a database transaction that may be made again at once.
fn was_undone(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    let server = error.try_downcast_ref::<PgDatabaseError>();
    server.is_some_and(|server| matches!(server.code(), "40P01" | "40001"))
}
