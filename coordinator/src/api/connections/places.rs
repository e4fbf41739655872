//! Places of connections.
//!
//! One address may not take them all: it gets a share of those that others leave. Beside these there are a few places
//! on which only calls of operators are served: whoever has to look is heard while everybody else is at the door.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::identity::network_of;
use crate::metrics::Metrics;

/// Part of the places which others leave that one address may take, in percent. What is in front of all callers, such as
/// a balancer, is one address.
const SHARE_PERCENT: usize = 75;

/// Places for calls of operators: a few people, with a few commands each.
pub(crate) const RESERVED_MAX: usize = 32;

/// The most of them that one address may take.
const RESERVED_OF_ONE: usize = 8;

/// Kind of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Every call is served.
    Usual,
    /// Only calls of operators are.
    Reserved,
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    usual_max: usize,
    reserved_max: usize,
    metrics: Arc<Metrics>,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Usual ones, and reserved ones.
    all: [usize; 2],
    by_address: HashMap<IpAddr, [usize; 2]>,
}

impl Places {
    pub(super) fn new(
        (usual_max, reserved_max): (usize, usize),
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self { usual_max, reserved_max, metrics, taken: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing in here panics half way through a change.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a connection from this address; `None` if there is none.
    pub(super) fn take(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Place> {
        let address = address.map(network_of);
        let mut taken = self.lock();
        let [usual, reserved] =
            address.and_then(|address| taken.by_address.get(&address).copied()).unwrap_or_default();
        let left = self.usual_max.saturating_sub(taken.all[0] - usual);
        let share = (left * SHARE_PERCENT / 100).max(1);
        let kind = if taken.all[0] < self.usual_max && usual < share {
            Kind::Usual
        } else if taken.all[1] < self.reserved_max && reserved < RESERVED_OF_ONE {
            Kind::Reserved
        } else {
            return None;
        };
        taken.all[kind as usize] += 1;
        if let Some(address) = address {
            taken.by_address.entry(address).or_default()[kind as usize] += 1;
        }
        drop(taken);
        self.metrics.connection_opened();
        Some(Place { places: Arc::clone(self), address, kind })
    }
}

/// Place of a connection; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: Option<IpAddr>,
    kind: Kind,
}

impl Place {
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all[self.kind as usize] -= 1;
        if let Some(address) = self.address
            && let Some(own) = taken.by_address.get_mut(&address)
        {
            own[self.kind as usize] -= 1;
            if *own == [0, 0] {
                taken.by_address.remove(&address);
            }
        }
        drop(taken);
        self.places.metrics.connection_closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(places: &Arc<Places>, address: &str) -> Option<Place> {
        places.take(Some(address.parse().expect("an address")))
    }

    fn kinds(taken: &[Place]) -> (usize, usize) {
        let usual = taken.iter().filter(|place| place.kind() == Kind::Usual).count();
        (usual, taken.len() - usual)
    }

    #[test]
    fn l5_one_address_leaves_places_to_others() {
        let places = Places::new((100, RESERVED_MAX), Arc::default());
        let first: Vec<_> = std::iter::from_fn(|| take(&places, "10.0.0.1")).collect();
        assert_eq!(kinds(&first), (75, RESERVED_OF_ONE));
        let second: Vec<_> = std::iter::from_fn(|| take(&places, "10.0.0.2")).collect();
        assert_eq!(kinds(&second), (18, RESERVED_OF_ONE), "of the rest");
        assert_eq!(take(&places, "10.0.0.3").map(|place| place.kind()), Some(Kind::Usual));
        drop(first);
        assert_eq!(take(&places, "10.0.0.2").map(|place| place.kind()), Some(Kind::Usual));
        drop(second);
        let taken = places.lock();
        assert_eq!((taken.all, taken.by_address.len()), ([0, 0], 0), "nothing is kept");
    }

    #[test]
    fn l5_places_for_operators_are_left_when_all_others_are_taken() {
        let places = Places::new((4, RESERVED_MAX), Arc::default());
        let far = |n: usize| take(&places, &format!("10.0.0.{n}")).expect("a place");
        let taken: Vec<_> = (0..4 + RESERVED_MAX).map(far).collect();
        assert_eq!(kinds(&taken), (4, RESERVED_MAX));
        assert!(take(&places, "10.0.1.1").is_none());
    }

    #[test]
    fn l5_a_host_is_one_caller_whatever_its_addresses() {
        for (address, same) in
            [("2001:db8::1", "2001:db8::ffff:1"), ("::ffff:10.0.0.1", "10.0.0.1")]
        {
            let [address, same] =
                [address, same].map(|a| network_of(a.parse().expect("an address")));
            assert_eq!(address, same);
        }
        let other = network_of("2001:db8:0:1::1".parse().expect("an address"));
        assert_ne!(other, network_of("2001:db8::1".parse().expect("an address")));
    }
}
