//! The feed: numbered events of all transactions, made of rows of the log.
//!
//! The store finds the rows that may tell of something, and keeps what is made of them as bytes: what an event
//! means is not its business.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use unanimo_core::{Event, Incarnation, Timestamp, TxId, Version};
use uuid::Uuid;

use super::purge::PURGE_BYTES_MAX;
use super::rows::{Read, is_held, is_news, ms_from_column, ms_to_column, phase_of};
use super::{Error, Found, PhaseName};

/// Ends of the feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedEnds {
    /// Revision of the last event that was purged; 0 if none was.
    pub purged: u64,
    /// Revision of the last event; 0 if there never was one.
    pub last: u64,
}

/// Place up to which the rows of an incarnation are in the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedCursor {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// It writes no more.
    pub is_fenced: bool,
    /// Number of the changes of this cursor.
    pub step: i64,
    /// The first write that is not in the feed.
    pub next: Uuid,
    /// Writes before that of which nobody knew what became of them.
    pub open: Vec<Uuid>,
}

impl FeedCursor {
    /// Makes the cursor of an incarnation of which nothing is in the feed.
    #[must_use]
    pub fn of(incarnation: Incarnation, is_fenced: bool) -> Self {
        let next = first_write(incarnation);
        Self { incarnation, is_fenced, step: 0, next, open: Vec::new() }
    }

    /// Returns what comes after the last write of the incarnation.
    #[must_use]
    pub fn end(&self) -> Uuid {
        first_write(Incarnation(self.incarnation.0.saturating_add(1)))
    }
}

/// Returns the lowest identifier that a write of an incarnation can have: they are numbered.
fn first_write(incarnation: Incarnation) -> Uuid {
    Uuid::from_u64_pair(incarnation.0.cast_unsigned(), 0)
}

/// Writes of which the rows are looked at.
#[derive(Clone, Debug)]
pub enum NewsOf {
    /// From the first of these on, and before the second.
    Range(Uuid, Uuid),
    /// These.
    Writes(Vec<Uuid>),
}

/// Row of the log that may tell of something.
#[derive(Clone, Debug)]
pub struct News {
    /// The write.
    pub write_id: Uuid,
    /// The transaction.
    pub tx_id: TxId,
    /// Its version.
    pub version: Version,
    /// Mark of the row, for which no content is read.
    pub row: Standing,
    /// The same of the row before it, if there is one.
    pub before: Option<Standing>,
    /// When it ended, if it has.
    pub ended_at: Option<Timestamp>,
    /// When an operator cleared its alarm, if that was with this row.
    pub forgotten_at: Option<Timestamp>,
    /// The transaction as it is by now.
    pub found: Arc<Found>,
    /// Its events of this version.
    pub events: Vec<Event>,
}

/// Rows of the log that were found.
#[derive(Clone, Debug, Default)]
pub struct NewsFound {
    /// The rows, in the order of the writes.
    pub news: Vec<News>,
    /// Of a range: the first write that was not looked at.
    pub reached: Uuid,
    /// Of named writes: those that were not looked at, for there is more than one look takes.
    pub left: Vec<Uuid>,
    /// Writes of which the rows, if there are any, cannot be read.
    pub unreadable: Vec<Uuid>,
}

/// Mark of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The phase.
    pub phase: PhaseName,
    /// It ended against its decision, and nobody has cleared that.
    pub is_held: bool,
    /// It has ended, or something holds it up.
    pub is_news: bool,
}

impl Standing {
    fn of(kind: i16) -> Self {
        Self { phase: phase_of(kind), is_held: is_held(kind), is_news: is_news(kind) }
    }

    /// Tells whether it has ended.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self.phase, PhaseName::Committed | PhaseName::Aborted)
    }
}

/// Event that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedRow {
    /// Its number.
    pub revision: u64,
    /// Its transaction.
    pub tx_id: TxId,
    /// The rest of it.
    pub body: Vec<u8>,
}

/// Event to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Its transaction.
    pub tx_id: TxId,
    /// The rest of it.
    pub body: Vec<u8>,
}

/// Part of the feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedPage {
    /// Events, in order.
    pub events: Vec<FeedRow>,
    /// Ends of the feed, read behind the events.
    pub ends: FeedEnds,
}

/// Numbered events of all transactions.
#[async_trait]
pub trait Feed: Send + Sync {
    /// Reads the cursors of this incarnation and of earlier ones that are not in the feed as a whole, in order.
    async fn cursors(&self, me: Incarnation) -> Result<Vec<FeedCursor>, Error>;

    /// Finds at most so many rows of the log that may tell of something, in the order of the writes.
    async fn news(&self, of: NewsOf, limit: u32) -> Result<NewsFound, Error>;

    /// Adds events and moves a cursor, in one step, and returns the last revision. `to` is the cursor as it shall be, with
    /// the `step` that it has; revisions are above `above`. Nothing, if the cursor is not at that step any more.
    ///
    /// The time at which they were added, by which the purge goes, is the database's own. One without a clock takes `now`.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced.
    async fn advance(
        &self,
        me: Incarnation,
        to: FeedCursor,
        now: Timestamp,
        above: u64,
        events: Vec<NewEvent>,
    ) -> Result<Option<u64>, Error>;

    /// Notes that a fenced incarnation, and all before it, are in the feed as a whole. Nothing is done while an earlier one
    /// lives.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation `me` is fenced.
    async fn finish(&self, me: Incarnation, done: Incarnation) -> Result<(), Error>;

    /// Reads at most so many events behind a revision, in order.
    async fn page(&self, after: u64, limit: u32) -> Result<FeedPage, Error>;

    /// Deletes a bounded number of events that were added longer ago than they are kept, the oldest first, and returns their
    /// number. One that seems to come from later than `now`, a time on which the clocks agree, goes with those behind it:
    /// a clock was wrong.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced.
    async fn purge(&self, me: Incarnation, kept: Duration, now: Timestamp) -> Result<u64, Error>;
}

/// Bytes of the transactions of one look at the log, unless one has more.
pub(super) const NEWS_BYTES_MAX: i64 = PURGE_BYTES_MAX;

/// Cuts what was found where its transactions, of which the bytes are given, have more than one look takes. Returns the writes
/// that are left.
pub(super) fn cut_to_bytes(found: &mut Vec<NewsRow>, bytes_of: &HashMap<Uuid, i64>) -> Vec<Uuid> {
    let (mut bytes, mut counted) = (0_i64, HashSet::new());
    let over = found.iter().enumerate().position(|(index, row)| {
        if counted.insert(row.tx_id) {
            let more = bytes_of.get(&row.tx_id).copied().unwrap_or(0);
            bytes = bytes.saturating_add(more);
        }
        index > 0 && bytes > NEWS_BYTES_MAX
    });
    let left = over.map_or_else(Vec::new, |over| found.split_off(over));
    left.into_iter().map(|row| row.write_id).collect()
}

/// Events that one purge takes.
pub(super) const PURGE_MAX: i64 = 2_000;

/// Columns of a cursor; of one that is not there the last three are NULL.
pub(super) type CursorColumns = (i64, bool, Option<i64>, Option<Uuid>, Option<Vec<u8>>);

/// Makes a cursor of its columns.
pub(super) fn cursor((incarnation, is_fenced, step, next, open): CursorColumns) -> FeedCursor {
    let empty = FeedCursor::of(Incarnation(incarnation), is_fenced);
    let open = open.unwrap_or_default();
    let ids = open.chunks_exact(16).filter_map(|bytes| Uuid::from_slice(bytes).ok());
    FeedCursor {
        step: step.unwrap_or(0),
        next: next.unwrap_or(empty.next),
        open: ids.collect(),
        ..empty
    }
}

/// Makes the column of open writes.
pub(super) fn open_column(open: &[Uuid]) -> Vec<u8> {
    open.iter().flat_map(|id| *id.as_bytes()).collect()
}

/// Makes a part of the feed of the columns of its events and ends.
pub(super) fn page(events: Vec<(i64, Uuid, Vec<u8>)>, (purged, last): (i64, i64)) -> FeedPage {
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let event =
        |(revision, tx_id, body)| FeedRow { revision: number(revision), tx_id: TxId(tx_id), body };
    let ends = FeedEnds { purged: number(purged), last: number(last) };
    FeedPage { events: events.into_iter().map(event).collect(), ends }
}

/// Returns the last of the events, which are in order, that was added longer ago than they are kept, as all before it were,
/// and the number of all these. Events are added in their order: one from later than now was there before the next one.
pub(super) fn purged_up_to(
    events: &[(i64, i64)],
    kept: Duration,
    now: Timestamp,
) -> Option<(i64, u64)> {
    let kept = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
    let before = ms_to_column(Timestamp(now.0.saturating_sub(kept)));
    let now = ms_to_column(now);
    let is_old = |added_ms: i64| added_ms < before;
    let is_kept = |added_ms: i64| !is_old(added_ms) && added_ms <= now;
    let young = events.iter().position(|(_, added_ms)| is_kept(*added_ms));
    let before = &events[..young.unwrap_or(events.len())];
    let last = before.iter().rposition(|(_, added_ms)| is_old(*added_ms))?;
    Some((events[last].0, last as u64 + 1))
}

/// Returns the last event if they are as many as are looked at once, and all from later than now: behind them is one that
/// tells whether they are old.
pub(super) fn all_ahead(events: &[(i64, i64)], now: Timestamp) -> Option<i64> {
    let now = ms_to_column(now);
    let is_full = i64::try_from(events.len()).is_ok_and(|len| len >= PURGE_MAX);
    let is_ahead = events.iter().all(|(_, added_ms)| *added_ms > now);
    events.last().map(|(revision, _)| *revision).filter(|_| is_full && is_ahead)
}

/// Row of a search for news.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct NewsRow {
    write_id: Uuid,
    pub(super) tx_id: Uuid,
    version: i64,
    kind: i16,
    ended_ms: Option<i64>,
    before: Option<i16>,
    forgotten_ms: Option<i64>,
}

/// Returns the first write of a range that was not looked at, if at most so many rows were asked for.
pub(super) fn reached(found: &[NewsRow], limit: usize, until: Uuid) -> Uuid {
    let last = found.last().filter(|_| found.len() >= limit);
    last.map_or(until, |row| Uuid::from_u128(row.write_id.as_u128().saturating_add(1)))
}

/// Puts the rows that were found and their transactions together.
pub(super) fn news(rows: Vec<NewsRow>, read: Vec<Read>) -> Vec<News> {
    let read = read.into_iter().map(|read| {
        let tx_id = read.tx_id;
        (tx_id, read.with_events())
    });
    let read: HashMap<Uuid, _> =
        read.map(|(tx_id, (found, events))| (tx_id, (Arc::new(found), events))).collect();
    let news = rows.into_iter().map(|row| {
        let version = Version(row.version);
        let known = read.get(&row.tx_id);
        let none = || Arc::new(Read::without_rows(row.tx_id).into_found());
        let events = known.into_iter().flat_map(|(_, events)| events);
        News {
            write_id: row.write_id,
            tx_id: TxId(row.tx_id),
            version,
            row: Standing::of(row.kind),
            before: row.before.map(Standing::of),
            ended_at: row.ended_ms.map(ms_from_column),
            forgotten_at: row.forgotten_ms.map(ms_from_column),
            found: known.map_or_else(none, |(found, _)| Arc::clone(found)),
            events: events.filter(|(of, _)| *of == version).map(|(_, e)| e.clone()).collect(),
        }
    });
    news.collect()
}

/// Completes the search for rows that may tell of something.
macro_rules! select_news {
    ($($rest:tt)*) => {
        concat!(
            "
SELECT write_id, tx_id, version, CAST(kind & 255 AS smallint) AS kind, ended_ms, (
    SELECT CAST(before.kind & 255 AS smallint) FROM log AS before
    WHERE before.tx_id = entry.tx_id AND before.follows < entry.follows
    ORDER BY before.follows DESC LIMIT 1) AS before, (
    SELECT max(at_ms) FROM events AS act
    WHERE act.tx_id = entry.tx_id AND act.version = entry.version AND act.kind = 'forgotten') AS forgotten_ms
FROM log AS entry
WHERE kind & 128 <> 0",
            $($rest)*
        )
    };
}
pub(super) use select_news;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(write: u128, tx: u128) -> NewsRow {
        let (write_id, tx_id) = (Uuid::from_u128(write), Uuid::from_u128(tx));
        let (ended_ms, before, forgotten_ms) = (None, None, None);
        NewsRow { write_id, tx_id, version: 1, kind: 0, ended_ms, before, forgotten_ms }
    }

    #[test]
    fn events_go_by_their_age_and_those_of_a_wrong_clock_with_their_neighbours() {
        let up_to = |added: &[i64]| {
            let events: Vec<_> = (1..).zip(added.iter().copied()).collect();
            purged_up_to(&events, Duration::from_millis(50), Timestamp(100))
        };
        assert_eq!(up_to(&[]), None);
        assert_eq!(up_to(&[50, 10]), None, "what comes behind a young one stays");
        assert_eq!(up_to(&[10, 49, 50, 20]), Some((2, 2)));
        assert_eq!(up_to(&[101]), None, "nobody knows how old it is");
        assert_eq!(up_to(&[i64::MAX, 900, 49, 101, 60]), Some((3, 3)));
        assert_eq!(up_to(&[10, 900, 100, 10]), Some((1, 1)));
    }

    #[test]
    fn l5_a_look_is_bounded_in_bytes_and_takes_a_row_at_least() {
        let all = || vec![row(1, 1), row(2, 2), row(3, 1), row(4, 3)];
        let left = |sizes: [i64; 3]| {
            let sizes = (1..).zip(sizes).map(|(tx, size)| (Uuid::from_u128(tx), size)).collect();
            let mut found = all();
            let left = cut_to_bytes(&mut found, &sizes);
            assert_eq!(found.len() + left.len(), all().len());
            left.into_iter().map(|id| id.as_u128()).collect::<Vec<_>>()
        };
        let max = NEWS_BYTES_MAX;
        assert_eq!(left([1, 1, 1]), []);
        assert_eq!(left([max / 2, max / 2, 1]), [4], "a transaction counts once");
        assert_eq!(left([max, 1, 1]), [2, 3, 4]);
        assert_eq!(left([2 * max, 1, i64::MAX]), [2, 3, 4], "the first one is taken");
    }
}
