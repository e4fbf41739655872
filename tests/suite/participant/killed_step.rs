//! A participant's process is killed with -9 in the middle of a saga's step: the step has no end, and its
//! compensation comes after the restart.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use unanimo_conformance::{Branch, End, Options, Remote, Session, Vote};
use unanimo_proto::v1::{HeuristicKind, Mode};
use unanimo_sdk::{MySql, Postgres, Sqlite};
use unanimo_tests::reaper::{Owned, run_folder};
use unanimo_tests::{mariadb, postgres};
use uuid::Uuid;

use super::databases::{Database, OverTokio};

/// The process, and what it says.
struct Process {
    owned: Owned,
    said: mpsc::Receiver<String>,
}

impl Process {
    fn start(kind: &str, database: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slow-step"));
        command.args([kind, database]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut owned = Owned::spawn(&mut command);
        let stdout = owned.child().stdout.take().unwrap();
        let (says, said) = mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| says.send(l))
        });
        Self { owned, said }
    }

    /// The next line that it prints.
    async fn says(&self) -> String {
        unanimo_tests::wait::until("a word of the step's", async || self.said.try_recv().ok()).await
    }

    /// A coordinator's side of it, once it serves.
    async fn session(&self) -> Session {
        self.session_of("work").await
    }

    async fn session_of(&self, action: &str) -> Session {
        let line = self.says().await;
        let remote = Remote::connect(line.strip_prefix("grpc ").unwrap()).await.unwrap();
        Session::new(Arc::new(remote), Options { mode: Mode::Saga, ..Options::new("slow", action) })
    }
}

async fn s8_a_step_that_was_killed_is_cancelled_and_never_runs<D: Database>(
    kind: &str,
    database: &str,
    pool: D::Pool,
) {
    D::run_outside(&pool, "CREATE TABLE effect (n integer)".to_owned()).await;
    let effects = async || {
        let count = "SELECT count(*) FROM effect WHERE n = ";
        let number = async |n: i8| D::number(&pool, format!("{count}{n}")).await;
        (number(1).await, number(-1).await)
    };
    let mut process = Process::start(kind, database);
    let session = process.session().await;
    let hung = Branch { payload: Bytes::from_static(b"hang"), ..session.branch() };
    let calling = {
        let (session, hung) = (session.clone(), hung.clone());
        tokio::spawn(async move {
            session.prepare_and_leave(&hung, Duration::from_secs(60)).await;
        })
    };
    assert_eq!(process.says().await, "at work");
    process.owned.kill();
    calling.await.unwrap();

    let process = Process::start(kind, database);
    let session = process.session().await;
    for _ in 0..2 {
        assert_eq!(session.cancel(&hung).await.unwrap(), End::Done, "S8");
    }
    // The Prepare comes again, and would come to its end now.
    let late = Branch { payload: Bytes::new(), ..hung };
    let vote = session.prepare(&late).await.unwrap();
    let Vote::Refused(refusal) = &vote else { panic!("S8: {vote}") };
    assert_eq!(refusal.reason, "ALREADY_ENDED");
    assert_eq!(effects().await, (0, 0), "S8: it never ran, and was not compensated");

    // One that comes to its end after the restart is compensated once.
    let again = session.prepared().await.unwrap();
    assert_eq!(effects().await, (1, 0), "S7");
    for _ in 0..2 {
        assert_eq!(session.cancel(&again).await.unwrap(), End::Done);
    }
    assert_eq!(effects().await, (1, 1), "S7");
}

#[tokio::test]
async fn s8_a_step_that_was_killed_on_postgres_is_cancelled_and_never_runs() {
    let url = postgres::Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    s8_a_step_that_was_killed_is_cancelled_and_never_runs::<Postgres>("postgres", &url, pool).await;
}

#[tokio::test]
async fn s8_a_step_that_was_killed_over_tokio_is_cancelled_and_never_runs() {
    let url = postgres::Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    s8_a_step_that_was_killed_is_cancelled_and_never_runs::<OverTokio>("tokio", &url, pool).await;
}

#[tokio::test]
async fn s8_a_step_that_was_killed_on_mariadb_is_cancelled_and_never_runs() {
    let url = mariadb::Server::shared().database().await;
    let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
    s8_a_step_that_was_killed_is_cancelled_and_never_runs::<MySql>("mariadb", &url, pool).await;
}

#[tokio::test]
async fn s8_a_step_that_was_killed_on_sqlite_is_cancelled_and_never_runs() {
    let file = run_folder().join(format!("{}.db", Uuid::now_v7())).display().to_string();
    let url = format!("sqlite:{file}?mode=rwc");
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    s8_a_step_that_was_killed_is_cancelled_and_never_runs::<Sqlite>("sqlite", &file, pool).await;
}

/// A handler commits by itself, and its process dies: the row that was committed with it tells, in either phase. On SQLite
/// nothing is committed so.
async fn s7_s11_what_a_killed_handler_has_committed_is_a_hazard<D: Database>(
    kind: &str,
    database: &str,
    pool: D::Pool,
) {
    D::run_outside(&pool, "CREATE TABLE effect (n integer)".to_owned()).await;
    let effects = async || {
        let count = "SELECT count(*) FROM effect WHERE n = ";
        let number = async |n: i8| D::number(&pool, format!("{count}{n}")).await;
        (number(1).await, number(-1).await)
    };
    let keeps = kind != "sqlite";
    let expected = if keeps { [(1, 0), (2, 1)] } else { [(0, 0), (1, 0)] };
    for (payload, expected) in [&b"commits"[..], b"commits later"].into_iter().zip(expected) {
        let mut process = Process::start(kind, database);
        let session = process.session().await;
        let branch = Branch { payload: Bytes::from_static(payload), ..session.branch() };
        let is_phase_two = payload == b"commits later";
        if is_phase_two {
            assert!(session.prepare(&branch).await.unwrap().is_prepared());
        }
        let calling = {
            let (session, branch) = (session.clone(), branch.clone());
            tokio::spawn(async move {
                match is_phase_two {
                    true => drop(session.cancel(&branch).await),
                    false => session.prepare_and_leave(&branch, Duration::from_secs(60)).await,
                }
            })
        };
        assert_eq!(process.says().await, "at work");
        process.owned.kill();
        calling.abort();
        assert_eq!(effects().await, expected, "it has committed, if it could");

        let process = Process::start(kind, database);
        let session = process.session().await;
        if !keeps {
            let well = Branch { payload: Bytes::new(), ..branch };
            assert_eq!(session.cancel(&well).await.unwrap(), End::Done, "S7");
            assert_eq!(effects().await, (expected.0, expected.0), "S7");
            continue;
        }
        for _ in 0..2 {
            let what = "a Prepare behind a loss";
            session.prepare_in_vain(what, &branch).await.expect("no vote is known");
            let end = session.cancel(&branch).await.unwrap().heuristic();
            assert_eq!(end, Some(HeuristicKind::Hazard), "S11: {payload:?}");
        }
        let end = session.commit(&branch).await.unwrap().heuristic();
        assert_eq!(end, Some(HeuristicKind::Hazard), "S11: {payload:?}");
        assert_eq!(effects().await, expected, "S7: {payload:?}");
    }
}

#[tokio::test]
async fn s7_s11_what_a_killed_handler_has_committed_on_postgres_is_a_hazard() {
    let url = postgres::Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    s7_s11_what_a_killed_handler_has_committed_is_a_hazard::<Postgres>("postgres", &url, pool)
        .await;
}

#[tokio::test]
async fn s7_s11_what_a_killed_handler_has_committed_over_tokio_is_a_hazard() {
    let url = postgres::Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    s7_s11_what_a_killed_handler_has_committed_is_a_hazard::<OverTokio>("tokio", &url, pool).await;
}

#[tokio::test]
async fn s7_s11_what_a_killed_handler_has_committed_on_mariadb_is_a_hazard() {
    let url = mariadb::Server::shared().database().await;
    let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
    s7_s11_what_a_killed_handler_has_committed_is_a_hazard::<MySql>("mariadb", &url, pool).await;
}

#[tokio::test]
async fn s7_s11_what_a_killed_handler_has_committed_on_sqlite_is_a_hazard() {
    let file = run_folder().join(format!("{}.db", Uuid::now_v7())).display().to_string();
    let url = format!("sqlite:{file}?mode=rwc");
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    s7_s11_what_a_killed_handler_has_committed_is_a_hazard::<Sqlite>("sqlite", &file, pool).await;
}

/// A process that dies behind its request to another service leaves nothing in its database. One that dies behind
/// the request of its Cancel asks again, and no more once that is done.
async fn s8_what_was_killed_elsewhere_is_released(kind: &str, database: &str) {
    let folder = run_folder().join(Uuid::now_v7().to_string());
    std::fs::create_dir(&folder).unwrap();
    let payload = serde_json::to_vec(&folder).unwrap();
    let hang = folder.join("hang");
    let is_held = || std::fs::exists(folder.join("held")).unwrap();
    std::fs::write(&hang, "").unwrap();

    let mut process = Process::start(kind, database);
    let session = process.session_of("elsewhere").await;
    let branch = Branch { payload: payload.into(), ..session.branch() };
    let leave = Duration::from_secs(60);
    let calling = {
        let (session, branch) = (session.clone(), branch.clone());
        tokio::spawn(async move { session.prepare_and_leave(&branch, leave).await })
    };
    assert_eq!(process.says().await, "at work");
    process.owned.kill();
    calling.await.unwrap();
    assert!(is_held());

    let mut process = Process::start(kind, database);
    let session = process.session_of("elsewhere").await;
    let calling = {
        let (session, branch) = (session.clone(), branch.clone());
        tokio::spawn(async move { session.cancel(&branch).await })
    };
    assert_eq!(process.says().await, "at work");
    process.owned.kill();
    calling.abort();
    std::fs::remove_file(&hang).unwrap();

    let process = Process::start(kind, database);
    let session = process.session_of("elsewhere").await;
    for _ in 0..2 {
        assert_eq!(session.cancel(&branch).await.unwrap(), End::Done, "S8");
    }
    assert!(!is_held(), "S7");
    let releases = std::fs::read_to_string(folder.join("releases")).unwrap();
    assert_eq!(releases, "None\nNone\n", "S8: not behind the tombstone");
    let vote = session.prepare(&branch).await.unwrap();
    let Vote::Refused(refusal) = &vote else { panic!("S8: {vote}") };
    assert_eq!(refusal.reason, "ALREADY_ENDED");
    assert!(!is_held(), "S8");
}

#[tokio::test]
async fn s8_what_was_killed_elsewhere_is_released_on_postgres() {
    let url = postgres::Server::shared().database().await;
    s8_what_was_killed_elsewhere_is_released("postgres", &url).await;
}

#[tokio::test]
async fn s8_what_was_killed_elsewhere_is_released_over_tokio() {
    let url = postgres::Server::shared().database().await;
    s8_what_was_killed_elsewhere_is_released("tokio", &url).await;
}

#[tokio::test]
async fn s8_what_was_killed_elsewhere_is_released_on_mariadb() {
    let url = mariadb::Server::shared().database().await;
    s8_what_was_killed_elsewhere_is_released("mariadb", &url).await;
}

#[tokio::test]
async fn s8_what_was_killed_elsewhere_is_released_on_sqlite() {
    let file = run_folder().join(format!("{}.db", Uuid::now_v7())).display().to_string();
    s8_what_was_killed_elsewhere_is_released("sqlite", &file).await;
}
