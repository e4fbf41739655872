//! Examples of sagas, run as a user runs them: in success, and with every failure at every step.
//!
//! The course of events is read from the participants' own databases.

mod banks;
mod crashes;
mod gone;
mod participants;
mod record;
mod rules;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use unanimo_examples::sagas::args::Name;
use unanimo_examples::sagas::example::Stage;
use unanimo_tests::postgres::Server;

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
    /// Crash point of the coordinator, and its visit.
    crash: Option<(&'static str, u32)>,
    store: Store,
}

/// Store of the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Sqlite,
    Postgres,
}

impl Case {
    fn new(example: Name, options: &[(&'static str, &'static str)], commits: bool) -> Self {
        let store = Store::Sqlite;
        Self { example, options: options.to_vec(), commits, crash: None, store }
    }

    fn crashes(self, point: &'static str, visit: u32) -> Self {
        Self { crash: Some((point, visit)), ..self }
    }

    fn step(&self, option: &str) -> Option<&'static str> {
        self.options.iter().find(|(name, _)| *name == option).map(|(_, step)| *step)
    }

    /// Runs it, and checks what it says and what it leaves. Returns the crash point at which the coordinator
    /// was killed, if it was.
    async fn run(self) -> Option<&'static str> {
        let _place = PLACES.acquire().await.unwrap();
        let folder = TempDir::new().unwrap();
        let example = self.example.example();
        let (databases, history) = (folder.path().join("data"), folder.path().join("history"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_saga-under-test"));
        command.arg(example.name).arg("--folder").arg(&databases).arg("--history").arg(&history);
        if let Some((point, visit)) = self.crash {
            command.env("SAGA_CRASH_AT", format!("{point}:{visit}"));
            command.env("SAGA_CRASH_FILE", folder.path().join("crash"));
        }
        for (option, step) in &self.options {
            command.args([option, step]);
        }
        if self.store == Store::Postgres {
            let database = Server::shared().database().await;
            command.args(["--database-url", &database]);
        }
        let output = tokio::time::timeout(PATIENCE, output_of(command)).await;
        let output = output.unwrap_or_else(|_| panic!("{self:?} has no end"));
        self.check_text(&output);
        let record = Record::read(example, &databases).await;
        let text = String::from_utf8_lossy(&output.stdout);
        for note in &record.notes {
            assert!(text.contains(&note.note), "{self:?}: {note:?} is not shown\n{text}");
        }
        Rules::of(example).check(&self, &record).unwrap_or_else(|broken| {
            panic!("{self:?}: {broken}\n{text}");
        });
        self.check_history(&history).await;
        let has_crashed = text.contains("had ended; started again");
        self.crash.map(|(point, _)| point).filter(|_| has_crashed)
    }

    /// The recorded history leads to the same states and effects again.
    async fn check_history(&self, file: &Path) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saga-under-test"));
        let output = command.arg("replay").arg(file).output().await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{self:?}: {}\n{text}\n{errors}", output.status);
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

/// Process group of a program and of the coordinator that it starts: killed if the test ends before it.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended by itself.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

async fn output_of(mut command: Command) -> Output {
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let mut group = Group(id.and_then(Pid::from_raw));
    let output = child.wait_with_output().await.unwrap();
    group.0 = None;
    output
}

/// Runs cases beside each other, and returns the crash points at which a coordinator was killed.
async fn run(cases: impl IntoIterator<Item = Case>) -> BTreeSet<&'static str> {
    let mut running: JoinSet<_> = cases.into_iter().map(Case::run).collect();
    let mut crashed = BTreeSet::new();
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(point) => crashed.extend(point),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    crashed
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
    let _ = run(cases).await;
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
    let _ = run([
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

/// Nobody takes a fault for survived that never happened.
#[tokio::test]
async fn a_step_that_is_not_reached_is_told() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saga-under-test"));
    command.args(["trip", "--fail", "flight", "--kill-coordinator-at", "ticket"]);
    let output = output_of(command).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert!(text.contains("\n--fail flight: its participant refuses\n"), "{text}");
    assert!(text.contains("\n--kill-coordinator-at ticket: was not reached\n"), "{text}");
    let end = "nothing is half done.\n--kill-coordinator-at ticket was not reached: the run ended before, without it.\n";
    assert!(text.ends_with(end), "{text}");
}

/// The coordinator would tell the old outcome, and the new participants have done nothing.
#[tokio::test]
async fn s9_a_second_run_on_one_database_needs_another_name() {
    let folder = TempDir::new().unwrap();
    let database = format!("sqlite:{}", folder.path().join("kept.db").display());
    let run = async |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saga-under-test"));
        command.arg("trip").args(["--database-url", &database]).args(more);
        output_of(command).await
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let first = run(&[]).await;
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stdout));
    let again = run(&[]).await;
    assert_eq!((again.status.code(), text(&again.stdout)), (Some(1), String::new()));
    let rule = "error: failed to run trip: the database of the coordinator knows this transaction; use \
                --gid with another name\n";
    assert!(text(&again.stderr).ends_with(rule), "{}", text(&again.stderr));
    let other = run(&["--gid", "trip-2"]).await;
    assert_eq!(other.status.code(), Some(0), "{}", text(&other.stdout));
}

#[tokio::test]
async fn a_child_is_named_for_its_first_step() {
    let folder = TempDir::new().unwrap();
    let history = folder.path().join("history.json");
    let run = async |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_saga-under-test"));
        command.arg("order").args(more).arg("--history").arg(&history);
        output_of(command).await
    };
    let output = run(&["--fail", "payment"]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("\n--fail payment, which is debit: its participant refuses\n"), "{text}");
    assert!(text.contains(order_aborted()), "{text}");

    // The record of that run is not overwritten by the next one, which does not begin.
    let before = std::fs::read(&history).unwrap();
    let output = run(&["--hang", "payment"]).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let expected = format!(
        "error: failed to use --history {}: the file exists, and is not overwritten\n",
        history.display()
    );
    assert_eq!(errors, expected);
    assert_eq!(std::fs::read(&history).unwrap(), before);
}

fn order_aborted() -> &'static str {
    Name::Order.example().aborted
}
