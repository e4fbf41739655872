//! A database of the same history that lacks what it had, and coordinators that never say what is lost (promise S11).

use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor};
use unanimo_proto::v1::{Mode, Outcome as Decided};
use unanimo_tests::alarms::Alarms;
use unanimo_tests::wait::until;

use super::deaf::Ears;
use super::direct::branch;
use super::promoted_losses::{bank, change_history, ended, field, lost, noted};
use super::sweeper::{World, eager, two_sweeps};
use crate::coordinator::tcc;

/// Nobody listens there.
const NOBODY: &str = "http://127.0.0.1:9";

/// A snapshot that is put back: same system, same timeline. A process that lives through it has seen more.
#[tokio::test]
async fn s11_what_a_snapshot_lacks_is_told_by_who_has_seen_more() {
    for note in [
        // The note of then.
        "UPDATE unanimo_barrier_timeline SET noted_at = noted_at - interval '10 minutes'",
        // From before the first note.
        "DELETE FROM unanimo_barrier_timeline",
    ] {
        let (alarms, _listening) = Alarms::listen();
        let (pool, _, service) = bank().await;
        let world = World::start(service.clone(), Ears::Open).await;
        let sweeper = service.sweep([world.url()], eager()).unwrap();
        let kept = ended(&world, tcc("kept", &["ok"]), Decided::Committed).await;
        until("the note", async || noted(&pool).await).await;
        let gone = ended(&world, tcc("gone", &["ok"]), Decided::Committed).await;
        two_sweeps(&sweeper).await;
        assert!(alarms.named("database_promoted").is_empty(), "nothing is missing");
        let restore =
            format!("BEGIN; DELETE FROM unanimo_barrier WHERE tx_id = '{gone}'; {note}; COMMIT");
        pool.execute(sqlx::raw_sql(AssertSqlSafe(restore))).await.unwrap();
        until("the alarm", async || (!lost(&alarms).is_empty()).then_some(())).await;
        two_sweeps(&sweeper).await;
        two_sweeps(&sweeper).await;
        assert_eq!(lost(&alarms), [(gone, "a".to_owned())], "once; {kept} is there");
        let promoted = alarms.named("database_promoted");
        assert_eq!(promoted.len(), 1, "{promoted:?}");
        assert_eq!(field(&promoted[0], "from_timeline"), field(&promoted[0], "to_timeline"));
        // It is noted: who is started now has nothing to tell.
        sweeper.stop().await;
        let last = service.sweep([world.url()], eager()).unwrap();
        two_sweeps(&last).await;
        assert_eq!((alarms.named("database_promoted").len(), lost(&alarms).len()), (1, 1));
        last.stop().await;
    }
}

/// A look of the sweep that fails each time keeps no other look from being taken.
#[tokio::test]
async fn s11_a_history_is_compared_where_another_look_of_the_sweep_fails() {
    let (alarms, _listening) = Alarms::listen();
    let (pool, _, service) = bank().await;
    branch(Mode::Tcc, "ok").prepare(&service).await.unwrap();
    // Outputs of open branches are looked at, and by nothing else of a sweep.
    pool.execute("ALTER TABLE unanimo_barrier RENAME COLUMN output TO hidden").await.unwrap();
    let sweeper = service.sweep([NOBODY], eager()).unwrap();
    until("the note", async || noted(&pool).await).await;
    two_sweeps(&sweeper).await;
    let back = "UPDATE unanimo_barrier_timeline SET noted_at = noted_at - interval '10 minutes'";
    pool.execute(back).await.unwrap();
    until("the alarm", async || alarms.named("database_promoted").pop()).await;
    assert!(sweeper.in_doubt().known, "L4: what is in doubt is known all the same");
    sweeper.stop().await;
}

/// A clock that is set back, and notes of two processes, are no snapshot.
#[tokio::test]
async fn notes_of_two_processes_are_no_change() {
    let (alarms, _listening) = Alarms::listen();
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Open).await;
    let sweepers = [(); 2].map(|()| service.sweep([world.url()], eager()).unwrap());
    until("the note", async || noted(&pool).await).await;
    for _ in 0..5 {
        let older =
            "UPDATE unanimo_barrier_timeline SET noted_at = noted_at - interval '5 seconds'";
        pool.execute(older).await.unwrap();
        for sweeper in &sweepers {
            two_sweeps(sweeper).await;
        }
    }
    assert!(alarms.named("database_promoted").is_empty());
    for sweeper in sweepers {
        sweeper.stop().await;
    }
}

/// A node that was removed and is still configured: its group was compared by another one.
#[tokio::test]
async fn s11_a_coordinator_that_never_answers_repeats_no_alarm_for_ever() {
    let (alarms, _listening) = Alarms::listen();
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Open).await;
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    let gone = ended(&world, tcc("gone", &["ok"]), Decided::Committed).await;
    ended(&world, tcc("kept", &["ok"]), Decided::Committed).await;
    let timeline = until("the note", async || noted(&pool).await).await;
    sweeper.stop().await;
    let delete = format!("DELETE FROM unanimo_barrier WHERE tx_id = '{gone}'");
    pool.execute(AssertSqlSafe(delete)).await.unwrap();
    change_history(&pool).await;
    for _ in 0..3 {
        let sweeper = service.sweep([NOBODY.to_owned(), world.url()], eager()).unwrap();
        until("the new note", async || (noted(&pool).await == Some(timeline)).then_some(())).await;
        two_sweeps(&sweeper).await;
        sweeper.stop().await;
    }
    assert_eq!(lost(&alarms), [(gone, "a".to_owned())], "once");
    assert_eq!(alarms.named("database_promoted").len(), 1);
    // It may have been of a group of which no row is left: that is not passed over in silence.
    let not_known = alarms.named("losses_not_known");
    assert!(not_known.len() == 1 && not_known[0].contains("127.0.0.1:9"), "{not_known:?}");
}

/// A group with rows here that is away is waited for, whoever else has told.
#[tokio::test]
async fn s11_a_group_that_is_away_is_asked_when_it_is_back() {
    let (alarms, _listening) = Alarms::listen();
    let (pool, _, service) = bank().await;
    let here = World::start(service.clone(), Ears::Open).await;
    let away = World::start(service.clone(), Ears::Open).await;
    let sweeper = service.sweep([here.url(), away.url()], eager()).unwrap();
    ended(&here, tcc("kept", &["ok"]), Decided::Committed).await;
    ended(&away, tcc("kept", &["ok"]), Decided::Committed).await;
    let gone = ended(&away, tcc("gone", &["ok"]), Decided::Committed).await;
    let timeline = until("the note", async || noted(&pool).await).await;
    two_sweeps(&sweeper).await;
    sweeper.stop().await;
    let delete = format!("DELETE FROM unanimo_barrier WHERE tx_id = '{gone}'");
    pool.execute(AssertSqlSafe(delete)).await.unwrap();
    change_history(&pool).await;
    let sweeper = service.sweep([here.url(), NOBODY.to_owned()], eager()).unwrap();
    until("the alarm", async || (!alarms.named("database_promoted").is_empty()).then_some(()))
        .await;
    two_sweeps(&sweeper).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_ne!(noted(&pool).await, Some(timeline), "S11: the other group has not told");
    assert!(lost(&alarms).is_empty() && alarms.named("losses_not_known").is_empty());
    sweeper.stop().await;
    let sweeper = service.sweep([here.url(), away.url()], eager()).unwrap();
    until("the new note", async || (noted(&pool).await == Some(timeline)).then_some(())).await;
    assert_eq!(lost(&alarms), [(gone, "a".to_owned())], "S11");
    sweeper.stop().await;
}
