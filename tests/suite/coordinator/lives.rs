//! Several lives of one coordinator, and two at once.

use std::time::Duration;

use sqlx::Connection;
use tonic::Code;
use unanimo_coordinator::Builder;
use unanimo_coordinator::config::Period;
use unanimo_coordinator::coordinator::Ended;
use unanimo_proto::v1::{BeginTransactionRequest, Mode, Outcome};
use unanimo_tests::postgres::Server;
use unanimo_tests::scripted::Scripted;

use super::{World, config, describe, sqlite_url, tcc};

/// Phase two goes on after a crash; votes that are missing are asked for again.
#[tokio::test]
async fn a_restart_adopts_what_was_in_flight() {
    for url in [sqlite_url(), Server::shared().database().await] {
        let world = World::start(config(&url)).await;
        world.p.hold(true);
        let decided = world.submit(tcc("decided", &["ok", "ok"])).await.unwrap();
        assert_eq!(decided.outcome(), Outcome::Committed);
        let begin = BeginTransactionRequest {
            gid: "open".into(),
            mode: Mode::Tcc.into(),
            ..Default::default()
        };
        let open = world.client().begin_transaction(begin).await.unwrap().into_inner().tx_id;
        let execute = unanimo_proto::v1::ExecuteBranchRequest {
            tx_id: open.clone(),
            branch: Some(super::branch("a", "ok")),
            ..Default::default()
        };
        world.client().execute_branch(execute.clone()).await.unwrap();
        let mut client = world.client();
        let voting =
            tokio::spawn(async move { client.submit_transaction(tcc("voting", &["hang"])).await });
        super::until("its prepare", async || (world.p.seen().len() >= 6).then_some(())).await;
        voting.abort();

        let world = world.crash_and_restart().await;
        world.p.hold(false);
        let shown = world.get_until("decided", "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(shown.outcome(), Outcome::Committed);
        assert!(shown.timeline.iter().any(|entry| entry.event == "adopted"));
        // The interactive one goes on where it was.
        let executed = world.client().execute_branch(execute).await.unwrap().into_inner();
        assert_eq!(executed.branch_number, 1);
        let commit = unanimo_proto::v1::CommitTransactionRequest {
            tx_id: open,
            branches: vec![unanimo_proto::v1::CommitBranch { branch_id: "a".into(), vote: 0 }],
            wait_for: 0,
            ..Default::default()
        };
        let result =
            world.client().commit_transaction(commit).await.unwrap().into_inner().result.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        // The one whose vote was out is asked again.
        let tx_id = world.get("voting").await.tx_id;
        super::until("it to be asked again", async || {
            // A Cancel, once the deadline has passed, is no second Prepare.
            world.p.calls(&tx_id, "a").starts_with(&["prepare", "prepare"]).then_some(())
        })
        .await;
    }
}

/// A stop waits for what is in flight, refuses new work meanwhile, and ends once its patience is over.
#[tokio::test]
async fn a_stop_waits_for_what_is_in_flight_until_its_patience_is_over() {
    let mut config = config(&Server::shared().database().await);
    config.drain_timeout = Period::secs(2);
    let world = World::start(config).await;
    let begin = BeginTransactionRequest {
        gid: "open".into(),
        mode: Mode::Tcc.into(),
        ..Default::default()
    };
    world.client().begin_transaction(begin).await.unwrap();
    let (channel, started) = (world.channel.clone(), std::time::Instant::now());
    let stopping = tokio::spawn(world.running.stop());
    let mut client =
        unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient::new(channel);
    super::until("new work to be refused", async || {
        let status = client.submit_transaction(tcc("late", &["ok"])).await.err()?;
        (describe(&status) == (Code::Unavailable, "DRAINING".into(), vec![])).then_some(())
    })
    .await;
    stopping.await.unwrap().unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(2), "it waits: {took:?}");
    assert!(took < Duration::from_secs(10), "it ends: {took:?}");
}

/// While it drains, what is known is answered and phase two goes on.
#[tokio::test]
async fn a_draining_coordinator_finishes_what_it_has() {
    let world = World::sqlite().await;
    world.p.hold(true);
    world.submit(tcc("g", &["ok"])).await.unwrap();
    let (channel, p) = (world.channel.clone(), world.p.clone());
    let mut client =
        unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient::new(channel);
    let stopping = tokio::spawn(world.running.stop());
    super::until("new work to be refused", async || {
        let status = client.clone().submit_transaction(tcc("late", &["ok"])).await.err()?;
        (describe(&status) == (Code::Unavailable, "DRAINING".into(), vec![])).then_some(())
    })
    .await;
    let known =
        client.submit_transaction(tcc("g", &["ok"])).await.unwrap().into_inner().result.unwrap();
    assert_eq!(known.outcome(), Outcome::Committed);
    p.hold(false);
    stopping.await.unwrap().unwrap();
    assert_eq!(p.calls(&known.tx_id, "a"), ["prepare", "commit"]);
}

/// Two of the same name: the older one is fenced, stops by itself with a clear message, and nothing
/// that it had in flight is lost.
#[tokio::test]
async fn a_second_start_of_a_node_ends_the_first() {
    let url = Server::shared().database().await;
    let mut first = World::start(config(&url)).await;
    first.p.hold(true);
    first.submit(tcc("g", &["ok"])).await.unwrap();
    let p = first.p.clone();
    let second = World::start_with(config(&url), p.clone()).await;
    assert!(second.running.incarnation() > first.running.incarnation());
    let ended = tokio::time::timeout(Duration::from_secs(10), first.running.ended()).await.unwrap();
    let Ended::Fenced(fenced) = &ended else { panic!("{ended:?}") };
    assert_eq!(fenced.incarnation, first.running.incarnation());
    assert_eq!(
        ended.to_string(),
        format!(
            "incarnation {} was fenced by its successor: node one was started again; the \
             coordinator stops, and another incarnation adopts its transactions",
            fenced.incarnation
        )
    );
    p.hold(false);
    let shown = second.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    assert_eq!(shown.outcome(), Outcome::Committed);
}

/// L2: a node of another name waits while the first one's heartbeat moves, and adopts within a lease
/// and two seconds after that.
#[tokio::test]
async fn l2_another_node_waits_for_silence_and_adopts() {
    let url = Server::shared().database().await;
    let first = World::start(config(&url)).await;
    first.p.hold(true);
    first.submit(tcc("g", &["ok"])).await.unwrap();
    let mut other = config(&url);
    other.node = "two".parse().unwrap();
    let standby = World::spawn(other, first.p.clone());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!standby.is_finished(), "the first one serves");
    // It is still there, and works.
    first.get("g").await;

    let p = first.p.clone();
    drop(first);
    let started = std::time::Instant::now();
    let second = standby.await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1), "it watched for one lease");
    p.hold(false);
    second.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    assert!(started.elapsed() < Duration::from_secs(4), "L2: {:?}", started.elapsed());
}

/// A standby takes its place at once when the other one leaves in good order.
#[tokio::test]
async fn a_standby_need_not_wait_for_one_that_leaves() {
    let url = Server::shared().database().await;
    let mut long = config(&url);
    long.lease = Period::secs(60);
    let first = World::start(long.clone()).await;
    long.node = "two".parse().unwrap();
    let standby = World::spawn(long, first.p.clone());
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.running.stop().await.unwrap();
    let second = tokio::time::timeout(Duration::from_secs(10), standby).await.unwrap().unwrap();
    second.running.stop().await.unwrap();
}

/// The last batch of an earlier process holds the fence's row: the start waits for it.
#[tokio::test]
async fn a_start_waits_for_the_last_batch_of_its_predecessor() {
    let url = Server::shared().database().await;
    drop(World::start(config(&url)).await);
    let mut batch = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT 1 FROM fences FOR SHARE").execute(&mut batch).await.unwrap();
    let starting = World::spawn(config(&url), Scripted::default());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!starting.is_finished(), "it waits, and does not fail");
    sqlx::raw_sql("COMMIT").execute(&mut batch).await.unwrap();
    let world = tokio::time::timeout(Duration::from_secs(10), starting).await.unwrap().unwrap();
    world.running.stop().await.unwrap();
}

/// A standby outlives an outage of its database.
#[tokio::test]
async fn a_standby_outlives_an_outage_of_the_database() {
    let server = Server::start();
    let url = server.database().await;
    let first = World::start(config(&url)).await;
    let mut other = config(&url);
    other.node = "two".parse().unwrap();
    let standby = World::spawn(other, first.p.clone());
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.kill();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!standby.is_finished(), "it goes on waiting");
    server.launch();
    drop(first);
    standby.await.unwrap().running.stop().await.unwrap();
}

/// Two births at once: one wins, and the other one waits.
#[tokio::test]
async fn of_two_starts_at_once_one_wins() {
    let url = Server::shared().database().await;
    World::start(config(&url)).await.running.stop().await.unwrap();
    for round in 0..10 {
        let named = |name: &str| {
            let mut config = config(&url);
            config.node = name.parse().unwrap();
            tokio::spawn(Builder::new(config).without_network().start())
        };
        let (one, two) = if round % 2 == 0 { ("one", "one") } else { ("one", "two") };
        let (mut one, mut two) = (named(one), named(two));
        // Of the same name the later one may end the earlier one's right, and then both have started.
        let (first, other) = tokio::select! {
            first = &mut one => (first, two),
            first = &mut two => (first, one),
        };
        let mut alive = vec![first.unwrap().unwrap()];
        tokio::time::sleep(Duration::from_millis(700)).await;
        if other.is_finished() {
            alive.push(other.await.unwrap().unwrap());
        } else {
            other.abort();
            let _ = other.await;
        }
        let mut living = 0;
        for mut running in alive {
            let ended = tokio::time::timeout(Duration::from_millis(1_000), running.ended()).await;
            match ended {
                Ok(Ended::Fenced(_)) => {}
                Ok(other) => panic!("{other}"),
                Err(_) => {
                    living += 1;
                    running.stop().await.unwrap();
                }
            }
        }
        assert_eq!(living, 1, "round {round}");
    }
}

/// Without news from the database nothing is decided and nothing sent; with news it goes on.
#[tokio::test]
async fn a_coordinator_without_its_database_rests_and_goes_on() {
    let server = Server::start();
    let url = server.database().await;
    let world = World::start_with(config(&url), Scripted::default()).await;
    let before = world.submit(tcc("before", &["ok"])).await.unwrap().tx_id;
    server.kill();
    let mut request = tonic::Request::new(tcc("during", &["ok"]));
    request.set_timeout(Duration::from_secs(4));
    let result =
        world.client().submit_transaction(request).await.unwrap().into_inner().result.unwrap();
    assert_eq!(result.outcome(), Outcome::NotDecided);
    assert_eq!(result.tx_id, "", "S10: its row is not there");
    // The transaction before was called with Prepare and Commit, and nobody knows the name of this one.
    let others = world.p.seen().into_iter().filter(|seen| seen.tx_id != before).count();
    assert_eq!(others, 0, "S6: not durable, not sent");
    server.launch();
    let shown = super::until("it to go on", async || {
        let request = unanimo_proto::v1::GetTransactionRequest {
            key: Some(unanimo_proto::v1::get_transaction_request::Key::Gid("during".into())),
            ..Default::default()
        };
        let found = world.client().get_transaction(request).await.ok()?.into_inner().transaction?;
        found.ended_at.is_some().then_some(found)
    })
    .await;
    assert_eq!(shown.outcome(), Outcome::Committed);
}
