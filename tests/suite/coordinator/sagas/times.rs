//! Starts that come later, and transactions that sleep until then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use unanimo_coordinator::env::{Env, SystemEnv};
use unanimo_core::history::{self, Document};
use unanimo_core::{Timestamp, TxId};
use unanimo_proto::v1::{
    AbortCause, BranchState, ChildTransaction, ExportTransactionRequest, GetTransactionRequest,
    InquireBranchesRequest, InquiredBranch, Lock, Mode, Outcome, SubmitTransactionRequest,
    TransactionState, Verdict, WaitFor, export_transaction_request, get_transaction_request,
    inquired_branch,
};

use super::super::{World, millis, tcc};
use super::bad_input::child_step;
use super::{accept, ended, on_both, order, saga, step};
use crate::store::count_at;

/// A TCC that starts so much later.
fn later(gid: &str, delay_ms: i64) -> SubmitTransactionRequest {
    SubmitTransactionRequest { start_delay: millis(delay_ms), ..tcc(gid, &["ok"]) }
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Returns the number of transactions in memory.
fn in_memory(world: &World) -> usize {
    world.running.engine().in_flight().0
}

async fn nothing_in_memory(world: &World) {
    super::until("memory to be empty", async || (in_memory(world) == 0).then_some(())).await;
}

/// A step with a delay is sent that much after the one before it.
#[tokio::test]
async fn a_step_waits_for_its_delay() {
    let world = World::sqlite().await;
    let mut second = step("b", "ok", &["a"]);
    second.delay = millis(300);
    let began = std::time::Instant::now();
    let tx_id = accept(&world, saga("g", vec![step("a", "ok", &[]), second])).await;
    let waiting = world.get_until("g", "its delay", |tx| tx.branches[0].voted_at.is_some()).await;
    assert_eq!(waiting.branches[1].state(), BranchState::Waiting);
    assert!(waiting.branches[1].due_at.is_some());
    let shown = ended(&world, "g").await;
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert_eq!(shown.outcome(), Outcome::Committed);
    assert_eq!(order(&world, &tx_id, "prepare"), ["a", "b"]);
}

/// Nothing is sent before the start, of whatever mode the transaction is; its deadline counts from there.
#[tokio::test]
async fn a_transaction_starts_at_its_time() {
    on_both(async |world: World| {
        let began = std::time::Instant::now();
        let mut request = later("g", 400);
        request.timeout = millis(300);
        let tx_id = accept(&world, request).await;
        let shown = world.get("g").await;
        assert_eq!(shown.state(), TransactionState::Scheduled);
        assert!(shown.start_at.is_some() && shown.started_at.is_none());
        assert_eq!(world.p.seen(), []);
        let shown = ended(&world, "g").await;
        assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
        assert_eq!(shown.outcome(), Outcome::Committed);
        assert!(shown.started_at.is_some());
        assert_eq!(world.p.calls(&tx_id, "a"), ["prepare", "commit"]);
    })
    .await;
}

/// A Rollback before the start ends it, and nobody is called.
#[tokio::test]
async fn a_rollback_before_the_start_ends_it() {
    on_both(async |world: World| {
        for (gid, delay_ms) in [("soon", 60_000), ("tomorrow", DAY_MS)] {
            let tx_id = accept(&world, later(gid, delay_ms)).await;
            let result = world.rollback(&tx_id).await.unwrap();
            assert_eq!((result.outcome(), result.ended), (Outcome::Aborted, true));
            assert_eq!(result.abort_cause(), AbortCause::Rollback);
        }
        assert_eq!(world.p.seen(), []);
    })
    .await;
}

/// L5: what starts tomorrow costs no memory, before and after a restart. Whoever asks for it finds it.
#[tokio::test]
async fn l5_what_starts_tomorrow_costs_no_memory() {
    on_both(async |world: World| {
        for n in 0..20 {
            accept(&world, later(&format!("g{n}"), DAY_MS + n)).await;
        }
        nothing_in_memory(&world).await;
        let world = world.crash_and_restart().await;
        super::until("adoption", async || {
            (world.get("g0").await.state() == TransactionState::Scheduled).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(in_memory(&world) <= 1, "only the one that was asked for: {}", in_memory(&world));

        // By its gid the same request finds it, and another one does not.
        let again = world.submit(SubmitTransactionRequest {
            wait_for: WaitFor::Accepted.into(),
            ..later("g1", DAY_MS)
        });
        let shown = world.get("g1").await;
        assert_eq!(again.await.unwrap().tx_id, shown.tx_id);
        let other = SubmitTransactionRequest { mode: Mode::Saga.into(), ..later("g1", DAY_MS) };
        let status = world.submit(other).await.unwrap_err();
        assert_eq!(super::super::describe(&status).1, "GID_REUSED");
        let result = world.rollback(&shown.tx_id).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Aborted);
        nothing_in_memory(&world).await;
        assert_eq!(world.p.seen(), []);
    })
    .await;
}

/// A saga whose next step is due tomorrow sleeps, too; its compensations are not forgotten meanwhile.
#[tokio::test]
async fn a_saga_sleeps_between_two_steps() {
    on_both(async |world: World| {
        let tx_id = accept(&world, half_a_day("g")).await;
        super::called(&world, &tx_id, "a", 1).await;
        nothing_in_memory(&world).await;
        let world = world.crash_and_restart().await;
        let shown = world.get("g").await;
        assert!(shown.branches[0].voted_at.is_some(), "its vote was written down");
        let result = world.rollback(&tx_id).await.unwrap();
        assert_eq!((result.outcome(), result.ended), (Outcome::Aborted, true));
        assert_eq!(world.p.calls(&tx_id, "a"), ["prepare", "cancel"]);
        for id in ["b", "c"] {
            assert_eq!(world.p.calls(&tx_id, id), [""; 0], "it was never sent");
        }
    })
    .await;
}

/// A saga whose second step waits for half a day, and its third for the second.
fn half_a_day(gid: &str) -> SubmitTransactionRequest {
    let mut second = step("b", "ok", &["a"]);
    second.delay = millis(DAY_MS / 2);
    let steps = vec![step("a", "ok", &[]), second, step("c", "ok", &["b"])];
    SubmitTransactionRequest { timeout: millis(DAY_MS), ..saga(gid, steps) }
}

/// L1: a step that slept is sent at its time, and the saga goes on.
#[tokio::test]
async fn l1_a_step_that_slept_is_sent_at_its_time() {
    on_both(async |world: World| {
        let tx_id = accept(&world, half_a_day("g")).await;
        super::called(&world, &tx_id, "a", 1).await;
        nothing_in_memory(&world).await;
        let world = half_a_day_later(world).await;
        assert_eq!(ended(&world, "g").await.outcome(), Outcome::Committed);
        assert_eq!(order(&world, &tx_id, "prepare"), ["a", "b", "c"]);
        assert_eq!(order(&world, &tx_id, "cancel"), [""; 0]);
    })
    .await;
}

/// Starts the coordinator again, half a day later.
async fn half_a_day_later(world: World) -> World {
    let (p, config) = (world.p.clone(), world.config.clone());
    drop(world);
    let clock = Arc::new(Clock::default());
    clock.set_ahead(DAY_MS / 2 + 500);
    World::start_at(config, p, clock).await
}

/// A child whose second step waits for half a day.
fn sleeping_child() -> ChildTransaction {
    let mut second = step("y", "ok", &["x"]);
    second.delay = millis(DAY_MS / 2);
    let branches = vec![step("x", "ok", &[]), second];
    ChildTransaction {
        mode: Mode::Saga.into(),
        branches,
        timeout: millis(DAY_MS),
        ..Default::default()
    }
}

/// L5: a child that is in doubt while its parent sleeps costs no memory, before and after a restart; the decision
/// reaches it all the same.
#[tokio::test]
async fn l5_a_child_in_doubt_sleeps_while_its_parent_does() {
    on_both(async |world: World| {
        let request = |gid: &str| {
            let mut last = step("b", "ok", &["c"]);
            last.delay = millis(DAY_MS / 2);
            let child = ChildTransaction {
                mode: Mode::Tcc.into(),
                branches: vec![super::super::branch("x", "ok")],
                ..Default::default()
            };
            let steps = vec![child_step("c", child, &[]), last];
            SubmitTransactionRequest { timeout: millis(DAY_MS), ..saga(gid, steps) }
        };
        let rolled_back = accept(&world, request("no")).await;
        accept(&world, request("yes")).await;
        nothing_in_memory(&world).await;
        let world = world.crash_and_restart().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(in_memory(&world), 0, "a start loads none of them");
        let result = world.rollback(&rolled_back).await.unwrap();
        assert_eq!((result.outcome(), result.ended), (Outcome::Aborted, true));
        let child = world.get("no.c").await;
        assert_eq!(child.abort_cause(), AbortCause::Parent);
        assert_eq!(world.p.calls(&child.tx_id, "x"), ["prepare", "cancel"]);
        nothing_in_memory(&world).await;
        let world = half_a_day_later(world).await;
        assert_eq!(ended(&world, "yes").await.outcome(), Outcome::Committed);
        let child = ended(&world, "yes.c").await;
        assert_eq!(world.p.calls(&child.tx_id, "x"), ["prepare", "commit"]);
    })
    .await;
}

/// L5: a child that waits for time sleeps, and so does its parent. Both go on at its time.
#[tokio::test]
async fn l5_a_parent_sleeps_while_its_child_waits_for_time() {
    on_both(async |world: World| {
        let request = |gid: &str| {
            let steps = vec![child_step("b", sleeping_child(), &[]), step("c", "ok", &["b"])];
            SubmitTransactionRequest { timeout: millis(DAY_MS), ..saga(gid, steps) }
        };
        accept(&world, request("yes")).await;
        accept(&world, request("no")).await;
        nothing_in_memory(&world).await;
        let world = world.crash_and_restart().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(in_memory(&world), 0, "a start loads none of them");
        // Somebody ends a child: its parent hears of it at once, and not half a day later.
        let key = unanimo_proto::v1::rollback_transaction_request::Key::Gid("no.b".into());
        let rollback =
            unanimo_proto::v1::RollbackTransactionRequest { key: Some(key), ..Default::default() };
        world.client().rollback_transaction(rollback).await.unwrap();
        let parent = ended(&world, "no").await;
        assert_eq!(
            (parent.outcome(), parent.abort_cause()),
            (Outcome::Aborted, AbortCause::Refused)
        );
        assert_eq!(ended(&world, "no.b").await.abort_cause(), AbortCause::Rollback);
        nothing_in_memory(&world).await;
        let world = half_a_day_later(world).await;
        let parent = ended(&world, "yes").await;
        assert_eq!(parent.outcome(), Outcome::Committed);
        let child = world.get("yes.b").await;
        assert_eq!(order(&world, &child.tx_id, "prepare"), ["x", "y"]);
        assert_eq!(order(&world, &parent.tx_id, "prepare"), ["c"]);
    })
    .await;
}

/// A participant that asks about a branch of a sleeper is answered, and the sleeper is left where it is.
#[tokio::test]
async fn a_question_about_a_branch_wakes_no_sleeper() {
    on_both(async |world: World| {
        let mut request = half_a_day("g");
        request.branches[0].mode = Mode::Tcc.into();
        let tx_id = accept(&world, request).await;
        super::called(&world, &tx_id, "a", 1).await;
        nothing_in_memory(&world).await;
        let cluster_id = world.cluster_id().await;
        let inquire = |id: &str| InquireBranchesRequest {
            cluster_id: cluster_id.clone(),
            participant: "p".into(),
            branches: vec![InquiredBranch {
                tx_id: tx_id.clone(),
                branch: Some(inquired_branch::Branch::BranchId(id.into())),
            }],
            ..Default::default()
        };
        for _ in 0..20 {
            let answer = world.client().inquire_branches(inquire("a")).await.unwrap().into_inner();
            assert_eq!(answer.verdicts[0].verdict(), Verdict::Running);
            assert_eq!(in_memory(&world), 0);
        }
        let answer = world.client().inquire_branches(inquire("z")).await.unwrap().into_inner();
        assert_eq!(answer.verdicts[0].verdict(), Verdict::NeverSeen);
        let shown = world.get("g").await;
        let adopted = shown.timeline.iter().filter(|line| line.event == "adopted").count();
        assert!(adopted <= 2, "{:?}", shown.timeline);
    })
    .await;
}

/// L5: whoever looks at sleepers, however often, wakes none, and no row is written. They go on at their time.
#[tokio::test]
async fn l5_looks_at_sleepers_write_nothing() {
    on_both(async |world: World| {
        let url = world.config.database_url.expose().to_owned();
        accept(&world, later("later", DAY_MS / 2)).await;
        let half = accept(&world, half_a_day("half")).await;
        let steps = vec![child_step("b", sleeping_child(), &[])];
        let family = SubmitTransactionRequest { timeout: millis(DAY_MS), ..saga("family", steps) };
        accept(&world, family).await;
        super::called(&world, &half, "a", 1).await;
        nothing_in_memory(&world).await;
        let rows = count_at(&url, "log").await;
        let looks = async |world: &World| {
            for _ in 0..25 {
                let shown = world.get("later").await;
                assert_eq!(shown.state(), TransactionState::Scheduled);
                assert!(shown.start_at.is_some() && shown.started_at.is_none());
                let shown = world.get("half").await;
                assert!(shown.branches[0].voted_at.is_some(), "{shown:?}");
                assert_eq!(shown.branches[1].state(), BranchState::Waiting);
            }
            let key = export_transaction_request::Key::TxId(half.clone());
            let request = ExportTransactionRequest { key: Some(key), ..Default::default() };
            let exported = world.client().export_transaction(request).await.unwrap().into_inner();
            let document: Document = serde_json::from_str(&exported.history_json).unwrap();
            assert!(document.cut.is_none(), "{}", exported.history_json);
            // The child's answer names a branch of its parent.
            let child = world.get("family.b").await;
            assert_eq!(child.parent.unwrap().branch_id, "b");
            assert_eq!(count_at(&url, "log").await, rows, "nothing is written");
            assert_eq!(in_memory(world), 0);
        };
        looks(&world).await;
        // So it is in another life than the one that has written the rows.
        let world = world.crash_and_restart().await;
        looks(&world).await;
        // Whoever waits for something to happen has it in memory.
        let key = Some(get_transaction_request::Key::Gid("later".into()));
        let wait_for = WaitFor::Decided.into();
        let mut waiting =
            tonic::Request::new(GetTransactionRequest { key, wait_for, ..Default::default() });
        waiting.set_timeout(Duration::from_secs(2));
        let began = std::time::Instant::now();
        let waited = world.client().get_transaction(waiting).await.unwrap().into_inner();
        assert_eq!(waited.transaction.unwrap().state(), TransactionState::Scheduled);
        assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(in_memory(&world), 1);
        let world = half_a_day_later(world).await;
        for gid in ["later", "half", "family"] {
            assert_eq!(ended(&world, gid).await.outcome(), Outcome::Committed, "{gid}");
        }
        assert_eq!(order(&world, &half, "prepare"), ["a", "b", "c"]);
    })
    .await;
}

/// A sleeper that is followed until its time is near has a history that is replayed.
#[tokio::test]
async fn a_sleeper_that_stays_has_a_history_that_is_replayed() {
    let world = World::sqlite().await;
    let locks = vec![Lock { name: "account:42".into(), ..Default::default() }];
    let mut request = SubmitTransactionRequest { locks, ..half_a_day("g") };
    // A little longer than what leaves memory.
    request.branches[1].delay = millis(65 * 60 * 1000 + 12_000);
    let tx_id = accept(&world, request).await;
    super::called(&world, &tx_id, "a", 1).await;
    let request = unanimo_proto::v1::WatchTransactionRequest {
        key: Some(unanimo_proto::v1::watch_transaction_request::Key::TxId(tx_id.clone())),
        ..Default::default()
    };
    let mut states = world.client().watch_transaction(request).await.unwrap().into_inner();
    assert!(states.message().await.unwrap().is_some());
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.rollback(&tx_id).await.unwrap();
    ended(&world, "g").await;
    let key = export_transaction_request::Key::TxId(tx_id);
    let request = ExportTransactionRequest { key: Some(key), ..Default::default() };
    let exported = world.client().export_transaction(request).await.unwrap().into_inner();
    assert!(exported.history_json.contains("rewrite"), "{}", exported.history_json);
    let document: Document = serde_json::from_str(&exported.history_json).unwrap();
    history::replay(&document).unwrap_or_else(|error| panic!("{error}\n{}", exported.history_json));
}

/// Clock that can be set ahead.
#[derive(Debug, Default)]
pub(in crate::coordinator) struct Clock {
    ahead_ms: AtomicU64,
}

impl Clock {
    pub(in crate::coordinator) fn set_ahead(&self, ms: i64) {
        self.ahead_ms.store(ms.unsigned_abs(), Ordering::Relaxed);
    }
}

impl Env for Clock {
    fn now(&self) -> Timestamp {
        Timestamp(SystemEnv.now().0 + self.ahead_ms.load(Ordering::Relaxed))
    }

    /// It is that time everywhere.
    fn of_database(&self, told: Timestamp) -> Timestamp {
        Timestamp(told.0 + self.ahead_ms.load(Ordering::Relaxed))
    }

    fn tx_id(&self, now: Timestamp) -> TxId {
        SystemEnv.tx_id(now)
    }
}

/// L1: what slept starts when its time has come, the soonest first, in a life in which it came near and in
/// one in which it was late; what is due later still costs nothing.
#[tokio::test]
async fn l1_what_sleeps_starts_at_its_time() {
    on_both(async |world: World| {
        let (p, config) = (world.p.clone(), world.config.clone());
        for n in 0..100 {
            accept(&world, later(&format!("soon{n}"), DAY_MS + n)).await;
        }
        let next = accept(&world, later("next", 2 * DAY_MS)).await;
        accept(&world, later("last", 3 * DAY_MS)).await;
        nothing_in_memory(&world).await;

        drop(world);
        let clock = Arc::new(Clock::default());
        // Some seconds before its time it is in memory, and not sent.
        clock.set_ahead(DAY_MS - 20_000);
        let world = World::start_at(config.clone(), p.clone(), Arc::clone(&clock) as _).await;
        super::until("the soonest", async || (in_memory(&world) == 100).then_some(())).await;
        assert_eq!(p.seen(), []);
        for n in 0..100 {
            assert_eq!(ended(&world, &format!("soon{n}")).await.outcome(), Outcome::Committed);
        }
        nothing_in_memory(&world).await;

        drop(world);
        clock.set_ahead(2 * DAY_MS + 60_000);
        let world = World::start_at(config, p, clock).await;
        super::until("the next", async || {
            (world.p.calls(&next, "a") == ["prepare", "commit"]).then_some(())
        })
        .await;
        assert_eq!(world.get("last").await.state(), TransactionState::Scheduled);
    })
    .await;
}

/// L5: however many are due at once, no more are in memory than may be, and all of them start.
#[tokio::test]
async fn l5_what_is_due_at_once_stays_within_the_bound() {
    let world = World::sqlite().await;
    let (p, mut config) = (world.p.clone(), world.config.clone());
    drop(world);
    config.transactions_max = 8;
    let world = World::start_with(config.clone(), p.clone()).await;
    // Twice as many as there are places: what is late is spread over as much time, and the next ones over more.
    for n in 0..16 {
        accept(&world, later(&format!("g{n}"), DAY_MS)).await;
        nothing_in_memory(&world).await;
    }
    p.hold(true);
    drop(world);
    let clock = Arc::new(Clock::default());
    clock.set_ahead(DAY_MS - 30 * 60 * 1000);
    let world = World::start_at(config.clone(), p.clone(), Arc::clone(&clock) as _).await;
    super::until("half of the places", async || (in_memory(&world) == 4).then_some(())).await;
    drop(world);
    clock.set_ahead(DAY_MS + 1000);
    let world = World::start_at(config, p.clone(), clock).await;
    super::until("all places", async || (in_memory(&world) == 8).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(in_memory(&world), 8);
    p.hold(false);
    nothing_in_memory(&world).await;
    super::until("all starts", async || (p.seen().len() == 32).then_some(())).await;
}

/// One that is followed stays in memory, and is not brought there once more when its time comes near.
#[tokio::test]
async fn a_sleeper_that_is_followed_stays_in_memory() {
    let world = World::sqlite().await;
    // A little longer than what leaves memory.
    let tx_id = accept(&world, later("g", 65 * 60 * 1000 + 12_000)).await;
    nothing_in_memory(&world).await;
    let request = unanimo_proto::v1::WatchTransactionRequest {
        key: Some(unanimo_proto::v1::watch_transaction_request::Key::TxId(tx_id.clone())),
        ..Default::default()
    };
    let mut states = world.client().watch_transaction(request).await.unwrap().into_inner();
    assert!(states.message().await.unwrap().is_some());
    // Longer than what was asked for stays by itself, and until several scans have passed it by. Its row is
    // rewritten before they would take it for one that sleeps.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(in_memory(&world), 1);
    }
    let shown = world.get("g").await;
    let adopted = shown.timeline.iter().filter(|line| line.event == "adopted").count();
    assert!(adopted <= 1, "{:?}", shown.timeline);
    world.rollback(&tx_id).await.unwrap();
    let mut last = None;
    while let Some(state) = states.message().await.unwrap() {
        last = state.transaction;
    }
    assert_eq!(last.unwrap().outcome(), Outcome::Aborted);
    assert_eq!(world.p.seen(), []);
}

/// A stop waits for what is at work, and not for what only waits for its time.
#[tokio::test]
async fn a_stop_does_not_wait_for_what_starts_later() {
    for mut own in [super::super::config(&super::super::sqlite_url()), {
        let database = unanimo_tests::postgres::Server::shared().database().await;
        super::super::config(&database)
    }] {
        own.drain_timeout = unanimo_coordinator::config::Period::secs(60);
        let world = World::start(own).await;
        for (gid, delay_ms) in [("soon", 600_000), ("tomorrow", DAY_MS)] {
            accept(&world, later(gid, delay_ms)).await;
        }
        let mut second = step("b", "ok", &["a"]);
        second.delay = millis(600_000);
        let mut request = saga("step", vec![step("a", "ok", &[]), second]);
        request.timeout = millis(3_600_000);
        accept(&world, request).await;
        world.get_until("step", "its first vote", |tx| tx.branches[0].voted_at.is_some()).await;
        let mut request = saga("working", vec![step("a", "hang", &[])]);
        request.timeout = millis(2_000);
        let working = accept(&world, request).await;
        super::called(&world, &working, "a", 1).await;
        let World { running, p, config, .. } = world;
        let began = std::time::Instant::now();
        // The one that works is aborted at its deadline, and is waited for.
        running.stop().await.unwrap();
        let took = began.elapsed();
        assert!(took > Duration::from_millis(300) && took < Duration::from_secs(30), "{took:?}");
        let world = World::start_with(config, p).await;
        assert_eq!(world.get("working").await.outcome(), Outcome::Aborted);
        for gid in ["soon", "tomorrow"] {
            assert_eq!(world.get(gid).await.state(), TransactionState::Scheduled);
        }
        assert_eq!(world.get("step").await.outcome(), Outcome::NotDecided);
        world.running.stop().await.unwrap();
    }
}

/// Transactions that start later, and a step that waits, do so over restarts with a clock that was set ahead and then back:
/// each is sent once, at its own time, and a Rollback before that ends it with nothing sent.
#[tokio::test]
async fn clocks_that_are_set_start_nothing_twice_and_nothing_early() {
    on_both(async |world: World| {
        let (p, config) = (world.p.clone(), world.config.clone());
        let mut second = step("b", "ok", &["a"]);
        second.delay = millis(DAY_MS / 2);
        let mut request = saga("step", vec![step("a", "ok", &[]), second]);
        request.timeout = millis(DAY_MS);
        let of_step = accept(&world, request).await;
        let started = accept(&world, later("started", DAY_MS / 2)).await;
        let cancelled = accept(&world, later("cancelled", 2 * DAY_MS)).await;
        super::called(&world, &of_step, "a", 1).await;
        nothing_in_memory(&world).await;
        assert_eq!(p.seen().len(), 1, "only the first step was sent");
        drop(world);

        let clock = Arc::new(Clock::default());
        clock.set_ahead(DAY_MS / 2 + 60_000);
        let world = World::start_at(config.clone(), p.clone(), Arc::clone(&clock) as _).await;
        assert_eq!(ended(&world, "started").await.outcome(), Outcome::Committed);
        assert_eq!(ended(&world, "step").await.outcome(), Outcome::Committed);
        drop(world);

        // Back by half a day: what has ended is not begun again, and what has not begun waits as before.
        clock.set_ahead(0);
        let world = World::start_at(config, p.clone(), clock).await;
        let shown = world.get("cancelled").await;
        assert_eq!(shown.state(), TransactionState::Scheduled);
        let result = world.rollback(&cancelled).await.unwrap();
        assert_eq!((result.outcome(), result.ended), (Outcome::Aborted, true));
        let again = world.submit(later("started", DAY_MS / 2)).await.unwrap();
        assert_eq!((again.tx_id.as_str(), again.outcome()), (&*started, Outcome::Committed));
        assert_eq!(order(&world, &of_step, "prepare"), ["a", "b"]);
        assert_eq!(p.calls(&started, "a"), ["prepare", "commit"]);
        assert_eq!(p.calls(&cancelled, "a"), [""; 0]);
    })
    .await;
}
