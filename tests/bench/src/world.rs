//! Coordinator, and participants that vote PREPARED at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server as GrpcServer};
use tonic::{Request, Response, Status, async_trait};
use unanimo_coordinator::config::{DatabaseUrl, History, Period};
use unanimo_coordinator::engine::{Answer, Until};
use unanimo_coordinator::store::Retention;
use unanimo_coordinator::{Builder, Config, Running};
use unanimo_core::{
    ActionName, BranchId, BranchSpec, Definition, Drive, Gid, Mode, Outcome, ParticipantName,
    RecordPolicy, StepSpec, TraceContext,
};
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use unanimo_proto::v1::{self, SubmitTransactionRequest};
use unanimo_tests::postgres::Server;

use crate::load::{self, Measured};
use crate::tls::Certificates;

const BRANCHES: [&str; 2] = ["a", "b"];

/// Longest time of a transaction.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub(crate) struct Willing;

#[async_trait]
impl ParticipantService for Willing {
    async fn prepare(
        &self,
        _: Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::PrepareResponse>, Status> {
        let answer = v1::prepare_response::Answer::Prepared(v1::Prepared::default());
        Ok(Response::new(v1::PrepareResponse { answer: Some(answer), ..Default::default() }))
    }

    async fn commit(
        &self,
        _: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        let answer = v1::commit_response::Answer::Done(v1::Done {});
        Ok(Response::new(v1::CommitResponse { answer: Some(answer) }))
    }

    async fn cancel(
        &self,
        _: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let answer = v1::cancel_response::Answer::Done(v1::Done {});
        Ok(Response::new(v1::CancelResponse { answer: Some(answer) }))
    }
}

pub(crate) struct World {
    running: Running,
    gids: Arc<AtomicU64>,
    /// Certificates of all connections; `None` without TLS.
    certificates: Option<Certificates>,
}

impl World {
    /// Starts a world with participants over the network.
    pub(crate) async fn over_grpc(server: &Server) -> Result<Self> {
        Self::over_network(config(server).await, None, "").await
    }

    /// Starts the same with TLS on each connection, and certificates of both ends.
    pub(crate) async fn over_tls(server: &Server) -> Result<Self> {
        let certificates = Certificates::new()?;
        let config = certificates.configure(config(server).await)?;
        Self::over_network(config, Some(certificates), "").await
    }

    /// Starts a coordinator of this configuration, with participants over the network whose names have this prefix.
    pub(crate) async fn over_network(
        mut config: Config,
        certificates: Option<Certificates>,
        prefix: &str,
    ) -> Result<Self> {
        for name in BRANCHES {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let router = GrpcServer::builder().add_service(ParticipantServiceServer::new(Willing));
            let endpoint = match &certificates {
                None => {
                    tokio::spawn(router.serve_with_incoming(incoming));
                    format!("http://{address}")
                }
                Some(certificates) => {
                    let handshakes = certificates.server()?.grpc(incoming);
                    tokio::spawn(router.serve_with_incoming(handshakes));
                    format!("https://{address}")
                }
            };
            let name = ParticipantName::full(&format!("{prefix}{name}"))?;
            config.participants.insert(name, vec![endpoint]);
        }
        let running = Builder::new(config).start().await?;
        Ok(Self { running, gids: Arc::default(), certificates })
    }

    /// Tells whether a client without TLS is not served.
    pub(crate) async fn refuses_plaintext(&self) -> Result<bool> {
        let address = self.running.grpc_address().context("it serves gRPC")?;
        let channel = Channel::from_shared(format!("http://{address}"))?.connect_lazy();
        let mut client = CoordinatorServiceClient::new(channel);
        Ok(client.get_server_info(v1::GetServerInfoRequest::default()).await.is_err())
    }

    /// Connects a client, by TLS where there are certificates.
    async fn connect(&self) -> Result<Channel> {
        let address = self.running.grpc_address().context("it serves gRPC")?;
        let nodelay = |endpoint: Endpoint| endpoint.tcp_nodelay(true);
        match &self.certificates {
            None => {
                let endpoint = Channel::from_shared(format!("http://{address}"))?;
                Ok(nodelay(endpoint).connect().await?)
            }
            Some(certificates) => {
                Ok(certificates.client()?.lazy(&format!("https://{address}"), nodelay)?)
            }
        }
    }

    /// Starts a world with participants in the coordinator's process.
    pub(crate) async fn embedded(server: &Server) -> Result<Self> {
        Self::in_process(config(server).await).await
    }

    /// Starts the same, in which no history of sagas is recorded.
    pub(crate) async fn without_history(server: &Server) -> Result<Self> {
        Self::in_process(Config { history: History(RecordPolicy::None), ..config(server).await })
            .await
    }

    /// Starts a world with participants in the coordinator's process, on this database.
    pub(crate) async fn on(url: &str, retention: Retention) -> Result<Self> {
        Self::in_process(config_on(url, retention)).await
    }

    async fn in_process(config: Config) -> Result<Self> {
        Self::of(Self::embed(Builder::new(config).without_network()).await?)
    }

    /// Starts a coordinator with participants in its process.
    pub(crate) async fn embed(mut builder: Builder) -> Result<Running> {
        for name in BRANCHES {
            builder = builder.participant(ParticipantName::new(name)?, Arc::new(Willing));
        }
        Ok(builder.start().await?)
    }

    /// Makes a world of a coordinator, in which nobody else has begun anything at this time.
    pub(crate) fn of(running: Running) -> Result<Self> {
        let first = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_micros();
        let gids = Arc::new(AtomicU64::new(u64::try_from(first)?));
        Ok(Self { running, gids, certificates: None })
    }

    pub(crate) fn running(&self) -> &Running {
        &self.running
    }

    /// Measures transactions that are submitted by gRPC on one connection.
    pub(crate) async fn submit(
        &self,
        shape: Shape,
        in_flight: usize,
        time: Duration,
    ) -> Result<Measured> {
        let client = CoordinatorServiceClient::new(self.connect().await?);
        let worker = || {
            let (client, gids) = (client.clone(), Arc::clone(&self.gids));
            move || {
                let (mut client, gid) = (client.clone(), next(&gids));
                async move {
                    let request = request(gid, shape);
                    let result = client.submit_transaction(request).await?.into_inner().result;
                    let outcome = result.context("a result")?.outcome();
                    ensure!(outcome == v1::Outcome::Committed, "{outcome:?}");
                    Ok(())
                }
            }
        };
        load::run((0..in_flight).map(|_| worker()), time).await
    }

    /// Measures transactions that are begun through the library.
    pub(crate) async fn begin(
        &self,
        shape: Shape,
        in_flight: usize,
        time: Duration,
    ) -> Result<Measured> {
        let worker = || {
            let (engine, gids) = (self.running.engine().clone(), Arc::clone(&self.gids));
            move || {
                let (engine, gid) = (engine.clone(), next(&gids));
                async move {
                    let definition = definition(&gid, shape)?;
                    let deadline = Instant::now() + PATIENCE;
                    let answer = engine.begin(definition, Until::Decided, deadline).await?;
                    let Answer::View(view) = answer else { anyhow::bail!("not decided") };
                    ensure!(view.tx.outcome() == Outcome::Committed, "{:?}", view.tx.outcome());
                    Ok(())
                }
            }
        };
        load::run((0..in_flight).map(|_| worker()), time).await
    }

    /// Begins one, and waits until it is committed.
    pub(crate) async fn one(&self) -> Result<()> {
        let definition = definition(&next(&self.gids), Shape::Tcc)?;
        let deadline = Instant::now() + PATIENCE;
        let answer = self.running.engine().begin(definition, Until::Decided, deadline).await?;
        let Answer::View(view) = answer else { anyhow::bail!("not decided") };
        ensure!(view.tx.outcome() == Outcome::Committed, "{:?}", view.tx.outcome());
        Ok(())
    }

    pub(crate) async fn stop(self) {
        // The figures are complete: an error of the stop does not matter.
        let _ = self.running.stop().await;
    }
}

fn next(gids: &AtomicU64) -> String {
    format!("bench-{}", gids.fetch_add(1, Ordering::Relaxed))
}

/// Returns the settings of a coordinator on this database.
pub(crate) fn config_on(url: &str, retention: Retention) -> Config {
    Config {
        retention: Period::secs(retention.details.as_secs()),
        gid_retention: Period::secs(retention.gids.as_secs()),
        ..config_of(url.to_owned())
    }
}

/// Returns the settings of a coordinator on a new database.
pub(crate) async fn config(server: &Server) -> Config {
    config_of(server.database().await)
}

fn config_of(url: String) -> Config {
    let any = ([127, 0, 0, 1], 0).into();
    Config {
        database_url: DatabaseUrl::new(url),
        listen: any,
        admin_listen: any,
        ..Config::default()
    }
}

/// Kind of transaction that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// TCC with two branches.
    Tcc,
    /// A saga in which the second of two steps depends on the first.
    Saga,
}

/// Makes a request for a transaction with a branch at each participant.
pub(crate) fn request(gid: String, shape: Shape) -> SubmitTransactionRequest {
    let (mode, depends) = match shape {
        Shape::Tcc => (v1::Mode::Tcc, false),
        Shape::Saga => (v1::Mode::Saga, true),
    };
    let before = |name: &str| match depends && name != BRANCHES[0] {
        true => vec![BRANCHES[0].to_owned()],
        false => Vec::new(),
    };
    let branches = BRANCHES.map(|name| v1::BranchSpec {
        branch_id: name.to_owned(),
        participant: name.to_owned(),
        action: "try".to_owned(),
        payload: Some(v1::Payload {
            data: Bytes::from_static(b"ten euros"),
            media_type: String::new(),
        }),
        mode: v1::Mode::Unspecified.into(),
        depends_on: before(name),
        ..Default::default()
    });
    SubmitTransactionRequest {
        gid,
        mode: mode.into(),
        branches: branches.into(),
        ..Default::default()
    }
}

pub(crate) fn definition(gid: &str, shape: Shape) -> Result<Definition> {
    let mode = match shape {
        Shape::Tcc => Mode::Tcc,
        Shape::Saga => Mode::Saga,
    };
    let branch = |name: &str| {
        let mut step = StepSpec::default();
        if mode == Mode::Saga && name != BRANCHES[0] {
            step.depends_on = vec![BranchId::new(BRANCHES[0])?];
        }
        Ok(BranchSpec {
            branch_id: BranchId::new(name)?,
            participant: ParticipantName::new(name)?,
            action: ActionName::new("try")?,
            payload: Bytes::from_static(b"ten euros").into(),
            mode,
            step,
        })
    };
    Ok(Definition {
        gid: Gid::new(gid)?,
        mode,
        drive: Drive::Declarative,
        branches: BRANCHES.into_iter().map(branch).collect::<Result<_>>()?,
        timeout: None,
        start: Default::default(),
        locks: Vec::new(),
        parent: None,
        children: Vec::new(),
        metadata: Default::default(),
        trace: TraceContext::default(),
        initiator: String::new(),
    })
}
