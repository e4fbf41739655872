//! Two databases under one participant's name: only one of them does work.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_proto::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use unanimo_proto::v1::{
    BranchContext, CancelRequest, CancelResponse, CommitRequest, CommitResponse,
    DeregisterEndpointRequest, Done, HeuristicKind, Mode, PrepareRequest, PrepareResponse,
    Prepared, Refusal, RegisterEndpointRequest, Working, cancel_response, commit_response,
    prepare_response,
};
use unanimo_sdk::{MySql, Participant, Postgres, Resource, Serve, Service, Sqlite};
use unanimo_testing::Coordinator;
use unanimo_tests::alarms::Alarms;
use unanimo_tests::wait::until;

use super::databases::{Database, OverTokio};
use super::direct::{Branch, branch};
use super::sweeper::Reserve;

async fn service<D: Database>() -> (Service<D>, D::Pool) {
    let (database, pool) = D::open().await;
    (Participant::new("p", database).tcc("ok", Reserve).service().unwrap(), pool)
}

/// The id that a vote of this service carries.
async fn id<D: Resource>(service: &Service<D>) -> String {
    use unanimo_proto::v1::participant_service_server::ParticipantService;
    let of = branch(Mode::Tcc, "ok");
    let request = unanimo_proto::v1::PrepareRequest {
        context: Some(of.context),
        action: of.action,
        ..Default::default()
    };
    service.prepare(tonic::Request::new(request)).await.unwrap().into_inner().database_id
}

async fn works_for_its_own_database_only<D: Database>() {
    let ((one, pool), (other, _other_pool)) = (service::<D>().await, service::<D>().await);
    let (id_one, id_other) = (id(&one).await, id(&other).await);
    assert!(!id_one.is_empty() && id_one != id_other, "{id_one} {id_other}");
    assert_eq!(id(&one).await, id_one, "it stays");
    let of = |id: &str| {
        let mut branch = Branch { payload: "x".into(), ..branch(Mode::Tcc, "ok") };
        branch.context.database_id = id.to_owned();
        branch
    };
    let own = of(&id_one);
    assert!(matches!(own.prepare(&one).await, Ok(prepare_response::Answer::Prepared(_))));
    // It reaches the other one by mistake.
    assert_eq!(own.prepare(&other).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(own.cancel(&other).await.unwrap_err().code(), Code::FailedPrecondition);
    let commit_response::Answer::Heuristic(outcome) = own.commit(&other).await.unwrap() else {
        panic!("S11: a hazard")
    };
    assert_eq!(outcome.kind(), HeuristicKind::Hazard);
    assert!(outcome.note.contains(&id_one) && outcome.note.contains(&id_other), "{}", outcome.note);
    assert!(matches!(own.commit(&one).await, Ok(commit_response::Answer::Done(_))));
    let undone = of("");
    assert!(matches!(undone.cancel(&one).await, Ok(cancel_response::Answer::Done(_))));
    let rows = "SELECT count(*) FROM unanimo_barrier_id".to_owned();
    assert_eq!(D::number(&pool, rows).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s11_an_operation_for_another_database_does_no_work() {
    works_for_its_own_database_only::<Postgres>().await;
    works_for_its_own_database_only::<OverTokio>().await;
    works_for_its_own_database_only::<MySql>().await;
    works_for_its_own_database_only::<Sqlite>().await;
}

/// The second process is refused while the first one lives, and takes its place afterwards.
#[tokio::test]
async fn s2_a_second_database_of_a_living_name_gets_no_work() {
    let (alarms, _listening) = Alarms::listen();
    let coordinator = Coordinator::start().await.unwrap();
    let serve = || Serve::on("127.0.0.1:0").register_with(coordinator.endpoint()).without_sweep();
    let ((one, pool_one), (other, pool_other)) =
        (service::<Sqlite>().await, service::<Sqlite>().await);
    let mut first = one.serve(serve()).await.unwrap();
    first.registered().await.unwrap();
    let mut second = other.serve(serve()).await.unwrap();
    until("the refusal", async || {
        (!alarms.named("participant_other_database").is_empty()).then_some(())
    })
    .await;
    let client = coordinator.client().unwrap();
    for n in 0..6 {
        let draft = client.tcc(format!("g{n}")).branch("a", "p", "ok", bytes::Bytes::from("x"));
        let outcome = draft.wait_until_ended().submit().await.unwrap();
        assert!(outcome.is_committed(), "{outcome:?}");
    }
    let rows = || "SELECT count(*) FROM unanimo_barrier".to_owned();
    assert_eq!(Sqlite::number(&pool_one, rows()).await, 6);
    assert_eq!(Sqlite::number(&pool_other, rows()).await, 0, "S2");
    first.stop().await.unwrap();
    until("the second to be taken", async || second.registered().await.ok()).await;
    let draft = client.tcc("g").branch("a", "p", "ok", bytes::Bytes::from("x"));
    assert!(draft.submit().await.unwrap().is_committed());
    assert_eq!(Sqlite::number(&pool_other, rows()).await, 1);
    second.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

/// A participant that votes in a database of this id, and notes the ids that Commits and Cancels carry.
#[derive(Clone, Default)]
struct Scripted {
    votes_in: Arc<Mutex<&'static str>>,
    /// Commits and Cancels are answered.
    ends: Arc<Mutex<bool>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = ParticipantServiceServer::new(self.clone());
        let incoming = TcpIncoming::from(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        endpoint
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ended(&self, context: Option<BranchContext>) -> Result<(), Status> {
        let id = context.unwrap_or_default().database_id;
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        let ends = *self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends { Ok(()) } else { Err(Status::unavailable("not yet")) }
    }
}

#[tonic::async_trait]
impl ParticipantService for Scripted {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        use prepare_response::Answer;
        let answer = match request.into_inner().action.as_str() {
            "no" => Answer::Refused(Refusal { reason: "NO".into(), message: String::new() }),
            "slow" => Answer::Working(Working::default()),
            _ => Answer::Prepared(Prepared::default()),
        };
        let database_id =
            (*self.votes_in.lock().unwrap_or_else(PoisonError::into_inner)).to_owned();
        Ok(Response::new(PrepareResponse { answer: Some(answer), database_id }))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        self.ended(request.into_inner().context)?;
        let answer = Some(commit_response::Answer::Done(Done {}));
        Ok(Response::new(CommitResponse { answer }))
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        self.ended(request.into_inner().context)?;
        let answer = Some(cancel_response::Answer::Done(Done {}));
        Ok(Response::new(CancelResponse { answer }))
    }
}

/// Registers a process of participant `p`.
async fn register(at: &Coordinator, endpoint: &str, life: &str, id: &str) -> Result<(), Status> {
    let mut client = ParticipantDirectoryServiceClient::connect(at.endpoint()).await.unwrap();
    let request = RegisterEndpointRequest {
        participant: "p".into(),
        endpoint: endpoint.to_owned(),
        instance_id: life.to_owned(),
        database_id: id.to_owned(),
        ..Default::default()
    };
    client.register_endpoint(request).await.map(drop)
}

async fn leave(at: &Coordinator, endpoint: &str, life: &str) {
    let mut client = ParticipantDirectoryServiceClient::connect(at.endpoint()).await.unwrap();
    let request = DeregisterEndpointRequest {
        participant: "p".into(),
        endpoint: endpoint.to_owned(),
        instance_id: life.to_owned(),
        ..Default::default()
    };
    client.deregister_endpoint(request).await.unwrap();
}

/// A Commit and a Cancel are for the database that voted, whichever the participant has when they are sent,
/// and whatever became of the coordinator in between.
#[tokio::test]
async fn s11_phase_two_carries_the_database_of_the_vote() {
    for (crashes, actions) in [(false, ["ok", "ok"]), (true, ["ok", "ok"]), (false, ["ok", "no"])] {
        let mut coordinator = Coordinator::start().await.unwrap();
        let scripted = Scripted::default();
        let endpoint = scripted.serve().await;
        *scripted.votes_in.lock().unwrap() = "one";
        register(&coordinator, &endpoint, "first", "one").await.unwrap();
        let draft = coordinator.client().unwrap().tcc("g");
        let draft = draft.branch("a", "p", actions[0], ()).branch("b", "p", actions[1], ());
        let decided = draft.submit().await.unwrap();
        assert_eq!(decided.is_committed(), actions[1] == "ok");
        until("phase two to be asked", async || (!scripted.asked().is_empty()).then_some(())).await;
        leave(&coordinator, &endpoint, "first").await;
        if crashes {
            coordinator.crash().await.unwrap();
        }
        register(&coordinator, &endpoint, "second", "two").await.unwrap();
        let before = scripted.asked().len();
        *scripted.ends.lock().unwrap() = true;
        let client = coordinator.client().unwrap();
        let draft = client.tcc("g").branch("a", "p", actions[0], ());
        let draft = draft.branch("b", "p", actions[1], ()).wait_until_ended();
        until("the end", async || {
            let ended = draft.clone().submit().await.is_ok();
            (ended && scripted.asked().len() > before).then_some(())
        })
        .await;
        let asked = scripted.asked();
        assert!(asked.iter().all(|id| id == "one"), "{crashes} {actions:?}: {asked:?}");
        coordinator.stop().await.unwrap();
    }
}

/// A branch that has never said yes is bound to no database: its Cancel is for the one that the participant
/// has by then.
#[tokio::test]
async fn l2_a_cancel_without_a_vote_follows_the_participant_to_its_new_database() {
    let coordinator = Coordinator::start().await.unwrap();
    let scripted = Scripted::default();
    let endpoint = scripted.serve().await;
    *scripted.votes_in.lock().unwrap() = "one";
    register(&coordinator, &endpoint, "first", "one").await.unwrap();
    let draft = coordinator.client().unwrap().tcc("g").timeout(std::time::Duration::from_secs(2));
    let outcome = draft.branch("a", "p", "slow", ()).submit().await.unwrap();
    assert!(!outcome.is_committed(), "{outcome:?}");
    until("a Cancel", async || (!scripted.asked().is_empty()).then_some(())).await;
    leave(&coordinator, &endpoint, "first").await;
    register(&coordinator, &endpoint, "second", "two").await.unwrap();
    until("one for the new database", async || {
        scripted.asked().iter().any(|id| id == "two").then_some(())
    })
    .await;
    *scripted.ends.lock().unwrap() = true;
    coordinator.stop().await.unwrap();
}

/// After a restart the first one that comes is not taken for the right one while another one was alive.
#[tokio::test]
async fn s2_a_second_database_is_refused_after_a_restart_too() {
    let mut coordinator = Coordinator::start().await.unwrap();
    let scripted = Scripted::default();
    let [one, other] = [scripted.serve().await, scripted.serve().await];
    register(&coordinator, &one, "life", "one").await.unwrap();
    for _ in 0..2 {
        coordinator.crash().await.unwrap();
        let refused = register(&coordinator, &other, "other", "two").await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(
            refused.message().contains("one") && refused.message().contains("two"),
            "{refused}"
        );
        *scripted.votes_in.lock().unwrap() = "two";
        let client = coordinator.client().unwrap();
        let gid = format!("g-{}", uuid::Uuid::now_v7());
        let draft = client.tcc(gid).timeout(std::time::Duration::from_secs(1));
        let outcome = draft.branch("a", "p", "ok", ()).submit().await.unwrap();
        assert!(!outcome.is_committed(), "S2: a vote of the other one is none: {outcome:?}");
    }
    // The next life of the same process, with the same database.
    register(&coordinator, &one, "next", "one").await.unwrap();
    leave(&coordinator, &one, "next").await;
    leave(&coordinator, &one, "life").await;
    register(&coordinator, &other, "other", "two").await.expect("nobody else is alive");
    coordinator.crash().await.unwrap();
    let refused = register(&coordinator, &one, "again", "one").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "the latest one stays: {refused}");
    coordinator.stop().await.unwrap();
}
