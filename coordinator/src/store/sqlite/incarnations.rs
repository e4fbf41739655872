//! Incarnations on SQLite.

use std::time::Duration;

use async_trait::async_trait;
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::incarnations::{
    FenceRow, HAS_DISPLACED, KnownRow, NOTE_DISPLACED, SELECT_FENCE, SELECT_LAST, lease_to_column,
    rival,
};
use super::super::{Error, IncarnationList, Incarnations, KnownIncarnation, LiveIncarnation};
use super::{Sqlite, log};

#[async_trait]
impl Incarnations for Sqlite {
    async fn list(&self) -> Result<IncarnationList, Error> {
        let (created, live) = self
            .read("list the incarnations", |connection| {
                Box::pin(async move {
                    let created = sqlx::query_scalar("SELECT incarnations FROM cluster")
                        .fetch_one(&mut *connection)
                        .await?;
                    let live: Vec<(i64, String, i64, i64)> = sqlx::query_as(
                        "SELECT incarnation, node, counter, lease_ms
                         FROM fences JOIN heartbeats USING (incarnation)
                         WHERE NOT fences.fenced ORDER BY incarnation",
                    )
                    .fetch_all(connection)
                    .await?;
                    Ok((created, live))
                })
            })
            .await?;
        let live = live.into_iter().map(|(incarnation, node, counter, lease_ms)| {
            LiveIncarnation::from_columns(incarnation, node, counter, lease_ms)
        });
        Ok(IncarnationList { created, live: live.collect() })
    }

    async fn last(&self, most: u32) -> Result<Vec<KnownIncarnation>, Error> {
        let query = sqlx::query_as(SELECT_LAST).bind(i64::from(most));
        let rows: Vec<KnownRow> = self.rows("list the last incarnations", query).await?;
        Ok(rows.into_iter().map(KnownIncarnation::from_row).collect())
    }

    async fn fence(&self, incarnation: Incarnation, by: &str) -> Result<(), Error> {
        self.fence_if(incarnation, None, by).await.map(|_| ())
    }

    async fn fence_silent(
        &self,
        incarnation: Incarnation,
        counter: i64,
        by: &str,
    ) -> Result<bool, Error> {
        self.fence_if(incarnation, Some(counter), by).await
    }

    async fn create(
        &self,
        node: &str,
        created: i64,
        lease: Duration,
    ) -> Result<Option<Incarnation>, Error> {
        let node = node.to_owned();
        let created: Option<(i64, Uuid)> = self
            .write("create an incarnation", None, move |connection| {
                Box::pin(async move {
                    let incarnation: Option<i64> = sqlx::query_scalar(
                        "UPDATE cluster SET incarnations = incarnations + 1
                         WHERE incarnations = $1 RETURNING incarnations",
                    )
                    .bind(created)
                    .fetch_optional(&mut *connection)
                    .await?;
                    let Some(incarnation) = incarnation else {
                        return Ok(None);
                    };
                    // It has nothing open yet.
                    let (mark, until) = super::transactions::marks(connection).await?;
                    let nonce = sqlx::query_scalar(
                        "INSERT INTO fences (incarnation, node, nonce, parks_before, parked_before, parks_from)
                         VALUES ($1, $2, randomblob(16), $3, $3, $4) RETURNING nonce",
                    )
                    .bind(incarnation)
                    .bind(node)
                    .bind(mark)
                    .bind(until)
                    .fetch_one(&mut *connection)
                    .await?;
                    sqlx::query("INSERT INTO heartbeats (incarnation, lease_ms) VALUES ($1, $2)")
                        .bind(incarnation)
                        .bind(lease_to_column(lease))
                        .execute(&mut *connection)
                        .await?;
                    log::write_first_page(connection).await?;
                    Ok(Some((incarnation, nonce)))
                })
            })
            .await?;
        Ok(created.map(|(incarnation, nonce)| {
            self.opened.note_birth();
            self.nonces.insert(Incarnation(incarnation), nonce);
            Incarnation(incarnation)
        }))
    }

    /// Another connection would wait for the same file: one that hangs is waited for by the next try.
    async fn renew(&self, me: Incarnation, patience: Duration) -> Result<(), Error> {
        const DOING: &str = "renew the lease";
        let renewing = self.write_on(&self.heartbeat, DOING, Some(me), move |connection| {
            Box::pin(async move {
                sqlx::query("UPDATE heartbeats SET counter = counter + 1 WHERE incarnation = $1")
                    .bind(me.0)
                    .execute(&mut *connection)
                    .await?;
                log::write_first_page(connection).await
            })
        });
        // It runs in a task of its own, to its end.
        let renewed = tokio::time::timeout(patience, renewing).await;
        renewed.unwrap_or(Err(Error::Late { doing: DOING }))
    }

    async fn note_displaced(&self, incarnation: Incarnation) -> Result<(), Error> {
        let nonce = self.nonces.nonce(incarnation);
        self.write("note that a fenced incarnation was alive", None, move |connection| {
            Box::pin(async move {
                let note = sqlx::query(NOTE_DISPLACED).bind(incarnation.0).bind(nonce);
                note.execute(connection).await?;
                Ok(())
            })
        })
        .await
    }

    async fn has_displaced(&self, live: &LiveIncarnation) -> Result<bool, Error> {
        let query = sqlx::query_as(HAS_DISPLACED).bind(live.incarnation.0).bind(live.node.clone());
        let found: Vec<(bool,)> = self.rows("read whom an incarnation has fenced", query).await?;
        Ok(found.first().is_some_and(|(displaced,)| *displaced))
    }

    /// The lock beside the file keeps other processes out, if it was there before.
    fn is_alone(&self) -> bool {
        self.opened.is_alone
    }

    async fn fenced_by(&self, incarnation: Incarnation) -> Result<Option<String>, Error> {
        let query = sqlx::query_as(SELECT_FENCE).bind(incarnation.0);
        let row: Vec<FenceRow> = self.rows("read who fenced an incarnation", query).await?;
        Ok(rival(self.nonces.find(incarnation), row.into_iter().next()))
    }
}

impl Sqlite {
    /// Fences; with a counter only while the heartbeat's is that. Tells whether it is fenced now. A
    /// renewal comes before all of it or after.
    async fn fence_if(
        &self,
        incarnation: Incarnation,
        counter: Option<i64>,
        by: &str,
    ) -> Result<bool, Error> {
        let (by, own) = (by.to_owned(), self.nonces.find(incarnation));
        self.write("fence an incarnation", None, move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE fences SET fenced = 1, fenced_by = $2
                     WHERE incarnation = $1 AND NOT fenced AND ($4 IS NULL OR nonce = $4)
                         AND ($3 IS NULL OR EXISTS (
                             SELECT 1 FROM heartbeats WHERE incarnation = $1 AND counter = $3))",
                )
                .bind(incarnation.0)
                .bind(by)
                .bind(counter)
                .bind(own)
                .execute(&mut *connection)
                .await?;
                let fenced: Option<bool> =
                    sqlx::query_scalar("SELECT fenced FROM fences WHERE incarnation = $1")
                        .bind(incarnation.0)
                        .fetch_optional(connection)
                        .await?;
                Ok(fenced.unwrap_or(true))
            })
        })
        .await
    }
}
