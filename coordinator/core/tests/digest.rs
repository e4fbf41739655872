//! Promise S9: two requests under one gid are the same by the rule of the digest that is stored.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::definition;
use unanimo_core::{
    BranchId, Compensation, DIGEST_VERSION, Definition, Digest, Drive, InputName, Lock, LockMode,
    LockName, Mode, ParticipantName, RetryPolicy, Start, StepInput, Timestamp,
};

fn base() -> Definition {
    definition(Mode::Tcc, Drive::Declarative, &["a", "b"])
}

fn with(change: impl FnOnce(&mut Definition)) -> Definition {
    let mut changed = base();
    change(&mut changed);
    changed
}

/// A saga in which everything is said that rule 3 covers.
fn saga() -> Definition {
    let mut saga = definition(Mode::Saga, Drive::Declarative, &["a", "b"]);
    saga.locks = vec![lock("shelf:7", LockMode::Shared)];
    let step = &mut saga.branches[1].step;
    step.depends_on = vec![BranchId::new("a").unwrap()];
    step.inputs = vec![StepInput {
        name: InputName::new("ticket").unwrap(),
        branch_id: BranchId::new("a").unwrap(),
    }];
    step.pivot = true;
    step.compensation = Compensation::None;
    step.locks = vec![lock("account:42", LockMode::Exclusive)];
    saga
}

fn lock(name: &str, mode: LockMode) -> Lock {
    Lock { name: LockName::new(name).unwrap(), mode, wait_max: Duration::from_secs(1) }
}

fn hex(digest: Digest) -> String {
    digest.hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes as another program makes them by the written rules. Rows keep digests for as long as gids live: a rule never changes.
#[test]
fn s9_the_rules_make_what_they_made() {
    assert_eq!(
        hex(base().digest_by(1).unwrap()),
        "f9d3da4679e35171d3fceb4bf8540b562aafbbb94149648820662eefdf0aa9be"
    );
    assert_eq!(
        hex(base().digest_by(2).unwrap()),
        "9ca54b8edf4ed2714498d52276874c654fc2b6c87ecc2eb28cee1f142f239b0b"
    );
    assert_eq!(base().digest(), base().digest_by(2).unwrap());
    assert_eq!(base().digest_by(3), None);
    assert_eq!(
        hex(saga().digest_by(DIGEST_VERSION).unwrap()),
        "7a61cff7eef21d92c80bee6286069a34aabf7ddba0859eadb5f4992cd52116e9"
    );
    assert_eq!(base().digest_by(0), None);
}

#[test]
fn s9_each_rule_tells_what_it_covers() {
    type Change = fn(&mut Definition);
    // A change, and whether rules 1 and 2 see another request in it.
    let changes: [(&str, Change, bool, bool); 11] = [
        ("timeout", |d| d.timeout = Some(Duration::from_secs(1)), false, false),
        ("metadata", |d| drop(d.metadata.insert("k".into(), "v".into())), false, false),
        ("initiator", |d| d.initiator = "ann".into(), false, false),
        ("media type", |d| d.branches[1].payload.media_type = "text/plain".into(), false, true),
        ("branch mode", |d| d.branches[1].mode = Mode::TwoPhaseCommit, false, true),
        ("payload", |d| d.branches[1].payload.data = "11".into(), true, true),
        (
            "participant",
            |d| d.branches[0].participant = ParticipantName::new("x").unwrap(),
            true,
            true,
        ),
        ("order", |d| d.branches.reverse(), true, true),
        ("a branch less", |d| drop(d.branches.pop()), true, true),
        ("mode", |d| d.mode = Mode::TwoPhaseCommit, true, true),
        ("drive", |d| d.drive = Drive::Interactive, true, true),
    ];
    for (what, change, by_first, by_second) in changes {
        let digests = with(change).digests();
        for (version, differs) in [(1, by_first), (2, by_second)] {
            let stored = base().digest_by(version).unwrap();
            assert_eq!(!digests.matches(stored), differs, "{what} by rule {version}");
        }
        assert!(digests.matches(Digest::TOMBSTONE), "a tombstone stands for every request");
        let unknown = Digest { version: 9, ..base().digest() };
        assert!(!digests.matches(unknown), "a rule of a later version");
    }
}

#[test]
fn s9_the_rule_for_sagas_tells_what_it_covers() {
    type Change = fn(&mut Definition);
    let same: [(&str, Change); 7] = [
        ("start", |d| d.start = Start::After(Duration::from_secs(9))),
        ("wait for a lock", |d| d.locks[0].wait_max = Duration::ZERO),
        ("wait for a step's lock", |d| d.branches[1].step.locks[0].wait_max = Duration::ZERO),
        ("retry", |d| d.branches[0].step.retry = Some(RetryPolicy::default())),
        ("attempt timeout", |d| d.branches[0].step.attempt_timeout = Some(Duration::from_secs(1))),
        ("delay", |d| d.branches[0].step.delay = Some(Duration::from_secs(1))),
        ("start of a step", |d| d.branches[0].step.start_at = Some(Timestamp(1))),
    ];
    let other: [(&str, Change); 8] = [
        ("a lock less", |d| d.locks.clear()),
        ("mode of a lock", |d| d.locks[0].mode = LockMode::Exclusive),
        ("name of a step's lock", |d| d.branches[1].step.locks[0].name = d.locks[0].name.clone()),
        ("dependencies", |d| d.branches[1].step.depends_on.clear()),
        ("inputs", |d| d.branches[1].step.inputs.clear()),
        ("pivot", |d| d.branches[1].step.pivot = false),
        ("compensation", |d| d.branches[1].step.compensation = Compensation::Compensate),
        ("mode of a branch", |d| d.branches[0].mode = Mode::Tcc),
    ];
    let stored = saga().digest();
    for (what, change, is_same) in same
        .map(|(what, change)| (what, change, true))
        .into_iter()
        .chain(other.map(|(what, change)| (what, change, false)))
    {
        let mut changed = saga();
        change(&mut changed);
        assert_eq!(changed.digests().matches(stored), is_same, "{what}");
    }
    // A transaction with locks is not the one without them, whose digest an earlier rule made.
    let mut locked = base();
    locked.locks = vec![lock("account:42", LockMode::Exclusive)];
    assert!(!locked.digests().matches(base().digest()));
    assert!(!base().digests().matches(locked.digest()));

    // Of a child as of its parent: times are not compared, all else is.
    let with_child = |change: &dyn Fn(&mut Definition)| {
        let mut child = saga();
        change(&mut child);
        let mut parent = saga();
        parent.branches[0].payload.data = format!("{:?}", child.timeout).into();
        parent.children = vec![(0, child)];
        parent
    };
    let stored = with_child(&|_| {}).digest();
    let later = with_child(&|child| child.timeout = Some(Duration::from_secs(1)));
    assert!(later.digests().matches(stored));
    let other = with_child(&|child| child.branches[0].payload.data = "11".into());
    assert!(!other.digests().matches(stored));
}
