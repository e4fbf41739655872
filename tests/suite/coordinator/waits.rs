//! Waits of calls, and what goes on without its caller.

use std::time::{Duration, Instant};

use tonic::Request;
use unanimo_proto::v1::{
    GetTransactionRequest, Mode, Outcome, RollbackTransactionRequest, Transaction, Vote, WaitFor,
    get_transaction_request, rollback_transaction_request,
};

use super::repetitions::{NONE, begun_with_a_vote_out, commit};
use super::{World, branch, tcc};

async fn get(world: &World, gid: &str, wait_for: WaitFor, within: Duration) -> Transaction {
    let mut request = Request::new(GetTransactionRequest {
        key: Some(get_transaction_request::Key::Gid(gid.into())),
        wait_for: wait_for.into(),
        ..Default::default()
    });
    request.set_timeout(within);
    world.client().get_transaction(request).await.unwrap().into_inner().transaction.unwrap()
}

/// A COMMIT that was accepted is durable: a crash and an absent initiator change nothing.
#[tokio::test]
async fn s6_an_accepted_commit_goes_on_without_its_caller_after_a_crash() {
    for world in [World::sqlite().await, World::postgres().await] {
        let tx_id = begun_with_a_vote_out(&world, "g").await;
        let listed = [("mine", Vote::Prepared), ("out", NONE)];
        let request = commit(&tx_id, &listed, WaitFor::Accepted);
        let accepted = world.client().commit_transaction(request).await.unwrap().into_inner();
        assert_eq!(accepted.result.unwrap().outcome(), Outcome::NotDecided);
        let world = world.crash_and_restart().await;
        let shown = world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(shown.outcome(), Outcome::Committed);
        assert_eq!(world.p.calls(&tx_id, "mine"), ["commit"]);
        assert_eq!(world.p.calls(&tx_id, "out").last(), Some(&"commit"));
    }
}

#[tokio::test]
async fn an_accepted_submit_is_answered_before_its_votes_are_in() {
    let world = World::sqlite().await;
    let mut request = tcc("g", &["fail-8"]);
    request.wait_for = WaitFor::Accepted.into();
    let accepted = world.submit(request.clone()).await.unwrap();
    assert_eq!((accepted.outcome(), accepted.ended), (Outcome::NotDecided, false));
    assert!(!accepted.tx_id.is_empty());
    let world = world.crash_and_restart().await;
    let shown = get(&world, "g", WaitFor::Ended, Duration::from_secs(20)).await;
    assert_eq!((shown.outcome(), shown.tx_id), (Outcome::Committed, accepted.tx_id));
    let again = world.submit(request).await.unwrap();
    assert_eq!((again.outcome(), again.ended), (Outcome::Committed, true));
}

#[tokio::test]
async fn an_accepted_rollback_is_durable() {
    let world = World::sqlite().await;
    let tx_id = world.begin("g", Mode::Tcc).await.unwrap().tx_id;
    world.p.hold(true);
    world.execute(&tx_id, branch("a", "ok")).await.unwrap();
    let request = RollbackTransactionRequest {
        key: Some(rollback_transaction_request::Key::TxId(tx_id.clone())),
        wait_for: WaitFor::Accepted.into(),
        ..Default::default()
    };
    let result = world.client().rollback_transaction(request).await.unwrap().into_inner().result;
    assert!(!result.unwrap().ended);
    let world = world.crash_and_restart().await;
    world.p.hold(false);
    let shown = get(&world, "g", WaitFor::Ended, Duration::from_secs(20)).await;
    assert_eq!(shown.outcome(), Outcome::Aborted);
}

/// A Get waits for what it names, and answers with the transaction as it stands where that does not
/// come in time.
#[tokio::test]
async fn a_get_waits_and_then_tells_what_is() {
    let world = World::sqlite().await;
    let mut request = tcc("g", &["hang"]);
    request.wait_for = WaitFor::Accepted.into();
    world.submit(request).await.unwrap();
    for wait_for in [WaitFor::Unspecified, WaitFor::Accepted] {
        let started = Instant::now();
        let shown = get(&world, "g", wait_for, Duration::from_secs(30)).await;
        assert_eq!(shown.outcome(), Outcome::NotDecided);
        assert!(started.elapsed() < Duration::from_secs(10), "answered at once");
    }
    for wait_for in [WaitFor::Decided, WaitFor::Ended] {
        let started = Instant::now();
        let shown = get(&world, "g", wait_for, Duration::from_secs(1)).await;
        assert_eq!(shown.outcome(), Outcome::NotDecided);
        let took = started.elapsed();
        assert!(took > Duration::from_millis(800), "it waits: {took:?}");
    }
    world.p.hold(true);
    world.submit(tcc("h", &["ok"])).await.unwrap();
    let decided = get(&world, "h", WaitFor::Decided, Duration::from_secs(30)).await;
    assert_eq!((decided.outcome(), decided.ended_at), (Outcome::Committed, None));
    let release = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.p.hold(false);
    };
    let ended = get(&world, "h", WaitFor::Ended, Duration::from_secs(30));
    let (ended, ()) = tokio::join!(ended, release);
    assert!(ended.ended_at.is_some());
}
