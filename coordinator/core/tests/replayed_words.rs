//! Records of operators' words as earlier versions wrote them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "common/history.rs"]
mod history;

use common::{Durable, saga};
use history::History;
use unanimo_core::Refusal;
use unanimo_core::history::{Input as Recorded, replay};
use unanimo_core::{
    BranchNumber, Drive, HeuristicKind, Input, Payload, Phase, Policy, PrepareAnswer, RecordPolicy,
    RulesVersion, Timestamp, Transaction, TxId,
};

fn resolve(output: Option<Payload>) -> Input {
    let (operator, note) = ("op".to_owned(), "by hand".to_owned());
    let (number, kind) = (BranchNumber::from_index(0), HeuristicKind::Commit);
    Input::Resolve { number, kind, output, operator, note }
}

/// S4: a word that an earlier version took without an output means the same, although it is asked for now.
#[test]
fn s4_a_recorded_word_without_an_output_is_taken() {
    let rules = RulesVersion::FIRST;
    let policy = Policy { record: RecordPolicy::All, rules, ..Policy::default() };
    let (id, now) = (TxId(uuid::Uuid::from_u128(7)), Timestamp(1_000_000));
    let definition = saga(Drive::Declarative, &["p!", "b<p+reads"]);
    let (mut tx, begun) = Transaction::begin(id, definition, now, &policy);
    let (mut durable, mut history) = (Durable::begun(&begun), History::default());
    history.write(&begun);
    let rejection = tx.apply(resolve(None), now, &policy).unwrap_err();
    assert_eq!(rejection.to_string(), "output must be given: it is read by b");
    let answer = PrepareAnswer::Prepared(Payload::default());
    let answered =
        Input::PrepareAnswered { number: BranchNumber::from_index(1), attempt: 1, answer };
    for input in [resolve(Some(Payload::default())), answered] {
        let effects = tx.apply(input, now, &policy).unwrap();
        durable.write(&effects);
        history.write(&effects);
    }
    assert!(matches!(tx.phase(), Phase::Ended { .. }));

    history.check(&durable.0);
    let mut document = history.export(&durable.0);
    let mut taken = 0;
    for step in document.entries.iter_mut().flat_map(|entry| &mut entry.steps) {
        if let Recorded::Resolve { output, .. } = &mut step.input {
            taken += usize::from(output.take().is_some());
        }
    }
    assert_eq!(taken, 1);
    replay(&document).unwrap();
}

/// Words of a decision are compared as they are written, not as they are shown.
#[test]
fn a_decision_in_an_unknown_word_is_a_difference() {
    let policy = Policy { record: RecordPolicy::All, ..Policy::default() };
    let (id, now) = (TxId(uuid::Uuid::from_u128(7)), Timestamp(1_000_000));
    let definition = saga(Drive::Declarative, &["a"]);
    let (mut tx, begun) = Transaction::begin(id, definition, now, &policy);
    let (mut durable, mut history) = (Durable::begun(&begun), History::default());
    history.write(&begun);
    let refusal = Refusal { reason: "FULL".into(), message: "full".into() };
    let answer = PrepareAnswer::Refused(refusal);
    let number = BranchNumber::from_index(0);
    let effects =
        tx.apply(Input::PrepareAnswered { number, attempt: 1, answer }, now, &policy).unwrap();
    durable.write(&effects);
    history.write(&effects);
    let document = history.export(&durable.0);
    replay(&document).unwrap();
    let mut odd = document;
    odd.entries.last_mut().unwrap().after.decision = Some("abortx".into());
    let difference = replay(&odd).unwrap_err();
    assert!(format!("{difference:?}").contains("abortx"), "{difference:?}");
}
