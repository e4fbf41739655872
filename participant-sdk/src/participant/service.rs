//! The service that the coordinator calls: slots, tasks, and what a participant does with a call.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, Mode, PrepareRequest,
    PrepareResponse,
};

use crate::action::Registered;
use crate::features::{self, MUST_SUCCEED};
use crate::handler::Call;
use crate::payload::Payload;
use crate::refusal::Refusal;
use crate::resource::{Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall, Resource, Voted};
use crate::wire::{self, Conditions, Parts};

/// Longest wait of a call for a slot before it is answered with "working".
const SLOT_WAIT: Duration = Duration::from_secs(2);

/// After which a call that found no slot is to be sent again.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// After which an operation that met a lock is to be sent again.
const LOCKED_PAUSE: Duration = Duration::from_millis(200);

/// Service that the coordinator calls. Cheap to clone.
pub struct Service<R: Resource> {
    pub(super) inner: Arc<Inner<R>>,
    prepare_slots: Arc<Semaphore>,
    pub(super) phase_two_slots: Arc<Semaphore>,
    slots: (usize, usize),
}

#[derive(Debug)]
pub(super) struct Inner<R: Resource> {
    name: String,
    pub(super) resource: R,
    actions: HashMap<String, Registered<R::Connection>>,
}

impl<R: Resource> Clone for Service<R> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            prepare_slots: Arc::clone(&self.prepare_slots),
            phase_two_slots: Arc::clone(&self.phase_two_slots),
            slots: self.slots,
        }
    }
}

impl<R: Resource> fmt::Debug for Service<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("participant", &self.inner.name).finish_non_exhaustive()
    }
}

impl<R: Resource> Service<R> {
    pub(super) fn new(
        name: String,
        resource: R,
        actions: HashMap<String, Registered<R::Connection>>,
    ) -> Self {
        let slots = resource.slots();
        Self {
            inner: Arc::new(Inner { name, resource, actions }),
            prepare_slots: Arc::new(Semaphore::new(slots.prepare)),
            phase_two_slots: Arc::new(Semaphore::new(slots.phase_two)),
            slots: (slots.prepare, slots.phase_two),
        }
    }

    /// Its participant's name.
    #[must_use]
    pub fn participant(&self) -> &str {
        &self.inner.name
    }

    /// Waits until nothing is at work. Nothing is begun any more.
    pub(super) async fn drain(&self) {
        for (slots, count) in
            [(&self.prepare_slots, self.slots.0), (&self.phase_two_slots, self.slots.1)]
        {
            let all = u32::try_from(count).unwrap_or(u32::MAX);
            if let Ok(permits) = slots.acquire_many(all).await {
                permits.forget();
            }
            slots.close();
        }
    }

    /// Nothing is begun any more, and never will be.
    pub(crate) fn is_stopped(&self) -> bool {
        self.prepare_slots.is_closed()
    }

    fn call(&self, parts: Parts, conditions: Conditions) -> Result<RawCall, Status> {
        let call = wire::call_with(parts, conditions)?;
        let name = &self.inner.name;
        if call.branch().participant != *name {
            let asked = &call.branch().participant;
            let text = format!("this is participant {name}, and not {asked}");
            return Err(Status::failed_precondition(text));
        }
        Ok(call)
    }

    /// Phase one of a branch that is durable at the coordinator.
    pub(crate) async fn vote(&self, call: RawCall) -> Result<Voted, Status> {
        let Some(slot) = slot(&self.prepare_slots).await else {
            return Ok(Voted::Working(BUSY_PAUSE));
        };
        let (inner, of) = (Arc::clone(&self.inner), call.call.clone());
        let work = async move { inner.prepare(&call).await };
        let voted = in_own_task("prepare", of, slot, work).await?;
        Ok(voted.unwrap_or(Voted::Working(LOCKED_PAUSE)))
    }

    async fn phase_two(
        &self,
        operation: PhaseTwoOperation,
        parts: Parts,
        requires: Vec<String>,
    ) -> Result<PhaseTwoAnswer, Status> {
        let call = self.call(parts, Conditions { requires, ..Conditions::default() })?;
        if let Some(no) = features::unsupported(&call.requires, &self.inner.name) {
            // No answer: the call comes again, perhaps at another endpoint.
            return Err(Status::unimplemented(no.message));
        }
        let Some(slot) = slot(&self.phase_two_slots).await else {
            return Ok(PhaseTwoAnswer::Working(BUSY_PAUSE));
        };
        self.phase_two_call(slot, operation, call).await
    }

    pub(super) async fn phase_two_call(
        &self,
        slot: OwnedSemaphorePermit,
        operation: PhaseTwoOperation,
        call: RawCall,
    ) -> Result<PhaseTwoAnswer, Status> {
        let inner = Arc::clone(&self.inner);
        let name = match operation {
            PhaseTwoOperation::Commit => "commit",
            PhaseTwoOperation::Cancel => "cancel",
        };
        let of = call.call.clone();
        let work = async move {
            let action = inner.actions.get(&call.call.action);
            // Of a mode that is not known here the row was never prepared by two-phase commit.
            let fits = |mode: Mode| match call.mode {
                Mode::Unspecified => mode != Mode::TwoPhaseCommit,
                asked => mode == asked,
            };
            let action = action.filter(|action| fits(action.mode));
            inner.resource.phase_two(operation, &call, action).await
        };
        let answered = in_own_task(name, of, slot, work).await?;
        Ok(answered.unwrap_or(PhaseTwoAnswer::Working(LOCKED_PAUSE)))
    }
}

#[tonic::async_trait]
impl<R: Resource> ParticipantService for Service<R> {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
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
        } = request.into_inner();
        let parts = Parts { context, action, payload, inputs, metadata, attempt, prepare_until };
        let conditions = Conditions { requires, must_succeed, output_max };
        let call = self.call(parts, conditions)?;
        let voted = self.vote(call).await?;
        Ok(Response::new(wire::voted(voted)))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        let CommitRequest {
            context,
            action,
            payload,
            output: _,
            metadata,
            attempt,
            requires,
            inputs,
        } = request.into_inner();
        // Nothing comes of a Prepare after a Commit.
        let prepare_until = None;
        let parts = Parts { context, action, payload, inputs, metadata, attempt, prepare_until };
        let answered = self.phase_two(PhaseTwoOperation::Commit, parts, requires).await?;
        Ok(Response::new(wire::committed(answered)))
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
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
        } = request.into_inner();
        let parts = Parts { context, action, payload, inputs, metadata, attempt, prepare_until };
        let answered = self.phase_two(PhaseTwoOperation::Cancel, parts, requires).await?;
        Ok(Response::new(wire::cancelled(answered)))
    }
}

impl<R: Resource> Inner<R> {
    async fn prepare(&self, call: &RawCall) -> Result<Voted, Fault> {
        if let Some(refusal) = features::unsupported(&call.requires, &self.name) {
            let mut call = call.clone();
            // Nobody may store a no to work that must succeed, not even without knowing of it.
            call.call.must_succeed |= call.requires.iter().any(|name| name == MUST_SUCCEED);
            return self.resource.refuse(&call, refusal).await;
        }
        let action = &call.call.action;
        let refusal = match self.actions.get(action) {
            Some(registered) if registered.mode == call.mode => {
                return self.resource.prepare(call, call.until, registered).await;
            }
            Some(registered) => {
                let (offered, asked) = (mode(registered.mode), mode(call.mode));
                Refusal::new(
                    "MODE_NOT_OFFERED",
                    format!("{} does {action} in {offered} only, not in {asked}", self.name),
                )
            }
            None if call.mode == Mode::Unspecified => {
                Refusal::new("MODE_NOT_OFFERED", format!("{} does not know the mode", self.name))
            }
            None => Refusal::new(
                "ACTION_NOT_OFFERED",
                format!("{} has no action {action}; it has {}", self.name, self.offered()),
            ),
        };
        self.resource.refuse(call, refusal).await
    }

    fn offered(&self) -> String {
        let mut names: Vec<&str> = self.actions.keys().map(String::as_str).collect();
        names.sort_unstable();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::TwoPhaseCommit => "two-phase commit",
        Mode::Saga => "saga",
        Mode::Tcc => "TCC",
        Mode::Unspecified => "a mode that it does not know",
    }
}

pub(super) async fn slot(slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    let slot = tokio::time::timeout(SLOT_WAIT, Arc::clone(slots).acquire_owned()).await;
    slot.ok()?.ok()
}

/// Runs an operation in a task of its own: a coordinator that goes away, or does not wait, cancels
/// no database work half way. `None` tells that another operation is in its way.
async fn in_own_task<T: Send + 'static>(
    operation: &'static str,
    call: Call<Payload>,
    slot: OwnedSemaphorePermit,
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<Option<T>, Status> {
    let task = tokio::spawn(async move {
        let _slot = slot;
        let result = work.await;
        if let Err(fault) = &result
            && !matches!(fault, Fault::Busy)
        {
            let Call { branch, action, attempt, .. } = &call;
            tracing::warn!(
                tx_id = %branch.tx_id,
                gid = branch.gid,
                branch_id = branch.branch_id,
                action,
                attempt,
                operation,
                error = %fault,
                "no answer; it will be asked again"
            );
        }
        result
    });
    match task.await {
        Ok(Ok(answer)) => Ok(Some(answer)),
        Ok(Err(Fault::Busy)) => Ok(None),
        Ok(Err(fault @ (Fault::Definite { .. } | Fault::Indeterminate { .. }))) => {
            Err(Status::unavailable(fault.to_string()))
        }
        Ok(Err(fault @ Fault::Handler(_))) => Err(Status::unknown(fault.to_string())),
        Ok(Err(fault)) => Err(Status::internal(fault.to_string())),
        Err(_) => Err(Status::internal(format!("the handler of {operation} panicked"))),
    }
}
