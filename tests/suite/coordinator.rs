//! A whole coordinator, through its gRPC services.

use std::net::SocketAddr;
use std::sync::Arc;

use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimo_coordinator::config::{DatabaseUrl, Period};
use unanimo_coordinator::coordinator::StartError;
use unanimo_coordinator::env::{Env, SystemEnv};
use unanimo_coordinator::store;
use unanimo_coordinator::{Builder, Config, Running};
use unanimo_core::ParticipantName;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::operator_service_client::OperatorServiceClient;
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_proto::v1::{
    BranchSpec, GetServerInfoRequest, GetTransactionRequest, Mode, SubmitTransactionRequest,
    Transaction, TransactionResult, get_transaction_request,
};
use unanimo_tests::postgres::Server;
use unanimo_tests::reaper::run_folder;
use unanimo_tests::scripted::Scripted;
use unanimo_tests::wait::until;

pub(crate) mod acts;
mod admission;
mod bad_input;
mod by_gid;
mod calls;
mod clocks;
mod databases;
mod declarative;
mod deploy;
mod durability;
mod events;
mod failover;
mod features;
pub(crate) mod grpc_web;
mod held;
mod histories;
mod hostile_histories;
mod hostile_json;
pub(crate) mod http;
mod interactive;
pub(crate) mod json_participants;
mod late_votes;
mod lives;
mod memory;
mod operators;
mod over_http;
mod pages;
mod pages_for_people;
mod participants;
mod patience;
mod payloads;
mod places;
pub(crate) mod process;
mod purge_clocks;
mod queries;
mod readers;
mod reasons;
mod recovery;
mod registrations;
mod repetitions;
mod replies;
mod sagas;
mod scrapes;
mod statistics;
mod stopping;
mod traces;
pub(crate) mod unreadable;
pub(crate) mod uploads;
mod versions;
mod waits;
mod watches;
pub(crate) mod webhooks;
mod went_back;
mod why;

/// Quick pauses and free ports.
pub(crate) fn config(database_url: &str) -> Config {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    Config {
        node: "one".parse().unwrap(),
        database_url: DatabaseUrl::new(database_url),
        listen: any,
        admin_listen: any,
        prepare_backoff: Period::millis(5),
        phase_two_backoff: Period::millis(5),
        phase_two_backoff_max: Period::millis(200),
        lease: Period::secs(2),
        ..Config::default()
    }
}

pub(crate) fn sqlite_url() -> String {
    format!("sqlite:{}/{}.db", run_folder().display(), uuid::Uuid::new_v4())
}

/// A coordinator with one participant, `p`, in its process.
pub(crate) struct World {
    pub(crate) running: Running,
    pub(crate) p: Scripted,
    pub(crate) channel: Channel,
    pub(crate) config: Config,
}

impl World {
    pub(crate) async fn postgres() -> Self {
        Self::start(config(&Server::shared().database().await)).await
    }

    pub(crate) async fn sqlite() -> Self {
        Self::start(config(&sqlite_url())).await
    }

    pub(crate) async fn start(config: Config) -> Self {
        Self::start_with(config, Scripted::default()).await
    }

    pub(crate) async fn start_with(config: Config, p: Scripted) -> Self {
        Self::start_at(config, p, Arc::new(SystemEnv)).await
    }

    /// Starts without a participant.
    pub(crate) async fn without_participants(config: Config) -> Self {
        let running = Builder::new(config.clone()).start().await.unwrap();
        let channel = channel(&running);
        Self { running, p: Scripted::default(), channel, config }
    }

    /// Starts at another time of day.
    pub(crate) async fn start_at(config: Config, p: Scripted, env: Arc<dyn Env>) -> Self {
        assert_eq!(config.violations(), []);
        let name = ParticipantName::new("p").unwrap();
        // The tasks of an earlier life let go of the file's lock a moment after it.
        let running = until("the database to be free", async || {
            let builder =
                Builder::new(config.clone()).participant(name.clone(), Arc::new(p.clone()));
            match builder.env(Arc::clone(&env)).start().await {
                Err(StartError::Store(store::Error::InUse { .. })) => None,
                started => Some(started.unwrap()),
            }
        })
        .await;
        let channel = channel(&running);
        Self { running, p, channel, config }
    }

    /// Starts in a task of its own: it may have to wait.
    pub(crate) fn spawn(config: Config, p: Scripted) -> tokio::task::JoinHandle<Self> {
        let name = ParticipantName::new("p").unwrap();
        let builder = Builder::new(config.clone()).participant(name, Arc::new(p.clone()));
        tokio::spawn(async move {
            let running = builder.start().await.unwrap();
            Self { channel: channel(&running), running, p, config }
        })
    }

    /// The process dies, and another one starts on the same database.
    pub(crate) async fn crash_and_restart(self) -> Self {
        let Self { running, p, config, channel } = self;
        // A process that dies leaves no connection.
        drop((running, channel));
        Self::start_with(config, p).await
    }

    pub(crate) fn client(&self) -> CoordinatorServiceClient<Channel> {
        CoordinatorServiceClient::new(self.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    pub(crate) fn operator(&self) -> OperatorServiceClient<Channel> {
        OperatorServiceClient::new(self.channel.clone())
    }

    pub(crate) fn directory(&self) -> ParticipantDirectoryServiceClient<Channel> {
        ParticipantDirectoryServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn submit(
        &self,
        request: SubmitTransactionRequest,
    ) -> Result<TransactionResult, Status> {
        let response = self.client().submit_transaction(request).await?;
        Ok(response.into_inner().result.expect("an OK reply has a result"))
    }

    pub(crate) async fn get(&self, gid: &str) -> Transaction {
        let request = GetTransactionRequest {
            key: Some(get_transaction_request::Key::Gid(gid.to_owned())),
            include_outputs: true,
            include_payloads: true,
            include_timeline: true,
            ..Default::default()
        };
        self.client().get_transaction(request).await.unwrap().into_inner().transaction.unwrap()
    }

    /// The coordinator group, as the coordinator names it.
    pub(crate) async fn cluster_id(&self) -> String {
        let info = self.client().get_server_info(GetServerInfoRequest {}).await.unwrap();
        info.into_inner().cluster_id
    }

    /// Waits until the transaction is as it should be.
    pub(crate) async fn get_until(
        &self,
        gid: &str,
        what: &str,
        done: impl Fn(&Transaction) -> bool,
    ) -> Transaction {
        until(what, async || Some(self.get(gid).await).filter(&done)).await
    }
}

pub(crate) fn channel(running: &Running) -> Channel {
    let address = running.grpc_address().unwrap();
    tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .tcp_nodelay(true)
        .connect_lazy()
}

/// A branch at `p`.
pub(crate) fn branch(id: &str, action: &str) -> BranchSpec {
    BranchSpec {
        branch_id: id.into(),
        participant: "p".into(),
        action: action.into(),
        payload: unanimo_tests::payload(format!("payload of {id}").into_bytes()),
        mode: Mode::Unspecified.into(),
        ..Default::default()
    }
}

/// A TCC of branches named `a`, `b`, … with these actions.
pub(crate) fn tcc(gid: &str, actions: &[&str]) -> SubmitTransactionRequest {
    let ids = "abcdefghijklmnopqrstuvwxyz".chars().map(String::from);
    SubmitTransactionRequest {
        gid: gid.into(),
        mode: Mode::Tcc.into(),
        branches: ids.zip(actions).map(|(id, action)| branch(&id, action)).collect(),
        timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        include_outputs: true,
        ..Default::default()
    }
}

pub(crate) fn millis(millis: i64) -> Option<prost_types::Duration> {
    let nanos = i32::try_from(millis % 1000 * 1_000_000).unwrap();
    Some(prost_types::Duration { seconds: millis / 1000, nanos })
}

/// Code, reason and bad fields of an error.
#[track_caller]
pub(crate) fn describe(status: &Status) -> (Code, String, Vec<String>) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no reason in {status:?}"));
    assert_eq!(info.domain, "unanimo");
    let retryable = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
    assert_eq!(info.metadata["retryable"], retryable.to_string());
    assert_eq!(details.retry_info().is_some(), retryable);
    let fields = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    (status.code(), info.reason.clone(), fields.into_iter().map(|field| field.field).collect())
}
