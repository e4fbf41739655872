//! Calls of what is no service of the contract: health, reflection, and what does not exist (promise L5).
//!
//! Strangers may make them: nobody needs an identity for that. So their messages are small, and an address has a share
//! of the calls that are under way: three quarters of those that others leave. Streams that tell the health are open for
//! as long as their readers are there, and have places of their own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic::Status;

use super::error::too_many_others;
use crate::identity::network_of;

/// Largest message of such a call: a name, of a service or of a symbol.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// Most calls, and most streams that tell the health, at a time: more than there are balancers and probes. Each takes some
/// 16 KiB.
const UNDER_WAY_MAX: usize = 1024;

/// Part of those which others leave that one address may have, in percent.
const SHARE_PERCENT: usize = 75;

/// Path of the stream that tells the health.
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Calls that are under way.
#[derive(Debug, Default)]
pub(super) struct Others(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    /// Calls, and streams.
    all: [usize; 2],
    by_address: HashMap<IpAddr, [usize; 2]>,
}

impl Others {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing in here panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a call of this path from this address.
    pub(super) fn take(
        self: &Arc<Self>,
        path: &str,
        address: Option<IpAddr>,
    ) -> Result<Place, Status> {
        let kind = usize::from(path == WATCH);
        // Those of which the system does not know it are one.
        let address = address.map_or(IpAddr::from([0, 0, 0, 0]), network_of);
        let mut taken = self.lock();
        let own = taken.by_address.get(&address).map_or(0, |own| own[kind]);
        let left = UNDER_WAY_MAX.saturating_sub(taken.all[kind] - own);
        if own >= left * SHARE_PERCENT / 100 {
            return Err(too_many_others());
        }
        taken.all[kind] += 1;
        taken.by_address.entry(address).or_default()[kind] += 1;
        drop(taken);
        Ok(Place { others: Arc::clone(self), kind, address })
    }
}

/// Place of a call; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    others: Arc<Others>,
    kind: usize,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.others.lock();
        taken.all[self.kind] -= 1;
        if let Some(own) = taken.by_address.get_mut(&self.address) {
            own[self.kind] -= 1;
            if *own == [0, 0] {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: &str = "/grpc.health.v1.Health/Check";

    #[test]
    fn l5_one_address_leaves_calls_of_health_to_others() {
        let others = Arc::<Others>::default();
        let take = |path: &str, address: [u8; 4]| others.take(path, Some(address.into())).ok();
        let all = |path, address| std::iter::from_fn(|| take(path, address)).collect::<Vec<_>>();
        let first = all(CHECK, [10, 0, 0, 1]);
        assert_eq!(first.len(), 768);
        let streams = all(WATCH, [10, 0, 0, 1]);
        assert_eq!(streams.len(), 768, "they take no places of calls");
        assert_eq!(all(CHECK, [10, 0, 0, 2]).len(), 192, "of the rest");
        assert_eq!(all(WATCH, [10, 0, 0, 2]).len(), 192);
        drop((first, streams));
        assert!(take(CHECK, [10, 0, 0, 1]).is_some());
        let taken = others.lock();
        assert_eq!((taken.all, taken.by_address.len()), ([0, 0], 0), "nothing is kept");
    }
}
