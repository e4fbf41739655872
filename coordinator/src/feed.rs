//! The feed: events of all transactions that have ended, are held up or were forgotten, each with a revision.
//!
//! A transaction writes nothing more for it. The projector follows the rows of the log behind the work, and makes
//! events of them; who follows the feed reads these.

pub(crate) mod event;
#[cfg(test)]
pub(crate) mod fake;
mod part;
mod places;
mod projector;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, watch};

pub use self::event::{Event, Kind};
pub(crate) use self::part::Part;
use self::part::ROWS_MAX;
pub(crate) use self::places::Place;
use self::places::Places;
pub use self::places::{STREAMS_MAX, STREAMS_OF_ONE_MAX};
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
    shared: Arc<Shared>,
}

/// State that those who follow share.
#[derive(Debug)]
struct Shared {
    reads: Semaphore,
    /// The newest part that was read: at the head all need the same.
    newest: Mutex<Option<Arc<Part>>>,
    places: Arc<Places>,
}

/// Handle for those who follow the feed. Cheap to clone. Whoever waits with it learns that the coordinator is gone.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    told: watch::Receiver<Told>,
    shared: Arc<Shared>,
}

impl Default for Handle {
    fn default() -> Self {
        let told = Arc::new(watch::Sender::new(Told::Nothing));
        let (reads, newest) = (Semaphore::new(READS_MAX), Mutex::default());
        Self { told, shared: Arc::new(Shared { reads, newest, places: Arc::default() }) }
    }
}

impl Handle {
    /// Returns a handle for those who follow.
    pub(crate) fn follower(&self) -> Follower {
        Follower { told: self.told.subscribe(), shared: Arc::clone(&self.shared) }
    }

    /// Ends the streams of all who follow; the coordinator is about to stop.
    pub(crate) fn end_watches(&self) {
        self.told.send_replace(Told::Over);
    }

    /// Tells those who follow of the ends of the feed.
    pub(crate) fn tell(&self, ends: FeedEnds) {
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
        let _turn = self.shared.reads.acquire().await;
        let page = feed.page(after, limit).await?;
        Ok(Some(page).filter(|page| page.ends.last >= told))
    }

    /// Takes a place for a stream of this caller; nothing if there is none.
    pub(crate) fn take_place(&self, caller: &str) -> Option<Place> {
        Places::take(&self.shared.places, caller)
    }

    /// Returns what comes behind a revision, as far as it goes in one part, and not beyond the revision `told`, up to which
    /// events are durable. Whoever waits for another one's read gets what that has read.
    pub(crate) async fn part(
        &self,
        feed: &dyn Feed,
        (after, told): (u64, u64),
    ) -> Result<Option<Arc<Part>>, Error> {
        if let Some(part) = self.newest(after) {
            return Ok(Some(part));
        }
        let _turn = self.shared.reads.acquire().await;
        if let Some(part) = self.newest(after) {
            return Ok(Some(part));
        }
        let page = feed.page(after, ROWS_MAX).await?;
        if page.ends.last < told {
            return Ok(None);
        }
        let part = Arc::new(Part::new((after, told), page));
        let mut newest = self.shared.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.as_ref().is_none_or(|newest| newest.reached < part.reached) {
            *newest = Some(Arc::clone(&part));
        }
        Ok(Some(part))
    }

    /// Returns the newest part, if it has what comes behind this revision.
    pub(crate) fn newest(&self, after: u64) -> Option<Arc<Part>> {
        let newest = self.shared.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.as_ref().filter(|part| part.has_behind(after)).map(Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::fake::Fake;
    use super::*;

    #[tokio::test]
    async fn however_many_follow_few_read_at_once() {
        let (follower, feed) = (Handle::default().follower(), Arc::new(Fake::default()));
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
    async fn l5_those_at_the_head_read_the_same_part_once() {
        let feed = Arc::new(Fake { last: 10, ..Fake::default() });
        let follower = Handle::default().follower();
        let reading = (0..50).map(|_| {
            let (follower, feed) = (follower.clone(), Arc::clone(&feed));
            tokio::spawn(async move { follower.part(&*feed, (5, 10)).await })
        });
        for read in reading.collect::<Vec<_>>() {
            let part = read.await.expect("it does not panic").expect("it is read");
            assert_eq!(part.expect("it is there").reached, 10);
        }
        let reads = feed.reads.load(Ordering::SeqCst);
        assert!(reads <= READS_MAX, "{reads} reads of one part");
        // Whoever is behind reads for itself, and takes it from nobody.
        assert!(follower.part(&*feed, (2, 3)).await.expect("it is read").is_some());
        assert_eq!(feed.reads.load(Ordering::SeqCst), reads + 1);
        assert!(follower.part(&*feed, (7, 10)).await.expect("it is read").is_some());
        assert_eq!(feed.reads.load(Ordering::SeqCst), reads + 1);
        // What is newer is read.
        assert!(follower.part(&*feed, (10, 11)).await.expect("it is read").is_none());
        assert_eq!(feed.reads.load(Ordering::SeqCst), reads + 2);
    }

    #[tokio::test]
    async fn s3_a_page_of_a_server_that_lags_behind_is_none() {
        let (follower, feed) = (Handle::default().follower(), Fake::default());
        let page = |told| follower.page(&feed, (0, told), 1);
        assert_eq!(page(0).await.expect("it is read"), Some(FeedPage::default()));
        assert_eq!(page(1).await.expect("it is read"), None, "its last revision is 0");
    }
}
