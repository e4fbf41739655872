//! Lost acknowledgements: an indeterminate write is neither lost nor made twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use unanimo_coordinator::store::journal::Ended;
use unanimo_coordinator::store::{
    self, BatchError, BatchWriter, Endpoints, Error, Incarnations, Key, Locks, PostgresOptions,
    Purge, Store, Transactions, Write, Written,
};
use unanimo_core::{Incarnation, PhaseTwoAnswer, PhaseTwoOperation, Version};
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;

use super::journal::Journal;
use super::{Fixture, create, on_both_stores};
use crate::fixtures::{Live, new_gid};

on_both_stores!(a_lost_acknowledgement_is_found_out, an_indeterminate_write_is_never_replaced,);

/// Store of which every third batch ends without an answer, before it is written or after.
#[derive(Debug)]
struct Forgetful {
    store: Arc<dyn Store>,
    count: Arc<AtomicU32>,
}

#[derive(Debug)]
struct ForgetfulWriter {
    writer: Box<dyn BatchWriter>,
    count: Arc<AtomicU32>,
}

fn lost() -> BatchError {
    BatchError::Indeterminate("the answer was lost".into())
}

#[async_trait]
impl BatchWriter for ForgetfulWriter {
    async fn write(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        match self.count.fetch_add(1, Ordering::Relaxed) % 6 {
            2 => Err(lost()),
            5 => {
                self.writer.write(batch).await?;
                Err(lost())
            }
            _ => self.writer.write(batch).await,
        }
    }
}

#[async_trait]
impl Store for Forgetful {
    fn cluster_id(&self) -> &str {
        self.store.cluster_id()
    }
    fn incarnations(&self) -> &dyn Incarnations {
        self.store.incarnations()
    }
    fn transactions(&self) -> &dyn Transactions {
        self.store.transactions()
    }
    fn locks(&self) -> &dyn Locks {
        self.store.locks()
    }
    fn endpoints(&self) -> &dyn Endpoints {
        self.store.endpoints()
    }
    fn purge(&self) -> &dyn Purge {
        self.store.purge()
    }
    async fn batch_writer(&self, me: Incarnation) -> Result<Box<dyn BatchWriter>, Error> {
        let writer = self.store.batch_writer(me).await?;
        Ok(Box::new(ForgetfulWriter { writer, count: Arc::clone(&self.count) }))
    }
    async fn close(&self) {
        self.store.close().await;
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
    let count = Arc::new(AtomicU32::new(0));
    let forgetful = Forgetful { store: Arc::clone(&fixture.store), count: Arc::clone(&count) };
    let lives = drive(Arc::new(forgetful), fixture.me, |_| {}).await;
    assert!(count.load(Ordering::Relaxed) > 60, "it was disturbed often");
    compare(&fixture.store, &lives).await;
}

/// The acknowledgement of a begin is lost, and a decision waits behind it: the decision must not
/// replace the begin.
async fn an_indeterminate_write_is_never_replaced(fixture: Fixture) {
    let count = Arc::new(AtomicU32::new(2));
    let forgetful = Forgetful { store: Arc::clone(&fixture.store), count };
    let mut journal = Journal::start(Arc::new(forgetful), fixture.me);
    let (mut live, begin) = Live::begin(&new_gid());
    journal.submit(begin);
    tokio::time::sleep(Duration::from_millis(5)).await;
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
