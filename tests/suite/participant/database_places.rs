//! A copy of a participant's database has the same id, and is told apart by its place: the copy's process gets no work
//! while the original's lives.

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection, SqliteConnection};
use tonic::{Code, Status};
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_proto::v1::{Mode, RegisterEndpointRequest, cancel_response, commit_response};
use unanimo_sdk::{MySql, Participant, Postgres, Resource, Serve, Service, Sqlite};
use unanimo_testing::Coordinator;
use unanimo_tests::alarms::Alarms;
use unanimo_tests::wait::until;
use unanimo_tests::{mariadb, postgres, reaper};

use super::databases::Database;
use super::direct::{Branch, branch};
use super::sweeper::Reserve;

const ID: &str = "SELECT id FROM unanimo_barrier_id";
const ROWS: &str = "SELECT count(*) FROM unanimo_barrier";

/// A database, and a copy of it beside it.
trait Copied: Database {
    /// Returns both, each with a way to count the rows of its barrier.
    async fn with_a_copy() -> [(Self, Box<dyn AsyncCount>); 2];
}

/// Counts rows of a barrier.
#[tonic::async_trait]
trait AsyncCount {
    async fn rows(&self) -> i64;
}

macro_rules! counts {
    ($name:ident, $connection:ty) => {
        struct $name(String);

        #[tonic::async_trait]
        impl AsyncCount for $name {
            async fn rows(&self) -> i64 {
                let mut raw = <$connection>::connect(&self.0).await.unwrap();
                sqlx::query_scalar(ROWS).fetch_one(&mut raw).await.unwrap()
            }
        }
    };
}

counts!(OnPostgres, PgConnection);
counts!(OnMySql, MySqlConnection);
counts!(OnSqlite, SqliteConnection);

/// Makes the barrier's tables in both, and gives the second one the first one's id, as a restored dump has it.
macro_rules! restored {
    ($resource:ty, $connection:ty, $urls:expr, $counts:ident) => {{
        let urls: [String; 2] = $urls;
        for url in &urls {
            <$resource>::connect(url).await.unwrap();
        }
        let mut original = <$connection>::connect(&urls[0]).await.unwrap();
        let id: String = sqlx::query_scalar(ID).fetch_one(&mut original).await.unwrap();
        let mut copy = <$connection>::connect(&urls[1]).await.unwrap();
        let same = format!("UPDATE unanimo_barrier_id SET id = '{id}'");
        sqlx::raw_sql(AssertSqlSafe(same)).execute(&mut copy).await.unwrap();
        let [one, other] = urls;
        [
            (
                <$resource>::connect(&one).await.unwrap(),
                Box::new($counts(one)) as Box<dyn AsyncCount>,
            ),
            (
                <$resource>::connect(&other).await.unwrap(),
                Box::new($counts(other)) as Box<dyn AsyncCount>,
            ),
        ]
    }};
}

impl Copied for Postgres {
    async fn with_a_copy() -> [(Self, Box<dyn AsyncCount>); 2] {
        let server = postgres::Server::shared();
        restored!(
            Self,
            PgConnection,
            [server.database().await, server.database().await],
            OnPostgres
        )
    }
}

impl Copied for MySql {
    async fn with_a_copy() -> [(Self, Box<dyn AsyncCount>); 2] {
        let server = mariadb::Server::shared();
        restored!(
            Self,
            MySqlConnection,
            [server.database().await, server.database().await],
            OnMySql
        )
    }
}

impl Copied for Sqlite {
    async fn with_a_copy() -> [(Self, Box<dyn AsyncCount>); 2] {
        let new = || reaper::run_folder().join(format!("{}.db", uuid::Uuid::now_v7()));
        let (file, copy) = (new(), new());
        let original = Self::open(&file).await.unwrap();
        let url = |file: &std::path::Path| format!("sqlite:{}", file.display());
        let mut raw = SqliteConnection::connect(&url(&file)).await.unwrap();
        let into = format!("VACUUM INTO '{}'", copy.display());
        sqlx::raw_sql(AssertSqlSafe(into)).execute(&mut raw).await.unwrap();
        [
            (original, Box::new(OnSqlite(url(&file))) as Box<dyn AsyncCount>),
            (
                Self::open(&copy).await.unwrap(),
                Box::new(OnSqlite(url(&copy))) as Box<dyn AsyncCount>,
            ),
        ]
    }
}

fn service<D: Database>(database: D) -> Service<D> {
    Participant::new("p", database).tcc("ok", Reserve).service().unwrap()
}

async fn commits<D: Database>(coordinator: &Coordinator, gid: &str) -> bool {
    let client = coordinator.client().unwrap();
    let draft = client.tcc(gid).branch("a", "p", "ok", bytes::Bytes::from("x"));
    let outcome = draft.wait_until_ended().submit().await.unwrap();
    outcome.is_committed()
}

async fn gets_no_work_while_the_original_lives<D: Copied>() {
    let (alarms, _listening) = Alarms::listen();
    let [(original, here), (copy, there)] = D::with_a_copy().await;
    assert_eq!(original.database_id(), copy.database_id(), "a copy has the id of its original");
    let places = [original.place().await.unwrap().unwrap(), copy.place().await.unwrap().unwrap()];
    assert_ne!(places[0], places[1]);
    assert_eq!(original.place().await.unwrap().as_ref(), Some(&places[0]), "it stays");
    assert!(places.iter().all(|place| place.len() <= 64), "{places:?}");
    let coordinator = Coordinator::start().await.unwrap();
    let serve = || Serve::on("127.0.0.1:0").register_with(coordinator.endpoint()).without_sweep();
    let (one, other) = (service(original), service(copy));
    let mut first = one.serve(serve()).await.unwrap();
    first.registered().await.unwrap();
    let mut second = other.serve(serve()).await.unwrap();
    let refused = second.registered().await.unwrap_err().to_string();
    assert!(refused.contains(&places[0]) && refused.contains(&places[1]), "{refused}");
    assert!(!alarms.named("participant_other_database").is_empty(), "S11");
    for n in 0..6 {
        assert!(commits::<D>(&coordinator, &format!("g{n}")).await);
    }
    assert_eq!((here.rows().await, there.rows().await), (6, 0), "S2");
    reaches_nothing(&other, &places[0]).await;
    assert_eq!(there.rows().await, 0, "S2");
    first.stop().await.unwrap();
    until("the second to be taken", async || second.registered().await.ok()).await;
    assert!(
        commits::<D>(&coordinator, "later").await,
        "L1: it lives alone, and is the database now"
    );
    assert_eq!(there.rows().await, 1);
    second.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

/// Calls for the original that reach the copy, as behind one address, are not answered.
async fn reaches_nothing<D: Resource>(copy: &Service<D>, place: &str) {
    let at = |place: &str| {
        let mut branch = Branch { payload: "x".into(), ..branch(Mode::Tcc, "ok") };
        branch.context.database_place = place.to_owned();
        branch
    };
    let of = at(place);
    assert_eq!(of.prepare(copy).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(of.cancel(copy).await.unwrap_err().code(), Code::FailedPrecondition);
    let commit = of.commit(copy).await.unwrap_err();
    assert_eq!(
        commit.code(),
        Code::FailedPrecondition,
        "S11: no Commit is taken for done: {commit}"
    );
}

#[tokio::test]
async fn s2_a_copy_on_postgres_gets_no_work_while_the_original_lives() {
    gets_no_work_while_the_original_lives::<Postgres>().await;
}

#[tokio::test]
async fn s2_a_copy_on_mariadb_gets_no_work_while_the_original_lives() {
    gets_no_work_while_the_original_lives::<MySql>().await;
}

#[tokio::test]
async fn s2_a_copy_of_an_sqlite_file_gets_no_work_while_the_original_lives() {
    gets_no_work_while_the_original_lives::<Sqlite>().await;
}

/// Where no place is known, nothing is told apart, and nothing is refused.
#[tokio::test]
async fn l1_an_operation_without_a_place_is_done() {
    let (database, _pool) = <Sqlite as Database>::open().await;
    let service = service(database);
    let serving = service.serve(Serve::on("127.0.0.1:0").without_sweep()).await.unwrap();
    let of = Branch { payload: "x".into(), ..branch(Mode::Tcc, "ok") };
    of.prepare(&service).await.unwrap();
    assert!(matches!(of.commit(&service).await, Ok(commit_response::Answer::Done(_))));
    let undone = Branch { payload: "x".into(), ..branch(Mode::Tcc, "ok") };
    assert!(matches!(undone.cancel(&service).await, Ok(cancel_response::Answer::Done(_))));
    serving.stop().await.unwrap();
}

/// L1: a process that does not register learns from a refusal that its database has moved, as the others have found.
#[tokio::test]
async fn l1_a_process_that_does_not_register_finds_that_its_database_has_moved() {
    let file = reaper::run_folder().join(format!("{}.db", uuid::Uuid::now_v7()));
    let database = Sqlite::open(&file).await.unwrap();
    let service = service(database.clone());
    let serving = service.serve(Serve::on("127.0.0.1:0").without_sweep()).await.unwrap();
    let before = database.place().await.unwrap().unwrap();
    let moved = file.with_extension("moved");
    std::fs::copy(&file, &moved).unwrap();
    std::fs::rename(&moved, &file).unwrap();
    let place = database.place().await.unwrap().unwrap();
    assert_ne!(place, before);
    let mut of = Branch { payload: "x".into(), ..branch(Mode::Tcc, "ok") };
    of.context.database_place = place;
    let refused = of.prepare(&service).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "it has not looked: {refused}");
    until("it to look again", async || of.prepare(&service).await.ok()).await;
    serving.stop().await.unwrap();
}

/// L1: a process dies, and its database moves before it is started again. What it had counts until it is gone, and nobody is told
/// of a copy.
#[tokio::test]
async fn l1_the_next_life_behind_a_database_that_moved_is_taken_without_an_alarm() {
    let (alarms, _listening) = Alarms::listen();
    let coordinator = Coordinator::start().await.unwrap();
    let serve = || Serve::on("127.0.0.1:0").register_with(coordinator.endpoint()).without_sweep();
    let [(here, _), (there, _)] = Sqlite::with_a_copy().await;
    let (first, next) = (service(here), service(there));
    let mut serving = first.serve(serve()).await.unwrap();
    serving.registered().await.unwrap();
    // It does not deregister.
    drop((serving, first));
    let mut serving = next.serve(serve()).await.unwrap();
    serving.registered().await.unwrap();
    assert!(commits::<Sqlite>(&coordinator, "g").await);
    let told = alarms.named("participant_other_database");
    assert!(told.is_empty(), "{told:?}");
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

async fn register(at: &Coordinator, life: &str, place: &str) -> Result<(), Status> {
    let mut client = ParticipantDirectoryServiceClient::connect(at.endpoint()).await.unwrap();
    let request = RegisterEndpointRequest {
        participant: "p".into(),
        endpoint: format!("http://127.0.0.1:{}", if life == "copy" { 4 } else { 3 }),
        instance_id: life.to_owned(),
        database_id: "one".into(),
        database_place: place.to_owned(),
        ..Default::default()
    };
    client.register_endpoint(request).await.map(drop)
}

/// After a restart the first one that comes is not taken for the original while that was alive.
#[tokio::test]
async fn s2_a_copy_is_refused_after_a_restart_of_the_coordinator_too() {
    let mut coordinator = Coordinator::start().await.unwrap();
    register(&coordinator, "life", "here").await.unwrap();
    for _ in 0..2 {
        coordinator.crash().await.unwrap();
        let refused = register(&coordinator, "copy", "there").await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
    // The database moves, and nobody else is in the way.
    register(&coordinator, "life", "there").await.unwrap();
    coordinator.crash().await.unwrap();
    let refused = register(&coordinator, "copy", "here").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "the latest place is kept: {refused}");
    let long = "d".repeat(65);
    let refused = register(&coordinator, "copy", &long).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("database_place"), "{refused}");
    coordinator.stop().await.unwrap();
}
