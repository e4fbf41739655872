//! Turns to make a history as a file: a long one is many megabytes, so they are made one after the other.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

/// Longest time to wait until other histories are made.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most histories that are made or waited for: whoever waits keeps a connection and a turn of HTTP.
const ALL_MAX: usize = 8;

/// Most of them for one identity, so that it leaves some to others.
const OF_ONE_MAX: usize = 2;

/// Histories that are asked for.
#[derive(Debug, Default)]
pub(super) struct Exporting {
    turn: tokio::sync::Mutex<()>,
    /// The name of whoever asks for each; empty where there are no identities.
    asked: Mutex<Vec<String>>,
}

/// History that is asked for, until it is made or given up.
struct Asked<'a> {
    of: &'a Exporting,
    who: &'a str,
}

impl Exporting {
    /// Makes one when it has its turn. Returns none if that takes too long, or at once if too many are asked for.
    pub(super) async fn in_turn<T>(&self, who: &str, make: impl Future<Output = T>) -> Option<T> {
        let _asked = self.ask(who)?;
        let _turn = timeout(PATIENCE, self.turn.lock()).await.ok()?;
        Some(make.await)
    }

    fn ask<'a>(&'a self, who: &'a str) -> Option<Asked<'a>> {
        let mut asked = self.lock();
        let own = asked.iter().filter(|of| *of == who).count();
        if asked.len() >= ALL_MAX || (own >= OF_ONE_MAX && !who.is_empty()) {
            return None;
        }
        asked.push(who.to_owned());
        Some(Asked { of: self, who })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        // Nothing in here panics half way through a change.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut asked = self.of.lock();
        if let Some(index) = asked.iter().position(|of| of == self.who) {
            asked.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Asks as each of these, of whom the first is never answered; tells which ones wait, and not are refused at once.
    async fn waiting(names: &[&str]) -> Vec<bool> {
        let exporting = Exporting::default();
        let mut asked: Vec<_> =
            names.iter().map(|name| Box::pin(exporting.in_turn(name, pending::<()>()))).collect();
        let waits = asked.iter_mut().map(|asked| poll(asked.as_mut()).is_pending()).collect();
        drop(asked);
        assert!(exporting.lock().is_empty(), "nothing is kept");
        waits
    }

    #[tokio::test]
    async fn l5_one_identity_leaves_histories_to_others() {
        let asked = waiting(&["a", "a", "a", "b", "a", "b", "b"]).await;
        assert_eq!(asked, [true, true, false, true, false, true, false]);
    }

    #[tokio::test]
    async fn l5_few_wait_for_a_history() {
        for names in [[""; 10], ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]] {
            let waits = waiting(&names).await;
            assert_eq!(waits.iter().filter(|waits| **waits).count(), ALL_MAX, "{names:?}");
        }
    }

    #[tokio::test]
    async fn histories_are_made_one_after_the_other() {
        let exporting = Exporting::default();
        let mut first = Box::pin(exporting.in_turn("a", pending::<()>()));
        assert!(poll(first.as_mut()).is_pending());
        let mut second = pin!(exporting.in_turn("b", ready(())));
        assert!(poll(second.as_mut()).is_pending());
        drop(first);
        assert_eq!(poll(second.as_mut()), Poll::Ready(Some(())));
    }
}
