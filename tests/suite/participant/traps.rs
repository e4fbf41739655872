//! Mistakes that compile: settings that are given twice or are zero, a file that is replaced, payloads
//! whose media type matters.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::{Connection, Executor, SqliteConnection, SqlitePool};
use tempfile::TempDir;
use unanimo_proto::v1::prepare_response::Answer;
use unanimo_proto::v1::{Mode, Payload as WirePayload};
use unanimo_sdk::{
    BoxError, Call, Decode, Participant, Payload, PayloadError, PhaseTwoError, PostgresOptions,
    PrepareError, Service, Sqlite, Tcc, refuse,
};
use unanimo_testing::{Harness, Subject};
use unanimo_tests::plain_driver::Plain;
use unanimo_tests::postgres::Server;
use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

use super::direct::branch;
use super::sweeper::Reserve;

fn new_file() -> PathBuf {
    run_folder().join(format!("{}.db", Uuid::now_v7()))
}

/// Each module of a service may have its own.
#[tokio::test]
async fn every_set_up_is_run_in_order() {
    let file = new_file();
    let service = Participant::new("p", Sqlite::open(&file).await.unwrap())
        .set_up(|db| {
            Box::pin(async move {
                sqlx::query("CREATE TABLE parts (n integer)").execute(db).await?;
                Ok(())
            })
        })
        .set_up(|db| {
            Box::pin(async move {
                sqlx::query("INSERT INTO parts VALUES (7)").execute(db).await?;
                Ok(())
            })
        })
        .tcc("ok", Reserve)
        .service()
        .unwrap();
    service.set_up().await.unwrap();
    let pool = SqlitePool::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    let parts: Vec<i64> = sqlx::query_scalar("SELECT n FROM parts").fetch_all(&pool).await.unwrap();
    assert_eq!(parts, [7]);
}

/// A lock timeout of nothing is no time, and not for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_timeout_of_zero_waits_for_nobody() {
    let url = Server::shared().database().await;
    let options = PostgresOptions::default().lock_timeout(Duration::ZERO);
    let service = Participant::new("p", options.connect(&url).await.unwrap());
    let service = service.tcc("ok", Reserve).service().unwrap();
    let held = branch(Mode::Tcc, "ok");
    let mut holder = sqlx::PgConnection::connect(&url).await.unwrap();
    holder.execute("BEGIN; LOCK TABLE unanimo_barrier").await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(10), held.prepare(&service)).await;
    let answer = answer.expect("it waits for nobody").unwrap();
    assert!(matches!(answer, Answer::Working(_)), "{answer:?}");
}

async fn shop(file: &Path) -> Service<Sqlite> {
    let participant = Participant::new("p", Sqlite::open(file).await.unwrap());
    participant.tcc("ok", Reserve).service().unwrap()
}

fn remove(file: &Path) {
    for end in ["", "-wal", "-shm"] {
        let part = PathBuf::from(format!("{}{end}", file.display()));
        if part.exists() {
            std::fs::remove_file(part).unwrap();
        }
    }
}

async fn is_prepared(service: &Service<Sqlite>) -> bool {
    let branch = branch(Mode::Tcc, "ok");
    let answer = tokio::time::timeout(Duration::from_secs(3), branch.prepare(service)).await;
    matches!(answer, Ok(Ok(Answer::Prepared(_))))
}

/// S7: votes go into the database that they speak of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_file_that_is_replaced_by_another_database_is_not_used() {
    let (file, other) = (new_file(), new_file());
    let service = shop(&file).await;
    assert!(is_prepared(&service).await);
    drop(shop(&other).await);
    // What it holds is in the file alone.
    let mut connection =
        SqliteConnection::connect(&format!("sqlite:{}", other.display())).await.unwrap();
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
    connection.close().await.unwrap();
    remove(&file);
    std::fs::copy(&other, &file).unwrap();
    assert!(!is_prepared(&service).await, "S7: it is another database");
    let pool = SqlitePool::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM unanimo_barrier").fetch_one(&pool).await.unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_removed_is_not_made_again() {
    let file = new_file();
    let service = shop(&file).await;
    assert!(is_prepared(&service).await);
    remove(&file);
    assert!(!is_prepared(&service).await);
    assert!(!file.exists(), "an empty one would know of no branch");
}

/// Settings of the user's own configuration hold beside those of a session.
#[tokio::test]
async fn the_driver_to_copy_keeps_the_users_options() {
    let url = Server::shared().database().await;
    let mut raw = sqlx::PgConnection::connect(&url).await.unwrap();
    raw.execute("CREATE SCHEMA shop").await.unwrap();
    let mut config: tokio_postgres::Config = url.parse().unwrap();
    config.options("-c search_path=shop -c lock_timeout=77s");
    let database = PostgresOptions::default().over(Plain(config)).await.unwrap();
    let there = "SELECT to_regclass('shop.unanimo_barrier') IS NOT NULL
                    AND to_regclass('public.unanimo_barrier') IS NULL";
    assert!(sqlx::query_scalar::<_, bool>(there).fetch_one(&mut raw).await.unwrap());
    drop(database);
}

/// A text whose media type is part of what it says.
struct Typed(String);

impl Decode for Typed {
    fn decode(bytes: &bytes::Bytes) -> Result<Self, PayloadError> {
        Err(PayloadError::NotEmpty(bytes.len()))
    }

    fn decode_payload(payload: &Payload) -> Result<Self, PayloadError> {
        Ok(Self(payload.media_type.clone().into_owned()))
    }
}

/// Takes CSV alone.
struct Import;

impl Tcc<Sqlite> for Import {
    type Payload = Typed;
    type Output = ();

    async fn try_(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Typed>,
    ) -> Result<(), PrepareError> {
        if call.payload.0 != "text/csv" {
            return refuse("NO_CSV", format!("it is {:?}", call.payload.0));
        }
        sqlx::query("UPDATE total SET held = held + 1").execute(db).await?;
        Ok(())
    }

    async fn confirm(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Typed>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        assert_eq!(call.payload.0, "text/csv");
        sqlx::query("UPDATE total SET held = held - 1, done = done + 1").execute(db).await?;
        Ok(())
    }

    async fn cancel(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Typed>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        assert_eq!(call.payload.0, "text/csv");
        sqlx::query("UPDATE total SET held = held - 1").execute(db).await?;
        Ok(())
    }
}

struct Importer {
    folder: TempDir,
}

impl Importer {
    fn file(&self) -> PathBuf {
        self.folder.path().join("importer.db")
    }

    async fn database(&self) -> sqlx::Result<SqliteConnection> {
        SqliteConnection::connect(&format!("sqlite:{}?mode=rwc", self.file().display())).await
    }
}

impl Subject for Importer {
    type Resource = Sqlite;

    async fn fresh() -> Result<Self, BoxError> {
        let importer = Self { folder: TempDir::new_in(run_folder())? };
        let total =
            "CREATE TABLE total (held integer, done integer); INSERT INTO total VALUES (0, 0)";
        sqlx::raw_sql(total).execute(&mut importer.database().await?).await?;
        Ok(importer)
    }

    async fn participant(&self) -> Result<Participant<Sqlite>, BoxError> {
        Ok(Participant::new("p", Sqlite::open(self.file()).await?).tcc("import", Import))
    }

    async fn observe(&self) -> Result<String, BoxError> {
        let total = sqlx::query_as("SELECT held, done FROM total");
        let (held, done): (i64, i64) = total.fetch_one(&mut self.database().await?).await?;
        Ok(format!("held {held}, done {done}"))
    }
}

/// The kit sends a payload as the initiator's client does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kit_sends_media_types() {
    let report = Harness::<Importer>::tcc("import")
        .payload(Payload::new("a;b", "text/csv"))
        .refused_payload(Payload::new("a;b", "text/plain"))
        .effect("held 0, done 1")
        .run()
        .await;
    assert!(report.passed(), "{report}");
    assert_eq!(WirePayload::default().media_type, "", "what is sent by default");
}
