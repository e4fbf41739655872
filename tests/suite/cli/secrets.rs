//! Secrets of every kind in one run: nothing that the programs print, and nothing that they serve, has one.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::process::Signal;
use unanimo_coordinator::Config;
use unanimo_coordinator::config::DatabaseUrl;
use unanimo_coordinator::identity::Token;
use unanimo_tests::postgres::Server;
use unanimo_tests::scripted::Scripted;
use unanimo_tests::wait::until;

use super::{Program, addresses, command, file, new_path, run, serve, sqlite, tcc};
use crate::coordinator::http::http_call;
use crate::security::{Authority, Valid};

/// Line of the log for files that are not taken.
const NOT_USED: &str = "files have changed and cannot be used";

const PASSWORD: &str = "databaseZq81mXk3vT";
const OF_COORDINATOR: &str = "coordinatorZq81mXk3vTcoordinatorZq81mXk3vT";
const SIGNING: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const IN_PATH: &str = "pathZq81mXk3vT";
const IN_HEADER: &str = "headerZq81mXk3vT";
const IN_QUERY: &str = "queryZq81mXk3vT";
/// Everything of the programs, and of the libraries that see secrets.
const LOUD: &str = "trace,h2=trace,hyper=trace,hyper_util=trace,hyper_rustls=trace,rustls=trace,sqlx=trace,\
                    sqlx_core=trace,sqlx_postgres=trace,tonic=trace,tower=trace";

const OF_COLLECTOR: &str = "collectorZq81mXk3vT";

/// A file with secrets, and the setting that names it.
struct Holder {
    setting: &'static str,
    path: PathBuf,
    /// Content that is no such file, and has the secrets all the same.
    bad: String,
}

impl Holder {
    fn new(setting: &'static str, good: &str, bad: String) -> Self {
        let path = new_path(".toml");
        fs::write(&path, good).unwrap();
        Self { setting, path, bad }
    }

    fn args(&self) -> [String; 2] {
        [self.setting.to_owned(), self.path.display().to_string()]
    }
}

/// Files with secrets, and the secrets by what they are.
struct Kept {
    holders: Vec<Holder>,
    secrets: Vec<(&'static str, String)>,
    token: Token,
}

impl Kept {
    fn new(cert: &mut Vec<String>) -> Self {
        let token = Token::new([9; Token::RANDOM_BYTES]);
        let hashed = token.hashed();
        let identities = format!(
            "[[identity]]\nname = \"ann\"\nroles = [\"initiator\", \"operator\", \"viewer\"]\n\
             tokens = [\"{hashed}\"]\n"
        );
        let of_participants = format!("\"p\" = \"{OF_COORDINATOR}\"\n");
        let webhooks = format!(
            "[[webhook]]\nname = \"hook\"\nurl = \"http://127.0.0.1:1/{IN_PATH}?key={IN_PATH}\"\n\
             secrets = [\"whsec_{SIGNING}\"]\nbegin = \"oldest\"\nbackoff-max = \"1s\"\n\
             [webhook.headers]\nAuthorization = \"Bearer {IN_HEADER}\"\n"
        );
        let of_collector = format!("Authorization = \"Bearer {OF_COLLECTOR}\"\n");
        let (cert_file, key_file) = Authority::new().sign(&["coordinator"], Valid::Now);
        cert.extend(["--participant-tls-cert".to_owned(), cert_file.display().to_string()]);
        let key = fs::read_to_string(key_file).unwrap();
        let line = key.lines().nth(1).unwrap().to_owned();
        let cut = key.replacen("-----END", "-----", 1);
        let twice = |good: &str, secret: &str| format!("{good}{secret} = {secret}\n{good}");
        let (_, random) = token.text().rsplit_once('_').unwrap();
        let (_, hash) = hashed.split_once(':').unwrap();
        let secrets = vec![
            ("password of the database", PASSWORD.to_owned()),
            ("token of an identity", random.to_owned()),
            ("hash of a token", hash.to_owned()),
            ("token for a participant", OF_COORDINATOR.to_owned()),
            ("secret of a webhook", SIGNING.to_owned()),
            ("path of a webhook", IN_PATH.to_owned()),
            ("header of a webhook", IN_HEADER.to_owned()),
            ("query of the issuer's address", IN_QUERY.to_owned()),
            ("header of the collector", OF_COLLECTOR.to_owned()),
            ("private key", line),
        ];
        let bad_identities = twice(&identities, token.text());
        let holders = vec![
            Holder::new("--identities", &identities, bad_identities),
            Holder::new(
                "--participant-tokens",
                &of_participants,
                twice(&of_participants, OF_COORDINATOR),
            ),
            Holder::new("--webhooks", &webhooks, twice(&webhooks, SIGNING)),
            Holder::new("--webhooks", &webhooks, webhooks.replace("http:", "ftp:")),
            Holder::new("--otlp-headers-file", &of_collector, twice(&of_collector, OF_COLLECTOR)),
            Holder::new("--participant-tls-key", &key, cut),
        ];
        Self { holders, secrets, token }
    }

    /// Checks that a text has none of them.
    #[track_caller]
    fn check(&self, of: &str, text: &str) {
        let found: Vec<_> =
            self.secrets.iter().filter(|(_, secret)| text.contains(secret)).collect();
        assert!(found.is_empty(), "{of} has {found:?}: {text}");
    }
}

/// Puts a password into the address of a database.
fn with_password(url: &str) -> String {
    let (before, after) = url.split_once('@').unwrap();
    format!("{before}:{PASSWORD}@{after}")
}

/// Runs commands of whoever has the token, and checks what they print.
async fn check_commands(kept: &Kept, grpc: &str) -> String {
    let token = new_path(".token");
    fs::write(&token, kept.token.text()).unwrap();
    let token = token.display().to_string();
    let definition = file(&tcc("g", &["ok", "ok"]));
    let command = async |args: &[&str], codes: &[i32]| {
        let all = [args, &["--endpoint", grpc, "--token-file", &token]].concat();
        let ran = run(&all).await;
        assert!(codes.contains(&ran.code), "{args:?}: {} {} {}", ran.code, ran.out, ran.err);
        kept.check(&format!("{args:?}"), &format!("{}{}", ran.out, ran.err));
        ran
    };
    command(&["tx", "submit", &definition], &[0]).await;
    let shown = command(&["tx", "show", "g", "--json"], &[0]).await.json();
    for args in [
        &["tx", "list"][..],
        &["audit", "list"],
        &["audit", "export"],
        &["participant", "list"],
        &["webhook", "dead-letters"],
    ] {
        command(args, &[0]).await;
    }
    command(&["webhook", "test", "hook"], &[0, 1]).await;
    command(&["webhook", "list"], &[0]).await.says(&["hook", "http://127.0.0.1:1"]);
    command(&["webhook", "list", "--json"], &[0]).await.says(&["cannot connect"]);
    let wrong = new_path(".token");
    fs::write(&wrong, format!("{}x", kept.token.text())).unwrap();
    let wrong = ["tx", "list", "--endpoint", grpc, "--token-file", &wrong.display().to_string()];
    let denied = run(&wrong).await;
    kept.check("an error", &denied.check(1).err);
    shown["tx_id"].as_str().unwrap().to_owned()
}

/// Checks all pages and answers.
async fn check_pages(kept: &Kept, admin: &str, tx_id: &str) {
    let address: SocketAddr = admin.strip_prefix("http://").unwrap().parse().unwrap();
    let header = format!("Bearer {}", kept.token.text());
    let of_tx = format!("/tx/{tx_id}");
    let as_json = format!("/v1/tx/{tx_id}?includePayloads=true&includeTimeline=true");
    for path in [
        "/",
        "/attention",
        "/transactions",
        "/participants",
        "/system",
        &of_tx,
        &as_json,
        "/metrics",
        "/readyz",
        "/v1/server",
        "/v1/statistics?includeSettings=true",
        "/v1/transactions",
        "/v1/participants",
        "/v1/webhooks",
        "/v1/dead-letters",
        "/v1/audit",
        "/v1/openapi.json",
    ] {
        let reply = http_call(address, "GET", path, &[("authorization", &header)], b"").await;
        assert_eq!(reply.code, 200, "{path}: {reply:?}");
        kept.check(path, &format!("{}{}", reply.head, reply.body));
    }
}

/// Writes each file badly, and then as it was.
async fn spoil(kept: &Kept, program: &Program) {
    for holder in &kept.holders {
        let Some(good) = fs::read(&holder.path).ok() else { continue };
        let before = program.err().matches(NOT_USED).count();
        fs::write(&holder.path, &holder.bad).unwrap();
        until(&format!("a line about {}", holder.setting), async || {
            (program.err().matches(NOT_USED).count() > before).then_some(())
        })
        .await;
        fs::write(&holder.path, good).unwrap();
    }
}

/// Checks what is printed of addresses of a database that have the password where it is not looked for, and of files with
/// such an address that cannot be read.
async fn check_addresses(kept: &Kept) {
    for address in [
        "ann@127.0.0.1:1/x?password=PASSWORD@x",
        "127.0.0.1:1/x?user=ann&password=x@PASSWORD",
        "ann@127.0.0.1:1/x?password=a&PASSWORD",
        "ann@127.0.0.1:1/x?password=a&password=PASSWORD",
        "ann@127.0.0.1:1/x?sslpassword=PASSWORD",
        "ann@127.0.0.1:1/x?passwd=PASSWORD",
        "ann@127.0.0.1:1/x?pass%77ord=PASSWORD",
        "ann:x?PASSWORD@127.0.0.1:1/x",
    ] {
        let url = format!("postgres://{}", address.replace("PASSWORD", PASSWORD));
        let ran = serve(&url, &[]).end().await;
        assert_ne!(ran.code, 0, "{}", ran.err);
        kept.check(address, &format!("{}{}", ran.out, ran.err));
        let ran = run(&["config", "--database-url", &url]).await;
        kept.check(address, &format!("{}{}", ran.out, ran.err));
        let mut by_variable =
            command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        by_variable.env("UNANIMO_DATABASE_URL", &url);
        let ran = Program::start(by_variable).end().await;
        assert!(!ran.err.contains("command line"), "{}", ran.err);
        kept.check(address, &ran.err);
    }
    for line in
        ["database-url = \"URL", "database-url = URL", "[participants]\ndatabase-url = \"URL\""]
    {
        let line = line.replace("URL", &format!("postgres://ann:{PASSWORD}@127.0.0.1:1/x"));
        let ran = run(&["serve", "--config", &file(&line)]).await;
        ran.check(2).complains(&["understand the configuration file"]);
        kept.check("a file that cannot be read", &ran.err);
    }
    let collector = format!("https://ann:{PASSWORD}@127.0.0.1:1");
    let ran = serve(&sqlite(&new_path(".db")), &["--otlp-endpoint", &collector]).end().await;
    kept.check("the address of a collector", &ran.check(2).err);
}

/// The log with all its lines, errors, the settings, the commands' output, the metrics and every page, while files are good and
/// while they are bad.
#[tokio::test]
async fn nothing_that_is_printed_or_served_has_a_secret() {
    let mut more = Vec::new();
    let mut kept = Kept::new(&mut more);
    // Each is a file of its own where it is bad; one setting names one file.
    let mut named = std::collections::BTreeSet::new();
    let (used, others): (Vec<Holder>, Vec<Holder>) =
        kept.holders.drain(..).partition(|holder| named.insert(holder.setting));
    kept.holders = used;
    more.extend(kept.holders.iter().flat_map(Holder::args));
    let p = format!("p={}", Scripted::default().serve().await);
    let collector = ["--otlp-endpoint", "http://127.0.0.1:1", "--otlp-protocol", "http/protobuf"];
    let keys = format!("http://127.0.0.1:1/keys?key={IN_QUERY}");
    let issuer =
        ["--jwt-keys", &keys, "--jwt-issuer", "https://issuer.example", "--jwt-audience", "us"];
    let all = ["--participant", &p].into_iter().chain(collector).chain(issuer);
    more.extend(all.map(str::to_owned));
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let database = with_password(&Server::shared().database().await);
    let mut program = serve(&database, &[&more[..], &["--log", LOUD]].concat());
    let (grpc, admin) = addresses(&mut program).await;
    let tx_id = check_commands(&kept, &grpc).await;
    program.until_err("a receiver did not take an event").await;
    check_pages(&kept, &admin, &tx_id).await;
    let config = run(&[&["config", "--database-url", &database], &more[..]].concat()).await;
    config.check(0).says(&["***", "http://127.0.0.1:1/keys?***"]);
    kept.check("the settings", &format!("{}{}", config.out, config.err));
    spoil(&kept, &program).await;
    check_pages(&kept, &admin, &tx_id).await;
    program.process.signal(Signal::TERM);
    let ran = program.end().await;
    // How many lines there are depends on how often the receiver was asked: those that matter are there.
    ran.check(0).complains(&["DEBUG unanimo_coordinator", "has stopped in good order"]);
    assert!(ran.err.matches(NOT_USED).count() >= kept.holders.len(), "{}", ran.err);
    kept.check("the log", &format!("{}{}", ran.out, ran.err));

    // A start that fails says why, and not with what.
    for holder in kept.holders.iter().chain(&others) {
        fs::write(&holder.path, &holder.bad).unwrap();
        let mut args = holder.args().to_vec();
        if holder.setting == "--participant-tls-key" {
            args.extend(more[..2].iter().map(|arg| (*arg).to_owned()));
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ran = serve(&sqlite(&new_path(".db")), &args).end().await;
        assert_ne!(ran.code, 0, "{args:?}");
        kept.check(holder.setting, &format!("{}{}", ran.out, ran.err));
    }
    let nowhere = format!("postgres://ann:{PASSWORD}@127.0.0.1:1/x");
    let ran = serve(&nowhere, &[]).end().await;
    assert_ne!(ran.code, 0, "{}", ran.err);
    kept.check("an error of the database", &ran.err);
    ran.complains(&["the password of the database, or what may be one, is in the command line"]);
    check_addresses(&kept).await;
    // What a panic may print.
    let config = Config {
        database_url: DatabaseUrl::new(nowhere),
        jwt_keys: keys.parse().unwrap(),
        ..Config::default()
    };
    kept.check("the configuration", &format!("{config:?} {:?}", kept.token));
}
