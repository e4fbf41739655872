//! Waits of transactions that sleep, on SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use unanimo_core::{Incarnation, ParticipantName, TxId};
use uuid::Uuid;

use super::super::rows;
use super::super::waits::{WAITS_COUNT_MAX, Waits, counted};
use super::super::{Claimed, Error};
use super::Sqlite;
use super::damage::sound;
use super::transactions::{adopt, is_last};

const NOTE: &str = "INSERT INTO waits (tx_id, participant) VALUES ($1, $2) ON CONFLICT DO NOTHING";

const ALL: &str = "
WITH RECURSIVE names (participant) AS (
    SELECT min(participant) FROM waits
    UNION ALL
    SELECT (SELECT min(participant) FROM waits WHERE participant > names.participant) FROM names
    WHERE names.participant IS NOT NULL
)
SELECT participant, (
    SELECT count(*) FROM (SELECT 1 FROM waits WHERE waits.participant = names.participant LIMIT $1))
FROM names WHERE participant IS NOT NULL";

const OF: &str = "
SELECT waits.tx_id FROM waits CROSS JOIN parked ON parked.tx_id = waits.tx_id
WHERE waits.participant = $1 AND waits.tx_id > $2 AND parked.wake_ms IS NOT NULL
    AND NOT EXISTS (
        SELECT 1 FROM aside WHERE aside.tx_id = waits.tx_id
            AND aside.incarnation IN (SELECT incarnation FROM fences WHERE NOT fenced))
ORDER BY waits.tx_id LIMIT $3";

/// One that is awake by now is in memory, or about to be there.
pub(super) const ASLEEP: &str = concat!(
    "
SELECT parked.tx_id FROM parked CROSS JOIN log AS last ON last.tx_id = parked.tx_id
WHERE parked.tx_id = $2 AND parked.wake_ms IS NOT NULL
    AND (last.owner = $1 OR last.owner IN (SELECT incarnation FROM fences WHERE fenced))
    AND last.kind & 15 < 5 AND last.kind & 16 <> 0 AND ",
    is_last!("last"),
    sound!("last")
);

#[async_trait]
impl Waits for Sqlite {
    async fn note(
        &self,
        me: Incarnation,
        waits: Vec<(TxId, ParticipantName)>,
    ) -> Result<(), Error> {
        self.write("note what is waited for", Some(me), move |connection| {
            Box::pin(async move {
                for (tx_id, name) in waits {
                    let note = sqlx::query(NOTE).bind(tx_id.0).bind(name.to_string());
                    note.execute(&mut *connection).await?;
                }
                Ok(())
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
        let ids: Vec<Uuid> = tx_ids.into_iter().map(|tx_id| tx_id.0).collect();
        let woken = self.spared(Some(me), || Box::pin(self.wake_once(me, ids.clone())));
        woken.await
    }
}

impl Sqlite {
    async fn wake_once(&self, me: Incarnation, ids: Vec<Uuid>) -> Result<Claimed, Error> {
        let opened = Arc::clone(&self.opened);
        let found = self.write("wake transactions", Some(me), move |connection| {
            Box::pin(async move {
                let mut asleep: Vec<Uuid> = Vec::new();
                for id in ids {
                    let query = sqlx::query_scalar(opened.damage.sparing(ASLEEP));
                    let query = query.bind(me.0).bind(id);
                    asleep.extend::<Option<Uuid>>(query.fetch_optional(&mut *connection).await?);
                }
                adopt(connection, me, &asleep).await
            })
        });
        Ok(rows::claimed(found.await?))
    }
}

/// Forgets whom a transaction waits for.
pub(super) async fn forget(
    connection: &mut SqliteConnection,
    tx_id: Uuid,
) -> Result<(), sqlx::Error> {
    let forget = sqlx::query("DELETE FROM waits WHERE tx_id = $1").bind(tx_id);
    forget.execute(connection).await.map(drop)
}
