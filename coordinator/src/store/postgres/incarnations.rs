//! Incarnations on PostgreSQL.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::FromRow;
use unanimo_core::Incarnation;
use unanimo_migrations::coordinator::POSTGRES as MIGRATIONS;
use uuid::Uuid;

use super::super::incarnations::{
    FenceRow, HAS_DISPLACED, KnownRow, NOTE_DISPLACED, SELECT_FENCE, SELECT_LAST, lease_to_column,
    rival,
};
use super::super::{
    Error, IncarnationList, Incarnations, KnownIncarnation, LiveIncarnation, latest,
};
use super::transactions::identifier_at;
use super::{Postgres, SessionError};

/// One statement and so one snapshot. With two, a birth between them would show the number from
/// before it beside the new incarnation: whoever read that would fence the new one and then fail to
/// create its own.
const LIST: &str = "
SELECT incarnations, live.incarnation, node, counter, lease_ms, cluster_id,
    (SELECT max(version) FROM unanimo_migrations WHERE success)
FROM cluster LEFT JOIN (
    SELECT incarnation, node, counter, lease_ms
    FROM fences JOIN heartbeats USING (incarnation) WHERE NOT fences.fenced
) AS live ON true
ORDER BY live.incarnation";

/// Nobody is created in tables that another version has changed, or that are another group's by now.
/// It has nothing open yet, so all of that before now is parked.
/// A change of them counts a birth, so what this statement sees of them is not older than the
/// number that it compares.
const CREATE: &str = concat!(
    "
WITH birth AS (
    UPDATE cluster SET incarnations = incarnations + 1
    WHERE incarnations = $1 AND cluster_id = $4
        AND (SELECT max(version) FROM unanimo_migrations WHERE success) = $5
    RETURNING incarnations AS incarnation, epoch, epoch_nonce
), fence AS (
    INSERT INTO fences (incarnation, node, nonce, parks_before, parked_before, parks_from, epoch, epoch_nonce)
    SELECT incarnation, $2, gen_random_uuid(), mark, mark, until, epoch, epoch_nonce FROM birth CROSS JOIN (SELECT ",
    identifier_at!("-5"),
    ", ",
    identifier_at!("60"),
    ") AS now (mark, until)
    RETURNING nonce
), heartbeat AS (
    INSERT INTO heartbeats (incarnation, lease_ms) SELECT incarnation, $3 FROM birth
)
SELECT incarnation, nonce FROM birth CROSS JOIN fence"
);

/// The heartbeat's row is changed first: a renewal that comes before it moves the counter, and there is
/// nothing to fence; one that comes after it finds the mark. Both rows or none.
pub(super) const FENCE: &str = "
WITH silent AS (
    UPDATE heartbeats SET fenced = true
    WHERE incarnation = $1 AND NOT fenced AND ($3::int8 IS NULL OR counter = $3)
    RETURNING 1
)
UPDATE fences SET fenced = true, fenced_by = $2
WHERE incarnation = $1 AND NOT fenced AND EXISTS (SELECT 1 FROM silent)";

/// The same for an incarnation of this process, with its nonce.
const FENCE_OWN: &str = "
WITH own AS MATERIALIZED (
    SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $4
), silent AS (
    UPDATE heartbeats SET fenced = true
    WHERE incarnation = $1 AND NOT fenced AND ($3::int8 IS NULL OR counter = $3)
        AND EXISTS (SELECT 1 FROM own)
    RETURNING 1
)
UPDATE fences SET fenced = true, fenced_by = $2
WHERE incarnation = $1 AND nonce = $4 AND NOT fenced AND EXISTS (SELECT 1 FROM silent)";

pub(super) const IS_FENCED: &str = "SELECT fenced FROM fences WHERE incarnation = $1";

#[async_trait]
impl Incarnations for Postgres {
    async fn list(&self) -> Result<IncarnationList, Error> {
        type Row = (i64, Option<i64>, Option<String>, Option<i64>, Option<i64>, String, i64);
        const DOING: &str = "list the incarnations";
        let rows = self.look(DOING, sqlx::query(LIST)).await?;
        let rows = rows.iter().map(Row::from_row).collect::<Result<Vec<Row>, _>>();
        let rows = rows.map_err(Error::database(DOING))?;
        let created = rows.first().map_or(0, |row| row.0);
        let is_opened = |row: &Row| row.5 == self.cluster_id && row.6 == latest(&MIGRATIONS);
        if !rows.iter().all(is_opened) {
            return Err(Error::Changed);
        }
        let live = rows.into_iter().filter_map(|(_, incarnation, node, counter, lease_ms, ..)| {
            Some(LiveIncarnation::from_columns(incarnation?, node?, counter?, lease_ms?))
        });
        Ok(IncarnationList { created, live: live.collect() })
    }

    async fn last(&self, most: u32) -> Result<Vec<KnownIncarnation>, Error> {
        const DOING: &str = "list the last incarnations";
        let rows = self.look(DOING, sqlx::query(SELECT_LAST).bind(i64::from(most))).await?;
        let rows = rows.iter().map(|row| KnownRow::from_row(row).map(KnownIncarnation::from_row));
        rows.collect::<Result<_, _>>().map_err(Error::database(DOING))
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
        let query = sqlx::query_as(CREATE)
            .bind(created)
            .bind(node.to_owned())
            .bind(lease_to_column(lease))
            .bind(self.cluster_id.clone())
            .bind(latest(&MIGRATIONS));
        // Known also if the standbys do not have it in time.
        let known = Arc::new(OnceLock::new());
        let (noted, nonces) = (Arc::clone(&known), self.nonces.clone());
        let created = self.run("create an incarnation", move |connection| {
            Box::pin(async move {
                let new: Option<(i64, Uuid)> = query.fetch_optional(connection).await?;
                let new = new.map(|(incarnation, nonce)| {
                    let new = Incarnation(incarnation);
                    nonces.insert(new, nonce);
                    // It is set once.
                    let _ = noted.set(new);
                    new
                });
                Ok(new)
            })
        });
        created.await.map_err(|error| match (error, known.get()) {
            (Error::Session { source, .. }, Some(incarnation))
                if matches!(*source, SessionError::Unproven) =>
            {
                Error::UnprovenBirth { incarnation: *incarnation, source }
            }
            (error, _) => error,
        })
    }

    async fn renew(&self, me: Incarnation, patience: Duration) -> Result<(), Error> {
        let moved = self.heartbeat.renew(me, self.nonces.nonce(me), patience).await;
        let moved = moved.map_err(|error| super::failed("renew the lease", error))?;
        if moved { Ok(()) } else { Err(Error::Fenced(me)) }
    }

    async fn note_displaced(&self, incarnation: Incarnation) -> Result<(), Error> {
        let nonce = self.nonces.nonce(incarnation);
        self.run("note that a fenced incarnation was alive", move |connection| {
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

    fn is_alone(&self) -> bool {
        false
    }

    async fn fenced_by(&self, incarnation: Incarnation) -> Result<Option<String>, Error> {
        let query = sqlx::query_as(SELECT_FENCE).bind(incarnation.0);
        let row: Vec<FenceRow> = self.rows("read who fenced an incarnation", query).await?;
        Ok(rival(self.nonces.find(incarnation), row.into_iter().next()))
    }
}

impl Postgres {
    /// Fences; with a counter only while the heartbeat's is that. Tells whether it is fenced now.
    async fn fence_if(
        &self,
        incarnation: Incarnation,
        counter: Option<i64>,
        by: &str,
    ) -> Result<bool, Error> {
        let (by, own) = (by.to_owned(), self.nonces.find(incarnation));
        self.run("fence an incarnation", move |connection| {
            Box::pin(async move {
                let statement = if own.is_some() { FENCE_OWN } else { FENCE };
                let mut fence = sqlx::query(statement).bind(incarnation.0).bind(by).bind(counter);
                if let Some(nonce) = own {
                    fence = fence.bind(nonce);
                }
                fence.execute(&mut *connection).await?;
                let fenced: Option<bool> = sqlx::query_scalar(IS_FENCED)
                    .bind(incarnation.0)
                    .fetch_optional(connection)
                    .await?;
                Ok(fenced.unwrap_or(true))
            })
        })
        .await
    }
}
