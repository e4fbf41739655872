//! The writer of the audit.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use unanimo_core::{Incarnation, Timestamp};

use super::chain::{Verifier, hash_of, hex};
use super::denials::Denials;
use super::entry::{Entry, Kind};
use crate::env::Env;
use crate::metrics::Metrics;
use crate::store::{self, AuditLink, AuditRange, AuditRow, Store, in_full};

/// Most entries that wait to be written without an act that waits for them. Files change once a second at most.
const WAITING_MAX: usize = 1024;

/// Most entries of one write.
const BATCH_MAX: usize = 256;

/// Pause between two looks at what waits.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Entries that one purge takes.
const PURGE_MAX: u32 = 1_000;

/// Time past the retention before a purge begins: so that there is an entry about a purge a day, and not one for
/// each entry that is purged.
const PURGE_SLACK: Duration = Duration::from_secs(24 * 60 * 60);

/// Attempts to add to the end of the chain. Somebody else is there before only if an answer of the database was lost.
const ATTEMPTS_MAX: u32 = 5;

/// Writer of the audit. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Trail(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    env: Arc<dyn Env>,
    metrics: Arc<Metrics>,
    me: Incarnation,
    /// The end of the chain, as this writer has left it. Whoever writes holds it: so entries are in one order.
    end: tokio::sync::Mutex<Option<AuditLink>>,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    denials: Denials,
    entries: VecDeque<Entry>,
}

impl fmt::Debug for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trail").field(&self.0.me).finish()
    }
}

impl Trail {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        env: Arc<dyn Env>,
        metrics: Arc<Metrics>,
        me: Incarnation,
    ) -> Self {
        let (end, waiting, wake) = Default::default();
        Self(Arc::new(Shared { store, env, metrics, me, end, waiting, wake }))
    }

    /// Writes an entry, and returns its number once it is durable.
    ///
    /// # Errors
    /// It was not written, or nobody knows.
    pub(crate) async fn write(&self, entry: Entry) -> Result<u64, store::Error> {
        self.append(vec![entry], None).await
    }

    /// Notes a denied call. It is written later, and delays nobody.
    pub(crate) fn denied(&self, entry: Entry) {
        if self.waiting().denials.note(entry, Instant::now()) {
            self.0.wake.notify_one();
        }
    }

    /// Notes an entry that is to be written as soon as it can be.
    pub(crate) fn later(&self, entry: Entry) {
        let mut waiting = self.waiting();
        if waiting.entries.len() >= WAITING_MAX {
            tracing::error!(reason = entry.reason, "an entry of the audit is lost: too many wait");
            return;
        }
        waiting.entries.push_back(entry);
        self.0.wake.notify_one();
    }

    /// Writes what waits, for as long as the process lives.
    pub(crate) async fn run(self) {
        loop {
            if self.is_idle() {
                self.0.wake.notified().await;
            } else {
                let _ = tokio::time::timeout(LOOK_INTERVAL, self.0.wake.notified()).await;
            }
            let now = Instant::now();
            let due = self.waiting().denials.due(now);
            if self.flush(due).await.is_err() {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        }
    }

    /// Writes all that waits, and what was counted.
    pub(crate) async fn finish(&self) {
        let due = self.waiting().denials.all(Instant::now());
        let _ = self.flush(due).await;
    }

    async fn flush(&self, denied: Vec<Entry>) -> Result<(), ()> {
        let entries: Vec<Entry> = {
            let mut waiting = self.waiting();
            let take = waiting.entries.len().min(BATCH_MAX);
            waiting.entries.drain(..take).collect()
        };
        let written = self.append_some(entries.clone()).await;
        if written.is_err() {
            let mut waiting = self.waiting();
            entries.into_iter().rev().for_each(|entry| waiting.entries.push_front(entry));
        }
        let mut failed = written.is_err();
        for some in denied.chunks(BATCH_MAX) {
            if failed || self.append_some(some.to_vec()).await.is_err() {
                failed = true;
                self.waiting().denials.put_back(some.to_vec(), Instant::now());
            }
        }
        if failed { Err(()) } else { Ok(()) }
    }

    async fn append_some(&self, entries: Vec<Entry>) -> Result<(), store::Error> {
        if entries.is_empty() {
            return Ok(());
        }
        self.append(entries, None).await.map(drop)
    }

    /// Removes entries that are older than the retention, and leaves an entry about it; returns their number. What is
    /// not as it was written is kept: it is evidence.
    pub(crate) async fn purge(
        &self,
        now: Timestamp,
        retention: Duration,
    ) -> Result<u64, store::Error> {
        let older_than = |period: Duration| {
            let ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
            now.0.saturating_sub(ms)
        };
        let cutoff = older_than(retention);
        let start = self.0.store.audit().ends().await?.purged;
        let rows = self.0.store.audit().page(AuditRange::After(start.number), PURGE_MAX).await?;
        let begins = older_than(retention.saturating_add(PURGE_SLACK));
        if rows.first().is_none_or(|first| first.at.0 >= begins) {
            return Ok(0);
        }
        let mut verifier = Verifier::new(start, None);
        let old: Vec<_> = rows.into_iter().take_while(|row| row.at.0 < cutoff).collect();
        for row in &old {
            if let Err(broken) = verifier.take(&row.link, row.at, &row.body) {
                tracing::error!(%broken, "the audit is not as it was written; nothing of it is purged");
                return Ok(0);
            }
        }
        let (last, count) = (verifier.last().clone(), old.len() as u64);
        let (of, reason) = (last.number, hex(&last.hash));
        let entry = Entry { of, reason, count, ..Entry::new(Kind::Purged) };
        self.append(vec![entry], Some(last)).await?;
        Ok(count)
    }

    /// Adds entries to the chain, and returns the number of the first one.
    async fn append(
        &self,
        entries: Vec<Entry>,
        purged: Option<AuditLink>,
    ) -> Result<u64, store::Error> {
        let mut end = self.0.end.lock().await;
        let appended = self.append_to(&mut end, &entries, purged).await;
        if let Err(error) = &appended {
            self.0.metrics.audit_failed();
            tracing::warn!(error = in_full(error), "failed to write the audit");
        }
        appended
    }

    async fn append_to(
        &self,
        end: &mut Option<AuditLink>,
        entries: &[Entry],
        purged: Option<AuditLink>,
    ) -> Result<u64, store::Error> {
        let store = &self.0.store;
        for _ in 0..ATTEMPTS_MAX {
            // Until it is written, nobody knows the end: this future may be dropped.
            let follows = match end.take() {
                Some(end) => end,
                None => store.audit().ends().await?.last,
            };
            let rows = self.rows(&follows, entries);
            let last = rows.last().map_or_else(|| follows.clone(), |row| row.link.clone());
            let first = follows.number + 1;
            if store.audit().append(self.0.me, follows, rows, purged.clone()).await? {
                for (number, entry) in (first..).zip(entries) {
                    log(number, entry);
                }
                tracing::info!(
                    target: "unanimo::audit",
                    number = last.number,
                    hash = hex(&last.hash),
                    "the audit has a new end"
                );
                *end = Some(last);
                return Ok(first);
            }
        }
        Err(store::Error::AuditMoves)
    }

    fn rows(&self, follows: &AuditLink, entries: &[Entry]) -> Vec<AuditRow> {
        let at = self.0.env.now();
        let mut before = follows.clone();
        let row = |entry: &Entry| {
            let (number, body) = (before.number + 1, entry.encode());
            before = AuditLink { number, hash: hash_of(&before.hash, number, at, &body) };
            AuditRow { link: before.clone(), at, body }
        };
        entries.iter().map(row).collect()
    }

    fn is_idle(&self) -> bool {
        let waiting = self.waiting();
        waiting.entries.is_empty() && waiting.denials.is_empty()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the log of an entry: whoever keeps the log elsewhere can compare.
fn log(number: u64, entry: &Entry) {
    let Entry { identity, operator, address, act, tx_id, gid, branch_id, outcome, count, .. } =
        entry;
    tracing::info!(
        target: "unanimo::audit",
        number, kind = entry.kind.name(), identity, operator, address, act, tx_id, gid, branch_id, outcome, count,
        "audited"
    );
}

#[cfg(test)]
mod tests;
