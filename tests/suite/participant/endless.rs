//! Statements, threads, locks and silences that have no end of their own, where each database has its own way.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sqlx::{Connection, Executor, SqliteConnection};
use tokio::sync::Semaphore;
use tonic::Code;
use unanimo_proto::v1::{Mode, commit_response, prepare_response};
use unanimo_sdk::driver::{Care, Driver, Error};
use unanimo_sdk::{
    Call, MySql, MySqlOptions, Participant, PhaseTwoError, Postgres, PostgresOptions, PrepareError,
    Service, Sqlite, Tcc, TokioPostgres,
};
use unanimo_tests::alarms::Alarms;
use unanimo_tests::plain_driver::{Plain, PlainConnection, PlainPool};
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;
use unanimo_tests::{mariadb, postgres};

use super::databases::Database;
use super::direct::{Branch, branch};
use super::handler::{Deed, Job};
use super::overtime::{self, EFFECTS, commit, of, prepare};
use super::refusals::Transparent;
use super::sweeper::Reserve;

const SHORT: Duration = Duration::from_millis(100);

/// Statement that takes no lock and never ends.
const ENDLESS: &str =
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

async fn votes<D: Database>(service: &Service<D>, of: &Branch) {
    until("a vote", async || {
        let answer = of.prepare(service).await;
        matches!(answer, Ok(prepare_response::Answer::Prepared(_))).then_some(())
    })
    .await;
}

async fn is_committed<D: Database>(service: &Service<D>, of: &Branch) {
    until("its end", async || {
        let answer = of.commit(service).await;
        matches!(answer, Ok(commit_response::Answer::Done(_))).then_some(())
    })
    .await;
}

/// The thread of an SQLite connection is in the statement, with the lock of the file: to close the connection ends
/// nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_without_an_end_is_ended_on_sqlite() {
    let (database, pool) = <Sqlite as Database>::open().await;
    Sqlite::run_outside(&pool, EFFECTS.to_owned()).await;
    let (service, _handler) = overtime::service(database);
    let endless = || Deed::ThenRun(ENDLESS.to_owned());
    for round in 0..2 {
        let at_first = of(&Job { prepare: endless(), phase_two: Deed::Work });
        assert_eq!(prepare(&service, &at_first, SHORT).await, Code::DeadlineExceeded, "{round}");
        let well = of(&Job::default());
        votes(&service, &well).await;
        is_committed(&service, &well).await;

        let later = of(&Job { prepare: Deed::Work, phase_two: endless() });
        votes(&service, &later).await;
        assert_eq!(commit(&service, &later, SHORT).await, Code::DeadlineExceeded, "{round}");
        let well = Branch { payload: of(&Job::default()).payload, ..later };
        is_committed(&service, &well).await;
    }
    let effects = "SELECT count(*) FROM effect WHERE what = 'confirm'";
    assert_eq!(Sqlite::number(&pool, effects.to_owned()).await, 4, "S7");
}

/// Blocks its thread until it is let go.
#[derive(Clone, Default)]
struct Blocking(Arc<(Mutex<bool>, Condvar)>);

impl Blocking {
    fn let_go(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

impl Tcc<Sqlite> for Blocking {
    type Payload = Bytes;
    type Output = ();

    async fn try_(&self, _: &mut SqliteConnection, _: &Call<Bytes>) -> Result<(), PrepareError> {
        let (is_free, told) = &*self.0;
        let longest = Duration::from_secs(120);
        drop(told.wait_timeout_while(is_free.lock().unwrap(), longest, |free| !*free).unwrap());
        Ok(())
    }

    async fn confirm(
        &self,
        _: &mut SqliteConnection,
        _: &Call<Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut SqliteConnection,
        _: &Call<Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

/// Nothing can end it, so a person must know of it.
#[test]
fn a_handler_that_blocks_its_thread_is_told() {
    let alarms = Alarms::default();
    let hears = alarms.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .on_thread_start(move || hears.listen_on_this_thread())
        .build()
        .unwrap();
    runtime.block_on(async {
        let (database, _pool) = <Sqlite as Database>::open().await;
        let handler = Blocking::default();
        let participant = Participant::new("p", database).overtime(SHORT);
        let service = participant.tcc("work", handler.clone()).service().unwrap();
        let branch = branch(Mode::Tcc, "work");
        let waiting = {
            let (service, branch) = (service.clone(), branch.clone());
            tokio::spawn(async move { prepare(&service, &branch, SHORT).await })
        };
        let told = until("the alarm", async || alarms.named("operation_overtime").pop()).await;
        assert!(told.contains("blocks its thread"), "{told}");
        assert!(told.contains(&branch.context.tx_id), "{told}");
        assert_eq!(waiting.await.unwrap(), Code::DeadlineExceeded);
        handler.let_go();
        votes(&service, &branch).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_falls_silent_holds_nothing_for_ever_on_mariadb() {
    let server = mariadb::Server::shared();
    let url = server.database().await;
    let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
    let proxy = Proxy::start(server.socket()).await;
    let options = MySqlOptions::default().prepare_connections(2).phase_two_connections(2);
    let database = options.connect(&proxy.mariadb_url(&url)).await.unwrap();
    overtime::silence_holds_nothing_for_ever(database, &pool, &proxy).await;
}

/// A participant whose set-up runs a statement, and the number of times that it has begun.
fn setting_up<D: Database>(resource: D, statement: &'static str) -> (Service<D>, Arc<AtomicU32>) {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let participant = Participant::new("p", resource).tcc("ok", Reserve).set_up(move |db| {
        let runs = Arc::clone(&counted);
        Box::pin(async move {
            runs.fetch_add(1, Ordering::SeqCst);
            D::run(db, statement.to_owned()).await.map_err(Transparent)?;
            Ok(())
        })
    });
    (participant.service().unwrap(), runs)
}

/// A set-up that waits for a lock that others hold is tried again until it gets it.
async fn is_tried_again<D: Database>(resource: D, let_go: impl Future<Output = ()>) {
    let (service, runs) = setting_up(resource, "UPDATE parts SET n = n + 1");
    let setting_up = tokio::spawn(async move { service.set_up().await });
    until("another attempt", async || {
        assert!(!setting_up.is_finished(), "it has given up");
        (runs.load(Ordering::SeqCst) > 1).then_some(())
    })
    .await;
    let_go.await;
    setting_up.await.unwrap().unwrap();
}

const PARTS: &str = "CREATE TABLE parts (n integer); INSERT INTO parts VALUES (1)";

macro_rules! locked_out {
    ($resource:ty) => {
        async {
            let (resource, pool) = <$resource as Database>::open().await;
            <$resource>::run_outside(&pool, PARTS.to_owned()).await;
            let mut holder = pool.begin().await.unwrap();
            holder.execute("UPDATE parts SET n = 7").await.unwrap();
            is_tried_again(resource, async { holder.rollback().await.unwrap() }).await;
            let n: i64 = <$resource>::number(&pool, "SELECT n + 0 FROM parts".to_owned()).await;
            assert_eq!(n, 2);
        }
    };
}

/// Prepared transactions hold such locks. The error comes through whatever the service makes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_set_up_that_is_locked_out_is_tried_again() {
    tokio::join!(locked_out!(MySql), locked_out!(Sqlite));
}

/// A set-up that does not end is told, again and again, and never once it has ended.
#[tokio::test]
async fn a_set_up_that_lasts_is_told() {
    let (alarms, _listening) = Alarms::listen();
    let (database, _pool) = <Sqlite as Database>::open().await;
    let goes_on = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&goes_on);
    let participant = Participant::new("p", database).tcc("ok", Reserve).set_up(move |_| {
        let waits = Arc::clone(&waits);
        Box::pin(async move {
            waits.acquire().await?.forget();
            Ok(())
        })
    });
    let service = participant.set_up_alarm_after(Duration::from_millis(100)).service().unwrap();
    let setting_up = tokio::spawn(async move { service.set_up().await });
    let told = || alarms.named("set_up_lasts");
    until("the alarm, twice", async || (told().len() > 1).then_some(())).await;
    assert!(told().iter().all(|line| line.contains("participant=\"p\"")), "{:?}", told());
    goes_on.add_permits(1);
    setting_up.await.unwrap().unwrap();
    let at_its_end = told().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(told().len(), at_its_end, "it is set up");
}

/// The first connection that a set-up opens is swallowed, and the next one is not.
async fn goes_on<D: Database>(resource: D, proxy: Proxy) {
    let (service, runs) = setting_up(resource, "SELECT 1");
    let before = proxy.made();
    proxy.hold(true);
    let setting_up = tokio::spawn(async move { service.set_up().await });
    until("its connection", async || (proxy.made() > before).then_some(())).await;
    proxy.fall_silent();
    proxy.hold(false);
    let done = tokio::time::timeout(Duration::from_secs(60), setting_up).await;
    done.expect("it does not wait for ever").unwrap().unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

/// Driver whose server does not answer for the first time that a set-up connects.
#[derive(Clone, Debug)]
struct SilentOnce {
    driver: Plain,
    is_silent: Arc<AtomicBool>,
}

impl Driver for SilentOnce {
    type Connection = PlainConnection;
    type Pool = PlainPool;

    async fn connect(&self, settings: &[(&str, String)]) -> Result<PlainConnection, Error> {
        match self.is_silent.swap(false, Ordering::SeqCst) {
            true => Err(Error::silent(SHORT)),
            false => self.driver.connect(settings).await,
        }
    }

    fn pool(&self, sessions_max: u32, care: Care) -> PlainPool {
        self.driver.pool(sessions_max, care)
    }
}

/// A driver may find out earlier than the set-up itself.
#[tokio::test]
async fn l1_a_set_up_whose_driver_was_not_answered_is_tried_again() {
    let url = postgres::Server::shared().database().await;
    let driver = SilentOnce { driver: Plain(url.parse().unwrap()), is_silent: Arc::default() };
    let is_silent = Arc::clone(&driver.is_silent);
    let participant = Participant::new("p", Postgres::over(driver).await.unwrap());
    let participant = participant.tcc("ok", Reserve).set_up(|_| Box::pin(async { Ok(()) }));
    let service = participant.service().unwrap();
    is_silent.store(true, Ordering::SeqCst);
    service.set_up().await.unwrap();
    assert!(!is_silent.load(Ordering::SeqCst), "it has not connected");
}

/// The server takes connections, and says nothing.
async fn ends<T>(connecting: impl Future<Output = Result<T, unanimo_sdk::DatabaseError>>) {
    let ended = tokio::time::timeout(Duration::from_secs(60), connecting).await;
    let error = ended.expect("it does not wait for ever").map(drop).unwrap_err();
    let unanimo_sdk::DatabaseError::Silent { waited } = &error else { panic!("{error:?}") };
    assert!((5..=10).contains(&waited.as_secs()), "{waited:?}");
    assert!(error.to_string().ends_with(&format!("it has not answered for {waited:?}")), "{error}");
}

/// A server that vanishes without a word keeps no start for ever, on whatever connection that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_database_that_falls_silent_keeps_no_start_for_ever() {
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = deaf.local_addr().unwrap().port();
    let of_postgres = format!("postgres://u@127.0.0.1:{port}/d?sslmode=disable");
    let of_mariadb = format!("mysql://u@127.0.0.1:{port}/d?ssl-mode=disabled");
    let on_postgres = async || {
        let server = postgres::Server::shared();
        let proxy = Proxy::start(server.socket()).await;
        let url = proxy.url(&server.database().await);
        (url, proxy)
    };
    let over_sqlx = async {
        let (url, proxy) = on_postgres().await;
        let database: Postgres = PostgresOptions::default().connect(&url).await.unwrap();
        goes_on(database, proxy).await;
    };
    let over_tokio = async {
        let (url, proxy) = on_postgres().await;
        let driver = TokioPostgres::new(url.parse().unwrap());
        goes_on(Postgres::over(driver).await.unwrap(), proxy).await;
    };
    let over_plain = async {
        let (url, proxy) = on_postgres().await;
        goes_on(Postgres::over(Plain(url.parse().unwrap())).await.unwrap(), proxy).await;
    };
    let on_mariadb = async {
        let server = mariadb::Server::shared();
        let proxy = Proxy::start(server.socket()).await;
        let database = server.database().await;
        // By default it ends a connection that says nothing after 10 s itself.
        let mut admin = sqlx::MySqlConnection::connect(&database).await.unwrap();
        admin.execute("SET GLOBAL connect_timeout = 60").await.unwrap();
        let url = proxy.mariadb_url(&database);
        goes_on(MySql::connect(&url).await.unwrap(), proxy).await;
    };
    tokio::join!(
        over_sqlx,
        over_tokio,
        over_plain,
        on_mariadb,
        ends(Postgres::connect(&of_postgres)),
        ends(Postgres::over(TokioPostgres::new(of_postgres.parse().unwrap()))),
        ends(Postgres::over(Plain(of_postgres.parse().unwrap()))),
        ends(MySql::connect(&of_mariadb)),
    );
    drop(deaf);
}
