//! Reader of the feed for one stream.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tonic::Status;
use unanimo_proto::v1;

use super::super::error::{from_engine, revision_unknown};
use super::{Choice, Sight, shown};
use crate::api::namespace::Told as _;
use crate::engine::Error;
use crate::feed::{Event, Follower, Told};
use crate::store::{Feed, FeedRow, Store, in_full};

/// Events that were not asked for after which a message tells how far the stream is.
const PASSED_MAX: u64 = 1_000;

/// Pause after a failure to read; the stream goes on.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Times of a reader.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// For so long a part is kept for who reads it. After that it is let go, and read again once there is room.
    patience: Duration,
    /// So often it is looked whether the caller may still read.
    look: Duration,
    /// After so long a message tells how far the stream is, if it is further than was told.
    progress: Duration,
}

const TIMES: Times = Times {
    patience: Duration::from_millis(20),
    look: Duration::from_secs(60),
    progress: Duration::from_secs(10 * 60),
};

/// Tells which transactions the caller may see by now.
pub(super) type May = Box<dyn Fn() -> Result<Sight, Status> + Send + Sync>;

type Sender = mpsc::Sender<Result<v1::WatchTransactionsResponse, Status>>;

/// End of a stream: with a status, or because nobody reads it.
type End = Option<Status>;

/// Owner of a feed.
pub(super) trait Source: Send + Sync {
    fn feed(&self) -> &dyn Feed;
}

impl Source for Arc<dyn Store> {
    fn feed(&self) -> &dyn Feed {
        (**self).feed()
    }
}

/// Reader of the feed for one stream.
pub(super) struct Reader<S> {
    source: S,
    follower: Follower,
    may: May,
    choice: Choice,
    /// The last revision that was read.
    seen: u64,
    /// The last one that was sent, and when.
    told: (u64, Instant),
    /// Events since the last message.
    passed: u64,
    sender: Sender,
    times: Times,
}

impl<S: Source> Reader<S> {
    pub(super) fn new(
        (source, follower): (S, Follower),
        may: May,
        choice: Choice,
        seen: u64,
        sender: Sender,
    ) -> Self {
        let told = (seen, Instant::now());
        Self { source, follower, may, choice, seen, told, passed: 0, sender, times: TIMES }
    }

    /// Sends events until the coordinator stops, the caller may not read any more, or nobody reads.
    pub(super) async fn run(mut self) {
        let Err(end) = self.follow().await;
        if let Some(status) = end {
            let _ = self.sender.send(Err(status)).await;
        }
    }

    async fn follow(&mut self) -> Result<Infallible, End> {
        self.tell_place().await?;
        loop {
            let news = timeout(self.times.look, self.news()).await;
            self.look()?;
            if let Ok(last) = news {
                let is_read = self.read(last?).await?;
                if !is_read {
                    self.wait_for_room().await?;
                }
            }
            let (told, at) = self.told;
            if self.passed >= PASSED_MAX
                || (self.seen > told && at.elapsed() >= self.times.progress)
            {
                self.tell_place().await?;
            }
        }
    }

    /// Looks whether the caller may still read, and what.
    fn look(&mut self) -> Result<(), End> {
        self.choice.sight = (self.may)().map_err(Some)?;
        Ok(())
    }

    /// Waits until there is an event that was not read, and returns the last revision.
    async fn news(&mut self) -> Result<u64, End> {
        let seen = self.seen;
        let is_new = |told: &Told| match told {
            Told::Nothing => false,
            Told::UpTo(ends) => ends.last > seen,
            Told::Over => true,
        };
        match self.follower.wait_for(is_new).await {
            Some(Told::UpTo(ends)) => Ok(ends.last),
            _ => Err(Some(from_engine(Error::Stopped))),
        }
    }

    /// Sends what was asked for of a part, and tells whether the reader has taken it. Nothing is told of a failure that
    /// passes.
    async fn read(&mut self, last: u64) -> Result<bool, End> {
        let part = self.follower.part(self.source.feed(), (self.seen, last)).await;
        let part = part.unwrap_or_else(|error| {
            tracing::debug!(error = in_full(&error), "failed to read events");
            None
        });
        let Some(part) = part else {
            tokio::time::sleep(RETRY_PAUSE).await;
            return Ok(true);
        };
        if part.purged > self.seen {
            let ends = crate::store::FeedEnds { purged: part.purged, last };
            return Err(Some(revision_unknown(self.seen, ends)));
        }
        let seen = self.seen;
        for row in part.events.iter().filter(|row| row.revision > seen) {
            match self.chosen(row) {
                None => self.passed += 1,
                Some(event) => {
                    let Ok(room) = timeout(self.times.patience, self.sender.reserve()).await else {
                        return Ok(false);
                    };
                    let revision = row.revision;
                    let response = v1::WatchTransactionsResponse { revision, event: Some(event) };
                    room.map_err(|_| None)?.send(Ok(response));
                    (self.told, self.passed) = ((revision, Instant::now()), 0);
                }
            }
            self.seen = row.revision;
        }
        self.seen = self.seen.max(part.reached);
        Ok(true)
    }

    /// Tells how far the stream is.
    async fn tell_place(&mut self) -> Result<(), End> {
        self.wait_for_room().await?;
        let response = v1::WatchTransactionsResponse { revision: self.seen, event: None };
        self.sender.send(Ok(response)).await.map_err(|_| None)?;
        (self.told, self.passed) = ((self.seen, Instant::now()), 0);
        Ok(())
    }

    /// Waits until the reader has taken the last message.
    async fn wait_for_room(&mut self) -> Result<(), End> {
        loop {
            let room = timeout(self.times.look, self.sender.reserve()).await;
            match room.map(|room| room.map(drop)) {
                Ok(room) => return room.map_err(|_| None),
                Err(_) => self.look()?,
            }
        }
    }

    fn chosen(&self, row: &FeedRow) -> Option<v1::TransactionEvent> {
        let event = Event::read(&row.body).filter(|event| self.choice.takes(event))?;
        let mut told = shown(row, event);
        self.choice.sight.namespace.iter().for_each(|namespace| told.take_off(namespace));
        Some(told)
    }
}
