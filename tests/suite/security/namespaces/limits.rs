//! Limits of a namespace: all identities of it share them, however many they are, and other namespaces notice nothing.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimo_coordinator::Config;
use unanimo_coordinator::config::Period;
use unanimo_coordinator::identity::Token;
use unanimo_core::ParticipantName;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_proto::v1::{self, GetServerInfoRequest, WatchTransactionsRequest};
use unanimo_tests::postgres::Server;
use unanimo_tests::reaper::run_folder;
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::super::quotas::{Client, assert_over, left_memory, on_both};
use super::super::roles::{Link, Signing};
use super::super::setting;
use crate::coordinator::process::Process;
use crate::coordinator::{World, config, describe, sqlite_url, tcc};

/// Identities of the greedy tenant.
const MANY: u8 = 10;

/// One of another namespace, and one of none.
const OTHERS: [u8; 2] = [MANY, MANY + 1];

/// A file with as many identities of one tenant, one of another, and one of none, each with every role.
pub(in crate::security) struct Many {
    path: PathBuf,
}

impl Many {
    pub(in crate::security) fn new() -> Self {
        let entry = |number: u8| {
            let namespace = match number {
                MANY => "namespace = \"tenant-b\"\n",
                n if n > MANY => "",
                _ => "namespace = \"tenant-a\"\n",
            };
            format!(
                "[[identity]]\nname = \"i{number}\"\nroles = [\"initiator\", \"participant\", \"viewer\"]\n\
                 participants = [\"q\", \"r\", \"s\"]\n{namespace}tokens = [\"{}\"]\n",
                token(number).hashed()
            )
        };
        let path = run_folder().join(Uuid::new_v4().to_string());
        fs::write(&path, (0..MANY + 2).map(entry).collect::<String>()).unwrap();
        Self { path }
    }

    /// Starts a coordinator with the participant `p` of both tenants.
    pub(in crate::security) async fn world(&self, p: &Scripted, mut config: Config) -> World {
        config.identities = setting(&self.path);
        config.drain_timeout = Period::millis(200);
        let endpoint = p.serve().await;
        for name in ["tenant-a/p", "tenant-b/p"] {
            let name = ParticipantName::full(name).unwrap();
            config.participants.insert(name, vec![endpoint.clone()]);
        }
        World::start(config).await
    }

    /// All identities of the greedy tenant.
    pub(in crate::security) fn greedy(&self, channel: &Channel) -> Vec<Link> {
        (0..MANY).map(|number| link(channel, number)).collect()
    }

    /// One of the other tenant.
    pub(in crate::security) fn other(&self, channel: &Channel) -> Link {
        link(channel, OTHERS[0])
    }
}

fn token(number: u8) -> Token {
    Token::new([number; Token::RANDOM_BYTES])
}

fn link(channel: &Channel, number: u8) -> Link {
    InterceptedService::new(channel.clone(), Signing::bearer(token(number).text()))
}

async fn ask(link: Link) -> Result<(), Status> {
    let mut client = CoordinatorServiceClient::new(link);
    client.get_server_info(GetServerInfoRequest::default()).await.map(drop)
}

#[track_caller]
fn limited(status: &Status, setting: &str) {
    assert_eq!(describe(status).1, "NAMESPACE_LIMITED", "{status}");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(
        status.message().contains("tenant-a") && status.message().contains(setting),
        "{status}"
    );
    let details = status.get_error_details();
    assert!(details.retry_info().unwrap().retry_delay.is_some_and(|delay| !delay.is_zero()));
}

#[track_caller]
fn assert_full(status: &Status, max: usize) {
    assert_over(status, "open-transactions-per-namespace", max, max);
    assert!(status.message().contains("namespace tenant-a"), "{status}");
}

/// L3: each of many identities calls as often as one may, and together they have one rate.
#[tokio::test]
async fn l3_the_identities_of_a_namespace_have_one_rate() {
    const RATE: u32 = 20;
    let many = Many::new();
    let mut config = config(&sqlite_url());
    (config.namespace_rate, config.identity_rate) = (RATE, RATE);
    let world = many.world(&Scripted::default(), config).await;
    let begun = Instant::now();
    let mut greedy = JoinSet::new();
    for number in 0..MANY {
        for _ in 0..RATE {
            greedy.spawn(ask(link(&world.channel, number)));
        }
    }
    let (mut served, mut refused) = (0, 0);
    while let Some(answer) = greedy.join_next().await {
        match answer.unwrap() {
            Ok(()) => served += 1,
            Err(status) => {
                limited(&status, "namespace-rate");
                refused += 1;
            }
        }
    }
    let most = f64::from(RATE) * (1.0 + begun.elapsed().as_secs_f64()) + 1.0;
    assert!(f64::from(served) <= most, "{served} of at most {most}");
    assert!(served >= RATE && refused > 0, "{served} and {refused}: it has its share");
    for number in OTHERS {
        for _ in 0..RATE {
            ask(link(&world.channel, number)).await.expect("another namespace, and none");
        }
    }
    until("the namespace to be served again", async || {
        tokio::time::sleep(Duration::from_secs_f64(1.0 / f64::from(RATE))).await;
        ask(link(&world.channel, 0)).await.ok()
    })
    .await;
}

/// Calls under way are counted together, and one that the namespace refuses takes nothing of its identity's share.
#[tokio::test]
async fn l3_the_identities_of_a_namespace_have_so_many_calls_under_way() {
    let many = Many::new();
    let mut config = config(&sqlite_url());
    (config.namespace_calls, config.identity_calls, config.identity_rate) = (2, 1, 5);
    let world = many.world(&Scripted::default(), config).await;
    let watch = async |number: u8| {
        let mut client = CoordinatorServiceClient::new(link(&world.channel, number));
        let request = WatchTransactionsRequest::default();
        client.watch_transactions(request).await.map(tonic::Response::into_inner)
    };
    let first = watch(0).await.unwrap();
    let own = watch(0).await.expect_err("its own bound is looked at first");
    assert_eq!(describe(&own).1, "IDENTITY_LIMITED", "{own}");
    let second = watch(1).await.expect("what was refused has no place");
    for _ in 0..20 {
        limited(&watch(2).await.expect_err("a third"), "namespace-calls");
    }
    for number in OTHERS {
        until("a place", async || ask(link(&world.channel, number)).await.ok()).await;
    }
    drop((first, second));
    until("the places to be given back", async || watch(2).await.ok()).await;
}

/// Counts together all that the identities of a namespace have open, in memory and asleep, also after a kill and by a
/// standby.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_a_namespace_has_so_many_open_after_a_kill_and_on_a_standby() {
    const MAX: usize = 12;
    let p = Scripted::default();
    let endpoint = p.serve().await;
    for url in [sqlite_url(), Server::shared().database().await] {
        let many = Many::new();
        let (file, max) = (many.path.display().to_string(), MAX.to_string());
        let participant = format!("tenant-a/p={endpoint}");
        let more = [
            ["--identities", &file],
            ["--participant", &participant],
            ["--open-transactions-per-namespace", &max],
        ];
        let more: Vec<_> = more.concat().into_iter().map(str::to_owned).collect();
        let process = Process::start(&url, &more).await;
        let client = |channel: &Channel, number: u8| Client::of(link(channel, number));
        for number in 0..4 {
            let mut client = client(&process.channel, number);
            client.schedule(&format!("tomorrow{number}"), 1).await.unwrap();
            client.begin(&format!("g{number}")).await.unwrap();
            client.begin(&format!("h{number}")).await.unwrap();
        }
        // Longer than between two counts of what sleeps.
        for round in 0..3 {
            let status = client(&process.channel, 5).begin(&format!("m{round}")).await;
            assert_full(&status.expect_err("one more"), MAX);
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        for number in OTHERS {
            client(&process.channel, number).begin("g0").await.expect("another namespace");
        }
        drop(process);

        let process = Process::start(&url, &more).await;
        let mut beginning = JoinSet::new();
        for n in 0..30 {
            let mut client = client(&process.channel, n % MANY);
            beginning.spawn(async move { client.begin(&format!("after{n}")).await });
        }
        for begun in beginning.join_all().await {
            assert_full(&begun.expect_err("nothing more"), MAX);
        }
        let mut one = client(&process.channel, 3);
        one.begin("g3").await.expect("S9: a known gid");
        one.roll_back("g3").await;
        client(&process.channel, 7).begin("instead").await.expect("a place for another identity");
        assert_full(&one.begin("more").await.expect_err("no more"), MAX);
        if url.starts_with("sqlite") {
            // A second process cannot even open the file.
            continue;
        }
        let mut config = config(&url);
        config.node = "two".parse().unwrap();
        config.open_transactions_per_namespace = MAX;
        config.identities = setting(&many.path);
        let name = ParticipantName::full("tenant-a/p").unwrap();
        config.participants.insert(name, vec![endpoint.clone()]);
        let standby = World::spawn(config, Default::default());
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(process);
        let world = standby.await.unwrap();
        let mut client = client(&world.channel, 7);
        assert_full(&client.begin("more").await.expect_err("no more"), MAX);
        client.roll_back("instead").await;
        client.begin("more").await.expect("a place");
        assert_full(&client.begin("another").await.expect_err("no more"), MAX);
    }
}

/// Those that are owed to a participant that fails are out of memory, and open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_what_waits_out_of_memory_for_a_participant_counts_for_the_namespace() {
    const OWED: usize = 24;
    // In the process a file stays locked as long as any task of an earlier life has it.
    for mut config in on_both().await.into_iter().skip(1) {
        unanimo_coordinator::engine::Handle::park_after(Duration::ZERO);
        config.stalled_after = Period::secs(1);
        config.transactions_max = 40;
        // A held call does not fail meanwhile.
        config.call_timeout = Period::secs(20);
        config.open_transactions_per_namespace = OWED;
        let (many, p) = (Many::new(), Scripted::default());
        let world = many.world(&p, config).await;
        p.hold(true);
        let mut owed = JoinSet::new();
        for (n, number) in (0..OWED).zip((0..MANY).cycle()) {
            let mut client = Client::of(link(&world.channel, number));
            let request = tcc(&format!("g{n}"), &["ok"]);
            owed.spawn(async move { client.submit(request).await });
        }
        for submitted in owed.join_all().await {
            assert_eq!(submitted.unwrap().outcome(), v1::Outcome::Committed);
        }
        p.set_mood(Mood::FailingInPhaseTwo);
        p.hold(false);
        left_memory(&world, OWED - 4).await;
        let begin = async |world: &World| Client::of(link(&world.channel, 9)).begin("b").await;
        assert_full(&begin(&world).await.expect_err("no more"), OWED);
        let world = world.crash_and_restart().await;
        assert_full(&begin(&world).await.expect_err("no more"), OWED);
        p.set_mood(Mood::Well);
        until("a place", async || begin(&world).await.ok()).await;
    }
}

/// A tenant's names leave the others theirs, also after a restart.
#[tokio::test]
async fn l5_a_namespace_registers_so_many_names() {
    let many = Many::new();
    let mut config = config(&sqlite_url());
    config.participants_per_namespace = 3;
    let mut world = many.world(&Scripted::default(), config).await;
    let register = async |world: &World, number: u8, name: &str| {
        let request = v1::RegisterEndpointRequest {
            participant: name.into(),
            endpoint: "http://127.0.0.1:2".into(),
            instance_id: "one".into(),
            ..Default::default()
        };
        let mut client = ParticipantDirectoryServiceClient::new(link(&world.channel, number));
        client.register_endpoint(request).await.map(drop)
    };
    // `p` is configured, and one of them.
    register(&world, 0, "q").await.unwrap();
    register(&world, 1, "r").await.unwrap();
    for _ in 0..2 {
        let status = register(&world, 2, "s").await.expect_err("a fourth");
        let expected = (Code::ResourceExhausted, "OVERLOADED".into(), vec!["participant".into()]);
        assert_eq!(describe(&status), expected);
        assert!(status.message().contains("participants-per-namespace"), "{status}");
        register(&world, 3, "q").await.expect("a name that is known");
        for number in OTHERS {
            for name in ["q", "r"] {
                register(&world, number, name).await.expect("another namespace, and none");
            }
        }
        world = world.crash_and_restart().await;
    }
}
