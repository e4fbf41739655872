//! Places of those who follow the feed: each stream costs a task, and a message that waits for its reader.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most streams of WatchTransactions at once.
pub const STREAMS_MAX: usize = 256;

/// Most of them of one identity, or without identities of one connection.
pub const STREAMS_OF_ONE_MAX: usize = 64;

/// Streams that are there, by who reads them.
#[derive(Debug, Default)]
pub(super) struct Places {
    of: Mutex<HashMap<String, usize>>,
}

/// Place of one stream.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    caller: String,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        // Nothing in here panics half way through a change.
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(places: &Arc<Self>, caller: &str) -> Option<Place> {
        let mut of = places.lock();
        if of.values().sum::<usize>() >= STREAMS_MAX {
            return None;
        }
        if of.get(caller).is_some_and(|count| *count >= STREAMS_OF_ONE_MAX) {
            return None;
        }
        *of.entry(caller.to_owned()).or_default() += 1;
        Some(Place { places: Arc::clone(places), caller: caller.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of = self.places.lock();
        if let Some(count) = of.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                of.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l5_streams_are_bounded_for_each_caller_and_in_all() {
        let places = Arc::new(Places::default());
        let take = |caller: &str| Places::take(&places, caller);
        let mut taken: Vec<Place> = (0..STREAMS_OF_ONE_MAX).filter_map(|_| take("a")).collect();
        assert_eq!(taken.len(), STREAMS_OF_ONE_MAX);
        assert!(take("a").is_none(), "one too many of this one");
        for caller in 0.. {
            let Some(place) = take(&format!("b{}", caller / 10)) else { break };
            taken.push(place);
        }
        assert_eq!(taken.len(), STREAMS_MAX);
        assert!(take("c").is_none(), "one too many in all");
        taken.remove(0);
        assert!(take("a").is_some(), "a place that was given back is there again");
        taken.clear();
        assert!(places.lock().is_empty(), "nothing is kept of who is gone");
    }
}
