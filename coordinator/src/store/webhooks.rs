//! Webhooks: how far each has been sent the feed, and what its receiver did not take.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use unanimo_core::{Incarnation, Timestamp, TxId};
use uuid::Uuid;

use super::Error;
use super::rows::{ms_from_column, ms_to_column};

/// Dead letters that one purge takes.
pub(super) const PURGE_MAX: i64 = 2_000;

/// Dead letters that one statement has sent again.
pub(super) const AGAIN_MAX: i64 = 1_000;

/// Place of a webhook in the feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookPlace {
    /// Name of the webhook.
    pub name: String,
    /// Number of the changes of this place; 0 if there is none yet.
    pub step: i64,
    /// Events up to this revision were taken, are dead letters, or were not asked for.
    pub after: u64,
    /// Since when the receiver has taken nothing.
    pub failing_since: Option<Timestamp>,
    /// Hash of the address at which the receiver has said that it is gone; empty if it has not.
    pub gone: Vec<u8>,
}

/// Event that a receiver did not take, and that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Name of the webhook.
    pub webhook: String,
    /// Revision of the event.
    pub revision: u64,
    /// Its transaction.
    pub tx_id: TxId,
    /// The rest of it, as in the feed.
    pub body: Vec<u8>,
    /// When it was given up.
    pub died_at: Timestamp,
    /// Number of times that it was sent.
    pub attempts: u32,
    /// The last failure.
    pub cause: String,
    /// It is to be sent again.
    pub is_due: bool,
}

/// Fate of a dead letter that was sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Again {
    /// It was taken, and is gone.
    Taken,
    /// It stays.
    Stays {
        /// The failure.
        cause: String,
        /// It was asked for once more while it was sent.
        is_due: bool,
    },
}

/// Dead letters that are to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MadeDue {
    /// Their number.
    pub count: u64,
    /// The last one's revision; none where none is left.
    pub last: Option<u64>,
}

impl MadeDue {
    pub(super) fn of(count: i64, last: Option<i64>) -> Self {
        Self { count: number(count), last: last.map(number) }
    }
}

/// Places of webhooks, and their dead letters. Each write names the incarnation, and has no effect once that is fenced.
#[async_trait]
pub trait Webhooks: Send + Sync {
    /// Reads the place of a webhook, if it has one.
    async fn place(&self, name: &str) -> Result<Option<WebhookPlace>, Error>;

    /// Moves a place, which must be at its `step` still, and keeps a dead letter in the same step. Tells whether it was at
    /// that step.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced; so for all writes.
    async fn advance(
        &self,
        me: Incarnation,
        to: WebhookPlace,
        dead: Option<DeadLetter>,
    ) -> Result<bool, Error>;

    /// Reads at most so many dead letters behind this one, by name and revision: of one webhook, or of all.
    async fn dead_letters(
        &self,
        of: Option<&str>,
        after: (&str, u64),
        limit: u32,
    ) -> Result<Vec<DeadLetter>, Error>;

    /// Reads at most so many dead letters of a webhook that are to be sent again, in order.
    async fn due(&self, name: &str, limit: u32) -> Result<Vec<DeadLetter>, Error>;

    /// Counts the dead letters of each webhook that has any.
    async fn count_dead(&self) -> Result<Vec<(String, u64)>, Error>;

    /// Has dead letters of a webhook sent again, of these revisions and in their order, but no more than a bounded number.
    async fn send_again(
        &self,
        me: Incarnation,
        name: &str,
        revisions: RangeInclusive<u64>,
    ) -> Result<MadeDue, Error>;

    /// Has all dead letters of these revisions sent again, some after the others, and returns their number.
    async fn send_all_again(
        &self,
        me: Incarnation,
        name: &str,
        revisions: RangeInclusive<u64>,
    ) -> Result<u64, Error> {
        let (mut first, end, mut count) = (*revisions.start(), *revisions.end(), 0);
        loop {
            let due = self.send_again(me, name, first..=end).await?;
            count += due.count;
            match due.last {
                Some(last) if last < end => first = last + 1,
                _ => return Ok(count),
            }
        }
    }

    /// Notes what became of a dead letter that was sent again.
    async fn sent_again(
        &self,
        me: Incarnation,
        name: &str,
        revision: u64,
        became: Again,
    ) -> Result<(), Error>;

    /// Deletes a bounded number of dead letters that were given up before this time, and returns their number.
    async fn purge_dead(&self, me: Incarnation, before: Timestamp) -> Result<u64, Error>;
}

/// Columns of a place.
pub(super) type PlaceColumns = (String, i64, i64, Option<i64>, Vec<u8>);

/// Makes a place of its columns.
pub(super) fn place((name, step, after, failing, gone): PlaceColumns) -> WebhookPlace {
    let failing_since = failing.map(ms_from_column);
    WebhookPlace { name, step, after: number(after), failing_since, gone }
}

/// Columns of a dead letter.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct DeadColumns {
    name: String,
    revision: i64,
    tx_id: Uuid,
    body: Vec<u8>,
    died_ms: i64,
    attempts: i32,
    cause: String,
    due: bool,
}

impl From<DeadColumns> for DeadLetter {
    fn from(row: DeadColumns) -> Self {
        Self {
            webhook: row.name,
            revision: number(row.revision),
            tx_id: TxId(row.tx_id),
            body: row.body,
            died_at: ms_from_column(row.died_ms),
            attempts: u32::try_from(row.attempts).unwrap_or(0),
            cause: row.cause,
            is_due: row.due,
        }
    }
}

/// Columns of a dead letter that is to be kept; NULL if none is.
pub(super) struct NewDead {
    pub(super) revision: Option<i64>,
    pub(super) tx_id: Option<Uuid>,
    pub(super) body: Option<Vec<u8>>,
    pub(super) died_ms: Option<i64>,
    pub(super) attempts: Option<i32>,
    pub(super) cause: Option<String>,
}

impl NewDead {
    pub(super) fn of(dead: Option<DeadLetter>) -> Self {
        let known = dead.as_ref();
        Self {
            revision: known.map(|dead| column(dead.revision)),
            tx_id: known.map(|dead| dead.tx_id.0),
            died_ms: known.map(|dead| ms_to_column(dead.died_at)),
            attempts: known.map(|dead| i32::try_from(dead.attempts).unwrap_or(i32::MAX)),
            cause: known.map(|dead| dead.cause.clone()),
            body: dead.map(|dead| dead.body),
        }
    }
}

/// Makes a column of a number.
pub(super) fn column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Reads a number.
pub(super) fn number(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}

pub(super) const PLACE: &str = "
SELECT name, step, after_revision, failing_since_ms, gone FROM webhooks WHERE name = $1";

pub(super) const DEAD_OF_ALL: &str = "
SELECT name, revision, tx_id, body, died_ms, attempts, cause, due FROM webhook_dead_letters
WHERE (name, revision) > ($1, $2) ORDER BY name, revision LIMIT $3";

pub(super) const DEAD_OF_ONE: &str = "
SELECT name, revision, tx_id, body, died_ms, attempts, cause, due FROM webhook_dead_letters
WHERE name = $1 AND revision > $2 ORDER BY revision LIMIT $3";

pub(super) const DUE: &str = "
SELECT name, revision, tx_id, body, died_ms, attempts, cause, due FROM webhook_dead_letters
WHERE name = $1 AND due ORDER BY revision LIMIT $2";

pub(super) const COUNT: &str = "
SELECT name, count(*) FROM webhook_dead_letters GROUP BY name ORDER BY name";
