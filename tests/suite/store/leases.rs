//! Leases: renewals that hang, and fences that meet renewals.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use unanimo_coordinator::cluster::birth::Candidate;
use unanimo_coordinator::cluster::lease;
use unanimo_coordinator::store::{
    self, Audit, BatchWriter, Endpoints, Error, Feed, IncarnationList, Incarnations,
    KnownIncarnation, LiveIncarnation, Locks, PostgresOptions, Purge, Store, Transactions, Waits,
    Webhooks,
};
use unanimo_core::Incarnation;
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::{Fixture, LEASE, create, on_both_stores};

on_both_stores!(
    s5_a_silent_incarnation_is_fenced_only_while_it_is_silent,
    s5_of_a_fence_and_a_renewal_at_once_one_wins,
    s5_one_that_wakes_before_the_fence_goes_on,
    s5_one_of_the_same_name_is_fenced_as_it_was_last_seen,
    a_rival_goes_by_the_lease_of_the_other_one,
);

async fn counter(fixture: &Fixture, of: Incarnation) -> i64 {
    let live = fixture.store.incarnations().list().await.unwrap().live;
    live.iter().find(|live| live.incarnation == of).expect("it is alive").counter
}

async fn s5_a_silent_incarnation_is_fenced_only_while_it_is_silent(fixture: Fixture) {
    let (incarnations, me) = (fixture.store.incarnations(), fixture.me);
    let seen = counter(&fixture, me).await;
    incarnations.renew(me, LEASE).await.unwrap();
    assert!(!incarnations.fence_silent(me, seen, "a rival").await.unwrap(), "it has moved");
    incarnations.renew(me, LEASE).await.unwrap();
    assert_eq!(incarnations.fenced_by(me).await.unwrap(), None);

    let seen = counter(&fixture, me).await;
    assert!(incarnations.fence_silent(me, seen, "a rival").await.unwrap());
    assert!(incarnations.fence_silent(me, seen, "another").await.unwrap(), "it is fenced");
    assert!(matches!(incarnations.renew(me, LEASE).await, Err(Error::Fenced(_))));
    assert_eq!(incarnations.fenced_by(me).await.unwrap().as_deref(), Some("a rival"));
}

/// A renewal hangs on the server, and holds its row there. The next one ends that, and is made.
#[tokio::test]
async fn l1_a_renewal_that_hangs_costs_one_renewal() {
    let fixture = Fixture::postgres().await;
    let (incarnations, me) = (fixture.store.incarnations(), fixture.me);
    incarnations.renew(me, LEASE).await.unwrap();
    let hang_once = "CREATE SEQUENCE hung;
        CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval(TG_TABLE_SCHEMA || '.hung') = 1 THEN PERFORM pg_sleep(60); END IF;
            RETURN NEW; END $$;
        CREATE TRIGGER hang BEFORE UPDATE ON heartbeats FOR EACH ROW EXECUTE FUNCTION hang()";
    super::execute(&fixture.url, hang_once).await;
    incarnations.renew(me, LEASE).await.unwrap_err();
    incarnations.renew(me, LEASE).await.unwrap();
}

async fn s5_of_a_fence_and_a_renewal_at_once_one_wins(fixture: Fixture) {
    let incarnations = fixture.store.incarnations();
    for round in 0..40 {
        let other = create(&fixture.store, "other").await;
        let seen = counter(&fixture, other).await;
        let (renewed, fenced) = tokio::join!(
            incarnations.renew(other, LEASE),
            incarnations.fence_silent(other, seen, "a rival"),
        );
        let fenced = fenced.unwrap();
        assert_eq!(renewed.is_err(), fenced, "round {round}: {renewed:?}, fenced: {fenced}");
        incarnations.fence(other, "a test").await.unwrap();
    }
}

/// The rival has fenced and not yet committed when the renewal comes, whose snapshot shows no fence;
/// and the other way round. Both wait for the heartbeat's row, one behind the other.
#[tokio::test]
async fn s5_a_renewal_that_waits_for_a_fence_does_not_succeed() {
    let fixture = Fixture::postgres().await;
    let store = &fixture.store;
    let mut admin = PgConnection::connect(&fixture.url).await.unwrap();
    for fence_first in [true, false] {
        // On a busy machine a wait may outlive the sessions' `lock_timeout`, which tells nothing.
        let (fenced, renewed) = until("two waits in order", async || {
            let other = create(store, "other").await;
            store.incarnations().renew(other, LEASE).await.unwrap();
            let seen = counter(&fixture, other).await;
            let mut holder = PgConnection::connect(&fixture.url).await.unwrap();
            holder.execute("BEGIN").await.unwrap();
            let hold = "SELECT 1 FROM heartbeats WHERE incarnation = $1 FOR UPDATE";
            sqlx::query(hold).bind(other.0).execute(&mut holder).await.unwrap();

            let (first, second) = (Arc::clone(store), Arc::clone(store));
            let fence =
                async move { first.incarnations().fence_silent(other, seen, "a rival").await };
            let renew = async move { second.incarnations().renew(other, LEASE).await };
            let (fence, renew) = if fence_first {
                let fence = tokio::spawn(fence);
                waiting(&mut admin, 1).await;
                (fence, tokio::spawn(renew))
            } else {
                let renew = tokio::spawn(renew);
                waiting(&mut admin, 1).await;
                (tokio::spawn(fence), renew)
            };
            waiting(&mut admin, 2).await;
            holder.execute("COMMIT").await.unwrap();
            let (fenced, renewed) = (fence.await.unwrap(), renew.await.unwrap());
            store.incarnations().fence(other, "a test").await.unwrap();
            let is_told = !matches!(renewed, Err(Error::Database { .. }));
            Some((fenced.ok()?, renewed)).filter(|_| is_told)
        })
        .await;
        assert_eq!(fenced, fence_first);
        match renewed {
            Ok(()) => assert!(!fence_first),
            Err(error) => assert!(fence_first && matches!(error, Error::Fenced(_)), "{error}"),
        }
    }
}

/// Waits until so many sessions of the database wait for a row, but not for ever.
async fn waiting(admin: &mut PgConnection, count: i64) {
    let look = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    for _ in 0..100 {
        let found: i64 = sqlx::query_scalar(look).fetch_one(&mut *admin).await.unwrap();
        if found >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn a_rival_goes_by_the_lease_of_the_other_one(fixture: Fixture) {
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let quick = Duration::from_secs(1);
    for (lease, own) in [(Duration::from_secs(3), quick), (quick, Duration::from_secs(60))] {
        let created = fixture.store.incarnations().list().await.unwrap().created;
        let other = fixture.store.incarnations().create("other", created, lease).await.unwrap();
        let started = Instant::now();
        let rival = Candidate { node: "rival", lease: own, told: &|_| {} };
        let new = rival.create(&*fixture.store).await.unwrap().incarnation;
        let took = started.elapsed();
        // Nobody can live beside whoever has the lock of an SQLite file.
        let is_alone = fixture.store.incarnations().is_alone();
        let least = if is_alone { Duration::ZERO } else { lease };
        assert!(took >= least && took < lease + Duration::from_secs(4), "{took:?} for {lease:?}");
        assert!(fixture.store.incarnations().fenced_by(other.unwrap()).await.unwrap().is_some());
        fixture.store.incarnations().fence(new, "a test").await.unwrap();
    }
}

/// Store in which the other incarnation wakes just before it is fenced, so many times.
#[derive(Debug)]
struct Waking {
    store: Arc<dyn Store>,
    wakes: AtomicUsize,
    /// Looks at who is alive.
    looks: AtomicUsize,
}

impl Waking {
    fn new(fixture: &Fixture, wakes: usize) -> Self {
        let (store, looks) = (Arc::clone(&fixture.store), AtomicUsize::new(0));
        Self { store, wakes: AtomicUsize::new(wakes), looks }
    }

    async fn wake(&self, other: Incarnation) -> Result<(), Error> {
        match self.wakes.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => self.store.incarnations().renew(other, LEASE).await,
            Err(_) => Ok(()),
        }
    }
}

#[async_trait]
impl Incarnations for Waking {
    async fn list(&self) -> Result<IncarnationList, Error> {
        self.looks.fetch_add(1, Relaxed);
        self.store.incarnations().list().await
    }
    async fn last(&self, most: u32) -> Result<Vec<KnownIncarnation>, Error> {
        self.store.incarnations().last(most).await
    }
    async fn fence(&self, incarnation: Incarnation, by: &str) -> Result<(), Error> {
        self.wake(incarnation).await?;
        self.store.incarnations().fence(incarnation, by).await
    }
    async fn fence_silent(&self, of: Incarnation, counter: i64, by: &str) -> Result<bool, Error> {
        self.wake(of).await?;
        self.store.incarnations().fence_silent(of, counter, by).await
    }
    async fn create(
        &self,
        node: &str,
        created: i64,
        lease: Duration,
    ) -> Result<Option<Incarnation>, Error> {
        self.store.incarnations().create(node, created, lease).await
    }
    async fn renew(&self, me: Incarnation, patience: Duration) -> Result<(), Error> {
        self.store.incarnations().renew(me, patience).await
    }
    async fn note_displaced(&self, incarnation: Incarnation) -> Result<(), Error> {
        self.store.incarnations().note_displaced(incarnation).await
    }
    async fn has_displaced(&self, live: &LiveIncarnation) -> Result<bool, Error> {
        self.store.incarnations().has_displaced(live).await
    }
    fn is_alone(&self) -> bool {
        false
    }
    async fn fenced_by(&self, incarnation: Incarnation) -> Result<Option<String>, Error> {
        self.store.incarnations().fenced_by(incarnation).await
    }
}

#[async_trait]
impl Store for Waking {
    fn cluster_id(&self) -> &str {
        self.store.cluster_id()
    }
    fn incarnations(&self) -> &dyn Incarnations {
        self
    }
    fn transactions(&self) -> &dyn Transactions {
        self.store.transactions()
    }
    fn waits(&self) -> &dyn Waits {
        self.store.waits()
    }
    fn locks(&self) -> &dyn Locks {
        self.store.locks()
    }
    fn endpoints(&self) -> &dyn Endpoints {
        self.store.endpoints()
    }
    fn audit(&self) -> &dyn Audit {
        self.store.audit()
    }
    fn feed(&self) -> &dyn Feed {
        self.store.feed()
    }
    fn webhooks(&self) -> &dyn Webhooks {
        self.store.webhooks()
    }
    fn purge(&self) -> &dyn Purge {
        self.store.purge()
    }
    async fn batch_writer(&self, me: Incarnation) -> Result<Box<dyn BatchWriter>, Error> {
        self.store.batch_writer(me).await
    }
    async fn close(&self) {
        self.store.close().await;
    }
}

async fn s5_one_that_wakes_before_the_fence_goes_on(fixture: Fixture) {
    let store = Waking::new(&fixture, usize::MAX);
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let lease = Duration::from_millis(300);
    let created = fixture.store.incarnations().list().await.unwrap().created;
    let other = fixture.store.incarnations().create("other", created, lease).await.unwrap();
    let rival = Candidate { node: "rival", lease, told: &|_| {} };
    let waiting = tokio::time::timeout(Duration::from_secs(3), rival.create(&store));
    waiting.await.expect_err("it waits as a standby");
    store.renew(other.unwrap(), LEASE).await.unwrap();
}

/// A process that is started a second time means to take its predecessor's place, and fences it alive. But it has seen the
/// lease that the predecessor believes in: one that is renewed meanwhile is looked at again.
async fn s5_one_of_the_same_name_is_fenced_as_it_was_last_seen(fixture: Fixture) {
    let store = Waking::new(&fixture, 2);
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let created = fixture.store.incarnations().list().await.unwrap().created;
    let former = fixture.store.incarnations().create("one", created, LEASE).await.unwrap().unwrap();
    let successor = Candidate { node: "one", lease: LEASE, told: &|_| {} };
    successor.create(&store).await.unwrap();
    assert_eq!(store.wakes.load(Relaxed), 0);
    assert_eq!(store.looks.load(Relaxed), 3, "S5: it is looked at again after each renewal");
    let by = fixture.store.incarnations().fenced_by(former).await.unwrap();
    assert!(by.is_some_and(|by| by.contains("was started again")));
}

/// L2, L3: the connection of the heartbeat hangs, once and again, and the lease is held all the time.
#[tokio::test]
async fn l3_a_heartbeat_that_hangs_does_not_cost_the_lease() {
    let proxy = Proxy::start(Server::shared().socket()).await;
    let url = proxy.url(&Server::shared().database().await);
    let store = store::open(&url, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "one").await;
    let length = Duration::from_secs(4);
    let (lease, service) =
        lease::lease(Arc::clone(&store), me, length, tokio::time::Instant::now());
    let renewing = tokio::spawn(service.run());
    // A new connection, and then one that has its statement prepared, and sends its name.
    for text in ["UPDATE heartbeats", "sqlx_s_"] {
        proxy.hang_at(text);
        until("a heartbeat to hang", async || proxy.has_hung().then_some(())).await;
        let hung = Instant::now();
        while hung.elapsed() < length + length / 2 {
            assert!(lease.is_held(), "lost after {:?}", hung.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    renewing.abort();
}

/// The opening of a new connection hangs.
#[tokio::test]
async fn l3_a_connection_that_hangs_at_its_start_does_not_cost_the_lease() {
    let proxy = Proxy::start(Server::shared().socket()).await;
    let url = proxy.url(&Server::shared().database().await);
    let store = store::open(&url, &PostgresOptions::default()).await.unwrap();
    let me = create(&store, "one").await;
    let length = Duration::from_secs(4);
    let (lease, service) =
        lease::lease(Arc::clone(&store), me, length, tokio::time::Instant::now());
    // The first renewal opens its connection.
    proxy.hang_at("set_config");
    let renewing = tokio::spawn(service.run());
    let started = Instant::now();
    while started.elapsed() < length * 2 {
        assert!(lease.is_held(), "lost after {:?}", started.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(proxy.has_hung());
    renewing.abort();
}
