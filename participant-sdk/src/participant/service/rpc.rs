//! The calls of the contract: messages become operations, and answers become messages.

use tonic::{Code, Request, Response, Status};
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, PrepareRequest, PrepareResponse,
};

use super::{Caller, Service};
use crate::resource::{PhaseTwoOperation, RawCall, Resource};
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
        let (caller, message) = split(request);
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
        let answered = self.phase_two(PhaseTwoOperation::Commit, parts, requires, caller);
        let answered = answered.await?;
        Ok(Response::new(wire::committed(answered)))
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        let (caller, message) = split(request);
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
        let answered = self.phase_two(PhaseTwoOperation::Cancel, parts, requires, caller);
        let answered = answered.await?;
        Ok(Response::new(wire::cancelled(answered)))
    }
}

impl<R: Resource> Service<R> {
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
