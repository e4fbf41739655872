//! Set-up of a participant behind what a former life has left prepared.

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::{Connection, Executor, PgConnection};
use unanimo_migrations::participant::POSTGRES;
use unanimo_proto::v1::{Mode, Outcome, SubmitTransactionRequest, prepare_response};
use unanimo_sdk::{DatabaseError, Participant, PostgresOptions, Resource, Serve, Sqlite};

use super::databases;
use super::deaf::Ears;
use super::direct::branch;
use super::over::{self, Database};
use super::sweeper::{Reserve, World, Write, bank, eager};
use crate::coordinator::tcc;

async fn connect(url: &str) -> Result<Database, DatabaseError> {
    over::connect(PostgresOptions::default(), url).await
}

/// L1: a bank is killed after its vote. It starts again with a statement that waits for what it has prepared.
#[tokio::test]
async fn l1_a_set_up_that_needs_what_is_prepared_is_made_once_that_has_ended() {
    let (pool, url, service) = bank().await;
    let world = World::start(service, Ears::Deaf).await;
    let request =
        SubmitTransactionRequest { mode: Mode::TwoPhaseCommit.into(), ..tcc("g", &["write"]) };
    world.submit(request, Outcome::Committed).await;
    let database = connect(&url).await.unwrap();
    let again = Participant::new("p", database).two_phase("write", Write).set_up(|db| {
        Box::pin(async move {
            over::run(db, "ALTER TABLE effect ADD COLUMN IF NOT EXISTS note text").await?;
            Ok(())
        })
    });
    let serve = Serve::on("127.0.0.1:0").register_with(world.url()).sweep(eager());
    // With the usual grace it would wait for a minute: what is prepared at the start is asked about at once.
    let serve = serve.sweep(eager().grace(Duration::from_secs(3600)));
    let started = std::time::Instant::now();
    let mut serving = again.serve(serve).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(30));
    serving.registered().await.unwrap();
    let noted: i64 = sqlx::query_scalar("SELECT count(*) FROM effect WHERE note IS NULL")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(noted, 1, "committed first, and then altered");
    serving.stop().await.unwrap();
}

/// Our own table is upgraded in the same way, from every version before.
#[tokio::test]
async fn l1_an_upgrade_waits_for_branches_in_doubt_while_they_are_served() {
    for known in [1, 2] {
        let url = unanimo_tests::postgres::Server::shared().database().await;
        let mut owner = PgConnection::connect(&url).await.unwrap();
        let first: Vec<_> = POSTGRES.iter().take(known).cloned().collect();
        let mut first = Migrator { migrations: first.into(), ..Migrator::DEFAULT };
        first.dangerous_set_table_name("unanimo_barrier_migrations");
        first.run_direct(None, &mut owner, false).await.unwrap();
        owner.execute("CREATE TABLE effect (tx_id uuid, branch_id text)").await.unwrap();
        let held = branch(Mode::TwoPhaseCommit, "write");
        let tx_id = &held.context.tx_id;
        let prepare = format!(
            "BEGIN; INSERT INTO unanimo_barrier
                 (tx_id, branch_id, cluster_id, participant, gid, action, mode, state)
             VALUES ('{tx_id}', 'a', 'test-cluster', 'p', 'g', 'write', '2pc', 'committed');
             PREPARE TRANSACTION '{}'",
            held.name()
        );
        owner.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(prepare))).await.unwrap();

        let database = connect(&url).await.unwrap();
        let service = Participant::new("p", database).two_phase("write", Write).service().unwrap();
        let new = branch(Mode::TwoPhaseCommit, "write");
        let early = new.prepare(&service).await.unwrap();
        let is_upgraded = known == 2;
        if !is_upgraded {
            assert!(matches!(early, prepare_response::Answer::Working(_)), "{early:?}");
        }
        let setting_up = {
            let service = service.clone();
            tokio::spawn(async move { service.set_up().await })
        };
        if !is_upgraded {
            tokio::time::sleep(Duration::from_millis(300)).await;
            // It waits for a moment each time: who comes behind does not wait for what is prepared.
            for _ in 0..3 {
                let reading = owner.execute("SELECT FROM unanimo_barrier");
                let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
                read.expect("it queues behind the upgrade").unwrap();
            }
            assert!(!setting_up.is_finished(), "it waits");
        }
        let answer = held.commit(&service).await.unwrap();
        assert!(
            matches!(answer, unanimo_proto::v1::commit_response::Answer::Done(_)),
            "{answer:?}"
        );
        setting_up.await.unwrap().unwrap();
        let voted = new.prepare(&service).await.unwrap();
        assert!(matches!(voted, prepare_response::Answer::Prepared(_)), "{voted:?}");
        new.cancel(&service).await.unwrap();
    }
}

/// Any other fault of the set-up ends the start.
#[tokio::test]
async fn a_set_up_that_fails_is_told() {
    const FAILS: &str = "INSERT INTO nowhere VALUES (1)";
    let (_, url, _) = bank().await;
    let participant = Participant::new("p", connect(&url).await.unwrap()).tcc("ok", Reserve);
    is_told(participant.set_up(|db| {
        Box::pin(async move {
            over::run(db, FAILS).await?;
            Ok(())
        })
    }))
    .await;
    let (database, _pool) = <Sqlite as databases::Database>::open().await;
    let participant = Participant::new("p", database).tcc("ok", Reserve);
    is_told(participant.set_up(|db| {
        Box::pin(async move {
            db.execute(FAILS).await?;
            Ok(())
        })
    }))
    .await;
}

async fn is_told<R: Resource>(participant: Participant<R>) {
    let error = participant.serve(Serve::on("127.0.0.1:0")).await.unwrap_err();
    let first: &dyn std::error::Error = &error;
    let causes = std::iter::successors(Some(first), |error| error.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    assert!(text.contains("set up the participant's own tables: "), "{text}");
    assert!(text.contains("nowhere"), "{text}");
}

/// One database for all connections: what a proxy makes of that is found out.
#[tokio::test]
async fn s2_connections_that_lead_to_two_databases_are_refused() {
    let (pool, url, service) = bank().await;
    let answer = branch(Mode::Tcc, "ok").prepare(&service).await.unwrap();
    assert!(matches!(answer, prepare_response::Answer::Prepared(_)));
    drop(service);
    let database = connect(&url).await.unwrap();
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    pool.execute("UPDATE unanimo_barrier_id SET id = 'another'").await.unwrap();
    branch(Mode::Tcc, "ok").prepare(&service).await.unwrap_err();
    let error = connect(&url).await;
    assert!(error.is_ok(), "a new process has the one that is there");
}
