//! Traces that a handler leaves on its session of MariaDB: nobody meets them.

use std::time::Duration;

use sqlx::{AssertSqlSafe, MySqlConnection, MySqlPool};
use tonic::Status;
use unanimo_proto::v1::{Mode, commit_response, prepare_response};
use unanimo_sdk::{
    Call, Json, MySql, MySqlOptions, Participant, PhaseTwoError, PrepareError, Service, Tcc, refuse,
};
use unanimo_tests::mariadb::Server;

use super::direct::{Branch, branch};

/// Runs its payload as SQL, and then ends as that says.
struct Leaves;

async fn run(db: &mut MySqlConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(db).await.map(drop)
}

impl Tcc<MySql> for Leaves {
    type Payload = Json<(String, String)>;
    type Output = ();

    async fn try_(
        &self,
        db: &mut MySqlConnection,
        call: &Call<Self::Payload>,
    ) -> Result<(), PrepareError> {
        let (how, sql) = &*call.payload;
        run(db, sql).await?;
        match how.as_str() {
            "no" => refuse("NO", "as it was told"),
            "fails" => Err(PrepareError::Failed("as it was told".into())),
            "works" => Err(PrepareError::Working(Duration::ZERO)),
            _ => Ok(()),
        }
    }

    async fn confirm(
        &self,
        db: &mut MySqlConnection,
        call: &Call<Self::Payload>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        let (how, sql) = &*call.payload;
        run(db, sql).await?;
        match how.as_str() {
            "fails" => Err(PhaseTwoError::Failed("as it was told".into())),
            "works" => Err(PhaseTwoError::Working(Duration::ZERO)),
            _ => Ok(()),
        }
    }

    async fn cancel(
        &self,
        _: &mut MySqlConnection,
        _: &Call<Self::Payload>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

struct World {
    pool: MySqlPool,
    service: Service<MySql>,
}

impl World {
    /// With one connection for each phase, so that whoever comes next meets what was left.
    async fn open() -> Self {
        let url = Server::shared().database().await;
        let pool = MySqlPool::connect(&url).await.unwrap();
        let made = "CREATE TABLE seen (what varchar(200)); CREATE TABLE effect (n int);
            CREATE PROCEDURE leave_it() BEGIN SET sql_select_limit = 1; SET @x = 7; END";
        sqlx::raw_sql(made).execute(&pool).await.unwrap();
        let narrow = MySqlOptions::default().prepare_connections(1).phase_two_connections(1);
        let database = narrow.connect(&url).await.unwrap();
        let service = Participant::new("p", database).tcc("leaves", Leaves).service().unwrap();
        Self { pool, service }
    }

    fn of(how: &str, sql: &str) -> Branch {
        let payload = serde_json::to_vec(&(how, sql)).unwrap().into();
        Branch { payload, ..branch(Mode::Tcc, "leaves") }
    }

    /// Runs it in phase one, or in phase two behind a yes; answers with the kind of the answer.
    async fn run(&self, is_commit: bool, how: &str, sql: &str) -> &'static str {
        if !is_commit {
            return word(Self::of(how, sql).prepare(&self.service).await);
        }
        let branch = Self::of("yes", "DO 0");
        assert_eq!(word(branch.prepare(&self.service).await), "yes");
        let then = Branch { payload: Self::of(how, sql).payload, ..branch };
        match then.commit(&self.service).await {
            Ok(commit_response::Answer::Done(_)) => "yes",
            Ok(commit_response::Answer::Working(_)) => "works",
            Ok(other) => panic!("{other:?}"),
            Err(_) => "fails",
        }
    }
}

fn word(answer: Result<prepare_response::Answer, Status>) -> &'static str {
    match answer {
        Ok(prepare_response::Answer::Prepared(_)) => "yes",
        Ok(prepare_response::Answer::Refused(_)) => "no",
        Ok(prepare_response::Answer::Working(_)) => "works",
        Ok(other) => panic!("{other:?}"),
        Err(_) => "fails",
    }
}

/// Session as a handler finds it.
const LOOK: &str = "INSERT INTO seen SELECT CONCAT_WS(' ', @@character_set_client,
    @@sql_select_limit > 1, @@group_concat_max_len > 9, @@sql_safe_updates = 0, COALESCE(@x, 'null'),
    @@time_zone, DATABASE() LIKE 'test%')";

/// S7: be there a vote or an end behind it, or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_what_a_handler_leaves_on_its_session_is_met_by_nobody() {
    let world = World::open().await;
    for leaves in [
        "CREATE TEMPORARY TABLE mine (id int)",
        "SET NAMES latin1",
        "SET sql_select_limit = 1",
        "SET group_concat_max_len = 9",
        "SET sql_safe_updates = 1",
        "SET time_zone = '+09:00'",
        "SET @x = 7",
        "SELECT 7 INTO @x",
        "DO @x := 7",
        "CALL leave_it()",
        "HANDLER effect OPEN AS mine",
        "PREPARE mine FROM 'SELECT 1'",
        "SET ROLE NONE",
        "USE mysql",
    ] {
        for (is_commit, how) in [
            (false, "yes"),
            (false, "no"),
            (false, "fails"),
            (false, "works"),
            (true, "yes"),
            (true, "fails"),
            (true, "works"),
        ] {
            for _ in 0..2 {
                assert_eq!(world.run(is_commit, how, leaves).await, how, "{leaves} {is_commit}");
            }
            assert_eq!(
                world.run(is_commit, "yes", LOOK).await,
                "yes",
                "{leaves} {is_commit} {how}"
            );
            let seen: Vec<String> =
                sqlx::query_scalar("SELECT what FROM seen").fetch_all(&world.pool).await.unwrap();
            assert_eq!(seen, ["utf8mb4 1 1 1 null +00:00 1"], "{leaves} {is_commit} {how}");
            sqlx::query("DELETE FROM seen").execute(&world.pool).await.unwrap();
        }
    }
}

/// L3: a session is kept where nothing was left on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_session_goes_on_behind_a_handler_that_leaves_nothing() {
    let world = World::open().await;
    let note = "INSERT INTO seen VALUES (CONNECTION_ID())";
    for _ in 0..5 {
        for how in ["yes", "no", "fails", "works"] {
            assert_eq!(world.run(false, how, "INSERT INTO effect VALUES (1)").await, how);
            assert_eq!(world.run(false, "yes", note).await, "yes");
        }
    }
    let sessions: i64 = sqlx::query_scalar("SELECT count(DISTINCT what) FROM seen")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(sessions, 1);
    sqlx::query("DELETE FROM seen").execute(&world.pool).await.unwrap();
    for _ in 0..5 {
        for how in ["yes", "fails", "works"] {
            assert_eq!(world.run(true, how, "INSERT INTO effect VALUES (1)").await, how);
            assert_eq!(world.run(true, "yes", note).await, "yes");
        }
    }
    let sessions: i64 = sqlx::query_scalar("SELECT count(DISTINCT what) FROM seen")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(sessions, 1);
}
