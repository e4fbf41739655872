//! The service that the coordinator calls: slots, tasks, and what a participant does with a call.

mod lost;
mod place;
mod rpc;
mod task;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};
use unanimo_proto::v1::{HeuristicKind, Mode};

use self::lost::RecordsLosses;
pub(super) use self::rpc::MESSAGE_REST_BYTES_MAX;
pub(crate) use self::task::Caller;
use self::task::{Bound, CALL_TIMEOUT, LOCKED_PAUSE, in_own_task, pause};
use super::Error;
use super::accept::Accepted;
use super::metrics::{Figures, Metrics};
use super::register::MESSAGE_BYTES_MAX;
use super::set_up::SetUp;
use crate::action::{Registered, caught};
use crate::features::{self, ACTION_NOT_OFFERED, MODE_NOT_OFFERED, MUST_SUCCEED};
use crate::handler::Branch;
use crate::refusal::Refusal;
use crate::resource::{Fault, PhaseTwoAnswer, PhaseTwoOperation, RawCall, Resource, Voted};
use crate::wire::{self, Conditions, Parts};

/// Longest wait of a call for a slot before it is answered with "working".
const SLOT_WAIT: Duration = Duration::from_secs(2);

/// After which a call that found no slot is to be sent again.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// Service that the coordinator calls. Cheap to clone.
pub struct Service<R: Resource> {
    pub(super) inner: Arc<Inner<R>>,
    prepare_slots: Arc<Semaphore>,
    pub(super) phase_two_slots: Arc<Semaphore>,
    slots: (usize, usize),
}

#[derive(Debug)]
pub(super) struct Inner<R: Resource> {
    pub(super) of: Of,
    pub(super) resource: R,
    pub(super) actions: HashMap<String, Registered<R::Connection>>,
    pub(super) set_up: SetUp<R>,
    pub(super) figures: Arc<Figures>,
    /// Most bytes of a message of the server, as far as that is known here.
    pub(super) message_bytes_max: AtomicUsize,
    /// Phase one is served: the database is set up.
    is_ready: watch::Sender<bool>,
    /// Place of the database when it was asked last; empty if it is not known.
    place: RwLock<String>,
    /// The database is being asked again where it is.
    asks_place: AtomicBool,
    /// Losses of handlers are being recorded.
    records: Arc<AtomicBool>,
}

/// Participant of a service, whatever its database.
#[derive(Clone, Debug)]
pub(super) struct Of {
    pub(super) name: String,
    /// Its names before.
    pub(super) formerly: Vec<String>,
    /// Time past a call's deadline after which its operation is ended.
    pub(super) overtime: Duration,
    /// Longest time of an operation.
    pub(super) handler_timeout: Option<Duration>,
    /// Most bytes of an output where a call names no other bound, if the service has set it.
    pub(super) output_bytes_max: Option<u64>,
    /// Those that may call it.
    pub(super) accepted: Accepted,
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
        f.debug_struct("Service").field("participant", &self.inner.of.name).finish_non_exhaustive()
    }
}

impl<R: Resource> Service<R> {
    pub(super) fn new(
        of: Of,
        resource: R,
        actions: HashMap<String, Registered<R::Connection>>,
        set_up: SetUp<R>,
    ) -> Self {
        let is_ready = watch::Sender::new(resource.is_made() && set_up.is_nothing());
        let slots = resource.slots();
        let figures = Arc::default();
        Self {
            inner: Arc::new(Inner {
                of,
                resource,
                actions,
                set_up,
                figures,
                message_bytes_max: AtomicUsize::new(MESSAGE_BYTES_MAX),
                is_ready,
                place: RwLock::default(),
                asks_place: AtomicBool::new(false),
                records: Arc::default(),
            }),
            prepare_slots: Arc::new(Semaphore::new(slots.prepare)),
            phase_two_slots: Arc::new(Semaphore::new(slots.phase_two)),
            slots: (slots.prepare, slots.phase_two),
        }
    }

    /// The same with slots and connections of its own, and without handlers: for the sweeper, which needs
    /// none, and which nothing must keep waiting.
    pub(super) fn for_sweeper(&self) -> Self {
        let Inner { of, resource, .. } = &*self.inner;
        Self::new(of.clone(), resource.for_sweeper(), HashMap::new(), SetUp::default())
    }

    /// Returns what it has done since it was made, and what it holds in doubt.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.inner.figures.read()
    }

    /// Its participant's name.
    #[must_use]
    pub fn participant(&self) -> &str {
        &self.inner.of.name
    }

    /// Makes the barrier's table where branches in doubt were in the way, and runs the participant's
    /// [set-up](super::Participant::set_up). [`Self::serve`] does it by itself. A service in a server of
    /// one's own does it here, once Commits, Cancels and the [sweeper](Self::sweep) are served: until then
    /// each Prepare is answered with "working". Without anything to set up it is done from the beginning.
    ///
    /// It waits for as long as branches in doubt hold locks of what is to be changed.
    ///
    /// # Errors
    /// Something else is in the way.
    pub async fn set_up(&self) -> Result<(), Error> {
        let Inner { resource, set_up, is_ready, .. } = &*self.inner;
        if !*is_ready.borrow() {
            set_up.run(resource, self.participant()).await?;
            is_ready.send_replace(true);
        }
        Ok(())
    }

    /// Opens sessions as operations use them. A driver that panics at that is told as an error, as in the rest of a start.
    pub(super) async fn check_sessions(&self) -> Result<(), Error> {
        let why = match caught(self.inner.resource.is_there()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(fault)) => fault.to_string(),
            Err(broken) => format!("its driver panicked: {}", broken.text()),
        };
        Err(Error::Session(why))
    }

    pub(super) fn is_ready(&self) -> bool {
        *self.inner.is_ready.borrow()
    }

    /// Begins nothing any more, and waits for nothing.
    pub(super) fn close(&self) {
        self.prepare_slots.close();
        self.phase_two_slots.close();
    }

    /// Nothing is begun any more, and never will be.
    pub(crate) fn is_stopped(&self) -> bool {
        self.prepare_slots.is_closed()
    }

    fn call(&self, parts: Parts, conditions: Conditions) -> Result<RawCall, Status> {
        let call = wire::call_with(parts, conditions)?;
        let Of { name, formerly, .. } = &self.inner.of;
        let asked = &call.branch().participant;
        if asked != name && !formerly.contains(asked) {
            let text = format!("this is participant {name}, and not {asked}");
            return Err(wire::status(Code::FailedPrecondition, &text));
        }
        Ok(call)
    }

    /// Returns the id of its database; empty if it is not known.
    pub(crate) fn database_id(&self) -> &str {
        self.inner.resource.database_id().unwrap_or_default()
    }

    /// Tells whether the coordinator speaks of another database than this one.
    pub(crate) fn other_database(&self, parts: &Parts) -> Option<String> {
        let asked = parts.context.as_ref().map(|context| context.database_id.as_str())?;
        let own = self.inner.resource.database_id()?;
        (!asked.is_empty() && asked != own).then(|| {
            format!(
                "this process of participant {} has the database {own}, and not {asked} as those that are \
                 registered; all must share one",
                self.participant()
            )
        })
    }

    /// Phase one of a branch that is durable at the coordinator.
    pub(crate) async fn vote(&self, mut call: RawCall, caller: Caller) -> Result<Voted, Status> {
        call.output_max = call.output_max.or(self.own_output_max(&call));
        self.inner.figures.prepare.voted(self.vote_for(call, caller)).await
    }

    async fn vote_for(&self, call: RawCall, caller: Caller) -> Result<Voted, Status> {
        let attempt = call.call.attempt;
        if !self.is_ready() {
            return Ok(Voted::Working(pause(BUSY_PAUSE, attempt)));
        }
        let Some(slot) = slot(&self.prepare_slots).await else {
            return Ok(Voted::Working(pause(BUSY_PAUSE, attempt)));
        };
        let (inner, of) = (Arc::clone(&self.inner), call.call.clone());
        let work = async move {
            let _records = RecordsLosses(Arc::clone(&inner));
            inner.prepare(&call).await
        };
        let Caller { timeout, trace } = caller;
        let voted = in_own_task("prepare", of, slot, self.bound(timeout), trace, work).await?;
        Ok(voted.unwrap_or(Voted::Working(pause(LOCKED_PAUSE, attempt))))
    }

    /// Returns the service's own bound of an output. Work that must succeed has none: its output is dropped
    /// where it is too large, and a no would be asked for again without end.
    fn own_output_max(&self, call: &RawCall) -> Option<u64> {
        let must_succeed =
            call.call.must_succeed || call.requires.iter().any(|name| name == MUST_SUCCEED);
        self.inner.of.output_bytes_max.filter(|_| !must_succeed)
    }

    /// Returns the longest time of an operation.
    fn bound(&self, timeout: Option<Duration>) -> Bound {
        let Of { overtime, handler_timeout, .. } = self.inner.of;
        let past = timeout.unwrap_or(CALL_TIMEOUT).saturating_add(overtime);
        match handler_timeout {
            Some(at_most) if at_most < past => Bound { at_most, is_handlers: true },
            _ => Bound { at_most: past, is_handlers: false },
        }
    }

    async fn phase_two(
        &self,
        operation: PhaseTwoOperation,
        parts: Parts,
        requires: Vec<String>,
        caller: Caller,
    ) -> Result<PhaseTwoAnswer, Status> {
        let figures = match operation {
            PhaseTwoOperation::Commit => &self.inner.figures.commit,
            PhaseTwoOperation::Cancel => &self.inner.figures.cancel,
        };
        figures.answered(self.phase_two_of(operation, parts, requires, caller)).await
    }

    async fn phase_two_of(
        &self,
        operation: PhaseTwoOperation,
        parts: Parts,
        requires: Vec<String>,
        caller: Caller,
    ) -> Result<PhaseTwoAnswer, Status> {
        let (other, elsewhere) = (self.other_database(&parts), self.other_place(&parts));
        let call = self.call(parts, Conditions { requires, ..Conditions::default() })?;
        if let Some(no) = features::unsupported(&call.requires, self.participant()) {
            // No answer: the call comes again, perhaps at another endpoint.
            return Err(wire::status(Code::Unimplemented, &no.message));
        }
        if let Some(note) = other {
            let Branch { tx_id, gid, branch_id, .. } = call.branch();
            tracing::error!(
                alarm = "participant_other_database", %tx_id, gid, branch_id, ?operation, note,
                "an operation came to another database than that of the branch"
            );
            return match operation {
                // What this database holds of the branch, if anything, is not what was voted for.
                PhaseTwoOperation::Commit => {
                    Ok(PhaseTwoAnswer::Heuristic(HeuristicKind::Hazard, note))
                }
                // No answer: the call comes again at another endpoint.
                PhaseTwoOperation::Cancel => Err(wire::status(Code::FailedPrecondition, &note)),
            };
        }
        if let Some(note) = elsewhere {
            // No answer: the call comes again, and nothing is done to a copy.
            return Err(wire::status(Code::FailedPrecondition, &note));
        }
        let Some(slot) = slot(&self.phase_two_slots).await else {
            return Ok(PhaseTwoAnswer::Working(pause(BUSY_PAUSE, call.call.attempt)));
        };
        self.phase_two_call(slot, operation, call, caller).await
    }

    pub(super) async fn phase_two_call(
        &self,
        slot: OwnedSemaphorePermit,
        operation: PhaseTwoOperation,
        call: RawCall,
        caller: Caller,
    ) -> Result<PhaseTwoAnswer, Status> {
        let inner = Arc::clone(&self.inner);
        let name = match operation {
            PhaseTwoOperation::Commit => "commit",
            PhaseTwoOperation::Cancel => "cancel",
        };
        let (of, attempt) = (call.call.clone(), call.call.attempt);
        let work = async move {
            let _records = RecordsLosses(Arc::clone(&inner));
            let action = inner.actions.get(&call.call.action);
            // Of a mode that is not known here the row was never prepared by two-phase commit.
            let fits = |mode: Mode| match call.mode {
                Mode::Unspecified => mode != Mode::TwoPhaseCommit,
                asked => mode == asked,
            };
            let action = action.filter(|action| fits(action.mode));
            inner.resource.phase_two(operation, &call, action).await
        };
        let Caller { timeout, trace } = caller;
        let answered = in_own_task(name, of, slot, self.bound(timeout), trace, work).await?;
        Ok(answered.unwrap_or(PhaseTwoAnswer::Working(pause(LOCKED_PAUSE, attempt))))
    }
}

impl<R: Resource> Inner<R> {
    async fn prepare(&self, call: &RawCall) -> Result<Voted, Fault> {
        if let Some(refusal) = features::unsupported(&call.requires, &self.of.name) {
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
                    MODE_NOT_OFFERED,
                    format!("{} does {action} in {offered} only, not in {asked}", self.of.name),
                )
            }
            None if call.mode == Mode::Unspecified => {
                Refusal::new(MODE_NOT_OFFERED, format!("{} does not know the mode", self.of.name))
            }
            None => Refusal::new(
                ACTION_NOT_OFFERED,
                format!("{} has no action {action}; it has {}", self.of.name, self.offered()),
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
