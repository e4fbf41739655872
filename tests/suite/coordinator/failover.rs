//! A standby of the coordinator's database that is behind, and is promoted while transactions are in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Channel;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    BeginTransactionRequest, CommitBranch, CommitTransactionRequest, GetTransactionRequest, Mode,
    Outcome, RollbackTransactionRequest, TransactionResult, WaitFor, get_transaction_request,
    rollback_transaction_request,
};
use unanimo_tests::alarms::Alarms;
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;

use super::events::{Events, refused};
use super::{World, branch, config, millis, tcc, until};
use crate::participant::promoted::{apart, one, pair, promote};
use crate::store::{execute, rows};

/// Transactions in flight that are decided while the standby is away.
const IN_FLIGHT: usize = 64;

impl World {
    /// Begins a transaction, and has two branches vote for it.
    async fn votes(&self, gid: &str) -> String {
        let begin = BeginTransactionRequest {
            gid: gid.into(),
            mode: Mode::Tcc.into(),
            timeout: millis(20_000),
            ..Default::default()
        };
        let tx_id = self.client().begin_transaction(begin).await.unwrap().into_inner().tx_id;
        for id in ["a", "b"] {
            self.execute(&tx_id, branch(id, "output-3")).await.unwrap();
        }
        tx_id
    }

    async fn decide(&self, tx_id: &str, wait_for: WaitFor) -> TransactionResult {
        let listed = ["a", "b"].map(|id| CommitBranch { branch_id: id.into(), vote: 0 });
        let commit = CommitTransactionRequest {
            tx_id: tx_id.into(),
            branches: listed.to_vec(),
            wait_for: wait_for.into(),
            ..Default::default()
        };
        self.client().commit_transaction(commit).await.unwrap().into_inner().result.unwrap()
    }
}

/// S1, S2, S4, S10: what was decided and told stays, and is stored again: of transactions in memory, all; of those that
/// had ended and left it, the end. Nobody is cancelled, and the loss raises an alarm.
#[tokio::test]
async fn s1_s4_what_the_owner_knows_outlives_a_failover_that_has_lost_it() {
    let (alarms, _listening) = Alarms::listen();
    let (primary, standby, url, there) = pair().await;
    let proxy = Proxy::start(primary.socket()).await;
    let world = World::start(config(&proxy.url(&url))).await;
    has_tables(&there).await;
    let (ended, held) = (world.votes("ended").await, world.votes("held").await);
    let now = "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8";
    let written = one(&url, now).await;
    let replayed = format!("SELECT (pg_last_wal_replay_lsn() - '0/0' >= {written})::int::bigint");
    until("the standby to have it", async || (one(&there, &replayed).await == 1).then_some(()))
        .await;
    apart(&standby, Server::stop_immediately).await;

    assert_eq!(world.decide(&ended, WaitFor::Ended).await.outcome(), Outcome::Committed);
    let known = world.get("ended").await;
    world.p.hold(true);
    assert_eq!(world.decide(&held, WaitFor::Decided).await.outcome(), Outcome::Committed);
    let mut in_flight = vec![held];
    for n in 0..IN_FLIGHT {
        let result = world.submit(tcc(&format!("new-{n}"), &["ok", "ok"])).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        in_flight.push(result.tx_id);
    }
    assert!(alarms.named("database_went_back").is_empty());

    apart(&primary, Server::stop_immediately).await;
    apart(&standby, Server::launch).await;
    promote(&there).await;
    // Whoever believed what is there would abort at once.
    execute(&there, rows::EXPIRE_ALL).await;
    proxy.switch_to(standby.socket());
    // They are written again though nothing happens to them.
    let decided = "SELECT count(DISTINCT tx_id) FROM unanimo.log WHERE kind & 15 = 3";
    until("what is in memory to be stored", async || {
        (one(&there, decided).await == IN_FLIGHT as i64 + 1).then_some(())
    })
    .await;
    // Longer than the pause between two scans for what is not in memory.
    tokio::time::sleep(Duration::from_secs(6)).await;
    world.p.hold(false);
    let open = "SELECT count(*) FROM (
        SELECT DISTINCT ON (tx_id) kind FROM unanimo.log ORDER BY tx_id, follows DESC) AS last
        WHERE kind & 15 < 5";
    until("their end", async || (one(&there, open).await == 0).then_some(())).await;
    for tx_id in in_flight.iter().chain([&ended]) {
        for id in ["a", "b"] {
            let calls = world.p.calls(tx_id, id);
            assert!(calls.contains(&"commit") && !calls.contains(&"cancel"), "S1: {calls:?}");
        }
        let key = Some(get_transaction_request::Key::TxId(tx_id.clone()));
        let request = GetTransactionRequest { key, ..Default::default() };
        let shown = world.client().get_transaction(request).await.unwrap().into_inner();
        assert_eq!(shown.transaction.unwrap().outcome(), Outcome::Committed, "S4, S10");
    }
    assert_eq!(world.get("ended").await.branches, known.branches, "its branches as they had ended");
    assert!(!alarms.named("database_went_back").is_empty(), "the loss is told");
    let told = world.submit(tcc("after", &["ok"])).await.unwrap();
    assert_eq!(told.outcome(), Outcome::Committed, "it goes on");
    world.running.stop().await.unwrap();
}

/// S9, S10: a transaction that had begun and ended meanwhile is stored again, also where nobody asks for it: a request that
/// comes again is not carried out again, nor after a restart. The loss raises an alarm. Its event comes again, with a revision
/// above those that were lost; who names one of these is told.
#[tokio::test]
async fn s9_s10_s11_whole_transactions_that_a_failover_has_lost_are_remembered() {
    let (alarms, _listening) = Alarms::listen();
    let (primary, standby, url, there) = pair().await;
    let proxy = Proxy::start(primary.socket()).await;
    let world = World::start(config(&proxy.url(&url))).await;
    has_tables(&there).await;
    world.submit(tcc("before", &["ok"])).await.unwrap();
    apart(&standby, Server::stop_immediately).await;
    let gone = |gid: &str| {
        let mut request = tcc(gid, &["ok", "refuse"]);
        request.wait_for = WaitFor::Ended.into();
        request
    };
    let (mut told, mut lost) = (Vec::new(), BTreeMap::new());
    let mut events = Events::after(&world, 0).await;
    assert_eq!(events.next().await.gid, "before");
    for gid in ["asked", "again", "rolled-back", "not-asked"] {
        told.push(world.submit(gone(gid)).await.unwrap());
        assert_eq!(told.last().unwrap().outcome(), Outcome::Aborted);
        let event = events.next().await;
        lost.insert(event.gid, event.revision);
    }
    let known = world.get("asked").await;
    apart(&primary, Server::stop_immediately).await;
    apart(&standby, Server::launch).await;
    promote(&there).await;
    let stored = "SELECT count(DISTINCT tx_id) FROM unanimo.log";
    assert_eq!(one(&there, stored).await, 1, "the database has lost all but one");
    proxy.switch_to(standby.socket());
    until("the alarm", async || (!alarms.named("database_went_back").is_empty()).then_some(()))
        .await;
    until("all to be stored again", async || (one(&there, stored).await == 5).then_some(())).await;
    let mut again = BTreeSet::new();
    while again.len() < lost.len() {
        let event = events.next().await;
        // The place in the log may be lost, too: then what came before it comes again.
        if lost.contains_key(&event.gid) {
            again.insert(event.gid);
        }
    }
    for revision in lost.values() {
        assert!(refused(&world, *revision).await.is_some(), "{revision}");
    }

    let calls = |n: usize| ["a", "b"].map(|id| world.p.calls(&told[n].tx_id, id));
    let before = [calls(1), calls(2)];
    let repeated = world.submit(gone("again")).await.unwrap();
    assert_eq!(repeated.tx_id, told[1].tx_id, "S9: it is the same transaction");
    assert_eq!(repeated.outcome(), Outcome::Aborted);
    let another = world.submit(tcc("again", &["ok"])).await.unwrap_err();
    assert!(another.message().contains("another request"), "{another}");
    let rolled_back = RollbackTransactionRequest {
        key: Some(rollback_transaction_request::Key::Gid("rolled-back".into())),
        ..Default::default()
    };
    let rolled_back = world.client().rollback_transaction(rolled_back).await.unwrap().into_inner();
    assert_eq!(rolled_back.result.unwrap().tx_id, told[2].tx_id, "no tombstone in its place");
    assert_eq!([calls(1), calls(2)], before, "nobody was called again");
    let shown = world.get("asked").await;
    assert_eq!(shown.branches, known.branches, "the whole truth");
    assert_eq!((shown.abort_cause, shown.ended_at), (known.abort_cause, known.ended_at));
    assert_eq!(one(&there, stored).await, 5, "nothing came in their place");

    let world = world.crash_and_restart().await;
    assert_eq!(world.get("asked").await.branches, known.branches);
    assert_eq!(world.get("not-asked").await.outcome(), Outcome::Aborted);
}

/// Waits until the standby has the tables: it may be behind by more than what a test wants to be lost.
async fn has_tables(there: &str) {
    let tables =
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'unanimo' AND tablename = 'log'";
    until("tables on the standby", async || (one(there, tables).await == 1).then_some(())).await;
}

/// S3: what is in memory may be lost with the primary. So nothing of it is told before it is stored again.
#[tokio::test]
async fn s3_after_a_promotion_answers_wait_until_the_rows_are_written_again() {
    let (primary, standby, url, there) = pair().await;
    let proxy = Proxy::start(primary.socket()).await;
    let world = World::start(config(&proxy.url(&url))).await;
    has_tables(&there).await;
    world.p.hold(true);
    let told = world.submit(tcc("held", &["ok", "ok"])).await.unwrap();
    assert_eq!(told.outcome(), Outcome::Committed);
    apart(&standby, Server::stop_immediately).await;
    apart(&primary, Server::stop_immediately).await;
    apart(&standby, Server::launch).await;
    promote(&there).await;
    let mut rival = PgConnection::connect(&there).await.unwrap();
    rival.execute("BEGIN; LOCK TABLE unanimo.log IN SHARE MODE").await.unwrap();
    proxy.switch_to(standby.socket());
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted
        AND relation = 'unanimo.log'::regclass";
    until("its row to be written again", async || (one(&there, waiting).await > 0).then_some(()))
        .await;
    let ask = |seconds: u64| {
        let key = Some(get_transaction_request::Key::Gid("held".into()));
        let mut request = tonic::Request::new(GetTransactionRequest { key, ..Default::default() });
        request.set_timeout(Duration::from_secs(seconds));
        request
    };
    let status = world.client().get_transaction(ask(2)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "S3: {status}");
    rival.execute("ROLLBACK").await.unwrap();
    let shown = world.client().get_transaction(ask(60)).await.unwrap().into_inner();
    assert_eq!(shown.transaction.unwrap().outcome(), Outcome::Committed);
    world.p.hold(false);
    world.running.stop().await.unwrap();
}

/// Initiators of a load.
const INITIATORS: usize = 8;

/// Submits one transaction after the other, each again until it is decided; returns their gids, and what was told.
async fn load(
    mut client: CoordinatorServiceClient<Channel>,
    number: usize,
    stop: Arc<AtomicBool>,
) -> Vec<(String, TransactionResult)> {
    let mut told = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let gid = format!("load-{number}-{}", told.len());
        loop {
            let mut request = tcc(&gid, &["ok", "ok"]);
            request.timeout = millis(20_000);
            let answer = client.submit_transaction(request).await;
            let result = answer.ok().and_then(|answer| answer.into_inner().result);
            match result.filter(|result| result.outcome() != Outcome::NotDecided) {
                Some(result) => {
                    told.push((gid, result));
                    break;
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
    told
}

/// Initiators at work.
struct Loads {
    stop: Arc<AtomicBool>,
    loads: Vec<JoinHandle<Vec<(String, TransactionResult)>>>,
}

impl Loads {
    fn start(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |number| tokio::spawn(load(world.client(), number, Arc::clone(&stop)));
        let loads = (0..INITIATORS).map(start).collect();
        Self { stop, loads }
    }

    /// Waits until participants were called some hundred times more.
    async fn flow(&self, world: &World) {
        let before = world.p.seen().len();
        let more = async || (world.p.seen().len() > before + 400).then_some(());
        until("the load to flow", more).await;
    }

    /// Ends them, and checks that each transaction is what its initiator was told, at the participants as well.
    async fn hold(self, world: &World) {
        self.stop.store(true, Ordering::Relaxed);
        let mut count = 0;
        for load in self.loads {
            for (gid, told) in load.await.unwrap() {
                count += 1;
                let shown = world.get_until(&gid, "its end", |t| t.ended_at.is_some()).await;
                assert_eq!(
                    (shown.outcome(), &shown.tx_id),
                    (told.outcome(), &told.tx_id),
                    "S4, S10"
                );
                let (wanted, other) = match told.outcome() {
                    Outcome::Committed => ("commit", "cancel"),
                    _ => ("cancel", "commit"),
                };
                for id in ["a", "b"] {
                    let calls = world.p.calls(&told.tx_id, id);
                    assert!(!calls.contains(&other), "S1: {gid}: {calls:?}");
                    assert!(calls.contains(&wanted) || wanted == "cancel", "{gid}: {calls:?}");
                }
            }
        }
        assert!(count >= 300, "{count} transactions");
    }
}

const NAMES: &str = "SELECT count(*) FROM unanimo.gids";

/// Puts the former primary in the place of the promoted one for a while: nothing is written there.
async fn back_for_a_while(proxy: &Proxy, former: &Arc<Server>, url: &str, promoted: &Server) {
    apart(former, Server::launch).await;
    let before = one(url, NAMES).await;
    proxy.switch_to(former.socket());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(one(url, NAMES).await, before, "nothing is written there");
    proxy.switch_to(promoted.socket());
}

/// S1, S4, S10: under load the primary is killed, its synchronous standby is promoted, and for a while the former primary
/// is back in its place. Nothing is lost, and nothing is written on the former one.
#[tokio::test]
async fn s1_s4_s10_a_synchronous_standby_that_is_promoted_under_load_lacks_nothing() {
    let (alarms, _listening) = Alarms::listen();
    let (primary, standby, url, there) = pair().await;
    let admin = primary.url("postgres");
    execute(&admin, "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
    execute(&admin, "SELECT pg_reload_conf()").await;
    let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    until("the standby to be waited for", async || {
        (one(&admin, synchronous).await == 1).then_some(())
    })
    .await;
    let proxy = Proxy::start(primary.socket()).await;
    let world = World::start(config(&proxy.url(&url))).await;
    let loads = Loads::start(&world);
    loads.flow(&world).await;

    apart(&primary, Server::stop_immediately).await;
    promote(&there).await;
    proxy.switch_to(standby.socket());
    loads.flow(&world).await;
    back_for_a_while(&proxy, &primary, &url, &standby).await;
    loads.flow(&world).await;
    loads.hold(&world).await;
    assert_eq!(alarms.named("database_went_back"), [] as [String; 0], "nothing was lost");
    world.running.stop().await.unwrap();
}

/// S1, S4, S10, S11: under load an asynchronous standby falls behind by hundreds of transactions, and is promoted once the
/// primary is killed; for a while the former primary is back. The process that goes on writes all of them again, as the
/// page about backups says: nothing that was told is lost, each is written again with a line of the log, and the alarm tells
/// that the database had lost them.
#[tokio::test]
async fn s1_s4_s10_s11_what_an_asynchronous_standby_lacks_under_load_is_written_again() {
    let (alarms, _listening) = Alarms::listen();
    let (primary, standby, url, there) = pair().await;
    let proxy = Proxy::start(primary.socket()).await;
    let world = World::start(config(&proxy.url(&url))).await;
    let loads = Loads::start(&world);
    loads.flow(&world).await;
    has_tables(&there).await;
    // Without the birth of this process in it there is nobody who could go on.
    until("the standby to have some of it", async || (one(&there, NAMES).await > 0).then_some(()))
        .await;
    apart(&standby, Server::stop_immediately).await;
    loads.flow(&world).await;
    loads.flow(&world).await;

    let named = one(&url, NAMES).await;
    apart(&primary, Server::stop_immediately).await;
    apart(&standby, Server::launch).await;
    promote(&there).await;
    let lost = named - one(&there, NAMES).await;
    assert!(lost >= 100, "the standby lacks {lost} transactions");
    assert_eq!(alarms.named("database_went_back"), [] as [String; 0], "nobody knows yet");
    proxy.switch_to(standby.socket());
    loads.flow(&world).await;
    back_for_a_while(&proxy, &primary, &url, &standby).await;
    loads.flow(&world).await;
    loads.hold(&world).await;
    assert!(!alarms.named("database_went_back").is_empty(), "the loss is told");
    world.running.stop().await.unwrap();
}
