//! Turns of the calls of a listener of HTTP (promise L5).
//!
//! A call has its turn until its answer has been handed over, and a stream for as long as it is open. One address has three
//! quarters of the turns that others leave. Behind it may be many callers, as where a proxy is in front of all: so one
//! identity has three quarters of those that other callers leave, both of all turns and of its address's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::identity::network_of;

/// Of so many places one is left to what is no call.
const LEFT_OF: usize = 8;

/// Part of the turns which others leave that one address, or one identity, may take, in percent.
const SHARE_PERCENT: usize = 75;

/// Whose a turn is: its address, and its identity once that is known.
type Owner = (Option<IpAddr>, Option<Arc<str>>);

/// Turns of the calls of a listener.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    taken: Arc<Mutex<HashMap<Owner, usize>>>,
    max: usize,
}

impl Turns {
    pub(crate) fn new(open_max: usize) -> Self {
        Self { taken: Arc::default(), max: open_max - open_max / LEFT_OF }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, usize>> {
        // Nothing in here panics half way through a change.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the turn of one more call from this address, until it is dropped; none if there are too many.
    pub(crate) fn next(&self, of: Option<IpAddr>) -> Option<Turn> {
        let of = of.map(network_of);
        let mut taken = self.lock();
        if count(&taken, |(address, _)| *address == of) >= self.share_of_address(&taken, of) {
            return None;
        }
        *taken.entry((of, None)).or_default() += 1;
        drop(taken);
        Some(Turn(Arc::new(Taken { turns: self.clone(), owner: Mutex::new((of, None)) })))
    }

    fn share_of_address(&self, taken: &HashMap<Owner, usize>, of: Option<IpAddr>) -> usize {
        let left = self.max.saturating_sub(count(taken, |(address, _)| *address != of));
        if of.is_none() { left } else { share(left) }
    }

    /// Tells whether an identity may have one more turn, which is counted already, at this address.
    fn has_room(&self, taken: &HashMap<Owner, usize>, of: Option<IpAddr>, identity: &str) -> bool {
        let is_own = |owner: &Owner| owner.1.as_deref() == Some(identity);
        let within = |all: usize, is_there: &dyn Fn(&Owner) -> bool| {
            let own = count(taken, |owner| is_own(owner) && is_there(owner));
            // The turn itself is counted as nobody's.
            let others = count(taken, |owner| !is_own(owner) && is_there(owner)) - 1;
            own < share(all.saturating_sub(others))
        };
        let of_address = self.share_of_address(taken, of);
        within(self.max, &|_| true) && within(of_address, &|(address, _)| *address == of)
    }
}

fn share(left: usize) -> usize {
    (left * SHARE_PERCENT).div_ceil(100)
}

fn count(taken: &HashMap<Owner, usize>, of: impl Fn(&Owner) -> bool) -> usize {
    taken.iter().filter(|(owner, _)| of(owner)).map(|(_, count)| count).sum()
}

/// Turn of a call. It is given back when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Turn(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    turns: Turns,
    owner: Mutex<Owner>,
}

impl Turn {
    /// Counts it as this identity's. Tells whether that may have it.
    pub(super) fn is_of(&self, identity: &str) -> bool {
        let turns = &self.0.turns;
        let mut owner = self.0.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if owner.1.is_some() {
            return true;
        }
        let mut taken = turns.lock();
        if !turns.has_room(&taken, owner.0, identity) {
            return false;
        }
        give_back(&mut taken, &owner);
        owner.1 = Some(identity.into());
        *taken.entry(owner.clone()).or_default() += 1;
        true
    }
}

fn give_back(taken: &mut HashMap<Owner, usize>, owner: &Owner) {
    if let Some(own) = taken.get_mut(owner) {
        *own -= 1;
        if *own == 0 {
            taken.remove(owner);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let owner = self.owner.get_mut().unwrap_or_else(PoisonError::into_inner).clone();
        give_back(&mut self.turns.lock(), &owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> Option<IpAddr> {
        Some([10, 0, 0, last].into())
    }

    /// Takes turns from an address for an identity until there are no more for it.
    fn all(turns: &Turns, last: u8, identity: &str) -> Vec<Turn> {
        let next = || turns.next(at(last)).filter(|turn| turn.is_of(identity));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn l5_one_address_leaves_turns_to_others() {
        let turns = Turns::new(8);
        let first: Vec<_> = std::iter::from_fn(|| turns.next(at(1))).collect();
        assert_eq!(first.len(), 6, "three quarters of seven");
        let second = turns.next(at(2)).expect("that is left");
        assert!(turns.next(at(3)).is_none(), "there are no more");
        drop((first, second));
        assert!(turns.lock().is_empty(), "nothing is kept");
    }

    #[test]
    fn l5_one_identity_leaves_turns_to_others_of_its_address() {
        let turns = Turns::new(128);
        let greedy = all(&turns, 1, "greedy");
        assert_eq!(greedy.len(), 63, "three quarters of the address's 84");
        let other = all(&turns, 1, "other");
        assert_eq!(other.len(), 16, "of the rest");
        assert!(turns.next(at(1)).is_some(), "who is not known yet");
        drop((greedy, other));
        assert!(turns.lock().is_empty(), "nothing is kept");
    }

    #[test]
    fn l5_one_identity_leaves_turns_to_others_from_however_many_addresses() {
        let turns = Turns::new(128);
        let greedy: Vec<_> = (1..=200).flat_map(|last| all(&turns, last, "greedy")).collect();
        assert_eq!(greedy.len(), 84, "three quarters of 112");
        assert!(!all(&turns, 201, "other").is_empty());
        assert!(!all(&turns, 1, "other").is_empty(), "at the same address");
    }

    #[test]
    fn a_turn_stays_whose_it_is() {
        let turns = Turns::new(8);
        let turn = turns.next(at(1)).expect("a turn");
        assert!(turn.is_of("one") && turn.is_of("one"));
        assert_eq!(
            turns.lock().keys().map(|owner| owner.1.as_deref()).collect::<Vec<_>>(),
            [Some("one")]
        );
        let held = turn.clone();
        drop(turn);
        assert!(!turns.lock().is_empty(), "its answer is not handed over yet");
        drop(held);
        assert!(turns.lock().is_empty());
    }
}
