//! The feed on SQLite. The statements are explained beside those for PostgreSQL.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use unanimo_core::{Incarnation, Timestamp};
use uuid::Uuid;

use super::super::feed::{
    CursorColumns, NewsRow, PURGE_MAX, all_ahead, cursor, cut_to_bytes, news, open_column, page,
    purged_up_to, reached, select_news,
};
use super::super::{Error, Feed, FeedCursor, FeedPage, NewEvent, NewsFound, NewsOf, rows};
use super::Sqlite;
use super::damage::sound;
use super::transactions::of_ids_without_data;

const CURSORS: &str = "
SELECT fences.incarnation, fenced, step, next_write, open_writes
FROM fences LEFT JOIN feed_cursors USING (incarnation)
WHERE fences.incarnation >= (SELECT done_before FROM feed) AND fences.incarnation <= $1
ORDER BY fences.incarnation";

pub(super) const NEWS_OF_RANGE: &str = select_news!(
    sound!("entry"),
    " AND length(entry.tx_id) = 16 AND length(write_id) = 16
        AND write_id >= $1 AND write_id < $2 ORDER BY write_id LIMIT $3"
);

pub(super) const NEWS_OF_WRITE: &str =
    select_news!(sound!("entry"), " AND length(entry.tx_id) = 16 AND write_id = $1");

const BYTES_OF: &str = concat!(
    "SELECT coalesce(sum(length(body)), 0) FROM log AS entry WHERE tx_id = $1",
    sound!("entry")
);

const MOVE: &str = "
UPDATE feed_cursors SET step = step + 1, next_write = $3, open_writes = $4
WHERE incarnation = $1 AND step = $2";

const BEGIN: &str = "
INSERT INTO feed_cursors (incarnation, step, next_write, open_writes) VALUES ($1, 1 + $2, $3, $4)
ON CONFLICT DO NOTHING";

const NUMBER: &str = "
UPDATE feed SET last_revision = max(last_revision, $1) + $2 RETURNING last_revision";

const ADD: &str =
    "INSERT INTO feed_events (revision, added_ms, tx_id, body) VALUES ($1, $2, $3, $4)";

const DONE: &str = "
UPDATE feed SET done_before = $1 + 1
WHERE done_before <= $1 AND EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND fenced)
    AND NOT EXISTS (
        SELECT 1 FROM fences WHERE incarnation >= done_before AND incarnation < $1 AND NOT fenced)";

const PAGE: &str =
    "SELECT revision, tx_id, body FROM feed_events WHERE revision > $1 ORDER BY revision LIMIT $2";

const ENDS: &str = "SELECT purged_revision, last_revision FROM feed";

const OLDEST: &str = "
SELECT revision, added_ms FROM feed_events WHERE revision > (SELECT purged_revision FROM feed)
ORDER BY revision LIMIT $1";

/// The first one behind a revision that is not from later than now.
const BEHIND: &str = "
SELECT revision, added_ms FROM feed_events WHERE revision > $1 AND added_ms <= $2 ORDER BY revision LIMIT 1";

/// Writes that are told at most of those that are passed over because of damage.
const PASSED_MAX: i64 = 10_000;

/// Returns the write that comes next.
fn after(write: Uuid) -> Uuid {
    Uuid::from_u128(write.as_u128().saturating_add(1))
}

#[async_trait]
impl Feed for Sqlite {
    async fn cursors(&self, me: Incarnation) -> Result<Vec<FeedCursor>, Error> {
        let query = sqlx::query_as::<_, CursorColumns>(CURSORS).bind(me.0);
        let found = self.rows("read the places of the feed", query).await?;
        Ok(found.into_iter().map(cursor).collect())
    }

    async fn news(&self, of: NewsOf, limit: u32) -> Result<NewsFound, Error> {
        self.spared(None, || Box::pin(self.news_once(of.clone(), limit))).await
    }

    async fn advance(
        &self,
        me: Incarnation,
        to: FeedCursor,
        now: Timestamp,
        above: u64,
        events: Vec<NewEvent>,
    ) -> Result<Option<u64>, Error> {
        let above = i64::try_from(above).unwrap_or(i64::MAX);
        self.write("add to the feed", Some(me), move |connection| {
            Box::pin(async move {
                let moved = sqlx::query(if to.step == 0 { BEGIN } else { MOVE })
                    .bind(to.incarnation.0)
                    .bind(to.step)
                    .bind(to.next)
                    .bind(open_column(&to.open));
                if moved.execute(&mut *connection).await?.rows_affected() == 0 {
                    return Ok(None);
                }
                let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
                let number = sqlx::query_scalar(NUMBER).bind(above).bind(count);
                let last: i64 = number.fetch_one(&mut *connection).await?;
                for (revision, event) in (last - count + 1..).zip(events) {
                    sqlx::query(ADD)
                        .bind(revision)
                        .bind(rows::ms_to_column(now))
                        .bind(event.tx_id.0)
                        .bind(event.body)
                        .execute(&mut *connection)
                        .await?;
                }
                Ok(Some(u64::try_from(last).unwrap_or(0)))
            })
        })
        .await
    }

    async fn finish(&self, me: Incarnation, done: Incarnation) -> Result<(), Error> {
        self.write("note what the feed has", Some(me), move |connection| {
            Box::pin(async move {
                let noted = sqlx::query(DONE).bind(done.0).execute(&mut *connection).await?;
                if noted.rows_affected() > 0 {
                    let gone = sqlx::query("DELETE FROM feed_cursors WHERE incarnation <= $1");
                    gone.bind(done.0).execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn page(&self, after: u64, limit: u32) -> Result<FeedPage, Error> {
        let (after, limit) = (i64::try_from(after).unwrap_or(i64::MAX), i64::from(limit));
        self.read("read the feed", move |connection| {
            Box::pin(async move {
                let events = sqlx::query_as(PAGE).bind(after).bind(limit);
                let events = events.fetch_all(&mut *connection).await?;
                let ends = sqlx::query_as(ENDS).fetch_one(connection).await?;
                Ok(page(events, ends))
            })
        })
        .await
    }

    async fn purge(&self, me: Incarnation, kept: Duration, now: Timestamp) -> Result<u64, Error> {
        let oldest = sqlx::query_as(OLDEST).bind(PURGE_MAX);
        let oldest = self.rows("find old events", oldest).await?;
        let mut purged = purged_up_to(&oldest, kept, now);
        if let Some(last) = all_ahead(&oldest, now) {
            let behind = sqlx::query_as(BEHIND).bind(last).bind(rows::ms_to_column(now));
            let behind = self.rows("find old events", behind).await?;
            purged = purged_up_to(&behind, kept, now).map(|_| (last, oldest.len() as u64));
        }
        let Some((last, count)) = purged else { return Ok(0) };
        self.write("delete old events", Some(me), move |connection| {
            Box::pin(async move {
                let purged = "UPDATE feed SET purged_revision = max(purged_revision, $1)";
                sqlx::query(purged).bind(last).execute(&mut *connection).await?;
                let gone = sqlx::query("DELETE FROM feed_events WHERE revision <= $1").bind(last);
                gone.execute(&mut *connection).await?;
                Ok(count)
            })
        })
        .await
    }
}

impl Sqlite {
    async fn news_once(&self, of: NewsOf, limit: u32) -> Result<NewsFound, Error> {
        let opened = Arc::clone(&self.opened);
        self.read("read what is new in the log", move |connection| {
            Box::pin(async move {
                let mut found: Vec<NewsRow> = Vec::new();
                let (mut from, mut to, mut left) = (None, Uuid::nil(), Vec::new());
                let (mut looked, mut unreadable) = (Vec::new(), Vec::new());
                match of {
                    NewsOf::Range(first, until) => {
                        from = Some(first);
                        let query = sqlx::query_as(opened.damage.sparing(NEWS_OF_RANGE));
                        let query = query.bind(first).bind(until).bind(i64::from(limit));
                        found = query.fetch_all(&mut *connection).await?;
                        to = reached(&found, limit as usize, until);
                    }
                    NewsOf::Writes(ids) => {
                        for id in ids {
                            if found.len() >= limit as usize {
                                left.push(id);
                                continue;
                            }
                            let query = sqlx::query_as(opened.damage.sparing(NEWS_OF_WRITE));
                            found.extend(query.bind(id).fetch_all(&mut *connection).await?);
                            looked.push((id, after(id)));
                        }
                    }
                }
                let mut bytes_of = HashMap::new();
                for row in &found {
                    if let Entry::Vacant(entry) = bytes_of.entry(row.tx_id) {
                        let query = sqlx::query_scalar(opened.damage.sparing(BYTES_OF));
                        let bytes: i64 = query.bind(row.tx_id).fetch_one(&mut *connection).await?;
                        entry.insert(bytes);
                    }
                }
                let over = cut_to_bytes(&mut found, &bytes_of);
                match from {
                    Some(from) => {
                        to = over.into_iter().min().unwrap_or(to);
                        looked.push((from, to));
                    }
                    None => left.extend(over),
                }
                for (from, until) in looked {
                    let Some(passed) = opened.damage.passed_news() else { break };
                    let query = sqlx::query_scalar::<_, Uuid>(passed)
                        .bind(from)
                        .bind(until)
                        .bind(PASSED_MAX);
                    unreadable.extend(query.fetch_all(&mut *connection).await?);
                }
                let mut ids: Vec<Uuid> = found.iter().map(|row| row.tx_id).collect();
                ids.sort_unstable();
                ids.dedup();
                let read = of_ids_without_data(connection, &ids).await?;
                Ok(NewsFound { news: news(found, read), reached: to, left, unreadable })
            })
        })
        .await
    }
}
