//! Cases of MariaDB alone.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sqlx::{Connection, Executor, MySqlConnection, MySqlPool};
use unanimo_proto::v1::HeuristicKind;
use unanimo_sdk::{DatabaseError, Isolation, MySql, MySqlOptions};
use unanimo_tests::mariadb::{Server, hold_commits, let_commits_go};

use super::calls::{Branch, End, Vote, World};
use super::handler::{Deed, Job};
use super::registration::Lines;

const WORK: Job = Job { prepare: Deed::Work, phase_two: Deed::Work };

fn prepare(deed: Deed) -> Branch {
    Branch::tcc(&Job { prepare: deed, phase_two: Deed::Work })
}

/// A participant with one connection for each phase, that waits for locks a second at most.
async fn narrow(server: &Server) -> World<MySql> {
    let url = server.database().await;
    let options = MySqlOptions::default()
        .prepare_connections(1)
        .phase_two_connections(1)
        .lock_timeout(Duration::from_millis(300));
    let resource = options.connect(&url).await.unwrap();
    World::with(resource, MySqlPool::connect(&url).await.unwrap(), Isolation::ReadCommitted).await
}

/// A table of rows 1 to 64, in which the test can hold more than any handler.
async fn pair(world: &World<MySql>) {
    world.pool.execute("CREATE TABLE pair (id int PRIMARY KEY, n int NOT NULL)").await.unwrap();
    let fill = "INSERT INTO pair WITH RECURSIVE seq (n) AS
                    (SELECT 1 UNION ALL SELECT n + 1 FROM seq WHERE n < 64) SELECT n, 0 FROM seq";
    world.pool.execute(fill).await.unwrap();
}

/// Settings that a handler has seen.
async fn seen(world: &World<MySql>) -> String {
    sqlx::query_scalar("SELECT branch_id FROM effect WHERE what = 'session'")
        .fetch_one(&world.pool)
        .await
        .unwrap()
}

const TAKE_ONE: &str = "UPDATE pair SET n = n + 1 WHERE id = 1";
const TAKE_TWO: &str = "UPDATE pair SET n = n + 1 WHERE id = 2";
const TAKE_MANY: &str = "UPDATE pair SET n = n + 1 WHERE id > 1";

/// Has a handler that holds row 1 come for row 2 while somebody else, who holds much more, comes for
/// row 1: a deadlock, whose victim is the handler.
async fn deadlock(world: &World<MySql>) {
    world.gate.waiting().await;
    let mut rival = world.pool.begin().await.unwrap();
    rival.execute(TAKE_MANY).await.unwrap();
    world.gate.open();
    rival.execute(TAKE_ONE).await.unwrap();
    rival.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_handler_that_goes_on_after_a_deadlock_never_gets_a_vote() {
    let world = World::<MySql>::open(Isolation::ReadCommitted).await;
    pair(&world).await;
    let (one, two) = (TAKE_ONE.to_owned(), TAKE_TWO.to_owned());
    for deed in [
        Deed::RunAndWait(one.clone(), two.clone()),
        // Its no is no vote either: what it saw was no longer the branch's transaction.
        Deed::RunWaitAndRefuse(one.clone(), two.clone()),
    ] {
        let branch = prepare(deed.clone());
        let (vote, ()) = tokio::join!(world.prepare(&branch), deadlock(&world));
        assert_eq!(vote, Vote::Unanswered, "{deed:?}");
        assert_eq!(world.state(&branch).await, None, "the row went with the transaction");
        assert_eq!(world.effects(&branch, "try").await, 0, "S7: what came after it is undone");
        let healed = Branch { payload: Branch::tcc(&WORK).payload, ..branch };
        assert!(world.prepare(&healed).await.is_prepared());
    }
    for commits in [true, false] {
        let phase_two = Deed::RunAndWait(one.clone(), two.clone());
        let branch = Branch::tcc(&Job { prepare: Deed::Work, phase_two });
        assert!(world.prepare(&branch).await.is_prepared());
        let end = async {
            if commits { world.commit(&branch).await } else { world.cancel(&branch).await }
        };
        let (end, ()) = tokio::join!(end, deadlock(&world));
        assert_eq!(end, End::Unanswered);
        assert_eq!(world.state(&branch).await.as_deref(), Some("prepared"));
        let what = if commits { "confirm" } else { "cancel" };
        assert_eq!(world.effects(&branch, what).await, 0, "S7");
    }
}

/// The two that waited for the first share the lock of its row, and then each wants it alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_deadlock_of_prepares_is_no_vote() {
    // Of its own, so that its count of deadlocks is this test's.
    let server = Server::start();
    let url = server.database().await;
    let pool = MySqlPool::connect(&url).await.unwrap();
    let resource = MySql::connect(&url).await.unwrap();
    let world = World::with(resource, pool, Isolation::ReadCommitted).await;
    for _ in 0..5 {
        let failing = prepare(Deed::WaitAndFail);
        let branch = Branch { payload: Branch::tcc(&WORK).payload, ..failing.clone() };
        let first = {
            let world = world.clone();
            tokio::spawn(async move { world.prepare(&failing).await })
        };
        world.gate.waiting().await;
        let others = [0, 1].map(|_| {
            let (world, branch) = (world.clone(), branch.clone());
            tokio::spawn(async move { world.prepare(&branch).await })
        });
        unanimo_tests::wait::until("both to wait", async || {
            let waiting = "SELECT count(*) FROM information_schema.processlist
                           WHERE id <> connection_id() AND info LIKE '%INSERT INTO%unanimo_barrier%'";
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&world.pool).await.unwrap();
            (waiting == 2).then_some(())
        })
        .await;
        world.gate.open();
        assert_eq!(first.await.unwrap(), Vote::Unanswered);
        for other in others {
            let vote = other.await.unwrap();
            assert!(vote.is_prepared() || vote == Vote::Working, "S7: never a no: {vote:?}");
        }
        assert!(world.vote(&branch).await.is_prepared());
        assert_eq!(world.effects(&branch, "try").await, 1, "S7");
    }
    let count = "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'";
    let deadlocks: i64 = sqlx::query_scalar(count).fetch_one(&world.pool).await.unwrap();
    assert!(deadlocks > 0, "the case is what it says");
}

/// With this setting a lock timeout ends the whole transaction, as a deadlock does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_lock_timeout_that_ends_the_transaction_ends_the_vote() {
    let server = Server::start_with(&["--innodb-rollback-on-timeout=ON"]);
    let world = narrow(&server).await;
    pair(&world).await;
    let mut outside = world.pool.begin().await.unwrap();
    outside.execute(TAKE_TWO).await.unwrap();

    let branch = prepare(Deed::Run(TAKE_TWO.to_owned()));
    // The timeout is what ends the transaction, so there must have been something to end.
    assert_eq!(world.prepare(&branch).await, Vote::Unanswered);
    assert_eq!(world.state(&branch).await, None);
    let phase_two = Deed::Run(TAKE_TWO.to_owned());
    let branch = Branch::tcc(&Job { prepare: Deed::Work, phase_two });
    assert!(world.prepare(&branch).await.is_prepared());
    assert_eq!(world.commit(&branch).await, End::Unanswered);
    assert_eq!(world.state(&branch).await.as_deref(), Some("prepared"));
    assert_eq!(world.effects(&branch, "confirm").await, 0, "S7");
    outside.rollback().await.unwrap();
    assert_eq!(world.commit(&branch).await, End::Done);
}

/// Without it the transaction is whole, and a handler may make of it what it likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_lock_timeout_of_a_handler_ends_its_statement_only() {
    let world = narrow(Server::shared()).await;
    pair(&world).await;
    let mut outside = world.pool.begin().await.unwrap();
    outside.execute(TAKE_TWO).await.unwrap();
    let branch = prepare(Deed::Run(TAKE_TWO.to_owned()));
    assert!(world.prepare(&branch).await.is_prepared());
    assert_eq!(world.effects(&branch, "try").await, 1);
    outside.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_whatever_commits_implicitly_never_gets_a_yes() {
    let world = World::<MySql>::open(Isolation::ReadCommitted).await;
    for sql in [
        "CREATE TABLE IF NOT EXISTS other (id int)",
        "SET autocommit = 1",
        "LOCK TABLES effect WRITE, unanimo_barrier WRITE",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "START TRANSACTION",
        "SET autocommit = 1; SET autocommit = 0",
        "ANALYZE TABLE effect",
    ] {
        for deed in [Deed::Run(sql.to_owned()), Deed::ThenRun(sql.to_owned())] {
            let branch = prepare(deed.clone());
            assert_eq!(world.prepare(&branch).await, Vote::Unanswered, "S7: {deed:?}");
            let branch = Branch::tcc(&Job { prepare: Deed::Work, phase_two: deed.clone() });
            assert!(world.prepare(&branch).await.is_prepared());
            assert_eq!(world.commit(&branch).await, End::Unanswered, "S7: {deed:?}");
        }
    }
    // A temporary table commits nothing.
    let branch = prepare(Deed::Run("CREATE TEMPORARY TABLE mine (id int)".to_owned()));
    assert!(world.prepare(&branch).await.is_prepared());
}

/// The statements use the key: one that read the table would wait for the branch that is at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_branches_do_not_wait_for_each_other() {
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead] {
        let world = World::<MySql>::open(isolation).await;
        let before: Vec<_> = (0..50).map(|_| Branch::tcc(&WORK)).collect();
        let held = Branch::tcc(&Job { prepare: Deed::Wait, phase_two: Deed::Work });
        let after: Vec<_> = (0..50).map(|_| Branch::tcc(&WORK)).collect();
        let at_work = {
            let (world, held) = (world.clone(), held.clone());
            tokio::spawn(async move { world.prepare(&held).await })
        };
        world.gate.waiting().await;
        for (number, branch) in before.iter().chain(&after).enumerate() {
            if number % 5 == 0 {
                assert_eq!(world.cancel(branch).await, End::Done);
                continue;
            }
            assert!(world.prepare(branch).await.is_prepared());
            assert!(world.prepare(branch).await.is_prepared());
            let end = if number % 2 == 0 {
                world.commit(branch).await
            } else {
                world.cancel(branch).await
            };
            assert_eq!(end, End::Done);
        }
        world.gate.open();
        assert!(at_work.await.unwrap().is_prepared());
    }
}

/// A connection is ours again for the next branch, whatever a handler has set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_what_a_handler_sets_ends_with_it() {
    let world = narrow(Server::shared()).await;
    let settings = "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY;
        SET sql_mode = '', time_zone = '+09:00', timestamp = 1000000000,
            innodb_lock_wait_timeout = 100, foreign_key_checks = 0,
            /*M! max_statement_time = 0.001 */ /*!80000 max_execution_time = 1 */";
    // They are there: this is written behind them, and before a statement may take a millisecond only.
    let (settings, limit) = settings.rsplit_once(',').unwrap();
    let seen_there = "INSERT INTO effect SELECT '', CONCAT_WS(' ',
        /*M! @@tx_isolation, @@tx_read_only = 1 */
        /*!80000 @@transaction_isolation, @@transaction_read_only = 1 */,
        @@innodb_lock_wait_timeout, @@time_zone, @@foreign_key_checks = 1, @@sql_mode), 'session'";
    let set = format!("{settings}; {seen_there}; SET {limit}");
    let branch = prepare(Deed::ThenRun(set));
    assert!(world.prepare(&branch).await.is_prepared());
    assert_eq!(seen(&world).await, "SERIALIZABLE 1 100 +09:00 0 ");
    world.pool.execute("DELETE FROM effect").await.unwrap();
    // Into another database, where there is no barrier: the rest is in ours all the same.
    let elsewhere = prepare(Deed::ThenRun("USE mysql".to_owned()));
    assert!(world.prepare(&elsewhere).await.is_prepared());
    assert_eq!(world.state(&elsewhere).await.as_deref(), Some("prepared"));
    assert_eq!(world.cancel(&elsewhere).await, End::Done);

    let until = SystemTime::now() - Duration::from_millis(1);
    let late = Branch { until: Some(until), ..Branch::tcc(&WORK) };
    assert_eq!(world.prepare(&late).await, Vote::refused("TOO_LATE"), "S8: by the clock");
    let until = SystemTime::now() + Duration::from_secs(20);
    let in_time = Branch { until: Some(until), ..Branch::tcc(&WORK) };
    assert!(world.prepare(&in_time).await.is_prepared());
    // Of the session that the handler before had.
    let look = "INSERT INTO effect
        SELECT '', CONCAT_WS(' ',
            /*M! @@tx_isolation, @@tx_read_only = 1 */
            /*!80000 @@transaction_isolation, @@transaction_read_only = 1 */,
            @@innodb_lock_wait_timeout, @@time_zone, @@foreign_key_checks = 1, @@autocommit = 1,
            /*M! CAST(@@max_statement_time AS SIGNED) */ /*!80000 @@max_execution_time DIV 1000 */,
            @@sql_mode LIKE '%STRICT_ALL_TABLES%'), 'session'";
    assert!(world.prepare(&prepare(Deed::Run(look.to_owned()))).await.is_prepared());
    assert_eq!(seen(&world).await, "READ-COMMITTED 1 1 +00:00 1 0 30 1");
}

/// The time zone of a handler is not that of its row: the sweeper would not see it for nine hours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l4_times_of_rows_are_not_a_handlers() {
    let world = World::<MySql>::open(Isolation::ReadCommitted).await;
    for zone in ["+09:00", "-11:00"] {
        for deed in [
            Deed::ThenRun(format!("SET time_zone = '{zone}'")),
            Deed::ThenRun(format!("SET time_zone = '{zone}', timestamp = 1000000000")),
        ] {
            let branch = Branch::tcc(&Job { prepare: deed.clone(), phase_two: deed.clone() });
            let refused = prepare(Deed::RunWaitAndRefuse(
                format!("SET time_zone = '{zone}'"),
                "SELECT 1".to_owned(),
            ));
            assert!(world.prepare(&branch).await.is_prepared());
            world.gate.open();
            assert_eq!(world.prepare(&refused).await, Vote::refused("NO"));
            assert_eq!(world.commit(&branch).await, End::Done);
            for branch in [&branch, &refused] {
                let age = format!(
                    "SELECT CAST(abs(TIMESTAMPDIFF(SECOND, changed_at, UTC_TIMESTAMP())) AS signed)
                     FROM unanimo_barrier WHERE tx_id = '{}'",
                    branch.tx_id
                );
                let age = <MySql as super::databases::Database>::number(&world.pool, age).await;
                assert!(age < 60, "{zone}: {age}");
            }
        }
    }
}

/// A handler reads twice, and somebody else writes in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_isolation_is_what_the_handler_asks_for() {
    for (isolation, expected) in
        [(Isolation::ReadCommitted, "64 65"), (Isolation::RepeatableRead, "64 64")]
    {
        let world = World::<MySql>::open(isolation).await;
        pair(&world).await;
        let first = "SELECT count(*) INTO @before FROM pair";
        let second = "SELECT count(*) INTO @after FROM pair;
            INSERT INTO effect VALUES ('', CONCAT(@before, ' ', @after), 'session')";
        let branch = prepare(Deed::RunAndWait(first.to_owned(), second.to_owned()));
        let write = async {
            world.gate.waiting().await;
            world.pool.execute("INSERT INTO pair VALUES (65, 0)").await.unwrap();
            world.gate.open();
        };
        let (vote, ()) = tokio::join!(world.prepare(&branch), write);
        assert!(vote.is_prepared());
        assert_eq!(seen(&world).await, expected);
    }
}

/// The server ends the connection while the handler is at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_connection_that_is_lost_leaves_nothing() {
    let world = narrow(Server::shared()).await;
    let branch = prepare(Deed::Wait);
    let kill = async {
        world.gate.waiting().await;
        // The connection that the handler runs on.
        let id = "SELECT CAST(id AS char) FROM information_schema.processlist
                  JOIN information_schema.innodb_trx ON trx_mysql_thread_id = id
                  WHERE db = DATABASE() AND id <> CONNECTION_ID()";
        let id: String = sqlx::query_scalar(id).fetch_one(&world.pool).await.unwrap();
        let kill = sqlx::AssertSqlSafe(format!("KILL {id}"));
        world.pool.execute(kill).await.unwrap();
        world.gate.open();
    };
    let (vote, ()) = tokio::join!(world.prepare(&branch), kill);
    assert_eq!(vote, Vote::Unanswered);
    assert_eq!(world.effects(&branch, "try").await, 0);
    let again = Branch { payload: Branch::tcc(&WORK).payload, ..branch };
    assert!(world.vote(&again).await.is_prepared());
    assert_eq!(world.effects(&again, "try").await, 1, "S7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_the_row_tells_whose_it_is() {
    let world = World::<MySql>::open(Isolation::ReadCommitted).await;
    let branch = Branch::tcc(&WORK);
    assert!(world.prepare(&branch).await.is_prepared());
    type Row = (String, String, String, String, String, String, Vec<u8>, i64);
    let row: Row = sqlx::query_as(
        "SELECT tx_id, cluster_id, participant, gid, action, mode, output,
             CAST(abs(TIMESTAMPDIFF(SECOND, changed_at, UTC_TIMESTAMP())) AS signed)
         FROM unanimo_barrier FORCE INDEX (unanimo_barrier_in_doubt)
         WHERE state = 'prepared' AND changed_at > '2020-01-01'",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap();
    let tx_id = branch.tx_id.to_string();
    let (gid, age_secs) = (format!("gid-{tx_id}"), row.7);
    let text = [&row.0, &row.1, &row.2, &row.3, &row.4, &row.5].map(String::as_str);
    assert_eq!(text, [tx_id.as_str(), "cluster", "bank", &gid, "work", "tcc"]);
    assert_eq!(Bytes::from(row.6), Bytes::from_static(b"0"));
    assert!(age_secs < 30, "times are UTC: {age_secs}");
}

/// All of them make the table if it is not there, and none stumbles over another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_may_start_at_once() {
    let url = Server::shared().database().await;
    let starts: Vec<_> = (0..8)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { MySql::connect(&url).await })
        })
        .collect();
    for start in starts {
        start.await.unwrap().unwrap();
    }
    let mut connection = MySqlConnection::connect(&url).await.unwrap();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM unanimo_barrier_migrations")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(rows, 4, "each migration once");
}

/// A migration that a crash interrupted is run again, and does not cost what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_may_be_there_already() {
    let url = Server::shared().database().await;
    let pool = MySqlPool::connect(&url).await.unwrap();
    let resource = MySql::connect(&url).await.unwrap();
    let world = World::with(resource, pool.clone(), Isolation::ReadCommitted).await;
    let branch = Branch::tcc(&WORK);
    assert!(world.prepare(&branch).await.is_prepared());

    let interrupted = "UPDATE unanimo_barrier_migrations SET success = false";
    pool.execute(interrupted).await.unwrap();
    MySql::connect(&url).await.unwrap();
    let done: bool = sqlx::query_scalar("SELECT min(success) = 1 FROM unanimo_barrier_migrations")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(done);
    assert_eq!(world.commit(&branch).await, End::Done);

    let later = "UPDATE unanimo_barrier_migrations SET version = 99 WHERE version = 2";
    pool.execute(later).await.unwrap();
    let newer = MySql::connect(&url).await;
    assert!(matches!(newer, Err(DatabaseError::Newer { found: 99, .. })), "{newer:?}");
}

/// A commit of a branch whose database was restored from before its vote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s11_a_vote_that_is_lost_is_a_hazard() {
    let world = World::<MySql>::open(Isolation::ReadCommitted).await;
    let branch = Branch::tcc(&WORK);
    assert!(world.prepare(&branch).await.is_prepared());
    world.pool.execute("DELETE FROM unanimo_barrier").await.unwrap();
    assert_eq!(world.commit(&branch).await, End::Heuristic(HeuristicKind::Hazard), "S11");
}

/// An answer that is read from a row that was found follows a durable write of its own: while no commit can come
/// to its end, there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_an_answer_from_a_row_that_was_found_follows_a_commit() {
    let server = Server::start();
    let world = narrow(&server).await;
    let [prepared, committed, cancelled] = [(); 3].map(|()| Branch::tcc(&WORK));
    let refused = prepare(Deed::Refuse);
    for branch in [&prepared, &committed, &cancelled, &refused] {
        world.prepare(branch).await;
    }
    assert_eq!(world.commit(&committed).await, End::Done);
    assert_eq!(world.cancel(&cancelled).await, End::Done);

    let mut backup = world.pool.acquire().await.unwrap();
    hold_commits(&mut backup).await;
    assert_ne!(world.prepare(&prepared).await, Vote::Prepared("0".into()), "S7");
    assert_ne!(world.prepare(&refused).await, Vote::refused("NO"), "S7");
    assert_ne!(world.commit(&committed).await, End::Done, "S7");
    assert_ne!(world.cancel(&cancelled).await, End::Done, "S7");
    let_commits_go(&mut backup).await;
    assert_eq!(world.vote(&prepared).await, Vote::Prepared("0".into()));
    assert_eq!(world.vote(&refused).await, Vote::refused("NO"));
    assert_eq!(world.committed(&committed).await, End::Done);
    assert_eq!(world.cancelled(&cancelled).await, End::Done);
}

/// A lock of a handler by name ends with it, and not with the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_lock_that_a_handler_takes_by_name_ends_with_it() {
    let world = narrow(Server::shared()).await;
    let name = format!("lock-{}", uuid::Uuid::now_v7());
    let branch = prepare(Deed::ThenRun(format!("SELECT GET_LOCK('{name}', 0)")));
    assert!(world.prepare(&branch).await.is_prepared());
    unanimo_tests::wait::until("the lock to be free", async || {
        let free: Option<i64> = sqlx::query_scalar("SELECT IS_FREE_LOCK(?)")
            .bind(&name)
            .fetch_one(&world.pool)
            .await
            .unwrap();
        (free == Some(1)).then_some(())
    })
    .await;
}

/// A start that fails while it migrates leaves the turn to others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_fails_gives_its_turn_back() {
    let server = Server::start();
    let url = server.database().await;
    let pool = MySqlPool::connect(&url).await.unwrap();
    pool.execute("CREATE TABLE unanimo_barrier_id (wrong int)").await.unwrap();
    MySql::connect(&url).await.unwrap_err();
    let free: Option<i64> = sqlx::query_scalar("SELECT IS_FREE_LOCK('unanimo_barrier_migrations')")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(free, Some(1));
    pool.execute("DROP TABLE unanimo_barrier_id").await.unwrap();
    MySql::connect(&url).await.unwrap();
}

/// The tests' servers write each commit, and sync it a second later.
#[tokio::test]
async fn s3_a_server_that_may_lose_votes_is_warned_of() {
    let (lines, _listening) = Lines::listen();
    MySql::connect(&Server::shared().database().await).await.unwrap();
    let told = lines.of("innodb_flush_log_at_trx_commit = 2, and not 1");
    assert!(told.len() == 1 && told[0].contains("WARN"), "{told:?}");
}
