//! The audit on PostgreSQL.

use async_trait::async_trait;
use unanimo_core::Incarnation;

use super::super::audit::{column, link, row};
use super::super::{Audit, AuditEnds, AuditLink, AuditRange, AuditRow, Error, rows};
use super::Postgres;

const ENDS: &str = "SELECT purged_number, purged_hash, last_number, last_hash FROM audit_chain WHERE singleton = 1";

/// The second one finds another end, or a purge that is as late, and writes nothing.
const APPEND: &str = concat!(
    "
WITH ",
    fence!("$12"),
    ", chain AS (
    UPDATE audit_chain
    SET last_number = $4, last_hash = $5,
        purged_number = coalesce($6, purged_number), purged_hash = coalesce($7, purged_hash)
    WHERE last_number = $2 AND last_hash = $3 AND ($6::int8 IS NULL OR $6 > purged_number) AND EXISTS (SELECT 1 FROM fence)
    RETURNING 1
), gone AS (
    DELETE FROM audit WHERE number <= $6 AND EXISTS (SELECT 1 FROM chain)
), new AS (
    INSERT INTO audit (number, at_ms, body, hash)
    SELECT number, at_ms, body, hash
    FROM UNNEST($8::int8[], $9::int8[], $10::bytea[], $11::bytea[]) AS new (number, at_ms, body, hash)
    WHERE EXISTS (SELECT 1 FROM chain)
)
SELECT EXISTS (SELECT 1 FROM fence), EXISTS (SELECT 1 FROM chain)"
);

const AFTER: &str =
    "SELECT number, at_ms, body, hash FROM audit WHERE number > $1 ORDER BY number LIMIT $2";

const BEFORE: &str =
    "SELECT number, at_ms, body, hash FROM audit WHERE number < $1 ORDER BY number DESC LIMIT $2";

#[async_trait]
impl Audit for Postgres {
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
        let last = entries.last().map_or_else(|| follows.clone(), |row| row.link.clone());
        let (mut numbers, mut times) = (Vec::new(), Vec::new());
        let (mut bodies, mut hashes) = (Vec::new(), Vec::new());
        for row in entries {
            numbers.push(column(row.link.number));
            times.push(rows::ms_to_column(row.at));
            bodies.push(row.body);
            hashes.push(row.link.hash);
        }
        let (purged, purged_hash) =
            purged.map(|purged| (column(purged.number), purged.hash)).unzip();
        let query = sqlx::query_as(APPEND)
            .bind(me.0)
            .bind(column(follows.number))
            .bind(follows.hash)
            .bind(column(last.number))
            .bind(last.hash)
            .bind(purged)
            .bind(purged_hash)
            .bind(numbers)
            .bind(times)
            .bind(bodies)
            .bind(hashes)
            .bind(self.nonces.nonce(me));
        match self.row("write the audit", query).await? {
            (false, _) => Err(Error::Fenced(me)),
            (true, written) => Ok(written),
        }
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
