//! Example participant in Node, over HTTP with JSON, in a process of its own, with a real coordinator.

mod described;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::future::pending;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::Signal;
use serde_json::Value;
use unanimo_conformance::{Options, OverHttp};
use unanimo_coordinator::config::Period;
use unanimo_coordinator::identity::Token;
use unanimo_proto::v1::Mode;
use unanimo_sdk::client::StepAction;
use unanimo_sdk::{Client, Json, Outcome, Participant, Serve, Serving, Sqlite, refuse};
use unanimo_testing::Subject;
use unanimo_tests::reaper::{Owned, run_folder};
use unanimo_tests::wait::{PATIENCE, until};
use uuid::Uuid;

use crate::coordinator::http::http_call;
use crate::coordinator::{World as Coordinating, config, sqlite_url};
use crate::python::root;
use crate::security::{Authority, Valid, setting};
use crate::testing::sqlite::{self, Shop};

/// Pieces in stock of both shops at the start.
const STOCK: i64 = crate::testing::STOCK;

/// Pause before a client repeats a call that was not answered.
const PAUSE: Duration = Duration::from_millis(50);

/// The shop in Node, with its file.
struct NodeShop {
    folder: PathBuf,
    process: Owned,
    lives: u32,
}

impl NodeShop {
    fn start(coordinator: SocketAddr, options: &[String]) -> Self {
        let folder = run_folder().join(Uuid::new_v4().to_string());
        fs::create_dir(&folder).unwrap();
        let process = Self::spawn(&folder, 0, coordinator, options);
        Self { folder, process, lives: 0 }
    }

    fn spawn(folder: &Path, life: u32, coordinator: SocketAddr, options: &[String]) -> Owned {
        let mut command = Command::new("node");
        command
            .arg(root().join("examples/node-participant/server.js"))
            .args(["--item", &format!("lamp={STOCK}"), "--sweep-interval", "0.3"])
            .args(["--coordinator", &format!("http://{coordinator}")])
            .args(options)
            .arg("--file")
            .arg(folder.join("shop.journal"))
            .stdin(Stdio::null())
            .stdout(File::create(folder.join(format!("{life}.out"))).unwrap())
            .stderr(File::create(folder.join(format!("{life}.err"))).unwrap());
        Owned::spawn(&mut command)
    }

    /// Kills the shop as `kill -9` does, and starts it again.
    fn kill(&mut self, coordinator: SocketAddr) {
        self.process.kill();
        self.lives += 1;
        self.process = Self::spawn(&self.folder, self.lives, coordinator, &[]);
    }

    fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.join(name)).unwrap();
        (0..=self.lives).map(|life| read(format!("{life}.err"))).collect()
    }

    /// Waits until it serves, and returns the endpoint.
    async fn endpoint(&self) -> String {
        until("the shop to say where it answers", async || {
            let out = self.folder.join(format!("{}.out", self.lives));
            let line = fs::read_to_string(out).unwrap();
            Some(line.strip_suffix('\n')?.rsplit_once(' ')?.1.to_owned())
        })
        .await
    }

    /// Items and sales, by name.
    async fn values(&self) -> Value {
        let endpoint = self.endpoint().await;
        let address = endpoint.strip_prefix("http+json://").unwrap().strip_suffix("/tx").unwrap();
        let reply = http_call(address.parse().unwrap(), "GET", "/stock", &[], b"").await;
        serde_json::from_str(&reply.body).unwrap()
    }

    /// Returns the pieces that are free and that are reserved.
    async fn stock(&self) -> (i64, i64) {
        let stock = self.values().await["items"]["lamp"].clone();
        (stock["free"].as_i64().unwrap(), stock["reserved"].as_i64().unwrap())
    }

    /// Customers of its sales.
    async fn sales(&self) -> Vec<String> {
        let values = self.values().await;
        let sales = values["sales"].as_object().unwrap().values();
        let mut sales: Vec<_> =
            sales.map(|sale| sale["customer"].as_str().unwrap().to_owned()).collect();
        sales.sort();
        sales
    }
}

type RustShop = Shop<{ sqlite::GOOD }>;

/// Coordinator, the shop in Node over HTTP, and over gRPC a shop and a payer of the SDK.
struct World {
    coordinating: Coordinating,
    node: NodeShop,
    rust: RustShop,
    serving: [Serving; 2],
}

const REGISTER: StepAction<Json<String>, Json<String>> = StepAction::new("crm", "register");
const SELL: StepAction<Json<Value>, Json<Value>, (Json<String>,)> =
    StepAction::new("node-shop", "sell").inputs(["customer"]);
const PAY: StepAction<Json<i64>, ()> = StepAction::new("crm", "pay");

/// Steps of sagas in Rust: one that gives a name, and one that refuses where there is no money.
async fn crm() -> Participant<Sqlite> {
    let file = run_folder().join(format!("{}.db", Uuid::now_v7()));
    Participant::new("crm", Sqlite::open(&file).await.unwrap())
        .saga_fn("register", async |_, Json(name): Json<String>| Ok(Json(format!("good {name}"))))
        .compensate(async |_, _, _| Ok(()))
        .saga_fn("pay", async |_, Json(money): Json<i64>| match money {
            0 => refuse("NO_MONEY", "nothing is left"),
            _ => Ok(()),
        })
        .compensate(async |_, _| Ok(()))
}

impl World {
    async fn start() -> Self {
        let mut config = config(&sqlite_url());
        config.keep_alive_interval = Period::secs(1);
        let coordinating = Coordinating::start(config).await;
        let grpc = format!("http://{}", coordinating.running.grpc_address().unwrap());
        let node = NodeShop::start(coordinating.running.admin_address().unwrap(), &[]);
        let rust = RustShop::fresh().await.unwrap();
        let serve = || Serve::on("127.0.0.1:0").register_with(&grpc);
        let mut shop = rust.participant().await.unwrap().serve(serve()).await.unwrap();
        shop.registered().await.unwrap();
        let mut crm = crm().await.serve(serve()).await.unwrap();
        crm.registered().await.unwrap();
        let world = Self { coordinating, node, rust, serving: [shop, crm] };
        until("the shop in Node to be registered", async || {
            let gid = format!("probe-{}", Uuid::new_v4());
            reserve(&world.client(), &gid, 100_000, 1).await.map(drop)
        })
        .await;
        world
    }

    fn admin(&self) -> SocketAddr {
        self.coordinating.running.admin_address().unwrap()
    }

    fn client(&self) -> Client {
        let address = self.coordinating.running.grpc_address().unwrap();
        Client::new(format!("http://{address}")).unwrap()
    }

    /// Waits until both shops have the stock that these transactions leave.
    async fn until_stock(&self, node: i64, rust: i64) {
        let wanted = format!("free {rust}, reserved 0");
        until(&format!("stock {node} and {rust}; Node says:\n{}", self.node.log()), async || {
            let both = (self.node.stock().await, self.rust.observe().await.unwrap());
            (both == ((node, 0), wanted.clone())).then_some(())
        })
        .await;
    }

    async fn stop(mut self) {
        assert!(!self.node.log().contains("no answer:"), "{}", self.node.log());
        self.node.process.signal(Signal::TERM);
        let ended = async || self.node.process.child().try_wait().unwrap();
        let status = until("the shop in Node to end", ended).await;
        assert!(status.success(), "{}", self.node.log());
        for serving in self.serving {
            serving.stop().await.unwrap();
        }
    }
}

fn lamps(pieces: i64) -> Json<Value> {
    Json(serde_json::json!({"item": "lamp", "pieces": pieces}))
}

/// Submits a TCC over both shops; `None` if there is no answer.
async fn reserve(client: &Client, gid: &str, node: i64, rust: i64) -> Option<Outcome> {
    let draft = client.tcc(gid).timeout(Duration::from_secs(20)).with_outputs();
    let draft = draft.branch("node", "node-shop", "reserve", lamps(node));
    let pieces = serde_json::json!({"pieces": rust});
    draft.branch("rust", "shop", "reserve", Json(pieces)).submit().await.ok()
}

/// Submits a saga: a step in Rust, whose output goes to the one in Node, and another one in Rust.
async fn sale(client: &Client, gid: &str, money: i64) -> Option<Outcome> {
    let (draft, ()) = client.saga(gid).timeout(Duration::from_secs(20)).steps(|saga| {
        let customer = saga.add(REGISTER.step("customer", Json(gid.to_owned())));
        let sold = saga.add(SELL.step("sale", lamps(1)).inputs((&customer,)));
        saga.add(PAY.step("pay", Json(money)).after(&sold));
    });
    draft.submit().await.ok()
}

/// A transaction with a branch in Node, and the number that lets the other participant agree or not.
#[derive(Clone, Copy)]
enum Work {
    Reserve(i64),
    Sale(i64),
}

/// Repeats a submission with the same gid until it has an outcome.
async fn is_committed(client: &Client, gid: &str, work: Work) -> bool {
    let started = Instant::now();
    loop {
        let outcome = match work {
            Work::Reserve(rust) => reserve(client, gid, 1, rust).await,
            Work::Sale(money) => sale(client, gid, money).await,
        };
        match outcome {
            Some(Outcome::Committed(_)) => return true,
            Some(Outcome::Aborted(_)) => return false,
            Some(Outcome::NotDecided(_)) | None => tokio::time::sleep(PAUSE).await,
        }
        assert!(started.elapsed() < PATIENCE, "there is no outcome");
    }
}

#[tokio::test]
async fn a_shop_in_node_commits_aborts_and_refuses() {
    let world = World::start().await;
    let client = world.client();
    let outcome = reserve(&client, "both", 3, 3).await.unwrap();
    let Outcome::Committed(committed) = outcome else { panic!("{outcome:?}") };
    let output: Json<Value> = committed.branches[0].output.read().unwrap();
    assert_eq!(output.0, serde_json::json!({"reserved": 3}));
    world.until_stock(STOCK - 3, STOCK - 3).await;
    for (gid, node, rust, words) in [
        ("no-node", STOCK, 1, "fewer than 10000 pieces of lamp are left"),
        ("no-rust", 1, STOCK, "too few left"),
    ] {
        let outcome = reserve(&client, gid, node, rust).await.unwrap();
        assert!(outcome.is_aborted() && format!("{outcome:?}").contains(words), "{outcome:?}");
    }
    world.until_stock(STOCK - 3, STOCK - 3).await;
    assert!(sale(&client, "sold", 1).await.unwrap().is_committed());
    assert!(sale(&client, "unpaid", 0).await.unwrap().is_aborted());
    world.until_stock(STOCK - 4, STOCK - 3).await;
    assert_eq!(world.node.sales().await, ["good sold"]);
    world.stop().await;
}

/// S7: a TCC and a saga go on while the shop is killed at any moment.
#[tokio::test(flavor = "multi_thread")]
async fn s7_a_shop_in_node_is_killed_in_the_middle() {
    const WAVES: u64 = 4;
    const AT_ONCE: u64 = 6;
    let mut world = World::start().await;
    let (mut reserved, mut sold) = (0, 0);
    for wave in 0..WAVES {
        let transactions: Vec<_> = (0..AT_ONCE)
            .map(|number| {
                let (client, gid) = (world.client(), format!("wave-{wave}-{number}"));
                tokio::spawn(async move {
                    // The other participant refuses every third one, when Node may have voted PREPARED.
                    let fails = number % 3 == 2;
                    let (rust, money) = if fails { (2 * STOCK, 0) } else { (1, 1) };
                    let of_sale = format!("{gid}-sale");
                    let tcc = is_committed(&client, &gid, Work::Reserve(rust));
                    tokio::join!(tcc, is_committed(&client, &of_sale, Work::Sale(money)))
                })
            })
            .collect();
        // Different moments of the work.
        tokio::time::sleep(Duration::from_millis(5 + 13 * wave)).await;
        world.node.kill(world.admin());
        for transaction in transactions {
            let (tcc, saga) = transaction.await.unwrap();
            (reserved, sold) = (reserved + i64::from(tcc), sold + i64::from(saga));
        }
    }
    world.until_stock(STOCK - reserved - sold, STOCK - reserved).await;
    assert_eq!(i64::try_from(world.node.sales().await.len()).unwrap(), sold);
    assert!(reserved > 0 && sold > 0, "{reserved} and {sold}");
    world.stop().await;
}

#[tokio::test]
async fn a_shop_in_node_keeps_every_guarantee() {
    let world = World::start().await;
    for (action, mode, skipped) in [("reserve", Mode::Tcc, 1), ("sell", Mode::Saga, 9)] {
        let input = Bytes::from_static(b"\"customer-7\"");
        let options = Options {
            payload: Bytes::from_static(br#"{"item": "lamp", "pieces": 2}"#),
            refused_payload: Some(Bytes::from_static(br#"{"item": "lamp", "pieces": 100000}"#)),
            inputs: BTreeMap::from([("customer".to_owned(), input)]),
            mode,
            ..Options::new("node-shop", action)
        };
        let before = world.node.stock().await;
        let endpoint = world.node.endpoint().await;
        let target = Arc::new(OverHttp::connect(&endpoint).await.unwrap());
        let report = unanimo_conformance::run(target, options, |_| {}, pending()).await.unwrap();
        assert!(report.passed(), "{report}");
        assert_eq!(
            report.counts().2,
            skipped,
            "only Commit in a saga, and WORKING, which it never answers: {report}"
        );
        let committed = 2 * i64::from(report.committed);
        assert_eq!(world.node.stock().await, (before.0 - committed, 0), "{report}");
    }
    world.stop().await;
}

/// A write that was cut off is no record, and a file that is damaged before its end is not used.
#[tokio::test]
async fn s7_what_was_written_in_part_is_no_row_in_node() {
    let mut world = World::start().await;
    assert!(reserve(&world.client(), "g", 3, 3).await.unwrap().is_committed());
    world.until_stock(STOCK - 3, STOCK - 3).await;
    world.node.process.kill();
    let file = world.node.folder.join("shop.journal");
    let whole = fs::read(&file).unwrap();
    let part = br#"0123456789abcdef {"set":{"stock/lamp":{"free":1,"#;
    fs::write(&file, [&whole[..], part].concat()).unwrap();
    world.node.kill(world.admin());
    world.until_stock(STOCK - 3, STOCK - 3).await;
    world.node.process.kill();
    let mut damaged = fs::read(&file).unwrap();
    assert_eq!(damaged, whole, "the part is cut off");
    damaged[30] ^= 1;
    fs::write(&file, damaged).unwrap();
    world.node.kill(world.admin());
    let ended = async || world.node.process.child().try_wait().unwrap();
    assert!(!until("the shop to end", ended).await.success());
    assert!(world.node.log().contains("is damaged at byte 0"), "{}", world.node.log());
}

/// With an authority and tokens it hears its coordinator alone, over TLS in both directions.
#[tokio::test]
async fn a_shop_in_node_hears_its_coordinator_alone() {
    let authority = Authority::new();
    let (token, other) =
        (Token::new([7; Token::RANDOM_BYTES]), Token::new([8; Token::RANDOM_BYTES]));
    let hashes = run_folder().join(Uuid::new_v4().to_string());
    fs::write(&hashes, token.hashed()).unwrap();
    let (cert, key) = authority.server();
    let files = [("--tls-cert", &cert), ("--tls-key", &key), ("--tls-client-ca", &authority.ca())];
    let files = files.into_iter().chain([("--accept-tokens", &hashes)]);
    let options: Vec<_> =
        files.flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()]).collect();
    // It is named in the configuration, and does not register.
    let node = NodeShop::start(([127, 0, 0, 1], 1).into(), &options);
    let endpoint = node.endpoint().await;
    assert!(endpoint.starts_with("https+json://127.0.0.1:"), "{endpoint}");
    let shown = authority.sign(&["coordinator"], Valid::Now);
    for (token, has_certificate, expected) in
        [(&token, true, true), (&other, true, false), (&token, false, false)]
    {
        let tokens = run_folder().join(Uuid::new_v4().to_string());
        fs::write(&tokens, format!("node-shop = \"{}\"\n", token.text())).unwrap();
        let mut config = config(&sqlite_url());
        config.participant_tokens = setting(&tokens);
        config.participant_tls_ca = setting(&authority.ca());
        if has_certificate {
            config.participant_tls_cert = setting(&shown.0);
            config.participant_tls_key = setting(&shown.1);
        }
        let name = unanimo_core::ParticipantName::new("node-shop").unwrap();
        config.participants.insert(name, vec![endpoint.clone()]);
        let world = Coordinating::start(config).await;
        let address = world.running.grpc_address().unwrap();
        let client = Client::new(format!("http://{address}")).unwrap();
        let draft = client.tcc("g").timeout(Duration::from_secs(2));
        let draft = draft.branch("node", "node-shop", "reserve", lamps(1));
        let outcome = draft.submit().await.unwrap();
        assert_eq!(outcome.is_committed(), expected, "{has_certificate}: {outcome:?}");
    }
}

/// Options that cannot be served are told with their rule, and by no trace of the program.
#[test]
fn bad_options_of_a_shop_in_node_are_told() {
    let folder = run_folder().join(Uuid::new_v4().to_string());
    fs::create_dir(&folder).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let run = |options: &[&str]| {
        let mut node = Command::new("node");
        node.arg(root().join("examples/node-participant/server.js")).args(options);
        let ran = node.arg("--file").arg(folder.join("shop.journal")).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(2), "{options:?}: {said}");
        said
    };
    let far = ["--coordinator", "http://10.1.2.3:1"];
    let with_token = [&far[..], &["--token-file", "x"]].concat();
    let allowed = ["--coordinator-insecure", "--listen", &taken];
    for (options, told) in [
        (vec!["--coordinator", "coordinator:7611"], "must begin with http:// or https://"),
        (with_token.clone(), "--token-file would be read on the way"),
        // With a token, or without one, and no warning either.
        ([&with_token[..], &allowed].concat(), "EADDRINUSE"),
        ([&far[..], &allowed].concat(), "EADDRINUSE"),
        (vec!["--listen", "7000"], "--listen 7000: must be HOST:PORT"),
        (vec!["--listen", "::1:7000"], "must be HOST:PORT, such as 127.0.0.1:7000 or [::1]:7000"),
        (vec!["--listen", "127.0.0.1:70000"], "must be HOST:PORT"),
        (vec!["--listen", &taken], "EADDRINUSE"),
        (vec!["--tls-cert", "shop.pem"], "give --tls-cert and --tls-key"),
        (vec!["--tls-client-ca", "ca.pem"], "--tls-client-ca is for a server with TLS"),
        (vec!["--item", "lamp=-1"], "--item lamp=-1: must be NAME=PIECES"),
    ] {
        let said = run(&options);
        assert!(said.contains(told) && said.lines().count() == 1, "{options:?}: {said}");
    }
    let warned = run(&[&far[..], &["--listen", &taken]].concat());
    assert!(warned.contains("http://10.1.2.3:1 is on another machine and without TLS"), "{warned}");
}

/// Async work is no vote: its effects after its return belong to no record. And branches that the coordinator cannot tell
/// of are in the way of no others.
#[test]
fn s2_work_in_node_that_is_async_is_no_vote_and_each_group_is_asked_about() {
    let folder = run_folder().join(Uuid::new_v4().to_string());
    fs::create_dir(&folder).unwrap();
    let mut node = Command::new("node");
    node.arg(root().join("tests/suite/node/rules.mjs"));
    let ran = node.arg(root().join("examples/node-participant")).arg(&folder).output().unwrap();
    let (said, errors) =
        (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{said}{errors}");
    assert_eq!(said, "async\ngroups\nages\n");
}

/// S2: the copy of the file has the id of its original, whose process lives.
#[tokio::test]
async fn s2_a_copy_in_node_gets_no_work_while_the_original_lives() {
    let world = World::start().await;
    let folder = run_folder().join(Uuid::new_v4().to_string());
    fs::create_dir(&folder).unwrap();
    fs::copy(world.node.folder.join("shop.journal"), folder.join("shop.journal")).unwrap();
    let process = NodeShop::spawn(&folder, 0, world.admin(), &[]);
    let copy = NodeShop { folder, process, lives: 0 };
    until("the copy to be refused", async || {
        copy.log().contains("all processes of a participant must share one database").then_some(())
    })
    .await;
    for n in 0..6 {
        let gid = format!("g{n}");
        until("it to be committed", async || {
            let outcome = reserve(&world.client(), &gid, 1, 1).await?;
            outcome.is_committed().then_some(())
        })
        .await;
    }
    world.until_stock(STOCK - 6, STOCK - 6).await;
    assert_eq!(copy.stock().await, (STOCK, 0), "S2");
    world.stop().await;
}
