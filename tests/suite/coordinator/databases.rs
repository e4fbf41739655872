//! Databases of participants: one for each name, whoever asks, wherever it answers.

use std::time::Duration;

use tonic::{Request, Response, Status};
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, DeregisterEndpointRequest,
    EnlistBranchRequest, ListParticipantsRequest, Mode, Outcome, PrepareRequest, PrepareResponse,
    Prepared, RegisterEndpointRequest, cancel_response, prepare_response,
};
use unanimo_tests::postgres::Server;
use unanimo_tests::scripted::Scripted;

use super::{World, branch, config, describe, sqlite_url, tcc};

fn process(endpoint: &str, instance: &str, id: &str) -> RegisterEndpointRequest {
    RegisterEndpointRequest {
        participant: "bank".into(),
        endpoint: endpoint.into(),
        instance_id: instance.into(),
        database_id: id.into(),
        ..Default::default()
    }
}

async fn register(world: &World, endpoint: &str, instance: &str, id: &str) -> Result<(), Status> {
    world.directory().register_endpoint(process(endpoint, instance, id)).await.map(drop)
}

#[track_caller]
fn is_other_database(result: Result<(), Status>) {
    let status = result.unwrap_err();
    assert_eq!(describe(&status).1, "OTHER_DATABASE", "{status}");
}

/// S2: two replicas behind one address, such as a service of Kubernetes, have a database each. They register in
/// turn, and only the first one is taken, for as long as it is alive; after a restart of the coordinator, too.
#[tokio::test]
async fn s2_two_databases_behind_one_address_are_not_both_taken() {
    const BALANCER: &str = "http://127.0.0.1:9";
    for url in [sqlite_url(), Server::shared().database().await] {
        let mut config = config(&url);
        config.keep_alive_interval = Period::millis(700);
        let mut world = World::start(config).await;
        for round in 0..2 {
            for _ in 0..3 {
                register(&world, BALANCER, "first", "one").await.unwrap();
                is_other_database(register(&world, BALANCER, "second", "two").await);
                register(&world, BALANCER, "third", "one").await.unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            if round == 0 {
                world = world.crash_and_restart().await;
                is_other_database(register(&world, BALANCER, "second", "two").await);
            }
        }
        let leave = |instance: &str| DeregisterEndpointRequest {
            participant: "bank".into(),
            endpoint: BALANCER.into(),
            instance_id: instance.into(),
            ..Default::default()
        };
        world.directory().deregister_endpoint(leave("first")).await.unwrap();
        is_other_database(register(&world, BALANCER, "second", "two").await);
        world.directory().deregister_endpoint(leave("third")).await.unwrap();
        register(&world, BALANCER, "second", "two").await.expect("nobody else is alive");
        is_other_database(register(&world, BALANCER, "first", "one").await);
    }
}

/// A request that is refused tells nothing of a database: what is known is known of those who do work.
#[tokio::test]
async fn a_refused_enlist_binds_no_database() {
    let remote = Scripted::default();
    let mut config = config(&sqlite_url());
    let bank = unanimo_core::ParticipantName::new("bank").unwrap();
    config.participants.insert(bank, vec![remote.serve().await]);
    let world = World::start(config).await;
    let ended = world.begin("ended", Mode::Tcc).await.unwrap().tx_id;
    world.rollback(&ended).await.unwrap();
    let open = world.begin("open", Mode::Tcc).await.unwrap().tx_id;
    let at = |participant: &str, tx_id: &str, id: &str| EnlistBranchRequest {
        tx_id: tx_id.to_owned(),
        branch: Some(unanimo_proto::v1::BranchSpec {
            participant: participant.into(),
            ..branch("a", "ok")
        }),
        database_id: id.into(),
        ..Default::default()
    };
    let unknown = uuid::Uuid::now_v7().to_string();
    for tx_id in [&unknown, &ended] {
        world.client().enlist_branch(at("bank", tx_id, "x")).await.unwrap_err();
    }
    for n in 0..50 {
        world.client().enlist_branch(at(&format!("n{n}"), &open, "x")).await.unwrap_err();
    }
    // Its votes are told with another id, or with none: here the first that works is the one.
    world.client().enlist_branch(at("bank", &open, "y")).await.expect("nothing is known yet");
    let status = world.client().enlist_branch(at("bank", &open, "x")).await.unwrap_err();
    assert_eq!(describe(&status).1, "OTHER_DATABASE", "{status}");
    let mut request = tcc("g", &["ok"]);
    request.branches[0].participant = "bank".into();
    assert_eq!(world.submit(request).await.unwrap().outcome(), Outcome::Committed);
}

/// S2: an instance that was silent for so long that it was forgotten, and is back, is known after a restart.
#[tokio::test]
async fn s2_a_process_that_comes_back_keeps_its_database() {
    let mut config = config(&sqlite_url());
    config.keep_alive_interval = Period::millis(20);
    let world = World::start(config).await;
    register(&world, "http://127.0.0.1:9", "life", "one").await.unwrap();
    // It is forgotten after 120 intervals, at a look each half of a second.
    let listed = async || {
        let listed =
            world.directory().list_participants(ListParticipantsRequest::default()).await.unwrap();
        let mut listed = listed.into_inner().participants.into_iter();
        listed.find(|listed| listed.name == "bank").map_or(0, |bank| bank.endpoints.len())
    };
    super::until("it to be forgotten", async || (listed().await == 0).then_some(())).await;
    register(&world, "http://127.0.0.1:9", "life", "one").await.unwrap();
    let mut world = world;
    world.config.keep_alive_interval = Period::secs(60);
    register(&world, "http://127.0.0.1:9", "life", "one").await.unwrap();
    let world = world.crash_and_restart().await;
    is_other_database(register(&world, "http://127.0.0.1:10", "other", "two").await);
}

/// Votes yes, with an id of a mebibyte.
struct Talkative;

#[tonic::async_trait]
impl ParticipantService for Talkative {
    async fn prepare(
        &self,
        _: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        let answer = Some(prepare_response::Answer::Prepared(Prepared::default()));
        Ok(Response::new(PrepareResponse { answer, database_id: "d".repeat(1 << 20) }))
    }

    async fn commit(&self, _: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        panic!("S2: there was no vote")
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        let answer = Some(cancel_response::Answer::Done(Default::default()));
        Ok(Response::new(CancelResponse { answer }))
    }
}

/// An id is stored with the branch, and goes out with each of its calls. So one that is too long is no vote.
#[tokio::test]
async fn l5_an_id_of_a_mebibyte_is_no_vote() {
    let bank = unanimo_core::ParticipantName::new("bank").unwrap();
    let running = unanimo_coordinator::Builder::new(config(&sqlite_url()))
        .participant(bank, std::sync::Arc::new(Talkative))
        .start()
        .await
        .unwrap();
    let channel = super::channel(&running);
    let mut client =
        unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient::new(channel);
    let mut request = tcc("g", &["ok"]);
    request.branches[0].participant = "bank".into();
    request.timeout = Some(Duration::from_secs(1).try_into().unwrap());
    let response = client.submit_transaction(request).await.unwrap().into_inner();
    let result = response.result.unwrap();
    assert_eq!(result.outcome(), Outcome::Aborted);
    let error = &result.branches[0].last_error;
    assert!(error.contains("database_id has 1048576 bytes"), "{error}");
}
