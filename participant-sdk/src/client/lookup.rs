//! Questions about, and the end of, a transaction that only its gid is known of.

use std::pin::Pin;

use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    GetTransactionRequest, GetTransactionResponse, RollbackTransactionRequest,
    RollbackTransactionResponse, WaitFor, get_transaction_request, rollback_transaction_request,
};

use super::{Client, Error, Outcome};
use crate::channel::Link;

type Answer = Pin<Box<dyn Future<Output = Result<Outcome, Error>> + Send>>;

/// A question that [`Client::find`] asks when it is awaited. Answered at once, unless it is told to wait.
#[derive(Clone, Debug)]
#[must_use = "nothing is asked before it is awaited"]
pub struct Find {
    client: Client,
    gid: String,
    wait_for: WaitFor,
    with_outputs: bool,
}

/// A rollback that [`Client::rollback`] asks for when it is awaited.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is awaited"]
pub struct Rollback {
    client: Client,
    gid: String,
    wait_for: WaitFor,
}

impl Client {
    /// Asks for the outcome of the transaction that was started under this name.
    ///
    /// # Errors
    /// There is none (reason `GID_UNKNOWN`), or the coordinator was not reached.
    ///
    /// **That there is none is not final**: a call that starts it may still be on its way, at another node or in a
    /// proxy, and be done afterwards. Who started it once and starts it again under another gid may so do it
    /// twice. [`Self::rollback`] makes certain; or start it again under the same gid.
    pub fn find(&self, gid: impl Into<String>) -> Find {
        let (client, gid) = (self.clone(), gid.into());
        Find { client, gid, wait_for: WaitFor::Accepted, with_outputs: false }
    }

    /// Aborts the transaction of this name, and makes certain that nothing runs under it: a gid that
    /// was never seen is stored as aborted, so that a request of that name which is still on its way
    /// is answered with [`Outcome::Aborted`]. If COMMIT was decided before, the answer says so.
    ///
    /// ```no_run
    /// # async fn run(client: unanimo_sdk::Client) -> Result<(), unanimo_sdk::client::Error> {
    /// // Nobody knows whether the order was ever submitted. Afterwards it is committed or never will be.
    /// let outcome = client.rollback("order-4711").await?;
    /// assert!(outcome.is_aborted() || outcome.is_committed());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The coordinator does not take the request. That no answer came is no error, but
    /// [`Outcome::NotDecided`]: call again.
    pub fn rollback(&self, gid: impl Into<String>) -> Rollback {
        Rollback { client: self.clone(), gid: gid.into(), wait_for: WaitFor::Decided }
    }
}

impl Find {
    /// Makes it wait for the decision, for as long as [calls wait](Client::wait_at_most).
    pub fn wait_until_decided(mut self) -> Self {
        self.wait_for = WaitFor::Decided;
        self
    }

    /// Makes it wait until every branch has ended, for as long as [calls wait](Client::wait_at_most).
    pub fn wait_until_ended(mut self) -> Self {
        self.wait_for = WaitFor::Ended;
        self
    }

    /// Makes the answer hold the branches' outputs.
    pub fn with_outputs(mut self) -> Self {
        self.with_outputs = true;
        self
    }
}

impl Rollback {
    /// Makes it wait until every branch has ended, and not only for the decision.
    pub fn wait_until_ended(mut self) -> Self {
        self.wait_for = WaitFor::Ended;
        self
    }
}

impl IntoFuture for Find {
    type Output = Result<Outcome, Error>;
    type IntoFuture = Answer;

    fn into_future(self) -> Answer {
        Box::pin(async move {
            let request = GetTransactionRequest {
                key: Some(get_transaction_request::Key::Gid(self.gid)),
                wait_for: self.wait_for.into(),
                include_outputs: self.with_outputs,
                ..Default::default()
            };
            let call = |mut service: CoordinatorServiceClient<Link>, request| async move {
                service.get_transaction(request).await
            };
            let response: GetTransactionResponse = self.client.ask(request, call).await?;
            Ok(Outcome::of_transaction(response.transaction.unwrap_or_default()))
        })
    }
}

impl IntoFuture for Rollback {
    type Output = Result<Outcome, Error>;
    type IntoFuture = Answer;

    fn into_future(self) -> Answer {
        Box::pin(async move {
            let request = RollbackTransactionRequest {
                key: Some(rollback_transaction_request::Key::Gid(self.gid)),
                wait_for: self.wait_for.into(),
                ..Default::default()
            };
            let call = |mut service: CoordinatorServiceClient<Link>, request| async move {
                service.rollback_transaction(request).await
            };
            let answer = self.client.call(request, call).await;
            Outcome::of_answer(answer.map(|RollbackTransactionResponse { result }| result), None)
        })
    }
}
