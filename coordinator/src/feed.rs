//! The feed: events of all transactions that have ended, are held up or were forgotten, each with a revision.
//!
//! A transaction writes nothing more for it. The [projector](Service) follows the rows of the log behind the work, and makes
//! events of them; who follows the feed reads these.

pub(crate) mod event;
mod projector;

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

pub use self::event::{Event, Kind};
pub(crate) use self::projector::{Parts, Service};
use crate::store::{Error, Feed, FeedEnds, FeedPage};

/// Most reads of the feed at once, however many follow it: the others' connections are for those who ask.
const READS_MAX: usize = 2;

/// Ends of the feed, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing yet.
    #[default]
    Nothing,
    /// Events up to here are durable.
    UpTo(FeedEnds),
    /// The coordinator is about to stop.
    Over,
}

/// Handle of the coordinator itself. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    told: Arc<watch::Sender<Told>>,
    reads: Arc<Semaphore>,
}

/// Handle for those who follow the feed. Cheap to clone. Whoever waits with it learns that the coordinator is gone.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    told: watch::Receiver<Told>,
    reads: Arc<Semaphore>,
}

impl Default for Handle {
    fn default() -> Self {
        let told = Arc::new(watch::Sender::new(Told::Nothing));
        Self { told, reads: Arc::new(Semaphore::new(READS_MAX)) }
    }
}

impl Handle {
    /// Returns a handle for those who follow.
    pub(crate) fn follower(&self) -> Follower {
        Follower { told: self.told.subscribe(), reads: Arc::clone(&self.reads) }
    }

    /// Ends the streams of all who follow; the coordinator is about to stop.
    pub(crate) fn end_watches(&self) {
        self.told.send_replace(Told::Over);
    }

    fn tell(&self, ends: FeedEnds) {
        self.told.send_if_modified(|told| {
            let is_new = *told != Told::Over && *told != Told::UpTo(ends);
            if is_new {
                *told = Told::UpTo(ends);
            }
            is_new
        });
    }
}

impl Follower {
    /// Waits until the ends of the feed fit, and returns them; nothing once the coordinator is gone.
    pub(crate) async fn wait_for(&mut self, fits: impl FnMut(&Told) -> bool) -> Option<Told> {
        self.told.wait_for(fits).await.ok().map(|told| *told)
    }

    /// Reads at most so many events behind a revision, in turn with the others who follow. Nothing, if what was read does not
    /// go up to the revision `told`: the session is still with a server that was replaced.
    pub(crate) async fn page(
        &self,
        feed: &dyn Feed,
        (after, told): (u64, u64),
        limit: u32,
    ) -> Result<Option<FeedPage>, Error> {
        // Nobody closes it.
        let _turn = self.reads.acquire().await;
        let page = feed.page(after, limit).await?;
        Ok(Some(page).filter(|page| page.ends.last >= told))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use unanimo_core::{Incarnation, Timestamp};

    use super::*;
    use crate::store::{FeedCursor, NewEvent, NewsFound, NewsOf};

    /// Feed that counts the reads at once.
    #[derive(Debug, Default)]
    struct Counted {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    #[async_trait]
    impl Feed for Counted {
        async fn page(&self, _: u64, _: u32) -> Result<FeedPage, Error> {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::task::yield_now().await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            Ok(FeedPage::default())
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

        async fn purge(&self, _: Incarnation, _: Timestamp) -> Result<u64, Error> {
            unreachable!("it is read only")
        }
    }

    #[tokio::test]
    async fn however_many_follow_few_read_at_once() {
        let (follower, feed) = (Handle::default().follower(), Arc::new(Counted::default()));
        let reading = (0..50).map(|_| {
            let (follower, feed) = (follower.clone(), Arc::clone(&feed));
            tokio::spawn(async move { follower.page(&*feed, (0, 0), 1).await.map(drop) })
        });
        for read in reading.collect::<Vec<_>>() {
            read.await.expect("it does not panic").expect("it is read");
        }
        assert_eq!(feed.most.load(Ordering::SeqCst), READS_MAX);
    }

    #[tokio::test]
    async fn s3_a_page_of_a_server_that_lags_behind_is_none() {
        let (follower, feed) = (Handle::default().follower(), Counted::default());
        let page = |told| follower.page(&feed, (0, told), 1);
        assert_eq!(page(0).await.expect("it is read"), Some(FeedPage::default()));
        assert_eq!(page(1).await.expect("it is read"), None, "its last revision is 0");
    }
}
