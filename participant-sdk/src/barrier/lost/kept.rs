//! Losses in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::doubt::RowKey;
use crate::handler::Branch;
use crate::resource::RawCall;

/// Most losses that are kept in memory. Each is of a handler that is wrong, at a time when its database is gone.
const LOSSES_MAX: usize = 10_000;

/// Losses that are not recorded yet, of all clones of a resource.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Losses(Mutex<BTreeMap<RowKey, Loss>>);

/// A loss: what it was of.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    pub(super) call: RawCall,
    pub(super) text: &'static str,
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
             answered as done although what the handler has left behind stands"
        );
    }
}

impl Losses {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<RowKey, Loss>> {
        // Nothing panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    pub(super) fn all(&self) -> Vec<Loss> {
        self.kept().values().cloned().collect()
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
