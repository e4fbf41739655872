//! Locks on SQLite. Its one writer at a time decides about one request after the other; the rules are
//! explained beside the statements for PostgreSQL.

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use unanimo_core::{Incarnation, TxId};

use super::super::rows::{self, TakenRow, select_log};
use super::super::{Error, LockTake, LockTaken, Locks};
use super::Sqlite;

pub(super) const IS_OPEN: &str = "
SELECT EXISTS (
    SELECT 1 FROM (
        SELECT owner, kind FROM log WHERE tx_id = $2 ORDER BY follows DESC LIMIT 1) AS last
    WHERE owner = $1 AND kind & 15 < 2)";

/// Locks of the wanted names, each with the phase of its transaction.
macro_rules! others {
    ($names:literal) => {
        concat!(
            "others AS MATERIALIZED (
    SELECT locks.*, (
            SELECT kind & 15 FROM log WHERE log.tx_id = locks.tx_id ORDER BY follows DESC LIMIT 1)
        AS phase
    FROM locks WHERE name IN (SELECT key FROM json_each(",
            $names,
            "))
)"
        )
    };
}

pub(super) const OBSTACLE: &str = concat!(
    "
WITH ",
    others!("$2"),
    ", wanted AS MATERIALIZED (
    SELECT new.key AS name, new.value AS exclusive, EXISTS (
            SELECT 1 FROM others AS held
            WHERE held.name = new.key AND held.family = $1 AND held.granted
                AND held.exclusive >= new.value AND held.phase < 5) AS is_held
    FROM json_each($2) AS new
)
SELECT true AS unfenced, true AS open, other.name, other.tx_id AS holder, other.family < $1 AS older,
    NOT other.granted AS waits, CASE WHEN other.family < $1 THEN EXISTS (
        SELECT 1 FROM (
            SELECT name, tx_id, exclusive, granted FROM locks WHERE tx_id = $1
            UNION ALL
            SELECT name, tx_id, exclusive, granted FROM locks WHERE family = $1 AND family <> tx_id
        ) AS held JOIN locks AS waiter USING (name)
        WHERE held.granted AND waiter.family < $1 AND NOT waiter.granted
            AND (held.exclusive OR waiter.exclusive)
            AND (SELECT kind & 15 FROM log WHERE log.tx_id = held.tx_id ORDER BY follows DESC LIMIT 1) < 5
            AND (SELECT kind & 15 FROM log WHERE log.tx_id = waiter.tx_id ORDER BY follows DESC LIMIT 1) < 2
    ) END AS blocks_older
FROM wanted JOIN others AS other USING (name)
WHERE NOT wanted.is_held AND other.family <> $1
    AND (other.exclusive OR wanted.exclusive)
    AND (other.granted OR (other.family < $1 AND other.phase < 2))
    AND other.phase < 5
ORDER BY older DESC, other.granted DESC, other.family, other.name LIMIT 1"
);

const TAKE: &str = "
INSERT INTO locks (name, tx_id, family, exclusive, granted)
SELECT key, $1, $2, value, $3 FROM json_each($4) WHERE true
ON CONFLICT (name, tx_id, exclusive) DO UPDATE SET granted = excluded.granted
    WHERE excluded.granted";

#[async_trait]
impl Locks for Sqlite {
    async fn take(&self, me: Incarnation, take: &LockTake) -> Result<LockTaken, Error> {
        let (tx_id, family) = (take.tx_id, take.family);
        let (names, exclusive) = take.in_order();
        let wanted: std::collections::BTreeMap<_, _> = names.into_iter().zip(exclusive).collect();
        let wanted = serde_json::to_string(&wanted).expect("a map of texts");
        let row = self.write("take locks", Some(me), move |connection| {
            Box::pin(async move { decide(connection, me, tx_id, family, &wanted).await })
        });
        let (row, gid) = row.await?;
        row.into_taken(me, take, gid)
    }
}

async fn decide(
    connection: &mut SqliteConnection,
    me: Incarnation,
    tx_id: TxId,
    family: TxId,
    wanted: &str,
) -> Result<(TakenRow, Option<String>), sqlx::Error> {
    let is_open: bool =
        sqlx::query_scalar(IS_OPEN).bind(me.0).bind(tx_id.0).fetch_one(&mut *connection).await?;
    if !is_open {
        return Ok((TakenRow::NOT_OPEN, None));
    }
    let obstacle: Option<TakenRow> = sqlx::query_as(OBSTACLE)
        .bind(family.0)
        .bind(wanted)
        .fetch_optional(&mut *connection)
        .await?;
    let row = obstacle.unwrap_or(TakenRow::GRANTED);
    sqlx::query(TAKE)
        .bind(tx_id.0)
        .bind(family.0)
        .bind(row.is_granted())
        .bind(wanted)
        .execute(&mut *connection)
        .await?;
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
