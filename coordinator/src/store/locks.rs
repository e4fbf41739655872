//! Locks: names that transactions hold against each other.
//!
//! The rows of the store are the truth, for every node. They are taken here and given back by the
//! batch that ends the transaction ([`Transition::releases_locks`](unanimo_core::Transition)).
//!
//! Age decides between two that want the same: the older one is that whose transaction at the top
//! began first. So what waits is stored, too, and a younger one is not granted what an older one waits
//! for. Requests for one name come one after the other, whichever nodes they come from: of two that
//! conflict, the second one sees the first one's row.

use std::collections::BTreeMap;

use async_trait::async_trait;
use unanimo_core::{Gid, Incarnation, LockMode, LockName, TxId};

use super::Error;

/// Request for locks: all of them or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockTake {
    /// The transaction that takes them.
    pub tx_id: TxId,
    /// The transaction at the top: those below it do not stand in each other's way.
    pub family: TxId,
    /// The names and modes.
    pub locks: Vec<(LockName, LockMode)>,
}

impl LockTake {
    /// The names, and for each whether it is to be exclusive, in the order that everybody keeps. A name
    /// that is there twice is wanted in the stricter mode.
    pub(super) fn in_order(&self) -> (Vec<String>, Vec<bool>) {
        let mut wanted = BTreeMap::<String, bool>::new();
        for (name, mode) in &self.locks {
            *wanted.entry(String::from(name.clone())).or_default() |= *mode == LockMode::Exclusive;
        }
        wanted.into_iter().unzip()
    }
}

/// Result of a request for locks. It is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockTaken {
    /// The transaction holds all of them.
    Granted,
    /// It was granted none, and waits for all of them: one is held by, or is due to, another
    /// transaction.
    Held {
        /// The lock.
        lock: LockName,
        /// The client's name for the other transaction.
        holder: Gid,
        /// That transaction is older. If several stand in the way, an older one is told.
        older: bool,
        /// That transaction does not hold it, and waits for it.
        waits: bool,
        /// That transaction is older, and an older one waits for a lock that the family holds: in a circle
        /// of waiters that is so for the youngest.
        blocks_older: bool,
    },
}

/// Locks, as they are taken.
#[async_trait]
pub trait Locks: Send + Sync {
    /// Takes locks. The same request can be made again, and is then answered anew; what is held
    /// already is granted.
    ///
    /// # Errors
    /// [`Error::Fenced`] once the incarnation is fenced, and [`Error::NotOpen`] if the transaction is
    /// decided, or is another incarnation's: nothing is taken then. After another error the locks may be
    /// taken or not.
    async fn take(&self, me: Incarnation, take: &LockTake) -> Result<LockTaken, Error>;
}
