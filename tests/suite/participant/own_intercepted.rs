//! Interceptors run on every call to a coordinator, whoever makes it.

use std::collections::BTreeSet;
use std::convert::Infallible;

use tonic::Status;
use tonic::transport::Endpoint;
use tower::{Layer, ServiceExt, service_fn};
use unanimo_proto::v1::Mode;
use unanimo_sdk::client::{Executed, Transaction};
use unanimo_sdk::propagation::{CallEnd, ServerLayer};
use unanimo_sdk::{Client, Coordinator, Participant, Register, Sqlite};
use unanimo_testing::Coordinator as InProcess;
use unanimo_tests::guard::{Called, Guard, Way};
use unanimo_tests::wait::until;

use super::databases::Database;
use super::direct::branch;
use super::sweeper::{Reserve, eager};

pub(super) const TOKEN: &str = "Bearer of-the-shop";

/// A proxy that lets only calls with the token through to a coordinator, and nobody call the forbidden methods.
pub(super) async fn guarded(coordinator: String, forbidden: &'static [&'static str]) -> Guard {
    let way = |called: &Called| {
        if called.authorization.as_deref() != Some(TOKEN) {
            Way::Instead(Status::unauthenticated("who are you?").into_http())
        } else if forbidden.contains(&called.method.as_str()) {
            Way::Instead(Status::permission_denied("forbidden by this guard").into_http())
        } else {
            Way::Pass
        }
    };
    Guard::before(coordinator, way).await
}

/// The coordinator behind it, through a channel of one's own, with this token.
pub(super) fn with_token(guard: &Guard, token: &'static str) -> Coordinator {
    let channel = Endpoint::from_shared(guard.address().to_owned()).unwrap().connect_lazy();
    Coordinator::through(channel).intercept(move |mut call| {
        call.metadata_mut().insert("authorization", token.parse().unwrap());
        Ok(call)
    })
}

/// Methods that were called, with the token or without it.
fn called(guard: &Guard, has_token: bool) -> BTreeSet<String> {
    let of = |called: &Called| (called.authorization.as_deref() == Some(TOKEN)) == has_token;
    guard.calls().into_iter().filter(of).map(|called| called.method).collect()
}

fn count(guard: &Guard, method: &str) -> usize {
    guard.calls().iter().filter(|called| called.method == method).count()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// Every call of a participant has the token: those that register, keep alive and deregister, the sweeper's
/// questions, and the one for the group of a coordinator that is only asked.
#[tokio::test]
async fn every_call_of_a_participant_runs_through_its_interceptors() {
    let coordinator = InProcess::start().await.unwrap();
    let guard = guarded(coordinator.endpoint(), &[]).await;
    let asked = guarded(coordinator.endpoint(), &[]).await;
    let (database, _pool) = <Sqlite as Database>::open().await;
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    // It is in doubt, and asked about.
    branch(Mode::Tcc, "ok").prepare(&service).await.unwrap();
    let register = Register::at("http://127.0.0.1:9").sweep(eager());
    let register = register.with(with_token(&guard, TOKEN)).ask(with_token(&asked, TOKEN));
    let mut registration = service.register(register).await.unwrap();
    registration.registered().await.unwrap();
    until("it to keep alive, and to be asked about", async || {
        let is_kept = count(&guard, "RegisterEndpoint") > 1 && count(&guard, "InquireBranches") > 0;
        (is_kept && count(&asked, "GetServerInfo") > 0).then_some(())
    })
    .await;
    registration.stop().await.unwrap();
    let expected = set(["DeregisterEndpoint", "InquireBranches", "RegisterEndpoint"]);
    let names = called(&guard, true);
    assert!(names.is_superset(&expected), "{names:?}");
    let names = called(&asked, true);
    assert!(names.contains("GetServerInfo") && names.contains("InquireBranches"), "{names:?}");
    for guard in [&guard, &asked] {
        assert_eq!(called(guard, false), set([]), "without a token");
    }
    coordinator.stop().await.unwrap();
}

/// A request of the transaction's initiator, for which the participant joins by this client.
async fn join(service: &unanimo_sdk::Service<Sqlite>, client: &Client, tx: &Transaction) {
    let joiner = service.joiner(client.clone());
    let handler = service_fn(|_: http::Request<()>| {
        let joiner = joiner.clone();
        async move {
            let joined = joiner.join("ok", bytes::Bytes::from_static(b"x")).await.unwrap();
            joined.accepted().unwrap();
            Ok::<_, Infallible>(http::Response::new(String::new()))
        }
    });
    let mut request = http::Request::new(());
    tx.propagation().inject(request.headers_mut());
    let response = ServerLayer::new().layer(handler).oneshot(request).await.unwrap();
    tx.propagation().collect(response.headers(), CallEnd::Succeeded);
}

/// Every call of a client has the token, be it the client's or its coordinator's, and so have those of its
/// interactive transactions, and of participants that join by it.
#[tokio::test]
async fn every_call_of_a_client_runs_through_its_interceptors() {
    let coordinator = InProcess::start().await.unwrap();
    let (database, _pool) = <Sqlite as Database>::open().await;
    let serve = unanimo_sdk::Serve::on("127.0.0.1:0").register_with(coordinator.endpoint());
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    let mut serving = service.serve(serve.without_sweep()).await.unwrap();
    serving.registered().await.unwrap();
    let guards =
        [guarded(coordinator.endpoint(), &[]).await, guarded(coordinator.endpoint(), &[]).await];
    let by_client = Client::new(guards[0].address()).unwrap().intercept(|mut call| {
        call.metadata_mut().insert("authorization", TOKEN.parse().unwrap());
        Ok(call)
    });
    // Of several nodes, so that it asks for their groups, too.
    let by_coordinator = Client::of([with_token(&guards[1], TOKEN), with_token(&guards[1], TOKEN)]);
    let payload = || bytes::Bytes::from_static(b"x");
    for (client, name) in [(by_client, "one"), (by_coordinator.unwrap(), "two")] {
        let gid = |what: &str| format!("{name}-{what}");
        let draft = client.tcc(gid("submitted")).branch("a", "p", "ok", payload());
        assert!(draft.submit().await.unwrap().is_committed());
        assert!(client.find(gid("submitted")).await.unwrap().is_committed());
        assert!(client.rollback(gid("never")).await.unwrap().is_aborted());
        client.server_info().await.unwrap();
        for commits in [true, false] {
            let mut begun = client.tcc(gid(&format!("begun-{commits}"))).begin().await.unwrap();
            let executed = begun.execute("a", "p", "ok", payload()).await.unwrap();
            assert!(matches!(executed, Executed::Prepared(_)), "{executed:?}");
            let ended = if commits { begun.commit().await } else { begun.rollback().await };
            assert_eq!(ended.unwrap().is_committed(), commits);
        }
        let joined = client.tcc(gid("joined")).begin().await.unwrap();
        join(&service, &client, &joined).await;
        assert!(joined.commit().await.unwrap().is_committed());
    }
    let expected = set([
        "BeginTransaction",
        "CommitTransaction",
        "EnlistBranch",
        "ExecuteBranch",
        "GetServerInfo",
        "GetTransaction",
        "RollbackTransaction",
        "SubmitTransaction",
    ]);
    for guard in &guards {
        assert_eq!((called(guard, true), called(guard, false)), (expected.clone(), set([])));
    }
    // And without it nothing gets through.
    let without = Client::new(guards[0].address()).unwrap();
    let error = without.server_info().await.unwrap_err().to_string();
    assert!(error.contains("who are you?"), "{error}");
    assert_eq!(called(&guards[0], false), set(["GetServerInfo"]));
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}
