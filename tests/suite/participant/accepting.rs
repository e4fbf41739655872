//! Callers that a participant accepts, by their tokens and by their certificates, in the SDK's server and in one's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status};
use unanimo_coordinator::identity::Token;
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;
use unanimo_proto::v1::{CancelRequest, CommitRequest, PrepareRequest};
use unanimo_sdk::{Accept, Client, Serve, Serving};
use unanimo_tests::reaper::run_folder;
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::over_tls::bank;
use super::sweeper::eager;
use crate::coordinator::{World, config, sqlite_url};
use crate::security::{Authority, Valid, channel, setting};

fn token(number: u8) -> Token {
    Token::new([number; Token::RANDOM_BYTES])
}

fn write(text: &str) -> PathBuf {
    let path = run_folder().join(Uuid::new_v4().to_string());
    fs::write(&path, text).unwrap();
    path
}

fn of_bank(token: &Token) -> String {
    format!("bank = \"{}\"\n", token.text())
}

/// Makes each of the three calls, and returns how it was answered.
async fn codes(channel: Channel, token: Option<&Token>) -> [Code; 3] {
    fn signed<T>(message: T, token: Option<&Token>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = token {
            let header = format!("Bearer {}", token.text()).parse().unwrap();
            request.metadata_mut().insert("authorization", header);
        }
        request
    }
    let mut client = ParticipantServiceClient::new(channel);
    let code = |status: Status| status.code();
    [
        client.prepare(signed(PrepareRequest::default(), token)).await.map(drop).map_err(code),
        client.commit(signed(CommitRequest::default(), token)).await.map(drop).map_err(code),
        client.cancel(signed(CancelRequest::default(), token)).await.map(drop).map_err(code),
    ]
    .map(|answer| answer.expect_err("the call has no context"))
}

fn plain(endpoint: &str) -> Channel {
    Channel::from_shared(endpoint.to_owned()).unwrap().connect_lazy()
}

/// An answer that says that the caller was heard.
const HEARD: [Code; 3] = [Code::InvalidArgument; 3];
const UNKNOWN: [Code; 3] = [Code::Unauthenticated; 3];
const OTHERS: [Code; 3] = [Code::PermissionDenied; 3];

struct Guarded {
    world: World,
    tokens: PathBuf,
    hashes: PathBuf,
    serving: Serving,
}

impl Guarded {
    /// A coordinator that sends the first token, and a participant that has its hash.
    async fn start() -> Self {
        let (tokens, hashes) = (write(&of_bank(&token(1))), write(&token(1).hashed()));
        let mut config = config(&sqlite_url());
        config.participant_tokens = setting(&tokens);
        let world = World::start(config).await;
        let address = format!("http://{}", world.running.grpc_address().unwrap());
        let serve = Serve::on("127.0.0.1:0").register_with(address).sweep(eager());
        let bank = bank().await.accept(Accept::new().token_hashes(&hashes));
        let mut serving = bank.serve(serve).await.unwrap();
        serving.registered().await.unwrap();
        Self { world, tokens, hashes, serving }
    }

    async fn commits(&self, gid: &str) -> bool {
        let address = format!("http://{}", self.world.running.grpc_address().unwrap());
        let client = Client::new(address).unwrap().wait_at_most(Duration::from_secs(20));
        let draft = client.tcc(gid).branch("a", "bank", "ok", bytes::Bytes::from("x"));
        draft.timeout(Duration::from_secs(5)).submit().await.unwrap().is_committed()
    }

    async fn until_heard(&self, number: u8, expected: [Code; 3]) {
        until("the participant to have read its file", async || {
            let found = codes(plain(self.serving.endpoint()), Some(&token(number))).await;
            (found == expected).then_some(())
        })
        .await;
    }
}

/// Nobody else can prepare, commit or cancel; and a token is replaced while everything runs.
#[tokio::test]
async fn a_participant_hears_those_with_the_token_of_its_coordinator() {
    let guarded = Guarded::start().await;
    assert!(guarded.commits("g").await);
    let endpoint = guarded.serving.endpoint();
    assert_eq!(codes(plain(endpoint), None).await, UNKNOWN);
    assert_eq!(codes(plain(endpoint), Some(&token(2))).await, UNKNOWN);
    assert_eq!(codes(plain(endpoint), Some(&token(1))).await, HEARD);

    // Both are known first, then the coordinator sends the new one, then the old one is taken away.
    let write = |path: &Path, text: &str| fs::write(path, text).unwrap();
    write(&guarded.hashes, &format!("{}\n{}\n", token(1).hashed(), token(2).hashed()));
    guarded.until_heard(2, HEARD).await;
    write(&guarded.tokens, &of_bank(&token(2)));
    write(&guarded.hashes, &token(2).hashed());
    guarded.until_heard(1, UNKNOWN).await;
    let mut gids = 0;
    until("the coordinator to send the new token", async || {
        gids += 1;
        guarded.commits(&format!("h{gids}")).await.then_some(())
    })
    .await;
    guarded.serving.stop().await.unwrap();
}

/// A service in a server of its own is guarded as well, with connections of this crate and with tokens.
#[tokio::test]
async fn a_service_in_a_server_of_ones_own_is_guarded_as_well() {
    let authority = Authority::new();
    let hashes = write(&token(1).hashed());
    let accept = Accept::new().subject("spiffe://shop.example/coordinator").token_hashes(&hashes);
    let service = bank().await.accept(accept).service().unwrap();
    let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (tcp, tls) = (listen().await, listen().await);
    let plain_endpoint = format!("http://{}", tcp.local_addr().unwrap());
    let tls_endpoint = format!("https://{}", tls.local_addr().unwrap());
    let server = Server::builder().add_service(service.server());
    let serving = tokio::spawn(server.serve_with_incoming(TcpIncoming::from(tcp)));
    let files = unanimo_tls::Server::load(authority.serves()).unwrap();
    let server = Server::builder().add_service(service.server());
    let serving_tls = tokio::spawn(server.serve_with_incoming(files.grpc(TcpIncoming::from(tls))));

    assert_eq!(codes(plain(&plain_endpoint), None).await, UNKNOWN);
    assert_eq!(codes(plain(&plain_endpoint), Some(&token(2))).await, UNKNOWN);
    assert_eq!(codes(plain(&plain_endpoint), Some(&token(1))).await, HEARD);
    let named = |name: &str| {
        let (cert, key) = authority.sign(&[name], Valid::Now);
        channel(&tls_endpoint, authority.trusting().identity(cert, key))
    };
    let coordinator = "spiffe://shop.example/coordinator";
    assert_eq!(codes(named("spiffe://shop.example/web"), None).await, OTHERS);
    assert_eq!(codes(named(coordinator), None).await, HEARD);
    assert_eq!(codes(named("x"), Some(&token(1))).await, HEARD);
    assert_eq!(codes(named(coordinator), Some(&token(2))).await, UNKNOWN, "a bad token counts");
    serving.abort();
    serving_tls.abort();
}
