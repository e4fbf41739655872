//! A run of an example, from its databases to its end.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use tokio::process::Command;
use tokio::sync::mpsc;
use unanimo::child::Coordinator;
use unanimo_core::Gid;
use unanimo_saga::graph::Graph;
use unanimo_saga::{Inputs, SagaFile};
use unanimo_sdk::proto::v1::{Outcome, SubmitTransactionRequest, TransactionResult};

use super::args::Args;
use super::example::{Example, Stage};
use super::faults::{Faults, Signal};
use super::host::Host;
use super::logbook::{self, Note};
use super::show::{self, Fact, Story};
use super::submit::Initiator;

/// Settings that make a run short: calls are repeated soon.
const SETTINGS: [&str; 6] = [
    "--call-timeout",
    "700ms",
    "--prepare-backoff-max",
    "200ms",
    "--phase-two-backoff-max",
    "100ms",
];

/// Refusals of a step after the pivot, until what is broken is mended.
const REFUSALS: u32 = 2;

/// Runs the example, shows what happened, and returns the exit code.
pub(super) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.check()?;
    let example = args.example.example();
    let gid = args.gid.as_deref().unwrap_or(example.name);
    let saga = saga(example, gid)?;
    let temporary = tempfile::tempdir().context("make a temporary folder")?;
    let folder = args.folder.as_deref().unwrap_or(temporary.path());
    make_folder(folder)?;

    let hang = args.hang.as_deref().and_then(|id| example.step(id));
    let hang = hang.map(|step| (step.id, step.stage));
    let kill_at = args.kill_coordinator_at.as_deref().and_then(|id| example.step(id));
    let (faults, signals) = Faults::new(hang, kill_at.map(|step| step.id));
    let host = Host::start(example, folder, &faults).await?;
    let fail = args.fail.as_deref().and_then(|id| example.step(id));
    if let Some(step) = fail {
        host.execute(step.participant, step.breaks).await?;
    }
    let own = || format!("sqlite:{}", folder.join("coordinator.db").display());
    let database = args.database_url.clone().unwrap_or_else(own);
    let participants = host.settings();
    let coordinator = Coordinator::start(&database, example.name, &SETTINGS, &participants).await?;

    if Initiator::new(coordinator.endpoint())?.find(gid).await?.is_some() {
        // Its outcome would be told of participants that have done nothing.
        bail!(
            "run {gid}: the database of the coordinator knows this transaction; use --gid with another name"
        );
    }

    let started_ns = logbook::now_ns();
    let mut run = Run {
        example,
        gid: gid.to_owned(),
        host,
        coordinator,
        events: Vec::new(),
        is_killed: false,
        refusals: 0,
        lost: 0,
    };
    let result = run.drive(saga, signals).await?;
    let mut story = run.story(started_ns, result).await?;
    story.unreached = unreached(args, &faults);
    show::print(args, &story);
    if let Some(file) = &args.history {
        run.write_history(file).await?;
    }
    Ok(ExitCode::from(story.exit_code()))
}

/// Returns the options of which nothing came, because the step was not sent, or not answered with its work done.
fn unreached(args: &Args, faults: &Faults) -> Vec<&'static str> {
    let example = args.example.example();
    let comes = |(option, step): (&'static str, &str)| {
        let has_come = match option {
            "--hang" => faults.has_lost(),
            "--kill-coordinator-at" => faults.has_killed(),
            _ => example.step(step).is_some_and(|step| faults.has_served(step.id)),
        };
        (!has_come).then_some(option)
    };
    args.faults().filter_map(comes).collect()
}

fn saga(example: &Example, gid: &str) -> anyhow::Result<SubmitTransactionRequest> {
    let file = SagaFile::parse("saga.yaml", example.definition)?;
    let saga = file.with(&Inputs::default())?;
    let gid = Gid::new(gid).with_context(|| format!("use --gid {gid}"))?;
    Ok(saga.request(&gid))
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    let failed = || format!("use the folder {}", folder.display());
    std::fs::create_dir_all(folder).with_context(failed)?;
    let is_empty = std::fs::read_dir(folder).with_context(failed)?.next().is_none();
    ensure!(is_empty, "use the folder {}: it must be empty", folder.display());
    Ok(())
}

/// An example at work.
struct Run {
    example: &'static Example,
    gid: String,
    host: Host,
    coordinator: Coordinator,
    /// Faults, in the form of notes.
    events: Vec<Note>,
    /// The coordinator is dead on purpose, until the step is done.
    is_killed: bool,
    refusals: u32,
    lost: u32,
}

impl Run {
    async fn drive(
        &mut self,
        saga: SubmitTransactionRequest,
        mut signals: mpsc::UnboundedReceiver<Signal>,
    ) -> anyhow::Result<TransactionResult> {
        let submitted = Initiator::new(self.coordinator.endpoint())?.submit(saga);
        let mut submitted = std::pin::pin!(submitted);
        loop {
            tokio::select! {
                result = &mut submitted => return result,
                Some(signal) = signals.recv() => self.react(signal).await?,
                ended = self.coordinator.ended(), if !self.is_killed => {
                    ended?;
                    self.coordinator.start_again().await?;
                    self.happened("coordinator", "", "had ended; started again".to_owned());
                }
            }
        }
    }

    async fn react(&mut self, signal: Signal) -> anyhow::Result<()> {
        match signal {
            Signal::Served(dead) => {
                let pid = self.coordinator.pid();
                self.coordinator.kill().await?;
                self.is_killed = true;
                self.happened("coordinator", "", format!("killed with -9, process {pid}"));
                // An error says that the call was given up.
                let _ = dead.send(());
            }
            Signal::Worked => {
                self.coordinator.start_again().await?;
                self.is_killed = false;
                self.happened("coordinator", "", "started again".to_owned());
            }
            Signal::Lost(step) => {
                self.lost += 1;
                if self.lost == 1 {
                    self.happened("network", &step, "loses its answer".to_owned());
                }
            }
            Signal::Refused(step) => self.mend(&step).await?,
        }
        Ok(())
    }

    /// Mends what the command line broke, once the step was refused some times.
    async fn mend(&mut self, id: &str) -> anyhow::Result<()> {
        self.refusals += 1;
        let Some(step) = self.example.step(id) else { bail!("find the step {id}") };
        let Stage::AfterPivot(mends) = step.stage else {
            bail!("go on: {id} is refused, though it comes after the pivot")
        };
        if self.refusals == REFUSALS {
            self.host.execute(step.participant, mends).await?;
            let note = format!("refused {REFUSALS} times; mended by hand");
            self.happened(step.participant, id, note);
        }
        Ok(())
    }

    fn happened(&mut self, who: &str, step: &str, note: String) {
        self.events.push(Note {
            at_ns: logbook::now_ns(),
            participant: who.to_owned(),
            step: step.to_owned(),
            kind: "event".to_owned(),
            note,
        });
    }

    /// Reads the story from the coordinator and from the participants' databases.
    async fn story(&self, started_ns: i64, result: TransactionResult) -> anyhow::Result<Story> {
        let mut initiator = Initiator::new(self.coordinator.endpoint())?;
        let found = initiator.find(&self.gid).await?;
        let transaction = found.context("find the saga that has just ended")?;
        let mut graph = Graph::of_transaction(&transaction);
        for branch in transaction.branches.iter().filter(|branch| !branch.child_gid.is_empty()) {
            if let Some(child) = initiator.find(&branch.child_gid).await? {
                graph.attach(&branch.branch_id, Graph::of_transaction(&child));
            }
        }
        let mut notes = self.host.notes().await?;
        notes.extend(self.events.iter().cloned());
        notes.sort();
        let is_committed = result.outcome() == Outcome::Committed;
        let mut facts = Vec::new();
        for check in self.example.checks {
            let value = self.host.value(check).await?;
            let holds = check.holds(is_committed, value);
            facts.push(Fact { check, value, holds });
        }
        let (graph, unreached) = (graph.to_text(), Vec::new());
        Ok(Story { graph, started_ns, notes, facts, unreached, result })
    }

    /// Runs `unanimo tx export`, as a user would type it.
    async fn write_history(&self, file: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["tx", "export", &self.gid]);
        command.env("UNANIMO_ENDPOINT", self.coordinator.endpoint());
        let exported = command.output().await.context("run unanimo tx export")?;
        if !exported.status.success() {
            bail!("export the history: {}", String::from_utf8_lossy(&exported.stderr).trim());
        }
        let wrote = std::fs::File::create_new(file)
            .and_then(|mut new| std::io::Write::write_all(&mut new, &exported.stdout));
        wrote.with_context(|| format!("write the history to {}", file.display()))
    }
}
