//! Order of what is done to a participant's registrations.
//!
//! The row in the store and the entry in the directory are changed in one turn, or the two would differ: of
//! registrations and deregistrations, and of forgetting what is long gone.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use tokio::sync::{Mutex, MutexGuard};
use unanimo_core::ParticipantName;

use super::Directory;

/// Turns at once. Participants share them.
const LANES: usize = 16;

/// The turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    lanes: [Mutex<()>; LANES],
}

/// A turn; over when it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    lane: usize,
    _guard: Option<MutexGuard<'a, ()>>,
}

impl Turns {
    fn lane(name: &ParticipantName) -> usize {
        let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one(name);
        usize::try_from(hash % LANES as u64).unwrap_or(0)
    }
}

impl Directory {
    /// Waits for the turn of this name.
    pub async fn turn(&self, name: &ParticipantName) -> Turn<'_> {
        let lane = Turns::lane(name);
        Turn { lane, _guard: Some(self.turns.lanes[lane].lock().await) }
    }

    /// Takes the turn of another name as well, for whoever has one; `None` if somebody else has it. It is not
    /// waited for: two that wait for each other's turn would wait for ever.
    #[must_use]
    pub fn turn_beside(&self, held: &Turn<'_>, name: &ParticipantName) -> Option<Turn<'_>> {
        let lane = Turns::lane(name);
        if lane == held.lane {
            return Some(Turn { lane, _guard: None });
        }
        let guard = self.turns.lanes[lane].try_lock().ok()?;
        Some(Turn { lane, _guard: Some(guard) })
    }
}
