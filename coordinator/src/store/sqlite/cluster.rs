//! Incarnations: their birth, heartbeat and fence, and the adoption of what they leave.

use unanimo_core::{Incarnation, Record, TxId, Version};
use uuid::Uuid;

use super::super::{Claim, Error, Incarnations, LiveIncarnation, rows};
use super::{Sqlite, read};

impl Sqlite {
    pub(super) async fn read_incarnations(&self) -> Result<Incarnations, Error> {
        let (created, live) = self
            .read("read who is alive", |connection| {
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
        Ok(Incarnations { created, live: live.collect() })
    }

    pub(super) async fn write_fence(&self, of: Incarnation, by: String) -> Result<(), Error> {
        self.write("fence an incarnation", None, move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE fences SET fenced = 1, fenced_by = $2
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

    pub(super) async fn write_heartbeat(&self, me: Incarnation) -> Result<(), Error> {
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

    pub(super) async fn read_fenced_by(&self, of: Incarnation) -> Result<Option<String>, Error> {
        let by: Option<Option<String>> = self
            .read("read who fenced an incarnation", move |connection| {
                Box::pin(
                    sqlx::query_scalar(
                        "SELECT fenced_by FROM fences WHERE incarnation = $1 AND fenced",
                    )
                    .bind(of.0)
                    .fetch_optional(connection),
                )
            })
            .await?;
        Ok(by.map(Option::unwrap_or_default))
    }

    pub(super) async fn write_claim(
        &self,
        me: Incarnation,
        claim: Claim,
    ) -> Result<Vec<Record>, Error> {
        let rows = self
            .write("take over transactions", Some(me), move |connection| {
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
                    read::transactions(connection, &claimed).await
                })
            })
            .await?;
        let (transactions, branches, outputs) = rows;
        let stored = rows::assemble(transactions, branches, outputs)?;
        Ok(stored.into_iter().map(|stored| stored.record).collect())
    }

    pub(super) async fn read_open_of(
        &self,
        owner: Incarnation,
    ) -> Result<Vec<(TxId, Version)>, Error> {
        let rows: Vec<(Uuid, i64)> = self
            .read("list open transactions", move |connection| {
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

const CLAIM_OF_FENCED: &str = "
UPDATE transactions
SET owner = $1, version = version + 1, write_id = randomblob(16)
WHERE tx_id IN (
    SELECT tx_id FROM transactions
    WHERE ended_ms IS NULL AND owner IN (SELECT incarnation FROM fences WHERE fenced)
    LIMIT $2)
RETURNING tx_id";

const CLAIM_ONE: &str = "
UPDATE transactions
SET owner = $1, version = version + 1, write_id = randomblob(16)
WHERE tx_id = $2 AND owner = $3 AND version = $4
    AND (owner = $1 OR owner IN (SELECT incarnation FROM fences WHERE fenced))
RETURNING tx_id";
