//! Interceptors run on every call to a coordinator, whoever makes it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tower::{Layer, Service, ServiceExt, service_fn};
use unanimo_proto::v1::Mode;
use unanimo_sdk::client::{Executed, Transaction};
use unanimo_sdk::propagation::{CallEnd, ServerLayer};
use unanimo_sdk::{Client, Coordinator, Participant, Register, Sqlite};
use unanimo_testing::Coordinator as InProcess;
use unanimo_tests::wait::until;

use super::databases::Database;
use super::direct::branch;
use super::sweeper::{Reserve, eager};

pub(super) const TOKEN: &str = "Bearer of-the-shop";

/// A proxy that lets only calls with the token through to a coordinator, and notes the names of all.
#[derive(Clone)]
pub(super) struct Guard {
    address: String,
    to: Channel,
    /// Methods that it lets nobody call.
    forbidden: &'static [&'static str],
    calls: Arc<Mutex<Vec<(String, bool)>>>,
}

impl Guard {
    pub(super) async fn before(coordinator: String, forbidden: &'static [&'static str]) -> Self {
        let to = Endpoint::from_shared(coordinator).unwrap().connect_lazy();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let guard = Self { address, to, forbidden, calls: Arc::default() };
        let routes = Routes::from(Router::new().fallback_service(guard.clone()));
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(incoming));
        guard
    }

    /// The coordinator behind it, through a channel of one's own, with this token.
    pub(super) fn with_token(&self, token: &'static str) -> Coordinator {
        let channel = Endpoint::from_shared(self.address.clone()).unwrap().connect_lazy();
        Coordinator::through(channel).intercept(move |mut call| {
            call.metadata_mut().insert("authorization", token.parse().unwrap());
            Ok(call)
        })
    }

    /// Methods that were called, with the token or without it.
    fn called(&self, with_token: bool) -> BTreeSet<String> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let of = calls.iter().filter(|(_, had)| *had == with_token);
        of.map(|(method, _)| method.clone()).collect()
    }

    fn count(&self, method: &str) -> usize {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().filter(|(called, _)| called == method).count()
    }
}

impl Service<Request> for Guard {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let has_token = request.headers().get("authorization").is_some_and(|is| is == TOKEN);
        let is_forbidden = self.forbidden.contains(&method.as_str());
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push((method, has_token));
        let to = self.to.clone();
        Box::pin(async move {
            if !has_token {
                return Ok(Status::unauthenticated("who are you?").into_http());
            }
            if is_forbidden {
                return Ok(Status::permission_denied("forbidden by this guard").into_http());
            }
            let request = request.map(tonic::body::Body::new);
            Ok(match to.oneshot(request).await {
                Ok(response) => response.map(Body::new),
                Err(error) => Status::unavailable(error.to_string()).into_http(),
            })
        })
    }
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// Every call of a participant has the token: those that register, keep alive and deregister, the sweeper's
/// questions, and the one for the group of a coordinator that is only asked.
#[tokio::test]
async fn every_call_of_a_participant_runs_through_its_interceptors() {
    let coordinator = InProcess::start().await.unwrap();
    let guard = Guard::before(coordinator.endpoint(), &[]).await;
    let asked = Guard::before(coordinator.endpoint(), &[]).await;
    let (database, _pool) = <Sqlite as Database>::open().await;
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    // It is in doubt, and asked about.
    branch(Mode::Tcc, "ok").prepare(&service).await.unwrap();
    let register = Register::at("http://127.0.0.1:9").sweep(eager());
    let register = register.with(guard.with_token(TOKEN)).ask(asked.with_token(TOKEN));
    let mut registration = service.register(register).await.unwrap();
    registration.registered().await.unwrap();
    until("it to keep alive, and to be asked about", async || {
        let is_kept = guard.count("RegisterEndpoint") > 1 && guard.count("InquireBranches") > 0;
        (is_kept && asked.count("GetServerInfo") > 0).then_some(())
    })
    .await;
    registration.stop().await;
    let expected = set(["DeregisterEndpoint", "InquireBranches", "RegisterEndpoint"]);
    let called = guard.called(true);
    assert!(called.is_superset(&expected), "{called:?}");
    let called = asked.called(true);
    assert!(called.contains("GetServerInfo") && called.contains("InquireBranches"), "{called:?}");
    for guard in [&guard, &asked] {
        assert_eq!(guard.called(false), set([]), "without a token");
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
    let guards = [
        Guard::before(coordinator.endpoint(), &[]).await,
        Guard::before(coordinator.endpoint(), &[]).await,
    ];
    let by_client = Client::new(guards[0].address.clone()).unwrap().intercept(|mut call| {
        call.metadata_mut().insert("authorization", TOKEN.parse().unwrap());
        Ok(call)
    });
    // Of several nodes, so that it asks for their groups, too.
    let by_coordinator = Client::of([guards[1].with_token(TOKEN), guards[1].with_token(TOKEN)]);
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
        assert_eq!((guard.called(true), guard.called(false)), (expected.clone(), set([])));
    }
    // And without it nothing gets through.
    let without = Client::new(guards[0].address.clone()).unwrap();
    let error = without.server_info().await.unwrap_err().to_string();
    assert!(error.contains("who are you?"), "{error}");
    assert_eq!(guards[0].called(false), set(["GetServerInfo"]));
    serving.stop().await;
    coordinator.stop().await.unwrap();
}
