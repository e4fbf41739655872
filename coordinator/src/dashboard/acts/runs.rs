//! Acts that are under way, and what came of those that were: kept for a while, and in memory alone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

/// Runs whose results are kept.
const KEPT_MAX: usize = 200;

/// Most runs that are under way at once.
const UNDER_WAY_MAX: usize = 8;

/// Refusals that a run names.
pub(super) const NAMED_MAX: usize = 20;

/// Longest time for which the answer to a form waits for the end of its run.
const PATIENCE: Duration = Duration::from_secs(3);

/// Act on one transaction, or on many.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: Uuid,
    pub(super) title: String,
    /// Address of the page from which it came.
    pub(super) back: String,
    /// Transactions that it acts on at most.
    pub(super) total: u64,
    progress: watch::Sender<Progress>,
    is_stopped: AtomicBool,
}

/// Progress of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) done: u64,
    pub(super) refused: u64,
    /// The first ones that were refused.
    pub(super) refusals: Vec<Refusal>,
    /// Effect of the last one, in words.
    pub(super) said: String,
    pub(super) ended: Option<Ended>,
}

#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) tx_id: String,
    pub(super) name: String,
    pub(super) why: String,
}

/// End of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Whole,
    Stopped,
    /// It could not go on.
    Failed(String),
}

impl Run {
    pub(super) fn new(id: Uuid, title: String, back: String, total: u64) -> Self {
        let progress = watch::Sender::default();
        Self { id, title, back, total, progress, is_stopped: AtomicBool::new(false) }
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// Stops it before its next transaction.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Notes what came of one transaction.
    pub(super) fn note(&self, tx_id: &str, name: &str, came: Result<String, Value>) {
        self.progress.send_modify(|progress| match came {
            Ok(said) => {
                progress.done += 1;
                progress.said = said;
            }
            Err(problem) => {
                progress.refused += 1;
                if progress.refusals.len() < NAMED_MAX {
                    let why = detail(&problem);
                    let (tx_id, name) = (tx_id.to_owned(), name.to_owned());
                    progress.refusals.push(Refusal { tx_id, name, why });
                }
            }
        });
    }

    fn is_over(&self) -> bool {
        self.progress.borrow().ended.is_some()
    }

    pub(super) fn end(&self, ended: Ended) {
        self.progress.send_modify(|progress| progress.ended = Some(ended));
    }

    /// Waits for its end, but not for long.
    pub(super) async fn wait_for_end(&self) {
        let mut progress = self.progress.subscribe();
        let ended = progress.wait_for(|progress| progress.ended.is_some());
        let _ = tokio::time::timeout(PATIENCE, ended).await;
    }
}

/// Returns what a problem says, with its reason.
pub(super) fn detail(problem: &Value) -> String {
    let text = |name: &str| problem[name].as_str().unwrap_or_default();
    let said = if text("detail").is_empty() { text("title") } else { text("detail") };
    match (said, text("reason")) {
        ("", _) => "there was no answer".to_owned(),
        (said, "") => said.to_owned(),
        (said, reason) => format!("{said} ({reason})"),
    }
}

/// Answer to a form that begins a run.
#[derive(Debug)]
pub(super) enum Begun {
    New(Arc<Run>),
    /// The same form was sent before.
    Before(Arc<Run>),
    TooMany,
}

/// All runs.
#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<VecDeque<Arc<Run>>>);

impl Runs {
    pub(super) fn find(&self, id: Uuid) -> Option<Arc<Run>> {
        let runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.iter().find(|run| run.id == id).cloned()
    }

    /// Keeps a run, unless its form was sent before, or too many are under way.
    pub(super) fn begin(&self, run: Run) -> Begun {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = runs.iter().find(|before| before.id == run.id) {
            return Begun::Before(Arc::clone(before));
        }
        if runs.iter().filter(|run| !run.is_over()).count() >= UNDER_WAY_MAX {
            return Begun::TooMany;
        }
        if runs.len() >= KEPT_MAX
            && let Some(oldest) = runs.iter().position(|run| run.is_over())
        {
            runs.remove(oldest);
        }
        let run = Arc::new(run);
        runs.push_back(Arc::clone(&run));
        Begun::New(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: u128) -> Run {
        Run::new(Uuid::from_u128(n), String::new(), String::new(), 1)
    }

    #[test]
    fn a_form_that_is_sent_twice_is_one_run() {
        let runs = Runs::default();
        let Begun::New(first) = runs.begin(run(1)) else { panic!("it is new") };
        let Begun::Before(again) = runs.begin(run(1)) else { panic!("it was there") };
        assert!(Arc::ptr_eq(&first, &again));
        first.end(Ended::Whole);
        assert!(matches!(runs.begin(run(1)), Begun::Before(_)), "also when it has ended");
    }

    #[test]
    fn so_many_are_under_way_and_so_many_are_kept() {
        let runs = Runs::default();
        for n in 0..UNDER_WAY_MAX as u128 {
            assert!(matches!(runs.begin(run(n)), Begun::New(_)));
        }
        assert!(matches!(runs.begin(run(99)), Begun::TooMany));
        runs.find(Uuid::from_u128(0)).expect("it is there").end(Ended::Stopped);
        for n in 100..100 + KEPT_MAX as u128 {
            let Begun::New(new) = runs.begin(run(n)) else { panic!("one has ended") };
            new.end(Ended::Whole);
        }
        assert!(runs.find(Uuid::from_u128(0)).is_none(), "the oldest that has ended goes");
        assert!(runs.find(Uuid::from_u128(1)).is_some(), "one that is under way stays");
        assert_eq!(runs.0.lock().expect("a lock").len(), KEPT_MAX);
    }

    #[test]
    fn refusals_are_counted_and_the_first_are_named() {
        let run = run(1);
        run.note("t", "g", Ok("It is done.".to_owned()));
        for n in 0..100 {
            let problem = serde_json::json!({"detail": n.to_string(), "reason": "WHY"});
            run.note("t", "g", Err(problem));
        }
        let progress = run.progress();
        assert_eq!((progress.done, progress.refused, progress.refusals.len()), (1, 100, NAMED_MAX));
        assert_eq!(progress.refusals[1].why, "1 (WHY)");
    }
}
