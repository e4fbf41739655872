//! Thousands of random orders of prepare, commit, cancel, duplicates, lost answers and dying
//! connections, on every database, against a model.
//!
//! A [schedule](schedule) is a few groups of calls for one branch; those of a group are at work at
//! once. The [model](rules) knows what each call may do to a branch and shares no code with the
//! barrier. After each group there must be an order of its calls in which everybody's answer is
//! right; at the end the [database](lab) must hold what one of the states that are left says.
//!
//! A failure tells its seed: `TEST_SEED=… cargo xtask test model` plays that schedule alone.

mod lab;
mod rules;
mod schedule;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use unanimo_proto::v1::participant_service_server::ParticipantService;

use self::lab::Lab;
use self::rules::{Heard, State, explain};
use self::schedule::{Call, Schedule};

/// Schedules on each database.
const SCHEDULES: u64 = 2_000;

/// The same where each yes costs a session, and each Commit and Cancel waits.
const SCHEDULES_SLOW: u64 = 500;

/// Schedules under way at once: they have nothing to do with one another.
const AT_ONCE: u64 = 8;

/// The same where a lock is waited for for a second. Each has calls of its own, and so have the connections.
const AT_ONCE_WAITING: u64 = 32;

/// Longest time of a schedule, which takes a few waits for locks. One that takes longer never ends.
const PATIENCE: Duration = Duration::from_secs(60);

async fn agrees_with_the_model(lab: Lab) {
    schedules_agree(lab, SCHEDULES, AT_ONCE).await;
}

async fn schedules_agree(lab: Lab, schedules: u64, at_once: u64) {
    let lab = Arc::new(lab);
    let seeds = match std::env::var("TEST_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("TEST_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..schedules,
    };
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..at_once {
        let (lab, seeds) = (Arc::clone(&lab), seeds.clone());
        lanes.spawn(async move {
            for seed in seeds.filter(|seed| seed % at_once == lane) {
                let mut story = Vec::new();
                let played = tokio::time::timeout(PATIENCE, play(&lab, seed, &mut story)).await;
                assert!(
                    played.is_ok(),
                    "it has not ended after {PATIENCE:?} on {}; TEST_SEED={seed}\n  {}",
                    lab.name(),
                    story.join("\n  ")
                );
            }
        });
    }
    while let Some(lane) = lanes.join_next().await {
        if let Err(failed) = lane {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
    lab.check_nothing_is_left().await;
}

/// Plays a schedule, and writes down what was heard.
async fn play(lab: &Arc<Lab>, seed: u64, story: &mut Vec<String>) {
    let schedule = Schedule::new(seed, lab.mode());
    let mut states = BTreeSet::from([State::None]);
    for group in &schedule.groups {
        let heard = at_once(lab, &schedule, group).await;
        let calls: Vec<_> = group.iter().copied().zip(heard).collect();
        story.push(format!("{calls:?}"));
        states = explain(&states, &calls, lab.mode());
        assert!(
            !states.is_empty(),
            "S7, S8: no order of these answers is right on {}; TEST_SEED={seed}\n  {}",
            lab.name(),
            story.join("\n  ")
        );
    }
    // Somebody gets it to an end, as a coordinator would: again until it is answered.
    let last = Call::plain(schedule.last);
    loop {
        let heard = lab.call(&schedule, last).await;
        states = explain(&states, &[(last, heard)], lab.mode());
        story.push(format!("{last:?}: {heard:?}"));
        assert!(!states.is_empty(), "TEST_SEED={seed}\n  {}", story.join("\n  "));
        if heard != Heard::Nothing {
            break;
        }
    }
    let found = lab.effects(&schedule).await;
    let expected: BTreeSet<_> = states.iter().map(|state| state.effects(lab.mode())).collect();
    assert!(
        expected.contains(&found),
        "S7: {} holds the effects {found:?}, expected {expected:?}; TEST_SEED={seed}\n  {}",
        lab.name(),
        story.join("\n  ")
    );
}

async fn at_once(lab: &Arc<Lab>, schedule: &Schedule, group: &[Call]) -> Vec<Heard> {
    let mut calls = Vec::new();
    for &call in group {
        let (lab, schedule) = (Arc::clone(lab), schedule.clone());
        calls.push(tokio::spawn(async move { lab.call(&schedule, call).await }));
    }
    let mut heard = Vec::new();
    for call in calls {
        heard.push(call.await.unwrap());
    }
    heard
}

/// A participant's service of any kind.
type Participant = Box<dyn ParticipantService>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_s8_tcc_on_postgres_agrees_with_the_model() {
    agrees_with_the_model(Lab::tcc_on_postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_s8_two_phase_commit_on_postgres_agrees_with_the_model() {
    agrees_with_the_model(Lab::two_phase_on_postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_s8_tcc_over_tokio_agrees_with_the_model() {
    agrees_with_the_model(Lab::tcc_over_tokio().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_s8_two_phase_commit_over_tokio_agrees_with_the_model() {
    agrees_with_the_model(Lab::two_phase_over_tokio().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_s8_two_phase_commit_on_mariadb_agrees_with_the_model() {
    schedules_agree(Lab::two_phase_on_mariadb().await, SCHEDULES, AT_ONCE_WAITING).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_s8_two_phase_commit_on_mariadb_whose_sessions_keep_transactions_agrees_with_the_model()
{
    let lab = Lab::two_phase_on_mariadb_whose_sessions_keep_transactions().await;
    schedules_agree(lab, SCHEDULES_SLOW, AT_ONCE_WAITING).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_s8_tcc_on_sqlite_agrees_with_the_model() {
    agrees_with_the_model(Lab::tcc_on_sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_s8_tcc_on_mariadb_agrees_with_the_model() {
    schedules_agree(Lab::tcc_on_mariadb().await, SCHEDULES, AT_ONCE_WAITING).await;
}
