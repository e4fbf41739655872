//! Acts that are under way, and what came of those that were: kept for a while, and in memory alone.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::forms::{Form, KEPT};

/// Runs whose results are kept.
const KEPT_MAX: usize = 200;

/// Most forms that are known to be used: about 4 MB. One more has to wait until the first of them is too old to count.
const USED_MAX: usize = 100_000;

/// Time for which a form is known to be used: a little longer than it counts.
const USED_FOR: SignedDuration = SignedDuration::from_secs(KEPT.as_secs() + 60);

/// Most runs that are under way at once.
const UNDER_WAY_MAX: usize = 8;

/// Refusals that a run names.
pub(super) const NAMED_MAX: usize = 20;

/// Longest time for which the answer to a form waits for the end of its run.
const PATIENCE: Duration = Duration::from_secs(3);

/// Act on one transaction, or on many.
#[derive(Debug)]
pub(super) struct Run {
    /// Form that has begun it.
    pub(super) form: Form,
    pub(super) title: String,
    /// Address of the page from which it came.
    pub(super) back: String,
    /// Transactions that it acts on at most.
    pub(super) total: u64,
    /// Of whoever has begun it.
    namespace: Option<String>,
    progress: watch::Sender<Progress>,
    is_stopped: AtomicBool,
}

/// Progress of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) done: u64,
    pub(super) refused: u64,
    /// Something has failed in another way than by a refusal, or may be done in part.
    is_uncertain: bool,
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
    pub(super) fn new(form: Form, title: String, back: String, total: u64) -> Self {
        let (progress, is_stopped) = (watch::Sender::default(), AtomicBool::new(false));
        Self { form, title, back, total, namespace: None, progress, is_stopped }
    }

    /// Returns the same of one who is of this namespace, or of none.
    pub(super) fn within(self, namespace: Option<String>) -> Self {
        Self { namespace, ..self }
    }

    /// Tells whether one of this namespace, or of all, may see it.
    pub(super) fn is_for(&self, namespace: Option<&str>) -> bool {
        namespace.is_none() || namespace == self.namespace.as_deref()
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
                let is_refusal = matches!(problem["status"].as_u64(), Some(400..=499));
                progress.is_uncertain |= !is_refusal;
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

    /// Tells whether all of it was refused, so that nothing was done.
    fn is_refused(&self) -> bool {
        let progress = self.progress.borrow();
        let nothing = progress.done == 0 && progress.refused > 0 && !progress.is_uncertain;
        nothing && progress.ended == Some(Ended::Whole)
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
    /// It was sent before, and its result is not kept any more.
    Gone,
    TooMany,
}

/// Run in its task: it ends with it, however that ends.
struct Place(Arc<Run>);

impl Drop for Place {
    fn drop(&mut self) {
        if !self.0.is_over() {
            self.0.end(Ended::Failed("the coordinator has given it up".to_owned()));
        }
    }
}

/// Spawns the work of a run: it goes on when whoever began it looks away.
pub(super) fn spawn<F>(run: &Arc<Run>, work: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let place = Place(Arc::clone(run));
    tokio::spawn(async move {
        let _place = place;
        work.await;
    })
}

/// All runs.
#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    runs: VecDeque<Arc<Run>>,
    /// Forms that were sent, as long as they count; the oldest first.
    used: BTreeSet<Form>,
}

impl Runs {
    pub(super) fn find(&self, id: Uuid) -> Option<Arc<Run>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.runs.iter().find(|run| run.form.id == id).cloned()
    }

    /// Keeps a run, unless its form was sent before, or too many are under way. A form of which everything was refused
    /// may be sent again.
    pub(super) fn begin(&self, run: Run, now: Timestamp) -> Begun {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { runs, used } = &mut *kept;
        while used.first().is_some_and(|form| now.duration_since(form.made) > USED_FOR) {
            used.pop_first();
        }
        let before = runs.iter().position(|before| before.form == run.form);
        if let Some(before) = before.map(|at| &runs[at]).filter(|before| !before.is_refused()) {
            return Begun::Before(Arc::clone(before));
        }
        if before.is_none() && used.contains(&run.form) {
            return Begun::Gone;
        }
        let under_way = runs.iter().filter(|run| !run.is_over()).count();
        if under_way >= UNDER_WAY_MAX || used.len() >= USED_MAX {
            return Begun::TooMany;
        }
        if let Some(before) = before {
            runs.remove(before);
        }
        used.insert(run.form);
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

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(secs).expect("a time")
    }

    fn run(n: u128) -> Run {
        let form = Form { made: at(0), id: Uuid::from_u128(n) };
        Run::new(form, String::new(), String::new(), 1)
    }

    fn refusal(status: u16) -> Result<String, Value> {
        Err(serde_json::json!({ "status": status, "detail": "no" }))
    }

    #[test]
    fn a_run_is_shown_to_those_of_its_namespace_and_of_all() {
        let form = Form { made: Timestamp::UNIX_EPOCH, id: Uuid::nil() };
        let run = |namespace: Option<&str>| {
            let run = Run::new(form, String::new(), String::new(), 1);
            run.within(namespace.map(str::to_owned))
        };
        assert!(run(Some("a")).is_for(None) && run(Some("a")).is_for(Some("a")));
        assert!(!run(Some("a")).is_for(Some("b")) && !run(None).is_for(Some("a")));
        assert!(!run(Some("a")).is_for(Some("")), "one who is not known");
    }

    #[test]
    fn a_form_that_is_sent_twice_is_one_run() {
        let runs = Runs::default();
        let Begun::New(first) = runs.begin(run(1), at(1)) else { panic!("it is new") };
        let Begun::Before(again) = runs.begin(run(1), at(1)) else { panic!("it was there") };
        assert!(Arc::ptr_eq(&first, &again));
        first.end(Ended::Whole);
        assert!(matches!(runs.begin(run(1), at(1)), Begun::Before(_)), "also when it has ended");
    }

    #[test]
    fn a_form_is_used_for_as_long_as_it_counts() {
        let runs = Runs::default();
        for n in 0..=KEPT_MAX as u128 {
            let Begun::New(new) = runs.begin(run(n), at(1)) else { panic!("it is new") };
            new.end(Ended::Whole);
        }
        assert!(runs.find(Uuid::from_u128(0)).is_none(), "its result is not kept");
        assert!(matches!(runs.begin(run(0), at(3_600)), Begun::Gone), "it is used nevertheless");
        let younger = Form { made: at(3_660), id: Uuid::from_u128(999) };
        let younger = Run::new(younger, String::new(), String::new(), 1);
        assert!(matches!(runs.begin(younger, at(3_661)), Begun::New(_)));
        assert_eq!(runs.0.lock().expect("a lock").used.len(), 1, "older ones do not count");
    }

    #[test]
    fn a_form_that_was_refused_may_be_sent_again() {
        for (came, may_again) in [
            (&[refusal(400)][..], true),
            (&[refusal(409), refusal(404)], true),
            (&[refusal(503)], false),
            (&[refusal(409), Ok(String::new())], false),
            (&[], false),
        ] {
            let runs = Runs::default();
            let Begun::New(first) = runs.begin(run(1), at(1)) else { panic!("it is new") };
            for came in came {
                first.note("t", "g", came.clone());
            }
            assert!(matches!(runs.begin(run(1), at(1)), Begun::Before(_)), "it is under way");
            first.end(Ended::Whole);
            let again = runs.begin(run(1), at(1));
            assert_eq!(matches!(again, Begun::New(_)), may_again, "{came:?}: {again:?}");
            let shown = runs.find(Uuid::from_u128(1)).expect("it is kept");
            assert_eq!(Arc::ptr_eq(&shown, &first), !may_again, "the last one is shown");
        }
    }

    #[tokio::test]
    async fn a_run_ends_with_its_task() {
        let runs = Runs::default();
        let Begun::New(run) = runs.begin(run(1), at(1)) else { panic!("it is new") };
        let ended = spawn(&run, async { panic!("a panic that is meant") }).await;
        assert!(ended.is_err() && run.is_over(), "{run:?}");
        let whole = Arc::new(Run::new(run.form, String::new(), String::new(), 1));
        let same = Arc::clone(&whole);
        spawn(&whole, async move { same.end(Ended::Whole) }).await.expect("no panic");
        assert_eq!(whole.progress().ended, Some(Ended::Whole));
    }

    #[test]
    fn so_many_are_under_way_and_so_many_are_kept() {
        let runs = Runs::default();
        for n in 0..UNDER_WAY_MAX as u128 {
            assert!(matches!(runs.begin(run(n), at(1)), Begun::New(_)));
        }
        assert!(matches!(runs.begin(run(99), at(1)), Begun::TooMany));
        runs.find(Uuid::from_u128(0)).expect("it is there").end(Ended::Stopped);
        for n in 100..100 + KEPT_MAX as u128 {
            let Begun::New(new) = runs.begin(run(n), at(1)) else { panic!("one has ended") };
            new.end(Ended::Whole);
        }
        assert!(runs.find(Uuid::from_u128(0)).is_none(), "the oldest that has ended goes");
        assert!(runs.find(Uuid::from_u128(1)).is_some(), "one that is under way stays");
        assert_eq!(runs.0.lock().expect("a lock").runs.len(), KEPT_MAX);
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
