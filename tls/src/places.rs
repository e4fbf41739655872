//! Places of handshakes that are under way.
//!
//! A client that opens connections and says nothing must not take them all. One address has three quarters of the places
//! that others leave. Past its share, or where all are taken, the earliest handshake of who has the most gives its place
//! up, once it had a time in which a client that goes on has ended its own. Nobody waits for a place: a connection
//! for which there is none is closed.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::network_of;

/// Part of the places which others leave that one address may take, in percent. What is in front of all clients, such
/// as a balancer, is one address.
const SHARE_PERCENT: usize = 75;

/// Time that a handshake has for itself. Two round trips over the longest way on earth take a second.
const SPARED: Duration = Duration::from_secs(1);

/// All places.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// By address, the earliest first.
    by_address: HashMap<IpAddr, BTreeMap<u64, (Instant, oneshot::Sender<()>)>>,
    next: u64,
}

impl Taken {
    /// Takes a place away.
    fn remove(&mut self, address: IpAddr, number: u64) {
        let Some(own) = self.by_address.get_mut(&address) else { return };
        if own.remove(&number).is_some() {
            self.all -= 1;
        }
        if own.is_empty() {
            self.by_address.remove(&address);
        }
    }

    fn of(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).map_or(0, BTreeMap::len)
    }

    /// Takes the earliest place of this address away. Tells whether it may: a place that was not had for long is kept, unless
    /// who asks has so few that it would still have no more.
    fn make_room(&mut self, address: IpAddr, of_asker: usize, now: Instant) -> bool {
        let Some(own) = self.by_address.get(&address) else { return false };
        let Some((number, (since, _))) = own.first_key_value() else { return false };
        let may = now >= *since + SPARED || own.len() > of_asker + 1;
        let number = *number;
        if may {
            self.remove(address, number);
        }
        may
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing in here panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one of so many places for a handshake with this address; `None` if there is none.
    pub(crate) fn take(
        self: &Arc<Self>,
        max: usize,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Option<Place> {
        // Those of which the system does not know it are one.
        let address = address.map_or(IpAddr::from([0, 0, 0, 0]), network_of);
        let mut taken = self.lock();
        let own = taken.of(address);
        let left = max.saturating_sub(taken.all - own);
        let has_room = if own >= (left * SHARE_PERCENT / 100).max(1) {
            taken.make_room(address, own, now)
        } else if taken.all >= max {
            let most = taken.by_address.iter().max_by_key(|(_, own)| own.len());
            let most = most.map(|(address, _)| *address);
            most.is_some_and(|most| taken.make_room(most, own, now))
        } else {
            true
        };
        if !has_room {
            return None;
        }
        taken.next += 1;
        let (number, (keep, lost)) = (taken.next, oneshot::channel());
        taken.by_address.entry(address).or_default().insert(number, (now, keep));
        taken.all += 1;
        drop(taken);
        Some(Place { places: Arc::clone(self), address, number, lost })
    }
}

/// Place of a handshake; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    address: IpAddr,
    number: u64,
    lost: oneshot::Receiver<()>,
}

impl Place {
    /// Waits until it is another one's.
    pub(crate) async fn lost(&mut self) {
        // Nothing is sent: the other end is dropped.
        let _ = (&mut self.lost).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(self.address, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 100;

    fn is_lost(place: &mut Place) -> bool {
        place.lost.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    /// Takes places for an address until there are no more.
    fn all(places: &Arc<Places>, address: &str, now: Instant) -> Vec<Place> {
        let address = Some(address.parse().expect("an address"));
        let taken = std::iter::from_fn(|| places.take(MAX, address, now)).take(MAX + 1);
        taken.collect()
    }

    #[test]
    fn l5_one_address_leaves_places_to_others() {
        let (places, now) = (Arc::<Places>::default(), Instant::now());
        let first = all(&places, "10.0.0.1", now);
        assert_eq!(first.len(), 75);
        let second = all(&places, "10.0.0.2", now);
        assert_eq!(second.len(), 18, "of the rest");
        let third = all(&places, "2001:db8::1", now);
        assert_eq!(third.len(), 5);
        assert_eq!(all(&places, "2001:db8::2", now).len(), 0, "the same host");
        drop((first, second, third));
        assert_eq!(all(&places, "10.0.0.3", now).len(), 75, "they are given back");
        assert_eq!(places.lock().all, 0, "nothing is kept");
        assert!(places.lock().by_address.is_empty(), "nothing is kept");
    }

    #[test]
    fn l5_who_says_nothing_gives_its_place_up_where_there_are_too_many() {
        let (places, now) = (Arc::<Places>::default(), Instant::now());
        let mut silent = all(&places, "10.0.0.1", now);
        let again = all(&places, "10.0.0.1", now + SPARED / 2);
        assert_eq!(again.len(), 0, "each has some time for itself");
        let address = Some(IpAddr::from([10, 0, 0, 1]));
        let _next = places.take(MAX, address, now + SPARED).expect("the place of the first");
        assert!(is_lost(&mut silent[0]) && !is_lost(&mut silent[1]));
    }

    #[test]
    fn l5_who_has_none_gets_a_place_though_all_are_taken() {
        let (places, now) = (Arc::<Places>::default(), Instant::now());
        let of = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut most = all(&places, "10.0.0.1", now);
        let others: Vec<_> = (2..=26).map(|n| places.take(MAX, Some(of(n)), now)).collect();
        assert!(others.iter().all(Option::is_some));
        assert_eq!(places.lock().all, MAX);
        places.take(MAX, Some(of(99)), now).expect("that of who has the most");
        assert!(is_lost(&mut most[0]));
        // Where each has one, nobody loses it at once.
        let places = Arc::<Places>::default();
        let _each: Vec<_> = (0..100).map(|n| places.take(MAX, Some(of(n)), now)).collect();
        assert!(places.take(MAX, Some(of(200)), now).is_none());
        assert!(places.take(MAX, Some(of(200)), now + SPARED).is_some());
    }
}
