//! Losses in memory.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::doubt::RowKey;
use crate::handler::{Branch, Call};
use crate::payload::Payload;
use crate::resource::RawCall;

/// Most losses that are kept in memory. Each is of a handler that is wrong, at a time when its database is gone.
const LOSSES_MAX: usize = 10_000;

/// Losses that are not recorded yet, of all clones of a resource.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Losses {
    kept: Mutex<BTreeMap<RowKey, Loss>>,
    /// Where the last attempt to record all of them has ended early.
    tried_to: Mutex<Option<RowKey>>,
}

/// A loss: what it was of.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    pub(super) call: RawCall,
    pub(super) text: &'static str,
}

impl Loss {
    /// Payload, inputs and metadata, which no row holds, are left out: they may take megabytes.
    pub(super) fn of(
        RawCall { call, mode, requires: _, until, output_max }: &RawCall,
        text: &'static str,
    ) -> Self {
        let call = Call {
            branch: call.branch.clone(),
            action: call.action.clone(),
            payload: Payload::default(),
            metadata: HashMap::new(),
            attempt: call.attempt,
            must_succeed: call.must_succeed,
            deadline: call.deadline,
            inputs: Arc::default(),
        };
        let (mode, until, output_max) = (*mode, *until, *output_max);
        Self { call: RawCall { call, mode, requires: Vec::new(), until, output_max }, text }
    }
}

/// Branch of a loss that is not recorded.
#[derive(Clone, Debug)]
pub(crate) struct Unrecorded {
    tx_id: Uuid,
    gid: String,
    branch_id: String,
}

impl fmt::Display for Unrecorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tx_id, branch_id, .. } = self;
        write!(f, "branch {branch_id} of {tx_id}")
    }
}

impl Unrecorded {
    fn of(loss: &Loss) -> Self {
        let Branch { tx_id, gid, branch_id, .. } = loss.call.branch();
        Self { tx_id: *tx_id, gid: gid.clone(), branch_id: branch_id.clone() }
    }

    /// Tells a person, with the reason for which nobody records it any more.
    pub(crate) fn tell(&self, why: &str) {
        let Self { tx_id, gid, branch_id } = self;
        tracing::error!(
            alarm = "handler_lost_transaction",
            %tx_id, gid, branch_id, why,
            "a handler has lost its local transaction, and the database has not taken the record of it: a Cancel may be \
             answered as done although what the handler has left behind stands; look at its data, and make up for that by \
             hand"
        );
    }
}

impl Losses {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<RowKey, Loss>> {
        // Nothing panics half way through a change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, loss: &Loss) {
        let mut kept = self.kept();
        let key = key(&loss.call);
        if kept.len() < LOSSES_MAX || kept.contains_key(&key) {
            kept.insert(key, loss.clone());
        } else {
            drop(kept);
            Unrecorded::of(loss).tell("too many are kept in memory already");
        }
    }

    pub(super) fn is_recorded(&self, call: &RawCall) {
        self.kept().remove(&key(call));
    }

    pub(super) fn of(&self, call: &RawCall) -> Option<Loss> {
        let kept = self.kept();
        if kept.is_empty() { None } else { kept.get(&key(call)).cloned() }
    }

    /// Returns all of them, and those last that were tried last: one that takes long keeps no other one waiting for ever.
    pub(super) fn all(&self) -> Vec<Loss> {
        let tried_to = self.tried_to.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all: Vec<Loss> = self.kept().values().cloned().collect();
        if let Some(tried_to) = tried_to {
            let tried = all.partition_point(|loss| key(&loss.call) <= tried_to);
            all.rotate_left(tried);
        }
        all
    }

    /// An attempt to record all of them has ended with this one.
    pub(super) fn tried_to(&self, loss: &Loss) {
        let tried_to = Some(key(&loss.call));
        *self.tried_to.lock().unwrap_or_else(PoisonError::into_inner) = tried_to;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept().is_empty()
    }

    /// Returns the branches of all of them.
    pub(crate) fn branches(&self) -> Vec<Unrecorded> {
        self.kept().values().map(Unrecorded::of).collect()
    }
}

/// Nobody can record them any more.
impl Drop for Losses {
    fn drop(&mut self) {
        for branch in self.branches() {
            branch.tell("the participant has ended");
        }
    }
}

fn key(call: &RawCall) -> RowKey {
    let branch = call.branch();
    (branch.tx_id, branch.branch_id.clone())
}

#[cfg(test)]
mod tests {
    use unanimo_proto::v1::Mode;

    use super::*;

    /// L5: an attempt that has ended early goes on where it was, round and round.
    #[test]
    fn l5_losses_are_tried_in_turn() {
        let of = |number: u128| Loss {
            call: RawCall {
                call: Call {
                    branch: Branch {
                        tx_id: Uuid::from_u128(number),
                        gid: "g".to_owned(),
                        branch_id: "b".to_owned(),
                        number: 1,
                        cluster_id: "c".to_owned(),
                        participant: "p".to_owned(),
                    },
                    action: "a".to_owned(),
                    payload: Payload::default(),
                    metadata: HashMap::new(),
                    attempt: 1,
                    must_succeed: false,
                    deadline: None,
                    inputs: Arc::default(),
                },
                mode: Mode::Tcc,
                requires: Vec::new(),
                until: None,
                output_max: None,
            },
            text: "it is wrong",
        };
        let losses = Losses::default();
        (1..=4).for_each(|number| losses.note(&of(number)));
        let order = || -> Vec<u128> {
            losses.all().iter().map(|loss| loss.call.branch().tx_id.as_u128()).collect()
        };
        assert_eq!(order(), [1, 2, 3, 4]);
        losses.tried_to(&of(2));
        assert_eq!(order(), [3, 4, 1, 2]);
        // It is recorded meanwhile.
        losses.is_recorded(&of(2).call);
        assert_eq!(order(), [3, 4, 1]);
        losses.tried_to(&of(4));
        assert_eq!(order(), [1, 3, 4]);
        (1..=4).for_each(|number| losses.is_recorded(&of(number).call));
    }

    /// L5: ten thousand of them take megabytes, however large their calls were.
    #[test]
    fn l5_a_loss_in_memory_holds_nothing_that_a_caller_makes_large() {
        let large = || Payload::new(vec![0_u8; 1 << 20], "application/json");
        let text = || "x".repeat(1 << 10);
        let branch = Branch {
            tx_id: Uuid::nil(),
            gid: "g".to_owned(),
            branch_id: "b".to_owned(),
            number: 1,
            cluster_id: "c".to_owned(),
            participant: "p".to_owned(),
        };
        let call = Call {
            branch: branch.clone(),
            action: "a".to_owned(),
            payload: large(),
            metadata: HashMap::from([(text(), text())]),
            attempt: 7,
            must_succeed: true,
            deadline: None,
            inputs: Arc::new(HashMap::from([("i".to_owned(), large())])),
        };
        let requires = vec![text()];
        let call = RawCall { call, mode: Mode::Saga, requires, until: None, output_max: Some(1) };
        let losses = Losses::default();
        losses.note(&Loss::of(&call, "it is wrong"));
        let kept = losses.of(&call).expect("it is kept").call;
        assert_eq!((&kept.call.branch, kept.mode), (&branch, Mode::Saga), "as its row needs it");
        assert_eq!((kept.call.payload, kept.call.metadata.len()), (Payload::default(), 0));
        assert_eq!((kept.call.inputs.len(), kept.requires.len()), (0, 0));
        losses.is_recorded(&call);
        assert!(losses.is_empty());
    }
}
