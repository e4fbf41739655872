//! The calls of the contract: messages become operations, and answers become messages.

use std::sync::atomic::Ordering;

use tonic::{Code, Request, Response, Status};
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, PrepareRequest, PrepareResponse,
};

use super::{Caller, Service};
use crate::handler::Branch;
use crate::payload::Payload;
use crate::resource::{PhaseTwoAnswer, PhaseTwoOperation, RawCall, Resource, Voted};
use crate::wire::{self, Conditions, Parts};

/// Most bytes of an answer to Prepare besides its output: a media type, and the database's id.
pub(in crate::participant) const MESSAGE_REST_BYTES_MAX: usize = 1 << 10;

#[tonic::async_trait]
impl<R: Resource> ParticipantService for Service<R> {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        let (caller, message) = self.split(request)?;
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
        let branch = call.branch().clone();
        let voted = self.told(self.vote(call, caller).await?, &branch);
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
    /// Returns the caller of a request, and its message, if the caller is one that is accepted.
    fn split<T>(&self, request: Request<T>) -> Result<(Caller, T), Status> {
        // A server of one's own has not asked.
        self.inner.of.accepted.judge(request.metadata(), request.extensions())?;
        Ok((Caller::of(request.metadata()), request.into_inner()))
    }

    /// Ends a branch, and puts the answer into a message.
    async fn end<M: Into<PhaseTwo>, A>(
        &self,
        operation: PhaseTwoOperation,
        request: Request<M>,
        answer: impl FnOnce(PhaseTwoAnswer) -> A,
    ) -> Result<Response<A>, Status> {
        let (caller, message) = self.split(request)?;
        let PhaseTwo(parts, requires) = message.into();
        let answered = self.phase_two(operation, parts, requires, caller).await?;
        Ok(Response::new(answer(answered)))
    }

    /// Drops an output that no message can carry: the vote stands, as where it is over the coordinator's own bound.
    fn told(&self, voted: Voted, branch: &Branch) -> Voted {
        let bytes_max =
            self.inner.message_bytes_max.load(Ordering::Relaxed) - MESSAGE_REST_BYTES_MAX;
        match voted {
            Voted::Prepared(output) if output.data.len() > bytes_max => {
                let Branch { tx_id, gid, branch_id, .. } = branch;
                tracing::warn!(
                    %tx_id, gid, branch_id, bytes = output.data.len(), bytes_max,
                    "an output is larger than a message may be: the vote is told without it"
                );
                Voted::Prepared(Payload::default())
            }
            voted => voted,
        }
    }

    /// Checks a Prepare.
    fn acceptable(&self, parts: Parts, conditions: Conditions) -> Result<RawCall, Status> {
        let other = self.other_database(&parts).or_else(|| self.other_place(&parts));
        let call = self.call(parts, conditions)?;
        match other {
            Some(note) => Err(wire::status(Code::FailedPrecondition, &note)),
            None => Ok(call),
        }
    }
}
