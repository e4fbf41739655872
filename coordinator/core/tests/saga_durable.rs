//! Steps of sagas and what must be durable, or had, before they are sent or decided.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{definition, request};
use unanimo_core::{
    AbortCause, BranchId, BranchNumber, Decision, Definition, Drive, Effects, Enlistment, Input,
    InputName, Lock, LockAnswer, LockMode, LockName, Mode, Outcome, Payload, Phase, Policy,
    PrepareAnswer, StepInput, Timestamp, Transaction, TxId, Vote,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A saga in which `b` reads the output of `a`.
fn reading() -> Definition {
    let mut saga = definition(Mode::Saga, Drive::Declarative, &["a", "b"]);
    let id = BranchId::new("a").unwrap();
    let name = InputName::new("ticket").unwrap();
    saga.branches[1].step.depends_on = vec![id.clone()];
    saga.branches[1].step.inputs = vec![StepInput { name, branch_id: id }];
    saga
}

fn begin(definition: Definition) -> (Transaction, Effects) {
    let id = TxId(uuid::Uuid::from_u128(7));
    Transaction::begin(id, definition, Timestamp(1_000), &Policy::default())
}

fn prepared(tx: &mut Transaction, index: usize, output: &'static [u8]) -> Effects {
    let answer = PrepareAnswer::Prepared(Payload::from(Bytes::from_static(output)));
    let number = BranchNumber::from_index(index);
    let input = Input::PrepareAnswered { number, attempt: 1, answer };
    tx.apply(input, Timestamp(1_001), &Policy::default()).unwrap()
}

/// After a crash nobody may ask again for the vote that brought an input, and the compensation of the
/// step that read it needs it.
#[test]
fn s7_a_step_with_inputs_is_sent_once_they_are_durable() {
    let (mut tx, _) = begin(reading());
    let effects = prepared(&mut tx, 0, b"seat 12");
    assert_eq!(effects.calls.len(), 1, "b is sent");
    let transition = effects.transition.unwrap();
    assert!(transition.awaited, "the call waits for the write");
    assert_eq!(transition.outputs.len(), 1, "the write has the input");
}

#[test]
fn a_step_without_inputs_costs_no_write() {
    let mut saga = reading();
    saga.branches[1].step.inputs.clear();
    let (mut tx, _) = begin(saga);
    let effects = prepared(&mut tx, 0, b"seat 12");
    assert_eq!((effects.calls.len(), effects.transition), (1, None));
}

#[test]
fn an_output_that_is_dropped_and_needed_aborts_the_saga() {
    let large: &'static [u8] = Box::leak(vec![1; (1 << 20) + 1].into_boxed_slice());
    let (mut tx, _) = begin(reading());
    let _ = prepared(&mut tx, 0, large);
    let cause = AbortCause::OutputDropped(BranchNumber::from_index(0));
    assert_eq!(tx.phase().decision(), Some(Decision::Abort(cause)));

    let mut saga = reading();
    saga.branches[1].step.inputs.clear();
    let (mut tx, _) = begin(saga);
    let _ = prepared(&mut tx, 0, large);
    assert_eq!(tx.phase(), Phase::Active, "nobody needs it");
}

#[test]
fn s2_commit_waits_for_the_locks_of_the_transaction() {
    let mut saga = definition(Mode::Saga, Drive::Interactive, &[]);
    let name = LockName::new("account:42").unwrap();
    saga.locks = vec![Lock { name, mode: LockMode::Exclusive, wait_max: DAY }];
    let (mut tx, effects) = begin(saga);
    let [asked] = effects.locks[..] else { panic!("it asks for its locks") };
    let apply = |tx: &mut Transaction, input| {
        tx.apply(input, Timestamp(1_001), &Policy::default()).unwrap()
    };
    apply(&mut tx, Input::Enlist { branch: request("a"), enlistment: Enlistment::Initiator });
    let listed = vec![(BranchId::new("a").unwrap(), Some(Vote::Prepared))];
    apply(&mut tx, Input::CommitAsked { listed });
    assert_eq!(tx.outcome(), Outcome::NotDecided, "another one may hold the lock");
    let answer = LockAnswer::Granted;
    apply(&mut tx, Input::LocksAnswered { number: None, attempt: asked.attempt, answer });
    assert_eq!(tx.outcome(), Outcome::Committed);
}

#[test]
fn a_committed_saga_that_only_waits_for_time_sleeps() {
    let mut saga = definition(Mode::Saga, Drive::Declarative, &["a", "b"]);
    saga.branches[0].step.pivot = true;
    saga.branches[1].step.depends_on = vec![BranchId::new("a").unwrap()];
    saga.branches[1].step.delay = Some(30 * DAY);
    let (mut tx, _) = begin(saga);
    let effects = prepared(&mut tx, 0, b"");
    assert_eq!(tx.outcome(), Outcome::Committed);
    let due = Timestamp(1_001).after(30 * DAY);
    assert_eq!(tx.sleeps_until(), Some(due));
    assert_eq!(effects.transition.unwrap().state.wake_at, Some(due));
}
