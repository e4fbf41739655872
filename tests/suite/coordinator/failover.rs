//! A standby of the coordinator's database that is behind, and is promoted while transactions are in flight.

use std::time::Duration;

use tonic::Code;
use unanimo_proto::v1::{
    BeginTransactionRequest, CommitBranch, CommitTransactionRequest, GetTransactionRequest, Mode,
    Outcome, TransactionResult, WaitFor, get_transaction_request,
};
use unanimo_tests::alarms::Alarms;
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;

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
    let (ended, held) = (world.votes("ended").await, world.votes("held").await);
    let now = "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8";
    let written = one(&url, now).await;
    let replayed = format!("SELECT (pg_last_wal_replay_lsn() - '0/0' >= {written})::int::bigint");
    until("the standby to have it", async || (one(&there, &replayed).await == 1).then_some(()))
        .await;
    apart(&standby, Server::stop_immediately).await;

    assert_eq!(world.decide(&ended, WaitFor::Ended).await.outcome(), Outcome::Committed);
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
    assert!(!alarms.named("database_went_back").is_empty(), "the loss is told");
    let told = world.submit(tcc("after", &["ok"])).await.unwrap();
    assert_eq!(told.outcome(), Outcome::Committed, "it goes on");
    world.running.stop().await.unwrap();
}

/// A transaction that had begun and ended meanwhile is not known any more: nobody can tell it from one that never was.
#[tokio::test]
async fn s11_a_failover_that_loses_whole_transactions_raises_an_alarm() {
    let (alarms, _listening) = Alarms::listen();
    let (primary, standby, url, there) = pair().await;
    let proxy = Proxy::start(primary.socket()).await;
    let world = World::start(config(&proxy.url(&url))).await;
    world.submit(tcc("before", &["ok"])).await.unwrap();
    apart(&standby, Server::stop_immediately).await;
    let mut request = tcc("gone", &["ok"]);
    request.wait_for = WaitFor::Ended.into();
    world.submit(request).await.unwrap();
    apart(&primary, Server::stop_immediately).await;
    apart(&standby, Server::launch).await;
    promote(&there).await;
    proxy.switch_to(standby.socket());
    until("the alarm", async || (!alarms.named("database_went_back").is_empty()).then_some(()))
        .await;
    let status = until("an answer", async || {
        let key = Some(get_transaction_request::Key::Gid("gone".into()));
        let request = GetTransactionRequest { key, ..Default::default() };
        let status = world.client().get_transaction(request).await.unwrap_err();
        (status.code() == Code::NotFound).then_some(status)
    })
    .await;
    assert!(status.message().contains("never seen"), "{status}");
}
