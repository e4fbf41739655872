//! Incarnations on PostgreSQL.

use async_trait::async_trait;
use unanimo_core::Incarnation;

use super::super::incarnations::{HAS_DISPLACED, NOTE_DISPLACED};
use super::super::{Error, IncarnationList, Incarnations, LiveIncarnation};
use super::Postgres;

/// One statement and so one snapshot. With two, a birth between them would show the number from
/// before it beside the new incarnation: whoever read that would fence the new one and then fail to
/// create its own.
const LIST: &str = "
SELECT incarnations, live.incarnation, node, counter
FROM cluster LEFT JOIN (
    SELECT incarnation, node, counter
    FROM fences JOIN heartbeats USING (incarnation) WHERE NOT fenced
) AS live ON true
ORDER BY live.incarnation";

const CREATE: &str = "
WITH birth AS (
    UPDATE cluster SET incarnations = incarnations + 1
    WHERE incarnations = $1 RETURNING incarnations AS incarnation
), fence AS (
    INSERT INTO fences (incarnation, node)
    SELECT incarnation, $2 FROM birth
), heartbeat AS (
    INSERT INTO heartbeats (incarnation) SELECT incarnation FROM birth
)
SELECT incarnation FROM birth";

#[async_trait]
impl Incarnations for Postgres {
    async fn list(&self) -> Result<IncarnationList, Error> {
        type Row = (i64, Option<i64>, Option<String>, Option<i64>);
        let query = sqlx::query_as(LIST);
        let rows: Vec<Row> = self.rows("list the incarnations", query).await?;
        let created = rows.first().map_or(0, |row| row.0);
        let live = rows.into_iter().filter_map(|(_, incarnation, node, counter)| {
            let incarnation = Incarnation(incarnation?);
            Some(LiveIncarnation { incarnation, node: node?, counter: counter? })
        });
        Ok(IncarnationList { created, live: live.collect() })
    }

    async fn fence(&self, incarnation: Incarnation, by: &str) -> Result<(), Error> {
        let by = by.to_owned();
        self.run("fence an incarnation", move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE fences SET fenced = true, fenced_by = $2
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
        let query = sqlx::query_as(CREATE).bind(created).bind(node.to_owned());
        let new: Vec<(i64,)> = self.rows("create an incarnation", query).await?;
        Ok(new.into_iter().next().map(|(incarnation,)| Incarnation(incarnation)))
    }

    async fn renew(&self, me: Incarnation) -> Result<(), Error> {
        let moved = self
            .run_on(&self.heartbeat, "renew the lease", move |connection| {
                Box::pin(async move {
                    // The fence is read without a lock: a renewal never waits for a batch.
                    let done = sqlx::query(
                        "UPDATE heartbeats SET counter = counter + 1 WHERE incarnation = $1
                         AND EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND NOT fenced)",
                    )
                    .bind(me.0)
                    .execute(connection)
                    .await?;
                    Ok(done.rows_affected())
                })
            })
            .await?;
        if moved == 1 { Ok(()) } else { Err(Error::Fenced(me)) }
    }

    async fn note_displaced(&self, incarnation: Incarnation) -> Result<(), Error> {
        self.run("note that a fenced incarnation was alive", move |connection| {
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

    fn is_alone(&self) -> bool {
        false
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
