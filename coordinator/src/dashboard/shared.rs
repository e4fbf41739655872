//! Result that is made for one, and shown to all who look within some seconds, because it costs much.

use std::sync::Arc;
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
