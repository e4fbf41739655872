//! Calls that are sent again until they are answered.

use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;

use super::Client;
use super::error::{Error, Failure};
use crate::propagation::Trace;

/// Pause after the first attempt that failed; it doubles with each.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Client {
    /// Sends a call until it is answered, or the time is up. An answer that says "not now" after an
    /// attempt whose effect is not known does not make it known.
    pub(crate) async fn call<Req, Res, F>(
        &self,
        request: Req,
        call: impl Fn(CoordinatorServiceClient<Channel>, Request<Req>) -> F,
    ) -> Result<Res, Error>
    where
        Req: Clone,
        F: Future<Output = Result<Response<Res>, Status>>,
    {
        let started = Instant::now();
        let trace = Trace::ambient();
        let deadline = started + self.wait_max;
        let mut pause = PAUSE;
        let mut unknown = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut attempt = Request::new(request.clone());
            attempt.set_timeout(left);
            trace.add_to(attempt.metadata_mut().as_mut());
            let status = match call(self.service.clone(), attempt).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            let (refusal, wait) = match Failure::of(&status) {
                Failure::Rejected(error) => return Err(error),
                Failure::NotNow(error, wait) => (Some(error), wait),
                Failure::Unknown(text) => {
                    unknown = Some(text);
                    (None, None)
                }
            };
            let wait = wait.unwrap_or(pause).max(pause);
            if Instant::now() + wait >= deadline {
                return Err(match (unknown, refusal) {
                    (None, Some(refusal)) => refusal,
                    (unknown, refusal) => Error::Unavailable {
                        waited: started.elapsed(),
                        last: refusal
                            .map(|refusal| refusal.to_string())
                            .or(unknown)
                            .unwrap_or_default(),
                    },
                });
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
