//! Journal with group commit.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use unanimo_coordinator::store::journal::{self, Completion, Ended, Handle, Observer, Reach};
use unanimo_coordinator::store::{Claim, Key, Life, Store};
use unanimo_core::{Incarnation, PhaseTwoAnswer, PhaseTwoOperation, Transition, TxId, Version};
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::{Fixture, on_both_stores, rows};
use crate::fixtures::{Live, new_gid};

on_both_stores!(
    many_transactions_share_a_commit,
    transitions_of_one_transaction_are_folded,
    a_refused_row_fails_alone,
    a_taken_gid_is_told_and_the_rest_goes_on,
    a_row_that_somebody_changed_is_lost,
    s5_a_life_that_lost_its_row_writes_nothing_more,
    the_journal_ends_when_it_is_fenced,
    its_reach_ends_at_the_first_open_write,
);

/// Observer that counts flushes.
#[derive(Debug, Default)]
pub(crate) struct Flushes(std::sync::Mutex<Vec<usize>>);

impl Observer for Flushes {
    fn flushed(&self, rows: usize, _took: Duration) {
        self.0.lock().unwrap().push(rows);
    }
    fn connected(&self, _connected: bool) {}
}

/// Journal that runs.
pub(crate) struct Journal {
    pub(crate) handle: Handle,
    pub(crate) results: mpsc::UnboundedReceiver<Vec<Completion>>,
    pub(crate) task: JoinHandle<Result<(), journal::Error>>,
    flushes: Arc<Flushes>,
}

impl Journal {
    pub(crate) fn start(store: Arc<dyn Store>, me: Incarnation) -> Self {
        let flushes = Arc::new(Flushes::default());
        let (handle, service, results) = journal::journal(store, me, Arc::clone(&flushes) as _);
        Self { handle, results, task: tokio::spawn(service.run()), flushes }
    }

    /// Hands a transition over, of the one life that its transaction has in most tests.
    pub(crate) fn submit(&self, transition: Transition) {
        self.handle.submit(transition, Uuid::new_v4(), Life::default());
    }

    pub(crate) fn submit_all(&self, transitions: Vec<Transition>) {
        transitions.into_iter().for_each(|transition| self.submit(transition));
    }

    /// Waits until each of these transactions is durable at its version or has another completion,
    /// and returns the others.
    pub(crate) async fn completed(&mut self, wanted: &[(TxId, Version)]) -> Vec<Completion> {
        let mut open: HashMap<TxId, Version> = wanted.iter().copied().collect();
        let mut others = Vec::new();
        while !open.is_empty() {
            for completion in self.results.recv().await.expect("the journal runs") {
                let id = completion.tx_id;
                match completion.ended {
                    Ended::Durable(version) => {
                        if open.get(&id).is_some_and(|wanted| *wanted <= version) {
                            open.remove(&id);
                        }
                    }
                    Ended::GidHeld(_) | Ended::Lost | Ended::WentBack(_) | Ended::Refused(_) => {
                        open.remove(&id);
                        others.push(completion);
                    }
                }
            }
        }
        others
    }

    pub(crate) async fn end(self) -> Result<(), journal::Error> {
        self.handle.close();
        self.task.await.unwrap()
    }
}

async fn many_transactions_share_a_commit(fixture: Fixture) {
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let mut lives = Vec::new();
    for _ in 0..2_000 {
        let (live, begin) = Live::begin(&new_gid());
        journal.submit(begin);
        lives.push(live);
    }
    let wanted: Vec<_> = lives.iter().map(|live| (live.id(), Version(1))).collect();
    assert_eq!(journal.completed(&wanted).await, []);
    for live in &mut lives {
        journal.submit(live.commit());
        journal.submit_all(live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done));
    }
    let wanted: Vec<_> = lives.iter().map(|live| (live.id(), Version(3))).collect();
    assert_eq!(journal.completed(&wanted).await, []);
    let flushes = journal.flushes.0.lock().unwrap().len();
    assert!(flushes < 100, "{flushes} commits for 6,000 transitions");
    journal.end().await.unwrap();
    for live in lives.iter().step_by(97) {
        let stored = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
        assert_eq!(stored.record, live.tx.record());
    }
}

async fn transitions_of_one_transaction_are_folded(fixture: Fixture) {
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let (mut live, begin) = Live::begin(&new_gid());
    // All are handed over before the journal can run.
    journal.submit(begin);
    journal.submit(live.commit());
    journal.submit_all(live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done));
    assert_eq!(journal.completed(&[(live.id(), Version(3))]).await, []);
    assert_eq!(*journal.flushes.0.lock().unwrap(), [1]);
    journal.end().await.unwrap();
    let stored = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
    assert_eq!(stored.record, live.tx.record());
}

async fn a_refused_row_fails_alone(fixture: Fixture) {
    rows::refuse_marked(&fixture.url).await;
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let mut wanted = Vec::new();
    let mut bad = HashSet::new();
    for index in 0..300 {
        let (live, mut begin) = Live::begin(&new_gid());
        if index % 100 == 7 {
            rows::mark(&mut begin);
            bad.insert(live.id());
        }
        journal.submit(begin);
        wanted.push((live.id(), Version(1)));
    }
    let refused = journal.completed(&wanted).await;
    let refused: HashSet<TxId> = refused
        .into_iter()
        .map(|completion| match completion.ended {
            Ended::Refused(_) => completion.tx_id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(refused, bad);
    journal.end().await.unwrap();
    for (id, _) in wanted {
        let found = fixture.store.transactions().find(&Key::Tx(id)).await.unwrap().is_some();
        assert_eq!(found, !bad.contains(&id));
    }
}

async fn a_taken_gid_is_told_and_the_rest_goes_on(fixture: Fixture) {
    let gid = new_gid();
    let (first, begin) = Live::begin(&gid);
    fixture.write([begin]).await;
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let (mut second, begin) = Live::begin(&gid);
    journal.submit(begin);
    journal.submit(second.rollback());
    let (third, begin) = Live::begin(&new_gid());
    journal.submit(begin);
    let wanted = [(second.id(), Version(2)), (third.id(), Version(1))];
    let others = journal.completed(&wanted).await;
    assert!(
        matches!(&others[..], [Completion { tx_id, ended: Ended::GidHeld(taken), .. }]
            if *tx_id == second.id() && taken.tx_id == first.id()),
        "{others:?}"
    );
    journal.end().await.unwrap();
}

async fn a_row_that_somebody_changed_is_lost(fixture: Fixture) {
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let (mut live, begin) = Live::begin(&new_gid());
    journal.submit(begin);
    journal.completed(&[(live.id(), Version(1))]).await;
    // The row is also written outside the journal.
    let claim = Claim::One(live.id(), fixture.me, Version(1));
    assert_eq!(
        fixture.store.transactions().claim(fixture.me, claim).await.unwrap().records.len(),
        1
    );
    journal.submit(live.commit());
    let others = journal.completed(&[(live.id(), Version(2))]).await;
    assert!(matches!(&others[..], [Completion { ended: Ended::Lost, .. }]), "{others:?}");
    journal.end().await.unwrap();
}

/// A write is refused, an adoption gives the row the version that the refused write would have given it,
/// and the next write of the same life comes before anybody has told that of its end.
async fn s5_a_life_that_lost_its_row_writes_nothing_more(fixture: Fixture) {
    rows::refuse_marked(&fixture.url).await;
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let first = Life::begin();
    let submit = |transition, life| journal.handle.submit(transition, Uuid::new_v4(), life);
    let (mut live, begin) = Live::begin(&new_gid());
    submit(begin, first);
    let begun = journal.results.recv().await.unwrap();
    assert_eq!(begun[0].ended, Ended::Durable(Version(1)));

    let mut refused = live.commit();
    rows::mark(&mut refused);
    let after = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done).remove(0);
    let submit = |transition, life| journal.handle.submit(transition, Uuid::new_v4(), life);
    submit(refused, first);
    let told = journal.results.recv().await.unwrap();
    assert!(matches!(told[0].ended, Ended::Refused(_)), "{told:?}");
    assert_eq!((told[0].tx_id, told[0].life), (live.id(), first));
    // The server tells of the error before it lets go of the row.
    let claimed = until("the row to be free", async || {
        let claim = Claim::One(live.id(), fixture.me, Version(1));
        let claimed = fixture.store.transactions().claim(fixture.me, claim).await.unwrap().records;
        (!claimed.is_empty()).then_some(claimed)
    })
    .await;
    assert_eq!(claimed[0].version, Version(2));
    submit(after.clone(), first);

    // The next life goes on from the row as it is.
    let second = Life::begin();
    let mut again = Live::resume(unanimo_core::Transaction::restore(claimed[0].clone()));
    journal.handle.forget(live.id(), first);
    submit(again.rollback(), second);
    let told = journal.results.recv().await.unwrap();
    let generation = fixture.store.generation();
    let ended = Ended::Durable(Version(3));
    let flush = told[0].flush;
    assert!(flush.is_some_and(|flush| flush.rows == 1), "{told:?}");
    assert_eq!(told, [Completion { tx_id: live.id(), life: second, ended, generation, flush }]);
    journal.end().await.unwrap();
    let stored = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
    assert_eq!(stored.record, again.tx.record());
}

async fn the_journal_ends_when_it_is_fenced(fixture: Fixture) {
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let (mut live, begin) = Live::begin(&new_gid());
    journal.submit(begin);
    journal.completed(&[(live.id(), Version(1))]).await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    journal.submit(live.commit());
    let end = journal.task.await.unwrap();
    assert!(matches!(end, Err(journal::Error::Fenced(me)) if me == fixture.me), "{end:?}");
    let stored = fixture.store.transactions().find(&Key::Tx(live.id())).await.unwrap().unwrap();
    assert_eq!(stored.record.version, Version(1));
}

async fn its_reach_ends_at_the_first_open_write(fixture: Fixture) {
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let (hour, none, handle) = (Duration::from_secs(3600), Duration::ZERO, journal.handle.clone());
    let id = |number| Uuid::from_u64_pair(7, number);
    let reach = |until, open: &[u64]| {
        Some(Reach { until: id(until), open: open.iter().copied().map(id).collect() })
    };
    assert_eq!(handle.reach(none, 9), None);
    let gid = new_gid();
    let mut begun = Vec::new();
    for (number, gid) in [(1, gid.clone()), (2, new_gid()), (3, new_gid())] {
        let (live, begin) = Live::begin(&gid);
        handle.submit(begin, id(number), Life::default());
        begun.push((live.id(), Version(1)));
    }
    // The journal has not run yet.
    assert_eq!(handle.reach(hour, 9), reach(1, &[]));
    assert_eq!(handle.reach(none, 9), reach(4, &[1, 2, 3]));
    assert_eq!(handle.reach(none, 2), reach(3, &[1, 2]));
    assert_eq!(journal.completed(&begun).await, []);
    assert_eq!(handle.reach(hour, 9), reach(4, &[]));
    // What is not written is open no more.
    let (live, begin) = Live::begin(&gid);
    handle.submit(begin, id(4), Life::default());
    assert_eq!(handle.reach(hour, 9), reach(4, &[]));
    assert_eq!(journal.completed(&[(live.id(), Version(1))]).await.len(), 1);
    assert_eq!(handle.reach(hour, 9), reach(5, &[]));
    journal.end().await.unwrap();
}
