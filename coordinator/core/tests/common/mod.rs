//! A store of one transaction, and definitions to begin with.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod script;

use std::time::Duration;

use bytes::Bytes;
use unanimo_core::{
    ActionName, BranchId, BranchNumber, BranchRequest, BranchSpec, COORDINATOR, Compensation,
    Definition, Drive, Effects, Gid, InputName, Lock, LockMode, LockName, Mode, Parent,
    ParticipantName, Payload, Record, Start, StepInput, Transaction, Transition, TxId,
};

/// A branch of this name.
pub(crate) fn spec(id: &str, mode: Mode) -> BranchSpec {
    request(id).in_mode(mode)
}

/// A request to add a branch of this name.
pub(crate) fn request(id: &str) -> BranchRequest {
    BranchRequest {
        branch_id: BranchId::new(id).unwrap(),
        participant: ParticipantName::new("bank").unwrap(),
        action: ActionName::new("debit").unwrap(),
        payload: Payload::from(Bytes::from_static(b"10")),
        mode: None,
        step: Default::default(),
    }
}

/// A transaction with these branches and a minute of time.
pub(crate) fn definition(mode: Mode, drive: Drive, branches: &[&str]) -> Definition {
    Definition {
        gid: Gid::new("g").unwrap(),
        mode,
        drive,
        branches: branches.iter().map(|id| spec(id, mode)).collect(),
        timeout: Some(Duration::from_secs(60)),
        start: Default::default(),
        locks: Vec::new(),
        parent: None,
        children: Vec::new(),
        metadata: Default::default(),
        trace: Default::default(),
        initiator: String::new(),
    }
}

/// A saga of these branches, and a minute of time. A word is an id, and what is to say of it:
/// `b<a,c` depends on `a` and `c`, `p!` is the pivot, `a:tcc` has its own mode, and after `+` stand
/// `kept`, `none`, `lock`, `nested` (it is a child), `reads` (what it depends on), `delay=ms`, `attempts=n`, `backoff=ms` and `patience=ms`. A word that begins with `+` is of
/// the saga itself: `+child`, `+lock`, `+start=ms`.
pub(crate) fn saga(drive: Drive, words: &[&str]) -> Definition {
    let mut saga = definition(Mode::Saga, drive, &[]);
    for word in words {
        let mut parts = word.split('+');
        let head = parts.next().unwrap();
        if !head.is_empty() {
            saga.branches.push(step(head, parts));
            continue;
        }
        for (name, ms) in parts.map(name_and_number) {
            match name {
                "child" => {
                    let root = TxId(uuid::Uuid::from_u128(1));
                    let number = BranchNumber::from_index(0);
                    saga.parent = Some(Parent { tx_id: root, number, root });
                }
                "lock" => saga.locks.push(lock()),
                "start" => saga.start = Start::After(Duration::from_millis(ms)),
                other => panic!("unknown word {other}"),
            }
        }
    }
    let violations = saga.violations(&Default::default());
    assert!(violations.is_empty(), "the saga breaks a rule: {violations:?}");
    saga
}

/// One branch of a saga, as [`saga`] reads it.
pub(crate) fn step<'a>(head: &str, words: impl Iterator<Item = &'a str>) -> BranchSpec {
    let (head, depends_on) = head.split_once('<').unwrap_or((head, ""));
    let (head, mode) = head.split_once(':').unwrap_or((head, "saga"));
    let mut spec = spec(head.trim_end_matches('!'), mode.parse().unwrap());
    spec.step.pivot = head.ends_with('!');
    let ids = depends_on.split(',').filter(|id| !id.is_empty());
    spec.step.depends_on = ids.map(|id| BranchId::new(id).unwrap()).collect();
    let read = spec.step.depends_on.clone();
    let input = |branch_id: BranchId| StepInput {
        name: InputName::new(&branch_id.to_string()).unwrap(),
        branch_id,
    };
    for (name, number) in words.map(name_and_number) {
        let ms = Duration::from_millis(number);
        let step = &mut spec.step;
        match name {
            "kept" => step.compensation = Compensation::Kept,
            "none" => step.compensation = Compensation::None,
            "lock" => step.locks.push(lock()),
            "nested" => spec.participant = ParticipantName::new(COORDINATOR).unwrap(),
            "reads" => step.inputs = read.iter().cloned().map(input).collect(),
            "delay" => step.delay = Some(ms),
            "attempts" => {
                step.retry.get_or_insert_default().attempts_max = Some(number.try_into().unwrap());
            }
            "backoff" => step.retry.get_or_insert_default().backoff_min = Some(ms),
            "patience" => step.retry.get_or_insert_default().give_up_after = Some(ms),
            other => panic!("unknown word {other}"),
        }
    }
    spec
}

fn name_and_number(word: &str) -> (&str, u64) {
    let (name, number) = word.split_once('=').unwrap_or((word, "0"));
    (name, number.parse().unwrap())
}

/// Lock `l`, waited for 700 ms.
fn lock() -> Lock {
    let name = LockName::new("l").unwrap();
    Lock { name, mode: LockMode::Exclusive, wait_max: Duration::from_millis(700) }
}

/// Rows that a store would hold: made of transitions alone, and so all that a crash leaves.
#[derive(Clone)]
pub(crate) struct Durable(pub(crate) Record);

impl Durable {
    /// The store after a transaction's first transition.
    pub(crate) fn begun(effects: &Effects) -> Self {
        let first = effects.transition.as_ref().expect("a begin is written");
        let record = Record {
            identity: first.begins.clone().expect("the first transition begins"),
            version: Default::default(),
            state: first.state.clone(),
            branches: Vec::new(),
            outputs: Vec::new(),
        };
        let mut durable = Self(record);
        durable.write(effects);
        durable
    }

    /// Writes what the effects ask for.
    pub(crate) fn write(&mut self, effects: &Effects) {
        if let Some(transition) = effects.transition.clone() {
            assert_eq!(transition.version, self.0.version.next(), "a version was skipped");
            self.write_transition(transition);
        }
    }

    /// Writes a transition, or several that were folded.
    pub(crate) fn write_transition(&mut self, transition: Transition) {
        assert!(transition.version > self.0.version, "an earlier version was written again");
        self.0.version = transition.version;
        self.0.state = transition.state;
        for (number, enlistment, spec) in transition.enlisted {
            assert_eq!(number.index(), self.0.branches.len(), "a branch was skipped");
            self.0.branches.push((enlistment, spec));
        }
        self.0.outputs.extend(transition.outputs);
        self.0.outputs.sort_by_key(|(number, _)| *number);
    }

    /// Takes away what operators gave as outputs: earlier versions did not ask for them.
    pub(crate) fn without_given_outputs(&mut self) {
        let Record { state, outputs, .. } = &mut self.0;
        let given =
            |progress: &mut unanimo_core::Progress| std::mem::take(&mut progress.output_by_word);
        let given: Vec<bool> = state.branches.iter_mut().map(given).collect();
        outputs.retain(|(number, _)| !given[number.index()]);
    }

    /// Returns the record that a new incarnation reads, once it has made the row its own.
    pub(crate) fn recover(&mut self) -> Transaction {
        self.0.version = self.0.version.next();
        Transaction::restore(self.0.clone())
    }
}
