//! Waits of transactions that sleep, on SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use unanimo_core::{Incarnation, ParticipantName, TxId};
use uuid::Uuid;

use super::super::rows::{self, ms_to_column};
use super::super::waits::{Asleep, WAITS_COUNT_MAX, Wait, Waits, named};
use super::super::{Claimed, Error};
use super::Sqlite;
use super::damage::sound;
use super::transactions::{adopt, is_last};

const NOTE: &str = "
INSERT INTO waits (tx_id, participant, due_ms) VALUES ($1, $2, $3)
ON CONFLICT (tx_id, participant) DO UPDATE SET due_ms = excluded.due_ms";

const FORGET: &str = "
DELETE FROM waits WHERE tx_id = $1 AND NOT EXISTS (
    SELECT 1 FROM parked WHERE parked.tx_id = waits.tx_id AND parked.wake_ms IS NOT NULL)";

const NAMES: &str = "
WITH RECURSIVE names (participant) AS (
    SELECT min(participant) FROM waits
    UNION ALL
    SELECT (SELECT min(participant) FROM waits WHERE participant > names.participant) FROM names
    WHERE names.participant IS NOT NULL
)
SELECT participant FROM names WHERE participant IS NOT NULL";

const COUNT: &str = "SELECT count(*) FROM (SELECT 1 FROM waits WHERE participant = $1 LIMIT $2)";

/// Transactions of others that live are theirs to wake.
macro_rules! of_participant {
    ($condition:literal, $order:literal) => {
        concat!(
            "
SELECT waits.tx_id FROM waits CROSS JOIN parked ON parked.tx_id = waits.tx_id
WHERE waits.participant = $1 AND ",
            $condition,
            " AND parked.wake_ms IS NOT NULL
    AND (parked.owner = $4 OR parked.owner IN (SELECT incarnation FROM fences WHERE fenced))
    AND NOT EXISTS (
        SELECT 1 FROM aside WHERE aside.tx_id = waits.tx_id
            AND aside.incarnation IN (SELECT incarnation FROM fences WHERE NOT fenced))
ORDER BY ",
            $order,
            " LIMIT $3"
        )
    };
}

const OF: &str = of_participant!("waits.tx_id > $2", "waits.tx_id");

const DUE_OF: &str = of_participant!("waits.due_ms <= $2", "waits.due_ms");

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
    async fn note(&self, me: Incarnation, waits: Vec<Wait>) -> Result<(), Error> {
        self.write("note what is waited for", Some(me), move |connection| {
            Box::pin(async move {
                for Wait { tx_id, participant, due_at } in waits {
                    let note = sqlx::query(NOTE).bind(tx_id.0).bind(participant.to_string());
                    note.bind(ms_to_column(due_at)).execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn forget(&self, me: Incarnation, tx_ids: Vec<TxId>) -> Result<(), Error> {
        self.write("forget what is waited for no longer", Some(me), move |connection| {
            Box::pin(async move {
                for tx_id in tx_ids {
                    sqlx::query(FORGET).bind(tx_id.0).execute(&mut *connection).await?;
                }
                Ok(())
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
