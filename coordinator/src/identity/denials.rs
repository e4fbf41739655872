//! Log lines about calls that were denied.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Pause between two lines about one identity.
const INTERVAL: Duration = Duration::from_secs(60);

/// Most identities that are told apart. Those that nobody knows are one.
const IDENTITIES_MAX: usize = 1024;

/// Name of those for whom there is no room, and of those that nobody knows.
const OTHERS: &str = "";

/// Denied calls, by identity: a line a minute for each.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    told: Mutex<HashMap<String, (Instant, u64)>>,
}

impl Denials {
    /// Notes a denied call of this identity; an empty name for one that is not known.
    pub(crate) fn note(&self, identity: &str, rpc: &'static str, why: &'static str) {
        if let Some(denied) = self.count(identity, Instant::now()) {
            tracing::warn!(identity, rpc, why, denied, "a call was denied");
        }
    }

    /// Returns the number of denied calls since the last line, if it is time for one.
    fn count(&self, identity: &str, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.contains_key(identity) && told.len() >= IDENTITIES_MAX {
            told.retain(|_, (last, _)| now - *last < INTERVAL);
        }
        // Those for whom there is no room share a line.
        let is_known = told.contains_key(identity) || told.len() < IDENTITIES_MAX;
        match told.entry(if is_known { identity } else { OTHERS }.to_owned()) {
            Entry::Vacant(new) => {
                new.insert((now, 0));
                Some(1)
            }
            Entry::Occupied(mut known) => {
                let (last, count) = known.get_mut();
                *count += 1;
                if now - *last < INTERVAL {
                    return None;
                }
                *last = now;
                Some(std::mem::take(count))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_a_line_a_minute() {
        let (denials, start) = (Denials::default(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        assert_eq!(denials.count("a", at(0)), Some(1));
        assert_eq!(denials.count("a", at(59)), None);
        assert_eq!(denials.count("b", at(59)), Some(1), "another one");
        assert_eq!(denials.count("a", at(60)), Some(2));
        assert_eq!(denials.count("a", at(61)), None);
    }
}
