//! The part of a transaction that only sagas store: steps, later starts, children, recorded history.

use std::time::Duration;

use unanimo_coordinator::store::{Filter, Key, PhaseName, Write, Written};
use unanimo_core::{
    AbortCause, BranchId, BranchNumber, Compensation, Decision, Definition, InputName, Lock,
    LockMode, LockName, Mode, Parent, Phase, PhaseTwoAnswer, PhaseTwoOperation, RetryPolicy, Start,
    State, StepInput, StepSpec, Timestamp, Transition, TxId, Version,
};

use super::{Fixture, a_write, on_both_stores};
use crate::fixtures::{LONG_AGO, Live, definition, new_gid, now, spec, tx_id};

on_both_stores!(
    what_a_saga_is_made_of_is_read_back,
    every_phase_and_cause_is_read_back_and_found_by_its_name,
    recorded_history_is_written_with_its_transition,
);

fn lock(name: &str, mode: LockMode, wait_ms: u64) -> Lock {
    let name = LockName::new(name).unwrap();
    Lock { name, mode, wait_max: Duration::from_millis(wait_ms) }
}

fn branch_id(id: &str) -> BranchId {
    BranchId::new(id).unwrap()
}

fn full_step() -> StepSpec {
    StepSpec {
        depends_on: vec![branch_id("a")],
        inputs: vec![StepInput {
            name: InputName::new("ticket").unwrap(),
            branch_id: branch_id("a"),
        }],
        pivot: true,
        compensation: Compensation::None,
        retry: Some(RetryPolicy {
            attempts_max: Some(3),
            backoff_min: Some(Duration::from_millis(20)),
            backoff_max: Some(Duration::from_secs(2)),
            give_up_after: Some(Duration::from_secs(9)),
        }),
        attempt_timeout: Some(Duration::from_millis(700)),
        delay: Some(Duration::from_secs(5)),
        start_at: Some(LONG_AGO),
        locks: vec![lock("seat:7", LockMode::Shared, 0), lock("seat:8", LockMode::Exclusive, 1)],
    }
}

/// Saga that says everything that one can say.
fn full() -> Definition {
    let root = tx_id(LONG_AGO);
    let mut definition = definition(&new_gid());
    definition.mode = Mode::Saga;
    definition.start = Start::After(Duration::from_secs(3 * 3600));
    definition.locks = vec![lock("account:1", LockMode::Exclusive, 1500)];
    definition.parent = Some(Parent { tx_id: root, number: BranchNumber::from_index(1), root });
    let (mut kept, mut reserved) = (spec("k"), spec("r"));
    kept.step.compensation = Compensation::Kept;
    kept.mode = Mode::Saga;
    reserved.mode = Mode::TwoPhaseCommit;
    definition.branches[0].mode = Mode::Saga;
    definition.branches[1].mode = Mode::Saga;
    definition.branches[1].step = full_step();
    definition.branches.extend([kept, reserved]);
    definition
}

async fn what_a_saga_is_made_of_is_read_back(fixture: Fixture) {
    let (live, begin) = Live::begin_with(full(), now());
    assert!(begin.state.wake_at.is_some() && begin.begins.as_ref().unwrap().start_at.is_some());
    fixture.write([begin]).await;
    let stored = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
    assert_eq!(stored.record, live.tx.record());
    assert_eq!(stored.record.branches[1].1.step, full_step());
    assert_eq!(stored.record.identity.locks, full().locks);
}

/// The transition after `begin` with another state.
fn next(begin: &Transition, version: i64, state: State) -> Transition {
    Transition {
        version: Version(version),
        begins: None,
        state,
        enlisted: Vec::new(),
        history: Vec::new(),
        ..begin.clone()
    }
}

async fn every_phase_and_cause_is_read_back_and_found_by_its_name(fixture: Fixture) {
    let number = BranchNumber::from_index(1);
    let (decided_at, at) = (LONG_AGO, LONG_AGO.after(Duration::from_secs(1)));
    let causes = [
        AbortCause::Refused(number),
        AbortCause::Deadline,
        AbortCause::Rollback,
        AbortCause::Unlisted(number),
        AbortCause::NoVote(number),
        AbortCause::GaveUp(number),
        AbortCause::Locked(None),
        AbortCause::Locked(Some(number)),
        AbortCause::Parent,
    ];
    let decided = |decision| Phase::Decided { decision, at: decided_at };
    let mut phases = vec![
        (Phase::Scheduled, PhaseName::Scheduled),
        (Phase::Active, PhaseName::Active),
        (Phase::InDoubt { at }, PhaseName::InDoubt),
        (decided(Decision::Commit), PhaseName::Committing),
    ];
    phases.extend(causes.map(|cause| (decided(Decision::Abort(cause)), PhaseName::Aborting)));
    for (decision, name) in [
        (Decision::Abort(AbortCause::Locked(None)), PhaseName::Aborted),
        (Decision::Commit, PhaseName::Committed),
    ] {
        phases.push((Phase::Ended { decision, decided_at, at }, name));
    }

    let (live, begin) = Live::begin_with(full(), now());
    fixture.write([begin.clone()]).await;
    let mut writer = fixture.writer().await;
    for (version, (phase, name)) in (2..).zip(phases) {
        let odd = version % 2 == 1;
        let state = State {
            phase,
            started_at: odd.then_some(at),
            abort_detail: odd.then(|| "lock ☂ is held \0 by \"x\"".to_owned()),
            wake_at: (!odd).then_some(Timestamp(u64::MAX >> 1)),
            ..live.tx.state()
        };
        writer.write(&[a_write(next(&begin, version, state.clone()))]).await.unwrap();
        let stored = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap();
        assert_eq!(stored.unwrap().record.state, state);
        for other in [PhaseName::Scheduled, PhaseName::InDoubt, PhaseName::Aborting, name] {
            let filter = Filter { phases: vec![other], limit: 10, ..Filter::default() };
            let found = fixture.store.transactions().list(&filter).await.unwrap().found;
            assert_eq!(found.len(), usize::from(other == name), "{phase:?} as {other:?}");
        }
    }
    assert_eq!(fixture.store.transactions().attention().await.unwrap(), Default::default());
}

async fn history_of(fixture: &Fixture, tx_id: TxId) -> Vec<String> {
    fixture.store.transactions().history(tx_id, Default::default()).await.unwrap()
}

/// One row for each entry, those of folded transitions included, and only if the write is applied.
async fn recorded_history_is_written_with_its_transition(fixture: Fixture) {
    let mut definition = definition(&new_gid());
    definition.mode = Mode::Saga;
    definition.branches.iter_mut().for_each(|branch| branch.mode = Mode::Saga);
    let (mut live, begin) = Live::begin_with(definition, now());
    let mut rest = live.rollback();
    for later in live.phase_two(PhaseTwoOperation::Cancel, &PhaseTwoAnswer::Done) {
        rest.fold(later);
    }
    let entries: Vec<_> = [&begin, &rest].into_iter().flat_map(|t| t.history.clone()).collect();
    assert!(begin.history.len() == 1 && rest.history.len() > 1, "{entries:?}");
    fixture.write([begin]).await;
    let write = Write { base: Version(1), ..a_write(rest.clone()) };
    for _ in 0..2 {
        fixture.writer().await.write(std::slice::from_ref(&write)).await.unwrap();
    }
    let lost = fixture.writer().await.write(&[a_write(rest)]).await.unwrap();
    assert_eq!(lost, [Written::Lost]);
    let expected: Vec<_> = entries.iter().map(|e| serde_json::to_string(e).unwrap()).collect();
    assert_eq!(history_of(&fixture, live.id()).await, expected);
    assert!(history_of(&fixture, tx_id(now())).await.is_empty());
}

/// The batch is bounded in bytes by an estimate that must not be below what is written.
#[test]
fn what_sagas_write_counts_in_the_size_of_a_batch() {
    let long = |prefix: &str| format!("{prefix}{}", "x".repeat(128 - prefix.len()));
    let mut definition = full();
    let plain = Live::begin_with(definition.clone(), now()).1;
    let step = &mut definition.branches[1].step;
    let mut bytes = serde_json::to_string(step).unwrap().len();
    for index in 0..60 {
        let name = long(&index.to_string());
        step.locks.push(lock(&name, LockMode::Exclusive, u64::from(u32::MAX)));
        step.inputs.push(StepInput {
            name: InputName::new(&name[..64]).unwrap(),
            branch_id: branch_id(&name),
        });
    }
    bytes = serde_json::to_string(step).unwrap().len() - bytes;
    let large = Live::begin_with(definition, now()).1;
    assert!(large.size() - plain.size() >= bytes, "{} of {bytes}", large.size() - plain.size());
}
