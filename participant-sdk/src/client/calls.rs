//! Calls that are sent again until they are answered.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Response, Status};
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;

use super::Client;
use super::error::{Error, Failure};
use super::nodes::NotAsked;
use crate::channel::Link;
use crate::propagation::Trace;

/// Pause after the first attempt that failed; it doubles with each.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Kind of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Changes something, so that an attempt whose answer was lost matters.
    Change,
    /// Changes nothing.
    Read,
}

impl Client {
    /// Sends a call that changes something until it is answered, or the time is up. An attempt that
    /// may have had its effect makes the call indeterminate: a later refusal does not speak of it, so
    /// that only an OK reply, or an answer that excludes every attempt, decides.
    pub(crate) async fn call<Req, Res, F>(
        &self,
        request: Req,
        call: impl Fn(CoordinatorServiceClient<Link>, Request<Req>) -> F,
    ) -> Result<Res, Error>
    where
        Req: Clone,
        F: Future<Output = Result<Response<Res>, Status>>,
    {
        self.send(Kind::Change, request, call).await
    }

    /// Sends a question until it is answered, or the time is up.
    pub(super) async fn ask<Req, Res, F>(
        &self,
        request: Req,
        call: impl Fn(CoordinatorServiceClient<Link>, Request<Req>) -> F,
    ) -> Result<Res, Error>
    where
        Req: Clone,
        F: Future<Output = Result<Response<Res>, Status>>,
    {
        self.send(Kind::Read, request, call).await
    }

    async fn send<Req, Res, F>(
        &self,
        kind: Kind,
        request: Req,
        call: impl Fn(CoordinatorServiceClient<Link>, Request<Req>) -> F,
    ) -> Result<Res, Error>
    where
        Req: Clone,
        F: Future<Output = Result<Response<Res>, Status>>,
    {
        let started = Instant::now();
        let trace = Trace::ambient();
        let deadline = started + self.wait_max;
        let mut pause = PAUSE;
        let mut indeterminate = false;
        // Nodes that have failed since the last pause.
        let mut failed = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let node = self.nodes.current();
            let (asked, status) = match self.nodes.is_of_the_group(node, left).await {
                Err(NotAsked::Failed(status)) => (false, status),
                Err(NotAsked::Wrong(error)) if indeterminate => {
                    return Err(unavailable(started, error.to_string(), false));
                }
                Err(NotAsked::Wrong(error)) => return Err(error),
                Ok(()) => {
                    match call(self.nodes.service(node), attempt(&request, left, &trace)).await {
                        Ok(response) => {
                            self.nodes.has_answered(node);
                            return Ok(response.into_inner());
                        }
                        Err(status) => (true, status),
                    }
                }
            };
            let (error, again, least) = match Failure::of(&status) {
                Failure::Definite(error) => return Err(error),
                Failure::Refused(error) => (error, false, None),
                Failure::NotNow(error, least) => (error, true, least),
                Failure::Indeterminate { text, again, pause } => {
                    indeterminate |= asked && kind == Kind::Change;
                    (unavailable(started, text, again), again, pause)
                }
            };
            if again {
                self.nodes.turn_from(node);
                failed += 1;
            }
            // One after the other, and a pause once all have failed.
            let wait = match least {
                None if failed < self.nodes.count() => Duration::ZERO,
                _ => least.unwrap_or_default().max(jittered(pause)),
            };
            if !again || Instant::now() + wait >= deadline {
                let says_nothing = indeterminate && matches!(error, Error::Rejected { .. });
                return Err(if says_nothing {
                    unavailable(started, error.to_string(), again)
                } else {
                    error
                });
            }
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
                pause = (pause * 2).min(PAUSE_MAX);
                failed = 0;
            }
        }
    }
}

fn unavailable(started: Instant, last: String, retryable: bool) -> Error {
    Error::Unavailable { waited: started.elapsed(), last, retryable }
}

/// Makes a request of a call, which has so long left.
fn attempt<Req: Clone>(request: &Req, left: Duration, trace: &Trace) -> Request<Req> {
    let mut attempt = Request::new(request.clone());
    attempt.set_timeout(left);
    trace.add_to(attempt.metadata_mut().as_mut());
    attempt
}

/// Returns a pause between half of this one and all of it. Callers that failed at one moment do not all come
/// back at one moment.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_and_stay_within_their_bounds() {
        let all: Vec<Duration> = (0..100).map(|_| jittered(PAUSE_MAX)).collect();
        assert!(all.iter().all(|pause| (PAUSE_MAX / 2..=PAUSE_MAX).contains(pause)), "{all:?}");
        assert!(all.iter().any(|pause| *pause != all[0]), "{all:?}");
    }
}
