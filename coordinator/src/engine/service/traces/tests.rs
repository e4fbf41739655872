use std::time::Duration;

use tokio::sync::mpsc;
use unanimo_core::{
    ActionName, BranchId, BranchSpec, Definition, Drive, Gid, Incarnation, Input, Mode,
    ParticipantName, Payload, PhaseTwoAnswer, Policy, PrepareAnswer, Refusal, Timestamp,
    TraceContext,
};

use super::*;
use crate::env::{Env, SystemEnv};
use crate::suspension::Moment;

/// Time at which the transactions begin, by their clock: in 1970.
const BEGIN: Timestamp = Timestamp(5_000_000);

const HOUR: Duration = Duration::from_secs(3600);

fn branch(id: &str) -> BranchSpec {
    BranchSpec {
        branch_id: BranchId::new(id).expect("an id"),
        participant: ParticipantName::new("p").expect("a name"),
        action: ActionName::new("debit").expect("a name"),
        payload: Payload::default(),
        mode: Mode::Tcc,
        step: Default::default(),
    }
}

/// A transaction of two branches, and its spans.
struct Lab {
    traces: Traces,
    ended: mpsc::Receiver<Span>,
    tx: Transaction,
    clock: Anchor,
}

impl Lab {
    /// Begins it. Returns its Prepares.
    fn begin(trace: TraceContext) -> (Self, [Call; 2]) {
        let definition = Definition {
            gid: Gid::new("g").expect("a gid"),
            mode: Mode::Tcc,
            drive: Drive::Declarative,
            branches: vec![branch("a"), branch("b")],
            timeout: Some(HOUR),
            start: Default::default(),
            locks: Vec::new(),
            parent: None,
            children: Vec::new(),
            metadata: Default::default(),
            trace,
            initiator: String::new(),
        };
        let (env, metrics) = (std::sync::Arc::new(SystemEnv), Default::default());
        let clock = Anchor::new(BEGIN, Moment::now());
        let tx_id = env.tx_id(BEGIN);
        let (spans, ended) = Spans::new(env, Incarnation(1), 1.0, metrics);
        let (tx, effects) = Transaction::begin(tx_id, definition, BEGIN, &Policy::default());
        let mut traces = Traces::new(spans);
        traces.begin(tx.identity(), false);
        let prepares = effects.calls.try_into().expect("two Prepares");
        (Self { traces, ended, tx, clock }, prepares)
    }

    fn sent(&mut self, call: Call) -> Operation {
        let branch = self.tx.branch(call.number).expect("a branch");
        let traced = self.traces.sent(&self.tx, branch, call, self.clock);
        traced.operation().expect("it is sampled").clone()
    }

    /// Takes the answer to a call, and returns the calls that follow.
    fn answered(&mut self, input: Input) -> Vec<Call> {
        self.tx.apply(input, BEGIN, &Policy::default()).expect("it fits").calls
    }

    fn prepared(&mut self, call: Call, answer: PrepareAnswer) -> Vec<Call> {
        let Call { number, attempt, .. } = call;
        self.answered(Input::PrepareAnswered { number, attempt, answer })
    }

    fn ended(&mut self) -> Vec<Span> {
        std::iter::from_fn(|| self.ended.try_recv().ok()).collect()
    }
}

/// A Prepare that a decision has overtaken ends then, and not with the transaction: with the answer that decides, or
/// before the first Cancel.
#[test]
fn a_prepare_that_is_overtaken_ends_with_the_decision() {
    for by_answer in [true, false] {
        let (mut lab, [one, two]) = Lab::begin(TraceContext::default());
        lab.sent(one);
        lab.sent(two);
        assert_eq!(lab.ended(), []);
        let no = Refusal { reason: "NO".to_owned(), message: String::new() };
        let cancels = lab.prepared(one, PrepareAnswer::Refused(no));
        match by_answer {
            true => lab.traces.call_ended(&lab.tx, one),
            false => drop(lab.sent(*cancels.first().expect("a Cancel of the other one"))),
        }
        let names: Vec<_> = lab.ended().iter().map(|span| span.name).collect();
        assert_eq!(names, ["prepare"; 2], "by an answer: {by_answer}");
    }
}

/// A transaction and its operations go by one clock, whatever the system's says: none begins before it, or ends after it.
#[test]
fn operations_are_within_their_transaction() {
    let (mut lab, prepares) = Lab::begin(TraceContext::default());
    prepares.iter().for_each(|call| drop(lab.sent(*call)));
    let mut commits = Vec::new();
    for call in prepares {
        commits = lab.prepared(call, PrepareAnswer::Prepared(Payload::default()));
        lab.traces.call_ended(&lab.tx, call);
    }
    assert_eq!(commits.len(), 2);
    commits.iter().for_each(|call| drop(lab.sent(*call)));
    for call in commits {
        let Asked::PhaseTwo(operation) = call.operation else { panic!("{call:?}") };
        let (Call { number, attempt, .. }, answer) = (call, PhaseTwoAnswer::Done);
        lab.answered(Input::PhaseTwoAnswered { number, operation, attempt, answer });
        lab.traces.call_ended(&lab.tx, call);
    }
    lab.traces.ended(&lab.tx);
    let mut spans = lab.ended();
    let transaction = spans.pop().expect("its own is the last");
    let begin = BEGIN.0 * MILLISECOND;
    assert_eq!((transaction.name, transaction.start), ("transaction", begin));
    assert!(transaction.end < begin + crate::spans::nanos(HOUR), "{transaction:?}");
    assert_eq!(spans.len(), 4, "{spans:?}");
    for span in spans {
        assert_eq!(span.parent, Some(transaction.span_id));
        assert!(begin <= span.start && span.end <= transaction.end, "{span:?} {transaction:?}");
    }
}

/// The state that comes with a caller's trace is held once for a transaction, however many calls it owes.
#[test]
fn l5_operations_share_the_state_of_their_trace() {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned();
    let tracestate = Some("vendor=1".to_owned());
    let trace = TraceContext { traceparent: Some(traceparent), tracestate };
    let (mut lab, prepares) = Lab::begin(trace);
    let [one, two] = prepares.map(|call| lab.sent(call).context.state.expect("its state"));
    assert_eq!(&*one, "vendor=1");
    assert!(std::sync::Arc::ptr_eq(&one, &two));
}
