//! Files that are replaced while the coordinator runs.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tonic::Code;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use unanimo_coordinator::Config;
use unanimo_coordinator::identity::Token;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::operator_service_client::OperatorServiceClient;
use unanimo_proto::v1::watch_transaction_request::Key;
use unanimo_proto::v1::{
    BeginTransactionRequest, ListWebhooksRequest, Mode, RollbackTransactionRequest,
    WatchTransactionRequest, rollback_transaction_request,
};
use unanimo_tests::reaper::run_folder;
use unanimo_tests::wait::until;

use super::handshakes::http_get;
use super::roles::Signing;
use super::{Authority, Valid, ask, channel, guarded};
use crate::coordinator::http::http_call;
use crate::coordinator::{World, config, sqlite_url};

/// A coordinator whose files are copies, to be replaced.
struct Replaceable {
    world: World,
    cert: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

impl Replaceable {
    async fn start(authority: &Authority) -> Self {
        let config = guarded(authority);
        let path = |file: &unanimo_coordinator::config::FilePath| file.path().unwrap().to_owned();
        let (cert, key) = (path(&config.tls_cert), path(&config.tls_key));
        let ca = authority.folder.join("clients.pem");
        fs::copy(authority.ca(), &ca).unwrap();
        let config = unanimo_coordinator::Config { tls_client_ca: super::setting(&ca), ..config };
        Self { world: World::start(config).await, cert, key, ca }
    }

    fn url(&self) -> String {
        format!("https://{}", self.world.running.grpc_address().unwrap())
    }

    async fn alarms(&self, authority: &Authority) -> u64 {
        let (_, text) = http_get(&self.world, authority, "/metrics", true).await;
        let line = "unanimo_alarms{alarm=\"files_not_used\"} ";
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.map_or(0, |number| number.parse().unwrap())
    }
}

async fn begin(channel: Channel, gid: &str) {
    let request = BeginTransactionRequest {
        gid: gid.to_owned(),
        mode: Mode::Tcc.into(),
        ..Default::default()
    };
    CoordinatorServiceClient::new(channel).begin_transaction(request).await.unwrap();
}

/// The open connection goes on, and new ones are judged by the new files.
#[tokio::test]
async fn new_connections_use_new_files_and_open_ones_go_on() {
    let (old, new) = (Authority::new(), Authority::new());
    let coordinator = Replaceable::start(&old).await;
    let open = channel(&coordinator.url(), old.client());
    begin(open.clone(), "g").await;
    let request = WatchTransactionRequest { key: Some(Key::Gid("g".into())), ..Default::default() };
    let mut client = CoordinatorServiceClient::new(open.clone());
    let mut changes = client.watch_transaction(request).await.unwrap().into_inner();
    changes.message().await.unwrap().expect("its first state");

    new.sign_into(&["127.0.0.1"], Valid::Now, &coordinator.cert, &coordinator.key);
    fs::copy(new.ca(), &coordinator.ca).unwrap();
    until("the new files to be used", async || {
        ask(channel(&coordinator.url(), new.client())).await.ok()
    })
    .await;
    ask(channel(&coordinator.url(), old.client())).await.expect_err("the former authority");
    let (cert, key) = old.sign(&["x"], Valid::Now);
    let files = new.trusting().identity(cert, key);
    ask(channel(&coordinator.url(), files)).await.expect_err("a client of the former authority");

    let key = Some(rollback_transaction_request::Key::Gid("g".into()));
    let request = RollbackTransactionRequest { key, ..Default::default() };
    client.rollback_transaction(request).await.expect("on the open connection");
    while let Some(change) = changes.message().await.expect("the stream goes on") {
        if change.transaction.unwrap().ended_at.is_some() {
            return;
        }
    }
    panic!("the stream ended before the transaction");
}

/// A bad file changes nothing, raises an alarm, and is used once it is mended.
#[tokio::test]
async fn a_bad_file_keeps_the_former_one_and_raises_an_alarm() {
    let authority = Authority::new();
    let coordinator = Replaceable::start(&authority).await;
    assert_eq!(coordinator.alarms(&authority).await, 0);
    let good = fs::read(&coordinator.cert).unwrap();
    let (other, _) = authority.server();
    for bad in [Some(fs::read(other).unwrap()), Some(b"nonsense".to_vec()), None] {
        match bad {
            Some(bad) => fs::write(&coordinator.cert, bad).unwrap(),
            None => fs::remove_file(&coordinator.cert).unwrap(),
        }
        until("the alarm", async || (coordinator.alarms(&authority).await == 1).then_some(()))
            .await;
        ask(channel(&coordinator.url(), authority.client())).await.expect("the former one");
        fs::write(&coordinator.cert, &good).unwrap();
        until("its end", async || (coordinator.alarms(&authority).await == 0).then_some(())).await;
    }
    ask(channel(&coordinator.url(), authority.client())).await.expect("it is good again");
}

/// A certificate that nobody would accept takes the place of none that is good: the servers' own, and the one that
/// participants are shown.
#[tokio::test]
async fn a_certificate_out_of_its_time_replaces_no_good_one() {
    let authority = Authority::new();
    let coordinator = Replaceable::start(&authority).await;
    let config = &coordinator.world.config;
    let path = |file: &unanimo_coordinator::config::FilePath| file.path().unwrap().to_owned();
    let shown = (path(&config.participant_tls_cert), path(&config.participant_tls_key));
    for (cert, key) in [&(coordinator.cert.clone(), coordinator.key.clone()), &shown] {
        for valid in [Valid::Formerly, Valid::Later] {
            authority.sign_into(&["127.0.0.1"], valid, cert, key);
            until("the alarm", async || (coordinator.alarms(&authority).await == 1).then_some(()))
                .await;
            ask(channel(&coordinator.url(), authority.client())).await.expect("the former one");
            authority.sign_into(&["127.0.0.1"], Valid::Now, cert, key);
            until("its end", async || (coordinator.alarms(&authority).await == 0).then_some(()))
                .await;
        }
    }
    ask(channel(&coordinator.url(), authority.client())).await.expect("the new one");
}

/// A file that is being written may be good half way, and say something else: this one makes a viewer of a tenant one of
/// all, until its last line is there.
#[tokio::test]
async fn a_file_that_is_being_written_is_not_read() {
    let token = Token::new([3; Token::RANDOM_BYTES]);
    let entry = format!(
        "[[identity]]\nname = \"ann\"\nroles = [\"viewer\"]\ntokens = [\"{}\"]\n",
        token.hashed()
    );
    let whole = format!("{entry}namespace = \"tenant-a\"\n");
    let path = run_folder().join(uuid::Uuid::new_v4().to_string());
    fs::write(&path, &whole).unwrap();
    let world =
        World::start(Config { identities: super::setting(&path), ..config(&sqlite_url()) }).await;
    let link = InterceptedService::new(world.channel.clone(), Signing::bearer(token.text()));
    let mut client = OperatorServiceClient::new(link);
    // Identities of a namespace do not see webhooks.
    let mut sees_all = async || {
        let listed = client.list_webhooks(ListWebhooksRequest::default()).await;
        listed.map_or_else(|status| status.code(), |_| Code::Ok) == Code::Ok
    };
    for number in 0..100 {
        for part in [&entry, &whole] {
            fs::write(&path, format!("{part}# {number}\n")).unwrap();
            tokio::time::sleep(Duration::from_millis(15)).await;
            assert!(!sees_all().await, "half of the file was read");
        }
    }
    fs::write(&path, &entry).unwrap();
    until("a file that stays to be read", async || sees_all().await.then_some(())).await;
}

/// Files of a collector of spans are told as all others are.
#[tokio::test]
async fn bad_files_of_a_collector_raise_the_alarm() {
    let authority = Authority::new();
    let headers = authority.folder.join("headers.toml");
    fs::write(&headers, "api-key = \"x\"\n").unwrap();
    let ca = authority.folder.join("collector.pem");
    fs::copy(authority.ca(), &ca).unwrap();
    let config = Config {
        otlp_endpoint: "https://127.0.0.1:1".to_owned(),
        otlp_headers_file: super::setting(&headers),
        otlp_tls_ca: super::setting(&ca),
        ..config(&sqlite_url())
    };
    let world = World::start(config).await;
    let address = world.running.admin_address().unwrap();
    let alarms = async || {
        let metrics = http_call(address, "GET", "/metrics", &[], b"").await.body;
        let line = "unanimo_alarms{alarm=\"files_not_used\"} ";
        metrics.lines().find_map(|found| found.strip_prefix(line)).map(str::to_owned)
    };
    for path in [&headers, &ca] {
        let good = fs::read(path).unwrap();
        fs::write(path, "nonsense").unwrap();
        until("the alarm", async || (alarms().await.as_deref() == Some("1")).then_some(())).await;
        fs::write(path, good).unwrap();
        until("its end", async || (alarms().await.as_deref() == Some("0")).then_some(())).await;
    }
}
