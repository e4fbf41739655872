//! Coordinators that do not answer a sweeper.

use unanimo_proto::v1::Mode;
use unanimo_sdk::{Participant, Sqlite};
use unanimo_tests::wait::until;

use super::databases::Database;
use super::direct::branch;
use super::inquired::Inquired;
use super::sweeper::{Reserve, eager};

/// Former coordinator groups of a database, which nobody answers for.
const FORMER: usize = 12;

/// Each question may cost its whole timeout, whichever cluster it is about.
#[tokio::test]
async fn l4_a_coordinator_that_does_not_answer_is_asked_once_in_a_sweep() {
    let (deaf, alive) = (Inquired::default(), Inquired::of_group("now"));
    deaf.fall_silent(true);
    let (database, _pool) = <Sqlite as Database>::open().await;
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    for number in 0..FORMER {
        let mut of = branch(Mode::Tcc, "ok");
        of.context.cluster_id = format!("former-{number}");
        of.prepare(&service).await.unwrap();
    }
    let sweeper = service.sweep([deaf.serve().await, alive.serve().await], eager()).unwrap();
    until("sweeps", async || (sweeper.in_doubt().sweeps > 3).then_some(())).await;
    let told = sweeper.watch();
    sweeper.stop().await;
    let sweeps = usize::try_from(told.borrow().sweeps).unwrap();
    assert!((1..=sweeps + 1).contains(&deaf.questions()), "{} in {sweeps}", deaf.questions());
    assert!(alive.questions() >= FORMER, "{}", alive.questions());
}

/// A coordinator that does not answer costs its timeout once, and not in each sweep.
#[tokio::test]
async fn l4_the_coordinator_that_told_last_is_asked_first() {
    let (deaf, alive) = (Inquired::default(), Inquired::of_group("now"));
    deaf.fall_silent(true);
    let (database, _pool) = <Sqlite as Database>::open().await;
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    let mut of = branch(Mode::Tcc, "ok");
    of.context.cluster_id = "now".to_owned();
    of.prepare(&service).await.unwrap();
    let sweeper = service.sweep([deaf.serve().await, alive.serve().await], eager()).unwrap();
    until("sweeps", async || (sweeper.in_doubt().sweeps > 5).then_some(())).await;
    sweeper.stop().await;
    assert_eq!(deaf.questions(), 1);
    assert!(alive.questions() > 3, "{}", alive.questions());
}

/// A group that no coordinator is of is asked about again after minutes only, so that rows of former groups cost nothing.
#[tokio::test]
async fn l4_a_group_that_is_nobodys_is_asked_about_once() {
    let alive = Inquired::of_group("now");
    let (database, _pool) = <Sqlite as Database>::open().await;
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    for number in 0..FORMER {
        let mut of = branch(Mode::Tcc, "ok");
        of.context.cluster_id = format!("former-{number}");
        of.prepare(&service).await.unwrap();
    }
    let sweeper = service.sweep([alive.serve().await], eager()).unwrap();
    until("sweeps", async || (sweeper.in_doubt().sweeps > 3).then_some(())).await;
    sweeper.stop().await;
    assert_eq!(alive.questions(), FORMER);
}
