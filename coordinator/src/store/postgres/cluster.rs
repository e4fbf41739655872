//! Incarnations: their birth, heartbeat and fence, and the adoption of what they leave.

use unanimo_core::{Incarnation, Record, TxId, Version};
use uuid::Uuid;

use super::super::{Claim, Error, Incarnations, LiveIncarnation};
use super::{Postgres, read};

impl Postgres {
    pub(super) async fn read_cluster_id(&self) -> Result<String, Error> {
        self.run("read the cluster's id", |connection| {
            Box::pin(sqlx::query_scalar("SELECT cluster_id FROM cluster").fetch_one(connection))
        })
        .await
    }

    pub(super) async fn read_incarnations(&self) -> Result<Incarnations, Error> {
        // One statement and so one snapshot: with two, a birth between them would show an old
        // number of births beside the newborn, and whoever read it would fence the newborn and
        // then lose its own birth.
        type Row = (i64, Option<i64>, Option<String>, Option<i64>);
        let rows: Vec<Row> = self
            .run("read who is alive", |connection| {
                Box::pin(
                    sqlx::query_as(
                        "SELECT incarnations, living.incarnation, node, counter
                         FROM cluster LEFT JOIN (
                             SELECT incarnation, node, counter
                             FROM fences JOIN heartbeats USING (incarnation) WHERE NOT fenced
                         ) AS living ON true
                         ORDER BY living.incarnation",
                    )
                    .fetch_all(connection),
                )
            })
            .await?;
        let created = rows.first().map_or(0, |row| row.0);
        let live = rows.into_iter().filter_map(|(_, incarnation, node, counter)| {
            Some(LiveIncarnation {
                incarnation: Incarnation(incarnation?),
                node: node?,
                counter: counter?,
            })
        });
        Ok(Incarnations { created, live: live.collect() })
    }

    pub(super) async fn write_fence(&self, of: Incarnation, by: String) -> Result<(), Error> {
        self.run("fence an incarnation", move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE fences SET fenced = true, fenced_by = $2
                     WHERE incarnation = $1 AND NOT fenced",
                )
                .bind(of.0)
                .bind(by)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await
    }

    pub(super) async fn insert_incarnation(
        &self,
        node: String,
        created: i64,
    ) -> Result<Option<Incarnation>, Error> {
        let incarnation: Option<i64> = self
            .run("create an incarnation", move |connection| {
                Box::pin(
                    sqlx::query_scalar(
                        "WITH birth AS (
                             UPDATE cluster SET incarnations = incarnations + 1
                             WHERE incarnations = $1 RETURNING incarnations AS incarnation
                         ), fence AS (
                             INSERT INTO fences (incarnation, node)
                             SELECT incarnation, $2 FROM birth
                         ), heartbeat AS (
                             INSERT INTO heartbeats (incarnation) SELECT incarnation FROM birth
                         )
                         SELECT incarnation FROM birth",
                    )
                    .bind(created)
                    .bind(node)
                    .fetch_optional(connection),
                )
            })
            .await?;
        Ok(incarnation.map(Incarnation))
    }

    pub(super) async fn write_heartbeat(&self, me: Incarnation) -> Result<(), Error> {
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

    pub(super) async fn read_fenced_by(&self, of: Incarnation) -> Result<Option<String>, Error> {
        let by: Option<String> = self
            .run("read who fenced an incarnation", move |connection| {
                Box::pin(async move {
                    let by: Option<Option<String>> = sqlx::query_scalar(
                        "SELECT fenced_by FROM fences WHERE incarnation = $1 AND fenced",
                    )
                    .bind(of.0)
                    .fetch_optional(connection)
                    .await?;
                    Ok(by.map(Option::unwrap_or_default))
                })
            })
            .await?;
        Ok(by)
    }

    pub(super) async fn write_claim(
        &self,
        me: Incarnation,
        claim: Claim,
    ) -> Result<Vec<Record>, Error> {
        let stored = self
            .run("take over transactions", move |connection| {
                Box::pin(async move {
                    let claimed: Vec<Uuid> = match claim {
                        Claim::OfFenced(limit) => {
                            sqlx::query_scalar(CLAIM_OF_FENCED)
                                .bind(me.0)
                                .bind(i64::from(limit))
                                .fetch_all(&mut *connection)
                                .await?
                        }
                        Claim::One(tx_id, owner, version) => {
                            sqlx::query_scalar(CLAIM_ONE)
                                .bind(me.0)
                                .bind(tx_id.0)
                                .bind(owner.0)
                                .bind(version.0)
                                .fetch_all(&mut *connection)
                                .await?
                        }
                    };
                    // These rows are mine now: nobody changes them between the two statements.
                    read::transactions(connection, claimed).await
                })
            })
            .await?;
        let records = read::assemble(stored)?.into_iter().map(|stored| stored.record);
        Ok(records.collect())
    }

    pub(super) async fn read_open_of(
        &self,
        owner: Incarnation,
    ) -> Result<Vec<(TxId, Version)>, Error> {
        let rows: Vec<(Uuid, i64)> = self
            .run("list open transactions", move |connection| {
                Box::pin(
                    sqlx::query_as(
                        "SELECT tx_id, version FROM transactions
                         WHERE ended_ms IS NULL AND owner = $1",
                    )
                    .bind(owner.0)
                    .fetch_all(connection),
                )
            })
            .await?;
        Ok(rows.into_iter().map(|(tx_id, version)| (TxId(tx_id), Version(version))).collect())
    }
}

/// A row that somebody holds is left for the next round.
const CLAIM_OF_FENCED: &str = "
WITH fence AS MATERIALIZED (
    SELECT 1 FROM fences WHERE incarnation = $1 AND NOT fenced FOR SHARE
), free AS MATERIALIZED (
    SELECT tx_id FROM transactions
    WHERE ended_ms IS NULL AND EXISTS (SELECT 1 FROM fence)
        AND owner IN (SELECT incarnation FROM fences WHERE fenced)
    LIMIT $2
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE transactions AS taken
SET owner = $1, version = version + 1, write_id = gen_random_uuid()
FROM free WHERE taken.tx_id = free.tx_id
RETURNING taken.tx_id";

const CLAIM_ONE: &str = "
WITH fence AS MATERIALIZED (
    SELECT 1 FROM fences WHERE incarnation = $1 AND NOT fenced FOR SHARE
)
UPDATE transactions
SET owner = $1, version = version + 1, write_id = gen_random_uuid()
WHERE tx_id = $2 AND owner = $3 AND version = $4 AND EXISTS (SELECT 1 FROM fence)
    AND (owner = $1 OR owner IN (SELECT incarnation FROM fences WHERE fenced))
RETURNING tx_id";
