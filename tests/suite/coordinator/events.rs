//! Events of all transactions: each is seen, in one order, and a reader goes on where it was.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::Connection;
use tonic::{Code, Status, Streaming};
use tonic_types::{ErrorInfo, StatusExt};
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    ForgetTransactionRequest, Mode, Outcome, RollbackTransactionRequest, TransactionEvent,
    TransactionEventKind as Kind, WatchTransactionRequest, WatchTransactionsRequest,
    WatchTransactionsResponse, rollback_transaction_request, watch_transaction_request,
};
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::http::{first_event, http_call, http_get};
use super::process::Process;
use super::{World, config, describe, sqlite_url, tcc};

/// A stream that must not be silent for ever.
pub(super) struct Events {
    stream: Streaming<WatchTransactionsResponse>,
    /// The last revision.
    seen: u64,
}

impl Events {
    async fn start(world: &World, request: WatchTransactionsRequest) -> Result<Self, Status> {
        let mut stream = world.client().watch_transactions(request).await?.into_inner();
        let first = stream.message().await?.expect("it tells where it begins");
        assert_eq!(first.event, None);
        Ok(Self { stream, seen: first.revision })
    }

    pub(super) async fn after(world: &World, revision: u64) -> Self {
        let request = WatchTransactionsRequest { after_revision: revision, ..Default::default() };
        Self::start(world, request).await.unwrap()
    }

    /// The next message; revisions grow.
    async fn message(&mut self) -> Result<Option<WatchTransactionsResponse>, Status> {
        let next = tokio::time::timeout(Duration::from_secs(60), self.stream.message()).await;
        let Some(news) = next.expect("the stream is silent")? else { return Ok(None) };
        assert!(news.revision > self.seen, "{} after {}", news.revision, self.seen);
        self.seen = news.revision;
        Ok(Some(news))
    }

    pub(super) async fn next(&mut self) -> TransactionEvent {
        loop {
            let news = self.message().await.unwrap().expect("it does not end");
            if let Some(event) = news.event {
                assert_eq!(event.revision, news.revision);
                return event;
            }
        }
    }
}

fn told(event: &TransactionEvent) -> (&str, Kind, Outcome, &str) {
    (&event.gid, event.kind(), event.outcome(), &event.reason)
}

async fn forget(world: &World, tx_id: &str) {
    let request = ForgetTransactionRequest {
        tx_id: tx_id.into(),
        operator: "ann".into(),
        note: "paid by hand".into(),
        ..Default::default()
    };
    world.operator().forget_transaction(request).await.unwrap();
}

/// Each kind of event is told once, in the order in which it happened, also to a reader that comes again, and the
/// incarnation that comes next begins with nothing twice.
#[tokio::test]
async fn s3_events_of_every_kind_come_in_their_order() {
    let mut config = config(&sqlite_url());
    // On a busy machine all but the one that is held end within it.
    config.stalled_after = Period::secs(2);
    config.drain_timeout = Period::millis(100);
    let world = World::start(config).await;
    let mut events = Events::after(&world, 0).await;
    let mut request = tcc("g-committed", &["ok", "ok"]);
    request.metadata.insert("order".into(), "4711".into());
    world.submit(request).await.unwrap();
    let committed = events.next().await;
    assert_eq!(told(&committed), ("g-committed", Kind::Committed, Outcome::Committed, ""));
    assert_eq!(
        (committed.mode(), committed.participants.as_slice()),
        (Mode::Tcc, &["p".to_owned()][..])
    );
    assert_eq!(committed.metadata["order"], "4711");
    let shown = world.get("g-committed").await;
    assert_eq!(committed.tx_id, shown.tx_id);
    assert_eq!((committed.occurred_at, committed.created_at), (shown.ended_at, shown.created_at));

    world.submit(tcc("g-aborted", &["ok", "refuse"])).await.unwrap();
    let aborted = events.next().await;
    assert_eq!(told(&aborted), ("g-aborted", Kind::Aborted, Outcome::Aborted, "refused"));
    assert_eq!(aborted.branch_id, "b");
    let key = Some(rollback_transaction_request::Key::Gid("g-unseen".into()));
    let unseen = RollbackTransactionRequest { key, ..Default::default() };
    world.client().rollback_transaction(unseen).await.unwrap();
    let unseen = events.next().await;
    assert_eq!(told(&unseen), ("g-unseen", Kind::Aborted, Outcome::Aborted, "rollback"));
    assert_eq!(unseen.mode(), Mode::Unspecified);

    world.p.hold(true);
    world.submit(tcc("g-stalled", &["ok"])).await.unwrap();
    let stalled = events.next().await;
    assert_eq!(told(&stalled), ("g-stalled", Kind::Stalled, Outcome::Committed, "stalled"));
    assert_eq!(stalled.detail, "waiting for a");
    world.p.hold(false);
    assert_eq!(events.next().await.kind(), Kind::Committed);

    let mixed = world.submit(tcc("h-mixed", &["commit-heuristic", "ok"])).await.unwrap();
    let heuristic = events.next().await;
    assert_eq!(told(&heuristic), ("h-mixed", Kind::Heuristic, Outcome::Committed, "mixed"));
    forget(&world, &mixed.tx_id).await;
    let forgotten = events.next().await;
    assert_eq!(told(&forgotten), ("h-mixed", Kind::Forgotten, Outcome::Committed, ""));
    assert!(forgotten.occurred_at.unwrap().seconds >= heuristic.occurred_at.unwrap().seconds);

    // Over a crash, from the beginning and from within.
    let world = world.crash_and_restart().await;
    let mut again = Events::after(&world, stalled.revision).await;
    assert_eq!(again.next().await.revision, stalled.revision + 1);
    let chosen = WatchTransactionsRequest {
        kinds: vec![Kind::Committed.into(), Kind::Heuristic.into()],
        gid_prefix: "g-".into(),
        participant: "p".into(),
        ..Default::default()
    };
    let mut chosen = Events::start(&world, chosen).await.unwrap();
    let gids = [chosen.next().await.gid, chosen.next().await.gid];
    assert_eq!(gids, ["g-committed", "g-stalled"]);
    let only_new = WatchTransactionsRequest { only_new: true, ..Default::default() };
    let mut only_new = Events::start(&world, only_new).await.unwrap();
    // A process has revisions of its own.
    let begins = only_new.seen;
    assert!(begins > forgotten.revision + 1, "{begins} after {}", forgotten.revision);
    world.submit(tcc("g-last", &["ok"])).await.unwrap();
    let last = only_new.next().await;
    assert_eq!((last.gid.as_str(), last.revision), ("g-last", begins + 1));
    assert_eq!(chosen.next().await.gid, "g-last");
    over_http(&world, &forgotten, last.revision).await;
    let stopping = tokio::spawn(world.running.stop());
    let status = only_new.message().await.unwrap_err();
    assert_eq!(describe(&status), (Code::Unavailable, "STOPPED".into(), vec![]));
    stopping.await.unwrap().unwrap();
}

/// The same over HTTP, whose id of an event is the revision.
async fn over_http(world: &World, before: &TransactionEvent, revision: u64) {
    let address = world.running.admin_address().unwrap();
    let last = before.revision.to_string();
    let headers = [("grpc-timeout", "5S"), ("last-event-id", last.as_str())];
    let path = "/v1/transactions:watch?onlyNew=true";
    let seen = http_call(address, "GET", path, &headers, b"").await;
    assert!(seen.body.contains("\"gid\":\"g-last\""), "{seen:?}");
    assert!(seen.body.contains(&format!("id: {revision}\n")), "{seen:?}");
    assert!(seen.body.ends_with("event: end\ndata: {}\n\n"), "{seen:?}");
    let (seen, _) = first_event(address, "/v1/transactions:watch?kinds=NOTHING", &[]).await;
    assert_eq!(seen.code, 400, "{seen:?}");
}

/// Revisions of the ends of three transactions, `a`, `b` and `c`.
async fn three(world: &World) -> Vec<u64> {
    let mut events = Events::after(world, 0).await;
    let mut revisions = Vec::new();
    for gid in ["a", "b", "c"] {
        world.submit(tcc(gid, &["ok"])).await.unwrap();
        revisions.push(events.next().await.revision);
    }
    revisions
}

/// The refusal of a revision, if it is refused.
pub(super) async fn refused(world: &World, revision: u64) -> Option<ErrorInfo> {
    let request = WatchTransactionsRequest { after_revision: revision, ..Default::default() };
    let refused = Events::start(world, request).await.err()?;
    assert_eq!(describe(&refused), (Code::OutOfRange, "REVISION_UNKNOWN".into(), vec![]));
    refused.get_error_details().error_info().cloned()
}

/// Readers that were away for longer than events are kept are told so, and so are those that know of events that never
/// were.
#[tokio::test]
async fn a_revision_whose_successors_are_gone_is_refused() {
    let mut world = World::start(config(&sqlite_url())).await;
    let revisions = three(&world).await;
    world.config.events_retention = Period::millis(1);
    world.config.purge_interval = Period::millis(50);
    let world = world.crash_and_restart().await;
    // The mark of the second process is the last to go.
    let oldest = until("the events to be purged", async || {
        let oldest: u64 = refused(&world, revisions[0]).await?.metadata["oldest"].parse().unwrap();
        (oldest > revisions[2]).then_some(oldest)
    })
    .await;
    assert_eq!(Events::after(&world, oldest).await.seen, oldest);
    let from_oldest = Events::after(&world, 0).await;
    assert_eq!(from_oldest.seen, oldest, "0 begins with what is kept");
    for unknown in [1, revisions[2], oldest + 1, u64::MAX] {
        assert!(refused(&world, unknown).await.is_some(), "{unknown}");
    }
}

/// More events are due than one run takes, and the next run of the purge would be in an hour.
#[tokio::test]
async fn the_purge_of_many_events_goes_on() {
    const MANY: i64 = 100_000;
    let url = sqlite_url();
    let mut world = World::start(config(&url)).await;
    three(&world).await;
    let options =
        sqlx::sqlite::SqliteConnectOptions::new().filename(url.trim_start_matches("sqlite:"));
    let mut raw = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    for statement in [
        "UPDATE feed_events SET added_ms = 1",
        "WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers LIMIT $1)
         INSERT INTO feed_events (revision, added_ms, tx_id, body)
         SELECT last_revision + number, 1, zeroblob(16), x'' FROM feed CROSS JOIN numbers",
        "UPDATE feed SET last_revision = last_revision + $1",
    ] {
        sqlx::query(statement).bind(MANY).execute(&mut raw).await.unwrap();
    }
    world.config.events_retention = Period::secs(3600);
    world.config.purge_interval = Period::secs(3600);
    let world = world.crash_and_restart().await;
    until("all old events to be purged", async || {
        let old = sqlx::query_scalar("SELECT count(*) FROM feed_events WHERE added_ms = 1");
        let old: i64 = old.fetch_one(&mut raw).await.unwrap();
        (old <= 1).then_some(())
    })
    .await;
    raw.close().await.unwrap();
    drop(world);
}

/// A database is as it was earlier, and so many events have come since that their number is above the lost ones'. Whoever has seen a
/// lost one is told, and whoever has not goes on.
#[tokio::test]
async fn s3_a_revision_of_a_lost_time_is_refused_also_when_others_have_followed() {
    let url = sqlite_url();
    let world = World::start(config(&url)).await;
    let revisions = three(&world).await;
    let path = url.trim_start_matches("sqlite:");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut raw = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    for lost in [
        "DELETE FROM feed_events WHERE revision > $1",
        "UPDATE feed SET last_revision = $1",
        "DELETE FROM feed_cursors WHERE $1 > 0",
    ] {
        let lost = sqlx::query(lost).bind(i64::try_from(revisions[0]).unwrap());
        assert!(lost.execute(&mut raw).await.unwrap().rows_affected() > 0);
    }
    raw.close().await.unwrap();
    let world = world.crash_and_restart().await;
    let mut events = Events::after(&world, revisions[0]).await;
    for gid in ["d", "e"] {
        world.submit(tcc(gid, &["ok"])).await.unwrap();
    }
    // Those that were lost are made again of the log, with other revisions.
    for gid in ["a", "b", "c", "d", "e"] {
        let event = events.next().await;
        assert_eq!(event.gid, gid);
        assert!(!revisions.contains(&event.revision));
    }
    assert!(events.seen > revisions[2]);
    for lost in &revisions[1..] {
        assert!(refused(&world, *lost).await.is_some(), "{lost}");
    }
}

/// Ends that are committed in another order than that of their writes: a session holds up one of them, and then lets
/// it pass. It holds up no other event, and is not passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_late_commit_is_not_passed_over_among_a_thousand() {
    const OTHERS: usize = 1_000;
    let url = Server::shared().database().await;
    let world = World::start(config(&url)).await;
    let mut events = Events::after(&world, 0).await;
    let mut slow = Events::after(&world, 0).await;
    let no_gid = WatchTransactionsRequest { gid_prefix: "none".into(), ..Default::default() };
    let mut of_none = Events::start(&world, no_gid).await.unwrap();
    world.p.hold(true);
    let held = world.submit(tcc("held", &["ok"])).await.unwrap();
    // Whoever inserts the same row first lets the end wait.
    let mut rival = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN").execute(&mut rival).await.unwrap();
    let same = sqlx::query(
        "INSERT INTO log (tx_id, follows, version, owner, write_id, kind, body)
         SELECT tx_id, max(version), max(version) + 1, 0, gen_random_uuid(), 1, '' FROM log
         WHERE tx_id = $1::uuid GROUP BY tx_id",
    );
    same.bind(&held.tx_id).execute(&mut rival).await.unwrap();
    world.p.hold(false);
    let submitting = (0..OTHERS).map(|n| {
        let (mut client, request) = (world.client(), tcc(&format!("g{n}"), &["ok", "ok"]));
        tokio::spawn(async move { client.submit_transaction(request).await.map(drop) })
    });
    for submitted in submitting.collect::<Vec<_>>() {
        submitted.await.unwrap().unwrap();
    }
    let mut gids = BTreeSet::new();
    for _ in 0..OTHERS {
        let event = events.next().await;
        assert_ne!(event.gid, "held", "it has not ended");
        assert!(gids.insert(event.gid), "each comes once");
    }
    sqlx::query("ROLLBACK").execute(&mut rival).await.unwrap();
    let late = events.next().await;
    assert_eq!(told(&late), ("held", Kind::Committed, Outcome::Committed, ""));
    // From the beginning the same ones, in the same order; a reader that was slow has delayed nobody, and sees them, too.
    let mut again = Events::after(&world, 0).await;
    let mut last = None;
    for _ in 0..=OTHERS {
        let event = again.next().await;
        assert_eq!(slow.next().await, event);
        last = Some(event);
    }
    assert_eq!(last, Some(late));
    // Whoever has asked for none of them learns how far the stream is, and can go on from there.
    let far = of_none.message().await.unwrap().unwrap();
    assert_eq!(far.event, None);
    Events::after(&world, far.revision).await;
}

/// L3: what locks the row about the ends of the feed holds up events, and no transaction. They come once it is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_lock_in_the_feed_holds_up_events_alone() {
    let url = Server::shared().database().await;
    let world = World::start(config(&url)).await;
    let mut events = Events::after(&world, 0).await;
    world.submit(tcc("before", &["ok"])).await.unwrap();
    assert_eq!(events.next().await.gid, "before");
    let mut rival = sqlx::PgConnection::connect(&url).await.unwrap();
    for locking in ["BEGIN", "SELECT 1 FROM feed FOR UPDATE"] {
        sqlx::query(locking).execute(&mut rival).await.unwrap();
    }
    let mut gids = BTreeSet::new();
    for number in 0..20 {
        let gid = format!("g{number}");
        world.submit(tcc(&gid, &["ok"])).await.expect("it waits for no event");
        gids.insert(gid);
    }
    until("the feed to be behind", async || {
        let (_, text) = http_get(&world, "/metrics").await;
        let lag = text.lines().find_map(|line| line.strip_prefix("unanimo_events_lag_seconds "))?;
        (lag.parse::<f64>().unwrap() >= 1.0).then_some(())
    })
    .await;
    let silent = tokio::time::timeout(Duration::from_millis(100), events.stream.message()).await;
    assert!(silent.is_err(), "it is not durable: {silent:?}");
    sqlx::query("ROLLBACK").execute(&mut rival).await.unwrap();
    for _ in 0..20 {
        let gid = events.next().await.gid;
        assert!(gids.remove(&gid), "{gid} comes once");
    }
}

/// A process that is killed before or behind the step that adds events leaves none out, and none twice.
#[tokio::test]
async fn s3_a_kill_beside_the_feed_loses_no_event() {
    for point in ["feed-before-advance", "feed-after-advance"] {
        let url = sqlite_url();
        let crash = ("UNANIMO_CRASH_AT", format!("{point}:1"));
        let process = Process::start_with(&url, &[], &[crash]).await;
        let mut client = process.client();
        // It may be killed before the answer.
        let _ = client.submit_transaction(tcc("g", &["ok"])).await;
        until("the process to be killed", async || {
            let asked = WatchTransactionsRequest { only_new: true, ..Default::default() };
            client.clone().watch_transactions(asked).await.err()
        })
        .await;
        drop(process);
        let process = Process::start(&url, &[]).await;
        let mut client = process.client();
        let all = WatchTransactionsRequest::default();
        let mut stream = client.watch_transactions(all).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap();
        assert_eq!(first.revision, 0, "{point}");
        client.submit_transaction(tcc("h", &["ok"])).await.unwrap();
        let mut seen = 0;
        for gid in ["g", "h"] {
            let next = tokio::time::timeout(Duration::from_secs(60), stream.message()).await;
            let event = next.expect("it is silent").unwrap().unwrap().event.unwrap();
            assert_eq!(event.gid, gid, "{point}");
            assert!(event.revision > seen, "{point}");
            seen = event.revision;
        }
    }
}

/// L5: streams are bounded. A stream has the end that its caller named, and not that of a call that waits.
#[tokio::test]
async fn l5_streams_are_bounded_and_end_when_their_caller_said() {
    let mut config = config(&sqlite_url());
    config.wait_max = Period::millis(200);
    let world = World::start(config).await;
    let hour = Duration::from_secs(3600);
    let mut asked = tonic::Request::new(WatchTransactionsRequest::default());
    asked.set_timeout(hour);
    let mut events = world.client().watch_transactions(asked).await.unwrap().into_inner();
    assert_eq!(events.message().await.unwrap().unwrap().event, None);
    let mut streams = Vec::new();
    let refused = loop {
        match Events::start(&world, WatchTransactionsRequest::default()).await {
            Ok(events) => streams.push(events),
            Err(status) => break status,
        }
    };
    assert_eq!(describe(&refused), (Code::ResourceExhausted, "OVERLOADED".into(), vec![]));
    assert_eq!(streams.len() + 1, unanimo_coordinator::api::limits::STREAMS_OF_ONE_MAX);
    streams.pop();
    let again = until("a place to be given back", async || {
        Events::start(&world, WatchTransactionsRequest::default()).await.ok()
    })
    .await;
    drop((again, streams));
    // The other kind of stream, which began later, has ended.
    world.p.hold(true);
    world.submit(tcc("g", &["ok"])).await.unwrap();
    let key = Some(watch_transaction_request::Key::Gid("g".into()));
    let mut of_one = tonic::Request::new(WatchTransactionRequest { key, ..Default::default() });
    of_one.set_timeout(hour);
    let mut of_one = world.client().watch_transaction(of_one).await.unwrap().into_inner();
    while let Ok(told) = of_one.message().await {
        assert!(told.is_some(), "it is not over");
    }
    world.p.hold(false);
    let told = tokio::time::timeout(Duration::from_secs(60), events.message()).await;
    let told = told.expect("it is silent").unwrap().expect("it has not ended");
    assert_eq!(told.event.unwrap().gid, "g");
}
