//! Stored transactions that cannot be read, and servers that take no writes, as clients see them.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use tonic::Code;
use unanimo_coordinator::store::{self, PostgresOptions};
use unanimo_core::TxId;
use unanimo_proto::v1::{
    GetTransactionRequest, InquireBranchesRequest, InquiredBranch, ListTransactionsRequest,
    Outcome, Transaction, Verdict, get_transaction_request, inquired_branch,
};
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;

use super::http::http_get;
use super::{World, config, describe, tcc, until};
use crate::store::{execute, rows};

/// The form of a progress, and the fields of a branch that has voted PREPARED; and with a field that is not known.
pub(crate) const VOTED: &[u8] = &[1, 1, 4];
pub(crate) const UNKNOWN: &[u8] = &[1, 99, 4];

async fn list(world: &World, attention: bool) -> Vec<Transaction> {
    let request = ListTransactionsRequest { attention, ..Default::default() };
    world.client().list_transactions(request).await.unwrap().into_inner().transactions
}

async fn get(world: &World, gid: &str) -> Result<Transaction, tonic::Status> {
    let key = Some(get_transaction_request::Key::Gid(gid.to_owned()));
    let request =
        GetTransactionRequest { key, include_timeline: true, ..GetTransactionRequest::default() };
    let mut request = tonic::Request::new(request);
    request.set_timeout(Duration::from_secs(5));
    let answered = world.client().get_transaction(request).await?;
    Ok(answered.into_inner().transaction.unwrap())
}

/// L3: one transaction that cannot be read is set aside at the adoption, and all others go on.
#[tokio::test]
async fn l3_a_transaction_that_cannot_be_read_is_set_aside_and_all_others_go_on() {
    for world in [World::postgres().await, World::sqlite().await] {
        let url = world.config.database_url.expose().to_owned();
        world.p.hold(true);
        for gid in ["a", "b", "c"] {
            world.submit(tcc(gid, &["ok", "ok"])).await.unwrap();
        }
        let tx_id = get(&world, "b").await.unwrap().tx_id;
        let before: Vec<_> = list(&world, false).await;
        // The process dies first: what it has in memory is not damaged.
        let World { running, p, config, .. } = world;
        drop(running);
        until_free(&url).await;
        let id = TxId(tx_id.parse().unwrap());
        rows::edit(&url, id, |body| rows::replace(body, VOTED, UNKNOWN)).await;
        p.hold(false);
        let world = World::start_with(config, p).await;
        for gid in ["a", "c"] {
            let shown = world.get_until(gid, "its end", |t| t.ended_at.is_some()).await;
            assert_eq!(shown.outcome(), Outcome::Committed);
        }
        until("readiness", async || (http_get(&world, "/readyz").await.0 == 200).then_some(()))
            .await;
        assert_eq!(list(&world, false).await.len(), before.len());
        let listed = list(&world, true).await;
        let [aside] = &listed[..] else { panic!("{listed:?}") };
        assert_eq!((&*aside.gid, &*aside.tx_id, aside.attention), ("b", &*tx_id, true));
        let request = ListTransactionsRequest { include_counts: true, ..Default::default() };
        let counts = world.client().list_transactions(request).await.unwrap().into_inner().counts;
        assert_eq!(
            counts.unwrap().unreadable_count,
            1,
            "whoever counts what needs a person sees it"
        );
        assert!(aside.unreadable.contains("transactions.progress"), "{}", aside.unreadable);
        assert_eq!(aside.outcome(), Outcome::NotDecided);

        // Whoever asks for it hears what is wrong, and not that the database is away.
        let status = get(&world, "b").await.unwrap_err();
        let (code, reason, _) = describe(&status);
        assert_eq!((code, &*reason), (Code::Internal, "TRANSACTION_UNREADABLE"));
        for part in [&*tx_id, "\"b\"", "transactions.progress", "field 99"] {
            assert!(status.message().contains(part), "{part}: {}", status.message());
        }
        let status = world.submit(tcc("b", &["ok", "ok"])).await.unwrap_err();
        assert_eq!(describe(&status).1, "TRANSACTION_UNREADABLE");
        until("the gauge", async || {
            let (_, text) = http_get(&world, "/metrics").await;
            text.contains("unanimo_alarms{alarm=\"transaction_unreadable\"} 1\n").then_some(())
        })
        .await;
        // New work goes on, and a participant that asks for it among others is answered.
        let result = world.submit(tcc("d", &["ok"])).await.unwrap();
        let verdicts = inquire(&world, &[&tx_id, &result.tx_id]).await;
        assert_eq!(verdicts, [Verdict::Running, Verdict::Commit]);

        // Repaired, it is looked at again by whoever asks for it, and goes on.
        rows::edit(&url, id, |body| rows::replace(body, UNKNOWN, VOTED)).await;
        let shown = world.get_until("b", "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(shown.outcome(), Outcome::Committed);
        until("nothing to be left", async || list(&world, true).await.is_empty().then_some(()))
            .await;
    }
}

/// A row that was repaired, or is known to this version again, is read again though nobody asks for it: one
/// that is open goes on, and the alarms of all are cleared. So it is with those of an earlier process.
#[tokio::test]
async fn l1_what_can_be_read_again_goes_on_unasked() {
    for world in [World::postgres().await, World::sqlite().await] {
        let url = world.config.database_url.expose().to_owned();
        let ended = world.submit(tcc("ended", &["ok"])).await.unwrap().tx_id;
        world.get_until("ended", "its end", |t| t.ended_at.is_some()).await;
        world.p.hold(true);
        let tx_id = world.submit(tcc("open", &["ok", "ok"])).await.unwrap().tx_id;
        let World { running, p, config, .. } = world;
        drop(running);
        until_free(&url).await;
        // The mode stands behind the name.
        let both =
            [("ended", &ended), ("open", &tx_id)].map(|(gid, id)| (gid, TxId(id.parse().unwrap())));
        for (gid, id) in both {
            let (good, bad) = (format!("{gid}\u{3}"), format!("{gid}\u{63}"));
            rows::edit(&url, id, |body| rows::replace(body, good.as_bytes(), bad.as_bytes())).await;
        }
        p.hold(false);
        let world = World::start_with(config, p).await;
        for gid in ["ended", "open"] {
            let status = get(&world, gid).await.unwrap_err();
            assert_eq!(describe(&status).1, "TRANSACTION_UNREADABLE");
        }
        // What is open is set aside by whoever adopts it.
        until("both to be set aside", async || (list(&world, true).await.len() == 2).then_some(()))
            .await;
        let world = world.crash_and_restart().await;
        until("readiness", async || (http_get(&world, "/readyz").await.0 == 200).then_some(()))
            .await;
        let commits = |world: &World| {
            let calls = world.p.calls(&tx_id, "a");
            calls.into_iter().filter(|call| *call == "commit").count()
        };
        let held = commits(&world);
        for (gid, id) in both {
            let (good, bad) = (format!("{gid}\u{3}"), format!("{gid}\u{63}"));
            rows::edit(&url, id, |body| rows::replace(body, bad.as_bytes(), good.as_bytes())).await;
        }
        let repaired = std::time::Instant::now();
        until("its Commit", async || (commits(&world) > held).then_some(())).await;
        until("the gauge", async || {
            let (_, text) = http_get(&world, "/metrics").await;
            text.contains("unanimo_alarms{alarm=\"transaction_unreadable\"} 0\n").then_some(())
        })
        .await;
        assert!(repaired.elapsed() < Duration::from_secs(25), "{:?}", repaired.elapsed());
        assert_eq!(list(&world, true).await, []);
    }
}

/// Waits until nobody uses the database of a coordinator that was dropped.
pub(crate) async fn until_free(url: &str) {
    let others = "SELECT count(*)::text FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    until("the database to be free", async || {
        if url.starts_with("sqlite:") {
            let store = store::open(url, &PostgresOptions::default()).await.ok()?;
            store.close().await;
        } else if text_of(url, others).await != "0" {
            return None;
        }
        Some(())
    })
    .await;
}

async fn text_of(url: &str, query: &'static str) -> String {
    if let Some(path) = url.strip_prefix("sqlite:") {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut raw = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query_scalar(query).fetch_one(&mut raw).await.unwrap()
    } else {
        let mut raw = PgConnection::connect(url).await.unwrap();
        sqlx::query_scalar(query).fetch_one(&mut raw).await.unwrap()
    }
}

async fn inquire(world: &World, tx_ids: &[&str]) -> Vec<Verdict> {
    let branch = |tx_id: &&str| InquiredBranch {
        tx_id: (*tx_id).to_owned(),
        branch: Some(inquired_branch::Branch::BranchId("a".into())),
    };
    let request = InquireBranchesRequest {
        participant: "p".into(),
        branches: tx_ids.iter().map(branch).collect(),
        cluster_id: world.cluster_id().await,
        ..Default::default()
    };
    let answered = world.client().inquire_branches(request).await.unwrap().into_inner();
    answered.verdicts.iter().map(unanimo_proto::v1::BranchVerdict::verdict).collect()
}

/// S9: nothing is left of a transaction but its gid. It may have run: whoever uses the gid again is answered, and
/// nothing begins. A person is told.
#[tokio::test]
async fn s9_a_gid_whose_transaction_is_gone_begins_nothing() {
    for world in [World::postgres().await, World::sqlite().await] {
        let url = world.config.database_url.expose().to_owned();
        let gone = world.submit(tcc("g", &["ok"])).await.unwrap().tx_id;
        world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
        let World { running, p, config, .. } = world;
        drop(running);
        until_free(&url).await;
        execute(&url, "DELETE FROM log").await;
        let world = World::start_with(config, p).await;
        let seen = world.p.seen().len();
        for _ in 0..2 {
            let answered = world.submit(tcc("g", &["ok"]));
            let answered = tokio::time::timeout(Duration::from_secs(20), answered).await;
            let status = answered.expect("an answer").unwrap_err();
            assert!(status.message().contains(&gone), "{status}");
        }
        let status = get(&world, "g").await.unwrap_err();
        assert_eq!(describe(&status).1, "TRANSACTION_UNREADABLE");
        assert_eq!(world.p.seen().len(), seen);
        until("the gauge", async || {
            let (_, text) = http_get(&world, "/metrics").await;
            text.contains("unanimo_alarms{alarm=\"transaction_unreadable\"} 1\n").then_some(())
        })
        .await;
        let [aside] = &list(&world, true).await[..] else { panic!("it is listed alone") };
        assert_eq!((&*aside.tx_id, aside.attention), (&*gone, true));
        assert_eq!(world.submit(tcc("h", &["ok"])).await.unwrap().outcome(), Outcome::Committed);
    }
}

/// L3: a row that another session holds does not stop the adoption of the others.
#[tokio::test]
async fn l3_a_locked_row_stops_no_adoption() {
    let world = World::postgres().await;
    let url = world.config.database_url.expose().to_owned();
    world.p.hold(true);
    for gid in ["a", "b", "c"] {
        world.submit(tcc(gid, &["ok"])).await.unwrap();
    }
    let locked = world.get("b").await.tx_id;
    let mut holder = PgConnection::connect(&url).await.unwrap();
    holder.execute("BEGIN").await.unwrap();
    // Once it is open for some seconds, it is parked.
    let hold = format!("SELECT 1 FROM parked WHERE tx_id = '{locked}' FOR UPDATE");
    until("it to be parked", async || {
        let held = holder.execute(sqlx::raw_sql(AssertSqlSafe(hold.clone()))).await.unwrap();
        (held.rows_affected() == 1).then_some(())
    })
    .await;
    world.p.hold(false);
    let world = world.crash_and_restart().await;
    for gid in ["a", "c"] {
        world.get_until(gid, "its end", |t| t.ended_at.is_some()).await;
    }
    until("readiness", async || (http_get(&world, "/readyz").await.0 == 200).then_some(())).await;
    // A participant that asks for it among others is answered.
    let ended = world.get("a").await.tx_id;
    let verdicts = inquire(&world, &[&ended, &locked, &ended]).await;
    assert_eq!(verdicts, [Verdict::Commit, Verdict::Running, Verdict::Commit]);
    holder.execute("ROLLBACK").await.unwrap();
    world.get_until("b", "its end", |t| t.ended_at.is_some()).await;
}

/// L3: a row on which the database itself gives up is set aside as one that makes no sense is. Here the metadata of one
/// transaction is gone from the disk.
#[tokio::test]
async fn l3_a_row_that_the_database_cannot_read_is_set_aside_and_all_others_go_on() {
    let server = Server::start();
    let world = World::start(config(&server.database().await)).await;
    let url = world.config.database_url.expose().to_owned();
    world.p.hold(true);
    let mut tx_ids = Vec::new();
    for gid in ["a", "b", "c"] {
        let mut request = tcc(gid, &["ok"]);
        if gid == "b" {
            let noise = |n: u32| {
                (0..30).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect::<String>()
                    + &n.to_string()
            };
            request.metadata = (0..15).map(|n| (format!("k{n}"), noise(n))).collect();
        }
        tx_ids.push(world.submit(request).await.unwrap().tx_id);
    }
    let toast = "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class
        WHERE oid = 'unanimo.log'::regclass";
    let file = server.socket().with_file_name("data").join(text_of(&url, toast).await);
    let World { running, p, config, .. } = world;
    drop(running);
    until_free(&url).await;
    execute(&url, "CHECKPOINT").await;
    server.kill();
    assert!(std::fs::metadata(&file).unwrap().len() > 0, "its metadata is stored apart");
    std::fs::File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
    server.launch();
    p.hold(false);
    let world = World::start_with(config, p).await;
    for gid in ["a", "c"] {
        let shown = world.get_until(gid, "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(shown.outcome(), Outcome::Committed);
    }
    until("readiness", async || (http_get(&world, "/readyz").await.0 == 200).then_some(())).await;
    until("the gauge", async || {
        let (_, text) = http_get(&world, "/metrics").await;
        text.contains("unanimo_alarms{alarm=\"transaction_unreadable\"} 1\n").then_some(())
    })
    .await;
    let asked: Vec<&str> = tx_ids.iter().map(String::as_str).collect();
    let verdicts = inquire(&world, &asked).await;
    assert_eq!(verdicts, [Verdict::Commit, Verdict::Running, Verdict::Commit]);
    let key = Some(get_transaction_request::Key::TxId(tx_ids[1].clone()));
    let request = GetTransactionRequest { key, ..GetTransactionRequest::default() };
    let status = world.client().get_transaction(request).await.unwrap_err();
    assert_eq!(describe(&status).1, "TRANSACTION_UNREADABLE", "{status}");
    let result = world.submit(tcc("d", &["ok"])).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
}

/// L3: the proxy in front of the database leads to a standby for two seconds. Nobody hears that a
/// transaction was never seen, and afterwards everything works at once.
#[tokio::test]
async fn l3_two_seconds_on_a_standby_leave_nothing_behind() {
    let primary = Server::start();
    let direct = primary.database().await;
    let proxy = Proxy::start(primary.socket()).await;
    let world = World::start(config(&proxy.url(&direct))).await;
    let standby = primary.standby();
    execute(&standby.url("postgres"), "SELECT pg_wal_replay_pause()").await;
    let done = world.submit(tcc("g", &["ok"])).await.unwrap();
    world.get_until("g", "its end", |t| t.ended_at.is_some()).await;

    proxy.switch_to(standby.socket());
    let until_back = std::time::Instant::now() + Duration::from_secs(2);
    while std::time::Instant::now() < until_back {
        let status = get(&world, "g").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(http_get(&world, "/readyz").await.0, 503);
    }
    proxy.switch_to(primary.socket());
    until("readiness", async || (http_get(&world, "/readyz").await.0 == 200).then_some(())).await;
    for round in 0..30 {
        assert_eq!(get(&world, "g").await.unwrap().outcome(), Outcome::Committed);
        let result = world.submit(tcc(&format!("after{round}"), &["ok"])).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
        assert_eq!(inquire(&world, &[&done.tx_id]).await, [Verdict::Commit]);
    }
}
