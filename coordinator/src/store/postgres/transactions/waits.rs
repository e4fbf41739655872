//! Waits of transactions that sleep, on PostgreSQL.

use async_trait::async_trait;
use unanimo_core::{Incarnation, ParticipantName, TxId};
use uuid::Uuid;

use super::super::super::rows;
use super::super::super::waits::{WAITS_COUNT_MAX, Waits, counted};
use super::super::super::{Claimed, Error};
use super::super::Postgres;
use super::{adopt, claims, last_row, not_aside};

const NOTE: &str = concat!(
    "
WITH ",
    fence!("$2"),
    "
INSERT INTO waits (tx_id, participant)
SELECT tx_id, participant FROM UNNEST($3::uuid[], $4::text[]) AS new (tx_id, participant)
WHERE EXISTS (SELECT 1 FROM fence)
ON CONFLICT DO NOTHING"
);

/// Steps from name to name in the index, and counts some rows of each.
const ALL: &str = "
WITH RECURSIVE names AS (
    SELECT min(participant) AS participant FROM waits
    UNION ALL
    SELECT (SELECT min(participant) FROM waits WHERE participant > names.participant) FROM names
    WHERE names.participant IS NOT NULL
)
SELECT participant, (
    SELECT count(*) FROM (
        SELECT 1 FROM waits WHERE waits.participant = names.participant LIMIT $1) AS counted)
FROM names WHERE participant IS NOT NULL";

const OF: &str = concat!(
    "
SELECT waits.tx_id FROM waits JOIN parked ON parked.tx_id = waits.tx_id
WHERE waits.participant = $1 AND waits.tx_id > $2 AND parked.wake_ms IS NOT NULL AND ",
    not_aside!("waits.tx_id"),
    "
ORDER BY waits.tx_id LIMIT $3"
);

/// Whoever is awake by now is in memory, or about to be there.
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
        AND (last.owner = $1 OR last.owner IN (SELECT incarnation FROM fences WHERE fenced))
        AND last.kind & 15 < 5 AND last.kind & 16 <> 0
    FOR UPDATE OF parked SKIP LOCKED",
    adopt!()
);

#[async_trait]
impl Waits for Postgres {
    async fn note(
        &self,
        me: Incarnation,
        waits: Vec<(TxId, ParticipantName)>,
    ) -> Result<(), Error> {
        let nonce = self.nonces.nonce(me);
        let (ids, names): (Vec<Uuid>, Vec<String>) =
            waits.into_iter().map(|(tx_id, name)| (tx_id.0, name.to_string())).unzip();
        self.run("note what is waited for", move |connection| {
            Box::pin(async move {
                let note = sqlx::query(NOTE).bind(me.0).bind(nonce).bind(ids).bind(names);
                note.execute(connection).await.map(drop)
            })
        })
        .await
    }

    async fn all(&self) -> Result<Vec<(ParticipantName, usize)>, Error> {
        let query = sqlx::query_as(ALL).bind(WAITS_COUNT_MAX);
        Ok(counted(self.rows("list what is waited for", query).await?))
    }

    async fn of(
        &self,
        participant: &ParticipantName,
        after: Option<TxId>,
        limit: u32,
    ) -> Result<Vec<TxId>, Error> {
        let query = sqlx::query_as(OF)
            .bind(participant.to_string())
            .bind(after.map_or(Uuid::nil(), |tx_id| tx_id.0))
            .bind(i64::from(limit));
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
