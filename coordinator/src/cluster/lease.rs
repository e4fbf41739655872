//! The lease: how long this incarnation may go on without news from the database.
//!
//! A renewal moves the heartbeat's counter. A rival that sees it stand still for one lease, by its
//! own monotonic clock, may fence. So this incarnation stops deciding and sending one margin before
//! that, counted from the *sending* of the last renewal that was acknowledged. No clock is compared
//! with another's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use unanimo_core::Incarnation;

use crate::store::{self, Store};

/// Renewals within one lease: two of them may be lost.
const RENEWALS_PER_LEASE: u32 = 3;

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
    epoch: Instant,
    /// Nanoseconds after `epoch`.
    held_until: AtomicU64,
    renewed: Notify,
}

impl Lease {
    fn new() -> Self {
        let shared =
            Shared { epoch: Instant::now(), held_until: AtomicU64::new(0), renewed: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Tells whether this incarnation may decide and send.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let now = nanos(self.shared.epoch.elapsed());
        now < self.shared.held_until.load(Ordering::Acquire)
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

    fn hold_until(&self, until: Instant) {
        let nanos = nanos(until.saturating_duration_since(self.shared.epoch));
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
    let service = Service { store, me, length, lease: Lease::new() };
    service.acknowledged(created_at);
    (service.lease.clone(), service)
}

impl Service {
    fn acknowledged(&self, sent: Instant) {
        self.lease.hold_until(sent + self.length - self.length / MARGIN_PARTS);
    }

    /// Runs until the incarnation is fenced.
    pub async fn run(self) -> Fenced {
        let mut ticks = tokio::time::interval(self.length / RENEWALS_PER_LEASE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let sent = Instant::now();
            match self.store.incarnations().renew(self.me).await {
                Ok(()) => self.acknowledged(sent),
                Err(store::Error::Fenced(_)) => return fenced(&*self.store, self.me).await,
                Err(error) => {
                    let held = self.lease.is_held();
                    let error = store::in_full(&error);
                    tracing::warn!(error, held, "failed to renew the lease");
                }
            }
        }
    }
}

/// Who fenced an incarnation that is known to be fenced.
pub async fn fenced(store: &dyn Store, incarnation: Incarnation) -> Fenced {
    let by = match store.incarnations().fenced_by(incarnation).await {
        Ok(Some(by)) if !by.is_empty() => by,
        _ => "by an unknown rival".to_owned(),
    };
    Fenced { incarnation, by }
}
