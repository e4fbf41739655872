//! Transactions that need a person: all of one participant, which takes no Commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, async_trait};
use unanimo_coordinator::config::Period;
use unanimo_coordinator::{Builder, Config, Running};
use unanimo_core::ParticipantName;
use unanimo_proto::v1;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::participant_service_server::ParticipantService;

use super::{Page, page};
use crate::world::{Shape, Willing, request};

/// Number of those that need a person.
pub(super) const COUNT: usize = 5_000;

/// Participant of their branches.
const NAME: &str = "busy";

/// Those that are begun at once.
const IN_FLIGHT: usize = 64;

/// Longest wait for all alarms.
const PATIENCE: Duration = Duration::from_secs(300);

/// Says yes, and then that it works on the Commit: it is asked again after the coordinator's backoff.
#[derive(Clone, Debug)]
struct Busy;

#[async_trait]
impl ParticipantService for Busy {
    async fn prepare(
        &self,
        request: Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::PrepareResponse>, Status> {
        Willing.prepare(request).await
    }

    async fn commit(
        &self,
        _: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        let answer = Some(v1::commit_response::Answer::Working(v1::Working::default()));
        Ok(Response::new(v1::CommitResponse { answer }))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        Willing.cancel(request).await
    }
}

/// Returns a coordinator with the participant, whose transactions soon need a person.
pub(super) fn builder(config: Config) -> Result<Builder> {
    let config = Config {
        stalled_after: Period::millis(100),
        phase_two_backoff: Period::secs(3_600),
        phase_two_backoff_max: Period::secs(3_600),
        ..config
    };
    Ok(Builder::new(config).participant(ParticipantName::new(NAME)?, Arc::new(Busy)))
}

/// Begins them, and waits until each needs a person.
pub(super) async fn begin(running: &Running) -> Result<()> {
    let address = running.grpc_address().context("it serves gRPC")?;
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let client = CoordinatorServiceClient::new(channel);
    let numbers: Vec<usize> = (0..COUNT).collect();
    for some in numbers.chunks(IN_FLIGHT) {
        let mut submits = JoinSet::new();
        for number in some {
            let mut request = request(format!("troubled-{number}"), Shape::Tcc);
            request.branches[0].participant = NAME.to_owned();
            let mut client = client.clone();
            submits.spawn(async move { client.submit_transaction(request).await.map(drop) });
        }
        submits.join_all().await.into_iter().collect::<Result<(), _>>()?;
    }
    let began = Instant::now();
    let mut client = client;
    loop {
        let request = v1::ListTransactionsRequest {
            page_size: 1,
            include_counts: true,
            ..Default::default()
        };
        let counts = client.list_transactions(request).await?.into_inner().counts;
        let stalled = counts.context("it counts")?.stalled_count;
        if stalled == COUNT as u64 {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{stalled} of {COUNT} need a person");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Returns the pages about them, and those that must not suffer from them.
pub(super) fn pages() -> Vec<Page> {
    let all = format!("<strong>{COUNT}</strong> transactions");
    let of_all = format!("participant={NAME}&gidPrefix=troubled-");
    vec![
        page("Overview", "/", "Needs a person"),
        page("Attention", "/attention", "troubled-"),
        page("Attention: retry many", "/attention/retry", &all),
        page("Attention: retry many, by a filter", &format!("/attention/retry?{of_all}"), &all),
        page("Attention: resolve many", &format!("/attention/resolve?{of_all}"), &all),
        page("Attention: forget many", "/attention/forget", "No transaction matches"),
        page(
            "Attention: retry many, of no participant",
            "/attention/retry?participant=nobody",
            "No transaction matches",
        ),
        page("Transactions: those that need a person", "/transactions?attention=true", "troubled-"),
        page("Transactions", "/transactions", "troubled-"),
        page("Participants", "/participants", NAME),
        page("API: counts", "/v1/transactions?pageSize=1&includeCounts=true", "stalledCount"),
        page("API: statistics", "/v1/statistics", "owedCount"),
    ]
}
