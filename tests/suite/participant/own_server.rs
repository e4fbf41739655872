//! A participant in a server of the service's own.

use std::time::Duration;

use sqlx::Executor;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;
use unanimo_proto::v1::{CommitRequest, Mode, PrepareRequest, commit_response, prepare_response};
use unanimo_sdk::participant::Error;
use unanimo_sdk::{
    Coordinator, Participant, Postgres, Register, Registration, Resource, Serve, Service, Sqlite,
};
use unanimo_testing::Coordinator as InProcess;
use unanimo_tests::wait::until;

use super::databases::Database;
use super::direct::{Branch, branch};
use super::registration::Directory;
use super::sweeper::{Reserve, Write, bank, eager};

/// A server that a test made itself, with another service in it.
struct Own {
    address: String,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Own {
    async fn serve<R: Resource>(service: &Service<R>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let (stop, stopped) = oneshot::channel();
        let (_health, health) = tonic_health::server::health_reporter();
        let server = Server::builder()
            .add_service(health)
            .add_service(service.server())
            .serve_with_incoming_shutdown(incoming, async { drop(stopped.await) });
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { address, stop, server }
    }

    fn register(&self) -> Register {
        Register::at(&self.address)
    }

    async fn client(&self) -> ParticipantServiceClient<tonic::transport::Channel> {
        ParticipantServiceClient::connect(self.address.clone()).await.unwrap()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.server.await.unwrap();
    }
}

async fn prepare(own: &Own, of: &Branch) -> prepare_response::Answer {
    let request = PrepareRequest {
        context: Some(of.context.clone()),
        action: of.action.clone(),
        payload: unanimo_tests::payload("x"),
        ..PrepareRequest::default()
    };
    own.client().await.prepare(request).await.unwrap().into_inner().answer.unwrap()
}

async fn commit(own: &Own, of: &Branch) -> commit_response::Answer {
    let request = CommitRequest {
        context: Some(of.context.clone()),
        action: of.action.clone(),
        payload: unanimo_tests::payload("x"),
        ..CommitRequest::default()
    };
    own.client().await.commit(request).await.unwrap().into_inner().answer.unwrap()
}

/// The coordinator knows of it, its transactions commit, its sweeper runs; and once its registration is
/// stopped, no call begins anything, though the server still answers.
#[tokio::test]
async fn a_participant_in_ones_own_server_takes_part_and_leaves_in_order() {
    let coordinator = InProcess::start().await.unwrap();
    let (database, _pool) = <Sqlite as Database>::open().await;
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    let own = Own::serve(&service).await;
    let register = own.register().with(coordinator.endpoint()).sweep(eager());
    let mut registration: Registration = service.register(register).await.unwrap();
    registration.registered().await.unwrap();
    let client = coordinator.client().unwrap();
    let submit = async |gid: &str| {
        let draft = client.tcc(gid).branch("a", "p", "ok", bytes::Bytes::from("x"));
        draft.wait_until_ended().submit().await
    };
    assert!(submit("one").await.unwrap().is_committed());
    until("a sweep", async || (registration.in_doubt()?.sweeps > 0).then_some(())).await;

    registration.stop().await.unwrap();
    // It has deregistered: nobody waits for a deadline. The client asks again for as long as it may.
    let client = client.clone().wait_at_most(Duration::from_secs(2));
    until("the news of it", async || {
        let draft = client.tcc("two").branch("a", "p", "ok", bytes::Bytes::from("x"));
        draft.submit().await.err().filter(|error| error.to_string().contains("PARTICIPANT_GONE"))
    })
    .await;
    let late = prepare(&own, &branch(Mode::Tcc, "ok")).await;
    assert!(matches!(late, prepare_response::Answer::Working(_)), "{late:?}");
    own.stop().await;
    coordinator.stop().await.unwrap();
}

/// An operation that is at work when it is told to stop comes to its end, and is answered, before `stop` returns.
#[tokio::test]
async fn what_is_under_way_ends_before_the_registration_has_stopped() {
    use super::handler::{Deed, Handler, Job};
    let (database, pool) = <Sqlite as Database>::open().await;
    pool.execute("CREATE TABLE effect (tx_id text, branch_id text, what text)").await.unwrap();
    let handler = Handler::new(unanimo_sdk::Isolation::ReadCommitted);
    let service = Participant::new("p", database).tcc("work", handler.clone()).service().unwrap();
    let own = Own::serve(&service).await;
    let directory = Directory::default();
    let register = own.register().with(directory.serve().await).without_sweep();
    let mut registration = service.register(register).await.unwrap();
    registration.registered().await.unwrap();
    let job = Job { prepare: Deed::Wait, phase_two: Deed::Work };
    let at_work =
        Branch { payload: serde_json::to_vec(&job).unwrap().into(), ..branch(Mode::Tcc, "work") };
    let calling = tokio::spawn(async move { at_work.prepare(&service).await });
    handler.gate.waiting().await;
    let stopping = tokio::spawn(registration.stop());
    until("it to deregister", async || (!directory.deregistered().is_empty()).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!stopping.is_finished(), "it waits for what is at work");
    handler.gate.open();
    stopping.await.unwrap().unwrap();
    assert!(calling.is_finished() || calling.await.is_ok());
    own.stop().await;
}

/// A stop whose time is over waits no longer for what is at work, and begins nothing any more all the same.
#[tokio::test]
async fn a_stop_that_ends_before_what_is_at_work_begins_nothing_any_more() {
    use super::handler::{Deed, Handler, Job};
    for is_served in [false, true] {
        // Not SQLite, where the one at work would keep the others out.
        let (database, pool) = <Postgres as Database>::open().await;
        let effect = "CREATE TABLE effect (tx_id text, branch_id text, what text)";
        pool.execute(effect).await.unwrap();
        let handler = Handler::new(unanimo_sdk::Isolation::ReadCommitted);
        let participant = Participant::new("p", database).tcc("work", handler.clone());
        let service = participant.service().unwrap();
        let directory = Directory::default();
        let (coordinator, drain) = (directory.serve().await, Duration::from_millis(400));
        let of = |prepare| {
            let job = Job { prepare, phase_two: Deed::Work };
            let payload = serde_json::to_vec(&job).unwrap().into();
            Branch { payload, ..branch(Mode::Tcc, "work") }
        };
        let prepared = of(Deed::Work);
        prepared.prepare(&service).await.unwrap();
        let (at_work, calls) = (of(Deed::Wait), service.clone());
        let calling = tokio::spawn(async move { at_work.prepare(&calls).await });
        if is_served {
            let serve = Serve::on("127.0.0.1:0").register_with(coordinator).drain_at_most(drain);
            let mut serving = service.serve(serve.without_sweep()).await.unwrap();
            serving.registered().await.unwrap();
            handler.gate.waiting().await;
            serving.stop().await.unwrap();
        } else {
            let register = Register::at("http://127.0.0.1:9").with(coordinator);
            let register = register.without_sweep().drain_at_most(drain);
            let mut registration = service.register(register).await.unwrap();
            registration.registered().await.unwrap();
            handler.gate.waiting().await;
            registration.stop().await.unwrap();
        }
        assert!(!calling.is_finished());
        let late = of(Deed::Work).prepare(&service).await.unwrap();
        assert!(matches!(late, prepare_response::Answer::Working(_)), "{is_served}: {late:?}");
        let late = prepared.commit(&service).await.unwrap();
        assert!(matches!(late, commit_response::Answer::Working(_)), "{is_served}: {late:?}");
        handler.gate.open();
        calling.await.unwrap().unwrap();
    }
}

/// L1: its set-up needs what a former life has prepared; Commits are served meanwhile, and it registers last.
#[tokio::test]
async fn l1_a_set_up_behind_a_prepared_transaction_waits_while_ones_own_server_serves() {
    let (pool, url, first) = bank().await;
    let held = branch(Mode::TwoPhaseCommit, "write");
    held.prepare(&first).await.unwrap();
    drop(first);
    let database = Postgres::connect(&url).await.unwrap();
    let again = Participant::new("p", database).two_phase("write", Write).set_up(|db| {
        Box::pin(async move {
            db.execute("ALTER TABLE effect ADD COLUMN IF NOT EXISTS note text").await?;
            Ok(())
        })
    });
    let service = again.service().unwrap();
    let own = Own::serve(&service).await;
    let directory = Directory::default();
    let register = own.register().with(directory.serve().await).without_sweep();
    let registering = tokio::spawn(async move { service.register(register).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!registering.is_finished() && directory.registered().is_empty(), "it waits");
    let answer = commit(&own, &held).await;
    assert!(matches!(answer, commit_response::Answer::Done(_)), "{answer:?}");
    let mut registration = registering.await.unwrap().unwrap();
    registration.registered().await.unwrap();
    let noted: i64 = sqlx::query_scalar("SELECT count(*) FROM effect WHERE note IS NULL")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(noted, 1);
    registration.stop().await.unwrap();
    own.stop().await;
}

/// A caller without a token is told so, and waits no longer for a registration that will not be; an interceptor
/// brings the token.
#[tokio::test]
async fn a_refused_registration_ends_the_wait_and_a_token_makes_it() {
    const TOKEN: &str = "Bearer of-the-shop";
    let directory = Directory::default();
    let address = directory.serve_guarded(TOKEN).await;
    let (database, _pool) = <Sqlite as Database>::open().await;
    let participant = Participant::new("p", database).tcc("ok", Reserve);
    let service = participant.service().unwrap();
    let serve = Serve::on("127.0.0.1:0").register_with(&address).without_sweep();
    let mut serving = service.serve(serve).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(30), serving.registered()).await;
    let error = told.expect("it does not wait for ever").unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("who are you?"), "{text}");
    assert!(directory.registered().is_empty());

    let with_token = Coordinator::at(&address).intercept(|mut call| {
        call.metadata_mut().insert("authorization", TOKEN.parse().unwrap());
        Ok(call)
    });
    let own = Own::serve(&service).await;
    let register = own.register().with(with_token).without_sweep();
    let mut registration = service.register(register).await.unwrap();
    registration.registered().await.unwrap();
    registration.stop().await.unwrap();
    assert_eq!(directory.deregistered().len(), 1, "with the token, too");
    drop(serving);
    own.stop().await;
}

/// An address that can never be called or reached is refused at once, with a sentence, and nothing is left
/// listening.
#[tokio::test]
async fn addresses_that_are_none_are_refused_at_once_with_a_sentence() {
    let (database, _pool) = <Sqlite as Database>::open().await;
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = free.local_addr().unwrap().to_string();
    drop(free);
    let on = || Serve::on(&listen);
    for (serve, part) in [
        (on().register_with("coordinator:7610"), "it does not begin with http://"),
        (on().advertise("shop:7701"), "it does not begin with http://"),
    ] {
        let error = service.serve(serve).await.unwrap_err().to_string();
        assert!(error.contains("must be http://HOST:PORT") && error.contains(part), "{error}");
        until("its port to be free", async || std::net::TcpListener::bind(&listen).ok()).await;
    }
    for (register, part) in [
        (Register::at("ftp://shop:7701"), "endpoint \"ftp://shop:7701\""),
        (Register::at("http://shop:7701").with("ftp://c:1"), "coordinator \"ftp://c:1\""),
    ] {
        let error = service.register(register).await.unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("its scheme is another one"), "{error}");
    }
    let error = service.sweep(["ftp://c:1"], eager()).unwrap_err().to_string();
    assert!(error.contains("its scheme is another one"), "{error}");
}
