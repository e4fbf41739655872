//! Questions of the sweeper: whom it asks first and whom no more, and rows that nobody asks about.

use std::time::Duration;

use unanimo_proto::v1::Verdict;
use unanimo_sdk::{Isolation, MySql, Participant, Postgres, Service, Sqlite};
use unanimo_tests::alarms::Alarms;
use unanimo_tests::wait::until;

use super::calls::{Branch, World};
use super::databases::Database;
use super::handler::{Deed, Job};
use super::inquired::Inquired;
use super::sweeper::{eager, two_sweeps};

/// Group of the branches that [`World`] prepares.
const OWN: &str = "cluster";

const HOUR_MS: i64 = 3_600_000;

const WORK: Job = Job { prepare: Deed::Work, phase_two: Deed::Work };

/// Rows that a question has no room for: they are asked about in three.
const ROWS: u32 = 300;

/// A participant without an action, with rows in this state and of this coordinator group.
async fn with_rows(state: &str, cluster_id: &str) -> Service<Sqlite> {
    let (database, pool) = <Sqlite as Database>::open().await;
    let rows = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO unanimo_barrier (tx_id, branch_id, cluster_id, participant, gid, action, mode, state,
             created_ms, changed_ms, prepare_until_ms)
         SELECT printf('00000000-0000-7000-8000-%012d', i), 'a', '{cluster_id}', 'p', 'g', 'ok', 'tcc', '{state}',
             1, 1, 1 FROM n"
    );
    Sqlite::run_outside(&pool, rows).await;
    Participant::new("p", database).service().unwrap()
}

/// A coordinator that does not answer costs its time once, and not for every question.
#[tokio::test]
async fn the_coordinator_that_told_last_is_asked_first() {
    let service = with_rows("prepared", OWN).await;
    let [away, there] = [Inquired::default(), Inquired::default()];
    away.fall_silent(true);
    let sweeper = service.sweep([away.serve().await, there.serve().await], eager()).unwrap();
    until("the other to tell of all", async || {
        let last = format!("00000000-0000-7000-8000-{ROWS:012}");
        (there.asked_of(&last) > 1).then_some(())
    })
    .await;
    assert!(there.questions() >= 3, "{} questions", there.questions());
    assert_eq!(away.questions(), 1, "it did not answer the first one");
    sweeper.stop().await;
}

/// Rows of a coordinator that is no more are there for ever, and cost one question now and then.
#[tokio::test]
async fn a_group_that_is_nobodys_is_asked_about_once() {
    for state in ["prepared", "committed"] {
        let service = with_rows(state, "former").await;
        let nodes = [Inquired::of_group(OWN), Inquired::of_group(OWN)];
        let urls = [nodes[0].serve().await, nodes[1].serve().await];
        let sweeper = service.sweep(urls, eager().retention(Duration::from_secs(60))).unwrap();
        until("it to be asked about", async || (nodes[1].questions() > 0).then_some(())).await;
        for _ in 0..3 {
            two_sweeps(&sweeper).await;
        }
        assert_eq!(nodes.map(|node| node.questions()), [1, 1], "{state}");
        sweeper.stop().await;
    }
}

/// Makes the branch one of this name, which was made and looked after so long ago.
async fn hand_over<D: Database>(world: &World<D>, branch: &Branch, name: &str, ago_ms: i64) {
    let pool = std::any::type_name::<D::Pool>();
    let changed = match (pool.contains("Sqlite"), pool.contains("MySql")) {
        (true, _) => {
            format!("created_ms = created_ms - {ago_ms}, changed_ms = changed_ms - {ago_ms}")
        }
        (_, true) => {
            let ago = format!("INTERVAL {} SECOND", ago_ms / 1000);
            format!("created_at = created_at - {ago}, changed_at = changed_at - {ago}")
        }
        _ => {
            let ago = format!("{ago_ms} * interval '1 millisecond'");
            format!("created_at = created_at - {ago}, changed_at = changed_at - {ago}")
        }
    };
    let tx_id = branch.tx_id;
    let change = format!(
        "UPDATE unanimo_barrier SET participant = '{name}', {changed} WHERE tx_id = '{tx_id}'"
    );
    D::run_outside(&world.pool, change).await;
}

/// Steps of a participant that was renamed are nobody's: their rows would stay for ever. A neighbour looks after its
/// own, which may wait for days.
#[tokio::test]
async fn l4_steps_of_a_former_name_are_told() {
    async fn on<D: Database>() {
        let (alarms, _listening) = Alarms::listen();
        let world = World::<D>::open(Isolation::ReadCommitted).await;
        for (name, ago_ms) in
            [("before", 4 * HOUR_MS), ("before", 0), ("neighbour", 2 * HOUR_MS), ("bank", 0)]
        {
            let step = Branch::step(&WORK);
            assert!(world.vote(&step).await.is_prepared());
            hand_over(&world, &step, name, ago_ms).await;
        }
        // One that is just at work does not count.
        let young = Branch::tcc(&WORK);
        assert!(world.vote(&young).await.is_prepared());
        hand_over(&world, &young, "before", 0).await;
        let coordinator = Inquired::of_group(OWN);
        let sweeper = world.sweep(&coordinator.serve().await, eager().keep_rows());
        until("the alarm", async || {
            (!alarms.named("in_doubt_other_name").is_empty()).then_some(())
        })
        .await;
        two_sweeps(&sweeper).await;
        let told = alarms.named("in_doubt_other_name");
        let is_it = |line: &str| line.contains("other=\"before\"") && line.contains("branches=1 ");
        assert!(told.len() == 1 && is_it(&told[0]), "{told:?}");
        sweeper.stop().await;
    }
    on::<Postgres>().await;
    on::<MySql>().await;
    on::<Sqlite>().await;
}

/// Sweepers that ask about a step mark its row, whatever is told of it, and whether anything is: for hours nothing else
/// changes the row of one that is to be compensated. It is asked about in each sweep all the same.
#[tokio::test]
async fn l4_steps_that_a_neighbour_asks_about_are_not_told() {
    async fn on<D: Database>() {
        let (resource, pool) = D::open().await;
        let world = World::with(resource.clone(), pool, Isolation::ReadCommitted).await;
        let coordinator = Inquired::of_group(OWN);
        let url = coordinator.serve().await;
        let steps = [Verdict::Cancel, Verdict::NeverSeen].map(|verdict| {
            let step = Branch::step(&WORK);
            coordinator.tell(&step, verdict, false);
            step
        });
        for step in &steps {
            assert!(world.vote(step).await.is_prepared());
        }
        for is_silent in [false, true] {
            for step in &steps {
                hand_over(&world, step, "bank", 4 * HOUR_MS).await;
            }
            coordinator.fall_silent(is_silent);
            let sweeper = world.sweep(&url, eager().keep_rows());
            two_sweeps(&sweeper).await;
            let asked = || (coordinator.questions(), coordinator.asked(&steps[0]));
            let before = asked();
            two_sweeps(&sweeper).await;
            let after = asked();
            assert!(after.0 > before.0 && (is_silent || after.1 > before.1), "L4: asked no more");
            sweeper.stop().await;
            coordinator.fall_silent(false);

            let (alarms, _listening) = Alarms::listen();
            let neighbour = Participant::new("other", resource.clone()).service().unwrap();
            let sweeper = neighbour.sweep([url.clone()], eager().keep_rows()).unwrap();
            two_sweeps(&sweeper).await;
            sweeper.stop().await;
            let told = alarms.named("in_doubt_other_name");
            assert!(told.is_empty(), "silent: {is_silent}: {told:?}");
        }
    }
    on::<Postgres>().await;
    on::<MySql>().await;
    on::<Sqlite>().await;
}

/// Once the participant says that it was renamed, they end and go as its own do.
#[tokio::test]
async fn s7_steps_of_a_former_name_are_committed_and_purged() {
    async fn on<D: Database>(bound: &str) {
        let (resource, pool) = D::open().await;
        let before = World::with(resource.clone(), pool, Isolation::ReadCommitted).await;
        let step = Branch::step(&WORK);
        assert!(before.vote(&step).await.is_prepared());
        let past = format!("UPDATE unanimo_barrier SET {bound}");
        D::run_outside(&before.pool, past).await;
        let coordinator = Inquired::of_group(OWN);
        coordinator.tell(&step, Verdict::Commit, true);
        let renamed = Participant::new("new-bank", resource).formerly("bank").service().unwrap();
        let sweep = eager().retention(Duration::from_secs(60));
        let sweeper = renamed.sweep([coordinator.serve().await], sweep).unwrap();
        until("its purge", async || before.state(&step).await.is_none().then_some(())).await;
        sweeper.stop().await;
    }
    on::<Postgres>("prepare_until = now() - interval '1 hour'").await;
    on::<MySql>("prepare_until_ms = 1").await;
    on::<Sqlite>("prepare_until_ms = 1").await;
}
