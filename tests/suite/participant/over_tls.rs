//! Every way of a transaction over TLS: initiator, coordinator, participant.

use std::path::PathBuf;
use std::time::Duration;

use tonic::Code;
use unanimo_coordinator::Config;
use unanimo_proto::v1::PrepareRequest;
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;
use unanimo_sdk::{Accept, Client, Coordinator, Participant, Serve, Serving, Sqlite};

use super::databases::Database;
use super::sweeper::{Reserve, eager};
use crate::coordinator::World;
use crate::security::{Authority, Valid, channel, guarded, setting};

pub(crate) async fn bank() -> Participant<Sqlite> {
    let (database, _pool) = <Sqlite as Database>::open().await;
    Participant::new("bank", database).tcc("ok", Reserve)
}

async fn serve(world: &World, authority: &Authority, serve: Serve) -> Serving {
    served(world, authority, bank().await, serve).await
}

async fn served(
    world: &World,
    authority: &Authority,
    participant: Participant<Sqlite>,
    serve: Serve,
) -> Serving {
    let serve = serve.register_with(coordinator(world, authority)).sweep(eager());
    let mut serving = participant.serve(serve).await.unwrap();
    serving.registered().await.unwrap();
    serving
}

fn coordinator(world: &World, authority: &Authority) -> Coordinator {
    let url = format!("https://{}", world.running.grpc_address().unwrap());
    Coordinator::at(url).tls(authority.client())
}

async fn commits(world: &World, authority: &Authority, gid: &str) -> bool {
    let client = Client::of([coordinator(world, authority)]).unwrap();
    let client = client.wait_at_most(Duration::from_secs(20));
    let draft = client.tcc(gid).branch("a", "bank", "ok", bytes::Bytes::from("x"));
    draft.timeout(Duration::from_secs(5)).submit().await.unwrap().is_committed()
}

/// Nobody but the coordinator can tell the participant to prepare, and all of it runs over TLS.
#[tokio::test]
async fn a_participant_serves_its_coordinator_alone() {
    let (authority, other) = (Authority::new(), Authority::new());
    let world = World::start(guarded(&authority)).await;
    let serving = serve(&world, &authority, Serve::on("127.0.0.1:0").tls(authority.serves())).await;
    assert!(serving.endpoint().starts_with("https://127.0.0.1:"), "{}", serving.endpoint());
    assert!(commits(&world, &authority, "g").await);

    let (cert, key) = other.sign(&["coordinator"], Valid::Now);
    for files in [authority.trusting(), authority.trusting().identity(cert, key)] {
        let mut client = ParticipantServiceClient::new(channel(serving.endpoint(), files));
        let status = client.prepare(PrepareRequest::default()).await.expect_err("a stranger");
        assert_ne!(status.code(), Code::InvalidArgument, "{status}");
    }
    let mut client = ParticipantServiceClient::new(channel(serving.endpoint(), authority.client()));
    let status = client.prepare(PrepareRequest::default()).await.expect_err("no context");
    assert_eq!(status.code(), Code::InvalidArgument, "a known one is heard: {status}");
    serving.stop().await.unwrap();
}

/// Of those whom the authority knows only the coordinator is heard.
#[tokio::test]
async fn a_participant_accepts_the_names_that_it_is_told() {
    let authority = Authority::new();
    let world = World::start(guarded(&authority)).await;
    let on = || Serve::on("127.0.0.1:0").tls(authority.serves());
    let accepting = async |name: &str| {
        let bank = bank().await.accept(Accept::new().subject(name));
        served(&world, &authority, bank, on()).await
    };
    let serving = accepting("coordinator").await;
    assert!(commits(&world, &authority, "g").await);
    let prepare = async |endpoint: &str| {
        let mut client = ParticipantServiceClient::new(channel(endpoint, authority.client()));
        client.prepare(PrepareRequest::default()).await.expect_err("an initiator").code()
    };
    assert_eq!(prepare(serving.endpoint()).await, Code::PermissionDenied);
    serving.stop().await.unwrap();
    let serving = accepting("spiffe://shop.example/web").await;
    assert_eq!(prepare(serving.endpoint()).await, Code::InvalidArgument, "it is heard");
    assert!(!commits(&world, &authority, "h").await, "the coordinator is not");
    serving.stop().await.unwrap();
}

/// Names that nobody can have are an error, and not a participant that serves everybody, or nobody.
#[tokio::test]
async fn names_that_no_caller_can_have_are_refused() {
    let authority = Authority::new();
    let on = || Serve::on("127.0.0.1:0").without_sweep();
    let (cert, key) = authority.server();
    let without_ca = unanimo_tls::ServerFiles::new(cert, key);
    let named = || Accept::new().subject("coordinator");
    let hashes = unanimo_tests::reaper::run_folder().join(uuid::Uuid::new_v4().to_string());
    std::fs::write(&hashes, "").unwrap();
    let either = || named().token_hashes(&hashes);
    for (serve, accept, rule) in [
        (on().tls(authority.serves()), Accept::new(), "has nobody"),
        (on().tls(without_ca.clone()), named(), "ServerFiles::client_ca"),
        (on(), named(), "ServerFiles::client_ca"),
        (on().tls(without_ca), either(), "ServerFiles::client_ca"),
        (on(), either(), "ServerFiles::client_ca"),
    ] {
        let participant = bank().await.accept(accept);
        let error = participant.serve(serve).await.expect_err(rule).to_string();
        assert!(error.starts_with("Participant::accept ") && error.contains(rule), "{error}");
    }
}

/// Serves a participant with this certificate, and tells whether the coordinator commits a transaction with it.
async fn commits_with(
    authority: &Authority,
    (cert, key): (PathBuf, PathBuf),
    change: impl FnOnce(&mut Config),
) -> bool {
    let mut config = guarded(authority);
    change(&mut config);
    let world = World::start(config).await;
    let files = unanimo_tls::ServerFiles::new(cert, key);
    let serving = serve(&world, authority, Serve::on("127.0.0.1:0").tls(files)).await;
    let committed = commits(&world, authority, "g").await;
    serving.stop().await.unwrap();
    committed
}

/// The coordinator calls nobody who cannot prove its name, in time, by the authority that is set.
#[tokio::test]
async fn a_coordinator_calls_no_participant_that_is_not_the_right_one() {
    let (authority, other) = (Authority::new(), Authority::new());
    let with = async |signed_by: &Authority, name: &str, valid| {
        commits_with(&authority, signed_by.sign(&[name], valid), |_| ()).await
    };
    assert!(with(&authority, "127.0.0.1", Valid::Now).await, "the right one");
    let refused = tokio::join!(
        with(&other, "127.0.0.1", Valid::Now),
        with(&authority, "127.0.0.2", Valid::Now),
        with(&authority, "127.0.0.1", Valid::Formerly),
        with(&authority, "127.0.0.1", Valid::Later),
    );
    let none = (false, false, false, false);
    assert_eq!(refused, none, "another authority, another name, expired, not valid yet");
}

/// With `participant-tls-name` the certificate has that name, and not the endpoint's host.
#[tokio::test]
async fn a_participant_may_have_the_name_that_is_set() {
    let authority = Authority::new();
    let with = async |name: &str| {
        let files = authority.sign(&[name], Valid::Now);
        let named = "participants.example".parse().unwrap();
        commits_with(&authority, files, |config| config.participant_tls_name = named).await
    };
    let answers = tokio::join!(with("participants.example"), with("127.0.0.1"));
    assert_eq!(answers, (true, false), "the name, the host of the endpoint");
}

/// A participant hears no coordinator whose certificate is none, of another authority, or over.
#[tokio::test]
async fn a_participant_hears_no_coordinator_with_a_bad_certificate() {
    let (authority, other) = (Authority::new(), Authority::new());
    let with = async |shown: Option<(PathBuf, PathBuf)>| {
        let mut config = guarded(&authority);
        let (cert, key) = shown.as_ref().map(|(cert, key)| (setting(cert), setting(key))).unzip();
        config.participant_tls_cert = cert.unwrap_or_default();
        config.participant_tls_key = key.unwrap_or_default();
        let world = World::start(config).await;
        let on = Serve::on("127.0.0.1:0").tls(authority.serves());
        let serving = serve(&world, &authority, on).await;
        let committed = commits(&world, &authority, "g").await;
        serving.stop().await.unwrap();
        committed
    };
    let answers = tokio::join!(
        with(Some(authority.sign(&["coordinator"], Valid::Now))),
        with(None),
        with(Some(other.sign(&["coordinator"], Valid::Now))),
        with(Some(authority.sign(&["coordinator"], Valid::Formerly))),
    );
    assert_eq!(answers, (true, false, false, false), "good, none, another authority, expired");
}

/// An endpoint on another machine must have TLS, where the coordinator has.
#[tokio::test]
async fn an_endpoint_elsewhere_without_tls_is_refused() {
    let authority = Authority::new();
    let mut config = guarded(&authority);
    config.endpoint_allow = "*".parse().unwrap();
    let world = World::start(config).await;
    let (database, _pool) = <Sqlite as Database>::open().await;
    let participant = Participant::new("bank", database).tcc("ok", Reserve);
    let serve = Serve::on("127.0.0.1:0").advertise("http://10.1.2.3:7000");
    let serve = serve.register_with(coordinator(&world, &authority));
    let mut serving = participant.serve(serve).await.unwrap();
    let error = serving.registered().await.expect_err("without TLS").to_string();
    assert!(error.contains("is on another machine and without TLS"), "{error}");
}
