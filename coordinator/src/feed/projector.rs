//! The projector: makes events of rows of the log, behind the work.
//!
//! Rows of one incarnation are found in the order of their writes, which are numbered when they are handed over; but they
//! can be seen in another order, because one may wait for a lock while later ones are made. So nothing is taken for whole
//! by its number alone. The journal knows of each write what became of it: the projector goes no further than where it knows
//! that of all, and notes those that are open for long by name, so that they hold up no others. What a fenced incarnation has
//! written is all to be seen once it is fenced.
//!
//! Events and the place up to which they were made are written in one step, so a crash between the two is none.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{Incarnation, TxId};
use uuid::Uuid;

use super::{Handle, event};
use crate::alarm::EVENTS_BEHIND;
use crate::env::Env;
use crate::metrics::Metrics;
use crate::store::journal::{self, Reach};
use crate::store::{Error, FeedCursor, FeedEnds, NewEvent, NewsOf, Store, in_full};

/// Pause between two looks at what the journal has written. A look that finds nothing costs no statement.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Longest pause after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Age from which on an open write holds up no others: writes take milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// Most writes that are noted as open. Each has 16 bytes in a row that is written with each batch of events.
const OPEN_MAX: usize = 1_000;

/// Bits of a revision that count within a process: more events than it makes.
const PROCESS_BITS: u32 = 32;

/// Rows that one step takes at most; the store bounds their bytes. After a failure it is half of it, down to one, so that a
/// step that takes longer than the database allows is not repeated as it was.
const NEWS_MAX: u32 = 256;

/// Lag from which on the alarm is raised.
const LAG_MAX: Duration = Duration::from_secs(60);

/// Returns the first revision of a process, whose successors go on one by one. A database that has gone back while no process
/// ran, or was restored, would give the lost revisions once more, for other events. So each process begins above all that the last one can
/// have given, and by chance: a revision that was lost is none of those that come.
fn beginning(last: u64, chance: u128) -> u64 {
    let above = (last >> PROCESS_BITS) + 1;
    let chance = u64::try_from(chance % (1 << (PROCESS_BITS - 1))).unwrap_or(0);
    (above << PROCESS_BITS) | chance
}

/// Returns the rows that the step after this one takes: half of it after a failure, and an eighth more after a success.
fn next_limit(limit: u32, is_done: bool) -> u32 {
    let next = if is_done { limit + limit / 8 + 1 } else { limit / 2 };
    next.clamp(1, NEWS_MAX)
}

/// Tells of rows that the database cannot read: the purge and the search for what is open tell of their transactions.
fn tell_unreadable(writes: &[Uuid]) {
    if let Some(first) = writes.first() {
        tracing::error!(
            rows = writes.len(),
            first_write = %first,
            "rows of the log cannot be read, and what they tell of has no event: the database is damaged"
        );
    }
}

/// Parts that a projector works with.
pub(crate) struct Parts {
    pub(crate) me: Incarnation,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) journal: journal::Handle,
}

/// The projector: to be run.
pub(crate) struct Service {
    parts: Parts,
    handle: Handle,
    /// Places up to which events were made, the own one last; none before they were read, and after a failure.
    cursors: Vec<FeedCursor>,
    /// The last revision.
    ends: FeedEnds,
    /// Generation of the server from which the places were read: one that was promoted since may lack some.
    generation: Option<u64>,
    /// Reach of the own writes when nothing was left to do.
    looked: Option<Reach>,
    /// Rows that the next step takes.
    limit: u32,
    /// Since when there is something to do.
    behind_since: Option<Instant>,
    told_behind: Option<Instant>,
}

impl Service {
    pub(crate) fn new(parts: Parts, handle: Handle) -> Self {
        let (cursors, ends, looked) = (Vec::new(), FeedEnds::default(), None);
        let (generation, behind_since, told_behind) = (None, None, None);
        let limit = NEWS_MAX;
        Self { parts, handle, cursors, ends, generation, looked, limit, behind_since, told_behind }
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        let mut pause = LOOK_INTERVAL;
        loop {
            let done = self.step().await;
            self.measure(matches!(done, Ok(false)));
            self.limit = next_limit(self.limit, done.is_ok());
            match done {
                Ok(true) => pause = LOOK_INTERVAL,
                Ok(false) => {
                    pause = LOOK_INTERVAL;
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
                // The successor goes on.
                Err(Error::Fenced(_)) => std::future::pending().await,
                Err(error) => {
                    let error = in_full(&error);
                    tracing::warn!(error, "failed to add to the feed of events; it is repeated");
                    // Nobody knows whether something was written: what is stored tells.
                    self.cursors.clear();
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Does a part of what is to be done, and tells whether there may be more.
    async fn step(&mut self) -> Result<bool, Error> {
        if self.parts.store.generation() != self.generation {
            self.cursors.clear();
        }
        let Some(own) = self.cursors.len().checked_sub(1) else {
            return self.open().await.map(|()| true);
        };
        if own > 0 {
            let (until, done) = (self.cursors[0].end(), self.cursors[0].incarnation);
            if !self.take(0, until, &[]).await? && !self.cursors.is_empty() {
                self.parts.store.feed().finish(self.parts.me, done).await?;
                self.cursors.remove(0);
            }
            return Ok(true);
        }
        let reach = self.parts.journal.reach(PATIENCE, OPEN_MAX);
        let Some(reach) = reach.filter(|reach| self.looked.as_ref() != Some(reach)) else {
            return Ok(false);
        };
        let more = self.take(own, reach.until, &reach.open).await?;
        if !more {
            self.looked = Some(reach);
        }
        Ok(more)
    }

    /// Reads the places, and writes the own one: what was read is as durable as that.
    async fn open(&mut self) -> Result<(), Error> {
        let Parts { me, store, env, .. } = &self.parts;
        let me = *me;
        self.generation = store.generation();
        let cursors = store.feed().cursors(me).await?;
        let (own, mut earlier): (Vec<_>, Vec<_>) =
            cursors.into_iter().partition(|cursor| cursor.incarnation == me);
        let mut own = own.into_iter().next().unwrap_or_else(|| FeedCursor::of(me, false));
        // Whoever lives makes its own events.
        earlier.retain(|cursor| cursor.is_fenced);
        let now = env.now();
        let stored = store.feed().page(u64::MAX, 0).await?.ends.last;
        let (mut above, mut mark) = (self.ends.last, Vec::new());
        if self.ends.last == 0 || stored < self.ends.last {
            let chance = env.tx_id(now).0.as_u128();
            above = beginning(stored.max(self.ends.last), chance) - 1;
            mark.push(NewEvent { tx_id: TxId(Uuid::nil()), body: Vec::new() });
        }
        let Some(last) = store.feed().advance(me, own.clone(), now, above, mark).await? else {
            return Ok(());
        };
        own.step += 1;
        let page = store.feed().page(last, 0).await?;
        earlier.push(own);
        self.cursors = earlier;
        self.looked = None;
        self.tell(FeedEnds { last, ..page.ends });
        Ok(())
    }

    /// Makes events of rows of an incarnation, up to the write `until` and without these, and tells whether there are
    /// more.
    async fn take(&mut self, index: usize, until: Uuid, open: &[Uuid]) -> Result<bool, Error> {
        let feed = self.parts.store.feed();
        let mut cursor = self.cursors[index].clone();
        let (mut still_open, mut closed): (Vec<Uuid>, Vec<Uuid>) =
            cursor.open.iter().partition(|id| open.contains(id));
        let left = closed.split_off(closed.len().min(self.limit as usize));
        let mut more = !left.is_empty();
        still_open.extend(left);
        let mut news = Vec::new();
        if !closed.is_empty() {
            let found = feed.news(NewsOf::Writes(closed), self.limit).await?;
            tell_unreadable(&found.unreadable);
            more |= !found.left.is_empty();
            still_open.extend(found.left);
            news = found.news;
        }
        if !more && cursor.next < until {
            let found = feed.news(NewsOf::Range(cursor.next, until), self.limit).await?;
            more = found.reached < until;
            tell_unreadable(&found.unreadable);
            news.extend(found.news.into_iter().filter(|news| !open.contains(&news.write_id)));
            still_open.extend(open.iter().filter(|id| (cursor.next..found.reached).contains(*id)));
            cursor.next = found.reached;
        }
        cursor.open = still_open;
        let now = self.parts.env.now();
        let events = news.iter().flat_map(|news| {
            let events = event::of(news, now);
            events.into_iter().map(|event| (event.kind, event.kept(news)))
        });
        let (kinds, events): (Vec<_>, Vec<NewEvent>) = events.unzip();
        if news.is_empty() {
            // What is stored is behind that, and loses nothing by it. No purge waits for it.
            self.cursors[index] = cursor;
            return Ok(more);
        }
        crash_point!("feed-before-advance");
        let (me, above) = (self.parts.me, self.ends.last);
        let last = feed.advance(me, cursor.clone(), now, above, events).await?;
        crash_point!("feed-after-advance");
        let Some(last) = last else {
            self.cursors.clear();
            return Ok(true);
        };
        cursor.step += 1;
        self.cursors[index] = cursor;
        kinds.into_iter().for_each(|kind| self.parts.metrics.event(kind.name()));
        self.tell(FeedEnds { last, ..self.ends });
        Ok(more)
    }

    fn tell(&mut self, ends: FeedEnds) {
        self.ends = ends;
        self.handle.tell(ends);
    }

    /// Measures the time for which there is something to do, and raises the alarm.
    fn measure(&mut self, is_done: bool) {
        if is_done {
            (self.behind_since, self.told_behind) = (None, None);
        } else {
            self.behind_since.get_or_insert_with(Instant::now);
        }
        let lag = self.behind_since.map_or(Duration::ZERO, |since| since.elapsed());
        self.parts.metrics.events_lag(lag);
        let is_told = self.told_behind.is_some_and(|told| told.elapsed() < LAG_MAX);
        if lag >= LAG_MAX && !is_told {
            self.told_behind = Some(Instant::now());
            tracing::error!(
                alarm = EVENTS_BEHIND,
                lag_secs = lag.as_secs(),
                "the feed of events is behind: what has happened since is told later"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l3_a_step_that_fails_is_smaller_the_next_time_and_grows_again() {
        let mut limit = NEWS_MAX;
        let mut taken = Vec::new();
        while limit > 1 {
            taken.push(limit);
            limit = next_limit(limit, false);
        }
        assert_eq!(taken, [256, 128, 64, 32, 16, 8, 4, 2]);
        assert_eq!(next_limit(1, false), 1, "one row at least");
        for _ in 0..64 {
            let next = next_limit(limit, true);
            assert!(next > limit || next == NEWS_MAX);
            limit = next;
        }
        assert_eq!(limit, NEWS_MAX);
    }

    #[test]
    fn s3_a_process_begins_above_all_that_the_last_one_gave_and_leaves_room() {
        const PROCESS: u64 = 1 << PROCESS_BITS;
        for last in [0, 1, PROCESS - 1, PROCESS, 5 * PROCESS + PROCESS / 2] {
            let first = beginning(last, 0);
            assert_eq!(first, (last / PROCESS + 1) * PROCESS);
            for chance in [1, 77, u128::MAX] {
                let other = beginning(last, chance);
                assert!(other > first, "it differs by chance");
                assert_eq!((other + PROCESS / 2) / PROCESS, first / PROCESS, "it has room");
            }
        }
    }
}
