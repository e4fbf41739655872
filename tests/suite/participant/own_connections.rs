//! Databases whose connections the service makes itself, for its own work as well.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, PgPool};
use unanimo_proto::v1::{Mode, commit_response, prepare_response};
use unanimo_sdk::{
    DatabaseError, Isolation, MySql, MySqlOptions, Participant, Postgres, PostgresOptions, Service,
    Sqlite,
};
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;
use unanimo_tests::{mariadb, reaper};
use uuid::Uuid;

use super::databases::Database;
use super::direct::{Branch, branch};
use super::handler::{Deed, Handler, Job};
use super::sweeper::Write;

const EFFECTS: &str =
    "CREATE TABLE effect (tx_id varchar(36), branch_id varchar(128), what varchar(16))";

fn service<D: Database>(database: D) -> Service<D> {
    let handler = Handler::new(Isolation::ReadCommitted);
    Participant::new("p", database).tcc("work", handler).service().unwrap()
}

fn working(deed: Deed) -> Branch {
    let job = Job { prepare: deed, phase_two: Deed::Work };
    Branch { payload: serde_json::to_vec(&job).unwrap().into(), ..branch(Mode::Tcc, "work") }
}

async fn works<D: Database>(service: &Service<D>, deed: Deed) {
    let branch = working(deed);
    let voted = branch.prepare(service).await.unwrap();
    assert!(matches!(voted, prepare_response::Answer::Prepared(_)), "{voted:?}");
    let answer = branch.commit(service).await.unwrap();
    assert!(matches!(answer, commit_response::Answer::Done(_)), "{answer:?}");
}

/// L3: a pool of one connection, which the service itself is using, keeps neither phase waiting; and what
/// handlers and service do to their sessions never meets the other.
#[tokio::test]
async fn l3_s7_a_pool_in_use_keeps_nobody_waiting_and_no_session_is_shared_on_postgres() {
    let url = Server::shared().database().await;
    let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
    pool.execute(EFFECTS).await.unwrap();
    pool.execute("CREATE SCHEMA other").await.unwrap();
    pool.execute("SET search_path TO other; SET statement_timeout = 77000").await.unwrap();
    let mut used = pool.begin().await.unwrap();
    used.execute("SELECT 1").await.unwrap();
    let service = service(Postgres::from_pool(pool.clone()).await.unwrap());
    let leave = "SET search_path TO nowhere; SELECT pg_advisory_lock(7); SET ROLE pg_monitor; \
                 SET synchronous_commit = off; RESET ROLE; SET search_path TO public";
    for _ in 0..3 {
        works(&service, Deed::Run(leave.to_owned())).await;
    }
    used.commit().await.unwrap();
    let of_the_pool: (String, String, String) = sqlx::query_as(
        "SELECT current_setting('search_path'), current_setting('synchronous_commit'),
                current_setting('default_transaction_read_only')",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(of_the_pool, ("other".into(), "on".into(), "off".into()));
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT application_name FROM pg_stat_activity
         WHERE datname = current_database() AND application_name <> '' ORDER BY 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(names, ["unanimo-participant"]);
}

#[tokio::test]
async fn l3_a_pool_in_use_keeps_nobody_waiting_on_mariadb() {
    let url = mariadb::Server::shared().database().await;
    let pool = sqlx::mysql::MySqlPoolOptions::new().max_connections(1);
    let pool = pool.connect(&url).await.unwrap();
    pool.execute(EFFECTS).await.unwrap();
    pool.execute("SET time_zone = '+09:00'").await.unwrap();
    let mut used = pool.begin().await.unwrap();
    used.execute("SELECT 1").await.unwrap();
    let service = service(MySql::from_pool(pool.clone()).await.unwrap());
    let leave = "SET time_zone = '-03:00', sql_mode = ''";
    for _ in 0..3 {
        works(&service, Deed::Run(leave.to_owned())).await;
    }
    used.commit().await.unwrap();
    let zone: String = sqlx::query_scalar("SELECT @@time_zone").fetch_one(&pool).await.unwrap();
    assert_eq!(zone, "+09:00");
}

#[tokio::test]
async fn l3_a_pool_in_use_keeps_nobody_waiting_on_sqlite() {
    let file = reaper::run_folder().join(format!("{}.db", Uuid::now_v7()));
    let url = format!("sqlite:{}?mode=rwc", file.display());
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect(&url).await.unwrap();
    pool.execute(EFFECTS).await.unwrap();
    let database = Sqlite::from_pool(pool.clone()).await.unwrap();
    let used = pool.acquire().await.unwrap();
    let service = service(database);
    let spoils = working(Deed::Run("PRAGMA query_only = 1".to_owned()));
    spoils.prepare(&service).await.unwrap_err();
    works(&service, Deed::Work).await;
    drop(used);
    pool.execute("DELETE FROM effect").await.unwrap();
}

/// Settings and role that the pool gives its sessions are those of handlers, before and behind a handler
/// that changes them.
#[tokio::test]
async fn what_the_pool_sets_in_its_sessions_holds_for_handlers() {
    let url = Server::shared().database().await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let role = format!("keeper_{}", Uuid::now_v7().simple());
    let made = format!(
        "CREATE ROLE {role}; CREATE SCHEMA \"my shop\"; GRANT ALL ON SCHEMA \"my shop\" TO {role}; \
         CREATE TABLE \"my shop\".effect (tx_id text, branch_id text, what text);
         GRANT ALL ON \"my shop\".effect TO {role}"
    );
    admin.execute(AssertSqlSafe(made)).await.unwrap();
    let set = format!("SET ROLE {role}; SET search_path TO \"my shop\"; SET work_mem = '5MB'");
    let pool = PgPoolOptions::new()
        .after_connect(move |session, _| {
            let set = set.clone();
            Box::pin(async move { session.execute(AssertSqlSafe(set)).await.map(drop) })
        })
        .connect(&url)
        .await
        .unwrap();
    let service = service(Postgres::from_pool(pool.clone()).await.unwrap());
    let note = "INSERT INTO effect SELECT current_user, current_setting('work_mem'), 'seen'";
    works(&service, Deed::Run("RESET ALL; RESET ROLE; SET search_path TO \"my shop\"".to_owned()))
        .await;
    for _ in 0..3 {
        works(&service, Deed::Run(note.to_owned())).await;
    }
    let seen: Vec<(String, String)> =
        sqlx::query_as("SELECT DISTINCT tx_id, branch_id FROM effect WHERE what = 'seen'")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(seen, [(role.clone(), "5MB".to_owned())]);
    let owner: String = sqlx::query_scalar(
        "SELECT tableowner::text FROM pg_tables WHERE tablename = 'unanimo_barrier'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(owner, role);
}

/// L5: what cannot be open at once is refused before anything runs into it.
#[tokio::test]
async fn a_pool_that_leaves_no_room_or_is_closed_is_refused_with_a_sentence() {
    let server = Server::shared();
    let url = server.database().await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let role = format!("few_{}", Uuid::now_v7().simple());
    let made = format!(
        "CREATE ROLE {role} LOGIN CONNECTION LIMIT 12; GRANT ALL ON SCHEMA public TO {role}"
    );
    admin.execute(AssertSqlSafe(made)).await.unwrap();
    let connect = url.parse::<PgConnectOptions>().unwrap().username(&role);
    let pool = |connections| {
        PgPoolOptions::new().max_connections(connections).connect_lazy_with(connect.clone())
    };
    let few = |n| PostgresOptions::default().prepare_connections(n).phase_two_connections(n);
    let error = few(4).from_pool(pool(5)).await.unwrap_err();
    assert!(matches!(error, DatabaseError::Unfit(_)), "{error:?}");
    let text = error.to_string();
    for part in [
        &format!(
            "the role {role} allows 12 at once, and there would be 15: 5 of the pool, 4 for Prepares"
        ),
        "set prepare_connections",
    ] {
        assert!(text.contains(part), "{text}");
    }
    drop(few(3).from_pool(pool(4)).await.unwrap());
    let text = few(1).from_pool(pool(500)).await.unwrap_err().to_string();
    assert!(text.contains("allows"), "{text}");
    let closed = pool(1);
    closed.close().await;
    let text = few(1).from_pool(closed).await.unwrap_err().to_string();
    assert!(text.contains("the pool is closed"), "{text}");

    let url = mariadb::Server::shared().database().await;
    let pool = sqlx::mysql::MySqlPoolOptions::new().max_connections(100_000).connect_lazy(&url);
    let text = MySqlOptions::default().from_pool(pool.unwrap()).await.unwrap_err().to_string();
    assert!(text.contains("100000 of the pool"), "{text}");
}

/// Two logins that work as one role, and their password is that of the login.
struct Logins {
    owner: String,
    first: String,
    second: String,
    url: String,
    admin: PgConnection,
}

impl Logins {
    async fn new() -> Self {
        let url = Server::shared().database().await;
        let mut admin = PgConnection::connect(&url).await.unwrap();
        let id = Uuid::now_v7().simple();
        let [owner, first, second] =
            ["Owner's", "first", "second"].map(|who| format!("{who}_{id}"));
        let made = format!(
            "CREATE ROLE \"{owner}\"; CREATE ROLE {first} LOGIN; CREATE ROLE {second} LOGIN;
             GRANT \"{owner}\" TO {first}, {second}; GRANT ALL ON SCHEMA public TO \"{owner}\";
             CREATE TABLE effect (tx_id uuid, branch_id text); ALTER TABLE effect OWNER TO \"{owner}\""
        );
        admin.execute(AssertSqlSafe(made)).await.unwrap();
        Self { owner, first, second, url, admin }
    }

    fn connect(&self, login: &str) -> PgConnectOptions {
        self.url.parse::<PgConnectOptions>().unwrap().username(login)
    }

    /// Ends the first login with its sessions, as a rotation does in the end.
    async fn end_first(&mut self) {
        let first = &self.first;
        let end = format!(
            "ALTER ROLE {first} NOLOGIN;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{first}'"
        );
        self.admin.execute(AssertSqlSafe(end)).await.unwrap();
    }

    async fn count(&mut self) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM effect");
        count.fetch_one(&mut self.admin).await.unwrap()
    }
}

fn bank(database: Postgres) -> Service<Postgres> {
    Participant::new("p", database).two_phase("write", Write).service().unwrap()
}

async fn is_prepared(service: &Service<Postgres>) -> Branch {
    let branch = branch(Mode::TwoPhaseCommit, "write");
    until("a yes", async || {
        let voted = branch.prepare(service).await;
        matches!(voted, Ok(prepare_response::Answer::Prepared(_))).then_some(())
    })
    .await;
    branch
}

/// L1: a login is rotated in the running process: what the first one has prepared is committed and rolled back
/// by the second one, and new work is done by it. By the pool's options, and by the participant's own.
#[tokio::test]
async fn l1_a_rotated_login_ends_what_its_predecessor_prepared() {
    for through_the_pool in [true, false] {
        let mut logins = Logins::new().await;
        let options = PostgresOptions::default().as_role(&logins.owner);
        let first = logins.connect(&logins.first);
        let pool = PgPoolOptions::new().connect_lazy_with(first.clone());
        let database = match through_the_pool {
            true => options.from_pool(pool.clone()).await.unwrap(),
            false => options.connect_with(first).await.unwrap(),
        };
        let service = bank(database.clone());
        let (wanted, unwanted) = (is_prepared(&service).await, is_prepared(&service).await);
        let second = logins.connect(&logins.second);
        match through_the_pool {
            true => pool.set_connect_options(second),
            false => database.set_connect_options(second),
        }
        logins.end_first().await;
        until("its Commit", async || {
            let answer = wanted.commit(&service).await;
            matches!(answer, Ok(commit_response::Answer::Done(_))).then_some(())
        })
        .await;
        until("its Cancel", async || unwanted.cancel(&service).await.ok()).await;
        is_prepared(&service).await.commit(&service).await.unwrap();
        assert_eq!(logins.count().await, 2, "what was wanted, and the new one");
        let logged_in: Vec<String> = sqlx::query_scalar(
            "SELECT DISTINCT usename::text FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'unanimo-participant'",
        )
        .fetch_all(&mut logins.admin)
        .await
        .unwrap();
        assert_eq!(logged_in, [logins.second.clone()]);
    }
}

/// The next process of the participant has the second login from the beginning. Without a role in common it
/// may not end anything.
#[tokio::test]
async fn l1_the_next_process_with_another_login_ends_what_is_prepared() {
    let mut logins = Logins::new().await;
    let as_owner = || PostgresOptions::default().as_role(&logins.owner);
    let (first, second) = (logins.connect(&logins.first), logins.connect(&logins.second));
    let held = is_prepared(&bank(as_owner().connect_with(first).await.unwrap())).await;
    let of_the_role: String =
        sqlx::query_scalar("SELECT owner::text FROM pg_prepared_xacts WHERE gid = $1")
            .bind(held.name())
            .fetch_one(&mut logins.admin)
            .await
            .unwrap();
    assert_eq!(of_the_role, logins.owner);
    let next = bank(as_owner().connect_with(second.clone()).await.unwrap());
    let answer = held.commit(&next).await.unwrap();
    assert!(matches!(answer, commit_response::Answer::Done(_)), "{answer:?}");
    assert_eq!(logins.count().await, 1);

    let mut rest = second.connect().await.unwrap();
    let alone = format!("REVOKE \"{}\" FROM {}", logins.owner, logins.second);
    logins.admin.execute(AssertSqlSafe(alone)).await.unwrap();
    rest.execute("SELECT 1").await.unwrap();
    let error = as_owner_of(&logins).connect_with(second).await.unwrap_err().to_string();
    assert!(error.contains("cannot work as the role") && error.contains("GRANT"), "{error}");
    let nobody = PostgresOptions::default().as_role("nobody there");
    let error = nobody.connect_with(logins.connect(&logins.first)).await.unwrap_err().to_string();
    assert!(error.contains("the role nobody there"), "{error}");
}

fn as_owner_of(logins: &Logins) -> PostgresOptions {
    PostgresOptions::default().as_role(&logins.owner)
}

/// The same rotation on MariaDB, where whoever may write ends everything.
#[tokio::test]
async fn a_rotated_login_goes_on_on_mariadb() {
    let url = mariadb::Server::shared().database().await;
    let admin = sqlx::MySqlPool::connect(&url).await.unwrap();
    admin.execute(EFFECTS).await.unwrap();
    let id = &Uuid::now_v7().simple().to_string()[20..];
    let [first, second] = ["first", "second"].map(|who| format!("{who}_{id}"));
    for login in [&first, &second] {
        let made = format!(
            "CREATE USER '{login}'@'%' IDENTIFIED BY '{login}'; GRANT ALL ON *.* TO '{login}'@'%'"
        );
        admin.execute(sqlx::raw_sql(AssertSqlSafe(made))).await.unwrap();
    }
    let by = |login: &str| {
        let connect: sqlx::mysql::MySqlConnectOptions = url.parse().unwrap();
        connect.username(login).password(login)
    };
    let pool = sqlx::mysql::MySqlPoolOptions::new().connect_lazy_with(by(&first));
    let service = service(MySql::from_pool(pool.clone()).await.unwrap());
    let held = working(Deed::Work);
    held.prepare(&service).await.unwrap();
    pool.set_connect_options(by(&second));
    let sessions = "SELECT CONCAT('KILL ', id) FROM information_schema.processlist WHERE user = ?";
    let kills: Vec<String> =
        sqlx::query_scalar(sessions).bind(&first).fetch_all(&admin).await.unwrap();
    admin.execute(AssertSqlSafe(format!("DROP USER '{first}'@'%'"))).await.unwrap();
    for kill in kills {
        let _ = admin.execute(sqlx::raw_sql(AssertSqlSafe(kill))).await;
    }
    until("its Commit", async || {
        let answer = held.commit(&service).await;
        matches!(answer, Ok(commit_response::Answer::Done(_))).then_some(())
    })
    .await;
    works(&service, Deed::Work).await;
}

/// A participant that is dropped follows its pool no longer, and keeps none of its connections open.
#[tokio::test]
async fn a_participant_that_is_dropped_lets_the_pool_go() {
    let url = Server::shared().database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    pool.execute(EFFECTS).await.unwrap();
    let service = service(Postgres::from_pool(pool.clone()).await.unwrap());
    works(&service, Deed::Work).await;
    drop(service);
    until("its sessions to end", async || {
        let open: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'unanimo-participant'",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        (open == 0).then_some(())
    })
    .await;
    tokio::time::timeout(Duration::from_secs(5), pool.close()).await.unwrap();
}
