//! Figures of a participant, for whatever shows them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::Status;

use super::InDoubt;
use crate::resource::{PhaseTwoAnswer, Voted};

/// Figures of a participant since it was made, and of what it holds in doubt: a snapshot, to be read as often
/// as it is shown. Counters only grow.
///
/// ```
/// use unanimo_sdk::Metrics;
///
/// /// Lines of Prometheus' text format.
/// fn lines(metrics: &Metrics) -> String {
///     let mut lines = format!("unanimo_in_doubt {}\n", metrics.in_doubt.count);
///     for (operation, of) in
///         [("prepare", metrics.prepare), ("commit", metrics.commit), ("cancel", metrics.cancel)]
///     {
///         for (answer, count) in [
///             ("done", of.done), ("refused", of.refused), ("working", of.working),
///             ("heuristic", of.heuristic), ("failed", of.failed),
///         ] {
///             lines += &format!(
///                 "unanimo_calls_total{{operation=\"{operation}\",answer=\"{answer}\"}} {count}\n"
///             );
///         }
///     }
///     lines
/// }
/// assert!(lines(&Metrics::default()).contains("answer=\"refused\"} 0"));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Prepares. A yes, and READ_ONLY, are done.
    pub prepare: Operations,
    /// Commits by the coordinator's calls.
    pub commit: Operations,
    /// Cancels by the coordinator's calls.
    pub cancel: Operations,
    /// Branches in doubt as the last sweep left them, and the number of sweeps. All zero where this process
    /// has no sweeper.
    pub in_doubt: InDoubt,
}

/// Calls of one operation, by their answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operations {
    /// A yes, or done.
    pub done: u64,
    /// The vote no.
    pub refused: u64,
    /// "Still working": to be called again.
    pub working: u64,
    /// An end that is not the decision's, or that nobody can tell.
    pub heuristic: u64,
    /// No answer, but an error: to be called again.
    pub failed: u64,
    /// Calls that wait for their answer now.
    pub at_work: u64,
    /// Time that calls took for their answers, all together. Calls that failed are not in it.
    pub took: Duration,
}

/// Figures as they are counted.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) prepare: Counters,
    pub(super) commit: Counters,
    pub(super) cancel: Counters,
    in_doubt: Mutex<InDoubt>,
}

impl Figures {
    pub(super) fn in_doubt(&self, in_doubt: InDoubt) {
        *self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner) = in_doubt;
    }

    pub(super) fn read(&self) -> Metrics {
        Metrics {
            prepare: self.prepare.read(),
            commit: self.commit.read(),
            cancel: self.cancel.read(),
            in_doubt: *self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    done: AtomicU64,
    refused: AtomicU64,
    working: AtomicU64,
    heuristic: AtomicU64,
    failed: AtomicU64,
    at_work: AtomicU64,
    took_us: AtomicU64,
}

impl Counters {
    /// Counts a Prepare.
    pub(super) async fn voted(
        &self,
        call: impl Future<Output = Result<Voted, Status>>,
    ) -> Result<Voted, Status> {
        self.counted(call, |voted| match voted {
            Voted::Prepared(_) | Voted::ReadOnly => &self.done,
            Voted::Refused(_) => &self.refused,
            Voted::Working(_) => &self.working,
        })
        .await
    }

    /// Counts a call that is rejected before it is at work.
    pub(super) fn rejected(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a Commit or a Cancel.
    pub(super) async fn answered(
        &self,
        call: impl Future<Output = Result<PhaseTwoAnswer, Status>>,
    ) -> Result<PhaseTwoAnswer, Status> {
        self.counted(call, |answered| match answered {
            PhaseTwoAnswer::Done => &self.done,
            PhaseTwoAnswer::Working(_) => &self.working,
            PhaseTwoAnswer::Heuristic(..) => &self.heuristic,
        })
        .await
    }

    async fn counted<'c, T>(
        &'c self,
        call: impl Future<Output = Result<T, Status>>,
        by: impl for<'t> Fn(&'t T) -> &'c AtomicU64,
    ) -> Result<T, Status> {
        let at_work = AtWork::begin(self);
        let result = call.await;
        let counter = match &result {
            Ok(answer) => {
                at_work.answered();
                by(answer)
            }
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn read(&self) -> Operations {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Operations {
            done: read(&self.done),
            refused: read(&self.refused),
            working: read(&self.working),
            heuristic: read(&self.heuristic),
            failed: read(&self.failed),
            at_work: read(&self.at_work),
            took: Duration::from_micros(read(&self.took_us)),
        }
    }
}

/// A call that waits for its answer. Its caller may go away before.
struct AtWork<'c> {
    counters: &'c Counters,
    began: Instant,
}

impl<'c> AtWork<'c> {
    fn begin(counters: &'c Counters) -> Self {
        counters.at_work.fetch_add(1, Ordering::Relaxed);
        Self { counters, began: Instant::now() }
    }

    fn answered(&self) {
        let took = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.took_us.fetch_add(took, Ordering::Relaxed);
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.counters.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}
