//! Starts that come later, and transactions that sleep until then.

use std::time::Duration;

use unanimo_proto::v1::{
    AbortCause, BranchState, Mode, Outcome, SubmitTransactionRequest, TransactionState, WaitFor,
};

use super::super::{World, millis, tcc};
use super::{accept, ended, order, saga, step};

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
    for world in [World::sqlite().await, World::postgres().await] {
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
    }
}

/// A Rollback before the start ends it, and nobody is called.
#[tokio::test]
async fn a_rollback_before_the_start_ends_it() {
    for world in [World::sqlite().await, World::postgres().await] {
        for (gid, delay_ms) in [("soon", 60_000), ("tomorrow", DAY_MS)] {
            let tx_id = accept(&world, later(gid, delay_ms)).await;
            let result = world.rollback(&tx_id).await.unwrap();
            assert_eq!((result.outcome(), result.ended), (Outcome::Aborted, true));
            assert_eq!(result.abort_cause(), AbortCause::Rollback);
        }
        assert_eq!(world.p.seen(), []);
    }
}

/// L5: what starts tomorrow costs no memory, before and after a restart. Whoever asks for it finds it.
#[tokio::test]
async fn l5_what_starts_tomorrow_costs_no_memory() {
    for world in [World::sqlite().await, World::postgres().await] {
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
    }
}

/// A saga whose next step is due tomorrow sleeps, too; its compensations are not forgotten meanwhile.
#[tokio::test]
async fn a_saga_sleeps_between_two_steps() {
    for world in [World::sqlite().await, World::postgres().await] {
        let mut second = step("b", "ok", &["a"]);
        second.delay = millis(12 * 60 * 60 * 1000);
        let mut request = saga("g", vec![step("a", "ok", &[]), second]);
        request.timeout = millis(DAY_MS);
        let tx_id = accept(&world, request).await;
        super::called(&world, &tx_id, "a", 1).await;
        nothing_in_memory(&world).await;
        let world = world.crash_and_restart().await;
        let shown = world.get("g").await;
        assert!(shown.branches[0].voted_at.is_some(), "its vote was written down");
        let result = world.rollback(&tx_id).await.unwrap();
        assert_eq!((result.outcome(), result.ended), (Outcome::Aborted, true));
        assert_eq!(world.p.calls(&tx_id, "a"), ["prepare", "cancel"]);
    }
}
