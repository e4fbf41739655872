//! Alarms of the sweeper: coordinators that do not answer, rows that must stay, names of before, and branches
//! that nobody here can finish.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use unanimo_proto::v1::{Mode, Outcome, prepare_response};
use unanimo_sdk::{
    Call, Json, Participant, PhaseTwoError, PostgresOptions, PrepareError, Sweep, Tcc,
};
use unanimo_tests::alarms::Alarms;
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::deaf::Ears;
use super::direct::branch;
use super::inquired::Inquired;
use super::over::{self, Database};
use super::sweeper::{Reserve, World, Write, bank, eager, states};
use crate::coordinator::tcc;

async fn connect(url: &str) -> Database {
    over::connect(PostgresOptions::default(), url).await.unwrap()
}

/// L4: a branch is in doubt, and there is nobody to ask.
#[tokio::test]
async fn l4_a_coordinator_that_never_answers_raises_an_alarm() {
    let (alarms, _listening) = Alarms::listen();
    let (_, _, service) = bank().await;
    for (mode, action) in [(Mode::Tcc, "ok"), (Mode::TwoPhaseCommit, "write")] {
        let answer = branch(mode, action).prepare(&service).await.unwrap();
        assert!(matches!(answer, prepare_response::Answer::Prepared(_)));
    }
    let sweep = eager().alarm_after(Duration::from_millis(500));
    let sweeper = service.sweep(["http://127.0.0.1:9"], sweep).unwrap();
    let told =
        until("the alarms", async || Some(sweeper.in_doubt()).filter(|told| told.alarmed == 2))
            .await;
    assert!(told.known && told.count == 2 && told.oldest_prepared > Duration::ZERO, "{told:?}");
    assert_eq!(alarms.named("in_doubt_unanswered").len(), 2);
    sweeper.stop().await;
}

/// A prepared transaction is in the way whoever made it, in whichever database of the server.
#[tokio::test]
async fn l4_the_oldest_prepared_transaction_is_one_of_the_whole_server() {
    let mut other = PgConnection::connect(&Server::shared().database().await).await.unwrap();
    let name = uuid::Uuid::now_v7();
    let prepare = format!("BEGIN; CREATE TABLE t (n int); PREPARE TRANSACTION '{name}'");
    other.execute(sqlx::raw_sql(AssertSqlSafe(prepare))).await.unwrap();
    let (_, _, service) = bank().await;
    let sweeper = service.sweep(["http://127.0.0.1:9"], eager()).unwrap();
    until("its age", async || {
        let told = sweeper.in_doubt();
        (told.known && told.count == 0 && told.oldest_prepared > Duration::ZERO).then_some(())
    })
    .await;
    sweeper.stop().await;
    let end = AssertSqlSafe(format!("ROLLBACK PREPARED '{name}'"));
    other.execute(sqlx::raw_sql(end)).await.unwrap();
}

/// A sweep that ends with the last row of a name is followed by one that looks at the next name.
#[tokio::test]
async fn l4_rows_of_a_former_name_are_looked_at_behind_many_of_the_present_one() {
    let url = Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let participant = Participant::new("p", connect(&url).await).formerly("old");
    let service = participant.tcc("ok", Reserve).service().unwrap();
    // Just more than a sweep looks at: its last batch ends the name.
    let rows = "INSERT INTO unanimo_barrier
             (tx_id, branch_id, cluster_id, participant, gid, action, mode, state, changed_at)
         SELECT gen_random_uuid(), 'b', 'now', name, 'g', 'ok', 'tcc', 'prepared', now() - interval '1 hour'
         FROM (SELECT 'p' AS name FROM generate_series(1, 10050) UNION ALL SELECT 'old') AS names";
    pool.execute(rows).await.unwrap();
    let former = "SELECT tx_id::text FROM unanimo_barrier WHERE participant = 'old'";
    let former: String = sqlx::query_scalar(former).fetch_one(&pool).await.unwrap();
    let coordinator = Inquired::of_group("now");
    let sweeper = service.sweep([coordinator.serve().await], eager()).unwrap();
    until("the question", async || (coordinator.asked_of(&former) > 0).then_some(())).await;
    sweeper.stop().await;
}

/// A database that is away: what was known before is not known now.
#[tokio::test]
async fn a_sweep_that_fails_says_that_it_knows_nothing() {
    let (pool, _, service) = bank().await;
    let sweeper = service.sweep(["http://127.0.0.1:9"], eager()).unwrap();
    until("a sweep", async || sweeper.in_doubt().known.then_some(())).await;
    pool.execute("ALTER TABLE unanimo_barrier RENAME TO away").await.unwrap();
    until("a sweep that fails", async || (!sweeper.in_doubt().known).then_some(())).await;
    pool.execute("ALTER TABLE away RENAME TO unanimo_barrier").await.unwrap();
    until("a sweep that does not", async || sweeper.in_doubt().known.then_some(())).await;
    sweeper.stop().await;
}

/// More rows of a former cluster than a run looks at, and behind them one that may go.
#[tokio::test]
async fn rows_that_must_stay_do_not_stop_the_purge() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Open).await;
    let tx_id = world.submit(tcc("g", &["ok"]), Outcome::Committed).await;
    until("its end", async || world.get(&tx_id).await.ended_at.map(|_| ())).await;
    pool.execute(
        "UPDATE unanimo_barrier SET prepare_until = now() - interval '2 hours';
         INSERT INTO unanimo_barrier
             (tx_id, branch_id, cluster_id, participant, gid, action, mode, state, prepare_until)
         SELECT gen_random_uuid(), 'b', 'former', 'p', 'g', 'ok', 'tcc', 'committed',
             now() - interval '3 hours' FROM generate_series(1, 20500)",
    )
    .await
    .unwrap();
    let sweep = Sweep::default().interval(Duration::from_millis(20));
    let sweep = sweep.retention(Duration::from_secs(3600));
    let sweeper = service.sweep([world.url()], sweep).unwrap();
    until("the row behind them to go", async || {
        states(&pool, &tx_id).await.is_empty().then_some(())
    })
    .await;
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM unanimo_barrier").fetch_one(&pool).await.unwrap();
    assert_eq!(left, 20_500, "nobody can tell of them");
    sweeper.stop().await;
}

/// A participant that was renamed finishes what it began, and one that says nothing of it is told.
#[tokio::test]
async fn l4_branches_of_a_former_name_are_finished_or_told() {
    let (alarms, _listening) = Alarms::listen();
    let (pool, url, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    let request = unanimo_proto::v1::SubmitTransactionRequest {
        mode: Mode::TwoPhaseCommit.into(),
        ..tcc("g", &["write"])
    };
    let tx_id = world.submit(request, Outcome::Committed).await;
    let renamed = || async {
        let database = connect(&url).await;
        Participant::new("new-p", database).two_phase("write", Write)
    };
    let sweep = || eager().alarm_after(Duration::ZERO);
    let silent = renamed().await.service().unwrap();
    let sweeper = silent.sweep([world.url()], sweep()).unwrap();
    until("the alarm", async || (!alarms.named("in_doubt_other_name").is_empty()).then_some(()))
        .await;
    assert!(alarms.named("in_doubt_other_name")[0].contains("other=\"p\""));
    assert!(states(&pool, &tx_id).await.is_empty(), "it is not its own");
    sweeper.stop().await;

    let knows = renamed().await.formerly("p").service().unwrap();
    let sweeper = knows.sweep([world.url()], sweep()).unwrap();
    until("its commit", async || (!states(&pool, &tx_id).await.is_empty()).then_some(())).await;
    sweeper.stop().await;
    // Calls under the former name are taken.
    let answer = branch(Mode::TwoPhaseCommit, "write").prepare(&knows).await.unwrap();
    assert!(matches!(answer, prepare_response::Answer::Prepared(_)));
    branch(Mode::TwoPhaseCommit, "write").prepare(&silent).await.unwrap_err();
}

/// Its output was a text, and is a number in the next version.
struct Changed;

impl Tcc<Database> for Changed {
    type Payload = ();
    type Output = Json<u64>;

    async fn try_(
        &self,
        _: &mut over::Connection,
        _: &Call<()>,
    ) -> Result<Json<u64>, PrepareError> {
        Ok(Json(7))
    }

    async fn confirm(
        &self,
        _: &mut over::Connection,
        _: &Call<()>,
        _: Json<u64>,
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut over::Connection,
        _: &Call<()>,
        _: Json<u64>,
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

#[tokio::test]
async fn l4_open_branches_that_cannot_be_finished_are_told_at_the_start() {
    let (alarms, _listening) = Alarms::listen();
    let (pool, url, service) = bank().await;
    for _ in 0..2 {
        branch(Mode::Tcc, "ok").prepare(&service).await.unwrap();
    }
    let database = connect(&url).await;
    let next = Participant::new("p", database).tcc("changed", Changed).service().unwrap();
    let fine = branch(Mode::Tcc, "changed");
    fine.prepare(&next).await.unwrap();
    let text = branch(Mode::Tcc, "changed");
    text.prepare(&next).await.unwrap();
    sqlx::query("UPDATE unanimo_barrier SET output = '\"text\"' WHERE tx_id = $1")
        .bind(text.tx_id())
        .execute(&pool)
        .await
        .unwrap();
    let sweeper = next.sweep(["http://127.0.0.1:9"], Sweep::default()).unwrap();
    until("the alarms", async || {
        let told = [alarms.named("open_action_gone"), alarms.named("open_output_unreadable")];
        told.iter().all(|lines| lines.len() == 1).then_some(())
    })
    .await;
    let gone = &alarms.named("open_action_gone")[0];
    assert!(gone.contains("branches=2") && gone.contains("action=\"ok\""), "{gone}");
    let unreadable = &alarms.named("open_output_unreadable")[0];
    assert!(unreadable.contains(&text.context.tx_id), "{unreadable}");
    sweeper.stop().await;
}

/// A role that came later may not end what its predecessor prepared: both are named, and the way out.
#[tokio::test]
async fn a_role_that_may_not_end_a_branch_is_named_with_its_owner() {
    let (pool, url, service) = bank().await;
    let held = branch(Mode::TwoPhaseCommit, "write");
    held.prepare(&service).await.unwrap();
    let role = format!("rotated_{}", uuid::Uuid::now_v7().simple());
    let make = format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON unanimo_barrier TO {role};
         GRANT SELECT ON unanimo_barrier_migrations, unanimo_barrier_id TO {role};
         GRANT unanimo TO {role}"
    );
    pool.execute(sqlx::AssertSqlSafe(make)).await.unwrap();
    let (_, host) = url.split_once('@').unwrap();
    let rotated = format!("postgres://{role}@{host}");
    let by = |url: String| async move {
        let database = connect(&url).await;
        Participant::new("p", database).two_phase("write", Write).service().unwrap()
    };
    let status = held.commit(&by(rotated.clone()).await).await.unwrap_err();
    let text = status.message();
    assert!(
        text.contains("that is unanimo, and this session is ") && text.contains(&role),
        "{text}"
    );
    let way_out = format!("ALTER ROLE {role} SET role = 'unanimo'");
    pool.execute(sqlx::AssertSqlSafe(way_out)).await.unwrap();
    let by_role = by(rotated).await;
    // It holds for every use of a session, and for what the role itself prepares.
    let own = branch(Mode::TwoPhaseCommit, "write");
    own.prepare(&by_role).await.unwrap();
    for branch in [&held, &own] {
        branch.commit(&by_role).await.unwrap();
    }
    pool.execute(sqlx::AssertSqlSafe(format!("DROP OWNED BY {role}; DROP ROLE {role}")))
        .await
        .unwrap();
}

/// A start with many open branches reads few outputs, each of which may take 1 MiB: of every age some.
#[tokio::test]
async fn a_start_reads_few_outputs_of_open_branches() {
    for (unreadable, told) in [(3, 0), (700, 0), (4, 1), (512, 1)] {
        let (alarms, _listening) = Alarms::listen();
        let (pool, url, _) = bank().await;
        let fill = format!(
            "INSERT INTO unanimo_barrier
                (tx_id, branch_id, cluster_id, participant, gid, action, mode, state, output, output_type)
             SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'a', 'c', 'p', 'g',
                'changed', 'tcc', 'prepared',
                CASE n WHEN {unreadable} THEN '\"text\"'::bytea ELSE '1'::bytea END, 'application/json'
             FROM generate_series(1, 1000) AS n"
        );
        pool.execute(sqlx::AssertSqlSafe(fill)).await.unwrap();
        let database = connect(&url).await;
        let service = Participant::new("p", database).tcc("changed", Changed).service().unwrap();
        let sweeper = service.sweep(["http://127.0.0.1:9"], Sweep::default()).unwrap();
        until("a sweep", async || (sweeper.in_doubt().sweeps > 0).then_some(())).await;
        let lines = alarms.named("open_output_unreadable");
        assert_eq!(lines.len(), told, "number {unreadable}: {lines:?}");
        assert!(lines.iter().all(|line| line.contains("branches=1000")), "{lines:?}");
        sweeper.stop().await;
    }
}
