//! Branches that nothing speaks against but their age (promise L4): the same cases on every database.

use std::time::{Duration, SystemTime};

use sqlx::Executor;
use unanimo_proto::v1::{
    BeginTransactionRequest, ExecuteBranchRequest, Mode, RollbackTransactionRequest, Verdict,
    WaitFor, rollback_transaction_request,
};
use unanimo_sdk::{InDoubt, Isolation, Sweep, Sweeper};
use unanimo_tests::alarms::Alarms;
use unanimo_tests::wait::PATIENCE;

use super::barrier::on_every_database;
use super::calls::{Branch, End, World};
use super::databases::{Database, Postgres, Sqlite};
use super::deaf::Ears;
use super::handler::{Deed, Job};
use super::inquired::Inquired;
use super::sweeper::{World as Bank, bank, eager, two_sweeps};

on_every_database!(
    l4_a_branch_that_is_never_decided_raises_an_alarm,
    l4_a_step_that_nobody_answers_for_raises_an_alarm,
    l4_a_compensation_that_does_not_come_raises_an_alarm,
    l4_what_was_prepared_before_the_clock_was_set_back_is_asked_about,
    l4_a_row_that_is_no_transactions_stops_no_other,
);

const WORK: Job = Job { prepare: Deed::Work, phase_two: Deed::Work };

const AGE: Duration = Duration::from_millis(500);

/// Nobody listens there.
const NOBODY: &str = "http://127.0.0.1:9";

async fn prepared<D: Database>(world: &World<D>, branch: Branch) -> Branch {
    assert!(world.vote(&branch).await.is_prepared());
    branch
}

async fn alarmed(sweeper: &Sweeper, count: u64) -> InDoubt {
    let mut watch = sweeper.watch();
    let told = watch.wait_for(|told| told.sweeps > 0 && told.alarmed == count);
    let told = tokio::time::timeout(PATIENCE, told).await;
    *told.expect("the alarms").expect("the sweeper runs")
}

fn impatient() -> Sweep {
    eager().keep_rows().alarm_after(AGE)
}

async fn l4_a_branch_that_is_never_decided_raises_an_alarm<D: Database>(world: World<D>) {
    let coordinator = Inquired::default();
    let url = coordinator.serve().await;
    let running = prepared(&world, Branch::tcc(&WORK)).await;
    // An answer that only a later version knows is no decision.
    let later = prepared(&world, Branch::tcc(&WORK)).await;
    coordinator.tell(&later, Verdict::Unspecified, false);
    let step = prepared(&world, Branch::step(&WORK)).await;

    let patient = world.sweep(&url, eager().keep_rows());
    tokio::time::sleep(AGE).await;
    let told = two_sweeps(&patient).await;
    assert_eq!((told.count, told.steps, told.alarmed), (2, 1, 0), "they are young");
    patient.stop().await;

    let sweeper = world.sweep(&url, impatient());
    let told = alarmed(&sweeper, 2).await;
    assert_eq!((told.count, told.steps), (2, 1), "a saga may take days");
    for branch in [&running, &later] {
        assert_eq!(world.state(branch).await.as_deref(), Some("prepared"), "S12");
        assert_eq!(world.committed(branch).await, End::Done);
    }
    assert_eq!(alarmed(&sweeper, 0).await.count, 0);
    assert_eq!(world.state(&step).await.as_deref(), Some("prepared"));
}

async fn l4_a_step_that_nobody_answers_for_raises_an_alarm<D: Database>(world: World<D>) {
    let step = prepared(&world, Branch::step(&WORK)).await;
    let patient = world.sweep(NOBODY, eager().keep_rows());
    tokio::time::sleep(AGE).await;
    assert_eq!(two_sweeps(&patient).await.alarmed, 0, "its coordinator may be restarting");
    patient.stop().await;

    let sweeper = world.sweep(NOBODY, impatient());
    let told = alarmed(&sweeper, 1).await;
    assert_eq!((told.count, told.steps, told.known), (0, 1, true));
    sweeper.stop().await;
    // One that answers clears it.
    let coordinator = Inquired::default();
    let sweeper = world.sweep(&coordinator.serve().await, impatient());
    tokio::time::sleep(AGE).await;
    assert_eq!(two_sweeps(&sweeper).await.alarmed, 0);
    assert_eq!(world.state(&step).await.as_deref(), Some("prepared"), "S12");
}

async fn l4_a_compensation_that_does_not_come_raises_an_alarm<D: Database>(world: World<D>) {
    let coordinator = Inquired::default();
    let url = coordinator.serve().await;
    let step = prepared(&world, Branch::step(&WORK)).await;
    coordinator.tell(&step, Verdict::Cancel, false);
    let patient = world.sweep(&url, eager().keep_rows());
    tokio::time::sleep(AGE).await;
    assert_eq!(two_sweeps(&patient).await.alarmed, 0, "its turn may come");
    patient.stop().await;

    let sweeper = world.sweep(&url, impatient());
    let told = alarmed(&sweeper, 1).await;
    assert_eq!((told.count, told.steps), (0, 1));
    two_sweeps(&sweeper).await;
    assert_eq!(sweeper.in_doubt().alarmed, 1, "it lasts");
    assert_eq!(world.state(&step).await.as_deref(), Some("prepared"), "S12: it is not done here");
    assert_eq!(world.cancelled(&step).await, End::Done);
    assert_eq!(alarmed(&sweeper, 0).await.steps, 0);
}

/// The database's clock was an hour ahead when the branches were prepared: the grace does not last an hour longer.
async fn l4_what_was_prepared_before_the_clock_was_set_back_is_asked_about<D: Database>(
    world: World<D>,
) {
    let coordinator = Inquired::default();
    let reserved = prepared(&world, Branch::tcc(&WORK)).await;
    let step = prepared(&world, Branch::step(&WORK)).await;
    coordinator.tell(&step, Verdict::Commit, false);
    let grace = Duration::from_secs(600);
    let sweeper = world.sweep(&coordinator.serve().await, eager().grace(grace).keep_rows());
    two_sweeps(&sweeper).await;
    assert_eq!(coordinator.asked(&reserved), 0, "it is young");
    let pool = std::any::type_name::<D::Pool>();
    let later = match (pool.contains("Sqlite"), pool.contains("MySql")) {
        (true, _) => "changed_ms = changed_ms + 3600000",
        (_, true) => "changed_at = changed_at + INTERVAL 1 HOUR",
        _ => "changed_at = changed_at + interval '1 hour'",
    };
    D::run_outside(&world.pool, format!("UPDATE unanimo_barrier SET {later}")).await;
    two_sweeps(&sweeper).await;
    assert!(coordinator.asked(&reserved) > 0);
    assert_eq!(world.state(&step).await.as_deref(), Some("committed"));
    sweeper.stop().await;
}

/// Somebody has changed a row by hand. (Where the column has a type of its own nobody can.)
async fn l4_a_row_that_is_no_transactions_stops_no_other<D: Database>(world: World<D>) {
    if std::any::type_name::<D::Pool>().contains("Postgres") {
        return;
    }
    let coordinator = Inquired::default();
    let url = coordinator.serve().await;
    for tx_id in
        ["by hand", "0193e4f0-7a5b-7c3d-8e9f-0a1b2c3d4e5g", "0193e4f07a5b-7c3d-8e9f-0a1b2c-3d4e5f"]
    {
        let broken = prepared(&world, Branch::tcc(&WORK)).await;
        let (from, step) = (broken.tx_id, prepared(&world, Branch::step(&WORK)).await);
        coordinator.tell(&step, Verdict::Commit, false);
        let change = format!("UPDATE unanimo_barrier SET tx_id = '{tx_id}' WHERE tx_id = '{from}'");
        D::run_outside(&world.pool, change).await;
        let sweeper = world.sweep(&url, eager());
        let told = two_sweeps(&sweeper).await;
        assert!(told.known && told.count > 0, "{tx_id}: {told:?}");
        assert_eq!(world.state(&step).await.as_deref(), Some("committed"), "{tx_id}");
        sweeper.stop().await;
    }
}

/// A row whose `tx_id` is none raises an alarm, which one thread hears.
#[tokio::test]
async fn l4_a_row_that_is_no_transactions_is_an_alarm() {
    let (alarms, _listening) = Alarms::listen();
    let world = World::<Sqlite>::open(Isolation::ReadCommitted).await;
    prepared(&world, Branch::tcc(&WORK)).await;
    Sqlite::run_outside(&world.pool, "UPDATE unanimo_barrier SET tx_id = 'by hand'".into()).await;
    let sweeper = world.sweep(&Inquired::default().serve().await, eager());
    two_sweeps(&sweeper).await;
    let lines = alarms.named("in_doubt_unreadable");
    assert!(lines.len() == 1 && lines[0].contains("rows=1"), "{lines:?}");
}

/// By two-phase commit, and by a coordinator that is one.
#[tokio::test]
async fn l4_a_prepared_transaction_that_is_never_decided_raises_an_alarm() {
    let (alarms, _listening) = Alarms::listen();
    let (_, _, service) = bank().await;
    let world = Bank::start(service.clone(), Ears::Open).await;
    let begin = BeginTransactionRequest {
        gid: "g".into(),
        mode: Mode::TwoPhaseCommit.into(),
        timeout: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        ..Default::default()
    };
    let tx_id = world.client().begin_transaction(begin).await.unwrap().into_inner().tx_id;
    let branch = Some(crate::coordinator::branch("a", "write"));
    let execute = ExecuteBranchRequest { tx_id: tx_id.clone(), branch, ..Default::default() };
    world.client().execute_branch(execute).await.unwrap();
    let sweeper = service.sweep([world.url()], eager().alarm_after(AGE)).unwrap();
    assert_eq!(alarmed(&sweeper, 1).await.count, 1);
    let lines = alarms.named("in_doubt_not_decided");
    assert!(lines.len() == 1 && lines[0].contains(&tx_id), "{lines:?}");
    let roll_back = RollbackTransactionRequest {
        key: Some(rollback_transaction_request::Key::TxId(tx_id)),
        wait_for: WaitFor::Decided.into(),
        ..Default::default()
    };
    world.client().rollback_transaction(roll_back).await.unwrap();
    assert_eq!(alarmed(&sweeper, 0).await.count, 0);
    sweeper.stop().await;
}

/// If nobody has said what is too old, it is an hour past the deadline that the coordinator names.
#[tokio::test]
async fn l4_a_branch_is_too_old_an_hour_after_its_deadline() {
    let world = World::<Postgres>::open(Isolation::ReadCommitted).await;
    let coordinator = Inquired::default();
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let now = SystemTime::now();
    let mut old = Vec::new();
    for (age, until, is_alarmed) in [
        (120, None, true),
        (120, Some(now - minutes(119)), true),
        (120, Some(now - minutes(30)), false),
        // A reserved step of a saga that has days.
        (2880, Some(now + minutes(2880)), false),
        (30, None, false),
        // A clock that is wrong by two hours.
        (30, Some(now - minutes(120)), false),
    ] {
        let branch = prepared(&world, Branch::tcc(&WORK)).await;
        coordinator.tell_until(&branch, until);
        let (tx_id, ago) = (branch.tx_id, format!("interval '{age} minutes'"));
        let change = format!(
            "UPDATE unanimo_barrier SET changed_at = now() - {ago} WHERE tx_id = '{tx_id}'"
        );
        world.pool.execute(sqlx::AssertSqlSafe(change)).await.unwrap();
        old.push((branch, is_alarmed));
    }
    let sweeper = world.sweep(&coordinator.serve().await, eager().keep_rows());
    let expected = old.iter().filter(|(_, is_alarmed)| *is_alarmed).count();
    alarmed(&sweeper, expected as u64).await;
    two_sweeps(&sweeper).await;
    assert_eq!(sweeper.in_doubt().alarmed, expected as u64);
    // Each by itself, and not only their number.
    for (branch, is_alarmed) in old {
        let before = sweeper.in_doubt().alarmed;
        assert_eq!(world.committed(&branch).await, End::Done);
        let told = two_sweeps(&sweeper).await;
        assert_eq!(told.alarmed, before - u64::from(is_alarmed), "{branch:?}");
    }
}
