//! Examples of sagas, run as a user runs them: in success, and with every failure at every step.
//!
//! What happened is read from the participants' own databases.

mod record;
mod rules;

use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use unanimo_examples::sagas::args::Name;
use unanimo_examples::sagas::example::Stage;

use self::record::Record;
use self::rules::Rules;

/// Examples at a time: most of them wait for answers that never come.
static PLACES: Semaphore = Semaphore::const_new(6);

/// Longest time of an example on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Columns of a terminal.
const COLUMNS: usize = 80;

/// A run and its outcome.
#[derive(Clone, Debug)]
struct Case {
    example: Name,
    options: Vec<(&'static str, &'static str)>,
    commits: bool,
}

impl Case {
    fn new(example: Name, options: &[(&'static str, &'static str)], commits: bool) -> Self {
        Self { example, options: options.to_vec(), commits }
    }

    fn step(&self, option: &str) -> Option<&'static str> {
        self.options.iter().find(|(name, _)| *name == option).map(|(_, step)| *step)
    }

    /// Runs it, and checks what it says and what it leaves.
    async fn run(self) {
        let _place = PLACES.acquire().await.unwrap();
        let folder = TempDir::new().unwrap();
        let example = self.example.example();
        let mut command = Command::new(env!("CARGO_BIN_EXE_saga-under-test"));
        command.arg(example.name).arg("--folder").arg(folder.path());
        for (option, step) in &self.options {
            command.args([option, step]);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = ended.unwrap_or_else(|_| panic!("{self:?} has no end")).unwrap();
        self.check_text(&output);
        let record = Record::read(example, folder.path()).await;
        let text = String::from_utf8_lossy(&output.stdout);
        for note in &record.notes {
            assert!(text.contains(&note.note), "{self:?}: {note:?} is not shown\n{text}");
        }
        Rules::of(example).check(&self, &record).unwrap_or_else(|broken| {
            panic!("{self:?}: {broken}\n{text}");
        });
    }

    fn check_text(&self, output: &Output) {
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{self:?}: {}\n{text}\n{errors}", output.status);
        let example = self.example.example();
        let sentence = if self.commits { example.committed } else { example.aborted };
        let end = format!("\n{sentence}\nChecked in the databases: nothing is half done.\n");
        assert!(text.ends_with(&end), "{self:?}: another end\n{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= COLUMNS, "{self:?}: a long line\n{line}");
        }
    }
}

/// Runs cases beside each other.
async fn run(cases: impl IntoIterator<Item = Case>) {
    let mut running: JoinSet<()> = cases.into_iter().map(Case::run).collect();
    while let Some(ended) = running.join_next().await {
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic.into_panic());
        }
    }
}

/// Runs an example in success, and then with each fault at each step.
async fn run_all(example: Name) {
    let mut cases = vec![Case::new(example, &[], true)];
    for step in example.example().steps {
        let (id, stage) = (step.id, step.stage);
        let is_forward = matches!(stage, Stage::AfterPivot(_));
        cases.push(Case::new(example, &[("--fail", id)], is_forward));
        cases.push(Case::new(example, &[("--hang", id)], stage != Stage::BeforePivot));
        cases.push(Case::new(example, &[("--kill-coordinator-at", id)], true));
    }
    run(cases).await;
}

#[tokio::test]
async fn s7_a_trip_is_whole_whatever_fails_at_any_step() {
    run_all(Name::Trip).await;
}

#[tokio::test]
async fn s7_an_order_is_whole_whatever_fails_at_any_step() {
    run_all(Name::Order).await;
}

#[tokio::test]
async fn s7_a_pipeline_is_whole_whatever_fails_at_any_step() {
    run_all(Name::Pipeline).await;
}

/// The restarted coordinator does not know which steps it had sent.
#[tokio::test]
async fn s7_a_saga_that_aborts_after_a_restart_is_undone() {
    let killed = |example, step| {
        Case::new(example, &[("--fail", step), ("--kill-coordinator-at", step)], false)
    };
    run([
        killed(Name::Trip, "payment"),
        killed(Name::Order, "shipment"),
        killed(Name::Order, "debit"),
        killed(Name::Pipeline, "monitor"),
        Case::new(Name::Trip, &[("--fail", "ticket"), ("--kill-coordinator-at", "mail")], true),
        Case::new(Name::Trip, &[("--hang", "car"), ("--kill-coordinator-at", "hotel")], false),
    ])
    .await;
}

#[tokio::test]
async fn a_step_that_does_not_exist_is_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saga-under-test"));
    let output = command.args(["trip", "--fail", "hotle"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: failed to use --fail hotle: the step must be one of flight, hotel, car, payment, \
         ticket, mail\n"
    );
}
