//! Incarnations on SQLite.

use async_trait::async_trait;
use unanimo_core::Incarnation;

use super::super::incarnations::{HAS_DISPLACED, NOTE_DISPLACED};
use super::super::{Error, IncarnationList, Incarnations, LiveIncarnation};
use super::Sqlite;

#[async_trait]
impl Incarnations for Sqlite {
    async fn list(&self) -> Result<IncarnationList, Error> {
        let (created, live) = self
            .read("list the incarnations", |connection| {
                Box::pin(async move {
                    let created = sqlx::query_scalar("SELECT incarnations FROM cluster")
                        .fetch_one(&mut *connection)
                        .await?;
                    let live: Vec<(i64, String, i64)> = sqlx::query_as(
                        "SELECT incarnation, node, counter
                         FROM fences JOIN heartbeats USING (incarnation)
                         WHERE NOT fenced ORDER BY incarnation",
                    )
                    .fetch_all(connection)
                    .await?;
                    Ok((created, live))
                })
            })
            .await?;
        let live = live.into_iter().map(|(incarnation, node, counter)| LiveIncarnation {
            incarnation: Incarnation(incarnation),
            node,
            counter,
        });
        Ok(IncarnationList { created, live: live.collect() })
    }

    async fn fence(&self, incarnation: Incarnation, by: &str) -> Result<(), Error> {
        let by = by.to_owned();
        self.write("fence an incarnation", None, move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE fences SET fenced = 1, fenced_by = $2
                     WHERE incarnation = $1 AND NOT fenced",
                )
                .bind(incarnation.0)
                .bind(by)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await
    }

    async fn create(&self, node: &str, created: i64) -> Result<Option<Incarnation>, Error> {
        let node = node.to_owned();
        let incarnation: Option<i64> = self
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
                    sqlx::query("INSERT INTO fences (incarnation, node) VALUES ($1, $2)")
                        .bind(incarnation)
                        .bind(node)
                        .execute(&mut *connection)
                        .await?;
                    sqlx::query("INSERT INTO heartbeats (incarnation) VALUES ($1)")
                        .bind(incarnation)
                        .execute(connection)
                        .await?;
                    Ok(Some(incarnation))
                })
            })
            .await?;
        Ok(incarnation.map(Incarnation))
    }

    async fn renew(&self, me: Incarnation) -> Result<(), Error> {
        self.write("renew the lease", Some(me), move |connection| {
            Box::pin(async move {
                sqlx::query("UPDATE heartbeats SET counter = counter + 1 WHERE incarnation = $1")
                    .bind(me.0)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    async fn note_displaced(&self, incarnation: Incarnation) -> Result<(), Error> {
        self.write("note that a fenced incarnation was alive", None, move |connection| {
            Box::pin(async move {
                sqlx::query(NOTE_DISPLACED).bind(incarnation.0).execute(connection).await?;
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

    /// The lock beside the file keeps other processes out.
    fn is_alone(&self) -> bool {
        true
    }

    async fn fenced_by(&self, incarnation: Incarnation) -> Result<Option<String>, Error> {
        let query = sqlx::query_as(
            "SELECT coalesce(fenced_by, '') FROM fences WHERE incarnation = $1 AND fenced",
        )
        .bind(incarnation.0);
        let by: Vec<(String,)> = self.rows("read who fenced an incarnation", query).await?;
        Ok(by.into_iter().next().map(|(by,)| by))
    }
}
