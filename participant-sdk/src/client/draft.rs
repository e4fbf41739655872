//! A transaction that is about to be started.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    BeginTransactionRequest, BeginTransactionResponse, BranchSpec, Mode, SubmitTransactionRequest,
    SubmitTransactionResponse, WaitFor,
};

use super::error::BadField;
use super::lock::Lock;
use super::requires::{existing, requires};
use super::steps::Steps;
use super::{Client, Error, Executed, Outcome, Transaction};
use crate::channel::Link;
use crate::payload::{self, Encode, Payload};
use crate::propagation::Context;

/// A transaction that is about to be started: [submitted](Self::submit) as a whole, or
/// [begun](Self::begin) and driven step by step.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is submitted or begun"]
pub struct Draft {
    client: Client,
    gid: String,
    mode: Mode,
    timeout: Option<Duration>,
    metadata: HashMap<String, String>,
    wait_for: WaitFor,
    with_outputs: bool,
    start: Option<Start>,
    locks: Vec<Lock>,
    must_exist: bool,
    branches: Vec<Spec>,
}

/// Time before which nothing is sent.
#[derive(Clone, Copy, Debug)]
enum Start {
    At(SystemTime),
    After(Duration),
}

impl Draft {
    pub(super) fn new(client: Client, gid: String, mode: Mode) -> Self {
        Self {
            client,
            gid,
            mode,
            timeout: None,
            metadata: HashMap::new(),
            wait_for: WaitFor::Decided,
            with_outputs: false,
            start: None,
            locks: Vec::new(),
            must_exist: false,
            branches: Vec::new(),
        }
    }

    /// Adds a branch: what `participant` is to do. `branch_id` is unique within the transaction, of
    /// the same rule as the gid. The payload is [`Json`](crate::Json), [`Prost`](crate::Prost),
    /// [`Payload`], [`Bytes`](bytes::Bytes) or `()`, at most 1 MiB.
    #[expect(clippy::needless_pass_by_value, reason = "a payload is made where it is given")]
    pub fn branch(
        mut self,
        branch_id: impl Into<String>,
        participant: impl Into<String>,
        action: impl Into<String>,
        payload: impl Encode,
    ) -> Self {
        let spec = spec(branch_id.into(), participant.into(), action.into(), Payload::of(&payload));
        self.branches.push(spec);
        self
    }

    /// Time until the transaction is aborted if it is not decided by then. Default: the
    /// coordinator's, 60 s unless it is set otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Carried along, and handed to participants. At most 16 KiB in all.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Makes [`Self::submit`] return as soon as the transaction is durable, mostly with
    /// [`Outcome::NotDecided`]: it is driven to its end without the caller. [`Client::find`] tells the
    /// outcome. In a transaction that is [begun](Self::begin), commit and rollback return so.
    pub fn wait_until_accepted(mut self) -> Self {
        self.wait_for = WaitFor::Accepted;
        self
    }

    /// Makes the answers to submit, commit and rollback hold the outputs of the branches.
    ///
    /// Without it they do not: most initiators need no more than the outcome, outputs may have several
    /// megabytes, and an answer that tells a decision should be small. [`Transaction::execute`] returns
    /// the output of its branch in any case, and [`Client::find`] fetches outputs later.
    pub fn with_outputs(mut self) -> Self {
        self.with_outputs = true;
        self
    }

    /// Makes [`Self::submit`] wait until every branch has ended, and not only for the decision.
    pub fn wait_until_ended(mut self) -> Self {
        self.wait_for = WaitFor::Ended;
        self
    }

    /// Begins nothing: the gid must be known already. For a message that a queue delivers again, perhaps
    /// days later: the coordinator keeps a gid for its gid retention (by default 7 days after the
    /// transaction's end), and after that the same gid would be a new transaction, and do the work a second
    /// time. A gid that is not known is then an error with the reason `GID_UNKNOWN`: nothing is done,
    /// and nobody can say whether it was done before.
    pub fn must_exist(mut self) -> Self {
        self.must_exist = true;
        self
    }

    /// Adds steps whose types and order the compiler checks. `describe` adds them, and returns what the
    /// program needs afterwards: mostly [outputs](super::StepRef::output) to be read, or nothing.
    ///
    /// ```
    /// # use unanimo_sdk::{Client, Json};
    /// use unanimo_sdk::client::{Compensation, Retry, StepAction};
    ///
    /// const FLIGHT: StepAction<Json<String>, Json<u64>> = StepAction::new("airline", "book");
    /// const HOTEL: StepAction<Json<String>, Json<String>> = StepAction::new("hotel", "book");
    /// const PAY: StepAction<Json<u64>, (), (Json<u64>, Json<String>)> =
    ///     StepAction::new("bank", "pay").inputs(["ticket", "room"]);
    /// const MAIL: StepAction<(), ()> = StepAction::new("mailer", "mail");
    ///
    /// # async fn run(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let (trip, ticket) = client.saga("trip-4711").steps(|saga| {
    ///     let to = || Json("Lisbon".to_owned());
    ///     let flight = saga.add(FLIGHT.step("flight", to()).retry(Retry::attempts(5)));
    ///     // At the same time as the flight, and compensated if that is refused.
    ///     let hotel = saga.add(HOTEL.step("hotel", to()));
    ///     // The bank gets the outputs of both, as its inputs `ticket` and `room`.
    ///     let pay = PAY.step("pay", Json(250)).inputs((&flight, &hotel));
    ///     let pay = saga.add(pay.pivot().compensation(Compensation::None));
    ///     saga.add(MAIL.step("mail", ()).after(&pay).compensation(Compensation::None));
    ///     flight.output()
    /// });
    /// let outcome = trip.with_outputs().submit().await?;
    /// println!("{outcome}");
    /// if outcome.is_committed() && outcome.deviation().is_none() {
    ///     let Json(ticket) = outcome.output(&ticket)?;
    ///     println!("ticket {ticket}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Programs that do not compile are shown at [`Steps`].
    #[must_use = "nothing happens before it is submitted or begun"]
    pub fn steps<T>(mut self, describe: impl for<'s> FnOnce(&mut Steps<'s>) -> T) -> (Self, T) {
        let (steps, described) = Steps::describe(describe);
        self.branches.extend(steps);
        (self, described)
    }

    /// Starts it at this time: until then it is durable, nothing is sent to any participant, and a
    /// rollback ends it. Its timeout counts from the start. At most 366 days ahead; for
    /// [`Self::submit`] alone. Submit waits no longer than any [call](Client::wait_at_most):
    /// [`Self::wait_until_accepted`] goes well with it.
    pub fn start_at(mut self, at: SystemTime) -> Self {
        self.start = Some(Start::At(at));
        self
    }

    /// Starts it after this time from now, as [`Self::start_at`] does. The last one of the two counts.
    pub fn start_delay(mut self, delay: Duration) -> Self {
        self.start = Some(Start::After(delay));
        self
    }

    /// Adds a lock to be had before any branch is sent, and held until the transaction has ended. At
    /// most 16.
    pub fn lock(mut self, lock: Lock) -> Self {
        self.locks.push(lock);
        self
    }

    /// Hands the transaction over. The coordinator runs both phases, whether anybody waits or not.
    ///
    /// # Errors
    /// The coordinator does not take it: nothing has happened. That no answer came, or none that
    /// excludes every attempt, is no error, but [`Outcome::NotDecided`].
    pub async fn submit(self) -> Result<Outcome, Error> {
        let client = self.client.clone();
        let request = self.into_request()?;
        let call = |mut service: CoordinatorServiceClient<Link>, request| async move {
            service.submit_transaction(request).await
        };
        let answer = client.call(request, call).await;
        Outcome::of_answer(answer.map(|SubmitTransactionResponse { result }| result), None)
    }

    pub(super) fn into_request(self) -> Result<SubmitTransactionRequest, Error> {
        let branches: Result<Vec<_>, _> = self.branches.into_iter().collect();
        let branches = branches.map_err(unwritable)?;
        let (start_at, start_delay) = match self.start {
            Some(Start::At(at)) => (Some(at.into()), None),
            Some(Start::After(delay)) => (None, Some(duration_to_wire(delay))),
            None => (None, None),
        };
        let (locked, later) = (!self.locks.is_empty(), self.start.is_some());
        let mut requires = requires(self.mode, &branches, locked, later);
        requires.extend(self.must_exist.then(existing));
        Ok(SubmitTransactionRequest {
            requires,
            gid: self.gid,
            mode: self.mode.into(),
            branches,
            timeout: self.timeout.map(duration_to_wire),
            wait_for: self.wait_for.into(),
            metadata: self.metadata,
            include_outputs: self.with_outputs,
            start_at,
            start_delay,
            locks: self.locks.into_iter().map(Into::into).collect(),
            require_existing: self.must_exist,
        })
    }

    /// Begins the transaction, or finds it again: for the gid retention the same gid is the same
    /// transaction. Branches are
    /// added by [`Transaction::execute`] and [`Transaction::execute_step`], those given to
    /// [`Self::branch`] and [`Self::steps`] first of all.
    ///
    /// One of these that has no vote when the time to wait is over is waited for by
    /// [`Transaction::commit`].
    ///
    /// # Errors
    /// It starts later, a payload cannot be written, or the coordinator does not take it: nothing has happened.
    /// Once it has begun: [`Error::Aborted`] if a branch that was given votes no, and [`Error::NotExecuted`] if
    /// the coordinator does not take one, or a proxy keeps it from being asked, after which the transaction is rolled
    /// back. [`Error::Unavailable`] if there is no answer, and [`Error::Answer`] if it is not understood: it may have
    /// begun, and have prepared branches. Then call again, or make it an ABORT with [`Client::rollback`]; without
    /// either it is aborted at its deadline.
    pub async fn begin(self) -> Result<Transaction, Error> {
        if self.start.is_some() {
            let rule = "must be absent: a transaction that is begun starts at once".to_owned();
            return Err(Error::Request(BadField { field: "start_at".to_owned(), rule }));
        }
        // What cannot be written is known before anything is sent.
        let branches: Result<Vec<_>, _> = self.branches.into_iter().collect();
        let branches = branches.map_err(unwritable)?;
        let mut requires = requires(self.mode, &[], !self.locks.is_empty(), false);
        requires.extend(self.must_exist.then(existing));
        let request = BeginTransactionRequest {
            gid: self.gid.clone(),
            mode: self.mode.into(),
            timeout: self.timeout.map(duration_to_wire),
            metadata: self.metadata,
            requires,
            locks: self.locks.into_iter().map(Into::into).collect(),
            require_existing: self.must_exist,
        };
        let call = |mut service: CoordinatorServiceClient<Link>, request| async move {
            service.begin_transaction(request).await
        };
        let begun: BeginTransactionResponse = self.client.call(request, call).await?;
        let context = Context::new(&begun.tx_id, self.gid, self.mode, begun.cluster_id)
            .map_err(|_| Error::Answer("it names no transaction of a cluster"))?;
        let answers = (self.wait_for, self.with_outputs);
        let deadline = begun.deadline.and_then(|at| SystemTime::try_from(at).ok());
        execute_all(Transaction::new(self.client, context, answers, deadline), branches).await
    }
}

/// Executes the branches that a transaction is begun with. One that the coordinator does not take ends the
/// transaction: those before it would hold what they have prepared until the deadline.
async fn execute_all(
    mut transaction: Transaction,
    branches: Vec<BranchSpec>,
) -> Result<Transaction, Error> {
    for branch in branches {
        let (tx_id, branch_id) = (transaction.tx_id().to_owned(), branch.branch_id.clone());
        match transaction.run(branch).await {
            Ok(Executed::Prepared(_) | Executed::ReadOnly | Executed::NotVoted { .. }) => {}
            Ok(Executed::Refused(refusal)) => {
                return Err(Error::Aborted { tx_id, branch_id, refusal: Some(refusal) });
            }
            Ok(Executed::Aborted) => {
                return Err(Error::Aborted { tx_id, branch_id, refusal: None });
            }
            // The same begin may be answered later.
            Err(error @ Error::Unavailable { retryable: true, .. }) => return Err(error),
            Err(error) => {
                let outcome = transaction.abandon().await;
                let error = Box::new(error);
                return Err(Error::NotExecuted { tx_id, branch_id, outcome, error });
            }
        }
    }
    Ok(transaction)
}

pub(super) type Spec = Result<BranchSpec, (String, String)>;

pub(super) fn spec(
    branch_id: String,
    participant: String,
    action: String,
    payload: Result<Payload, payload::Error>,
) -> Spec {
    match payload {
        Ok(payload) => {
            let payload = Some(payload.into());
            let mode = Mode::Unspecified.into();
            Ok(BranchSpec { branch_id, participant, action, payload, mode, ..Default::default() })
        }
        Err(error) => Err((branch_id, error.to_string())),
    }
}

pub(super) fn unwritable((branch_id, error): (String, String)) -> Error {
    Error::Payload { branch_id, error }
}

/// Longer than the coordinator allows in any case: it says so.
pub(super) fn duration_to_wire(duration: Duration) -> prost_types::Duration {
    let longest = prost_types::Duration { seconds: i64::MAX, nanos: 0 };
    prost_types::Duration::try_from(duration).unwrap_or(longest)
}

#[cfg(test)]
mod tests;
