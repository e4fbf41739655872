//! Lost acknowledgements: an indeterminate write is neither lost nor made twice.

use std::sync::Arc;
use std::time::Duration;

use unanimo_coordinator::store::journal::Ended;
use unanimo_coordinator::store::{self, Key, PostgresOptions, Store, Write};
use unanimo_core::{Incarnation, PhaseTwoAnswer, PhaseTwoOperation, Version};
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::journal::Journal;
use super::unwell::{End, Unwell};
use super::{Fixture, create, on_both_stores};
use crate::fixtures::{Live, new_gid};

on_both_stores!(a_lost_acknowledgement_is_found_out, an_indeterminate_write_is_never_replaced,);

/// Every third batch ends without an answer, before it is written or after.
fn forgetful(count: u32) -> End {
    match count % 6 {
        2 => End::Lost,
        5 => End::WrittenAndLost,
        _ => End::Well,
    }
}

/// Runs transactions over a journal whose writes are often indeterminate, and compares the result.
async fn drive(store: Arc<dyn Store>, me: Incarnation, mut disturb: impl FnMut(u32)) -> Vec<Live> {
    let mut journal = Journal::start(store, me);
    let mut lives = Vec::new();
    for round in 0..40 {
        disturb(round);
        for _ in 0..5 {
            let (live, begin) = Live::begin(&new_gid());
            journal.submit(begin);
            lives.push(live);
        }
        let young = lives.len() - 5;
        let wanted: Vec<_> = lives[young..].iter().map(|live| (live.id(), Version(1))).collect();
        assert_eq!(journal.completed(&wanted).await, []);
        for live in &mut lives[young..] {
            journal.submit(live.commit());
        }
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        for live in &mut lives[young..] {
            journal.submit_all(live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done));
        }
        let wanted: Vec<_> = lives[young..].iter().map(|live| (live.id(), Version(3))).collect();
        assert_eq!(journal.completed(&wanted).await, []);
    }
    disturb(u32::MAX);
    journal.end().await.unwrap();
    lives
}

async fn compare(store: &Arc<dyn Store>, lives: &[Live]) {
    for live in lives {
        let stored =
            store.transactions().find(&Key::Tx(live.id())).await.unwrap().expect("it is there");
        assert_eq!(stored.record, live.tx.record());
    }
}

async fn a_lost_acknowledgement_is_found_out(fixture: Fixture) {
    let store = Unwell::new(&fixture.store, |count, _| forgetful(count));
    let lives = drive(Arc::clone(&store) as _, fixture.me, |_| {}).await;
    assert!(store.batches() > 60, "it was disturbed often");
    compare(&fixture.store, &lives).await;
}

/// The acknowledgement of a begin is lost, and a decision waits behind it: the decision must not
/// replace the begin.
async fn an_indeterminate_write_is_never_replaced(fixture: Fixture) {
    for first in [End::Lost, End::WrittenAndLost] {
        let plan = move |count, _: &[Write]| if count == 0 { first } else { End::Well };
        let store = Unwell::new(&fixture.store, plan);
        let mut journal = Journal::start(Arc::clone(&store) as _, fixture.me);
        let (mut live, begin) = Live::begin(&new_gid());
        journal.submit(begin);
        until("the first attempt", async || (store.batches() > 0).then_some(())).await;
        journal.submit(live.rollback());
        let mut versions = Vec::new();
        while versions.last() != Some(&Version(2)) {
            for completion in journal.results.recv().await.unwrap() {
                let Ended::Durable(version) = completion.ended else { panic!("{completion:?}") };
                versions.push(version);
            }
        }
        assert_eq!(versions, [Version(1), Version(2)], "one after the other, each as it was");
        compare(&fixture.store, &[live]).await;
        journal.end().await.unwrap();
    }
}

/// Acknowledgements are lost on real connections, which are cut when the server answers.
#[tokio::test]
async fn a_connection_cut_at_the_answer_loses_and_doubles_nothing() {
    let direct = Server::shared().database().await;
    let proxy = Proxy::start(Server::shared().socket()).await;
    let store = store::open(&proxy.url(&direct), &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "one").await;
    let lives = drive(Arc::clone(&store), me, |round| {
        let proxy = proxy.clone();
        proxy.lose_answers(round % 3 == 1 && round != u32::MAX);
        if round % 3 == 1 {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(u64::from(round) * 3)).await;
                proxy.lose_answers(false);
            });
        }
    })
    .await;
    assert!(proxy.lost() >= 13, "{} answers were lost", proxy.lost());
    let direct = store::open(&direct, &PostgresOptions::default()).await.unwrap();
    compare(&direct, &lives).await;
}

/// The server is killed under load and starts again.
#[tokio::test]
async fn a_killed_server_loses_and_doubles_nothing() {
    let server = Arc::new(Server::start());
    let url = server.database().await;
    let store = store::open(&url, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "one").await;
    let mut kills = tokio::task::JoinSet::new();
    // The server may serve before its launch is told: the next kill waits for that, or two launches would meet.
    let turn = Arc::new(std::sync::Mutex::new(()));
    let lives = drive(Arc::clone(&store), me, |round| {
        if round % 10 == 5 && round != u32::MAX {
            let (server, turn) = (Arc::clone(&server), Arc::clone(&turn));
            kills.spawn_blocking(move || {
                let _turn = turn.lock().unwrap();
                std::thread::sleep(Duration::from_millis(u64::from(round) / 4));
                if round % 20 == 5 {
                    server.kill();
                } else {
                    server.stop_immediately();
                }
                server.launch();
            });
        }
    })
    .await;
    kills.join_all().await;
    compare(&store, &lives).await;
}
