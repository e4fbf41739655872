//! Synchronous standbys: a commit whose wait for them was ended is not durable.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use unanimo_coordinator::cluster::birth::Candidate;
use unanimo_coordinator::store::journal::Ended;
use unanimo_coordinator::store::{self, BatchError, Claim, Key, PostgresOptions, Written};
use unanimo_core::Version;
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::journal::Journal;
use super::{Fixture, LEASE, a_write, execute};
use crate::fixtures::{Live, new_gid};

/// Sets the standbys that commits wait for.
pub(super) async fn wait_for(server: &Server, standbys: &str) {
    let admin = server.url("postgres");
    execute(&admin, &format!("ALTER SYSTEM SET synchronous_standby_names = '{standbys}'")).await;
    execute(&admin, "SELECT pg_reload_conf()").await;
    until("the setting to be known", async || {
        let mut raw = PgConnection::connect(&admin).await.ok()?;
        let shown: String =
            sqlx::query_scalar("SHOW synchronous_standby_names").fetch_one(&mut raw).await.ok()?;
        (shown == standbys).then_some(())
    })
    .await;
    // The checkpointer tells the sessions, a moment later.
    tokio::time::sleep(Duration::from_millis(300)).await;
}

/// Fixture whose statements, and so the proofs of them, may take a second.
async fn quick(url: String) -> Fixture {
    let statement_timeout = Duration::from_secs(1);
    let options = PostgresOptions { statement_timeout, ..PostgresOptions::default() };
    let store = store::open(&url, &options).await.unwrap();
    let me = super::create(&store, "one").await;
    Fixture { store, url, me }
}

/// Somebody who ends every wait for a standby.
pub(super) struct Canceller {
    task: tokio::task::JoinHandle<()>,
    count: Arc<AtomicU32>,
}

impl Canceller {
    pub(super) fn start(server: &Server) -> Self {
        let (admin, count) = (server.url("postgres"), Arc::new(AtomicU32::new(0)));
        let counted = Arc::clone(&count);
        let task = tokio::spawn(async move {
            let mut raw = PgConnection::connect(&admin).await.unwrap();
            loop {
                let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
                    WHERE wait_event = 'SyncRep'";
                let cancelled = raw.execute(AssertSqlSafe(cancel)).await.unwrap().rows_affected();
                counted.fetch_add(u32::try_from(cancelled).unwrap(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { task, count }
    }

    pub(super) fn stop(self) -> u32 {
        self.task.abort();
        self.count.load(Ordering::Relaxed)
    }
}

/// S3: the journal's commit is told to wait no longer. Nothing of it is told until it is certain.
#[tokio::test]
async fn s3_a_commit_whose_wait_for_a_standby_was_ended_is_not_durable() {
    let server = Server::start();
    let fixture = Fixture::open(server.database().await).await;
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let (first, begin) = Live::begin(&new_gid());
    journal.submit(begin);
    assert_eq!(journal.completed(&[(first.id(), Version(1))]).await, []);

    wait_for(&server, "nobody").await;
    let canceller = Canceller::start(&server);
    let (second, begin) = Live::begin(&new_gid());
    journal.submit(begin);
    let told = tokio::time::timeout(Duration::from_secs(4), journal.results.recv()).await;
    assert!(told.is_err(), "told as durable: {told:?}");
    assert!(canceller.stop() >= 1, "its wait was ended");

    wait_for(&server, "").await;
    assert_eq!(journal.completed(&[(second.id(), Version(1))]).await, []);
    journal.end().await.unwrap();
}

/// The same of everything else that is acted on: births, renewals, adoptions, fences, what is read.
#[tokio::test]
async fn s3_no_request_counts_whose_wait_for_a_standby_was_ended() {
    let server = Server::start();
    let fixture = quick(server.database().await).await;
    let (live, begin) = Live::begin(&new_gid());
    fixture.write([begin]).await;
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
    let mut writer = fixture.writer().await;

    wait_for(&server, "nobody").await;
    let canceller = Canceller::start(&server);
    let (incarnations, transactions) = (fixture.store.incarnations(), fixture.store.transactions());
    incarnations.renew(fixture.me, LEASE).await.unwrap_err();
    let claim = Claim::One(live.id(), fixture.me, Version(1));
    let error = transactions.claim(fixture.me, claim).await.unwrap_err();
    let text = store::in_full(&error);
    assert!(text.contains("acknowledged before the synchronous standbys had it"), "{text}");
    let created = incarnations.list().await.unwrap().created;
    incarnations.create("two", created, LEASE).await.unwrap_err();
    transactions.find(&Key::Tx(live.id())).await.unwrap_err();
    writer.write(&[a_write(Live::begin(&new_gid()).1)]).await.unwrap_err();
    incarnations.fence(fixture.me, "a test").await.unwrap_err();
    assert!(canceller.stop() >= 4);
    // People can look all the time.
    incarnations.list().await.unwrap();
    transactions.attention().await.unwrap();
}

/// With a standby that is there everything goes on, however many are named and how.
#[tokio::test]
async fn commits_that_a_standby_has_are_durable() {
    let server = Server::start();
    let fixture = Fixture::open(server.database().await).await;
    let _standby = server.standby();
    for standbys in ["*", "walreceiver", "FIRST 1 (walreceiver, other)", "ANY 1 (*)", "1 (*)"] {
        wait_for(&server, standbys).await;
        for _ in 0..5 {
            let (live, begin) = Live::begin(&new_gid());
            let written = fixture.writer().await.write(&[a_write(begin)]).await.unwrap();
            assert_eq!(written, [Written::Applied], "{standbys}");
            let key = Key::Tx(live.id());
            assert!(fixture.store.transactions().find(&key).await.unwrap().is_some());
        }
        fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
    }
    // One is there, and two are asked for.
    for standbys in ["ANY 2 (*)", "FIRST 2 (*)", "2 (walreceiver, other)"] {
        wait_for(&server, standbys).await;
        let canceller = Canceller::start(&server);
        fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap_err();
        assert!(canceller.stop() > 0, "{standbys}");
    }
}

/// A role that cannot see the standbys can prove nothing: it is told which right it lacks.
#[tokio::test]
async fn a_role_that_cannot_see_the_standbys_is_told_so() {
    let server = Server::start();
    let url = server.database().await;
    execute(&server.url("postgres"), "CREATE ROLE clerk LOGIN").await;
    let database = url.rsplit('/').next().unwrap();
    execute(&url, &format!("GRANT CREATE ON DATABASE {database} TO clerk")).await;
    let clerk = url.replace("unanimo@", "clerk@");
    let _standby = server.standby();
    wait_for(&server, "*").await;
    let store = store::open(&clerk, &PostgresOptions::default()).await;
    let error = match store {
        Ok(store) => store.incarnations().create("one", 0, LEASE).await.unwrap_err(),
        Err(error) => error,
    };
    let text = store::in_full(&error);
    assert!(text.contains("GRANT pg_read_all_stats TO clerk"), "{text}");
    execute(&server.url("postgres"), "GRANT pg_read_all_stats TO clerk").await;
    let fixture = Fixture::open(clerk).await;
    fixture.write([Live::begin(&new_gid()).1]).await;
}

/// The journal's first write after such an accident: what is found is durable by then.
#[tokio::test]
async fn s3_what_a_new_connection_finds_is_where_the_standbys_have_it() {
    let server = Server::start();
    let fixture = quick(server.database().await).await;
    wait_for(&server, "nobody").await;
    let canceller = Canceller::start(&server);
    let opened = fixture.store.batch_writer(fixture.me).await;
    assert!(opened.is_err(), "its own write is nowhere else");
    assert!(canceller.stop() > 0);
    wait_for(&server, "").await;
    let (live, begin) = Live::begin(&new_gid());
    let written = fixture.writer().await.write(&[a_write(begin)]).await.unwrap();
    assert_eq!(written, [Written::Applied]);
    let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
    let mut live = live;
    journal.submit(live.commit());
    let told = journal.results.recv().await.unwrap();
    assert_eq!(told[0].ended, Ended::Durable(Version(2)));
    journal.end().await.unwrap();
}

/// Stops the process of a standby that receives the log, and later lets it go on.
struct Receiver(rustix::process::Pid);

impl Receiver {
    async fn stop(standby: &Server) -> Self {
        let receiver = until("the standby to receive", async || {
            let mut raw = PgConnection::connect(&standby.url("postgres")).await.ok()?;
            let pid = "SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming'";
            sqlx::query_scalar::<_, i32>(pid).fetch_optional(&mut raw).await.ok()?
        })
        .await;
        let pid = rustix::process::Pid::from_raw(receiver).unwrap();
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        Self(pid)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::CONT);
    }
}

/// Starts a server on which nothing but the test takes numbers of transactions.
fn without_autovacuum() -> Server {
    Server::start_with("autovacuum = off\n")
}

/// Number of the next transaction of the server: each write takes one, also one that fails.
async fn next(url: &str) -> i64 {
    let mut raw = PgConnection::connect(url).await.unwrap();
    let next = "SELECT txid_snapshot_xmax(txid_current_snapshot())";
    sqlx::query_scalar(next).fetch_one(&mut raw).await.unwrap()
}

/// L1: a standby that is behind for some seconds delays a write, and it is made once. What was cancelled, or
/// was not, is the same.
#[tokio::test]
async fn l1_a_slow_standby_is_waited_for_and_nothing_is_sent_again() {
    for is_cancelled in [false, true] {
        let server = without_autovacuum();
        let fixture = Fixture::open(server.database().await).await;
        let standby = server.standby();
        wait_for(&server, "*").await;
        let mut journal = Journal::start(Arc::clone(&fixture.store), fixture.me);
        let (first, begin) = Live::begin(&new_gid());
        journal.submit(begin);
        assert_eq!(journal.completed(&[(first.id(), Version(1))]).await, []);
        // Its other connections are there by then, too.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = next(&fixture.url).await;

        let receiver = Receiver::stop(&standby).await;
        let canceller = is_cancelled.then(|| Canceller::start(&server));
        let (mut second, begin) = Live::begin(&new_gid());
        journal.submit(begin);
        // What comes meanwhile goes behind it.
        tokio::time::sleep(Duration::from_millis(200)).await;
        journal.submit(second.commit());
        let told = tokio::time::timeout(Duration::from_secs(5), journal.results.recv()).await;
        assert!(told.is_err(), "told as durable: {told:?}");
        drop(receiver);
        assert_eq!(journal.completed(&[(second.id(), Version(2))]).await, []);
        if let Some(canceller) = canceller {
            assert!(canceller.stop() >= 1, "its wait was ended");
        }
        assert_eq!(next(&fixture.url).await, before + 2, "nothing was sent again");
        journal.end().await.unwrap();
    }
}

/// The same for longer than a statement may take: the writer is asked on, and sends nothing again.
#[tokio::test]
async fn l1_a_batch_that_is_not_proven_yet_is_proven_on() {
    let server = without_autovacuum();
    let fixture = quick(server.database().await).await;
    let standby = server.standby();
    wait_for(&server, "*").await;
    let mut writer = fixture.writer().await;
    let before = next(&fixture.url).await;
    let receiver = Receiver::stop(&standby).await;
    let canceller = Canceller::start(&server);
    let batch = [a_write(Live::begin(&new_gid()).1)];
    let error = writer.write(&batch).await.unwrap_err();
    assert!(matches!(error, BatchError::Unproven(_)), "{error:?}");
    let of_batch = "SELECT count(*) FROM unanimo.log";
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let count: i64 = sqlx::query_scalar(of_batch).fetch_one(&mut raw).await.unwrap();
    assert_eq!(count, 1, "it is written");
    drop(receiver);
    assert_eq!(writer.write(&batch).await.unwrap(), [Written::Applied]);
    assert_eq!(next(&fixture.url).await, before + 1);
    canceller.stop();
}

/// The same of a write that is found: its affirmation is made once, and proven on. A batch that comes instead
/// of it is written.
#[tokio::test]
async fn l1_a_found_write_that_is_not_proven_yet_is_proven_on() {
    let server = without_autovacuum();
    let fixture = quick(server.database().await).await;
    let standby = server.standby();
    wait_for(&server, "*").await;
    let mut writer = fixture.writer().await;
    let found = [a_write(Live::begin(&new_gid()).1)];
    let other = [a_write(Live::begin(&new_gid()).1)];
    assert_eq!(writer.write(&found).await.unwrap(), [Written::Applied]);
    let before = next(&fixture.url).await;
    let receiver = Receiver::stop(&standby).await;
    let canceller = Canceller::start(&server);
    for batch in [&found, &found, &other, &found] {
        let error = writer.write(batch).await.unwrap_err();
        assert!(matches!(error, BatchError::Unproven(_)), "{error:?}");
    }
    // Two of the first, the first of which fails, and one of each that came instead of another one. Each has to be proven before
    // it is affirmed.
    assert_eq!(next(&fixture.url).await, before + 4);
    drop(receiver);
    for batch in [&found, &other] {
        assert_eq!(writer.write(batch).await.unwrap(), [Written::Applied]);
    }
    // The first is affirmed, and the other is sent again and affirmed.
    assert_eq!(next(&fixture.url).await, before + 7);
    canceller.stop();
}

/// L1: a connection whose first write is not proven yet is gone on with. A new one would have a later position
/// to wait for, and a standby that stays behind would never come up with it.
#[tokio::test]
async fn l1_a_connection_that_is_not_proven_yet_is_proven_on() {
    let server = without_autovacuum();
    let fixture = quick(server.database().await).await;
    let standby = server.standby();
    wait_for(&server, "*").await;
    drop(fixture.writer().await);
    let before = next(&fixture.url).await;
    let receiver = Receiver::stop(&standby).await;
    let canceller = Canceller::start(&server);
    for _ in 0..2 {
        let refused = fixture.store.batch_writer(fixture.me).await;
        let text = store::in_full(&refused.expect_err("it is not proven"));
        assert!(text.contains("acknowledged before the synchronous standbys had it"), "{text}");
    }
    drop(receiver);
    let written = fixture.writer().await.write(&[a_write(Live::begin(&new_gid()).1)]).await;
    assert_eq!(written.unwrap(), [Written::Applied]);
    assert_eq!(next(&fixture.url).await, before + 2, "one was made, and a batch");
    canceller.stop();
}

/// A process that starts while the standby is gone cannot tell whether its predecessor has fenced another one. It says that,
/// and not that there is another one.
#[tokio::test]
async fn who_cannot_tell_whom_to_fence_says_so_and_waits() {
    let server = Server::start();
    let fixture = quick(server.database().await).await;
    wait_for(&server, "nobody").await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = |at: String| heard.lock().unwrap().push(at);
    let candidate = Candidate { node: "one", lease: Duration::from_secs(60), told: &told };
    let is_told = until("it to be told", async || heard.lock().unwrap().first().cloned());
    let first = tokio::select! {
        created = candidate.create(&*fixture.store) => panic!("{created:?}"),
        first = is_told => first,
    };
    assert!(first.contains("failed to read whom an incarnation has fenced"), "{first}");
    assert!(!first.contains("another process"), "{first}");
    wait_for(&server, "").await;
    candidate.create(&*fixture.store).await.unwrap();
}

/// L5: whoever gives a session up that waits for a standby leaves its process at the server, which waits on. The next
/// session ends it, or they would fill the server.
#[tokio::test]
async fn l5_sessions_that_wait_for_a_standby_that_is_gone_leave_no_process() {
    const ROUNDS: usize = 2;
    const AT_ONCE: usize = 4;
    let server = Server::start();
    let fixture = quick(server.database().await).await;
    wait_for(&server, "nobody").await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let mut raw = PgConnection::connect(&server.url("postgres")).await.unwrap();
    for _ in 0..ROUNDS {
        let claims = (0..AT_ONCE).map(|_| {
            let (store, me) = (Arc::clone(&fixture.store), fixture.me);
            tokio::spawn(async move { store.transactions().claim(me, Claim::OfFenced(1)).await })
        });
        for claim in claims.collect::<Vec<_>>() {
            claim.await.unwrap().unwrap_err();
        }
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(&mut raw).await.unwrap();
        assert!(count <= AT_ONCE as i64, "{count}");
    }
    // Nobody waits for this one.
    fixture.store.incarnations().list().await.unwrap();
    let mut over = 0;
    let left = loop {
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(&mut raw).await.unwrap();
        over += 1;
        if count == 0 || over > 50 {
            break count;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(left, 0, "they wait on");
    wait_for(&server, "").await;
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
}
