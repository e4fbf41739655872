//! Nothing that is not on disk is acted on or told: the database is held up where it matters.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use unanimo_proto::v1::{GetTransactionRequest, Mode, Outcome, Vote, get_transaction_request};
use unanimo_tests::postgres::Server;

use super::{World, branch, config, tcc, until};

/// As long as something must not happen. Calls and answers take a few milliseconds.
const MEANWHILE: Duration = Duration::from_millis(400);

/// A session of the coordinator's database that holds things up by what it has locked.
async fn hold_up(world: &World, lock: &'static str) -> PgConnection {
    let mut holder = PgConnection::connect(world.config.database_url.expose()).await.unwrap();
    holder.execute("BEGIN").await.unwrap();
    holder.execute(lock).await.unwrap();
    holder
}

const EVERY_ROW: &str = "LOCK TABLE log IN EXCLUSIVE MODE";

/// S6: while its branch cannot be written, a Prepare is not sent.
#[tokio::test]
async fn s6_no_prepare_is_sent_before_its_branch_is_durable() {
    let world = World::postgres().await;
    let mut holder = hold_up(&world, "LOCK TABLE log IN EXCLUSIVE MODE").await;
    let mut client = world.client();
    let submit =
        tokio::spawn(async move { client.submit_transaction(tcc("g", &["ok", "ok"])).await });
    tokio::time::sleep(MEANWHILE).await;
    assert!(world.p.seen().is_empty(), "S6: a branch was called before it was durable");
    holder.execute("ROLLBACK").await.unwrap();
    let result = submit.await.unwrap().unwrap().into_inner().result.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
}

/// S6, of a branch that comes later.
#[tokio::test]
async fn s6_no_executed_branch_is_called_before_it_is_durable() {
    let world = World::postgres().await;
    let begun = world.begin("g", Mode::Tcc).await.unwrap();
    let mut holder = hold_up(&world, EVERY_ROW).await;
    let executed = world.execute(&begun.tx_id, branch("a", "ok"));
    let meanwhile = async {
        tokio::time::sleep(MEANWHILE).await;
        assert!(world.p.seen().is_empty(), "S6: a branch was called before it was durable");
        holder.execute("ROLLBACK").await.unwrap();
    };
    let (executed, ()) = tokio::join!(executed, meanwhile);
    executed.unwrap();
    assert_eq!(world.p.calls(&begun.tx_id, "a"), ["prepare"]);
}

/// S3: while a decision cannot be written, neither participants nor clients hear of it.
#[tokio::test]
async fn s3_a_decision_is_durable_before_anybody_hears_of_it() {
    let world = World::postgres().await;
    let begun = world.begin("g", Mode::Tcc).await.unwrap();
    for id in ["a", "b"] {
        world.execute(&begun.tx_id, branch(id, "ok")).await.unwrap();
    }
    let mut holder = hold_up(&world, EVERY_ROW).await;
    let listed = [("a", Vote::Unspecified), ("b", Vote::Unspecified)];
    let commit = world.commit(&begun.tx_id, &listed);
    let meanwhile = async {
        tokio::time::sleep(MEANWHILE).await;
        for id in ["a", "b"] {
            let calls = world.p.calls(&begun.tx_id, id);
            assert_eq!(calls, ["prepare"], "S3: a participant heard of a decision in memory");
        }
        // Whoever asks hears what is on disk, or nothing yet.
        let request = GetTransactionRequest {
            key: Some(get_transaction_request::Key::Gid("g".into())),
            ..Default::default()
        };
        if let Ok(Ok(shown)) =
            tokio::time::timeout(MEANWHILE, world.client().get_transaction(request)).await
        {
            let outcome = shown.into_inner().transaction.unwrap().outcome();
            assert_eq!(outcome, Outcome::NotDecided, "S3: a client heard of a decision in memory");
        }
        holder.execute("ROLLBACK").await.unwrap();
    };
    let (commit, ()) = tokio::join!(commit, meanwhile);
    assert_eq!(commit.unwrap().outcome(), Outcome::Committed);
    let shown = world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    assert_eq!(world.p.calls(&shown.tx_id, "a"), ["prepare", "commit"]);
}

/// A client that hangs up at any moment of any call takes nothing with it: what it asks for next
/// is answered as if it had heard every answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s9_s10_a_client_may_hang_up_in_any_call() {
    let world = World::postgres().await;
    let none = Vote::Unspecified;
    for round in 0..60_u64 {
        let gid = format!("g{round}");
        let moment = Duration::from_micros(round * 150);
        let rolls_back = round % 4 == 3;
        let _ = tokio::time::timeout(moment, world.begin(&gid, Mode::Tcc)).await;
        let tx_id = world.begin(&gid, Mode::Tcc).await.unwrap().tx_id;
        for id in ["a", "b"] {
            let _ = tokio::time::timeout(moment, world.execute(&tx_id, branch(id, "ok"))).await;
            world.execute(&tx_id, branch(id, "ok")).await.unwrap();
        }
        let outcome = if rolls_back {
            let _ = tokio::time::timeout(moment, world.rollback(&tx_id)).await;
            world.rollback(&tx_id).await.unwrap().outcome()
        } else {
            let listed = [("a", none), ("b", none)];
            let _ = tokio::time::timeout(moment, world.commit(&tx_id, &listed)).await;
            world.commit(&tx_id, &listed).await.unwrap().outcome()
        };
        let expected = if rolls_back { Outcome::Aborted } else { Outcome::Committed };
        assert_eq!(outcome, expected, "{gid}");
        let shown = world.get_until(&gid, "its end", |t| t.ended_at.is_some()).await;
        assert_eq!((shown.outcome(), shown.tx_id.as_str()), (expected, tx_id.as_str()));
        let finish = if rolls_back { "cancel" } else { "commit" };
        for id in ["a", "b"] {
            assert_eq!(world.p.calls(&tx_id, id), ["prepare", finish], "{gid} {id}");
        }
    }
}

/// L1: once faults are healed and its deadline is past, a transaction ends within two leases and
/// the longest pause, whatever was down before.
#[tokio::test]
async fn l1_every_transaction_ends_once_faults_are_healed() {
    let server = Server::start();
    let config = config(&server.database().await);
    let bound = 2 * config.lease.0 + config.phase_two_backoff_max.0;
    let world = World::start(config.clone()).await;
    world.p.hold(true);
    for n in 0..20 {
        world.submit(tcc(&format!("committed{n}"), &["ok", "ok"])).await.unwrap();
    }
    let mut hanging = tokio::task::JoinSet::new();
    for n in 0..20 {
        let mut request = tcc(&format!("late{n}"), &["ok", "hang"]);
        request.timeout = super::millis(1_500);
        let mut client = world.client();
        hanging.spawn(async move { client.submit_transaction(request).await });
    }
    until("every Prepare to have come", async || {
        let prepares = world.p.seen().iter().filter(|s| s.operation == "prepare").count();
        (prepares >= 80).then_some(())
    })
    .await;
    // The coordinator dies, and its database with it; the participant has not answered for long.
    let p = world.p.clone();
    drop(world);
    server.kill();
    drop(hanging);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    // Healed: from here on the time counts.
    p.hold(false);
    server.launch();
    let healed = std::time::Instant::now();
    let world = World::start_with(config, p).await;
    for n in 0..20 {
        for (gid, outcome) in
            [(format!("committed{n}"), Outcome::Committed), (format!("late{n}"), Outcome::Aborted)]
        {
            let shown = world.get_until(&gid, "its end", |t| t.ended_at.is_some()).await;
            assert_eq!(shown.outcome(), outcome, "{gid}");
        }
    }
    assert!(healed.elapsed() < bound, "L1: {:?} of {bound:?}", healed.elapsed());
}
