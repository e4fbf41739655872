//! The audit on SQLite.

use async_trait::async_trait;
use unanimo_core::Incarnation;

use super::super::audit::{column, link, row};
use super::super::{Audit, AuditEnds, AuditLink, AuditRange, AuditRow, Error, rows};
use super::Sqlite;

const ENDS: &str = "SELECT purged_number, purged_hash, last_number, last_hash FROM audit_chain WHERE singleton = 1";

const CHAIN: &str = "
UPDATE audit_chain
SET last_number = $3, last_hash = $4,
    purged_number = coalesce($5, purged_number), purged_hash = coalesce($6, purged_hash)
WHERE last_number = $1 AND last_hash = $2 AND ($5 IS NULL OR $5 > purged_number)";

const AFTER: &str =
    "SELECT number, at_ms, body, hash FROM audit WHERE number > $1 ORDER BY number LIMIT $2";

const BEFORE: &str =
    "SELECT number, at_ms, body, hash FROM audit WHERE number < $1 ORDER BY number DESC LIMIT $2";

#[async_trait]
impl Audit for Sqlite {
    async fn ends(&self) -> Result<AuditEnds, Error> {
        let (purged, purged_hash, last, last_hash) =
            self.row("read the ends of the audit", sqlx::query_as(ENDS)).await?;
        Ok(AuditEnds { purged: link(purged, purged_hash), last: link(last, last_hash) })
    }

    async fn append(
        &self,
        me: Incarnation,
        follows: AuditLink,
        entries: Vec<AuditRow>,
        purged: Option<AuditLink>,
    ) -> Result<bool, Error> {
        self.write("write the audit", Some(me), move |connection| {
            Box::pin(async move {
                let last = entries.last().map_or_else(|| follows.clone(), |row| row.link.clone());
                let (purged, purged_hash) =
                    purged.map(|purged| (column(purged.number), purged.hash)).unzip();
                let chain = sqlx::query(CHAIN)
                    .bind(column(follows.number))
                    .bind(follows.hash)
                    .bind(column(last.number))
                    .bind(last.hash)
                    .bind(purged)
                    .bind(purged_hash);
                if chain.execute(&mut *connection).await?.rows_affected() == 0 {
                    return Ok(false);
                }
                if let Some(purged) = purged {
                    let gone = sqlx::query("DELETE FROM audit WHERE number <= $1").bind(purged);
                    gone.execute(&mut *connection).await?;
                }
                for AuditRow { link, at, body } in entries {
                    sqlx::query(
                        "INSERT INTO audit (number, at_ms, body, hash) VALUES ($1, $2, $3, $4)",
                    )
                    .bind(column(link.number))
                    .bind(rows::ms_to_column(at))
                    .bind(body)
                    .bind(link.hash)
                    .execute(&mut *connection)
                    .await?;
                }
                Ok(true)
            })
        })
        .await
    }

    async fn page(&self, range: AuditRange, limit: u32) -> Result<Vec<AuditRow>, Error> {
        let (statement, number) = match range {
            AuditRange::After(number) => (AFTER, number),
            AuditRange::Before(number) => (BEFORE, number),
        };
        let query = sqlx::query_as(statement).bind(column(number)).bind(i64::from(limit));
        Ok(self.rows("read the audit", query).await?.into_iter().map(row).collect())
    }
}
