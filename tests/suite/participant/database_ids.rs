//! Two databases under one participant's name: only one of them does work.

use tonic::Code;
use unanimo_proto::v1::{HeuristicKind, Mode, cancel_response, commit_response, prepare_response};
use unanimo_sdk::{MySql, Participant, Postgres, Resource, Serve, Service, Sqlite, Tcc};
use unanimo_testing::Coordinator;
use unanimo_tests::alarms::Alarms;
use unanimo_tests::wait::until;

use super::databases::Database;
use super::direct::{Branch, branch};
use super::sweeper::Reserve;

async fn service<D: Database>() -> (Service<D>, D::Pool)
where
    Reserve: Tcc<D>,
{
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

async fn works_for_its_own_database_only<D: Database>()
where
    Reserve: Tcc<D>,
{
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
    first.stop().await;
    second.registered().await.unwrap();
    let draft = client.tcc("g").branch("a", "p", "ok", bytes::Bytes::from("x"));
    assert!(draft.submit().await.unwrap().is_committed());
    assert_eq!(Sqlite::number(&pool_other, rows()).await, 1);
    second.stop().await;
    coordinator.stop().await.unwrap();
}
