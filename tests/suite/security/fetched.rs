//! Keys of an issuer that are fetched over HTTPS: replaced, withheld, forged, and asked for by strangers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimo_coordinator::Config;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::GetServerInfoRequest;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_tests::wait::until;
use unanimo_tls::{Server, ServerFiles, TlsStream};

use super::issued::{ISSUER, Signer, claims, key_set, with, write};
use super::roles::Signing;
use super::{Authority, Valid, setting};
use crate::coordinator::http::http_get;
use crate::coordinator::{World, config, sqlite_url};

/// Answer of a provider.
#[derive(Clone)]
enum Says {
    Text(String),
    /// Chunks without an end.
    Endless,
    Status(&'static str),
    /// It takes the request, and never answers.
    Nothing,
}

impl Says {
    fn keys(keys: &[Value]) -> Self {
        Self::Text(key_set(keys))
    }
}

/// An issuer's server, with TLS.
struct Provider {
    address: SocketAddr,
    tls: Server,
    says: Arc<Mutex<Says>>,
    /// Text of its description.
    description: Arc<Mutex<String>>,
    /// Paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    serving: Option<JoinHandle<()>>,
}

impl Provider {
    /// Makes one that is down.
    async fn down(authority: &Authority, says: Says) -> Self {
        Self::with(authority.server(), says).await
    }

    /// Makes one with this certificate that is down.
    async fn with((cert, key): (PathBuf, PathBuf), says: Says) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        Self {
            address,
            tls: Server::load(ServerFiles::new(cert, key)).unwrap(),
            says: Arc::new(Mutex::new(says)),
            description: Arc::default(),
            asked: Arc::default(),
            serving: None,
        }
    }

    async fn start(authority: &Authority, says: Says) -> Self {
        let mut provider = Self::down(authority, says).await;
        provider.up().await;
        provider
    }

    async fn up(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let mut streams = self.tls.http(TcpListenerStream::new(listener));
        let (says, description) = (Arc::clone(&self.says), Arc::clone(&self.description));
        let asked = Arc::clone(&self.asked);
        self.serving = Some(tokio::spawn(async move {
            while let Some(stream) = streams.next().await {
                let Ok(stream) = stream else { continue };
                let (says, description) = (Arc::clone(&says), Arc::clone(&description));
                let asked = Arc::clone(&asked);
                // It may end with the connection.
                tokio::spawn(async move { answer(stream, &says, &description, &asked).await.ok() });
            }
        }));
    }

    fn stop(&mut self) {
        self.serving.take().expect("it runs").abort();
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn answer(
    mut stream: TlsStream,
    says: &Mutex<Says>,
    description: &Mutex<String>,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap().to_owned();
    asked.lock().unwrap().push(path.clone());
    let said = match path.as_str() {
        "/realm/.well-known/openid-configuration" => {
            Says::Text(description.lock().unwrap().clone())
        }
        _ => says.lock().unwrap().clone(),
    };
    match said {
        Says::Text(text) => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", text.len());
            stream.write_all(format!("{head}connection: close\r\n\r\n{text}").as_bytes()).await?;
        }
        Says::Status(line) => {
            let head = format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
        }
        Says::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x1_0000));
            loop {
                stream.write_all(chunk.as_bytes()).await?;
            }
        }
        Says::Nothing => std::future::pending::<()>().await,
    }
    stream.shutdown().await
}

/// A coordinator that fetches keys.
struct Fetching(World);

impl Fetching {
    async fn start(place: &str, ca: &Authority, change: impl FnOnce(&mut Config)) -> Self {
        let (identities, _) = write(&[]);
        let mut config = Config {
            identities: setting(&identities),
            jwt_keys: place.parse().unwrap(),
            jwt_keys_ca: setting(&ca.ca()),
            jwt_issuer: ISSUER.to_owned(),
            jwt_audience: "unanimo".to_owned(),
            ..config(&sqlite_url())
        };
        change(&mut config);
        let violations = config.violations();
        assert!(violations.is_empty(), "{violations:?}");
        Self(World::start(config).await)
    }

    async fn call(&self, token: &str) -> Result<(), Status> {
        let header = Signing::bearer(token);
        let link = InterceptedService::new(self.0.channel.clone(), header);
        let mut client = CoordinatorServiceClient::new(link);
        client.get_server_info(GetServerInfoRequest::default()).await.map(drop)
    }

    async fn accepts(&self, token: &str) -> bool {
        self.call(token).await.is_ok()
    }

    /// Expects that nobody can tell whether the token is good, and that the caller is told to come back.
    async fn cannot_tell(&self, token: &str) {
        let status = self.call(token).await.expect_err("no keys");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.reason, "ISSUER_UNAVAILABLE");
        assert_eq!((&*info.metadata["retryable"], &*info.metadata["effect"]), ("true", "none"));
        assert!(details.retry_info().unwrap().retry_delay.is_some());
    }

    async fn until_alarm(&self, number: u32) {
        let expected = format!("unanimo_alarms{{alarm=\"keys_not_fetched\"}} {number}");
        until(&expected, async || {
            let (_, text) = http_get(&self.0, "/metrics").await;
            text.lines().any(|line| line == expected).then_some(())
        })
        .await;
    }
}

fn every(secs: u64) -> impl FnOnce(&mut Config) {
    move |config| config.jwt_keys_refresh = Period::secs(secs)
}

/// A token with a new key is accepted long before the keys are refreshed; the old key goes with the same fetch.
#[tokio::test]
async fn a_key_that_is_new_is_fetched_at_once() {
    let (authority, old, new) = (Authority::new(), Signer::ed25519(), Signer::ed25519());
    let provider = Provider::start(&authority, Says::keys(&[old.public("old")])).await;
    let place = format!("{}/keys?v=1", provider.url());
    let fetching = Fetching::start(&place, &authority, every(3600)).await;
    let (by_old, by_new) = (old.good("old", &claims()), new.good("new", &claims()));
    fetching.call(&by_old).await.expect("a good token, from the first call on");
    provider.say(Says::keys(&[new.public("new")]));
    let begun = Instant::now();
    until("the new key", async || fetching.accepts(&by_new).await.then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let status = fetching.call(&by_old).await.expect_err("the old key is gone");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert_eq!(*provider.asked.lock().unwrap(), ["/keys?v=1", "/keys?v=1"]);
}

/// Keys that the issuer has taken away are known no more after the interval, whoever calls.
#[tokio::test]
async fn keys_are_fetched_again_at_an_interval() {
    let (authority, old, new) = (Authority::new(), Signer::ed25519(), Signer::ed25519());
    let provider = Provider::start(&authority, Says::keys(&[old.public("old")])).await;
    let fetching = Fetching::start(&provider.url(), &authority, every(1)).await;
    let by_old = old.good("old", &claims());
    fetching.call(&by_old).await.expect("a good token");
    provider.say(Says::keys(&[new.public("new")]));
    until("the old key to go", async || (!fetching.accepts(&by_old).await).then_some(())).await;
    fetching.call(&new.good("new", &claims())).await.expect("the new key is there");
}

/// The coordinator starts without its issuer, tells callers to come back, and takes the keys once they are there.
#[tokio::test]
async fn an_issuer_that_is_down_at_the_start_holds_nothing_up() {
    let (authority, signer) = (Authority::new(), Signer::ed25519());
    let mut provider = Provider::down(&authority, Says::keys(&[signer.public("k")])).await;
    let token = signer.good("k", &claims());
    let begun = Instant::now();
    let fetching = Fetching::start(&provider.url(), &authority, every(3600)).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    fetching.cannot_tell(&token).await;
    fetching.until_alarm(1).await;
    let no_token = fetching.call("no-jwt").await.expect_err("not a token of the issuer");
    assert_eq!(no_token.code(), Code::Unauthenticated, "{no_token}");
    provider.up().await;
    until("the keys", async || fetching.accepts(&token).await.then_some(())).await;
    fetching.until_alarm(0).await;
}

/// Whatever the server answers, the former keys count, and no redirection is followed.
#[tokio::test]
async fn bad_answers_change_nothing_and_raise_an_alarm() {
    let (authority, signer) = (Authority::new(), Signer::ed25519());
    let good = Says::keys(&[signer.public("k")]);
    let provider = Provider::start(&authority, good.clone()).await;
    let fetching = Fetching::start(&provider.url(), &authority, every(1)).await;
    let token = signer.good("k", &claims());
    let redirect = format!("302 Found\r\nlocation: {}/elsewhere", provider.url());
    let weak = json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" });
    for bad in [
        Says::Endless,
        Says::Status(redirect.leak()),
        Says::Status("500 Internal Server Error"),
        Says::Status("204 No Content"),
        Says::Text("<html>".to_owned()),
        Says::Text(format!("{}{}", key_set(&[]), " ".repeat(1 << 20))),
        Says::keys(&[weak]),
        Says::keys(&[]),
        Says::Nothing,
    ] {
        provider.say(bad);
        fetching.until_alarm(1).await;
        fetching.call(&token).await.expect("the former keys count");
        provider.say(good.clone());
        fetching.until_alarm(0).await;
    }
    assert!(provider.asked.lock().unwrap().iter().all(|path| path == "/"));
}

/// A server of another authority, of another name, or whose certificate is over, or not valid yet, is not believed.
#[tokio::test]
async fn a_server_that_is_not_the_right_one_is_not_believed() {
    let (authority, other, signer) = (Authority::new(), Authority::new(), Signer::ed25519());
    for (ca, name, valid) in [
        (&other, "127.0.0.1", Valid::Now),
        (&authority, "127.0.0.2", Valid::Now),
        (&authority, "127.0.0.1", Valid::Formerly),
        (&authority, "127.0.0.1", Valid::Later),
    ] {
        let keys = Says::keys(&[signer.public("k")]);
        let mut provider = Provider::with(authority.sign(&[name], valid), keys).await;
        provider.up().await;
        let fetching = Fetching::start(&provider.url(), ca, every(1)).await;
        fetching.until_alarm(1).await;
        fetching.cannot_tell(&signer.good("k", &claims())).await;
        assert_eq!(provider.count(), 0, "no request goes to one that is not known");
    }
}

/// Who invents keys makes the issuer no work, and others wait for nothing.
#[tokio::test]
async fn strangers_with_invented_keys_make_the_issuer_no_work() {
    let (authority, signer, eve) = (Authority::new(), Signer::ed25519(), Signer::ed25519());
    let provider = Provider::start(&authority, Says::keys(&[signer.public("k")])).await;
    let fetching = Fetching::start(&provider.url(), &authority, every(3600)).await;
    let token = signer.good("k", &claims());
    let (begun, mut calls) = (Instant::now(), 0);
    // Ten seconds lie between two fetches.
    while begun.elapsed() < Duration::from_secs(12) {
        let invented = eve.good(&format!("k{calls}"), &claims());
        let status = fetching.call(&invented).await.expect_err("an invented key");
        assert!(matches!(status.code(), Code::Unauthenticated | Code::Unavailable), "{status}");
        fetching.call(&token).await.expect("a good token");
        calls += 1;
    }
    let fetched = provider.count();
    assert!(calls > 100, "{calls}");
    assert_eq!(fetched, 2, "at the start, and ten seconds later: {calls} calls");
}

/// Keys count while they cannot be fetched, and not for ever.
#[tokio::test]
async fn keys_that_are_too_old_count_no_more() {
    let (authority, signer) = (Authority::new(), Signer::ed25519());
    let mut provider = Provider::start(&authority, Says::keys(&[signer.public("k")])).await;
    let age = |config: &mut Config| {
        every(1)(config);
        config.jwt_keys_age_max = Period::secs(10);
    };
    let fetching = Fetching::start(&provider.url(), &authority, age).await;
    let token = signer.good("k", &claims());
    provider.stop();
    fetching.until_alarm(1).await;
    fetching.call(&token).await.expect("the former keys count");
    until("the end of the keys", async || (!fetching.accepts(&token).await).then_some(())).await;
    fetching.cannot_tell(&token).await;
    provider.up().await;
    until("the keys", async || fetching.accepts(&token).await.then_some(())).await;
}

/// The issuer tells where its keys are; one that calls itself otherwise, or sends its readers where others can
/// listen, is not believed.
#[tokio::test]
async fn an_issuer_tells_where_its_keys_are() {
    let (authority, signer) = (Authority::new(), Signer::ed25519());
    let provider = Provider::start(&authority, Says::keys(&[signer.public("k")])).await;
    let (issuer, keys) = (format!("{}/realm", provider.url()), format!("{}/keys", provider.url()));
    *provider.description.lock().unwrap() =
        json!({ "issuer": ISSUER, "jwks_uri": keys }).to_string();
    let discover = |config: &mut Config| {
        every(1)(config);
        config.jwt_issuer = issuer.clone();
    };
    let fetching = Fetching::start("discover", &authority, discover).await;
    let token = signer.good("k", &with("iss", json!(issuer)));
    assert_eq!(provider.asked.lock().unwrap()[0], "/realm/.well-known/openid-configuration");
    let describe = |description: Value| {
        *provider.description.lock().unwrap() = description.to_string();
    };
    for bad in [
        json!({ "issuer": ISSUER, "jwks_uri": keys }),
        json!({ "issuer": issuer, "jwks_uri": "http://192.0.2.1/keys" }),
        json!({ "issuer": issuer, "jwks_uri": 7 }),
    ] {
        describe(bad);
        fetching.until_alarm(1).await;
        fetching.cannot_tell(&token).await;
    }
    describe(json!({ "issuer": issuer, "jwks_uri": keys }));
    until("the keys", async || fetching.accepts(&token).await.then_some(())).await;
    let by_another = fetching.call(&signer.good("k", &claims())).await.expect_err("another issuer");
    assert_eq!(by_another.code(), Code::Unauthenticated, "{by_another}");
}
