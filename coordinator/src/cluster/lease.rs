//! The lease: how long this incarnation may go on without news from the database.
//!
//! A renewal moves the heartbeat's counter. A rival that sees it stand still for one lease, by its
//! own monotonic clock, may fence. So this incarnation stops deciding and sending one margin before
//! that, counted from the *sending* of the last renewal that was acknowledged. No clock is compared
//! with another's. The time for which the machine sleeps counts, where the system tells it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use unanimo_core::Incarnation;

use crate::store::{self, Store};
use crate::suspension::{self, Moment};

/// Renewals within one lease. One is given up when the next one is due, which is below a third of the
/// lease: so one that hangs is followed by another one while the lease still holds.
const RENEWALS_PER_LEASE: u32 = 4;

/// A renewal that failed at once is tried again after this part of the lease.
const RETRIES_PER_LEASE: u32 = 20;

/// The margin is this part of the lease. It covers what was sent just before silence: a call on its
/// way, a scheduler that did not run us.
const MARGIN_PARTS: u32 = 4;

/// The lease, as the parts that need it see it. Cheap to clone, and to ask.
#[derive(Clone, Debug)]
pub struct Lease {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    epoch: Moment,
    /// Nanoseconds after `epoch`, sleep of the machine included.
    held_until: AtomicU64,
    renewed: Notify,
    /// Failure of the last renewal; none if it succeeded.
    failure: Mutex<Option<Failure>>,
}

/// Failure of a renewal.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The failure in words that fit after "failed to".
    pub text: String,
    /// There is no space for writes.
    pub is_full: bool,
}

impl Lease {
    fn new(epoch: Moment) -> Self {
        let (held_until, renewed, failure) = (AtomicU64::new(0), Notify::new(), Mutex::default());
        let shared = Shared { epoch, held_until, renewed, failure };
        Self { shared: Arc::new(shared) }
    }

    /// Tells whether this incarnation may decide and send.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.is_held_at(Moment::now())
    }

    fn is_held_at(&self, moment: Moment) -> bool {
        let now = nanos(moment.since(self.shared.epoch));
        now < self.shared.held_until.load(Ordering::Acquire)
    }

    /// Returns why the last renewal failed; nothing if it succeeded.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, failure: Option<Failure>) {
        *self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Waits until it may.
    pub async fn held(&self) {
        loop {
            let renewed = self.shared.renewed.notified();
            if self.is_held() {
                return;
            }
            renewed.await;
        }
    }

    /// Holds the lease for so long after a renewal was sent.
    fn hold(&self, sent: Moment, length: Duration) {
        let nanos = nanos(sent.since(self.shared.epoch) + length);
        self.shared.held_until.store(nanos, Ordering::Release);
        self.shared.renewed.notify_waiters();
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Renews the lease until the incarnation is fenced.
#[derive(Debug)]
pub struct Service {
    store: Arc<dyn Store>,
    me: Incarnation,
    length: Duration,
    lease: Lease,
}

/// The incarnation's right to write has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("incarnation {incarnation} was fenced {by}")]
pub struct Fenced {
    /// The fenced incarnation.
    pub incarnation: Incarnation,
    /// The rival, as a phrase that follows "fenced".
    pub by: String,
}

/// A lease that holds from `created_at` on, the time just before the birth was sent.
#[must_use]
pub fn lease(
    store: Arc<dyn Store>,
    me: Incarnation,
    length: Duration,
    created_at: Instant,
) -> (Lease, Service) {
    let epoch = Moment { at: created_at, suspended: suspension::suspended() };
    let service = Service { store, me, length, lease: Lease::new(epoch) };
    service.acknowledged(epoch);
    (service.lease.clone(), service)
}

impl Service {
    fn acknowledged(&self, sent: Moment) {
        self.lease.hold(sent, self.length - self.length / MARGIN_PARTS);
    }

    /// Runs until the incarnation cannot go on.
    pub async fn run(self) -> End {
        let interval = self.length / RENEWALS_PER_LEASE;
        // Since then each answer was that the tables are gone.
        let mut gone_since: Option<Instant> = None;
        loop {
            let sent = Moment::now();
            let pause = match self.store.incarnations().renew(self.me, interval).await {
                Ok(()) => {
                    self.acknowledged(sent);
                    self.lease.note(None);
                    gone_since = None;
                    interval
                }
                Err(store::Error::Fenced(_)) => {
                    return End::Fenced(fenced(&*self.store, self.me).await);
                }
                Err(error) if error.is_elsewhere() => {
                    return End::Elsewhere(store::in_full(&error));
                }
                // Somebody may be at it, such as a restore; after a lease it is no passing state.
                Err(error)
                    if error.is_gone()
                        && !self.lease.is_held()
                        && gone_since.is_some_and(|since| since.elapsed() >= self.length) =>
                {
                    return End::Elsewhere(store::in_full(&error));
                }
                Err(error) => {
                    gone_since = error.is_gone().then(|| gone_since.unwrap_or_else(Instant::now));
                    let is_full = error.is_full();
                    let (held, error) = (self.lease.is_held(), store::in_full(&error));
                    self.lease.note(Some(Failure { text: error.clone(), is_full }));
                    tracing::warn!(error, held, "failed to renew the lease");
                    self.length / RETRIES_PER_LEASE
                }
            };
            tokio::time::sleep_until(sent.at + pause).await;
        }
    }
}

/// Reason for which an incarnation cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was fenced.
    Fenced(Fenced),
    /// Its database is not there any more, or another one is in its place.
    Elsewhere(String),
}

/// Who fenced an incarnation that is known to be fenced.
pub async fn fenced(store: &dyn Store, incarnation: Incarnation) -> Fenced {
    let by = match store.incarnations().fenced_by(incarnation).await {
        Ok(Some(by)) if !by.is_empty() => by,
        _ => "by an unknown rival".to_owned(),
    };
    Fenced { incarnation, by }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S5: while the machine slept a rival may have fenced it.
    #[test]
    fn s5_a_lease_runs_out_while_the_machine_sleeps() {
        let epoch = Moment::now();
        let lease = Lease::new(epoch);
        let length = Duration::from_secs(15);
        lease.hold(epoch, length);
        let later = |awake: u64, asleep: u64| Moment {
            at: epoch.at + Duration::from_secs(awake),
            suspended: epoch.suspended + Duration::from_secs(asleep),
        };
        for (awake, asleep, held) in [
            (0, 0, true),
            (14, 0, true),
            (16, 0, false),
            (1, 13, true),
            (1, 15, false),
            (0, 3600, false),
        ] {
            assert_eq!(lease.is_held_at(later(awake, asleep)), held, "{awake} s, {asleep} s");
        }
        lease.hold(later(1, 3600), length);
        assert!(lease.is_held_at(later(2, 3600)));
    }
}
