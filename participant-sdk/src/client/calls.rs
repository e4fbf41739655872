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
        call: impl Fn(CoordinatorServiceClient<Channel>, Request<Req>) -> F,
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
        call: impl Fn(CoordinatorServiceClient<Channel>, Request<Req>) -> F,
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
        let mut indeterminate = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut attempt = Request::new(request.clone());
            attempt.set_timeout(left);
            trace.add_to(attempt.metadata_mut().as_mut());
            let status = match call(self.service.clone(), attempt).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            let unavailable = |last: String, retryable: bool| {
                let waited = started.elapsed();
                Error::Unavailable { waited, last, retryable }
            };
            let (error, again, least) = match Failure::of(&status) {
                Failure::Definite(error) => return Err(error),
                Failure::Refused(error) => (error, false, None),
                Failure::NotNow(error, least) => (error, true, least),
                Failure::Indeterminate { text, again, pause } => {
                    indeterminate |= kind == Kind::Change;
                    (unavailable(text, again), again, pause)
                }
            };
            let wait = least.unwrap_or(pause).max(pause);
            if !again || Instant::now() + wait >= deadline {
                return Err(match error {
                    error @ Error::Rejected { .. } if indeterminate => {
                        unavailable(error.to_string(), again)
                    }
                    error => error,
                });
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
