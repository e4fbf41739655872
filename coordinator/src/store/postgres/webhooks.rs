//! Webhooks on PostgreSQL.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use unanimo_core::{Incarnation, Timestamp};

use super::super::webhooks::{
    AGAIN_MAX, COUNT, DEAD_OF_ALL, DEAD_OF_ONE, DUE, DeadColumns, MadeDue, NewDead, PLACE,
    PURGE_MAX, PlaceColumns, column, number, place,
};
use super::super::{Again, DeadLetter, Error, WebhookPlace, Webhooks, rows};
use super::Postgres;

const ADVANCE: &str = concat!(
    "
WITH ",
    fence!("$13"),
    ", new AS (
    INSERT INTO webhooks (name, step, after_revision, failing_since_ms, gone)
    SELECT $2, 1, $4, $5, $6 WHERE $3::int8 = 0 AND EXISTS (SELECT 1 FROM fence)
    ON CONFLICT DO NOTHING
    RETURNING 1
), moved AS (
    UPDATE webhooks SET step = step + 1, after_revision = $4, failing_since_ms = $5, gone = $6
    WHERE name = $2 AND step = $3 AND $3 > 0 AND EXISTS (SELECT 1 FROM fence)
    RETURNING 1
), dead AS (
    INSERT INTO webhook_dead_letters (name, revision, tx_id, body, died_ms, attempts, cause)
    SELECT $2, $7, $8, $9, $10, $11, $12
    WHERE $7::int8 IS NOT NULL AND (EXISTS (SELECT 1 FROM new) OR EXISTS (SELECT 1 FROM moved))
    ON CONFLICT DO NOTHING
)
SELECT EXISTS (SELECT 1 FROM fence), EXISTS (SELECT 1 FROM new) OR EXISTS (SELECT 1 FROM moved)"
);

const SEND_AGAIN: &str = concat!(
    "
WITH ",
    fence!("$4"),
    ", again AS (
    UPDATE webhook_dead_letters SET due = true FROM (
        SELECT revision FROM webhook_dead_letters
        WHERE name = $2 AND revision BETWEEN $3 AND $5 ORDER BY revision LIMIT $6
    ) AS part
    WHERE name = $2 AND webhook_dead_letters.revision = part.revision AND EXISTS (SELECT 1 FROM fence)
    RETURNING part.revision
)
SELECT EXISTS (SELECT 1 FROM fence), (SELECT count(*) FROM again), (SELECT max(revision) FROM again)"
);

const TAKEN: &str = concat!(
    "
WITH ",
    fence!("$4"),
    ", gone AS (
    DELETE FROM webhook_dead_letters
    WHERE name = $2 AND revision = $3 AND EXISTS (SELECT 1 FROM fence)
)
SELECT EXISTS (SELECT 1 FROM fence)"
);

const STAYS: &str = concat!(
    "
WITH ",
    fence!("$5"),
    ", kept AS (
    UPDATE webhook_dead_letters SET due = $6, attempts = attempts + 1, cause = $4
    WHERE name = $2 AND revision = $3 AND EXISTS (SELECT 1 FROM fence)
)
SELECT EXISTS (SELECT 1 FROM fence)"
);

const PURGE: &str = concat!(
    "
WITH ",
    fence!("$4"),
    ", old AS MATERIALIZED (
    SELECT name, revision FROM webhook_dead_letters WHERE died_ms < $2 AND NOT due ORDER BY died_ms LIMIT $3
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM webhook_dead_letters USING old
    WHERE webhook_dead_letters.name = old.name AND webhook_dead_letters.revision = old.revision
        AND EXISTS (SELECT 1 FROM fence)
    RETURNING 1
)
SELECT EXISTS (SELECT 1 FROM fence), (SELECT count(*) FROM gone)"
);

#[async_trait]
impl Webhooks for Postgres {
    async fn place(&self, name: &str) -> Result<Option<WebhookPlace>, Error> {
        let query = sqlx::query_as::<_, PlaceColumns>(PLACE).bind(name.to_owned());
        let found = self.rows("read the place of a webhook", query).await?;
        Ok(found.into_iter().next().map(place))
    }

    async fn advance(
        &self,
        me: Incarnation,
        to: WebhookPlace,
        dead: Option<DeadLetter>,
    ) -> Result<bool, Error> {
        let dead = NewDead::of(dead);
        let query = sqlx::query_as::<_, (bool, bool)>(ADVANCE)
            .bind(me.0)
            .bind(to.name)
            .bind(to.step)
            .bind(column(to.after))
            .bind(to.failing_since.map(rows::ms_to_column))
            .bind(to.gone)
            .bind(dead.revision)
            .bind(dead.tx_id)
            .bind(dead.body)
            .bind(dead.died_ms)
            .bind(dead.attempts)
            .bind(dead.cause)
            .bind(self.nonces.nonce(me));
        match self.row("move the place of a webhook", query).await? {
            (false, _) => Err(Error::Fenced(me)),
            (true, is_moved) => Ok(is_moved),
        }
    }

    async fn dead_letters(
        &self,
        of: Option<&str>,
        (name, revision): (&str, u64),
        limit: u32,
    ) -> Result<Vec<DeadLetter>, Error> {
        let query =
            sqlx::query_as::<_, DeadColumns>(if of.is_some() { DEAD_OF_ONE } else { DEAD_OF_ALL })
                .bind(of.unwrap_or(name).to_owned())
                .bind(column(revision))
                .bind(i64::from(limit));
        let found = self.rows("read dead letters", query).await?;
        Ok(found.into_iter().map(DeadLetter::from).collect())
    }

    async fn due(&self, name: &str, limit: u32) -> Result<Vec<DeadLetter>, Error> {
        let query = sqlx::query_as::<_, DeadColumns>(DUE).bind(name.to_owned());
        let found = self.rows("read dead letters", query.bind(i64::from(limit))).await?;
        Ok(found.into_iter().map(DeadLetter::from).collect())
    }

    async fn count_dead(&self) -> Result<Vec<(String, u64)>, Error> {
        let found = self.rows("count dead letters", sqlx::query_as(COUNT)).await?;
        Ok(found.into_iter().map(|(name, count): (String, i64)| (name, number(count))).collect())
    }

    async fn send_again(
        &self,
        me: Incarnation,
        name: &str,
        revisions: RangeInclusive<u64>,
    ) -> Result<MadeDue, Error> {
        let query = sqlx::query_as::<_, (bool, i64, Option<i64>)>(SEND_AGAIN)
            .bind(me.0)
            .bind(name.to_owned())
            .bind(column(*revisions.start()))
            .bind(self.nonces.nonce(me))
            .bind(column(*revisions.end()))
            .bind(AGAIN_MAX);
        match self.row("have dead letters sent again", query).await? {
            (false, ..) => Err(Error::Fenced(me)),
            (true, count, last) => Ok(MadeDue::of(count, last)),
        }
    }

    async fn sent_again(
        &self,
        me: Incarnation,
        name: &str,
        revision: u64,
        became: Again,
    ) -> Result<(), Error> {
        let statement = if became == Again::Taken { TAKEN } else { STAYS };
        let query = sqlx::query_as::<_, (bool,)>(statement)
            .bind(me.0)
            .bind(name.to_owned())
            .bind(column(revision));
        let nonce = self.nonces.nonce(me);
        let query = match became {
            Again::Taken => query.bind(nonce),
            Again::Stays { cause, is_due } => query.bind(cause).bind(nonce).bind(is_due),
        };
        let (written,) = self.row("note what became of a dead letter", query).await?;
        if written { Ok(()) } else { Err(Error::Fenced(me)) }
    }

    async fn purge_dead(&self, me: Incarnation, before: Timestamp) -> Result<u64, Error> {
        let query = sqlx::query_as::<_, (bool, i64)>(PURGE)
            .bind(me.0)
            .bind(rows::ms_to_column(before))
            .bind(PURGE_MAX)
            .bind(self.nonces.nonce(me));
        match self.row("delete old dead letters", query).await? {
            (false, _) => Err(Error::Fenced(me)),
            (true, count) => Ok(number(count)),
        }
    }
}
