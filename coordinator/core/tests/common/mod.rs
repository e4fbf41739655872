//! A store of one transaction, and definitions to begin with.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, reason = "each test file uses a part")]

use std::time::Duration;

use bytes::Bytes;
use unanimo_core::{
    ActionName, BranchId, BranchRequest, BranchSpec, Definition, Drive, Effects, Gid, Mode,
    ParticipantName, Payload, Record, Transaction, Transition,
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

    /// Returns the record that a new incarnation reads, once it has made the row its own.
    pub(crate) fn recover(&mut self) -> Transaction {
        self.0.version = self.0.version.next();
        Transaction::restore(self.0.clone())
    }
}
