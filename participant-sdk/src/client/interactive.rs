//! A transaction that its initiator drives step by step.

use std::time::{Duration, SystemTime};

use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    self, BranchSpec, CommitBranch, CommitTransactionRequest, CommitTransactionResponse,
    ExecuteBranchRequest, ExecuteBranchResponse, Mode, RollbackTransactionRequest,
    RollbackTransactionResponse, Vote, WaitFor, rollback_transaction_request,
};

use super::draft::{spec, unwritable};
use super::error::BadField;
use super::output::{Output, OutputError};
use super::requires::requires;
use super::step::{Step, StepRef};
use super::{Client, Error, Outcome};
use crate::channel::Link;
use crate::payload::{Decode, Encode, Payload};
use crate::propagation::{Context, Propagation, Trace};
use crate::refusal::Refusal;

/// Longest wait for the rollback of a transaction whose initiator is given an error in any case.
const ABANDON_WAIT: Duration = Duration::from_secs(5);

/// A transaction that has begun.
///
/// Dropping it ends nothing: without a word the coordinator aborts it at its deadline. An initiator
/// that was started again [begins](super::Draft::begin) it again by its gid, and executes its
/// branches again, which answers with what is known.
#[derive(Debug)]
pub struct Transaction {
    client: Client,
    tx_id: String,
    wait_for: WaitFor,
    with_outputs: bool,
    deadline: Option<SystemTime>,
    /// Those that were executed.
    branches: Vec<CommitBranch>,
    /// Collects those that joined on calls of the initiator's own.
    propagation: Propagation,
}

/// Result of a branch's phase one.
#[derive(Debug)]
#[must_use = "a branch that refused has aborted the transaction"]
pub enum Executed<P = Output> {
    /// It voted yes.
    Prepared(P),
    /// It voted yes, and has written nothing.
    ReadOnly,
    /// It voted no: the transaction is aborted.
    Refused(Refusal),
    /// It has no vote yet, and the time to wait is over: call again with the same branch, or go on;
    /// [`Transaction::commit`] waits for it.
    NotVoted {
        /// The last error of its calls.
        last_error: String,
    },
    /// The transaction was aborted before it voted.
    Aborted,
}

/// A step that voted yes.
#[derive(Debug)]
pub struct PreparedStep<O> {
    /// The step, for later ones that read its output or wait for it.
    pub step: StepRef<'static, O>,
    output: Output,
}

impl<O: Decode> PreparedStep<O> {
    /// Reads its output.
    ///
    /// # Errors
    /// It was dropped, or is of another format.
    pub fn output(&self) -> Result<O, OutputError> {
        self.output.of_step(self.step.branch_id())
    }
}

impl Transaction {
    pub(super) fn new(
        client: Client,
        context: Context,
        (wait_for, with_outputs): (WaitFor, bool),
        deadline: Option<SystemTime>,
    ) -> Self {
        let tx_id = context.tx_id().to_string();
        let propagation = Propagation::new(context, Trace::ambient());
        let branches = Vec::new();
        Self { client, tx_id, wait_for, with_outputs, deadline, branches, propagation }
    }

    /// The coordinator's name for it.
    #[must_use]
    pub fn tx_id(&self) -> &str {
        &self.tx_id
    }

    /// Returns the time of its abort if nothing was decided by then, by the coordinator's clock.
    #[must_use]
    pub fn deadline(&self) -> Option<SystemTime> {
        self.deadline
    }

    /// Carries the transaction to services that the initiator calls itself, and collects the branches
    /// with which they join it. [`Self::commit`] lists those, too. See
    /// [`propagation`](crate::propagation).
    ///
    /// They are collected in memory. An initiator that was started again knows of none, and its commit
    /// aborts, unless its calls come again under names of their own, and so tell the same branches.
    #[must_use]
    pub fn propagation(&self) -> Propagation {
        self.propagation.clone()
    }

    /// Does some work of which every call of a client with a
    /// [`ClientLayer`](crate::propagation::ClientLayer) belongs to this transaction.
    pub async fn scope<F: Future>(&self, work: F) -> F::Output {
        self.propagation.scope(work).await
    }

    /// Adds a branch and waits for its vote. The same `branch_id` with the same content is the same
    /// branch. The parameters are those of [`Draft::branch`](super::Draft::branch).
    ///
    /// # Errors
    /// The coordinator does not take it, or gives no answer: then it may be called again. Until it
    /// was answered the transaction cannot commit without the branch, unless nothing of it reached
    /// the coordinator.
    pub async fn execute(
        &mut self,
        branch_id: impl Into<String>,
        participant: impl Into<String>,
        action: impl Into<String>,
        payload: impl Encode,
    ) -> Result<Executed, Error> {
        let spec = spec(branch_id.into(), participant.into(), action.into(), Payload::of(&payload));
        self.run(spec.map_err(unwritable)?).await
    }

    /// Adds a typed step and waits for its vote, as [`Self::execute`] does. Steps that were executed
    /// earlier give it their outputs: the coordinator hands them on, and on ABORT compensates this step
    /// first.
    ///
    /// ```
    /// # use unanimo_sdk::{Client, Json, Outcome};
    /// use unanimo_sdk::client::{Executed, StepAction};
    ///
    /// const FLIGHT: StepAction<Json<String>, Json<u64>> = StepAction::new("airline", "book");
    /// const MAIL: StepAction<(), (), (Json<u64>,)> =
    ///     StepAction::new("mailer", "mail").inputs(["ticket"]);
    ///
    /// # async fn run(client: Client) -> Result<Outcome, Box<dyn std::error::Error>> {
    /// let mut trip = client.saga("trip-4711").begin().await?;
    /// let book = FLIGHT.step("flight", Json("Lisbon".to_owned()));
    /// let Executed::Prepared(flight) = trip.execute_step(book).await? else {
    ///     return Ok(trip.rollback().await?);
    /// };
    /// println!("ticket {}", flight.output()?.0);
    /// let mail = MAIL.step("mail", ()).inputs((&flight.step,));
    /// let Executed::Prepared(_) = trip.execute_step(mail).await? else {
    ///     return Ok(trip.rollback().await?);
    /// };
    /// Ok(trip.commit().await?)
    /// # }
    /// ```
    ///
    /// # Errors
    /// As of [`Self::execute`]. A step of another transaction is refused before anything is sent.
    pub async fn execute_step<O, K>(
        &mut self,
        step: Step<'static, O, (), K>,
    ) -> Result<Executed<PreparedStep<O>>, Error> {
        let (spec, step, tx_ids) = step.into_parts(Some(self.tx_id.clone()));
        if let Some(other) = tx_ids.iter().find(|tx_id| **tx_id != self.tx_id) {
            let field = format!("depends_on of {}", step.branch_id());
            let rule = format!("must name steps of this transaction, not of {other}");
            return Err(Error::Request(BadField { field, rule }));
        }
        let executed = self.run(spec.map_err(unwritable)?).await?;
        Ok(executed.map(|output| PreparedStep { step, output }))
    }

    pub(super) async fn run(&mut self, branch: BranchSpec) -> Result<Executed, Error> {
        let branch_id = branch.branch_id.clone();
        // The mode of the transaction was asked for at its begin.
        let requires = requires(Mode::Unspecified, std::slice::from_ref(&branch), false, false);
        let request =
            ExecuteBranchRequest { tx_id: self.tx_id.clone(), branch: Some(branch), requires };
        let call = |mut service: CoordinatorServiceClient<Link>, request| async move {
            service.execute_branch(request).await
        };
        let response: ExecuteBranchResponse = self.client.call(request, call).await?;
        if !self.branches.iter().any(|known| known.branch_id == branch_id) {
            // The coordinator knows the vote itself.
            self.branches.push(CommitBranch { branch_id, vote: Vote::Unspecified.into() });
        }
        let (vote, outcome) = (response.vote(), response.outcome());
        let ExecuteBranchResponse { refusal, output, output_dropped, last_error, .. } = response;
        Ok(match (vote, outcome) {
            (Vote::Prepared, _) => {
                Executed::Prepared(Output::new(output.unwrap_or_default().into(), output_dropped))
            }
            (Vote::ReadOnly, _) => Executed::ReadOnly,
            (Vote::Refused, _) => Executed::Refused(refusal.map(Refusal::from).unwrap_or_default()),
            (Vote::Unspecified, v1::Outcome::Aborted) => Executed::Aborted,
            (Vote::Unspecified, _) => Executed::NotVoted { last_error },
        })
    }

    /// Asks for COMMIT of every branch that was executed here, or [joined](Self::propagation). A
    /// branch that joined and is not known here, because the reply was lost, or has no vote, means
    /// ABORT.
    ///
    /// # Errors
    /// The coordinator does not know the transaction or one of its branches. That no answer came is
    /// no error, but [`Outcome::NotDecided`]: call again.
    pub async fn commit(&self) -> Result<Outcome, Error> {
        let mut branches = self.branches.clone();
        let executed = |id: &str| self.branches.iter().any(|known| known.branch_id == id);
        let joined = self.propagation.listed().into_iter();
        branches.extend(joined.filter(|joined| !executed(&joined.branch_id)));
        let request = CommitTransactionRequest {
            tx_id: self.tx_id.clone(),
            branches,
            wait_for: self.wait_for.into(),
            requires: Vec::new(),
            include_outputs: self.with_outputs,
        };
        let call = |mut service: CoordinatorServiceClient<Link>, request| async move {
            service.commit_transaction(request).await
        };
        let answer = self.client.call(request, call).await;
        Outcome::of_answer(
            answer.map(|CommitTransactionResponse { result }| result),
            Some(&self.tx_id),
        )
    }

    /// Asks for ABORT. If COMMIT was decided before, the answer says so.
    ///
    /// # Errors
    /// As of [`Self::commit`].
    pub async fn rollback(&self) -> Result<Outcome, Error> {
        let request = RollbackTransactionRequest {
            key: Some(rollback_transaction_request::Key::TxId(self.tx_id.clone())),
            requires: Vec::new(),
            include_outputs: self.with_outputs,
            wait_for: self.wait_for.into(),
            // For operators alone.
            note: String::new(),
        };
        let call = |mut service: CoordinatorServiceClient<Link>, request| async move {
            service.rollback_transaction(request).await
        };
        let answer = self.client.call(request, call).await;
        Outcome::of_answer(
            answer.map(|RollbackTransactionResponse { result }| result),
            Some(&self.tx_id),
        )
    }
}

impl Transaction {
    /// Rolls back what its initiator gets no handle of; answers with what is known of it then.
    pub(super) async fn abandon(mut self) -> v1::Outcome {
        let wait = self.client.wait_max.min(ABANDON_WAIT);
        self.client = self.client.wait_at_most(wait);
        (self.wait_for, self.with_outputs) = (WaitFor::Decided, false);
        match self.rollback().await {
            Ok(Outcome::Aborted(_)) => v1::Outcome::Aborted,
            Ok(Outcome::Committed(_)) => v1::Outcome::Committed,
            Ok(Outcome::NotDecided(_)) | Err(_) => v1::Outcome::NotDecided,
        }
    }
}

impl<P> Executed<P> {
    fn map<Q>(self, prepared: impl FnOnce(P) -> Q) -> Executed<Q> {
        match self {
            Self::Prepared(output) => Executed::Prepared(prepared(output)),
            Self::ReadOnly => Executed::ReadOnly,
            Self::Refused(refusal) => Executed::Refused(refusal),
            Self::NotVoted { last_error } => Executed::NotVoted { last_error },
            Self::Aborted => Executed::Aborted,
        }
    }
}
