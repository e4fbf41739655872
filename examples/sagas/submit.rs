//! Calls of an initiator to the coordinator, which may be dead for a moment.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use unanimo_sdk::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_sdk::proto::v1::get_transaction_request::Key;
use unanimo_sdk::proto::v1::{
    GetTransactionRequest, SubmitTransactionRequest, Transaction, TransactionResult, WaitFor,
};

/// Longest wait for the end of a saga.
const PATIENCE: Duration = Duration::from_secs(60);

/// Deadline of a single call.
const CALL: Duration = Duration::from_secs(10);

/// Pause before a call is repeated.
const PAUSE: Duration = Duration::from_millis(20);

/// Client of the coordinator.
#[derive(Clone)]
pub(super) struct Initiator {
    service: CoordinatorServiceClient<Channel>,
}

impl Initiator {
    pub(super) fn new(endpoint: &str) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(endpoint.to_owned())?.connect_lazy();
        Ok(Self { service: CoordinatorServiceClient::new(channel) })
    }

    /// Submits a saga, again and again until it has ended: the same gid and content is the same saga.
    pub(super) async fn submit(
        mut self,
        mut saga: SubmitTransactionRequest,
    ) -> anyhow::Result<TransactionResult> {
        saga.wait_for = WaitFor::Ended.into();
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let mut request = Request::new(saga.clone());
            request.set_timeout(CALL);
            match self.service.submit_transaction(request).await {
                Ok(response) => match response.into_inner().result {
                    Some(result) if result.ended => return Ok(result),
                    _ => {}
                },
                Err(status) if is_passing(&status) => {}
                Err(status) => return Err(status).context("submit the saga"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("see the saga's end within {} s", PATIENCE.as_secs())
    }

    /// Returns a transaction; `None` if it was never begun.
    pub(super) async fn find(&mut self, gid: &str) -> anyhow::Result<Option<Transaction>> {
        let key = Some(Key::Gid(gid.to_owned()));
        let mut request = Request::new(GetTransactionRequest { key, ..Default::default() });
        request.set_timeout(CALL);
        match self.service.get_transaction(request).await {
            Ok(response) => Ok(response.into_inner().transaction),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status).with_context(|| format!("read the transaction {gid}")),
        }
    }
}

/// Tells whether a call may succeed once the coordinator is there again.
fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
    )
}
