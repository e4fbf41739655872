//! Connections of `tokio-postgres`: logins, roles, settings.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use unanimo_proto::v1::{Mode, prepare_response};
use unanimo_sdk::driver::{Driver, Parameter, Value};
use unanimo_sdk::{DatabaseError, Participant, Postgres, PostgresOptions, Service, TokioPostgres};
use unanimo_tests::plain_driver::Plain;
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::direct::{Branch, branch};
use super::over::Database;
use super::sweeper::Write;

/// Two logins of one role.
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

    fn config(&self, login: &str) -> tokio_postgres::Config {
        let mut config: tokio_postgres::Config = self.url.parse().unwrap();
        config.user(login);
        config
    }

    async fn text(&mut self, question: &str) -> String {
        let text = sqlx::query_scalar(AssertSqlSafe(question.to_owned()));
        text.fetch_one(&mut self.admin).await.unwrap()
    }
}

fn bank(database: Database) -> Service<Database> {
    Participant::new("p", database).two_phase("write", Write).service().unwrap()
}

async fn is_prepared(service: &Service<Database>) -> Branch {
    let branch = branch(Mode::TwoPhaseCommit, "write");
    until("a yes", async || {
        let voted = branch.prepare(service).await;
        matches!(voted, Ok(prepare_response::Answer::Prepared(_))).then_some(())
    })
    .await;
    branch
}

/// L1: what the first login has prepared is committed by the second one, and all is the role's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_rotated_login_ends_what_the_former_one_prepared() {
    let mut logins = Logins::new().await;
    let driver = TokioPostgres::new(logins.config(&logins.first));
    let options = PostgresOptions::default().as_role(&logins.owner);
    let service = bank(options.over(driver.clone()).await.unwrap());
    let branch = is_prepared(&service).await;
    let owners = "SELECT string_agg(DISTINCT owner, ' ') FROM (
                      SELECT owner::text FROM pg_prepared_xacts WHERE database = current_database()
                      UNION ALL SELECT tableowner::text FROM pg_tables
                      WHERE tablename = 'unanimo_barrier') AS found";
    assert_eq!(logins.text(owners).await, logins.owner);
    driver.set_config(logins.config(&logins.second));
    let end = format!(
        "ALTER ROLE {first} NOLOGIN;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{first}'",
        first = logins.first
    );
    logins.admin.execute(AssertSqlSafe(end)).await.unwrap();
    until("the commit", async || branch.commit(&service).await.ok()).await;
    is_prepared(&service).await;
    let users = "SELECT string_agg(DISTINCT usename::text, ' ') FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'unanimo-participant'";
    assert_eq!(logins.text(users).await, logins.second);
}

#[tokio::test]
async fn a_login_that_may_not_work_as_the_role_is_refused_with_a_sentence() {
    let mut logins = Logins::new().await;
    let revoke = format!("REVOKE \"{}\" FROM {}", logins.owner, logins.first);
    logins.admin.execute(AssertSqlSafe(revoke)).await.unwrap();
    for role in [logins.owner.as_str(), "nobody_at_all"] {
        let driver = TokioPostgres::new(logins.config(&logins.first));
        let error = PostgresOptions::default().as_role(role).over(driver).await.unwrap_err();
        assert!(matches!(error, DatabaseError::Unfit(_)), "{error:?}");
        let text = error.to_string();
        let hint = format!("the login {} cannot work as the role {role}", logins.first);
        assert!(text.contains(&hint) && text.contains("GRANT"), "{text}");
    }
}

/// A pooler that drops the settings of a connection's start: they are set afterwards. One that does not keep
/// them is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_a_pooler_drops_are_set_and_read_back() {
    let server = Server::shared();
    let url = server.database().await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    admin.execute("CREATE TABLE effect (tx_id uuid, branch_id text)").await.unwrap();
    let proxy = Proxy::start(server.socket()).await;
    proxy.strip_options();
    let driver = TokioPostgres::new(proxy.url(&url).parse().unwrap());
    let service = bank(Postgres::over(driver).await.unwrap());
    let branch = is_prepared(&service).await;
    branch.commit(&service).await.unwrap();
}

/// PgBouncer refuses, by default, whoever names a parameter at the start that it does not know, and settings are given
/// there: that is told before anything is registered, whatever the driver.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_refuses_parameters_is_told_at_the_start() {
    let server = Server::shared();
    let proxy = Proxy::start(server.socket()).await;
    proxy.refuse_parameters();
    let url = proxy.url(&server.database().await);
    let over_sqlx = Postgres::connect(&url).await.map(|_| ()).unwrap_err();
    let driver = TokioPostgres::new(url.parse().unwrap());
    let over_tokio = Postgres::over(driver).await.map(|_| ()).unwrap_err();
    for error in [over_sqlx, over_tokio] {
        let text = format!("{error:?}");
        assert!(text.contains("unsupported startup parameter"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_at_once() {
    let driver = TokioPostgres::new("host=/nowhere user=u dbname=d".parse().unwrap());
    let error = Postgres::over(driver).await.unwrap_err();
    assert!(matches!(error, DatabaseError::Driver(_)), "{error:?}");
    // The password is in no text.
    let driver = TokioPostgres::new("host=/nowhere password=hunter2".parse().unwrap());
    assert!(!format!("{driver:?}").contains("hunter2"));
}

/// All else rests on that: a definite error is the server's answer to this very statement.
async fn an_error_tells_whether_the_server_has_answered<D: Driver>(driver: D) {
    // Here alone: sqlx has methods of the same names.
    use unanimo_sdk::driver::Connection as _;

    let mut connection = driver.connect(&[]).await.unwrap();
    let error = connection.run("SELECT 1; SELECT 1 / 0").await.unwrap_err();
    let answer = error.answer().unwrap();
    assert_eq!((answer.code.as_str(), answer.is_fatal), ("22012", false), "{error:?}");
    let by_zero = "SELECT 1 / $1::bigint";
    let error = connection.query(by_zero, &[Parameter::Int(Some(0))]).await.unwrap_err();
    assert_eq!(error.answer().map(|answer| answer.code.as_str()), Some("22012"), "{error:?}");
    // It goes on behind an error.
    let rows = connection.query("SELECT $1::bigint", &[Parameter::Int(None)]).await.unwrap();
    assert_eq!(rows, [vec![Value::Null]]);
    let changed = "UPDATE unanimo_barrier SET message = $1 WHERE branch_id = ANY ($2::text[])";
    let parameters = [Parameter::Text("é"), Parameter::Texts(&[])];
    assert_eq!(connection.execute(changed, &parameters).await.unwrap(), 0);
    // The session ends: with a last word that is fatal, or without one; and then there is no answer.
    let end = "SELECT pg_terminate_backend(pg_backend_pid())";
    let error = connection.run(end).await.unwrap_err();
    assert!(error.answer().is_none_or(|answer| answer.is_fatal), "{error:?}");
    let error = connection.run("SELECT 1").await.unwrap_err();
    assert_eq!(error.answer(), None, "{error:?}");
}

#[tokio::test]
async fn an_error_of_a_driver_tells_whether_the_server_has_answered() {
    let url = Server::shared().database().await;
    let driver = TokioPostgres::new(url.parse().unwrap());
    drop(Postgres::over(driver.clone()).await.unwrap());
    an_error_tells_whether_the_server_has_answered(driver).await;
    an_error_tells_whether_the_server_has_answered(Plain(url.parse().unwrap())).await;
}

fn of_hosts(url: &str, servers: &[&Server]) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.user("unanimo").dbname(url.rsplit('/').next().unwrap());
    for server in servers {
        config.host_path(server.socket().parent().unwrap());
    }
    config
}

/// L3: a standby is named first, and later it is the only one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_of_several_servers_the_one_is_taken_that_takes_writes() {
    let (primary, standby, url, there) = super::promoted::pair().await;
    let config = of_hosts(&url, &[&standby, &primary]);
    let service = bank(Postgres::over(TokioPostgres::new(config)).await.unwrap());
    let in_doubt = is_prepared(&service).await;
    let mut raw = PgConnection::connect(&url).await.unwrap();
    let now: String =
        sqlx::query_scalar("SELECT pg_current_wal_lsn()::text").fetch_one(&mut raw).await.unwrap();
    let replayed = format!("SELECT (pg_last_wal_replay_lsn() >= '{now}')::int::bigint");
    until("the standby to have it", async || {
        (super::promoted::one(&there, &replayed).await == 1).then_some(())
    })
    .await;
    super::promoted::apart(&primary, Server::stop_immediately).await;
    in_doubt.commit(&service).await.unwrap_err();
    super::promoted::promote(&there).await;
    until("the commit", async || in_doubt.commit(&service).await.ok()).await;
    is_prepared(&service).await;
    let effects = "SELECT count(*) FROM effect";
    assert_eq!(super::promoted::one(&there, effects).await, 1);
}

/// A configuration that asks for a server that takes writes is not misled by sessions that only read outside of our transactions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_may_ask_for_a_server_that_takes_writes() {
    let logins = Logins::new().await;
    let mut config = logins.config("unanimo");
    config.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
    let service = bank(Postgres::over(TokioPostgres::new(config)).await.unwrap());
    let branch = is_prepared(&service).await;
    branch.commit(&service).await.unwrap();
}
