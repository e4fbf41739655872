//! A participant: its endpoints, the choice among them, its breakers, and what it holds.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::health::{Failed, Standing};
use super::{CallKind, Options, read};
use crate::participants::breaker::Breaker;
use crate::participants::load::Load;

/// Between two looks for a free slot: an endpoint may be ejected, or come back, without a call's end.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A participant.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(super) endpoints: RwLock<Vec<Arc<Endpoint>>>,
    /// Phase two has lanes of its own: Prepares that wait for locks of branches in doubt must not
    /// starve the Commits that free them.
    lanes: [Lane; 2],
    load: Arc<Load>,
    pub(super) local: bool,
    pub(super) own: bool,
    /// It has registered with this coordinator, and not only with an earlier one.
    pub(super) heard: AtomicBool,
    /// When it was last told of.
    pub(super) touched: Mutex<Instant>,
    /// For the choice among endpoints.
    drawn: AtomicUsize,
}

#[derive(Debug)]
struct Lane {
    breaker: Mutex<Breaker>,
    /// Calls that wait for the breaker.
    waiting: AtomicUsize,
    /// There are calls of branches that do not fail among them.
    good: AtomicBool,
    /// A slot has become free.
    freed: Notify,
}

impl Lane {
    fn new(breaker: Breaker) -> Self {
        let (waiting, good) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { breaker: Mutex::new(breaker), waiting, good, freed: Notify::new() }
    }
}

impl Entry {
    pub(super) fn new(
        options: &Options,
        endpoints: Vec<Arc<Endpoint>>,
        own: bool,
        load: Arc<Load>,
    ) -> Self {
        let prepare = Breaker::new(options.prepare_pauses);
        let phase_two = Breaker::new(options.phase_two_pauses);
        Self {
            local: !endpoints.is_empty(),
            endpoints: RwLock::new(endpoints),
            lanes: [Lane::new(prepare), Lane::new(phase_two)],
            load,
            own,
            heard: AtomicBool::new(false),
            touched: Mutex::new(Instant::now()),
            drawn: AtomicUsize::new(0),
        }
    }

    /// Tells whether it is the coordinator itself.
    pub(crate) fn is_own(&self) -> bool {
        self.own
    }

    pub(crate) fn load(&self) -> &Arc<Load> {
        &self.load
    }

    pub(crate) fn breaker(&self, kind: CallKind) -> MutexGuard<'_, Breaker> {
        self.lanes[kind as usize].breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether any breaker is open.
    pub(crate) fn is_failing(&self) -> bool {
        CallKind::ALL.into_iter().any(|kind| self.breaker(kind).is_open())
    }

    pub(crate) fn waiting(&self, kind: CallKind) -> usize {
        self.lanes[kind as usize].waiting.load(Ordering::Relaxed)
    }

    /// Tells whether calls of branches that do not fail wait.
    pub(super) fn good_waits(&self, kind: CallKind) -> bool {
        self.lanes[kind as usize].good.load(Ordering::Relaxed)
    }

    pub(crate) fn set_waiting(&self, kind: CallKind, waiting: usize, good: bool) {
        let lane = &self.lanes[kind as usize];
        lane.waiting.store(waiting, Ordering::Relaxed);
        lane.good.store(good, Ordering::Relaxed);
    }

    /// Tells those who wait for a slot that there may be one.
    pub(super) fn endpoints_changed(&self) {
        self.lanes.iter().for_each(|lane| lane.freed.notify_waiters());
    }

    /// Takes a slot at one of the endpoints, and waits until there is one. Endpoints in `avoid` are the
    /// last choice. `None` if there is no endpoint at all.
    pub(crate) async fn take(
        self: &Arc<Self>,
        kind: CallKind,
        avoid: &[u64],
        gone_after: Duration,
    ) -> Option<Taken> {
        let freed = &self.lanes[kind as usize].freed;
        loop {
            let notified = freed.notified();
            match self.try_take(kind, avoid, gone_after) {
                Choice::Taken(taken) => return Some(taken),
                Choice::Nobody => return None,
                Choice::Full => {}
            }
            let _ = tokio::time::timeout(LOOK_INTERVAL, notified).await;
        }
    }

    fn try_take(self: &Arc<Self>, kind: CallKind, avoid: &[u64], gone_after: Duration) -> Choice {
        let now = Instant::now();
        let endpoints = read(&self.endpoints);
        let alive: Vec<_> = endpoints.iter().filter(|e| e.is_alive(now, gone_after)).collect();
        // What is owed is also sent where nothing was heard of lately, if there is nobody else.
        let candidates = if alive.is_empty() { endpoints.iter().collect() } else { alive };
        let offers: Vec<_> = candidates
            .into_iter()
            .map(|endpoint| {
                let (standing, hearsay, calls) = endpoint.offer(kind, now);
                let avoided = avoid.contains(&endpoint.id) && standing == Standing::Good;
                let standing = if avoided { Standing::Doubtful } else { standing };
                (standing, hearsay, calls, endpoint)
            })
            .collect();
        let Some(best) = offers.iter().map(|(standing, ..)| *standing).min() else {
            return Choice::Nobody;
        };
        // Those that have registered here come first; others if all slots of these are taken.
        for hearsay in [false, true] {
            let free: Vec<_> = offers
                .iter()
                .filter(|offer| offer.0 == best && offer.1 == hearsay)
                .filter_map(|(_, _, calls, endpoint)| calls.map(|calls| (calls, *endpoint)))
                .collect();
            if let Some(endpoint) = self.less_busy_of_two(&free)
                && endpoint.take(kind, now)
            {
                let (entry, endpoint) = (Arc::clone(self), Arc::clone(endpoint));
                return Choice::Taken(Taken { entry, endpoint, kind });
            }
        }
        Choice::Full
    }

    /// Draws two, and returns the one with fewer calls: nearly as even as the best of all, and many that
    /// choose at once do not choose the same.
    fn less_busy_of_two<'a>(
        &self,
        free: &[(usize, &'a Arc<Endpoint>)],
    ) -> Option<&'a Arc<Endpoint>> {
        let count = free.len();
        if count < 2 {
            return free.first().map(|(_, endpoint)| *endpoint);
        }
        let drawn = mixed(self.drawn.fetch_add(1, Ordering::Relaxed));
        let first = drawn % count;
        let second = (first + 1 + drawn / count % (count - 1)) % count;
        let (one, two) = (free[first], free[second]);
        Some(if two.0 < one.0 { two.1 } else { one.1 })
    }
}

/// A number that differs as if it were random (the finalizer of SplitMix64, Steele et al. 2014).
fn mixed(n: usize) -> usize {
    let mut z = (n as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    usize::try_from((z ^ (z >> 31)) >> 1).unwrap_or(0)
}

enum Choice {
    Taken(Taken),
    Full,
    Nobody,
}

/// A slot at an endpoint; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    entry: Arc<Entry>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) kind: CallKind,
}

impl Taken {
    /// Returns the endpoint's number.
    pub(crate) fn id(&self) -> u64 {
        self.endpoint.id
    }

    /// Returns the endpoint's address.
    pub(crate) fn url(&self) -> &str {
        &self.endpoint.url
    }

    /// The endpoint has answered.
    pub(crate) fn answered(&self) {
        self.endpoint.answered(Instant::now());
    }

    /// The call has failed. Returns the time for which the endpoint is passed over, if this begins.
    pub(crate) fn failed(&self, failed: Failed) -> Option<Duration> {
        self.endpoint.failed(failed, Instant::now())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.endpoint.release(self.kind);
        self.entry.lanes[self.kind as usize].freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::options;
    use super::super::{CallKind, Registered};
    use super::*;

    fn entry(urls: &[&str]) -> Arc<Entry> {
        let entry = Arc::new(Entry::new(&options(), Vec::new(), false, Arc::default()));
        for (id, url) in urls.iter().enumerate() {
            let endpoint = Arc::new(Endpoint::remote(id as u64, url, 2, Arc::default()));
            let registered = Registered { instance: (*url).to_owned(), ..Registered::default() };
            endpoint.seen(registered, Instant::now(), Duration::from_secs(9));
            entry.endpoints.write().unwrap_or_else(PoisonError::into_inner).push(endpoint);
        }
        entry
    }

    async fn take(entry: &Arc<Entry>, avoid: &[u64]) -> Option<Taken> {
        let taking = entry.take(CallKind::Prepare, avoid, Duration::from_secs(9));
        tokio::time::timeout(Duration::from_millis(100), taking).await.ok().flatten()
    }

    #[tokio::test]
    async fn slots_are_each_endpoints_own_and_free_ones_are_found() {
        let entry = entry(&["a", "b", "c"]);
        let mut taken = Vec::new();
        for _ in 0..6 {
            taken.push(take(&entry, &[]).await.expect("a slot"));
        }
        for id in 0..3 {
            assert_eq!(taken.iter().filter(|taken| taken.id() == id).count(), 2, "endpoint {id}");
        }
        assert!(take(&entry, &[]).await.is_none(), "all are taken");
        let freed = taken.swap_remove(0).id();
        assert_eq!(take(&entry, &[]).await.expect("a slot").id(), freed);
        let waiting = tokio::spawn(async move { take(&entry, &[]).await.map(|taken| taken.id()) });
        tokio::task::yield_now().await;
        let freed = taken.swap_remove(0).id();
        assert_eq!(waiting.await.expect("it ends"), Some(freed), "whoever waits gets it");
    }

    #[tokio::test]
    async fn what_failed_or_is_avoided_is_the_last_choice() {
        let entry = entry(&["a", "b"]);
        for _ in 0..20 {
            assert_eq!(take(&entry, &[0]).await.expect("a slot").id(), 1);
        }
        let one = loop {
            let taken = take(&entry, &[]).await.expect("a slot");
            if taken.id() == 1 {
                break taken;
            }
        };
        assert!(one.failed(Failed::Connect).is_some());
        drop(one);
        for _ in 0..20 {
            assert_eq!(take(&entry, &[0]).await.expect("a slot").id(), 0, "rather than ejected");
        }
        let zero = take(&entry, &[]).await.expect("a slot");
        assert!(zero.failed(Failed::Connect).is_some());
        drop(zero);
        assert!(take(&entry, &[]).await.is_some(), "all are ejected");
    }

    #[tokio::test]
    async fn work_is_spread_evenly() {
        let entry = entry(&["a", "b", "c"]);
        let mut counts = [0; 3];
        for _ in 0..3000 {
            let taken = take(&entry, &[]).await.expect("a slot");
            counts[usize::try_from(taken.id()).expect("small")] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
