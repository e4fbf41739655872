//! End of a registration: the coordinators are told, and the sweeper ends.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::Registration;

/// Pause between leaving the coordinators and taking no more calls: those that were sent before the
/// coordinators knew arrive in it. It is no part of the time that leaving may take, and no longer than half of that.
const LEAVE_PAUSE: Duration = Duration::from_millis(100);

impl Registration {
    /// Ends the sweeper and deregisters, and gives up after a while whichever does not end: neither takes time from calls
    /// that are under way. Coordinators notice by themselves who has gone.
    pub(in crate::participant) async fn leave_within(&mut self, at_most: Duration) {
        self.leave.send_replace(true);
        let sweeper = self.sweeper.take();
        let swept = async {
            let Some(sweeper) = sweeper else { return };
            if tokio::time::timeout(at_most, sweeper.stop()).await.is_err() {
                tracing::warn!("a sweep has not ended after {at_most:?}; stopping without its end");
            }
        };
        let left = deregistered(&mut self.registering, at_most);
        let ((), coordinators) = tokio::join!(swept, left);
        if !coordinators.is_empty() {
            tracing::warn!(
                ?coordinators,
                "coordinators have not answered after {at_most:?}; stopping without them"
            );
        }
        self.end_registering();
    }

    /// Ends what has not ended by itself.
    pub(super) fn end_registering(&mut self) {
        self.registering.drain(..).for_each(|(_, registering)| registering.abort());
    }
}

/// Waits until coordinators know that the participant has left, and for the calls that they sent before. Returns those that
/// have not answered in time.
async fn deregistered(
    registering: &mut [(String, JoinHandle<()>)],
    at_most: Duration,
) -> Vec<String> {
    if registering.is_empty() {
        return Vec::new();
    }
    let all = async {
        for (_, registering) in registering.iter_mut() {
            let _ = registering.await;
        }
    };
    if tokio::time::timeout(at_most, all).await.is_ok() {
        tokio::time::sleep(LEAVE_PAUSE.min(at_most / 2)).await;
        return Vec::new();
    }
    let late = registering.iter().filter(|(_, registering)| !registering.is_finished());
    late.map(|(coordinator, _)| coordinator.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Instant;

    use super::*;

    fn registering(coordinator: &str, answers: bool) -> (String, JoinHandle<()>) {
        let registering = match answers {
            true => tokio::spawn(async {}),
            false => tokio::spawn(pending()),
        };
        (coordinator.to_owned(), registering)
    }

    /// The pause after leaving is no part of the time for it, however short that is; and who has not answered is named.
    #[tokio::test]
    async fn coordinators_that_have_not_answered_are_named_and_no_others() {
        let short = LEAVE_PAUSE / 2;
        for (answers, at_most, told, took) in [
            (vec![], LEAVE_PAUSE, vec![], Duration::ZERO),
            (vec![("well", true)], LEAVE_PAUSE, vec![], short),
            (vec![("well", true), ("other", true)], LEAVE_PAUSE * 100, vec![], LEAVE_PAUSE),
            (vec![("well", true)], short, vec![], short / 2),
            (vec![("deaf", false), ("well", true)], short, vec!["deaf"], short),
        ] {
            let of = |(coordinator, answers)| registering(coordinator, answers);
            let mut all: Vec<_> = answers.into_iter().map(of).collect();
            tokio::task::yield_now().await;
            let started = Instant::now();
            assert_eq!(deregistered(&mut all, at_most).await, told, "{at_most:?}");
            let elapsed = started.elapsed();
            assert!(elapsed >= took && elapsed < LEAVE_PAUSE * 90, "{at_most:?}: {elapsed:?}");
            all.iter().for_each(|(_, registering)| registering.abort());
        }
    }
}
