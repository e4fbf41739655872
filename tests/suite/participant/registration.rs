//! A participant's registrations, as a directory sees them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use unanimo_proto::v1::participant_directory_service_server::{
    ParticipantDirectoryService, ParticipantDirectoryServiceServer,
};
use unanimo_proto::v1::{
    DeregisterEndpointRequest, DeregisterEndpointResponse, ListParticipantsRequest,
    ListParticipantsResponse, RegisterEndpointRequest, RegisterEndpointResponse,
};
use unanimo_sdk::{Participant, Serve, Sqlite};
use unanimo_testing::Coordinator;
use unanimo_tests::alarms::Alarms;
use unanimo_tests::reaper;
use uuid::Uuid;

use super::databases::{Database, MySql, OverTokio, Postgres};
use super::sweeper::Reserve;

#[derive(Clone, Default)]
pub(super) struct Directory {
    registered: Arc<Mutex<Vec<RegisterEndpointRequest>>>,
    deregistered: Arc<Mutex<Vec<DeregisterEndpointRequest>>>,
}

impl Directory {
    /// Serves it for whoever has this token.
    pub(super) async fn serve_guarded(&self, token: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let guard = move |request: Request<()>| match request.metadata().get("authorization") {
            Some(given) if given == token => Ok(request),
            _ => Err(Status::unauthenticated("who are you?")),
        };
        let service = ParticipantDirectoryServiceServer::with_interceptor(self.clone(), guard);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        format!("http://{address}")
    }

    pub(super) async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = ParticipantDirectoryServiceServer::new(self.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        format!("http://{address}")
    }

    pub(super) fn registered(&self) -> Vec<RegisterEndpointRequest> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn deregistered(&self) -> Vec<DeregisterEndpointRequest> {
        self.deregistered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[tonic::async_trait]
impl ParticipantDirectoryService for Directory {
    async fn register_endpoint(
        &self,
        request: Request<RegisterEndpointRequest>,
    ) -> Result<Response<RegisterEndpointResponse>, Status> {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        registered.push(request.into_inner());
        let interval = prost_types::Duration { seconds: 0, nanos: 20_000_000 };
        let keep_alive_interval = Some(interval);
        Ok(Response::new(RegisterEndpointResponse { keep_alive_interval, cluster_id: "c".into() }))
    }

    async fn deregister_endpoint(
        &self,
        request: Request<DeregisterEndpointRequest>,
    ) -> Result<Response<DeregisterEndpointResponse>, Status> {
        let mut deregistered = self.deregistered.lock().unwrap_or_else(PoisonError::into_inner);
        deregistered.push(request.into_inner());
        Ok(Response::new(DeregisterEndpointResponse {}))
    }

    async fn list_participants(
        &self,
        _: Request<ListParticipantsRequest>,
    ) -> Result<Response<ListParticipantsResponse>, Status> {
        Err(Status::unimplemented("nobody lists here"))
    }
}

/// One life of a process has one instance id, whichever group hears it.
#[tokio::test]
async fn a_registration_tells_features_sdk_and_the_life_of_the_process() {
    let [one, other] = [Directory::default(), Directory::default()];
    let (at_one, at_other) = (one.serve().await, other.serve().await);
    let mut instances = Vec::new();
    for life in 1..=2 {
        let file = reaper::run_folder().join(format!("{}.db", Uuid::now_v7()));
        let serve = Serve::on("127.0.0.1:0").register_with(&at_one).register_with(&at_other);
        let participant =
            Participant::new("p", Sqlite::open(&file).await.unwrap()).tcc("ok", Reserve);
        let mut serving = participant.serve(serve.without_sweep()).await.unwrap();
        serving.registered().await.unwrap();
        // Registered again, as the same.
        tokio::time::sleep(Duration::from_millis(100)).await;
        serving.stop().await.unwrap();
        let mut seen = [one.registered(), other.registered()].concat();
        seen.retain(|request| !instances.contains(&request.instance_id));
        let RegisterEndpointRequest { instance_id, sdk, features, .. } = seen[0].clone();
        assert!(seen.len() > 2 && seen.iter().all(|again| again == &seen[0]), "{seen:?}");
        assert!(Uuid::parse_str(&instance_id).is_ok(), "{instance_id}");
        assert!(sdk.starts_with("unanimo-sdk-rust/"), "{sdk}");
        let known =
            ["must_succeed", "output_bytes_max", "saga", "step_inputs", "tcc", "two_phase_commit"];
        assert_eq!(features, known);
        for directory in [&one, &other] {
            let last = directory.deregistered().pop().unwrap();
            assert_eq!(
                (last.instance_id, directory.deregistered().len()),
                (instance_id.clone(), life)
            );
        }
        instances.push(instance_id);
    }
    assert_ne!(instances[0], instances[1]);
}

/// Lines of the log.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Takes the lines of this thread until the guard is dropped.
    pub(crate) fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false);
        let subscriber = subscriber.with_writer(move || writer.clone()).finish();
        (lines, unanimo_tests::alarms::hear(subscriber))
    }

    pub(crate) fn of(&self, alarm: &str) -> Vec<String> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().filter(|line| line.contains(alarm)).map(str::to_owned).collect()
    }
}

/// A coordinator on another database, or on a copy, is another group. That is told at once, not by the
/// sweeper two minutes later.
#[tokio::test]
async fn s12_rows_of_another_group_raise_an_alarm_at_the_registration() {
    rows_of_another_group_raise_an_alarm::<Sqlite>("", "").await;
    rows_of_another_group_raise_an_alarm::<Postgres>("", "").await;
    rows_of_another_group_raise_an_alarm::<OverTokio>("", "").await;
    let more = ", output, reason, message, created_at, changed_at";
    let values = ", '', '', '', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)";
    rows_of_another_group_raise_an_alarm::<MySql>(more, values).await;
}

async fn rows_of_another_group_raise_an_alarm<D: Database>(more: &str, values: &str) {
    let (lines, _listening) = Lines::listen();
    let (database, pool) = D::open().await;
    for (cluster_id, participant, state, rows) in [
        ("c", "p", "prepared", 1),
        ("was", "p", "committed", 3),
        ("was", "p", "prepared", 2),
        ("theirs", "another", "prepared", 1),
    ] {
        for _ in 0..rows {
            let tx_id = Uuid::now_v7();
            let insert = format!(
                "INSERT INTO unanimo_barrier
                     (tx_id, branch_id, cluster_id, participant, gid, action, mode, state{more})
                 VALUES ('{tx_id}', 'a', '{cluster_id}', '{participant}', 'g', 'ok', 'tcc', '{state}'{values})"
            );
            D::run_outside(&pool, insert).await;
        }
    }
    let directory = Directory::default();
    let serve = Serve::on("127.0.0.1:0").register_with(directory.serve().await);
    let participant = Participant::new("p", database).tcc("ok", Reserve);
    let mut serving = participant.serve(serve.without_sweep()).await.unwrap();
    serving.registered().await.unwrap();
    let told = unanimo_tests::wait::until("the alarm", async || {
        Some(lines.of("other_cluster")).filter(|lines| !lines.is_empty())
    })
    .await;
    for part in ["ERROR", "cluster_id=\"was\"", "registered_with=\"c\"", "rows=5", "in_doubt=2"] {
        assert!(told[0].contains(part), "no {part} in {}", told[0]);
    }
    // It is told once, and not at each registration.
    unanimo_tests::wait::until("more registrations", async || {
        (directory.registered().len() > 5).then_some(())
    })
    .await;
    assert_eq!(lines.of("other_cluster").len(), 1);
    serving.stop().await.unwrap();
}

/// A participant that knows no coordinator looks after nothing, and says so at its start.
#[tokio::test]
async fn a_participant_without_a_coordinator_says_that_nothing_is_purged() {
    // More listeners than one, for `tracing` (see there).
    let (_alarms, _second) = Alarms::listen();
    let (lines, _listening) = Lines::listen();
    let coordinator = Coordinator::start().await.unwrap();
    let serve = || Serve::on("127.0.0.1:0");
    for (serve, told) in [
        (serve(), true),
        (serve().without_sweep(), false),
        (serve().ask(coordinator.endpoint()), false),
    ] {
        let before = lines.of("no coordinator is named").len();
        let file = reaper::run_folder().join(format!("{}.db", Uuid::now_v7()));
        let participant = Participant::new("p", Sqlite::open(&file).await.unwrap());
        let serving = participant.tcc("ok", Reserve).serve(serve).await.unwrap();
        let lines = lines.of("no coordinator is named");
        assert_eq!(lines.len() - before, usize::from(told), "{lines:?}");
        if told {
            let line = &lines[before];
            assert!(
                line.contains(" WARN ") && line.contains("barrier rows are kept for ever"),
                "{line}"
            );
            assert!(serving.in_doubt().is_none());
        }
        serving.stop().await.unwrap();
    }
    coordinator.stop().await.unwrap();
}

/// Groups of coordinators that are only asked are its own, too.
#[tokio::test]
async fn s12_rows_of_a_group_that_is_asked_raise_no_alarm() {
    let (alarms, _listening) = Alarms::listen();
    let coordinator = Coordinator::start().await.unwrap();
    let asked = coordinator.client().unwrap().server_info().await.unwrap().cluster_id;
    let file = reaper::run_folder().join(format!("{}.db", Uuid::now_v7()));
    let database = Sqlite::open(&file).await.unwrap();
    let raw = sqlx::SqlitePool::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    for cluster_id in [asked.as_str(), "was"] {
        sqlx::query(
            "INSERT INTO unanimo_barrier
                 (tx_id, branch_id, cluster_id, participant, gid, action, mode, state)
             VALUES ($1, 'a', $2, 'p', 'g', 'ok', 'tcc', 'committed')",
        )
        .bind(Uuid::now_v7().to_string())
        .bind(cluster_id)
        .execute(&raw)
        .await
        .unwrap();
    }
    let serve = || Serve::on("127.0.0.1:0").ask(coordinator.endpoint()).without_sweep();
    let participant = || Participant::new("p", database.clone()).tcc("ok", Reserve);
    let directory = Directory::default();
    let both = serve().register_with(directory.serve().await);
    for (number, serve) in [serve(), both].into_iter().enumerate() {
        let serving = participant().serve(serve).await.unwrap();
        let told = unanimo_tests::wait::until("the alarm", async || {
            Some(alarms.named("other_cluster")).filter(|lines| lines.len() > number)
        })
        .await;
        serving.stop().await.unwrap();
        assert_eq!(told.len(), number + 1, "{told:?}");
        let told = &told[number];
        assert!(told.contains("cluster_id=\"was\"") && told.contains(&asked), "{told}");
    }
    coordinator.stop().await.unwrap();
}
