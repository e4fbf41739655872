//! A transaction that is about to be started.

use std::collections::HashMap;
use std::time::Duration;

use tonic::transport::Channel;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    BeginTransactionRequest, BeginTransactionResponse, BranchSpec, Mode, SubmitTransactionRequest,
    SubmitTransactionResponse, WaitFor,
};

use super::{Client, Error, Outcome, Transaction};
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
    branches: Vec<Spec>,
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

    /// Hands the transaction over. The coordinator runs both phases, whether anybody waits or not.
    ///
    /// # Errors
    /// The coordinator does not take it: nothing has happened. That no answer came, or none that
    /// excludes every attempt, is no error, but [`Outcome::NotDecided`].
    pub async fn submit(self) -> Result<Outcome, Error> {
        let mut branches = Vec::with_capacity(self.branches.len());
        for branch in self.branches {
            branches.push(branch.map_err(unwritable)?);
        }
        let request = SubmitTransactionRequest {
            gid: self.gid,
            mode: self.mode.into(),
            branches,
            timeout: self.timeout.map(timeout_to_wire),
            wait_for: self.wait_for.into(),
            metadata: self.metadata,
            requires: Vec::new(),
            include_outputs: self.with_outputs,
            ..Default::default()
        };
        let call = |mut service: CoordinatorServiceClient<Channel>, request| async move {
            service.submit_transaction(request).await
        };
        let answer = self.client.call(request, call).await;
        Outcome::of_answer(answer.map(|SubmitTransactionResponse { result }| result), None)
    }

    /// Begins the transaction, or finds it again: the same gid is the same transaction. Branches are
    /// added by [`Transaction::execute`], those given to [`Self::branch`] first of all.
    ///
    /// # Errors
    /// The coordinator does not take it, or gives no answer: then it may be called again.
    pub async fn begin(self) -> Result<Transaction, Error> {
        let request = BeginTransactionRequest {
            gid: self.gid.clone(),
            mode: self.mode.into(),
            timeout: self.timeout.map(timeout_to_wire),
            metadata: self.metadata,
            requires: Vec::new(),
            locks: Vec::new(),
        };
        let call = |mut service: CoordinatorServiceClient<Channel>, request| async move {
            service.begin_transaction(request).await
        };
        let begun: BeginTransactionResponse = self.client.call(request, call).await?;
        let context = Context::new(&begun.tx_id, self.gid, self.mode, begun.cluster_id)
            .map_err(|_| Error::Answer("it names no transaction of a cluster"))?;
        let answers = (self.wait_for, self.with_outputs);
        let deadline = begun.deadline.and_then(|at| std::time::SystemTime::try_from(at).ok());
        let mut transaction = Transaction::new(self.client, context, answers, deadline);
        for branch in self.branches {
            let _executed = transaction.run(branch.map_err(unwritable)?).await?;
        }
        Ok(transaction)
    }
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
fn timeout_to_wire(timeout: Duration) -> prost_types::Duration {
    let longest = prost_types::Duration { seconds: i64::MAX, nanos: 0 };
    prost_types::Duration::try_from(timeout).unwrap_or(longest)
}
