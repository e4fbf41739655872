//! Transactions for tests of the store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use unanimo_core::{
    ActionName, BranchId, BranchNumber, BranchSpec, Definition, Drive, Effects, Gid, Input, Mode,
    ParticipantName, Payload, PhaseTwoAnswer, PhaseTwoOperation, Policy, PrepareAnswer, Timestamp,
    TraceContext, Transaction, Transition, TxId,
};
use uuid::Uuid;

/// Returns a time before now by more than every retention.
pub(crate) const LONG_AGO: Timestamp = Timestamp(1_000_000_000_000);

pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    Timestamp(u64::try_from(since.as_millis()).unwrap())
}

/// Makes a `tx_id` of a time.
pub(crate) fn tx_id(at: Timestamp) -> TxId {
    let timestamp =
        uuid::Timestamp::from_unix_time(at.0 / 1000, (at.0 % 1000) as u32 * 1_000_000, 0, 0);
    TxId(Uuid::new_v7(timestamp))
}

/// Makes a new gid.
pub(crate) fn new_gid() -> Gid {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    Gid::new(&format!("gid-{}", COUNT.fetch_add(1, Ordering::Relaxed))).unwrap()
}

pub(crate) fn spec(id: &str) -> BranchSpec {
    BranchSpec {
        branch_id: BranchId::new(id).unwrap(),
        participant: ParticipantName::new("bank").unwrap(),
        action: ActionName::new("debit").unwrap(),
        payload: Payload {
            data: Bytes::from_static(b"10 EUR \0\xff"),
            media_type: format!("application/{id}"),
        },
        mode: Mode::Tcc,
        step: Default::default(),
    }
}

pub(crate) fn definition(gid: &Gid) -> Definition {
    Definition {
        gid: gid.clone(),
        mode: Mode::Tcc,
        drive: Drive::Declarative,
        branches: vec![spec("a"), spec("b")],
        timeout: Some(Duration::from_secs(60)),
        start: Default::default(),
        locks: Vec::new(),
        parent: None,
        children: Vec::new(),
        metadata: [("tenant".to_owned(), "blue ☂".to_owned())].into(),
        trace: TraceContext {
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            tracestate: None,
        },
        initiator: String::new(),
    }
}

/// Live transaction, with its transitions that are not handed over yet.
pub(crate) struct Live {
    pub(crate) tx: Transaction,
    pub(crate) now: Timestamp,
    policy: Policy,
}

impl Live {
    /// Begins a transaction of two branches now.
    pub(crate) fn begin(gid: &Gid) -> (Self, Transition) {
        Self::begin_with(definition(gid), now())
    }

    pub(crate) fn begin_with(definition: Definition, now: Timestamp) -> (Self, Transition) {
        let policy = Policy::default();
        let (tx, effects) = Transaction::begin(tx_id(now), definition, now, &policy);
        (Self { tx, now, policy }, effects.transition.unwrap())
    }

    /// A gid that was never seen is rolled back.
    pub(crate) fn tombstone(gid: &Gid, now: Timestamp) -> (Self, Transition) {
        let policy = Policy::default();
        let (tx, effects) =
            Transaction::tombstone(tx_id(now), gid.clone(), String::new(), now, &policy);
        (Self { tx, now, policy }, effects.transition.unwrap())
    }

    pub(crate) fn resume(tx: Transaction) -> Self {
        Self { tx, now: now(), policy: Policy::default() }
    }

    pub(crate) fn apply(&mut self, input: Input) -> Effects {
        self.tx.apply(input, self.now, &self.policy).unwrap()
    }

    pub(crate) fn id(&self) -> TxId {
        self.tx.tx_id()
    }

    /// Makes every branch vote PREPARED, with its id as output.
    pub(crate) fn commit(&mut self) -> Transition {
        let mut last = None;
        for number in self.numbers() {
            let output = self.tx.branch(number).unwrap().spec.branch_id.to_string();
            let media_type = format!("text/{output}");
            let output = Payload { data: Bytes::from(output), media_type };
            let answer = PrepareAnswer::Prepared(output);
            let effects = self.apply(Input::PrepareAnswered { number, attempt: 1, answer });
            last = effects.transition.or(last);
        }
        last.unwrap()
    }

    pub(crate) fn rollback(&mut self) -> Transition {
        self.apply(Input::RollbackAsked).transition.unwrap()
    }

    /// Ends every branch with this answer.
    pub(crate) fn phase_two(
        &mut self,
        operation: PhaseTwoOperation,
        answer: &PhaseTwoAnswer,
    ) -> Vec<Transition> {
        let mut transitions = Vec::new();
        for number in self.numbers() {
            let answer = answer.clone();
            let input = Input::PhaseTwoAnswered { number, operation, attempt: 1, answer };
            transitions.extend(self.apply(input).transition);
        }
        transitions
    }

    pub(crate) fn numbers(&self) -> Vec<BranchNumber> {
        self.tx.branches().iter().map(|branch| branch.number).collect()
    }
}
