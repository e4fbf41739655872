//! Requests by the client's own name: rollback by gid, and whose answer a gid gives.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimo_coordinator::engine::{Answer, Error, Until};
use unanimo_core::{ActionName, Definition, Gid, Mode as CoreMode, ParticipantName};
use unanimo_proto::v1::{
    AbortCause, GetTransactionRequest, ListTransactionsRequest, Mode, Outcome,
    RollbackTransactionRequest, TransactionResult, get_transaction_request,
    rollback_transaction_request,
};
use unanimo_tests::postgres::Server;

use super::held::{Holder, both};
use super::http::http_get;
use super::{World, branch, config, describe, sqlite_url, tcc, until};

impl World {
    async fn rollback_gid(&self, gid: &str) -> Result<TransactionResult, Status> {
        let request = RollbackTransactionRequest {
            key: Some(rollback_transaction_request::Key::Gid(gid.into())),
            ..Default::default()
        };
        Ok(self.client().rollback_transaction(request).await?.into_inner().result.unwrap())
    }
}

#[track_caller]
fn assert_tombstone(result: &TransactionResult, tx_id: &str) {
    assert_eq!((result.tx_id.as_str(), result.outcome()), (tx_id, Outcome::Aborted));
    assert_eq!(result.abort_cause(), AbortCause::Rollback);
    assert!(result.ended && result.branches.is_empty(), "{result:?}");
}

/// Whatever comes later under the gid is answered with the tombstone, before and after a crash.
#[tokio::test]
async fn s9_a_gid_that_was_never_seen_is_rolled_back_for_good() {
    for url in [sqlite_url(), Server::shared().database().await] {
        let mut world = World::start(config(&url)).await;
        let tx_id = world.rollback_gid("g").await.unwrap().tx_id;
        for _ in 0..2 {
            assert_tombstone(&world.rollback_gid("g").await.unwrap(), &tx_id);
            assert_tombstone(&world.rollback(&tx_id).await.unwrap(), &tx_id);
            assert_tombstone(&world.submit(tcc("g", &["ok", "ok"])).await.unwrap(), &tx_id);
            let mut unserved = tcc("g", &["ok"]);
            unserved.branches[0].participant = "stranger".into();
            assert_tombstone(&world.submit(unserved).await.unwrap(), &tx_id);
            let begun = world.begin("g", Mode::TwoPhaseCommit).await.unwrap();
            assert_eq!((&begun.tx_id, begun.outcome()), (&tx_id, Outcome::Aborted));
            let status = world.execute(&tx_id, branch("a", "ok")).await.unwrap_err();
            assert_eq!(describe(&status).1, "TRANSACTION_CLOSED");
            let status = world.enlist(&tx_id, branch("a", "ok")).await.unwrap_err();
            assert_eq!(describe(&status).1, "TRANSACTION_CLOSED");
            assert_tombstone(&world.commit(&tx_id, &[]).await.unwrap(), &tx_id);

            let shown = world.get("g").await;
            assert_eq!((shown.mode(), shown.branch_count), (Mode::Unspecified, 0));
            let events: Vec<_> = shown.timeline.iter().map(|entry| entry.event.as_str()).collect();
            assert_eq!(events, ["rolled_back_unseen", "decided", "ended"]);
            let listed =
                world.client().list_transactions(ListTransactionsRequest::default()).await.unwrap();
            assert_eq!(listed.into_inner().transactions[0].tx_id, tx_id);
            world = world.crash_and_restart().await;
        }
        assert!(world.p.seen().is_empty(), "nobody is called for a tombstone");
    }
}

/// Only the first rollback makes a tombstone, and only for a gid that nobody has.
#[tokio::test]
async fn tombstones_are_counted() {
    let world = World::sqlite().await;
    world.submit(tcc("seen", &["ok"])).await.unwrap();
    for gid in ["g", "g", "seen", "h"] {
        world.rollback_gid(gid).await.unwrap();
    }
    let (_, text) = http_get(&world, "/metrics").await;
    let line = text.lines().find(|line| line.starts_with("unanimo_rolled_back_unseen_total"));
    assert_eq!(line, Some("unanimo_rolled_back_unseen_total 2"));
}

/// A gid that is known is rolled back as its transaction is.
#[tokio::test]
async fn a_gid_that_is_known_is_rolled_back_as_its_transaction_is() {
    let world = World::sqlite().await;
    let begun = world.begin("open", Mode::Tcc).await.unwrap();
    world.execute(&begun.tx_id, branch("a", "ok")).await.unwrap();
    let result = world.rollback_gid("open").await.unwrap();
    assert_eq!((&result.tx_id, result.outcome()), (&begun.tx_id, Outcome::Aborted));
    let committed = world.submit(tcc("done", &["ok"])).await.unwrap();
    world.get_until("done", "its end", |t| t.ended_at.is_some()).await;
    let late = world.rollback_gid("done").await.unwrap();
    assert_eq!((&late.tx_id, late.outcome()), (&committed.tx_id, Outcome::Committed));
    let status = world.rollback_gid("a/b").await.unwrap_err();
    assert_eq!(
        describe(&status),
        (Code::InvalidArgument, "FIELD_INVALID".into(), vec!["gid".into()])
    );
}

/// A client that lost its Submit's answer ends it by its gid, while the Submit may still be on its
/// way. One outcome is told to everybody, and participants see no other one.
async fn a_lost_submit_is_ended(world: World) {
    let mut tombstones = 0;
    for round in 0..200_u64 {
        let gid = format!("g{round}");
        let before = world.p.seen().len();
        // From "the rollback is first by far" to "the Submit is".
        let (early, late) = (Duration::from_micros(round % 20 * 150), Duration::from_micros(1_500));
        let request = tcc(&gid, &["ok", "ok"]);
        let mut client = world.client();
        let sent = request.clone();
        let submit = tokio::spawn(async move {
            tokio::time::sleep(late).await;
            client.submit_transaction(sent).await
        });
        tokio::time::sleep(early).await;
        let rolled_back = if round % 3 == 0 {
            // The client has hung up by then.
            let (rolled_back, ()) = tokio::join!(world.rollback_gid(&gid), async {
                tokio::time::sleep(Duration::from_micros(round * 10)).await;
                submit.abort();
            });
            rolled_back.unwrap()
        } else {
            let (rolled_back, submit) = tokio::join!(world.rollback_gid(&gid), submit);
            let (rolled_back, submit) = (rolled_back.unwrap(), submit.unwrap().unwrap());
            let submit = submit.into_inner().result.unwrap();
            assert_eq!(
                (&submit.tx_id, submit.outcome()),
                (&rolled_back.tx_id, rolled_back.outcome())
            );
            rolled_back
        };
        assert_ne!(rolled_back.outcome(), Outcome::NotDecided, "{gid}");
        let told = (&rolled_back.tx_id, rolled_back.outcome());
        let again = world.submit(request).await.unwrap();
        assert_eq!((&again.tx_id, again.outcome()), told, "{gid}");
        let again = world.rollback_gid(&gid).await.unwrap();
        assert_eq!((&again.tx_id, again.outcome()), told, "{gid}");
        let shown = world.get_until(&gid, "its end", |t| t.ended_at.is_some()).await;
        assert_eq!((&shown.tx_id, shown.outcome()), told, "{gid}");

        let calls = world.p.seen().split_off(before);
        assert!(calls.iter().all(|seen| seen.tx_id == *told.0), "{gid}: a second transaction");
        if shown.branch_count == 0 {
            tombstones += 1;
            assert_eq!(calls, [], "{gid}: a participant heard of a tombstone");
        }
        let other = if told.1 == Outcome::Aborted { "commit" } else { "cancel" };
        assert!(calls.iter().all(|seen| seen.operation != other), "{gid}: {calls:?}");
    }
    assert!(tombstones > 0, "no rollback came first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_s9_a_lost_submit_is_ended_by_its_gid_on_postgres() {
    a_lost_submit_is_ended(World::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_s9_a_lost_submit_is_ended_by_its_gid_on_sqlite() {
    a_lost_submit_is_ended(World::sqlite().await).await;
}

/// A tombstone is new work: what is refused stores nothing, and may be sent again.
#[tokio::test]
async fn l5_a_tombstone_is_refused_like_other_new_work() {
    let mut config = config(&sqlite_url());
    config.transactions_max = 1;
    let world = World::start(config).await;
    world.p.hold(true);
    world.submit(tcc("g", &["ok"])).await.unwrap();
    let status = world.rollback_gid("new").await.unwrap_err();
    assert_eq!(describe(&status), (Code::ResourceExhausted, "OVERLOADED".into(), vec![]));
    let by_gid = get_transaction_request::Key::Gid("new".into());
    let request = GetTransactionRequest { key: Some(by_gid), ..Default::default() };
    let status = world.client().get_transaction(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "nothing was stored");
    // What is known is no new work.
    assert_eq!(world.rollback_gid("g").await.unwrap().outcome(), Outcome::Committed);
    world.p.hold(false);
    world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    let buried = world.rollback_gid("new").await.unwrap().tx_id;

    world.p.hold(true);
    world.submit(tcc("h", &["ok"])).await.unwrap();
    let channel = world.channel.clone();
    let mut client =
        unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient::new(channel);
    let p = world.p.clone();
    let stopping = tokio::spawn(world.running.stop());
    let by_gid = |gid: &str| RollbackTransactionRequest {
        key: Some(rollback_transaction_request::Key::Gid(gid.into())),
        ..Default::default()
    };
    until("new work to be refused", async || {
        let status = client.clone().rollback_transaction(by_gid("more")).await.err()?;
        (describe(&status) == (Code::Unavailable, "DRAINING".into(), vec![])).then_some(())
    })
    .await;
    let known = client.rollback_transaction(by_gid("new")).await.unwrap().into_inner();
    assert_tombstone(&known.result.unwrap(), &buried);
    p.hold(false);
    stopping.await.unwrap().unwrap();
}

/// S3: while it cannot be written, nobody hears of a tombstone.
#[tokio::test]
async fn s3_a_tombstone_is_durable_before_anybody_hears_of_it() {
    let world = World::postgres().await;
    let mut holder = hold_up(&world, "LOCK TABLE log IN EXCLUSIVE MODE").await;
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let deadline = Instant::now() + Duration::from_millis(200);
        let gid = Gid::new("g").unwrap();
        let answer =
            world.running.engine().rollback_gid(gid, String::new(), Until::Decided, deadline).await;
        assert!(matches!(answer, Ok(Answer::NotYet(None))), "{answer:?}");
        holder.execute("ROLLBACK").await.unwrap();
    };
    let (rolled_back, ()) = tokio::join!(world.rollback_gid("g"), meanwhile);
    let rolled_back = rolled_back.unwrap();
    assert_tombstone(&rolled_back, &rolled_back.tx_id);
}

/// A tombstone that loses its gid to a transaction rolls that one back. The transaction gets the gid in
/// the database, after the look whether the gid is known.
#[tokio::test]
async fn s9_a_tombstone_that_loses_its_gid_rolls_the_holder_back() {
    let world = World::postgres().await;
    let begun = world.begin("x", Mode::Tcc).await.unwrap();
    world.execute(&begun.tx_id, branch("a", "ok")).await.unwrap();
    // The name is the fourth byte of the first row's body.
    let rename = "UPDATE gids SET key = encode(substr(sha256('g'), 1, 16), 'hex')::uuid;
        UPDATE log SET body = set_byte(body, 3, ascii('g')) WHERE follows = 0";
    let mut holder = hold_up(&world, rename).await;
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        holder.execute("COMMIT").await.unwrap();
    };
    let (rolled_back, ()) = tokio::join!(world.rollback_gid("g"), meanwhile);
    let rolled_back = rolled_back.unwrap();
    let told = (&rolled_back.tx_id, rolled_back.outcome());
    assert_eq!(told, (&begun.tx_id, Outcome::Aborted));
    until("its Cancel", async || {
        (world.p.calls(&begun.tx_id, "a") == ["prepare", "cancel"]).then_some(())
    })
    .await;
}

async fn hold_up(world: &World, lock: &'static str) -> PgConnection {
    let mut holder = PgConnection::connect(world.config.database_url.expose()).await.unwrap();
    holder.execute("BEGIN").await.unwrap();
    holder.execute(lock).await.unwrap();
    holder
}

/// A TCC at `p` as the core takes it: the same as `tcc(gid, &[action])`.
fn definition(gid: &str, action: &str) -> Definition {
    let mut definition = crate::fixtures::definition(&Gid::new(gid).unwrap());
    definition.branches.truncate(1);
    definition.branches[0].participant = ParticipantName::new("p").unwrap();
    definition.branches[0].action = ActionName::new(action).unwrap();
    definition.branches[0].payload = bytes::Bytes::from_static(b"payload of a").into();
    assert_eq!(definition.branches[0].mode, CoreMode::Tcc);
    definition
}

/// S9: a request whose patience is over hears nothing of another request's transaction.
#[tokio::test]
async fn s9_a_wait_that_runs_out_tells_nothing_of_another_request() {
    let world = World::sqlite().await;
    world.p.hold(true);
    let first = world.submit(tcc("g", &["ok"])).await.unwrap();
    assert_eq!(first.outcome(), Outcome::Committed);
    let begin = async |action: &str| {
        let over = Instant::now();
        world.running.engine().begin(definition("g", action), Until::Decided, over).await
    };
    match begin("other").await {
        Err(Error::GidReused { tx_id, outcome }) => {
            assert_eq!(tx_id.to_string(), first.tx_id);
            assert_eq!(outcome, Some(unanimo_core::Outcome::Committed));
        }
        answer => panic!("{answer:?}"),
    }
    let Ok(Answer::View(view)) = begin("ok").await else { panic!("the same request") };
    assert_eq!(view.tx.tx_id().to_string(), first.tx_id);
    world.p.hold(false);
}

/// S3, S9: GID_REUSED is not told before the first request is durable; then it names that one's
/// transaction, and its outcome once that is decided.
#[tokio::test]
async fn s3_s9_a_reused_gid_is_told_when_the_first_request_is_durable() {
    for world in both().await {
        reused_gid_is_told_when_the_first_request_is_durable(world).await;
    }
}

async fn reused_gid_is_told_when_the_first_request_is_durable(world: World) {
    let holder = Holder::of(&world).await;
    let first = world.submit(tcc("g", &["fail-1000"]));
    let second = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.submit(tcc("g", &["ok"])).await.unwrap_err()
    };
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        for patience in [0, 200] {
            let over = Instant::now() + Duration::from_millis(patience);
            let engine = world.running.engine();
            let answer = engine.begin(definition("g", "ok"), Until::Decided, over).await;
            assert!(matches!(answer, Ok(Answer::NotYet(None))), "{patience} ms: {answer:?}");
        }
        holder.let_go().await;
        let stored = world.get_until("g", "its Prepare", |t| t.branch_count == 1).await;
        world.rollback(&stored.tx_id).await.unwrap();
    };
    let (first, second, ()) = tokio::join!(first, second, meanwhile);
    let first = first.unwrap();
    assert_eq!(reused(&second), (first.tx_id.clone(), None));
    let third = world.submit(tcc("g", &["ok"])).await.unwrap_err();
    assert_eq!(reused(&third), (first.tx_id, Some("aborted".to_owned())));
}

/// Returns what GID_REUSED says of the first request.
#[track_caller]
fn reused(status: &Status) -> (String, Option<String>) {
    assert_eq!(describe(status).1, "GID_REUSED");
    let details = status.get_error_details();
    let metadata = &details.error_info().unwrap().metadata;
    (metadata["tx_id"].clone(), metadata.get("outcome").cloned())
}

/// S9: a request that an earlier version stored is recognised by the rule of its digest: while its
/// transaction is live, and when it has ended.
#[tokio::test]
async fn s9_a_digest_of_the_first_rule_is_still_compared() {
    let url = Server::shared().database().await;
    let world = World::start(config(&url)).await;
    world.p.hold(true);
    let first = world.submit(tcc("g", &["ok"])).await.unwrap().tx_id;
    let p = world.p.clone();
    let config = world.config.clone();
    drop(world);
    let old = definition("g", "ok").digest_by(1).unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    // Behind a name of one byte, mode and drive; the number 1 is stored as 2.
    let change = "UPDATE log SET body = set_byte(overlay(body PLACING $1 FROM 8 FOR 32), 39, 2)
        WHERE follows = 0";
    sqlx::query(change).bind(&old.hash[..]).execute(&mut connection).await.unwrap();
    let world = World::start_with(config, p).await;
    for ended in [false, true] {
        if ended {
            world.p.hold(false);
            world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
        }
        assert_eq!(world.submit(tcc("g", &["ok"])).await.unwrap().tx_id, first);
        let other = world.submit(tcc("g", &["other"])).await.unwrap_err();
        assert_eq!(reused(&other), (first.clone(), Some("committed".to_owned())));
    }
}
