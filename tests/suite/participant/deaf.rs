//! A participant whose Commits and Cancels do not arrive.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::{Request, Response, Status};
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    BranchContext, CancelRequest, CancelResponse, CommitRequest, CommitResponse, Done,
    PrepareRequest, PrepareResponse, cancel_response, commit_response,
};

/// Fate of Commits and Cancels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ears {
    /// They arrive.
    Open,
    /// They are lost, and the coordinator knows it.
    Deaf,
    /// They are answered with done, and nothing is done: as after a restore of the database.
    Lying,
}

#[derive(Clone)]
pub(crate) struct Deaf<S> {
    inner: S,
    state: Arc<Mutex<(Ears, HashSet<String>)>>,
}

impl<S> Deaf<S> {
    pub(crate) fn new(inner: S, ears: Ears) -> Self {
        Self { inner, state: Arc::new(Mutex::new((ears, HashSet::new()))) }
    }

    pub(crate) fn set(&self, ears: Ears) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = ears;
    }

    /// Deaf for this branch, whatever else.
    pub(crate) fn deaf_for(&self, branch_id: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.insert(branch_id.to_owned());
    }

    /// No longer.
    pub(crate) fn hear(&self, branch_id: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.remove(branch_id);
    }

    fn ears(&self, context: Option<&BranchContext>) -> Ears {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let muted = context.is_some_and(|context| state.1.contains(&context.branch_id));
        if muted { Ears::Deaf } else { state.0 }
    }
}

fn lost() -> Status {
    Status::unavailable("it did not arrive")
}

#[tonic::async_trait]
impl<S: ParticipantService> ParticipantService for Deaf<S> {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        self.inner.prepare(request).await
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        match self.ears(request.get_ref().context.as_ref()) {
            Ears::Open => self.inner.commit(request).await,
            Ears::Deaf => Err(lost()),
            Ears::Lying => {
                let answer = Some(commit_response::Answer::Done(Done {}));
                Ok(Response::new(CommitResponse { answer }))
            }
        }
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        match self.ears(request.get_ref().context.as_ref()) {
            Ears::Open => self.inner.cancel(request).await,
            Ears::Deaf => Err(lost()),
            Ears::Lying => {
                let answer = Some(cancel_response::Answer::Done(Done {}));
                Ok(Response::new(CancelResponse { answer }))
            }
        }
    }
}
