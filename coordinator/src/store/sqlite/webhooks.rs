//! Webhooks on SQLite. The statements are explained beside those for PostgreSQL.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use unanimo_core::{Incarnation, Timestamp};

use super::super::webhooks::{
    AGAIN_MAX, COUNT, DEAD_OF_ALL, DEAD_OF_ONE, DUE, DeadColumns, MadeDue, NewDead, PLACE,
    PURGE_MAX, PlaceColumns, column, number, place,
};
use super::super::{Again, DeadLetter, Error, WebhookPlace, Webhooks, rows};
use super::Sqlite;

const BEGIN: &str = "
INSERT INTO webhooks (name, step, after_revision, failing_since_ms, gone)
VALUES ($1, 1 + $2, $3, $4, $5) ON CONFLICT DO NOTHING";

const MOVE: &str = "
UPDATE webhooks SET step = step + 1, after_revision = $3, failing_since_ms = $4, gone = $5
WHERE name = $1 AND step = $2";

const KEEP: &str = "
INSERT INTO webhook_dead_letters (name, revision, tx_id, body, died_ms, attempts, cause)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";

const SEND_AGAIN: &str = "
UPDATE webhook_dead_letters SET due = 1 WHERE name = $1 AND revision IN (
    SELECT revision FROM webhook_dead_letters
    WHERE name = $1 AND revision BETWEEN $2 AND $3 ORDER BY revision LIMIT $4)
RETURNING revision";

const TAKEN: &str = "DELETE FROM webhook_dead_letters WHERE name = $1 AND revision = $2";

const STAYS: &str = "
UPDATE webhook_dead_letters SET due = $4, attempts = attempts + 1, cause = $3
WHERE name = $1 AND revision = $2";

const PURGE: &str = "
DELETE FROM webhook_dead_letters WHERE rowid IN (
    SELECT rowid FROM webhook_dead_letters WHERE died_ms < $1 AND NOT due ORDER BY died_ms LIMIT $2)";

#[async_trait]
impl Webhooks for Sqlite {
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
        self.write("move the place of a webhook", Some(me), move |connection| {
            Box::pin(async move {
                let moved = sqlx::query(if to.step == 0 { BEGIN } else { MOVE })
                    .bind(to.name.clone())
                    .bind(to.step)
                    .bind(column(to.after))
                    .bind(to.failing_since.map(rows::ms_to_column))
                    .bind(to.gone);
                if moved.execute(&mut *connection).await?.rows_affected() == 0 {
                    return Ok(false);
                }
                if dead.is_some() {
                    let dead = NewDead::of(dead);
                    sqlx::query(KEEP)
                        .bind(to.name)
                        .bind(dead.revision)
                        .bind(dead.tx_id)
                        .bind(dead.body)
                        .bind(dead.died_ms)
                        .bind(dead.attempts)
                        .bind(dead.cause)
                        .execute(&mut *connection)
                        .await?;
                }
                Ok(true)
            })
        })
        .await
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
        let name = name.to_owned();
        let (first, last) = (column(*revisions.start()), column(*revisions.end()));
        self.write("have dead letters sent again", Some(me), move |connection| {
            Box::pin(async move {
                let again = sqlx::query_scalar(SEND_AGAIN).bind(name).bind(first).bind(last);
                let again: Vec<i64> = again.bind(AGAIN_MAX).fetch_all(connection).await?;
                let count = i64::try_from(again.len()).unwrap_or(i64::MAX);
                Ok(MadeDue::of(count, again.into_iter().max()))
            })
        })
        .await
    }

    async fn sent_again(
        &self,
        me: Incarnation,
        name: &str,
        revision: u64,
        became: Again,
    ) -> Result<(), Error> {
        let (name, revision) = (name.to_owned(), column(revision));
        self.write("note what became of a dead letter", Some(me), move |connection| {
            Box::pin(async move {
                let query = sqlx::query(if became == Again::Taken { TAKEN } else { STAYS });
                let query = query.bind(name).bind(revision);
                let query = match became {
                    Again::Taken => query,
                    Again::Stays { cause, is_due } => query.bind(cause).bind(is_due),
                };
                query.execute(connection).await.map(drop)
            })
        })
        .await
    }

    async fn purge_dead(&self, me: Incarnation, before: Timestamp) -> Result<u64, Error> {
        let before = rows::ms_to_column(before);
        self.write("delete old dead letters", Some(me), move |connection| {
            Box::pin(async move {
                let purged = sqlx::query(PURGE).bind(before).bind(PURGE_MAX);
                Ok(purged.execute(connection).await?.rows_affected())
            })
        })
        .await
    }
}
