//! Feed for tests: it is only read, and counts the reads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use unanimo_core::{Incarnation, Timestamp};

use crate::store::{
    Error, Feed, FeedCursor, FeedEnds, FeedPage, FeedRow, NewEvent, NewsFound, NewsOf,
};

/// Feed that holds these events.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) events: Vec<FeedRow>,
    pub(crate) last: u64,
    /// Reads now, and the most at once.
    pub(crate) now: AtomicUsize,
    pub(crate) most: AtomicUsize,
    /// All reads.
    pub(crate) reads: AtomicUsize,
}

#[async_trait]
impl Feed for Fake {
    async fn page(&self, after: u64, limit: u32) -> Result<FeedPage, Error> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.reads.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        let behind = self.events.iter().filter(|row| row.revision > after);
        let ends = FeedEnds { purged: 0, last: self.last };
        Ok(FeedPage { events: behind.take(limit as usize).cloned().collect(), ends })
    }

    async fn cursors(&self, _: Incarnation) -> Result<Vec<FeedCursor>, Error> {
        unreachable!("it is read only")
    }

    async fn news(&self, _: NewsOf, _: u32) -> Result<NewsFound, Error> {
        unreachable!("it is read only")
    }

    async fn advance(
        &self,
        _: Incarnation,
        _: FeedCursor,
        _: Timestamp,
        _: u64,
        _: Vec<NewEvent>,
    ) -> Result<Option<u64>, Error> {
        unreachable!("it is read only")
    }

    async fn finish(&self, _: Incarnation, _: Incarnation) -> Result<(), Error> {
        unreachable!("it is read only")
    }

    async fn purge(&self, _: Incarnation, _: Duration, _: Timestamp) -> Result<u64, Error> {
        unreachable!("it is read only")
    }
}
