//! The sweeper and rows of steps of sagas: the same cases on every database.

use std::time::{Duration, Instant, SystemTime};

use unanimo_proto::v1::{Mode, Verdict};
use unanimo_sdk::{InDoubt, Sweep, Sweeper};
use unanimo_tests::wait::PATIENCE;

use super::barrier::on_every_database;
use super::calls::{Branch, End, World};
use super::databases::Database;
use super::handler::{Deed, Job};
use super::inquired::Inquired;
use super::sweeper::{eager, two_sweeps};

on_every_database!(
    s12_the_sweeper_commits_the_steps_of_a_saga_that_is_committed,
    s12_a_step_that_is_to_be_compensated_is_left_to_its_cancel,
    s12_a_step_that_the_coordinator_does_not_know_raises_an_alarm,
    s12_a_saga_that_runs_is_asked_about_less_and_less_often,
    l4_a_reservation_that_runs_raises_its_alarm_where_nobody_answers,
    s7_the_row_of_a_committed_step_outlives_its_saga,
    s7_a_row_without_a_bound_outlives_its_saga_for_a_retention,
);

const WORK: Job = Job { prepare: Deed::Work, phase_two: Deed::Work };

/// Long enough that a purge within it is seen to be too early.
const RETENTION: Duration = Duration::from_millis(600);

async fn prepared<D: Database>(world: &World<D>, branch: Branch) -> Branch {
    assert!(world.vote(&branch).await.is_prepared());
    branch
}

async fn state<D: Database>(world: &World<D>, branch: &Branch) -> String {
    world.state(branch).await.unwrap_or_else(|| "purged".to_owned())
}

/// Waits until the row is so. (`wait::until` cannot be used for every kind of database.)
async fn until<D: Database>(world: &World<D>, branch: &Branch, expected: &str) {
    let started = Instant::now();
    loop {
        let state = state(world, branch).await;
        if state == expected {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {expected}: {state}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn alarmed(sweeper: &Sweeper, count: u64) -> InDoubt {
    let mut watch = sweeper.watch();
    let told = watch.wait_for(|told| told.sweeps > 0 && told.alarmed == count);
    let told = tokio::time::timeout(PATIENCE, told).await;
    *told.expect("the alarms").expect("the sweeper runs")
}

/// Never purges.
fn keeping() -> Sweep {
    eager().keep_rows()
}

async fn s12_the_sweeper_commits_the_steps_of_a_saga_that_is_committed<D: Database>(
    world: World<D>,
) {
    let coordinator = Inquired::default();
    let steps = [
        prepared(&world, Branch::step(&WORK)).await,
        prepared(&world, Branch::new(Mode::Saga, "final", &WORK).that_must_succeed()).await,
    ];
    let reserved = prepared(&world, Branch::tcc(&WORK)).await;
    let sweeper = world.sweep(&coordinator.serve().await, keeping());
    let told = two_sweeps(&sweeper).await;
    assert_eq!((told.count, told.steps, told.alarmed), (1, 2, 0), "steps are not in doubt");
    for step in &steps {
        assert_eq!(state(&world, step).await, "prepared", "S12: nothing is decided");
    }

    for branch in steps.iter().chain([&reserved]) {
        coordinator.tell(branch, Verdict::Commit, false);
    }
    for step in &steps {
        until(&world, step, "committed").await;
        let vote = world.prepare(step).await;
        assert!(vote.is_prepared(), "S7: the vote stands: {vote:?}");
        assert_eq!(world.effects(step, "try").await, 1, "S7");
    }
    let told = two_sweeps(&sweeper).await;
    assert_eq!((told.count, told.steps, told.alarmed), (1, 0, 0));
    assert_eq!(state(&world, &reserved).await, "prepared", "its handler is owed a Commit");
    assert_eq!(world.effects(&reserved, "confirm").await, 0);
}

async fn s12_a_step_that_is_to_be_compensated_is_left_to_its_cancel<D: Database>(world: World<D>) {
    let coordinator = Inquired::default();
    let step = prepared(&world, Branch::step(&WORK)).await;
    coordinator.tell(&step, Verdict::Cancel, false);
    let sweeper = world.sweep(&coordinator.serve().await, keeping());
    let told = two_sweeps(&sweeper).await;
    assert_eq!((told.count, told.steps, told.alarmed), (0, 1, 0));
    assert_eq!(state(&world, &step).await, "prepared", "S12");
    assert_eq!(world.cancelled(&step).await, End::Done);
    assert_eq!(world.effects(&step, "compensate").await, 1, "S7");
    assert_eq!(two_sweeps(&sweeper).await.steps, 0);
}

async fn s12_a_step_that_the_coordinator_does_not_know_raises_an_alarm<D: Database>(
    world: World<D>,
) {
    let coordinator = Inquired::default();
    let mut steps = Vec::new();
    for (verdict, ended) in [
        (Verdict::NeverSeen, false),
        (Verdict::Purged, true),
        (Verdict::Heuristic, true),
        // A Cancel that was answered with done, and whose row is back.
        (Verdict::Cancel, true),
    ] {
        let step = prepared(&world, Branch::step(&WORK)).await;
        coordinator.tell(&step, verdict, ended);
        steps.push(step);
    }
    let sweeper = world.sweep(&coordinator.serve().await, keeping());
    let told = alarmed(&sweeper, 4).await;
    assert_eq!((told.count, told.steps), (0, 4));
    for step in &steps {
        assert_eq!(state(&world, step).await, "prepared", "S12: nothing is touched");
        coordinator.tell(step, Verdict::Running, false);
    }
    alarmed(&sweeper, 0).await;
}

async fn s12_a_saga_that_runs_is_asked_about_less_and_less_often<D: Database>(world: World<D>) {
    let coordinator = Inquired::default();
    let step = prepared(&world, Branch::step(&WORK)).await;
    let reserved =
        [prepared(&world, Branch::tcc(&WORK)).await, prepared(&world, Branch::tcc(&WORK)).await];
    let sweeper = world.sweep(&coordinator.serve().await, keeping());
    for _ in 0..40 {
        two_sweeps(&sweeper).await;
    }
    // Of the group one at least is asked about in each sweep: the first one, if no other is.
    let [one, other] = reserved.each_ref().map(|branch| coordinator.asked(branch));
    let asked = coordinator.asked(&step);
    assert!((2..=25).contains(&asked), "asked {asked} times in 80 sweeps");
    let (fewer, more) = (one.min(other), one.max(other));
    assert!((2..=25).contains(&fewer), "a reserved one: asked {fewer} times in 80 sweeps");
    assert!(more >= 40, "asked {more} times in 80 sweeps: the coordinator may have gone");
    coordinator.tell(&step, Verdict::Commit, true);
    until(&world, &step, "committed").await;
}

/// L4: a reservation that is asked about rarely raises its alarm as soon as another one does, where no coordinator
/// answers.
async fn l4_a_reservation_that_runs_raises_its_alarm_where_nobody_answers<D: Database>(
    world: World<D>,
) {
    let coordinator = Inquired::default();
    for _ in 0..3 {
        prepared(&world, Branch::tcc(&WORK)).await;
    }
    // Long enough that the next question about all of them is some time away.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let sweeper = world.sweep(&coordinator.serve().await, keeping());
    assert_eq!(two_sweeps(&sweeper).await.alarmed, 0);
    coordinator.fall_silent(true);
    let silent = Instant::now();
    alarmed(&sweeper, 3).await;
    assert!(silent.elapsed() < Duration::from_secs(3), "{:?}", silent.elapsed());
    coordinator.fall_silent(false);
    alarmed(&sweeper, 0).await;
}

async fn s7_the_row_of_a_committed_step_outlives_its_saga<D: Database>(world: World<D>) {
    let coordinator = Inquired::default();
    // It comes in time; the bound is past a moment later.
    let bound = Some(SystemTime::now() + Duration::from_secs(3));
    let step = prepared(&world, Branch { until: bound, ..Branch::step(&WORK) }).await;
    coordinator.tell(&step, Verdict::Commit, false);
    let sweeper = world.sweep(&coordinator.serve().await, eager().retention(RETENTION));
    until(&world, &step, "committed").await;
    tokio::time::sleep(Duration::from_secs(3) + RETENTION).await;
    two_sweeps(&sweeper).await;
    assert_eq!(state(&world, &step).await, "committed", "its saga has not ended");
    coordinator.tell(&step, Verdict::Commit, true);
    until(&world, &step, "purged").await;
}

/// A step after a pivot has no `prepare_until`: its Prepare is refused at no time, so its row must be
/// there for as long as one may be under way.
async fn s7_a_row_without_a_bound_outlives_its_saga_for_a_retention<D: Database>(world: World<D>) {
    let coordinator = Inquired::default();
    let of = |mode, action| Branch::new(mode, action, &WORK).that_must_succeed();
    let step = prepared(&world, of(Mode::Saga, "final")).await;
    let reserved = prepared(&world, of(Mode::Tcc, "work")).await;
    assert_eq!(world.commit(&reserved).await, End::Done);
    for branch in [&step, &reserved] {
        coordinator.tell(branch, Verdict::Commit, false);
    }
    let sweeper = world.sweep(&coordinator.serve().await, eager().retention(RETENTION));
    until(&world, &step, "committed").await;
    tokio::time::sleep(2 * RETENTION).await;
    two_sweeps(&sweeper).await;
    for branch in [&step, &reserved] {
        assert_eq!(state(&world, branch).await, "committed", "its saga has not ended");
        coordinator.tell(branch, Verdict::Commit, true);
    }
    let ended = Instant::now();
    for branch in [&step, &reserved] {
        until(&world, branch, "purged").await;
        assert!(ended.elapsed() >= RETENTION, "a Prepare may have been under way");
    }
}
