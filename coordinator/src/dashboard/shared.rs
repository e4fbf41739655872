//! Result that is made for one, and shown to all who look within some seconds, because it costs much.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// Shortest time for which a result is shown.
const KEPT: Duration = Duration::from_secs(5);

/// Part of the time that goes into making it: a tenth.
const PART: u32 = 10;

/// Result that many share.
#[derive(Debug)]
pub(super) struct Shared<T> {
    last: Mutex<Last<T>>,
}

#[derive(Debug)]
struct Last<T> {
    made: Option<Arc<T>>,
    /// Earliest time at which it is made anew.
    next: Option<Instant>,
}

/// Results, one for all who see every namespace, and one for those of each.
#[derive(Debug)]
pub(super) struct ByNamespace<T>(std::sync::Mutex<HashMap<Option<String>, Arc<Shared<T>>>>);

/// Most namespaces whose results are kept.
const NAMESPACES_MAX: usize = 1_000;

impl<T> Default for ByNamespace<T> {
    fn default() -> Self {
        Self(std::sync::Mutex::default())
    }
}

impl<T> ByNamespace<T> {
    /// Returns the result for this namespace, or for all.
    pub(super) fn of(&self, namespace: Option<String>) -> Arc<Shared<T>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= NAMESPACES_MAX && !all.contains_key(&namespace) {
            all.clear();
        }
        Arc::clone(all.entry(namespace).or_default())
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { last: Mutex::new(Last { made: None, next: None }) }
    }
}

impl<T> Shared<T> {
    /// Returns the last result, or makes one if that is old. Nothing if the last attempt, a moment ago, has failed or was
    /// given up: its error is for the one that made it.
    pub(super) async fn get<E>(
        &self,
        now: impl Fn() -> Instant,
        make: impl Future<Output = Result<T, E>>,
    ) -> Result<Option<Arc<T>>, E> {
        let mut last = self.last.lock().await;
        let began = now();
        if last.next.is_some_and(|next| began < next) {
            return Ok(last.made.clone());
        }
        // It stays so if whoever makes it goes away meanwhile.
        last.next = Some(began + KEPT);
        let made = make.await;
        let ended = now();
        last.next = Some(ended + KEPT.max(ended.saturating_duration_since(began) * PART));
        last.made = None;
        last.made = Some(Arc::new(made?));
        Ok(last.made.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn those_of_a_namespace_share_nothing_with_others() {
        let all = ByNamespace::<u32>::default();
        let get = |namespace: Option<&str>, made| {
            let shared = all.of(namespace.map(str::to_owned));
            block_on(shared.get(Instant::now, ready(Ok::<_, ()>(made))))
                .map(|made| made.map(|n| *n))
        };
        assert_eq!(get(None, 7), Ok(Some(7)));
        assert_eq!(get(Some("a"), 1), Ok(Some(1)));
        assert_eq!(get(Some("b"), 2), Ok(Some(2)));
        assert_eq!((get(None, 9), get(Some("a"), 9)), (Ok(Some(7)), Ok(Some(1))));
    }

    #[test]
    fn it_is_made_once_for_all_who_look_within_some_seconds() {
        let (shared, start, passed) = (Shared::default(), Instant::now(), Cell::new(0_u64));
        let now = || start + Duration::from_secs(passed.get());
        let get = |made: Result<u32, ()>| {
            block_on(shared.get(now, ready(made))).map(|made| made.map(|made| *made))
        };
        assert_eq!(get(Ok(1)), Ok(Some(1)));
        assert_eq!(get(Ok(2)), Ok(Some(1)));
        passed.set(4);
        assert_eq!(get(Ok(3)), Ok(Some(1)));
        passed.set(5);
        assert_eq!(get(Ok(4)), Ok(Some(4)));
        // The error is for the one who made it, and the next one waits as well.
        passed.set(10);
        assert_eq!(get(Err(())), Err(()));
        assert_eq!(get(Ok(5)), Ok(None));
        passed.set(15);
        assert_eq!(get(Ok(6)), Ok(Some(6)));
    }

    #[test]
    fn making_it_takes_a_tenth_of_the_time() {
        let (shared, start, passed) = (Shared::default(), Instant::now(), Cell::new(0_u64));
        let now = || start + Duration::from_secs(passed.get());
        let slow = async {
            passed.set(3);
            Ok::<_, ()>(1)
        };
        assert!(block_on(shared.get(now, slow)).is_ok());
        passed.set(32);
        let get = |made: u32| block_on(shared.get(now, ready(Ok::<_, ()>(made))));
        assert_eq!(get(2).ok().flatten().as_deref(), Some(&1));
        passed.set(33);
        assert_eq!(get(3).ok().flatten().as_deref(), Some(&3));
    }

    /// One who asks and goes away, again and again, makes it no more often.
    #[test]
    fn one_that_is_given_up_counts_as_an_attempt() {
        let (shared, start) = (Shared::<u32>::default(), Instant::now());
        {
            let given_up = shared.get(|| start, pending::<Result<u32, ()>>());
            let mut given_up = std::pin::pin!(given_up);
            let mut context = Context::from_waker(Waker::noop());
            assert!(matches!(given_up.as_mut().poll(&mut context), Poll::Pending));
        }
        let after = block_on(shared.get(|| start, ready(Ok::<_, ()>(1))));
        assert_eq!(after.ok().flatten(), None);
    }
}
