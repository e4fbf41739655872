//! Birth of an incarnation.
//!
//! The live incarnations are read first. One of the same node name is fenced at once: whoever starts a
//! node a second time means it. One that has renewed its lease since it was read is read again first, whatever its
//! name: nobody is fenced who believes in a lease that is newer than what the rival has seen. One of another name is watched: while its heartbeat moves, this
//! process waits as a standby, for as long as that takes, and changes nothing; once the heartbeat has
//! stood still for one lease, or its process has left, it takes its place. Then the birth itself compares the
//! number of births with the one read at first, so of two at once one wins.
//!
//! Two supervised processes of one name would fence each other in turn. So one that is fenced while it is
//! alive leaves a note, and whoever finds that note about the last predecessor waits as if the name was
//! another one; so does one that has lost a race.
//!
//! Tables of an earlier version are changed between the fencing and the birth, when nobody may write. The
//! same rules hold before it and after it.
//!
//! A fact that does not change by waiting ends the wait: tables that a later version has changed meanwhile, or
//! that are another group's or in another place by now.

mod patience;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use unanimo_core::Incarnation;

pub(crate) use self::patience::Patience;
use self::watch::Watch;
use crate::store::{self, LiveIncarnation, Opening, Store};
use crate::suspension::Moment;

/// Longest pause between two looks at the heartbeats. Part of the time that it takes to adopt.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Pause between two log lines of a standby.
const STANDBY_LOG_PAUSE: Duration = Duration::from_secs(60);

/// A new incarnation, and the time just before its birth was sent.
#[derive(Clone, Copy, Debug)]
pub struct Created {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// From when on its lease is counted.
    pub at: Instant,
}

/// Process that wants to become an incarnation.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    /// Name of its node.
    pub node: &'a str,
    /// Length of its lease.
    pub lease: Duration,
    /// Hears for what it waits.
    pub told: &'a (dyn Fn(String) + Send + Sync),
}

impl std::fmt::Debug for Candidate<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { node, lease, told: _ } = self;
        f.debug_struct("Candidate").field("node", node).field("lease", lease).finish()
    }
}

impl Candidate<'_> {
    /// Opens the store. If its tables have to be changed, it is this process's turn first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn open(&self, opening: &dyn Opening) -> Result<Arc<dyn Store>, store::Error> {
        let mut patience = Patience::default();
        let (mut needs_turn, mut has_lost) = (opening.needs_turn(), false);
        loop {
            if needs_turn {
                self.take_turn(&Unopened(opening), has_lost, None).await?;
            }
            match opening.open().await {
                Ok(store) => return Ok(store),
                // Another process was created since.
                Err(store::Error::StillWritten { .. }) => {
                    (needs_turn, has_lost) = (true, true);
                    tokio::time::sleep(self.look_pause()).await;
                }
                Err(error) => patience.wait(error, self.told).await?,
            }
        }
    }

    /// Creates an incarnation, when it is this process's turn.
    ///
    /// # Errors
    /// The store failed.
    pub async fn create(&self, store: &dyn Store) -> Result<Created, store::Error> {
        let mut patience = Patience::default();
        let (mut has_lost, mut unproven) = (false, None);
        loop {
            let created = self.take_turn(&Opened(store), has_lost, unproven).await?;
            let sent = Moment::now();
            match store.incarnations().create(self.node, created, self.lease).await {
                Ok(Some(incarnation)) => {
                    crash_point!("birth-after-birth");
                    return Ok(Created { incarnation, at: sent.seen_now() });
                }
                Ok(None) => {
                    tracing::info!("another process started at the same moment, and was faster");
                    has_lost = true;
                }
                Err(error) => {
                    if let store::Error::UnprovenBirth { incarnation, .. } = &error {
                        unproven = Some(*incarnation);
                    }
                    patience.wait(error, self.told).await?;
                }
            }
        }
    }

    /// Waits until nobody else is alive, and fences everybody. Returns the number of births of that
    /// moment. An incarnation that this process itself has created, and that was not proven, is nobody.
    async fn take_turn(
        &self,
        rights: &dyn Rights,
        has_lost: bool,
        unproven: Option<Incarnation>,
    ) -> Result<i64, store::Error> {
        let mut patience = Patience::default();
        let mut watch = Watch::default();
        let mut standby = Standby::default();
        loop {
            let asked = Instant::now();
            let (created, live) = match rights.list().await {
                Ok(listed) => listed,
                Err(error) if error.is_lasting() => return Err(error),
                Err(error) => {
                    // What was not seen did not stand still.
                    watch = Watch::default();
                    match standby.since {
                        Some(_) => standby.is_blind(&error),
                        None => patience.wait(error, self.told).await?,
                    }
                    tokio::time::sleep(self.look_pause()).await;
                    continue;
                }
            };
            watch.saw(&live, asked);
            let (mut rival, mut not_known) = (None, None);
            for other in &live {
                let is_over = rights.is_alone()
                    || unproven == Some(other.incarnation)
                    || watch.silence(other) >= self.lease_of(other);
                if is_over {
                    continue;
                }
                if other.node != self.node || has_lost {
                    rival = Some(other);
                    continue;
                }
                match rights.has_displaced(other).await {
                    Ok(false) => {}
                    Ok(true) => rival = Some(other),
                    Err(error) if error.is_lasting() => return Err(error),
                    Err(error) => not_known = Some((other, error)),
                }
            }
            if rival.is_some() || not_known.is_some() {
                match (rival, not_known) {
                    (None, Some((other, error))) => standby.cannot_tell(other, &error, self),
                    (Some(rival), _) => standby.waits_for(rival, self),
                    (None, None) => {}
                }
                tokio::time::sleep(self.look_pause()).await;
                continue;
            }
            match self.fence_all(rights, &live).await {
                Ok(true) => return Ok(created),
                Ok(false) => {}
                Err(error) if standby.since.is_some() && !error.is_lasting() => {
                    standby.is_blind(&error);
                    tokio::time::sleep(self.look_pause()).await;
                }
                Err(error) => patience.wait(error, self.told).await?,
            }
        }
    }

    /// Fences all, and tells whether none has moved its heartbeat since it was seen.
    async fn fence_all(
        &self,
        rights: &dyn Rights,
        live: &[LiveIncarnation],
    ) -> Result<bool, store::Error> {
        for predecessor in live {
            let is_own = predecessor.node == self.node;
            let by = match is_own {
                true => format!("by its successor: node {} was started again", self.node),
                false => {
                    let (node, lease) = (self.node, self.lease_of(predecessor));
                    format!("by node {node}, which found it silent for {lease:?}")
                }
            };
            tracing::info!(
                incarnation = %predecessor.incarnation,
                node = predecessor.node,
                "fencing an earlier incarnation"
            );
            if !rights.fence_silent(predecessor, &by).await? {
                return Ok(false);
            }
            crash_point!("birth-after-fence");
        }
        Ok(true)
    }

    /// Returns the length of another one's lease, as it has stored it.
    fn lease_of(&self, other: &LiveIncarnation) -> Duration {
        other.lease.unwrap_or(self.lease)
    }

    fn look_pause(&self) -> Duration {
        (self.lease / 10).min(LOOK_PAUSE)
    }
}

/// Log lines of a standby so far.
#[derive(Debug, Default)]
struct Standby {
    since: Option<Instant>,
    logged: Option<Instant>,
}

impl Standby {
    fn waits_for(&mut self, rival: &LiveIncarnation, candidate: &Candidate<'_>) {
        self.since.get_or_insert_with(Instant::now);
        let node = &rival.node;
        let is_own = *node == candidate.node;
        let of_name = if is_own { "another process of node" } else { "node" };
        (candidate.told)(format!("it is a standby: {of_name} {node} serves the database"));
        if self.logged.is_some_and(|logged| logged.elapsed() < STANDBY_LOG_PAUSE) {
            return;
        }
        self.logged = Some(Instant::now());
        if is_own {
            tracing::warn!(
                node,
                "another process of this node's name serves the database, and processes of that name \
                 have fenced each other; this one waits as a standby: give each process a node name of \
                 its own"
            );
        } else {
            tracing::info!(
                node,
                "another node serves the database; this process waits as a standby, and takes its place once \
                 that one is silent for one lease, or stops"
            );
        }
    }

    /// Notes that nobody can tell whether the process of this node's name is to be fenced at once.
    fn cannot_tell(
        &mut self,
        other: &LiveIncarnation,
        error: &store::Error,
        candidate: &Candidate<'_>,
    ) {
        self.since.get_or_insert_with(Instant::now);
        let error = store::in_full(error);
        (candidate.told)(format!("it waits for its database: failed to {error}"));
        if self.logged.is_some_and(|logged| logged.elapsed() < STANDBY_LOG_PAUSE) {
            return;
        }
        self.logged = Some(Instant::now());
        tracing::warn!(
            error,
            incarnation = %other.incarnation,
            "failed to look whether the last process of this node's name has fenced another one; this process waits until \
             it can tell, or until that one is silent for one lease"
        );
    }

    fn is_blind(&self, error: &store::Error) {
        let error = store::in_full(error);
        tracing::warn!(error, "failed to look at the heartbeats; the standby goes on");
    }
}

/// Rights to write: of a store, or of tables that are not opened yet.
#[async_trait]
trait Rights: Send + Sync {
    /// Lists the number of births, and who may write.
    async fn list(&self) -> Result<(i64, Vec<LiveIncarnation>), store::Error>;

    /// Fences an incarnation if its heartbeat has not moved since it was listed. `false` if it has.
    async fn fence_silent(
        &self,
        predecessor: &LiveIncarnation,
        by: &str,
    ) -> Result<bool, store::Error>;

    /// Tells whether an incarnation has fenced one of its own node name that was alive.
    async fn has_displaced(&self, live: &LiveIncarnation) -> Result<bool, store::Error>;

    /// Tells whether no other process can have the database.
    fn is_alone(&self) -> bool;
}

struct Opened<'a>(&'a dyn Store);

#[async_trait]
impl Rights for Opened<'_> {
    async fn list(&self) -> Result<(i64, Vec<LiveIncarnation>), store::Error> {
        let list = self.0.incarnations().list().await?;
        Ok((list.created, list.live))
    }

    async fn fence_silent(
        &self,
        predecessor: &LiveIncarnation,
        by: &str,
    ) -> Result<bool, store::Error> {
        let LiveIncarnation { incarnation, counter, .. } = *predecessor;
        self.0.incarnations().fence_silent(incarnation, counter, by).await
    }

    async fn has_displaced(&self, live: &LiveIncarnation) -> Result<bool, store::Error> {
        self.0.incarnations().has_displaced(live).await
    }

    fn is_alone(&self) -> bool {
        self.0.incarnations().is_alone()
    }
}

struct Unopened<'a>(&'a dyn Opening);

#[async_trait]
impl Rights for Unopened<'_> {
    async fn list(&self) -> Result<(i64, Vec<LiveIncarnation>), store::Error> {
        let live = self.0.live().await?;
        // Another process may have changed the tables meanwhile: then nobody is in the way of their
        // opening, and the turn is taken after it.
        Ok((0, if self.0.needs_turn() { live } else { Vec::new() }))
    }

    async fn fence_silent(
        &self,
        predecessor: &LiveIncarnation,
        by: &str,
    ) -> Result<bool, store::Error> {
        let LiveIncarnation { incarnation, counter, .. } = *predecessor;
        self.0.fence_silent(incarnation, counter, by).await
    }

    async fn has_displaced(&self, live: &LiveIncarnation) -> Result<bool, store::Error> {
        self.0.has_displaced(live).await
    }

    fn is_alone(&self) -> bool {
        false
    }
}
