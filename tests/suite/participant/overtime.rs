//! Operations that do not come to an end by themselves.

use std::time::{Duration, Instant};

use tonic::{Code, Request};
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{CommitRequest, Mode, PrepareRequest};
use unanimo_sdk::{
    Isolation, MySql, MySqlOptions, Participant, PostgresOptions, Service, Sqlite, Sweep,
};
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::databases::Database;
use super::direct::{Branch, branch};
use super::handler::{Deed, Handler, Job};
use super::over;

const OVERTIME: Duration = Duration::from_millis(300);

pub(super) const EFFECTS: &str =
    "CREATE TABLE effect (tx_id varchar(36), branch_id varchar(128), what varchar(16))";

pub(super) fn service<D: Database>(database: D) -> (Service<D>, Handler) {
    let handler = Handler::new(Isolation::ReadCommitted);
    let participant =
        Participant::new("p", database).overtime(OVERTIME).tcc("work", handler.clone());
    (participant.service().unwrap(), handler)
}

pub(super) fn of(job: &Job) -> Branch {
    Branch { payload: serde_json::to_vec(job).unwrap().into(), ..branch(Mode::Tcc, "work") }
}

/// The caller waits that long.
pub(super) async fn prepare<D: Database>(
    service: &Service<D>,
    of: &Branch,
    waits: Duration,
) -> Code {
    let mut request = Request::new(PrepareRequest {
        context: Some(of.context.clone()),
        action: of.action.clone(),
        payload: unanimo_tests::payload(of.payload.clone()),
        ..PrepareRequest::default()
    });
    request.set_timeout(waits);
    service.prepare(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

pub(super) async fn commit<D: Database>(
    service: &Service<D>,
    of: &Branch,
    waits: Duration,
) -> Code {
    let mut request = Request::new(CommitRequest {
        context: Some(of.context.clone()),
        action: of.action.clone(),
        payload: unanimo_tests::payload(of.payload.clone()),
        ..CommitRequest::default()
    });
    request.set_timeout(waits);
    service.commit(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// Every slot of both phases is held by a handler that never returns, and each is free again.
async fn ends<D: Database>(database: D, pool: &D::Pool, slots: usize) {
    D::run_outside(pool, EFFECTS.to_owned()).await;
    let (service, _handler) = service(database);
    let short = Duration::from_millis(100);
    let endless = Job { prepare: Deed::Wait, phase_two: Deed::Work };
    for _ in 0..=slots {
        let started = Instant::now();
        let branch = of(&endless);
        assert_eq!(prepare(&service, &branch, short).await, Code::DeadlineExceeded);
        assert!(started.elapsed() >= short + OVERTIME, "not before its time");
        // Nothing of it is left, and nothing is locked.
        let well = Branch { payload: of(&Job::default()).payload, ..branch };
        let patient = Duration::from_secs(30);
        until("a vote", async || {
            (prepare(&service, &well, patient).await == Code::Ok).then_some(())
        })
        .await;
    }
    let endless = Job { prepare: Deed::Work, phase_two: Deed::Wait };
    for _ in 0..=slots {
        let branch = of(&endless);
        assert_eq!(prepare(&service, &branch, Duration::from_secs(30)).await, Code::Ok);
        assert_eq!(commit(&service, &branch, short).await, Code::DeadlineExceeded);
        let well = Branch { payload: of(&Job::default()).payload, ..branch.clone() };
        until("its end", async || {
            let answer = well.commit(&service).await;
            matches!(answer, Ok(unanimo_proto::v1::commit_response::Answer::Done(_))).then_some(())
        })
        .await;
        let count = format!(
            "SELECT count(*) FROM effect WHERE tx_id = '{}' AND what = 'confirm'",
            branch.tx_id()
        );
        assert_eq!(D::number(pool, count).await, 1, "S7");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_returns_is_ended_on_postgres() {
    let url = Server::shared().database().await;
    let options = PostgresOptions::default().prepare_connections(1).phase_two_connections(1);
    let database = over::connect(options, &url).await.unwrap();
    ends(database, &sqlx::PgPool::connect(&url).await.unwrap(), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_returns_is_ended_on_mariadb() {
    let url = unanimo_tests::mariadb::Server::shared().database().await;
    let options = MySqlOptions::default().prepare_connections(1).phase_two_connections(1);
    let database: MySql = options.connect(&url).await.unwrap();
    ends(database, &sqlx::MySqlPool::connect(&url).await.unwrap(), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_returns_is_ended_on_sqlite() {
    let (database, pool) = <Sqlite as Database>::open().await;
    ends(database, &pool, 4).await;
}

/// A handler that has committed something beside its transaction, and then never returns: the loss is told when the
/// handler is ended, and it is not done again.
///
/// It may be at a gate of its own, or at a statement: the database answers nothing else before that has ended. The same of
/// one that has given the statement up, and returns.
async fn losses<D: Database>(database: D, pool: &D::Pool, statements: &[&str]) {
    let (alarms, _listening) = unanimo_tests::alarms::Alarms::listen();
    D::run_outside(pool, EFFECTS.to_owned()).await;
    D::run_outside(pool, "CREATE TABLE kept (n int)".to_owned()).await;
    let (service, _handler) = service(database);
    let (short, patient) = (Duration::from_millis(100), Duration::from_secs(30));
    let kept = async || D::number(pool, "SELECT count(*) FROM kept".to_owned()).await;
    let beside = "ROLLBACK; START TRANSACTION READ WRITE; INSERT INTO kept VALUES (1); COMMIT";
    let mut before = 0;
    let at_gate = [beside, "INSERT INTO kept VALUES (1); COMMIT"];
    let at_gate = at_gate.map(|sql| Deed::RunAndWait(sql.into(), "SELECT 1".into()));
    let at_work = statements.iter().map(|endless| Deed::Run(format!("{beside}; {endless}")));
    let given_up = statements.iter().flat_map(|endless| {
        [false, true].map(|fails| Deed::GiveUp(format!("{beside}; {endless}"), fails))
    });
    for deed in at_gate.into_iter().chain(at_work).chain(given_up) {
        let sql = format!("{deed:?}");
        for is_phase_two in [false, true] {
            let job = match is_phase_two {
                true => Job { prepare: Deed::Work, phase_two: deed.clone() },
                false => Job { prepare: deed.clone(), phase_two: Deed::Work },
            };
            let branch = of(&job);
            if is_phase_two {
                assert_eq!(prepare(&service, &branch, patient).await, Code::Ok);
            }
            let lost = match is_phase_two {
                true => commit(&service, &branch, short).await,
                false => prepare(&service, &branch, short).await,
            };
            assert_eq!(lost, Code::Internal, "{sql}");
            let told = alarms.named("handler_lost_transaction");
            let tx_id = branch.tx_id().to_string();
            assert_eq!(told.iter().filter(|line| line.contains(&tx_id)).count(), 1, "{sql}");
            for _ in 0..2 {
                let end = branch.commit(&service).await.unwrap();
                let unanimo_proto::v1::commit_response::Answer::Heuristic(end) = end else {
                    panic!("S11: {end:?} of {sql}")
                };
                assert_eq!(end.kind(), unanimo_proto::v1::HeuristicKind::Hazard, "S11: {sql}");
                assert_eq!(prepare(&service, &branch, short).await, Code::Internal, "{sql}");
            }
            before += 1;
            assert_eq!(kept().await, before, "S7: {sql}");
        }
    }
}

#[tokio::test]
async fn s7_s11_a_lost_transaction_of_a_handler_that_never_returns_is_told_on_postgres() {
    let url = Server::shared().database().await;
    let database = over::connect(PostgresOptions::default(), &url).await.unwrap();
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    losses(database, &pool, &[ON_POSTGRES, "BEGIN; SELECT pg_sleep(60)", STUBBORN]).await;
    nobody_is_at_work::<over::Database>(&pool, AT_WORK_ON_POSTGRES).await;
}

#[tokio::test]
async fn s7_s11_a_lost_transaction_of_a_handler_that_never_returns_is_told_on_mariadb() {
    let url = unanimo_tests::mariadb::Server::shared().database().await;
    let database = MySql::connect(&url).await.unwrap();
    let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
    losses(database, &pool, &[ON_MARIADB, "START TRANSACTION READ WRITE; SELECT SLEEP(60)"]).await;
    nobody_is_at_work::<MySql>(&pool, AT_WORK_ON_MARIADB).await;
}

const ON_POSTGRES: &str = "SELECT pg_sleep(60)";

const ON_MARIADB: &str = "SELECT SLEEP(60)";

/// A statement that nothing ends but its session's end.
const STUBBORN: &str = "SET statement_timeout = 0;
    DO $$ BEGIN LOOP
        BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END;
    END LOOP; END $$";

/// Sessions of the database that are at a statement, but for the one that asks.
const AT_WORK_ON_POSTGRES: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()";

const AT_WORK_ON_MARIADB: &str = "SELECT count(*) FROM information_schema.processlist
    WHERE db = DATABASE() AND command <> 'Sleep' AND id <> CONNECTION_ID()";

/// Time in which a statement is ended that has been given up: far less than it takes, or than the server lets one take.
const ENDED_WITHIN: Duration = Duration::from_secs(15);

/// Nobody is at work in the database soon, by the server's own list.
async fn nobody_is_at_work<D: Database>(pool: &D::Pool, at_work: &str) {
    let since = Instant::now();
    until("the end of the sessions", async || {
        (D::number(pool, at_work.to_owned()).await == 0).then_some(())
    })
    .await;
    assert!(since.elapsed() < ENDED_WITHIN, "statements have ended by themselves");
}

/// A handler that is at a long statement in the transaction that it was given has lost nothing, and nothing of it is left:
/// neither an effect nor the statement, which holds the branch's row.
async fn is_no_loss<D: Database>(database: D, pool: &D::Pool, endless: &str, is_told: bool) {
    let (alarms, _listening) = unanimo_tests::alarms::Alarms::listen();
    let handler = Handler::new(Isolation::ReadCommitted);
    let participant = Participant::new("p", database).handler_timeout(OVERTIME);
    let service = participant.tcc("work", handler.clone()).service().unwrap();
    let patient = Duration::from_secs(30);
    let slow = || Deed::ThenRun(endless.to_owned());
    for is_phase_two in [false, true] {
        let job = match is_phase_two {
            true => Job { prepare: Deed::Work, phase_two: slow() },
            false => Job { prepare: slow(), phase_two: Deed::Work },
        };
        let branch = of(&job);
        if is_phase_two {
            assert_eq!(prepare(&service, &branch, patient).await, Code::Ok);
        }
        let told = match is_phase_two {
            true => commit(&service, &branch, patient).await,
            false => prepare(&service, &branch, patient).await,
        };
        assert_eq!(told, Code::DeadlineExceeded, "{endless}");
        let well = Branch { payload: of(&Job::default()).payload, ..branch.clone() };
        let since = Instant::now();
        until("its end", async || match is_phase_two {
            true => {
                let answer = well.commit(&service).await;
                matches!(answer, Ok(unanimo_proto::v1::commit_response::Answer::Done(_)))
                    .then_some(())
            }
            false => {
                let answer = well.prepare(&service).await;
                matches!(answer, Ok(unanimo_proto::v1::prepare_response::Answer::Prepared(_)))
                    .then_some(())
            }
        })
        .await;
        assert!(since.elapsed() < Duration::from_secs(20), "the statement has held the row");
        let count = format!("SELECT count(*) FROM effect WHERE tx_id = '{}'", branch.tx_id());
        assert_eq!(D::number(pool, count).await, 1 + i64::from(is_phase_two), "S7: {endless}");
    }
    assert_eq!(alarms.named("handler_lost_transaction"), [""; 0], "{endless}");
    let told = alarms.named("operation_overtime");
    assert_eq!(told.len(), 2 * usize::from(is_told), "{endless}: {told:?}");
    assert!(told.iter().all(|line| line.contains("the database does not tell")), "{told:?}");
}

#[tokio::test]
async fn s11_a_statement_that_takes_too_long_is_ended_and_is_no_loss_on_postgres() {
    let url = Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    over::Database::run_outside(&pool, EFFECTS.to_owned()).await;
    // Nobody can be told whether one that goes on was in its transaction.
    for (endless, is_told) in [(ON_POSTGRES, false), (STUBBORN, true)] {
        let database = over::connect(PostgresOptions::default(), &url).await.unwrap();
        is_no_loss(database, &pool, endless, is_told).await;
    }
    nobody_is_at_work::<over::Database>(&pool, AT_WORK_ON_POSTGRES).await;
}

#[tokio::test]
async fn s11_a_statement_that_takes_too_long_is_ended_and_is_no_loss_on_mariadb() {
    let url = unanimo_tests::mariadb::Server::shared().database().await;
    let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
    MySql::run_outside(&pool, EFFECTS.to_owned()).await;
    let database = MySql::connect(&url).await.unwrap();
    is_no_loss(database, &pool, ON_MARIADB, false).await;
    // One that writes, and takes locks.
    let database = MySql::connect(&url).await.unwrap();
    let writes = "INSERT INTO effect SELECT 'none', 'none', SLEEP(60)";
    is_no_loss(database, &pool, writes, false).await;
    nobody_is_at_work::<MySql>(&pool, AT_WORK_ON_MARIADB).await;
}

/// A handler's statement is on the way to the server for so long that its session is given up before: the session is ended
/// with it, and keeps no locks.
async fn is_ended_though_late<D: Database>(
    database: D,
    (pool, proxy): (&D::Pool, &Proxy),
    (late, by): (Deed, Duration),
    at_work: &str,
) {
    let handler = Handler::new(Isolation::ReadCommitted);
    let participant = Participant::new("p", database).handler_timeout(ENDED_AFTER);
    let service = participant.tcc("work", handler).service().unwrap();
    // There is a session now, so that the statement is sent soon.
    let patient = Duration::from_secs(30);
    until("a vote", async || {
        (prepare(&service, &of(&Job::default()), patient).await == Code::Ok).then_some(())
    })
    .await;
    proxy.delay_at("* late *", by);
    let slow = Job { prepare: late, phase_two: Deed::Work };
    assert_eq!(prepare(&service, &of(&slow), patient).await, Code::DeadlineExceeded);
    until("the statement to arrive", async || {
        (D::number(pool, at_work.to_owned()).await == 1).then_some(())
    })
    .await;
    nobody_is_at_work::<D>(pool, at_work).await;
}

const ENDED_AFTER: Duration = Duration::from_secs(1);

/// It comes after the first look at the session, and before the second one. The session of a handler that is ended is given up
/// once the server has not told in time what has become of its transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_statement_that_comes_after_its_operation_is_ended_on_postgres() {
    let url = Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    over::Database::run_outside(&pool, EFFECTS.to_owned()).await;
    let proxy = Proxy::start(Server::shared().socket()).await;
    let database = over::connect(PostgresOptions::default(), &proxy.url(&url)).await.unwrap();
    let late = "SET statement_timeout = 0; SELECT pg_sleep(60) /* late */";
    let late = Deed::ThenRun(late.to_owned());
    let by = ENDED_AFTER + Duration::from_millis(1_200) + Duration::from_millis(1_150);
    let at_work = "SELECT count(*) FROM pg_stat_activity
        WHERE state = 'active' AND query LIKE '%* late *%' AND datname = current_database()
            AND pid <> pg_backend_pid()";
    is_ended_though_late(database, (&pool, &proxy), (late, by), at_work).await;
}

/// The same of a handler that has given it up and returned, whose operation waits behind it until its own end. Where a handler
/// is ended the server is told to end a statement that is not there yet, and does so when it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_statement_that_comes_after_its_operation_is_ended_on_mariadb() {
    let server = unanimo_tests::mariadb::Server::shared();
    let url = server.database().await;
    let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
    MySql::run_outside(&pool, EFFECTS.to_owned()).await;
    MySql::run_outside(&pool, "CREATE TABLE held (n int PRIMARY KEY)".to_owned()).await;
    MySql::run_outside(&pool, "INSERT INTO held VALUES (1)".to_owned()).await;
    let mut holds = pool.begin().await.unwrap();
    sqlx::query("SELECT n FROM held FOR UPDATE").fetch_one(&mut *holds).await.unwrap();
    let proxy = Proxy::start(server.socket()).await;
    let database = MySql::connect(&proxy.mariadb_url(&url)).await.unwrap();
    // The server looks at no connection that waits for a lock.
    let late = "SET innodb_lock_wait_timeout = 60; UPDATE held SET n = 2 /* late */";
    let late = Deed::GiveUp(late.to_owned(), false);
    let by = ENDED_AFTER + Duration::from_secs(2) + Duration::from_millis(200);
    let at_work = "SELECT count(*) FROM information_schema.processlist
        WHERE info LIKE '%* late *%' AND command <> 'Sleep' AND id <> CONNECTION_ID()";
    is_ended_though_late(database, (&pool, &proxy), (late, by), at_work).await;
    holds.rollback().await.unwrap();
}

/// Time in which an operation must end whose handler has given a statement up: far less than its bound, and than the
/// statement takes.
const SOON: Duration = Duration::from_secs(25);

/// A handler that has given a statement up itself has returned, and the database is at that statement still: it is ended,
/// and so is the operation, which gets no vote.
async fn ends_soon<D: Database>(
    database: D,
    pool: &D::Pool,
    endless: &str,
    at_work: Option<&str>,
    expected: [Code; 2],
) {
    D::run_outside(pool, EFFECTS.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")).await;
    let (service, _handler) = service(database);
    let patient = Duration::from_secs(30);
    for (fails, is_phase_two) in [(false, false), (false, true), (true, false), (true, true)] {
        let deed = Deed::GiveUp(endless.to_owned(), fails);
        let job = match is_phase_two {
            true => Job { prepare: Deed::Work, phase_two: deed },
            false => Job { prepare: deed, phase_two: Deed::Work },
        };
        let branch = of(&job);
        if is_phase_two {
            assert_eq!(prepare(&service, &branch, patient).await, Code::Ok);
        }
        let since = Instant::now();
        let told = match is_phase_two {
            true => commit(&service, &branch, patient).await,
            false => prepare(&service, &branch, patient).await,
        };
        let case = format!("{endless}, fails: {fails}, phase two: {is_phase_two}");
        assert_eq!(told, expected[usize::from(fails)], "{case}");
        if let Some(at_work) = at_work {
            nobody_is_at_work::<D>(pool, at_work).await;
        }
        let well = Branch { payload: of(&Job::default()).payload, ..branch.clone() };
        until("its vote", async || {
            use unanimo_proto::v1::prepare_response::Answer;
            matches!(well.prepare(&service).await, Ok(Answer::Prepared(_))).then_some(())
        })
        .await;
        until("its end", async || {
            use unanimo_proto::v1::commit_response::Answer;
            matches!(well.commit(&service).await, Ok(Answer::Done(_))).then_some(())
        })
        .await;
        assert!(since.elapsed() < SOON, "L1: {case}: {:?}", since.elapsed());
        let count = format!("SELECT count(*) FROM effect WHERE tx_id = '{}'", branch.tx_id());
        assert_eq!(D::number(pool, count).await, 2, "S7: {case}");
    }
}

/// The handler is wrong, or has failed by its own word.
const WRONG: [Code; 2] = [Code::Internal, Code::Unknown];

#[tokio::test]
async fn l1_a_statement_that_its_handler_gave_up_is_ended_with_the_operation_on_postgres() {
    let url = Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let endless = format!("SET statement_timeout = 0; {ON_POSTGRES}");
    // Nobody can be told whether one that goes on was in its transaction.
    let unseen = [Code::DeadlineExceeded; 2];
    for (endless, expected) in [(&*endless, WRONG), (STUBBORN, unseen)] {
        let database = over::connect(PostgresOptions::default(), &url).await.unwrap();
        ends_soon(database, &pool, endless, Some(AT_WORK_ON_POSTGRES), expected).await;
    }
}

/// A check of a handler's work that takes long is no statement that was given up.
#[tokio::test]
async fn a_check_that_takes_long_is_waited_for() {
    let url = Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let tables = format!(
        "{EFFECTS}; CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(3); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON effect DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION slow()"
    );
    over::Database::run_outside(&pool, tables).await;
    let database = over::connect(PostgresOptions::default(), &url).await.unwrap();
    let (service, _handler) = service(database);
    let branch = of(&Job::default());
    assert_eq!(prepare(&service, &branch, Duration::from_secs(30)).await, Code::Ok);
    assert_eq!(commit(&service, &branch, Duration::from_secs(30)).await, Code::Ok);
    let effects = "SELECT count(*) FROM effect".to_owned();
    assert_eq!(over::Database::number(&pool, effects).await, 2, "S7");
}

#[tokio::test]
async fn l1_a_statement_that_its_handler_gave_up_is_ended_with_the_operation_on_mariadb() {
    let url = unanimo_tests::mariadb::Server::shared().database().await;
    let database = MySql::connect(&url).await.unwrap();
    let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
    ends_soon(database, &pool, ON_MARIADB, Some(AT_WORK_ON_MARIADB), WRONG).await;
}

#[tokio::test]
async fn l1_a_statement_that_its_handler_gave_up_is_ended_with_the_operation_on_sqlite() {
    let numbers = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number)";
    for endless in [
        format!("{numbers} SELECT count(*) FROM number"),
        format!(
            "{numbers} INSERT INTO effect SELECT 'none', 'none', 'none' FROM number WHERE n < 0"
        ),
    ] {
        let (database, pool) = <Sqlite as Database>::open().await;
        ends_soon(database, &pool, &endless, None, WRONG).await;
    }
}

/// A database that vanishes without a word, in the middle of handlers and while connections are idle: Commits
/// get through once it is back, and the sweeper goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_falls_silent_holds_nothing_for_ever() {
    let server = Server::shared();
    let url = server.database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let proxy = Proxy::start(server.socket()).await;
    let options = PostgresOptions::default().prepare_connections(2).phase_two_connections(2);
    let database = over::connect(options, &proxy.url(&url)).await.unwrap();
    silence_holds_nothing_for_ever(database, &pool, &proxy).await;
}

/// The same of a database behind a proxy.
pub(super) async fn silence_holds_nothing_for_ever<D: Database>(
    database: D,
    pool: &D::Pool,
    proxy: &Proxy,
) {
    D::run_outside(pool, EFFECTS.to_owned()).await;
    let (service, handler) = service(database);
    let eager = Sweep::default().interval(Duration::from_millis(50)).grace(Duration::ZERO);
    let sweeper = service.sweep(["http://127.0.0.1:9"], eager).unwrap();
    let in_doubt = of(&Job::default());
    let patient = Duration::from_secs(30);
    assert_eq!(prepare(&service, &in_doubt, patient).await, Code::Ok);
    until("a sweep that knows it", async || (sweeper.in_doubt().count == 1).then_some(())).await;

    let at_work = of(&Job { prepare: Deed::Wait, phase_two: Deed::Work });
    let waiting = {
        let (service, at_work) = (service.clone(), at_work.clone());
        tokio::spawn(async move { prepare(&service, &at_work, Duration::from_millis(200)).await })
    };
    handler.gate.waiting().await;
    proxy.fall_silent();
    handler.gate.open();
    assert_eq!(waiting.await.unwrap(), Code::DeadlineExceeded);
    // Idle connections are silent as well: each costs some seconds at most.
    until("the commit", async || {
        let answer = in_doubt.commit(&service).await;
        matches!(answer, Ok(unanimo_proto::v1::commit_response::Answer::Done(_))).then_some(())
    })
    .await;
    until("a sweep that knows nothing in doubt", async || {
        let told = sweeper.in_doubt();
        (told.known && told.count == 0).then_some(())
    })
    .await;
    sweeper.stop().await;
}

/// The sweeper does not wait for slots that handlers hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l4_the_sweeper_goes_on_where_all_slots_are_held() {
    let url = Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    over::Database::run_outside(&pool, EFFECTS.to_owned()).await;
    let options = PostgresOptions::default().prepare_connections(1).phase_two_connections(1);
    let handler = Handler::new(Isolation::ReadCommitted);
    let database = over::connect(options, &url).await.unwrap();
    let participant = Participant::new("p", database).tcc("work", handler.clone());
    let service = participant.service().unwrap();
    let endless = of(&Job { prepare: Deed::Work, phase_two: Deed::Wait });
    assert_eq!(prepare(&service, &endless, Duration::from_secs(30)).await, Code::Ok);
    let held = {
        let (service, endless) = (service.clone(), endless.clone());
        tokio::spawn(async move { endless.commit(&service).await })
    };
    handler.gate.waiting().await;
    let eager = Sweep::default().interval(Duration::from_millis(20)).grace(Duration::ZERO);
    let sweeper = service.sweep(["http://127.0.0.1:9"], eager).unwrap();
    until("sweeps that count it", async || {
        let told = sweeper.in_doubt();
        (told.sweeps > 2 && told.known && told.count == 1).then_some(())
    })
    .await;
    handler.gate.open();
    held.await.unwrap().unwrap();
    sweeper.stop().await;
}
