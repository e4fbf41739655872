//! Samples of other engines as definitions of sagas: each runs, and each step of it is broken.
//!
//! The participants are scripted and record their calls. What they recorded is compared with rules that
//! are made of the definition.

mod rules;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tokio::task::JoinSet;
use unanimo_coordinator::Builder;
use unanimo_core::{Gid, ParticipantName};
use unanimo_proto::v1::{BranchSpec, Outcome, RetryPolicy, SubmitTransactionRequest, WaitFor};
use unanimo_saga::{Inputs, SagaFile};
use unanimo_tests::scripted::{Scripted, Seen};

use super::coordinator::{World, channel, config, millis, sqlite_url};
use rules::{Step, steps};

/// Entry of the metadata that names the run of a call, a child's calls included.
const RUN: &str = "run";

/// Every name of a participant in the samples.
const PARTICIPANTS: [&str; 13] = [
    "accounting",
    "audit",
    "balance",
    "bank",
    "cars",
    "consumers",
    "customers",
    "demo",
    "flights",
    "hotels",
    "inventory",
    "kitchen",
    "orders",
];

/// Fault of one step in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It refuses; after the pivot twice, because there a refusal is no vote.
    Refuses,
    /// It is done the first time, and its answer does not come.
    HangsOnce,
    /// It is done, its answer never comes, and it is given up.
    Hangs,
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/sagas/samples");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 7, "{files:?}");
    files
}

/// Returns the request of each sample.
fn samples() -> Vec<SubmitTransactionRequest> {
    let request = |path: PathBuf| {
        let file = SagaFile::read(&path).unwrap_or_else(|error| panic!("failed to {error}"));
        assert_eq!(file.warnings().len(), 0, "{}", path.display());
        assert_eq!(path.file_stem().unwrap(), file.name());
        let gid = Gid::new(file.name()).unwrap();
        file.with(&Inputs::default()).unwrap().request(&gid)
    };
    files().into_iter().map(request).collect()
}

/// Starts a coordinator whose participants are all the same scripted one.
async fn world() -> World {
    let (config, p) = (config(&sqlite_url()), Scripted::default());
    let mut builder = Builder::new(config.clone());
    for name in PARTICIPANTS {
        builder = builder.participant(ParticipantName::new(name).unwrap(), Arc::new(p.clone()));
    }
    let running = builder.start().await.unwrap();
    let channel = channel(&running);
    World { running, p, channel, config }
}

/// Returns the branch with this id, in a child or not.
fn find<'a>(branches: &'a mut [BranchSpec], id: &str) -> Option<&'a mut BranchSpec> {
    branches.iter_mut().find_map(|branch| {
        if branch.child.is_none() && branch.branch_id == id {
            return Some(branch);
        }
        find(&mut branch.child.as_mut()?.branches, id)
    })
}

/// Makes the step act so.
fn put(request: &mut SubmitTransactionRequest, step: &Step, fault: Fault) {
    let branch = find(&mut request.branches, &step.id).unwrap();
    let action = match fault {
        Fault::None => return,
        Fault::Refuses if step.is_after_pivot => "refuse-2",
        Fault::Refuses => "refuse",
        Fault::HangsOnce => "hang-1",
        Fault::Hangs => "hang",
    };
    branch.action = action.into();
    if matches!(fault, Fault::HangsOnce | Fault::Hangs) {
        branch.attempt_timeout = millis(300);
    }
    if fault == Fault::Hangs {
        branch.retry = Some(RetryPolicy { attempts_max: 1, ..Default::default() });
    }
}

/// Runs a sample to its end with this fault, and compares the record with the rules.
async fn run(world: &World, sample: SubmitTransactionRequest, at: Option<usize>, fault: Fault) {
    let mut request = sample;
    let steps = steps(&request.branches);
    let broken = at.map(|at| &steps[at]);
    let what = format!("{}-{}-{fault:?}", request.gid, broken.map_or("", |step| &step.id));
    if let Some(step) = broken {
        put(&mut request, step, fault);
    }
    request.gid.clone_from(&what);
    request.timeout = millis(15_000);
    request.wait_for = WaitFor::Ended.into();
    request.metadata.insert(RUN.into(), what.clone());
    let result = world.submit(request).await.unwrap_or_else(|status| panic!("{what}: {status}"));
    assert!(result.ended, "{what}");

    let seen = world.p.seen().into_iter();
    let seen: Vec<Seen> =
        seen.filter(|seen| seen.metadata.get(RUN).is_some_and(|run| *run == what)).collect();
    let record = rules::Record::new(&what, &seen);
    let aborts = match fault {
        Fault::None | Fault::HangsOnce => false,
        Fault::Refuses => broken.is_some_and(|step| !step.is_after_pivot),
        Fault::Hangs => true,
    };
    let outcome = if aborts { Outcome::Aborted } else { Outcome::Committed };
    assert_eq!(result.outcome(), outcome, "{what}");
    if let (true, Some(broken)) = (aborts, broken) {
        record.check_abort(&steps, broken, fault == Fault::Refuses);
    } else {
        record.check_commit(&steps);
    }
}

/// Runs all samples with this fault at each step where it may be, all at once.
async fn run_all(fault: Fault, may_be_at: impl Fn(&Step) -> bool) {
    let world = Arc::new(world().await);
    let mut runs = JoinSet::new();
    for sample in samples() {
        let steps = steps(&sample.branches);
        for (index, _) in steps.iter().enumerate().filter(|(_, step)| may_be_at(step)) {
            let (world, sample) = (world.clone(), sample.clone());
            runs.spawn(async move { run(&world, sample, Some(index), fault).await });
        }
    }
    assert!(runs.len() >= 17, "{} runs", runs.len());
    runs.join_all().await;
}

/// The command line finds no mistake in them, and the page tells of each.
#[test]
fn samples_are_checked_and_described() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/saga-samples.md");
    let page = fs::read_to_string(page).unwrap();
    for path in files() {
        let mut check = Command::new(env!("CARGO_BIN_EXE_unanimo-under-test"));
        let output = check.args(["saga", "check"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", path.display());
        let link = format!("(../examples/sagas/samples/{})", path.file_name().unwrap().display());
        assert!(page.contains(&link), "the page has no {link}");
    }
}

#[tokio::test]
async fn samples_commit() {
    let world = world().await;
    for sample in samples() {
        run(&world, sample, None, Fault::None).await;
    }
}

/// S7: a refusal of any step leaves nothing of the others; after the pivot it is no vote.
#[tokio::test]
async fn s7_a_sample_with_any_step_that_refuses_is_undone_in_reverse_order() {
    run_all(Fault::Refuses, |_| true).await;
}

/// S7: a step that was done and did not answer is sent again, and all is done.
#[tokio::test]
async fn s7_a_sample_with_any_answer_lost_once_commits() {
    run_all(Fault::HangsOnce, |_| true).await;
}

/// S7: a step that was done, did not answer and is given up is undone with the others.
#[tokio::test]
async fn s7_a_sample_with_any_step_done_and_given_up_is_undone_in_reverse_order() {
    run_all(Fault::Hangs, |step| !step.is_pivot && !step.is_after_pivot).await;
}
