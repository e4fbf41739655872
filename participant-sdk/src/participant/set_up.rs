//! Set-up of a participant's database: the barrier's table, and what the service has to say.
//!
//! It comes behind phase two and the sweeper. A prepared transaction that a former life of the process left
//! behind holds locks until it is ended. Whoever asks for one of these, be it to add a column or to insert
//! a row that is there already, waits for it; and all who read the table wait behind.

use std::fmt;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use crate::action::{Broken, caught};
use crate::handler::BoxError;
use crate::resource::Resource;
use crate::schema;

/// Pause after the first wait for a lock that ended without it; it doubles with each.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Time of an attempt after which a person is told of it, again and again, if nothing else is said. It has no bound:
/// what a service sets up may take hours, and what a server that has vanished would answer is not told apart from that.
const TOLD_AFTER: Duration = Duration::from_secs(300);

/// Shortest such time: each is a line in the log.
const TOLD_AFTER_MIN: Duration = Duration::from_millis(10);

type Run<R> = dyn for<'c> Fn(
        &'c mut <R as Resource>::Connection,
    ) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'c>>
    + Send
    + Sync;

/// Set-up of the service's database.
pub(super) struct SetUp<R: Resource> {
    /// The service's own parts, in their order.
    own: Vec<Box<Run<R>>>,
    /// Time of an attempt after which a person is told of it.
    told_after: Duration,
}

impl<R: Resource> Default for SetUp<R> {
    fn default() -> Self {
        Self { own: Vec::new(), told_after: TOLD_AFTER }
    }
}

impl<R: Resource> fmt::Debug for SetUp<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetUp")
            .field("own", &self.own.len())
            .field("told_after", &self.told_after)
            .finish()
    }
}

impl<R: Resource> SetUp<R> {
    pub(super) fn add(&mut self, run: Box<Run<R>>) {
        self.own.push(run);
    }

    pub(super) fn tell_after(&mut self, time: Duration) {
        self.told_after = time.max(TOLD_AFTER_MIN);
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.own.is_empty()
    }

    /// Sets up, however long branches in doubt are in the way.
    pub(super) async fn run(&self, resource: &R, participant: &str) -> Result<(), Error> {
        let mut pause = PAUSE;
        loop {
            // The service's own code is called: its driver, and its set-up.
            let attempt = caught(self.attempt(resource));
            let panicked =
                |of: Broken| Err(Error::SetUp(format!("it panicked: {}", of.text()).into()));
            let in_the_way = match self.told(participant, attempt).await.unwrap_or_else(panicked) {
                Ok(()) => return Ok(()),
                Err(Error::Database(
                    error @ (schema::Error::InUse { .. } | schema::Error::Silent { .. }),
                )) => error.to_string(),
                Err(Error::SetUp(error)) if R::is_locked_out(&error) => error.to_string(),
                Err(error) => return Err(error),
            };
            tracing::warn!(
                participant,
                error = in_the_way,
                "the database is not set up yet: somebody holds a lock, perhaps a branch in doubt, or it does not \
                 answer; no Prepare is served before that"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(&self, resource: &R) -> Result<(), Error> {
        resource.make().await.map_err(Error::Database)?;
        // Each on a connection of its own, with the settings of a new one.
        for run in &self.own {
            let mut connection = resource.to_set_up().await.map_err(Error::Database)?;
            run(&mut connection).await.map_err(Error::SetUp)?;
        }
        Ok(())
    }

    /// Raises an alarm for as long as an attempt lasts too long.
    async fn told<T>(&self, participant: &str, attempt: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let mut attempt = pin!(attempt);
        loop {
            match tokio::time::timeout(self.told_after, &mut attempt).await {
                Ok(done) => return done,
                Err(_) => tracing::error!(
                    alarm = "set_up_lasts",
                    participant,
                    lasts = ?started.elapsed(),
                    "the set-up of the database has not ended; no Prepare is served before that: it takes long, or \
                     the database has vanished in the midst of it, and the process has to be started again"
                ),
            }
        }
    }
}
