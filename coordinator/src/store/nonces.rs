//! Incarnations of this store, and the nonce that each of them has beside its number.
//!
//! The database counts incarnations. After a failover that has lost a birth, or a restore to a time before it,
//! it counts from there once more, and gives the number to somebody else: the number alone would let both
//! write. So a birth draws a random nonce, and every statement of an incarnation matches it with the number. It
//! finds nothing in a database that does not know this birth.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use unanimo_core::Incarnation;
use uuid::Uuid;

/// Nonces of the incarnations that were created through one store. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Nonces(Arc<Mutex<HashMap<Incarnation, Uuid>>>);

impl Nonces {
    /// Notes a birth.
    pub(super) fn insert(&self, me: Incarnation, nonce: Uuid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(me, nonce);
    }

    /// Returns the nonce of an incarnation; `None` if it was not created here.
    pub(super) fn find(&self, me: Incarnation) -> Option<Uuid> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&me).copied()
    }

    /// Returns the nonce that the statements of an incarnation match. One that was not created here has
    /// none, and matches nothing.
    pub(super) fn nonce(&self, me: Incarnation) -> Uuid {
        self.find(me).unwrap_or(Uuid::nil())
    }
}
