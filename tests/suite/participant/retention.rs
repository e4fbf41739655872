//! Rows that a participant purges, and rows that it never purges.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sqlx::{Executor, PgPool};
use unanimo_proto::v1::{Mode, Outcome, cancel_response, commit_response, prepare_response};
use unanimo_sdk::Service;
use unanimo_tests::alarms::Alarms;
use unanimo_tests::clock::Clock;
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::deaf::Ears;
use super::direct::{Branch, branch, refused};
use super::sweeper::{World, bank, bank_of, eager, states, two_sweeps};
use crate::coordinator::tcc;
use crate::participant::promoted::one;

/// The retention of every test here.
pub(super) const RETENTION: Duration = Duration::from_secs(3600);

/// Rows by branch id: each state, with `prepare_until` before the retention, within it, and without.
const FILL: &str = "
    INSERT INTO unanimo_barrier
        (tx_id, branch_id, cluster_id, participant, gid, action, mode, state, prepare_until)
    SELECT gen_random_uuid(), participant || '-' || state || '-' || age, 'none', participant, 'g',
        'ok', 'tcc', state, now() - until
    FROM (VALUES ('p'), ('q')) AS p (participant),
        unnest(ARRAY['running', 'prepared', 'read_only', 'refused', 'committed', 'cancelled',
            'lost']) AS state,
        (VALUES ('old', interval '2 hours'), ('young', interval '30 minutes'), ('ageless', NULL))
            AS ages (age, until)";

async fn left(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("SELECT branch_id FROM unanimo_barrier ORDER BY branch_id")
        .fetch_all(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn s8_rows_are_purged_by_age_only_where_nothing_can_miss_them() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Open).await;
    pool.execute(FILL).await.unwrap();
    let mut expected = left(&pool).await;
    assert_eq!(expected.len(), 2 * 7 * 3);
    expected.retain(|id| {
        !["p-read_only-old", "p-refused-old", "p-cancelled-old"].contains(&id.as_str())
    });

    let keeping = service.sweep([world.url()], eager().keep_rows()).unwrap();
    two_sweeps(&keeping).await;
    keeping.stop().await;
    assert_eq!(left(&pool).await.len(), 2 * 7 * 3, "switched off");

    let sweeper = service.sweep([world.url()], eager().retention(RETENTION)).unwrap();
    until("the purge", async || (left(&pool).await == expected).then_some(())).await;
    two_sweeps(&sweeper).await;
    assert_eq!(left(&pool).await, expected);
}

/// More rows than one sweep takes, and an interval of an hour: it goes on at once.
#[tokio::test]
async fn purging_goes_on_until_nothing_is_left() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Open).await;
    pool.execute(
        "INSERT INTO unanimo_barrier
            (tx_id, branch_id, cluster_id, participant, gid, action, mode, state, prepare_until)
         SELECT gen_random_uuid(), 'a', 'none', 'p', 'g', 'ok', 'tcc', 'refused', now() - interval '2 hours'
         FROM generate_series(1, 20500)",
    )
    .await
    .unwrap();
    let once = eager().interval(Duration::from_secs(3600)).retention(RETENTION);
    let _sweeper = service.sweep([world.url()], once).unwrap();
    until("the purge", async || {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM unanimo_barrier")
            .fetch_one(&pool)
            .await
            .unwrap();
        (count == 0).then_some(())
    })
    .await;
}

/// A committed row goes when the coordinator will never send Commit again, and not before.
#[tokio::test]
async fn s7_a_committed_row_outlives_every_commit_that_may_come() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Open).await;
    world.p.deaf_for("b");
    let tx_id = world.submit(tcc("g", &["ok", "ok"]), Outcome::Committed).await;
    let committed = |states: &[(String, String)]| states[0].1 == "committed";
    until("one commit", async || committed(&states(&pool, &tx_id).await).then_some(())).await;
    age(&pool).await;

    let sweeper = service.sweep([world.url()], eager().retention(RETENTION)).unwrap();
    two_sweeps(&sweeper).await;
    two_sweeps(&sweeper).await;
    let now = states(&pool, &tx_id).await;
    assert!(committed(&now), "it has answered, and a crash may forget that: {now:?}");
    assert_eq!(now[1].1, "prepared", "never by age");

    // The other one ends as well, and with it the transaction.
    let mut other = branch(Mode::Tcc, "ok");
    other.context.tx_id.clone_from(&tx_id);
    other.context.branch_id = "b".into();
    world.p.hear("b");
    until("its end", async || world.get(&tx_id).await.ended_at.map(drop)).await;
    until("the purge", async || states(&pool, &tx_id).await.is_empty().then_some(())).await;
    // A Prepare that was on its way all the time.
    other.prepare_until = Some((SystemTime::now() - 2 * RETENTION).into());
    assert_eq!(refused(other.prepare(&service).await.unwrap()), "TOO_LATE");
}

async fn age(pool: &PgPool) {
    pool.execute("UPDATE unanimo_barrier SET prepare_until = now() - interval '2 hours'")
        .await
        .unwrap();
}

/// S8: messages that come after the purge have no effect and get the right answer.
pub(super) async fn late_messages<R: unanimo_sdk::Resource>(
    service: &Service<R>,
    world_url: String,
    mode: Mode,
    age: impl AsyncFn(),
    rows: impl AsyncFn() -> usize,
) {
    let action = if mode == Mode::Tcc { "ok" } else { "write" };
    let calls = [(); 4].map(|()| branch(mode, action));
    let [refused_branch, refused_and_cancelled, cancelled, tombstone] = &calls;
    let no = async |branch: &Branch| refused(branch.prepare(service).await.unwrap());
    let cancel = async |branch: &Branch| {
        let answer = branch.cancel(service).await.unwrap();
        assert!(matches!(answer, cancel_response::Answer::Done(_)), "{answer:?}");
    };
    for branch in [refused_branch, refused_and_cancelled] {
        let mut bad = branch.clone();
        bad.action = "none".into();
        assert_eq!(no(&bad).await, "ACTION_NOT_OFFERED");
    }
    cancel(refused_and_cancelled).await;
    let yes = cancelled.prepare(service).await.unwrap();
    assert!(matches!(yes, prepare_response::Answer::Prepared(_)), "{yes:?}");
    cancel(cancelled).await;
    cancel(tombstone).await;
    assert_eq!(no(tombstone).await, "ALREADY_ENDED");
    assert_eq!(rows().await, 4);

    age().await;
    let sweeper = service.sweep([world_url], eager().retention(RETENTION)).unwrap();
    until("the purge", async || (rows().await == 0).then_some(())).await;
    sweeper.stop().await;

    let past = Some((SystemTime::now() - 2 * RETENTION).into());
    for branch in &calls {
        let late = Branch { prepare_until: past, ..branch.clone() };
        assert_eq!(no(&late).await, "TOO_LATE");
        cancel(&late).await;
    }
    for branch in &calls {
        let again = branch.commit(service).await.unwrap();
        // Nobody sends it: the row says that the branch was undone, and that is told.
        assert!(matches!(again, commit_response::Answer::Heuristic(_)), "{again:?}");
    }
}

#[tokio::test]
async fn s8_messages_that_come_after_the_purge_have_no_effect() {
    for mode in [Mode::Tcc, Mode::TwoPhaseCommit] {
        let (pool, _, service) = bank().await;
        let world = World::start(service.clone(), Ears::Open).await;
        let rows = async || left(&pool).await.len();
        late_messages(&service, world.url(), mode, async || age(&pool).await, rows).await;
        let effects: i64 =
            sqlx::query_scalar("SELECT count(*) FROM effect").fetch_one(&pool).await.unwrap();
        assert_eq!(effects, 0);
    }
}

/// S8: the database's clock is eight days ahead for a moment. The tombstone stays, and the Prepare that was on its way
/// has no effect.
#[tokio::test]
async fn s8_a_clock_that_is_ahead_for_a_moment_purges_no_tombstone() {
    const DAYS: i64 = 8 * 24 * 3600;
    let (alarms, _listening) = Alarms::listen();
    let clock = Arc::new(Clock::new());
    let of = Arc::clone(&clock);
    let server = tokio::task::spawn_blocking(move || Server::with_clock(&of)).await.unwrap();
    let url = server.database().await;
    let (pool, service) = bank_of(&url).await;
    let world = World::start(service.clone(), Ears::Open).await;
    let set = async |ahead: i64| {
        clock.set_off_by(ahead);
        until("the database's clock to be set", async || {
            let seconds = "SELECT extract(epoch FROM clock_timestamp())::int8";
            let own = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
            let off = one(&url, seconds).await - i64::try_from(own).unwrap() - ahead;
            (off.abs() < 100).then_some(())
        })
        .await;
    };
    let sweep = || service.sweep([world.url()], eager().retention(RETENTION)).unwrap();
    // It is set while a sweeper runs, and before one starts.
    for runs in [true, false] {
        let late = branch(Mode::Tcc, "ok");
        let answer = late.cancel(&service).await.unwrap();
        assert!(matches!(answer, cancel_response::Answer::Done(_)), "{answer:?}");
        let mut sweeper = sweep();
        two_sweeps(&sweeper).await;
        if !runs {
            sweeper.stop().await;
            set(DAYS).await;
            sweeper = sweep();
        } else {
            set(DAYS).await;
        }
        two_sweeps(&sweeper).await;
        two_sweeps(&sweeper).await;
        set(0).await;
        let vote = late.prepare(&service).await.unwrap();
        assert_eq!(refused(vote), "ALREADY_ENDED", "{runs}");
        assert_eq!(left(&pool).await.len(), 1, "{runs}");
        until("the alarm", async || (!alarms.named("clock_skew").is_empty()).then_some(())).await;
        // Once the clocks agree it goes on.
        age(&pool).await;
        until("the purge", async || left(&pool).await.is_empty().then_some(())).await;
        sweeper.stop().await;
    }
}
