//! Quotas: how much each identity may have open, wherever that is, and whatever becomes of the process.

use std::time::Duration;

use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimo_coordinator::Config;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    self, BranchSpec, ChildTransaction, Mode, Outcome, TransactionState, WaitFor,
    get_transaction_request, rollback_transaction_request,
};
use unanimo_tests::postgres::Server;
use unanimo_tests::scripted::Mood;
use unanimo_tests::wait::until;

use super::roles::{File, Link};
use crate::coordinator::http::http_get;
use crate::coordinator::process::Process;
use crate::coordinator::{World, branch, config, describe, millis, sqlite_url, tcc};

pub(super) async fn on_both() -> [Config; 2] {
    [config(&sqlite_url()), config(&Server::shared().database().await)]
}

/// A caller of the initiators' rpcs.
#[derive(Clone)]
pub(super) struct Client(CoordinatorServiceClient<Link>);

impl Client {
    pub(super) fn of(link: Link) -> Self {
        Self(CoordinatorServiceClient::new(link))
    }

    pub(super) async fn begin(&mut self, gid: &str) -> Result<String, Status> {
        let mode = Mode::Tcc.into();
        let request = v1::BeginTransactionRequest { gid: gid.into(), mode, ..Default::default() };
        Ok(self.0.begin_transaction(request).await?.into_inner().tx_id)
    }

    pub(super) async fn submit(
        &mut self,
        request: v1::SubmitTransactionRequest,
    ) -> Result<v1::TransactionResult, Status> {
        Ok(self.0.submit_transaction(request).await?.into_inner().result.unwrap())
    }

    /// Submits one that starts tomorrow.
    pub(super) async fn schedule(&mut self, gid: &str, bytes: usize) -> Result<String, Status> {
        let mut request = v1::SubmitTransactionRequest {
            start_delay: millis(24 * 60 * 60 * 1000),
            wait_for: WaitFor::Accepted.into(),
            ..tcc(gid, &["ok"])
        };
        request.branches[0] = of_bytes("a", bytes);
        Ok(self.submit(request).await?.tx_id)
    }

    async fn execute(&mut self, tx_id: &str, branch: BranchSpec) -> Result<(), Status> {
        let branch = Some(branch);
        let request =
            v1::ExecuteBranchRequest { tx_id: tx_id.into(), branch, ..Default::default() };
        self.0.execute_branch(request).await.map(drop)
    }

    pub(super) async fn roll_back(&mut self, gid: &str) {
        let key = Some(rollback_transaction_request::Key::Gid(gid.into()));
        let wait_for = WaitFor::Ended.into();
        let request = v1::RollbackTransactionRequest { key, wait_for, ..Default::default() };
        self.0.rollback_transaction(request).await.unwrap();
    }

    async fn get(&mut self, gid: &str) -> Result<v1::Transaction, Status> {
        let key = Some(get_transaction_request::Key::Gid(gid.into()));
        let request = v1::GetTransactionRequest { key, ..Default::default() };
        Ok(self.0.get_transaction(request).await?.into_inner().transaction.unwrap())
    }

    /// Checks that nothing more is let in, and that nothing is stored of what is refused.
    async fn assert_full(&mut self, gid: &str, open: usize) {
        let status = self.begin(gid).await.expect_err("one too many");
        assert_over(&status, "open-transactions", open, open);
        assert_eq!(describe(&self.get(gid).await.unwrap_err()).1, "GID_UNKNOWN");
    }
}

fn of_bytes(id: &str, bytes: usize) -> BranchSpec {
    let payload = v1::Payload { data: vec![b'x'; bytes].into(), ..Default::default() };
    BranchSpec { payload: Some(payload), ..branch(id, "ok") }
}

#[track_caller]
pub(super) fn assert_over(status: &Status, quota: &str, open: usize, max: usize) {
    assert_eq!(
        (status.code(), describe(status).1),
        (Code::ResourceExhausted, "QUOTA_REACHED".into())
    );
    let details = status.get_error_details();
    let metadata = &details.error_info().unwrap().metadata;
    let of = |name: &str| metadata[name].as_str();
    assert_eq!((of("quota"), of("retryable"), of("effect")), (quota, "true", "none"));
    assert_eq!((of("open"), of("max")), (&*open.to_string(), &*max.to_string()), "{status}");
    for number in [open, max] {
        assert!(status.message().contains(&number.to_string()), "{status}");
    }
    assert!(details.retry_info().unwrap().retry_delay.is_some_and(|delay| !delay.is_zero()));
}

pub(super) async fn left_memory(world: &World, left: usize) {
    let engine = world.running.engine();
    until("sleepers to leave memory", async || (engine.in_flight().0 <= left).then_some(())).await;
}

/// In memory and asleep together; a request that is known is answered whatever is open, and a place is given back with
/// the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_an_identity_has_so_many_open_and_others_notice_nothing() {
    for mut config in on_both().await {
        let file = File::new();
        file.write_initiators("open-transactions = 3");
        config.identities = file.setting();
        let world = World::start(config).await;
        let mut web = Client::of(file.link(&world, 0));
        let mut batch = Client::of(file.link(&world, 1));
        let asleep = web.schedule("tomorrow", 1).await.unwrap();
        left_memory(&world, 0).await;
        let first = web.begin("g1").await.unwrap();
        web.begin("g2").await.unwrap();
        // Longer than between two counts of what sleeps.
        for round in 0..3 {
            web.assert_full(&format!("more{round}"), 3).await;
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        assert!(web.schedule("next", 1).await.is_err(), "nor one that starts later");
        assert_eq!(web.begin("g1").await.unwrap(), first, "S9: the same request");
        web.execute(&first, branch("a", "ok")).await.expect("what is open goes on");
        for n in 0..5 {
            batch.begin(&format!("b{n}")).await.expect("another identity has no quota");
        }
        // A tombstone is never open.
        web.roll_back("unseen").await;
        web.roll_back("g1").await;
        web.begin("g3").await.expect("a place");
        web.assert_full("g4", 3).await;
        assert_eq!(web.schedule("tomorrow", 1).await.unwrap(), asleep, "S9: one that sleeps");
        web.roll_back("tomorrow").await;
        until("the place of the one that slept", async || web.begin("g4").await.ok()).await;
        web.assert_full("g5", 3).await;
        let (_, metrics) = http_get(&world, "/metrics").await;
        let name = "unanimo_admission_refused_total{reason=\"quota_transactions\"} ";
        let refused = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("a count");
        assert!(refused.parse::<usize>().unwrap() >= 6, "{refused}");
        // The file is read again.
        file.write_initiators("open-transactions = 4");
        until("the other quota", async || web.begin("g5").await.ok()).await;
        web.assert_full("g6", 4).await;
    }
}

/// Many at once do not get past it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_many_at_once_share_the_quota() {
    let mut config = config(&sqlite_url());
    config.open_transactions_per_identity = 10;
    let file = File::new();
    config.identities = file.setting();
    let world = World::start(config).await;
    let mut beginning = JoinSet::new();
    for n in 0..60 {
        let mut web = Client::of(file.link(&world, 0));
        beginning.spawn(async move { web.begin(&format!("g{n}")).await });
    }
    let all = beginning.join_all().await;
    assert_eq!(all.iter().filter(|begun| begun.is_ok()).count(), 10);
    for status in all.iter().filter_map(|begun| begun.as_ref().err()) {
        assert_over(status, "open-transactions", 10, 10);
    }
    Client::of(file.link(&world, 1)).begin("other").await.expect("each has its own");
}

/// Transactions that were open before the process was killed count from the first request on, and also in a standby whose turn
/// it is then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_what_is_open_is_counted_after_a_kill_and_by_a_standby() {
    for url in [sqlite_url(), Server::shared().database().await] {
        let file = File::new();
        file.write_initiators("open-transactions = 20");
        let identities = file.path().display().to_string();
        let more = ["--identities".to_owned(), identities];
        let process = Process::start(&url, &more).await;
        let mut web = Client::of(file.link_to(&process.channel, 0));
        for n in 0..8 {
            web.begin(&format!("g{n}")).await.unwrap();
            web.schedule(&format!("tomorrow{n}"), 1).await.unwrap();
        }
        for n in 8..12 {
            web.begin(&format!("g{n}")).await.unwrap();
        }
        web.assert_full("more", 20).await;
        drop(process);

        let process = Process::start(&url, &more).await;
        let mut web = Client::of(file.link_to(&process.channel, 0));
        let mut beginning = JoinSet::new();
        for n in 0..30 {
            let mut web = web.clone();
            beginning.spawn(async move { web.begin(&format!("after{n}")).await });
        }
        for begun in beginning.join_all().await {
            assert_over(&begun.expect_err("nothing more"), "open-transactions", 20, 20);
        }
        web.begin("g3").await.expect("S9: a known gid");
        web.roll_back("g3").await;
        web.begin("instead").await.expect("a place");
        web.assert_full("more", 20).await;
        if url.starts_with("sqlite") {
            // A second process cannot even open the file.
            continue;
        }

        let mut config = config(&url);
        config.node = "two".parse().unwrap();
        config.identities = file.setting();
        let standby = World::spawn(config, Default::default());
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(process);
        let world = standby.await.unwrap();
        let mut web = Client::of(file.link(&world, 0));
        web.assert_full("more", 20).await;
        for n in 0..8 {
            let shown = web.get(&format!("tomorrow{n}")).await.unwrap();
            assert_eq!(shown.state(), TransactionState::Scheduled);
        }
        web.roll_back("instead").await;
        web.begin("more").await.expect("a place");
        web.assert_full("another", 20).await;
    }
}

/// Those that are owed to a participant that fails are out of memory, and open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_what_waits_out_of_memory_for_a_participant_counts() {
    const OWED: usize = 24;
    for mut config in on_both().await {
        unanimo_coordinator::engine::Handle::park_after(Duration::ZERO);
        config.stalled_after = Period::secs(1);
        config.transactions_max = 40;
        // A held call does not fail meanwhile.
        config.call_timeout = Period::secs(20);
        config.open_transactions_per_identity = OWED + 2;
        let world = World::start(config).await;
        world.p.hold(true);
        let mut owed = JoinSet::new();
        for n in 0..OWED {
            let mut client = world.client();
            let request = tcc(&format!("g{n}"), &["ok"]);
            owed.spawn(async move { client.submit_transaction(request).await });
        }
        for submitted in owed.join_all().await {
            let result = submitted.unwrap().into_inner().result.unwrap();
            assert_eq!(result.outcome(), Outcome::Committed);
        }
        world.p.set_mood(Mood::FailingInPhaseTwo);
        world.p.hold(false);
        left_memory(&world, OWED - 4).await;
        // Callers without an identity share one quota.
        let begin = async |world: &World, gid: &str| {
            let mode = Mode::Tcc.into();
            let request =
                v1::BeginTransactionRequest { gid: gid.into(), mode, ..Default::default() };
            world.client().begin_transaction(request).await
        };
        begin(&world, "b0").await.unwrap();
        begin(&world, "b1").await.unwrap();
        let full = OWED + 2;
        assert_over(&begin(&world, "b2").await.unwrap_err(), "open-transactions", full, full);
        let world = world.crash_and_restart().await;
        assert_over(&begin(&world, "b2").await.unwrap_err(), "open-transactions", full, full);
        world.p.set_mood(Mood::Well);
        for n in 0..OWED {
            world.get_until(&format!("g{n}"), "its end", |tx| tx.ended_at.is_some()).await;
        }
        until("places", async || begin(&world, "b2").await.ok()).await;
    }
}

/// Bytes of payloads, in memory and asleep, before and after a kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_an_identity_has_so_many_bytes_open() {
    const MAX: usize = 100_000;
    for url in [sqlite_url(), Server::shared().database().await] {
        let file = File::new();
        file.write_initiators(&format!("open-bytes = {MAX}"));
        let more = ["--identities".to_owned(), file.path().display().to_string()];
        let process = Process::start(&url, &more).await;
        let mut web = Client::of(file.link_to(&process.channel, 0));
        let never = web.schedule("never", MAX).await.unwrap_err();
        let (code, _, fields) = describe(&never);
        assert_eq!((code, fields), (Code::InvalidArgument, vec!["branches".to_owned()]), "{never}");
        web.schedule("tomorrow", 40_000).await.unwrap();
        let tx_id = web.begin("g").await.unwrap();
        web.execute(&tx_id, of_bytes("a", 40_000)).await.unwrap();
        let refused = async |web: &mut Client| {
            let scheduled = web.schedule("next", 30_000).await.unwrap_err();
            let executed = web.execute(&tx_id, of_bytes("b", 30_000)).await.unwrap_err();
            for status in [scheduled, executed] {
                assert_eq!(describe(&status).1, "QUOTA_REACHED", "{status}");
                let metadata = &status.get_error_details().error_info().unwrap().metadata.clone();
                let open: usize = metadata["open"].parse().unwrap();
                assert!((80_000..85_000).contains(&open), "{status}");
                assert_over(&status, "open-bytes", open, MAX);
            }
        };
        refused(&mut web).await;
        web.execute(&tx_id, of_bytes("a", 40_000)).await.expect("S9: the branch is known");
        web.begin("small").await.expect("it is small");
        // Long enough for the sleeper to be counted by its row.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        refused(&mut web).await;
        drop(process);
        let process = Process::start(&url, &more).await;
        let mut web = Client::of(file.link_to(&process.channel, 0));
        refused(&mut web).await;
        web.roll_back("g").await;
        web.schedule("next", 30_000).await.expect("bytes were given back");
    }
}

/// A child counts for its parent's initiator, and is let in whatever is open: its parent was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_children_count_and_are_never_refused() {
    for mut config in on_both().await {
        config.open_transactions_per_identity = 1;
        let file = File::new();
        config.identities = file.setting();
        let world = World::start(config).await;
        let mut web = Client::of(file.link(&world, 0));
        let saga = |gid: &str, action: &str| {
            let child = ChildTransaction {
                mode: Mode::Saga.into(),
                branches: vec![branch("x", action)],
                ..Default::default()
            };
            let step =
                BranchSpec { branch_id: "b".into(), child: Some(child), ..Default::default() };
            v1::SubmitTransactionRequest {
                gid: gid.into(),
                mode: Mode::Saga.into(),
                branches: vec![branch("a", "ok"), step],
                timeout: millis(20_000),
                wait_for: WaitFor::Ended.into(),
                ..Default::default()
            }
        };
        let result = web.submit(saga("g", "ok")).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed, "the quota holds nobody up");
        world.p.hold(true);
        let request = saga("h", "gated");
        let accepted =
            v1::SubmitTransactionRequest { wait_for: WaitFor::Accepted.into(), ..request };
        web.submit(accepted).await.unwrap();
        until("the child", async || web.get("h.b").await.ok()).await;
        let status = web.begin("more").await.unwrap_err();
        assert_over(&status, "open-transactions", 2, 1);
        world.p.hold(false);
        let result = web.submit(saga("h", "gated")).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        web.begin("more").await.expect("both have ended");
    }
}
