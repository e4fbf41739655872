//! The feed on PostgreSQL.

mod damaged;

use std::time::Duration;

use async_trait::async_trait;
use unanimo_core::{Incarnation, Timestamp};

use self::damaged::{Rows, in_range, of_writes};
use super::super::feed::{
    CursorColumns, PURGE_MAX, all_ahead, cursor, cut_to_bytes, news, open_column, page,
    purged_up_to,
};
use super::super::rows::ms_to_column;
use super::super::{Error, Feed, FeedCursor, FeedPage, NewEvent, NewsFound, NewsOf};
use super::Postgres;
use super::transactions::of_ids_without_data;

const CURSORS: &str = "
SELECT fences.incarnation, fenced, step, next_write, open_writes
FROM fences LEFT JOIN feed_cursors USING (incarnation)
WHERE fences.incarnation >= (SELECT done_before FROM feed) AND fences.incarnation <= $1
ORDER BY fences.incarnation";

/// The row about the ends is locked until the commit, so events are seen in the order of their revisions.
const ADVANCE: &str = concat!(
    "
WITH ",
    fence!("$10"),
    ", new AS (
    INSERT INTO feed_cursors (incarnation, step, next_write, open_writes)
    SELECT $2, 1, $4, $5 WHERE $3::int8 = 0 AND EXISTS (SELECT 1 FROM fence)
    ON CONFLICT DO NOTHING
    RETURNING 1
), moved AS (
    UPDATE feed_cursors SET step = step + 1, next_write = $4, open_writes = $5
    WHERE incarnation = $2 AND step = $3 AND $3 > 0 AND EXISTS (SELECT 1 FROM fence)
    RETURNING 1
), numbered AS (
    UPDATE feed SET last_revision = greatest(last_revision, $6) + $7
    WHERE EXISTS (SELECT 1 FROM new) OR EXISTS (SELECT 1 FROM moved)
    RETURNING last_revision
), added AS (
    INSERT INTO feed_events (revision, added_ms, tx_id, body)
    SELECT last_revision - $7 + ordinal, floor(extract(epoch FROM clock_timestamp()) * 1000)::int8, tx_id, body
    FROM numbered, UNNEST($8::uuid[], $9::bytea[]) WITH ORDINALITY AS event (tx_id, body, ordinal)
)
SELECT EXISTS (SELECT 1 FROM fence), (SELECT last_revision FROM numbered)"
);

const FINISH: &str = concat!(
    "
WITH ",
    fence!("$3"),
    ", done AS (
    UPDATE feed SET done_before = $2 + 1
    WHERE done_before <= $2 AND EXISTS (SELECT 1 FROM fence)
        AND EXISTS (SELECT 1 FROM fences WHERE incarnation = $2 AND fenced)
        AND NOT EXISTS (
            SELECT 1 FROM fences WHERE incarnation >= done_before AND incarnation < $2 AND NOT fenced)
    RETURNING 1
), gone AS (
    DELETE FROM feed_cursors WHERE incarnation <= $2 AND EXISTS (SELECT 1 FROM done)
)
SELECT EXISTS (SELECT 1 FROM fence)"
);

/// Events of a page. A purged one is shown to nobody, also where it is still there.
const PAGE: &str = "
SELECT revision, tx_id, body FROM feed_events
WHERE revision > greatest($1, (SELECT purged_revision FROM feed)) ORDER BY revision LIMIT $2";

const ENDS: &str = "SELECT purged_revision, last_revision FROM feed";

/// Begins behind what was purged: the index has entries of rows that are gone until they are swept away.
const OLDEST: &str = "
SELECT revision, added_ms FROM feed_events WHERE revision > (SELECT purged_revision FROM feed)
ORDER BY revision LIMIT $1";

/// The first one behind a revision that is not from later than now.
const BEHIND: &str = "
SELECT revision, added_ms FROM feed_events WHERE revision > $1 AND added_ms <= $2 ORDER BY revision LIMIT 1";

/// The row about the ends comes last: whoever adds events waits for it, and not for the rows that are deleted. An event
/// that somebody holds goes with a later run.
const PURGE: &str = concat!(
    "
WITH ",
    fence!("$3"),
    ", old AS MATERIALIZED (
    SELECT revision FROM feed_events WHERE revision <= $2 AND EXISTS (SELECT 1 FROM fence) FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM feed_events USING old WHERE feed_events.revision = old.revision
    RETURNING 1
), purged AS (
    UPDATE feed SET purged_revision = greatest(purged_revision, $2)
    WHERE (SELECT count(*) FROM gone) >= 0 AND EXISTS (SELECT 1 FROM fence)
)
SELECT EXISTS (SELECT 1 FROM fence)"
);

#[async_trait]
impl Feed for Postgres {
    async fn cursors(&self, me: Incarnation) -> Result<Vec<FeedCursor>, Error> {
        let query = sqlx::query_as::<_, CursorColumns>(CURSORS).bind(me.0);
        let found = self.rows("read the places of the feed", query).await?;
        Ok(found.into_iter().map(cursor).collect())
    }

    async fn news(&self, of: NewsOf, limit: u32) -> Result<NewsFound, Error> {
        let limit = limit as usize;
        self.run("read what is new in the log", move |connection| {
            Box::pin(async move {
                let is_range = matches!(of, NewsOf::Range(..));
                let mut rows = match of {
                    NewsOf::Range(from, until) => {
                        in_range(connection, (from, until), limit).await?
                    }
                    NewsOf::Writes(ids) => of_writes(connection, &ids, limit).await?,
                };
                let bytes_of = rows.bytes(connection).await?;
                let mut left = cut_to_bytes(&mut rows.found, &bytes_of);
                if is_range {
                    rows.end_before(&std::mem::take(&mut left));
                }
                let read = of_ids_without_data(connection, &rows.transactions()).await?;
                let Rows { found, reached, unreadable } = rows;
                Ok(NewsFound { news: news(found, read), reached, left, unreadable })
            })
        })
        .await
    }

    async fn advance(
        &self,
        me: Incarnation,
        to: FeedCursor,
        _: Timestamp,
        above: u64,
        events: Vec<NewEvent>,
    ) -> Result<Option<u64>, Error> {
        let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
        let (tx_ids, bodies): (Vec<_>, Vec<_>) =
            events.into_iter().map(|event| (event.tx_id.0, event.body)).unzip();
        let query = sqlx::query_as::<_, (bool, Option<i64>)>(ADVANCE)
            .bind(me.0)
            .bind(to.incarnation.0)
            .bind(to.step)
            .bind(to.next)
            .bind(open_column(&to.open))
            .bind(i64::try_from(above).unwrap_or(i64::MAX))
            .bind(count)
            .bind(tx_ids)
            .bind(bodies)
            .bind(self.nonces.nonce(me));
        match self.row("add to the feed", query).await? {
            (false, _) => Err(Error::Fenced(me)),
            (true, last) => Ok(last.map(|last| u64::try_from(last).unwrap_or(0))),
        }
    }

    async fn finish(&self, me: Incarnation, done: Incarnation) -> Result<(), Error> {
        let query = sqlx::query_as::<_, (bool,)>(FINISH)
            .bind(me.0)
            .bind(done.0)
            .bind(self.nonces.nonce(me));
        let (written,) = self.row("note what the feed has", query).await?;
        if written { Ok(()) } else { Err(Error::Fenced(me)) }
    }

    async fn page(&self, after: u64, limit: u32) -> Result<FeedPage, Error> {
        let (after, limit) = (i64::try_from(after).unwrap_or(i64::MAX), i64::from(limit));
        self.run("read the feed", move |connection| {
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
            let behind = sqlx::query_as(BEHIND).bind(last).bind(ms_to_column(now));
            let behind = self.rows("find old events", behind).await?;
            purged = purged_up_to(&behind, kept, now).map(|_| (last, oldest.len() as u64));
        }
        let Some((last, count)) = purged else { return Ok(0) };
        let query =
            sqlx::query_as::<_, (bool,)>(PURGE).bind(me.0).bind(last).bind(self.nonces.nonce(me));
        let (written,) = self.row("delete old events", query).await?;
        if written { Ok(count) } else { Err(Error::Fenced(me)) }
    }
}
