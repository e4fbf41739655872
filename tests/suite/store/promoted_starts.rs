//! Starts, and returns, where a standby was promoted and the server before it is back: it takes writes as well.

use std::time::{Duration, Instant};

use unanimo_coordinator::store::{self, Key, PostgresOptions, Start, Written};
use unanimo_tests::alarms::Alarms;
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::{Fixture, LEASE, a_write, create};
use crate::fixtures::{Live, new_gid};
use crate::participant::promoted::{apart, one, pair, promote};

/// Returns the address of one database with all of these hosts.
fn several(urls: &[&str]) -> String {
    let parts = |url: &str| {
        let (user, rest) = url.split_once('@').unwrap();
        let (host, database) = rest.split_once('/').unwrap();
        (user.to_owned(), host.to_owned(), database.to_owned())
    };
    let (user, _, database) = parts(urls[0]);
    let hosts: Vec<_> = urls.iter().map(|url| parts(url).1).collect();
    format!("{user}@{}/{database}", hosts.join(","))
}

/// Waits until the standby has the whole log.
async fn follows(url: &str, there: &str) {
    let now = "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8";
    let written = one(url, now).await;
    let replayed = format!("SELECT (pg_last_wal_replay_lsn() - '0/0' >= {written})::int::bigint");
    until("the standby to have it", async || {
        let (there, replayed) = (there.to_owned(), replayed.clone());
        let has = tokio::spawn(async move { one(&there, &replayed).await == 1 }).await;
        has.unwrap_or(false).then_some(())
    })
    .await;
}

const WRITTEN: &str = "SELECT count(*) FROM unanimo.log";

/// S4, S10: a process that starts when the former primary is back has written nothing yet. It takes the promoted server,
/// in whatever order they are named, and tells that there are two.
#[tokio::test]
async fn s4_s10_a_start_takes_the_promoted_server_and_not_the_one_before_it() {
    let (alarms, _listening) = Alarms::listen();
    let (primary, standby, url, there) = pair().await;
    let fixture = Fixture::open(several(&[&url, &there])).await;
    follows(&url, &there).await;
    apart(&primary, Server::kill).await;
    promote(&there).await;
    until("the promoted server to be found", async || {
        fixture.store.incarnations().renew(fixture.me, LEASE).await.ok()
    })
    .await;
    let (live, begin) = Live::begin(&new_gid());
    assert_eq!(fixture.writer().await.write(&[a_write(begin)]).await.unwrap(), [Written::Applied]);
    assert_eq!(alarms.errors(), Vec::<String>::new());
    apart(&primary, Server::launch).await;
    for order in [[&*url, &there], [&there, &url]] {
        let heard = alarms.errors().len();
        let store = store::open(&several(&order), &PostgresOptions::default()).await.unwrap();
        let found = store.transactions().find(&Key::Tx(live.id())).await.unwrap();
        assert!(found.is_some(), "S10: what the promoted one has acknowledged");
        create(&store, "two").await;
        store.close().await;
        let told = alarms.errors().split_off(heard);
        assert_eq!(told.len(), 1, "once a start: {told:?}");
        assert!(told[0].contains("several servers of the database take writes"), "{told:?}");
    }
    assert_eq!(one(&url, WRITTEN).await, 0);
    // One server at two addresses is one.
    let heard = alarms.errors().len();
    store::open(&several(&[&there, &there]), &PostgresOptions::default()).await.unwrap();
    assert_eq!(alarms.errors().len(), heard);
    drop(standby);
}

/// S4: the promoted server is not there, and a standby that has followed it is. So the former primary is known for what it
/// is, and is not taken. With the promoted one the start goes on.
#[tokio::test]
async fn s4_a_start_takes_no_server_that_a_standby_has_left_behind() {
    let (primary, standby, url, there) = pair().await;
    let fixture = Fixture::open(several(&[&url, &there])).await;
    follows(&url, &there).await;
    fixture.store.close().await;
    apart(&primary, Server::kill).await;
    promote(&there).await;
    let name = there.rsplit('/').next().unwrap();
    let follower = std::sync::Arc::new(apart(&standby, Server::standby).await);
    let third = follower.url(name);
    apart(&standby, Server::stop_immediately).await;
    apart(&primary, Server::launch).await;
    for order in [[&*url, &third], [&third, &url]] {
        let error = store::open(&several(&order), &PostgresOptions::default()).await.unwrap_err();
        let text = store::in_full(&error);
        assert!(text.contains("is on an earlier timeline than another host of the URL"), "{text}");
        assert!(text.contains("is a standby"), "{text}");
    }
    apart(&standby, Server::launch).await;
    // Between two sessions of a start the promoted one goes away.
    let (both, start) = (several(&[&url, &there]), Start::default());
    let opening = store::connect(&both, &PostgresOptions::default(), start).await.unwrap();
    apart(&standby, Server::stop_immediately).await;
    for _ in 0..2 {
        let text = store::in_full(&opening.open().await.unwrap_err());
        assert!(text.contains("is on an earlier timeline than the one before"), "{text}");
    }
    apart(&standby, Server::launch).await;
    let all = several(&[&url, &third, &there]);
    let store = store::open(&all, &PostgresOptions::default()).await.unwrap();
    let before = one(&there, "SELECT incarnations FROM unanimo.cluster").await;
    create(&store, "two").await;
    assert_eq!(one(&there, "SELECT incarnations FROM unanimo.cluster").await, before + 1);
}

/// S4: the former primary and the promoted server come back before the process has another session: it asks both of them.
#[tokio::test]
async fn s4_whoever_had_no_server_takes_the_promoted_one() {
    let (primary, standby, url, there) = pair().await;
    let fixture = Fixture::open(several(&[&url, &there])).await;
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
    follows(&url, &there).await;
    apart(&primary, Server::kill).await;
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap_err();
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap_err();
    promote(&there).await;
    apart(&primary, Server::launch).await;
    let counter = "SELECT max(counter) FROM unanimo.heartbeats";
    let before = one(&url, counter).await;
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
    assert_eq!(fixture.store.generation(), Some(1));
    assert_eq!((one(&url, counter).await, one(&there, counter).await), (before, before + 1));
    drop(standby);
}

/// L2: a server that says nothing is waited for once, and one that is down not at all.
#[tokio::test]
async fn l2_a_start_waits_once_for_a_server_that_says_nothing() {
    let (primary, standby, url, there) = pair().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let socket = several(&[&url, &there]);
    let (user, rest) = socket.split_once('@').unwrap();
    let (hosts, database) = rest.split_once('/').unwrap();
    let start = async |more: &str| {
        let url = format!("{user}@{hosts},{more}/{database}");
        let started = Instant::now();
        let store = store::open(&url, &PostgresOptions::default()).await.unwrap();
        create(&store, "one").await;
        started.elapsed()
    };
    let without = start("127.0.0.1:1").await;
    let with = start(&silent.to_string()).await;
    assert!(without < Duration::from_millis(1_500), "{without:?}");
    assert!(with < without + Duration::from_millis(2_500), "{with:?} and {without:?} without it");
    drop((primary, standby));
}
