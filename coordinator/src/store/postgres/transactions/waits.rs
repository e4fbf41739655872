//! Waits of transactions that sleep, on PostgreSQL.

use async_trait::async_trait;
use unanimo_core::{Incarnation, ParticipantName, TxId};
use uuid::Uuid;

use super::super::super::rows::{self, ms_to_column};
use super::super::super::waits::{Asleep, WAITS_COUNT_MAX, Wait, Waits, named};
use super::super::super::{Claimed, Error};
use super::super::Postgres;
use super::{adopt, claims, fenced_or_unknown, last_row, not_aside};

const NOTE: &str = concat!(
    "
WITH ",
    fence!("$2"),
    "
INSERT INTO waits (tx_id, participant, due_ms)
SELECT DISTINCT ON (tx_id, participant) tx_id, participant, due_ms
FROM UNNEST($3::uuid[], $4::text[], $5::bigint[]) AS new (tx_id, participant, due_ms)
WHERE EXISTS (SELECT 1 FROM fence)
ON CONFLICT (tx_id, participant) DO UPDATE SET due_ms = excluded.due_ms"
);

const FORGET: &str = concat!(
    "
WITH ",
    fence!("$2"),
    "
DELETE FROM waits WHERE tx_id = ANY($3) AND EXISTS (SELECT 1 FROM fence)
    AND NOT EXISTS (
        SELECT 1 FROM parked WHERE parked.tx_id = waits.tx_id AND parked.wake_ms IS NOT NULL)"
);

/// Steps from name to name in the index.
const NAMES: &str = "
WITH RECURSIVE names AS (
    SELECT min(participant) AS participant FROM waits
    UNION ALL
    SELECT (SELECT min(participant) FROM waits WHERE participant > names.participant) FROM names
    WHERE names.participant IS NOT NULL
)
SELECT participant FROM names WHERE participant IS NOT NULL";

const COUNT: &str = "
SELECT count(*) FROM (SELECT 1 FROM waits WHERE participant = $1 LIMIT $2) AS counted";

/// Transactions of others that live are theirs to wake.
macro_rules! of_participant {
    ($condition:literal, $order:literal) => {
        concat!(
            "
SELECT waits.tx_id FROM waits JOIN parked ON parked.tx_id = waits.tx_id
WHERE waits.participant = $1 AND ",
            $condition,
            " AND parked.wake_ms IS NOT NULL
    AND (parked.owner = $4 OR parked.owner = ",
            fenced_or_unknown!(),
            ") AND ",
            not_aside!("waits.tx_id"),
            "
ORDER BY ",
            $order,
            " LIMIT $3"
        )
    };
}

const OF: &str = of_participant!("waits.tx_id > $2", "waits.tx_id");

const DUE_OF: &str = of_participant!("waits.due_ms <= $2", "waits.due_ms");

/// Transactions that are awake by now are in memory, or about to be there.
pub(super) const WAKE: &str = concat!(
    "
WITH ",
    fence!("$2"),
    ", free AS MATERIALIZED (
    SELECT parked.tx_id, last.* FROM parked
    CROSS JOIN LATERAL ",
    last_row!("parked.tx_id"),
    " AS last
    WHERE parked.tx_id = ANY($3) AND parked.wake_ms IS NOT NULL AND EXISTS (SELECT 1 FROM fence)
        AND (last.owner = $1 OR last.owner = ANY(ARRAY(SELECT incarnation FROM fences WHERE fenced)))
        AND last.kind & 15 < 5 AND last.kind & 16 <> 0
    FOR UPDATE OF parked SKIP LOCKED",
    adopt!()
);

#[async_trait]
impl Waits for Postgres {
    async fn note(&self, me: Incarnation, waits: Vec<Wait>) -> Result<(), Error> {
        let nonce = self.nonces.nonce(me);
        let ids: Vec<Uuid> = waits.iter().map(|wait| wait.tx_id.0).collect();
        let names: Vec<String> = waits.iter().map(|wait| wait.participant.to_string()).collect();
        let due: Vec<i64> = waits.iter().map(|wait| ms_to_column(wait.due_at)).collect();
        self.run("note what is waited for", move |connection| {
            Box::pin(async move {
                let note = sqlx::query(NOTE).bind(me.0).bind(nonce).bind(ids).bind(names).bind(due);
                note.execute(connection).await.map(drop)
            })
        })
        .await
    }

    async fn forget(&self, me: Incarnation, tx_ids: Vec<TxId>) -> Result<(), Error> {
        let nonce = self.nonces.nonce(me);
        let ids: Vec<Uuid> = tx_ids.into_iter().map(|tx_id| tx_id.0).collect();
        self.run("forget what is waited for no longer", move |connection| {
            Box::pin(async move {
                let forget = sqlx::query(FORGET).bind(me.0).bind(nonce).bind(ids);
                forget.execute(connection).await.map(drop)
            })
        })
        .await
    }

    async fn names(&self) -> Result<Vec<ParticipantName>, Error> {
        Ok(named(self.rows("list who is waited for", sqlx::query_as(NAMES)).await?))
    }

    async fn count(&self, participant: &ParticipantName) -> Result<usize, Error> {
        let query = sqlx::query_as(COUNT).bind(participant.to_string()).bind(WAITS_COUNT_MAX);
        let (count,): (i64,) = self.row("count what waits for a participant", query).await?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    async fn of(
        &self,
        me: Incarnation,
        participant: &ParticipantName,
        asleep: Asleep,
        limit: u32,
    ) -> Result<Vec<TxId>, Error> {
        let name = participant.to_string();
        let query = match asleep {
            Asleep::After(after) => {
                let after = after.map_or(Uuid::nil(), |tx_id| tx_id.0);
                sqlx::query_as(OF).bind(name).bind(after)
            }
            Asleep::Due(due_at) => sqlx::query_as(DUE_OF).bind(name).bind(ms_to_column(due_at)),
        };
        let query = query.bind(i64::from(limit)).bind(me.0);
        let rows: Vec<(Uuid,)> = self.rows("list what waits for a participant", query).await?;
        Ok(rows.into_iter().map(|(tx_id,)| TxId(tx_id)).collect())
    }

    async fn wake(&self, me: Incarnation, tx_ids: Vec<TxId>) -> Result<Claimed, Error> {
        let nonce = self.nonces.nonce(me);
        let ids: Vec<Uuid> = tx_ids.into_iter().map(|tx_id| tx_id.0).collect();
        let woken = self.run("wake transactions", move |connection| {
            Box::pin(async move { claims::wake(connection, (me, nonce), ids).await })
        });
        Ok(rows::claimed(woken.await?))
    }
}
