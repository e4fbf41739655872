//! The calls of the contract: messages become operations, and answers become messages.

use tonic::{Code, Request, Response, Status};
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, PrepareRequest, PrepareResponse,
};

use super::{Caller, Service};
use crate::resource::{PhaseTwoAnswer, PhaseTwoOperation, RawCall, Resource};
use crate::wire::{self, Conditions, Parts};

#[tonic::async_trait]
impl<R: Resource> ParticipantService for Service<R> {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        let (caller, message) = split(request);
        let PrepareRequest {
            context,
            action,
            payload,
            prepare_until,
            metadata,
            attempt,
            requires,
            must_succeed,
            inputs,
            output_bytes_max: output_max,
        } = message;
        let parts = Parts { context, action, payload, inputs, metadata, attempt, prepare_until };
        let call = self.acceptable(parts, Conditions { requires, must_succeed, output_max });
        let call = call.inspect_err(|_| self.inner.figures.prepare.rejected())?;
        let voted = self.vote(call, caller).await?;
        let database_id = self.inner.resource.database_id().unwrap_or_default();
        Ok(Response::new(wire::voted(voted, database_id)))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        self.end(PhaseTwoOperation::Commit, request, wire::committed).await
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        self.end(PhaseTwoOperation::Cancel, request, wire::cancelled).await
    }
}

/// Request of phase two: its parts, and the features that it requires.
struct PhaseTwo(Parts, Vec<String>);

impl From<CommitRequest> for PhaseTwo {
    fn from(message: CommitRequest) -> Self {
        let CommitRequest {
            context,
            action,
            payload,
            output: _,
            metadata,
            attempt,
            requires,
            inputs,
        } = message;
        // Nothing comes of a Prepare after a Commit.
        let prepare_until = None;
        let parts = Parts { context, action, payload, inputs, metadata, attempt, prepare_until };
        Self(parts, requires)
    }
}

impl From<CancelRequest> for PhaseTwo {
    fn from(message: CancelRequest) -> Self {
        let CancelRequest {
            context,
            action,
            payload,
            output: _,
            metadata,
            attempt,
            prepare_until,
            requires,
            inputs,
        } = message;
        let parts = Parts { context, action, payload, inputs, metadata, attempt, prepare_until };
        Self(parts, requires)
    }
}

impl<R: Resource> Service<R> {
    /// Ends a branch, and puts the answer into a message.
    async fn end<M: Into<PhaseTwo>, A>(
        &self,
        operation: PhaseTwoOperation,
        request: Request<M>,
        answer: impl FnOnce(PhaseTwoAnswer) -> A,
    ) -> Result<Response<A>, Status> {
        let (caller, message) = split(request);
        let PhaseTwo(parts, requires) = message.into();
        let answered = self.phase_two(operation, parts, requires, caller).await?;
        Ok(Response::new(answer(answered)))
    }

    /// Checks a Prepare.
    fn acceptable(&self, parts: Parts, conditions: Conditions) -> Result<RawCall, Status> {
        let other = self.other_database(&parts);
        let call = self.call(parts, conditions)?;
        match other {
            Some(note) => Err(wire::status(Code::FailedPrecondition, &note)),
            None => Ok(call),
        }
    }
}

/// Parts of a request: its caller, and the message.
fn split<T>(request: Request<T>) -> (Caller, T) {
    (Caller::of(request.metadata()), request.into_inner())
}
