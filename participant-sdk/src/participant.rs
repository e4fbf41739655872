//! A participant: its actions, and the service that the coordinator calls.
//!
//! # In doubt
//!
//! A branch that voted yes is *in doubt* until its participant hears the decision. Normally the
//! coordinator tells it within milliseconds, and repeats that until it is answered. What it cannot
//! tell any more, after a failover of a database, a restore, or an operator's word, the *sweeper*
//! finds. [`Participant::serve`] starts one for the coordinators of [`Serve::register_with`];
//! [`Service::sweep`] does it for a service in a server of one's own. At each [interval](Sweep) it
//!
//! 1. lists what this participant has prepared for longer than a grace: prepared transactions of
//!    PostgreSQL named `u/<cluster>/<participant>/<tx_id>/<branch number>`, and rows of
//!    `unanimo_barrier` in state `prepared`. Whatever belongs to another participant, or was not
//!    named by this crate, is not looked at.
//! 2. asks the coordinators about them (`Inquire`), each about its own cluster's branches only.
//! 3. acts on a decision, COMMIT or ABORT, and on nothing else: a prepared transaction is ended as by
//!    the coordinator's own call; for a row the question makes the coordinator send its Commit or
//!    Cancel again, which carries the payload that the handler needs. A transaction that is running
//!    is left alone.
//!
//! What only a person can end is touched by nobody. It raises an alarm: a log line of level ERROR
//! with a field `alarm`, once two sweeps in a row have found it, and again every hour:
//!
//! | `alarm` | the branch is in doubt, and | what to do |
//! | --- | --- | --- |
//! | `in_doubt_unknown` | the coordinator never saw it, or has purged its transaction: one of the two databases was restored from a backup | end it as the other branches of its transaction ended |
//! | `in_doubt_ended` | the coordinator was told that it had ended: an operator resolved it, or this database was restored | the same; it follows the decision, unless it was resolved otherwise |
//! | `in_doubt_refused` | the database does not end it as it was decided; a line of level WARN before tells why | mend that, such as a role that may not |
//! | `in_doubt_other_cluster` | none of the coordinators has its transaction's database | register with the right one too, or end it by hand |
//!
//! Ended by hand means `COMMIT PREPARED '…'` or `ROLLBACK PREPARED '…'`; for a row, doing what the
//! handler would have done and setting its state in the same local transaction.
//!
//! [`Serving::in_doubt`] tells how many are in doubt, how old the oldest is, and how many have
//! raised an alarm: make a gauge of it. Each sweep that leaves one older than the grace also logs a
//! line of level WARN, `branches are in doubt`, with `in_doubt`, `oldest_s` and `alarmed`.
//!
//! # Retention
//!
//! Barrier rows are what makes a late or repeated message harmless, so they outlive every message.
//! The sweeper purges them in bounded batches, by the database's own clock:
//!
//! - rows in state `refused`, `read_only` and `cancelled` (tombstones, too) once their
//!   `prepare_until`, the transaction's deadline and an allowance for clocks, is [some
//!   time](Sweep::retention) ago. A Prepare that comes still later is refused because it is late; a
//!   Cancel that comes again is done; a Commit never comes to such a branch.
//! - rows in state `committed` when besides that the coordinator says that the transaction has ended,
//!   durably, or that it has purged it. It then never sends Commit again, not after a crash either,
//!   so that no Commit can miss the row and be taken for a loss.
//! - rows in state `prepared`, `lost` and `running`, and rows without `prepare_until`: never.
//!
//! [`Sweep::keep_rows`] switches that off. A coordinator's database that is restored from a backup
//! older than the retention may send a Commit whose row is gone: that is answered as a heuristic
//! hazard.

mod registration;
mod serve;
mod sweeper;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, Mode, ParticipantServiceCommitRequest,
    ParticipantServiceCommitResponse, PrepareRequest, PrepareResponse,
};

pub use self::serve::{Serve, Serving};
pub use self::sweeper::{InDoubt, Sweep, Sweeper};
use crate::action::{Interrupt, Registered};
use crate::handler::{Call, Saga, Tcc};
use crate::names::{self, NAME_BYTES_MAX};
use crate::refusal::Refusal;
use crate::resource::{Fault, Finish, Finished, RawCall, Resource, Voted};
use crate::wire::{self, Parts};

/// How long a call waits for a slot before it is answered with "working".
const SLOT_WAIT: Duration = Duration::from_secs(2);

/// After which a call that found no slot is to be sent again.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// After which an operation that met a lock is to be sent again.
const LOCKED_PAUSE: Duration = Duration::from_millis(200);

/// Why a participant cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name breaks the rule.
    #[error("{what} {name:?} must be 1 to 64 bytes of [A-Za-z0-9_.:-]")]
    Name {
        /// What it names.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// An action is there twice.
    #[error("action {0} must be given once")]
    Twice(String),
    /// The database cannot prepare transactions.
    #[error(
        "two-phase commit needs prepared transactions, which this server does not allow: set \
         max_prepared_transactions of PostgreSQL to at least the number of branches that may be in \
         doubt at once, and restart it"
    )]
    CannotPrepare,
    /// The address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Nobody can call the address that is listened on.
    #[error("{0} is no address to call: say how others reach this participant with `advertise`")]
    Advertise(std::net::SocketAddr),
    /// The coordinator's address is none.
    #[error("coordinator {endpoint:?} must be http://HOST:PORT")]
    Coordinator {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        #[source]
        source: tonic::transport::Error,
    },
}

/// A participant in the making: a name, the database that holds its data, and its actions.
#[derive(Debug)]
pub struct Participant<R: Resource> {
    name: String,
    resource: R,
    actions: HashMap<String, Registered<R::Connection>>,
    error: Option<Error>,
}

impl<R: Resource> Participant<R> {
    /// A participant of this name. All processes that serve one name share one database.
    pub fn new(name: impl Into<String>, resource: R) -> Self {
        let mut made = Self { name: name.into(), resource, actions: HashMap::new(), error: None };
        made.check("participant", &made.name.clone());
        made
    }

    /// Offers a TCC action.
    #[must_use]
    pub fn tcc(self, action: impl Into<String>, handler: impl Tcc<R>) -> Self {
        self.with(action.into(), Registered::tcc(handler))
    }

    /// Offers an action as a step of sagas.
    #[must_use]
    pub fn saga(self, action: impl Into<String>, handler: impl Saga<R>) -> Self {
        self.with(action.into(), Registered::saga(handler))
    }

    /// Lets a test come between a handler's success and the commit of its work. Of the crate
    /// `unanimo-testing`; not for programs.
    #[doc(hidden)]
    #[must_use]
    pub fn interrupted(mut self, interrupt: &Interrupt) -> Self {
        let actions = self.actions.into_iter();
        let wrap = |registered: Registered<R::Connection>| {
            registered.interrupted(Interrupt::clone(interrupt))
        };
        self.actions = actions.map(|(name, registered)| (name, wrap(registered))).collect();
        self
    }

    fn with(mut self, action: String, registered: Registered<R::Connection>) -> Self {
        self.check("action", &action);
        match self.actions.entry(action) {
            Entry::Vacant(entry) => {
                entry.insert(registered);
            }
            Entry::Occupied(entry) => {
                self.error.get_or_insert(Error::Twice(entry.key().clone()));
            }
        }
        self
    }

    fn check(&mut self, what: &'static str, name: &str) {
        if !names::is_name(name, NAME_BYTES_MAX) {
            self.error.get_or_insert(Error::Name { what, name: name.to_owned() });
        }
    }

    /// The service, to add to a gRPC server of one's own or to a coordinator in the same process.
    /// Otherwise see [`Self::serve`].
    ///
    /// # Errors
    /// A name breaks the rules, or the database cannot do what an action needs.
    pub fn service(self) -> Result<Service<R>, Error> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let slots = self.resource.slots();
        Ok(Service {
            inner: Arc::new(Inner {
                name: self.name,
                resource: self.resource,
                actions: self.actions,
            }),
            prepare_slots: Arc::new(Semaphore::new(slots.prepare)),
            finish_slots: Arc::new(Semaphore::new(slots.finish)),
            slots: (slots.prepare, slots.finish),
        })
    }
}

#[cfg(feature = "postgres")]
impl Participant<crate::Postgres> {
    /// Offers an action of two-phase commit.
    #[must_use]
    pub fn two_phase(mut self, action: impl Into<String>, handler: impl crate::TwoPhase) -> Self {
        if !self.resource.can_prepare() && !handler.read_only() {
            self.error.get_or_insert(Error::CannotPrepare);
        }
        self.with(action.into(), Registered::two_phase(handler))
    }
}

/// What the coordinator calls. Cheap to clone.
pub struct Service<R: Resource> {
    inner: Arc<Inner<R>>,
    prepare_slots: Arc<Semaphore>,
    finish_slots: Arc<Semaphore>,
    slots: (usize, usize),
}

#[derive(Debug)]
struct Inner<R: Resource> {
    name: String,
    resource: R,
    actions: HashMap<String, Registered<R::Connection>>,
}

impl<R: Resource> Clone for Service<R> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            prepare_slots: Arc::clone(&self.prepare_slots),
            finish_slots: Arc::clone(&self.finish_slots),
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
    /// Its participant's name.
    #[must_use]
    pub fn participant(&self) -> &str {
        &self.inner.name
    }

    /// Waits until nothing is at work. Nothing is begun any more.
    async fn drain(&self) {
        for (slots, count) in
            [(&self.prepare_slots, self.slots.0), (&self.finish_slots, self.slots.1)]
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

    fn call(&self, parts: Parts) -> Result<RawCall, Status> {
        let call = wire::call(parts)?;
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

    async fn finish(&self, operation: Finish, parts: Parts) -> Result<Finished, Status> {
        let call = self.call(parts)?;
        let Some(slot) = slot(&self.finish_slots).await else {
            return Ok(Finished::Working(BUSY_PAUSE));
        };
        self.finish_call(slot, operation, call).await
    }

    async fn finish_call(
        &self,
        slot: OwnedSemaphorePermit,
        operation: Finish,
        call: RawCall,
    ) -> Result<Finished, Status> {
        let inner = Arc::clone(&self.inner);
        let name = match operation {
            Finish::Commit => "commit",
            Finish::Cancel => "cancel",
        };
        let of = call.call.clone();
        let work = async move {
            let action = inner.actions.get(&call.call.action);
            let action = action.filter(|action| action.mode == call.mode);
            inner.resource.finish(operation, &call, action).await
        };
        let finished = in_own_task(name, of, slot, work).await?;
        Ok(finished.unwrap_or(Finished::Working(LOCKED_PAUSE)))
    }
}

#[tonic::async_trait]
impl<R: Resource> ParticipantService for Service<R> {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        let PrepareRequest { context, action, payload, prepare_until, metadata, attempt } =
            request.into_inner();
        let parts = Parts { context, action, payload, metadata, attempt, prepare_until };
        let voted = self.vote(self.call(parts)?).await?;
        Ok(Response::new(wire::voted(voted)))
    }

    async fn commit(
        &self,
        request: Request<ParticipantServiceCommitRequest>,
    ) -> Result<Response<ParticipantServiceCommitResponse>, Status> {
        let ParticipantServiceCommitRequest { context, action, payload, metadata, attempt, .. } =
            request.into_inner();
        // Nothing comes of a Prepare after a Commit.
        let parts = Parts { context, action, payload, metadata, attempt, prepare_until: None };
        let finished = self.finish(Finish::Commit, parts).await?;
        Ok(Response::new(wire::committed(finished)))
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        let CancelRequest { context, action, payload, metadata, attempt, prepare_until, .. } =
            request.into_inner();
        let parts = Parts { context, action, payload, metadata, attempt, prepare_until };
        let finished = self.finish(Finish::Cancel, parts).await?;
        Ok(Response::new(wire::cancelled(finished)))
    }
}

impl<R: Resource> Inner<R> {
    async fn prepare(&self, call: &RawCall) -> Result<Voted, Fault> {
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
        _ => "TCC",
    }
}

async fn slot(slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    let slot = tokio::time::timeout(SLOT_WAIT, Arc::clone(slots).acquire_owned()).await;
    slot.ok()?.ok()
}

/// Runs an operation in a task of its own: a coordinator that goes away, or does not wait, cancels
/// no database work half way. `None` tells that another operation is in its way.
async fn in_own_task<T: Send + 'static>(
    operation: &'static str,
    call: Call<Bytes>,
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
        Ok(Err(fault @ (Fault::Definite { .. } | Fault::Unknown { .. }))) => {
            Err(Status::unavailable(fault.to_string()))
        }
        Ok(Err(fault @ Fault::Handler(_))) => Err(Status::unknown(fault.to_string())),
        Ok(Err(fault)) => Err(Status::internal(fault.to_string())),
        Err(_) => Err(Status::internal(format!("the handler of {operation} panicked"))),
    }
}
