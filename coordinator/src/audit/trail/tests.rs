//! Tests of the writer, on a store.

mod lost;
mod tampered;

use std::sync::atomic::{AtomicU64, Ordering};

use unanimo_core::{Timestamp, TxId};

use super::*;
use crate::audit::{Verifier, hash_of};
use crate::env::SystemEnv;
use crate::store::{AuditRange, AuditRow, PostgresOptions};

/// Time of day that a test sets.
#[derive(Debug)]
struct Hands(AtomicU64);

impl Env for Hands {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn tx_id(&self, now: Timestamp) -> TxId {
        SystemEnv.tx_id(now)
    }
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Trail {
    async fn write(&self, entry: Entry) -> Result<u64, Unwritten> {
        let mut end = self.0.end.lock().await;
        self.add(&mut end, &[entry], None, None).await
    }
}

struct Desk {
    trail: Trail,
    clock: Arc<Hands>,
    store: Arc<dyn Store>,
    _folder: tempfile::TempDir,
}

impl Desk {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("c.db").display());
        let store = store::open(&url, &PostgresOptions::default()).await.expect("a store");
        let lease = Duration::from_secs(5);
        let me = store.incarnations().create("one", 0, lease).await.expect("a store");
        let me = me.expect("nobody else is created");
        let clock = Arc::new(Hands(AtomicU64::new(1_000 * DAY_MS)));
        let (env, metrics) = (Arc::clone(&clock) as _, Arc::default());
        let trail = Trail::new(Arc::clone(&store), env, metrics, me);
        Self { trail, clock, store, _folder: folder }
    }

    async fn write(&self, count: u64) -> u64 {
        let entry = Entry { count, ..Entry::new(Kind::Denied) };
        self.trail.write(entry).await.expect("it is written")
    }

    /// Checks the chain, and returns the numbers that are there.
    async fn verify(&self) -> Result<Vec<u64>, crate::audit::Broken> {
        let ends = self.store.audit().ends().await.expect("ends");
        let rows = self.store.audit().page(AuditRange::After(0), 9_999).await.expect("entries");
        let mut verifier = Verifier::new(ends.purged, None);
        let mut numbers = Vec::new();
        for row in rows {
            verifier.take(&row.link, row.at, &row.body)?;
            numbers.push(row.link.number);
        }
        verifier.end(&ends.last).map(|()| numbers)
    }

    fn days(&self, days: u64) -> Timestamp {
        Timestamp(self.clock.0.fetch_add(days * DAY_MS, Ordering::SeqCst) + days * DAY_MS)
    }
}

#[tokio::test]
async fn what_is_older_than_the_retention_goes_and_the_chain_is_whole() {
    let desk = Desk::new().await;
    for number in 1..=3 {
        assert_eq!(desk.write(number).await, number);
    }
    let now = desk.days(365);
    assert_eq!(desk.trail.purge(now, YEAR).await.expect("no purge"), 0, "not a day past it");
    assert_eq!(desk.write(4).await, 4);
    let now = desk.days(2);
    assert_eq!(desk.trail.purge(now, YEAR).await.expect("a purge"), 3);
    assert_eq!(desk.verify().await, Ok(vec![4, 5]), "the entry about the purge is one");
    assert_eq!(desk.trail.purge(now, YEAR).await.expect("no purge"), 0);
    assert_eq!(desk.write(6).await, 6);
    // All of it, with the entry about the former purge.
    let now = desk.days(400);
    assert_eq!(desk.trail.purge(now, YEAR).await.expect("a purge"), 3);
    assert_eq!(desk.verify().await, Ok(vec![7]));
}

#[tokio::test]
async fn a_chain_that_is_broken_is_evidence_and_stays() {
    let desk = Desk::new().await;
    desk.write(1).await;
    // An entry that the writer did not make.
    let me = desk.trail.0.me;
    let last = desk.store.audit().ends().await.expect("ends").last;
    let link = AuditLink { number: 2, hash: vec![7; 32] };
    let forged = AuditRow { link, at: Timestamp(0), body: b"forged".to_vec() };
    let added = desk.store.audit().append(me, last, vec![forged], None).await;
    assert!(added.expect("a store"));
    let now = desk.days(400);
    assert_eq!(desk.trail.purge(now, YEAR).await.expect("no purge"), 0);
    assert_eq!(desk.verify().await, Err(crate::audit::Broken::Changed(2)));
    // Who adds behind somebody else does not stop at the end that it remembers.
    assert_eq!(desk.write(3).await, 3);
}

#[tokio::test]
async fn entries_of_many_writers_are_one_chain() {
    let desk = Desk::new().await;
    let writers = (0..8).map(|_| async {
        let mut numbers = Vec::new();
        for count in 0..5 {
            numbers.push(desk.write(count).await);
            // A writer that goes away in the middle leaves nobody behind a wrong end.
            let dropped = desk.trail.write(Entry::new(Kind::Asked));
            let _ = tokio::time::timeout(Duration::from_micros(50), dropped).await;
        }
        numbers
    });
    let mut numbers = Vec::new();
    let writers: Vec<_> = writers.map(Box::pin).collect();
    for written in join(writers).await {
        numbers.extend(written);
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 40, "each has a number of its own");
    // One that was dropped may still be on its way, and is in its place.
    let whole = desk.write(0).await;
    let found = desk.verify().await.expect("a chain");
    assert!(found.len() as u64 >= whole, "without a gap");
}

/// Runs all at once.
async fn join<F: Future + Unpin>(mut all: Vec<F>) -> Vec<F::Output> {
    let mut done: Vec<Option<F::Output>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, done) in all.iter_mut().zip(&mut done) {
            if done.is_none() {
                match std::pin::Pin::new(future).poll(context) {
                    std::task::Poll::Ready(output) => *done = Some(output),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn what_waits_is_written_later_and_at_the_end() {
    let desk = Desk::new().await;
    let denied = |act: &str| Entry { act: act.to_owned(), ..Entry::new(Kind::Denied) };
    desk.trail.later(Entry::new(Kind::Changed));
    for _ in 0..3 {
        desk.trail.denied(denied("x"));
    }
    let running = tokio::spawn(desk.trail.clone().run());
    while desk.store.audit().ends().await.expect("ends").last.number < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.abort();
    desk.trail.denied(denied("x"));
    desk.trail.denied(denied("x"));
    desk.trail.finish().await;
    let rows = desk.store.audit().page(AuditRange::After(0), 9).await.expect("entries");
    let told = rows.iter().map(|row| Entry::decode(&row.body).expect("an entry"));
    let told: Vec<_> = told.map(|entry| (entry.kind, entry.count)).collect();
    assert_eq!(told, [(Kind::Changed, 0), (Kind::Denied, 3), (Kind::Denied, 2)]);
    desk.verify().await.expect("a chain");
}
