//! The rules of the barrier: the same cases on every database, in either isolation.

use std::time::{Duration, SystemTime};

use unanimo_proto::v1::{HeuristicKind, Mode};

use super::calls::{Branch, End, Vote, World};
use super::databases::Database;
use super::handler::{Deed, Job};

/// The cases as tests, once for each database and isolation.
macro_rules! on_every_database {
    ($($case:ident,)*) => {
        on_every_database!(@ postgres, Postgres, ReadCommitted, $($case,)*);
        on_every_database!(@ postgres_repeatable_read, Postgres, RepeatableRead, $($case,)*);
        on_every_database!(@ tokio_postgres, OverTokio, ReadCommitted, $($case,)*);
        on_every_database!(@ tokio_postgres_repeatable_read, OverTokio, RepeatableRead, $($case,)*);
        on_every_database!(@ plain_driver, OverPlain, ReadCommitted, $($case,)*);
        on_every_database!(@ mariadb, MySql, ReadCommitted, $($case,)*);
        on_every_database!(@ mariadb_repeatable_read, MySql, RepeatableRead, $($case,)*);
        on_every_database!(@ sqlite, Sqlite, ReadCommitted, $($case,)*);
    };
    (@ $module:ident, $database:ident, $isolation:ident, $($case:ident,)*) => {
        mod $module {
            use unanimo_sdk::Isolation;

            use crate::participant::calls::World;
            use crate::participant::databases::$database;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(World::<$database>::open(Isolation::$isolation).await).await;
                }
            )*
        }
    };
}

pub(super) use on_every_database;

on_every_database!(
    s7_a_duplicate_prepare_gets_the_same_output,
    s7_duplicate_prepares_at_once_have_one_effect,
    s7_duplicates_of_phase_two_have_one_effect,
    s7_branches_of_one_transaction_and_of_others_are_apart,
    s8_cancel_before_prepare_leaves_a_tombstone,
    s8_two_cancels_at_once_before_prepare,
    s8_prepare_races_cancel,
    s7_commit_races_cancel,
    s7_two_commits_at_once_have_one_effect,
    s7_refused_is_stored_and_undone,
    s8_a_late_prepare_is_refused,
    s8_a_prepare_that_waited_past_its_time_is_refused,
    s7_a_handler_that_ends_its_transaction_never_gets_a_yes,
    s7_a_handler_that_ends_its_transaction_in_phase_two_is_not_done,
    s7_a_handler_may_use_savepoints,
    s7_a_failed_handler_leaves_nothing,
    s7_a_failed_phase_two_is_done_later,
    s11_commit_of_an_unknown_branch_is_a_hazard,
    s7_what_is_not_offered_or_not_readable_is_refused_and_stored,
    s7_three_prepares_of_which_the_first_fails,
    s7_phase_two_waits_for_prepare,
    s7_a_saga_step_runs_once_and_is_compensated_once,
    s8_compensation_before_a_saga_step_leaves_a_tombstone,
);

const WORK: Job = Job { prepare: Deed::Work, phase_two: Deed::Work };

/// Rounds of a race.
const ROUNDS: usize = 60;

fn job(prepare: Deed) -> Job {
    Job { prepare, phase_two: Deed::Work }
}

async fn s7_a_duplicate_prepare_gets_the_same_output<D: Database>(world: World<D>) {
    let branch = Branch::tcc(&WORK);
    let first = world.prepare(&branch).await;
    assert_eq!(first, Vote::Prepared("0".into()));
    for _ in 0..3 {
        assert_eq!(world.prepare(&branch).await, first, "S7: the same output");
    }
    assert_eq!(world.committed(&branch).await, End::Done);
    assert_eq!(world.prepare(&branch).await, first, "S7: after the end, too");
    assert_eq!(world.effects(&branch, "try").await, 1, "S7");
    assert_eq!(world.runs(), 1, "S7");
}

async fn s7_duplicate_prepares_at_once_have_one_effect<D: Database>(world: World<D>) {
    for _ in 0..4 {
        let branch = Branch::tcc(&WORK);
        let calls: Vec<_> = (0..16)
            .map(|_| {
                let (world, branch) = (world.clone(), branch.clone());
                tokio::spawn(async move { world.prepare(&branch).await })
            })
            .collect();
        let mut votes = Vec::new();
        for call in calls {
            votes.push(call.await.unwrap());
        }
        let vote = world.vote(&branch).await;
        assert!(vote.is_prepared(), "{vote:?}");
        for heard in votes {
            assert!(heard == vote || heard == Vote::Working, "S7: {heard:?} and {vote:?}");
        }
        assert_eq!(world.effects(&branch, "try").await, 1, "S7");
    }
}

async fn s7_duplicates_of_phase_two_have_one_effect<D: Database>(world: World<D>) {
    let [confirmed, cancelled] = [Branch::tcc(&WORK), Branch::tcc(&WORK)];
    for branch in [&confirmed, &cancelled] {
        assert!(world.prepare(branch).await.is_prepared());
    }
    for _ in 0..3 {
        assert_eq!(world.commit(&confirmed).await, End::Done);
        assert_eq!(world.cancel(&cancelled).await, End::Done);
    }
    assert_eq!(world.effects(&confirmed, "confirm").await, 1, "S7");
    assert_eq!(world.effects(&cancelled, "cancel").await, 1, "S7");
    let rolled_back = End::Heuristic(HeuristicKind::Rollback);
    assert_eq!(world.commit(&cancelled).await, rolled_back, "S11");
    assert_eq!(world.cancel(&confirmed).await, End::Heuristic(HeuristicKind::Commit), "S11");
    assert_eq!(world.prepare(&cancelled).await, Vote::refused("ALREADY_ENDED"));
    assert_eq!(world.state(&confirmed).await.as_deref(), Some("committed"));
    assert_eq!(world.state(&cancelled).await.as_deref(), Some("cancelled"));
}

/// Identifiers that differ in case, or in which transaction they are of, are different ones.
async fn s7_branches_of_one_transaction_and_of_others_are_apart<D: Database>(world: World<D>) {
    let one = Branch { branch_id: "Debit".to_owned(), ..Branch::tcc(&WORK) };
    let two = Branch { branch_id: "debit".to_owned(), ..one.clone() };
    let three = Branch { branch_id: "Debit".to_owned(), ..Branch::tcc(&WORK) };
    for branch in [&one, &two, &three] {
        assert!(world.prepare(branch).await.is_prepared());
    }
    assert_eq!(world.committed(&one).await, End::Done);
    assert_eq!(world.cancelled(&two).await, End::Done);
    assert_eq!(world.committed(&three).await, End::Done);
    assert_eq!(world.runs(), 3, "S7");
}

async fn s8_cancel_before_prepare_leaves_a_tombstone<D: Database>(world: World<D>) {
    let branch = Branch::tcc(&WORK);
    assert_eq!(world.cancel(&branch).await, End::Done, "S8: it succeeds");
    assert_eq!(world.cancel(&branch).await, End::Done, "S8: twice, too");
    for _ in 0..2 {
        assert_eq!(world.prepare(&branch).await, Vote::refused("ALREADY_ENDED"), "S8");
    }
    assert_eq!(world.runs(), 0, "S8: the late Prepare has no effect");
    assert_eq!(world.effects(&branch, "cancel").await, 0, "S8: there was nothing to cancel");
    assert_eq!(world.state(&branch).await.as_deref(), Some("cancelled"));
}

async fn s8_two_cancels_at_once_before_prepare<D: Database>(world: World<D>) {
    for _ in 0..ROUNDS {
        let branch = Branch::tcc(&WORK);
        let (one, two) = tokio::join!(world.cancel(&branch), world.cancel(&branch));
        for end in [one, two] {
            assert!(matches!(end, End::Done | End::Working), "S8: no deadlock, is {end:?}");
        }
        assert!([one, two].contains(&End::Done), "S8: one of them gets through");
        assert_eq!(world.cancelled(&branch).await, End::Done, "S8");
        assert_eq!(world.prepare(&branch).await, Vote::refused("ALREADY_ENDED"), "S8");
    }
    assert_eq!(world.runs(), 0, "S8");
}

async fn s8_prepare_races_cancel<D: Database>(world: World<D>) {
    const EARLIEST: usize = ROUNDS / 2;
    let mut overtaken = 0_usize;
    for round in 0..ROUNDS {
        let branch = Branch::tcc(&WORK);
        // Cancel comes from well ahead of Prepare to well behind it. In the first round it has surely ended before.
        let wait = |steps: usize| match steps {
            EARLIEST => Duration::from_millis(300),
            _ => Duration::from_micros(steps as u64 * 100),
        };
        let late = {
            let (world, branch) = (world.clone(), branch.clone());
            tokio::spawn(async move {
                tokio::time::sleep(wait(EARLIEST.saturating_sub(round))).await;
                world.vote(&branch).await
            })
        };
        tokio::time::sleep(wait(round.saturating_sub(EARLIEST))).await;
        assert_eq!(world.cancelled(&branch).await, End::Done, "S8");
        let tried = world.effects(&branch, "try").await;
        let undone = world.effects(&branch, "cancel").await;
        assert_eq!(tried, undone, "S8: nothing is left of it once Cancel is answered");
        overtaken += usize::from(tried == 0);
        let vote = late.await.unwrap();
        assert_eq!(vote.is_prepared(), tried == 1, "S8: {vote:?} after {tried} effects");
        assert_eq!(world.effects(&branch, "try").await, tried, "S8: and nothing comes later");
        assert_eq!(world.prepare(&branch).await, Vote::refused("ALREADY_ENDED"), "S8");
    }
    assert!((1..ROUNDS).contains(&overtaken), "some Cancels came first, {overtaken}");
}

async fn s7_commit_races_cancel<D: Database>(world: World<D>) {
    for round in 0..ROUNDS {
        let branch = Branch::tcc(&WORK);
        assert!(world.vote(&branch).await.is_prepared());
        let (commit, cancel) = if round % 2 == 0 {
            tokio::join!(world.committed(&branch), world.cancelled(&branch))
        } else {
            let (cancel, commit) = tokio::join!(world.cancelled(&branch), world.committed(&branch));
            (commit, cancel)
        };
        let effects =
            (world.effects(&branch, "confirm").await, world.effects(&branch, "cancel").await);
        match effects {
            (1, 0) => {
                assert_eq!(commit, End::Done);
                assert_eq!(cancel, End::Heuristic(HeuristicKind::Commit), "S11");
            }
            (0, 1) => {
                assert_eq!(commit, End::Heuristic(HeuristicKind::Rollback), "S11");
                assert_eq!(cancel, End::Done);
            }
            _ => panic!("S7: exactly one effect, not {effects:?}"),
        }
    }
}

async fn s7_two_commits_at_once_have_one_effect<D: Database>(world: World<D>) {
    for _ in 0..ROUNDS / 4 {
        let branch = Branch::tcc(&WORK);
        assert!(world.vote(&branch).await.is_prepared());
        let (one, two) = tokio::join!(world.committed(&branch), world.committed(&branch));
        assert_eq!((one, two), (End::Done, End::Done));
        assert_eq!(world.effects(&branch, "confirm").await, 1, "S7");
    }
}

async fn s7_refused_is_stored_and_undone<D: Database>(world: World<D>) {
    let branch = Branch::tcc(&job(Deed::Refuse));
    assert_eq!(world.prepare(&branch).await, Vote::refused("NO"));
    assert_eq!(world.effects(&branch, "try").await, 0, "S7: it is undone");
    assert_eq!(world.state(&branch).await.as_deref(), Some("refused"));
    // The handler would say yes by now, and is not asked.
    let again = Branch { payload: Branch::tcc(&WORK).payload, ..branch.clone() };
    assert_eq!(world.prepare(&again).await, Vote::refused("NO"), "S7: the stored answer");
    assert_eq!(world.runs(), 1);
    assert_eq!(world.cancel(&branch).await, End::Done);
    assert_eq!(world.commit(&branch).await, End::Heuristic(HeuristicKind::Rollback), "S11");
    assert_eq!(world.effects(&branch, "cancel").await, 0);
}

async fn s8_a_late_prepare_is_refused<D: Database>(world: World<D>) {
    let until = SystemTime::now() - Duration::from_millis(1);
    let branch = Branch { until: Some(until), ..Branch::tcc(&WORK) };
    assert_eq!(world.prepare(&branch).await, Vote::refused("TOO_LATE"), "S8");
    let in_time = Branch { until: None, ..branch.clone() };
    assert_eq!(world.prepare(&in_time).await, Vote::refused("TOO_LATE"), "S7: stored");
    assert_eq!(world.runs(), 0);
    assert_eq!(world.state(&branch).await.as_deref(), Some("refused"));
    // What has voted in time has voted.
    let branch = Branch::tcc(&WORK);
    assert!(world.prepare(&branch).await.is_prepared());
    let late = Branch { until: Some(until), ..branch };
    assert!(world.prepare(&late).await.is_prepared(), "S7: the stored answer");
}

/// The clock goes on while the insert waits for a twin.
async fn s8_a_prepare_that_waited_past_its_time_is_refused<D: Database>(world: World<D>) {
    let branch = Branch::tcc(&job(Deed::WaitAndFail));
    let first = {
        let (world, branch) = (world.clone(), branch.clone());
        tokio::spawn(async move { world.prepare(&branch).await })
    };
    world.gate.waiting().await;
    let until = SystemTime::now() + Duration::from_millis(400);
    let second = {
        let branch = Branch { until: Some(until), ..branch.clone() };
        let world = world.clone();
        tokio::spawn(async move { world.prepare(&branch).await })
    };
    unanimo_tests::wait::until("the time to pass", async || {
        (SystemTime::now() > until + Duration::from_millis(20)).then_some(())
    })
    .await;
    world.gate.open();
    assert_eq!(first.await.unwrap(), Vote::Unanswered);
    assert_eq!(second.await.unwrap(), Vote::refused("TOO_LATE"), "S8");
    assert_eq!(world.runs(), 1);
    assert_eq!(world.effects(&branch, "try").await, 0);
}

/// Tells whether a handler's loss of its transaction leaves a row. On MariaDB nothing is kept behind a rollback
/// unless the handler has begun another transaction. On SQLite nothing is kept of a handler that fails behind it.
fn is_recorded(database: &str, deed: &Deed) -> bool {
    let (Deed::Run(sql) | Deed::ThenRun(sql)) = deed else { return false };
    if database.ends_with("MySql") {
        sql.starts_with("COMMIT") || sql.ends_with("BEGIN")
    } else if database.ends_with("Sqlite") {
        matches!(deed, Deed::ThenRun(_)) || sql.ends_with("BEGIN")
    } else {
        true
    }
}

/// Number of effects that a handler keeps that has had its effect, if any, and has lost its transaction: one that it
/// has committed by itself. SQLite keeps nothing, and behind a lost transaction nothing can be written.
fn kept_effects(database: &str, deed: &Deed) -> i64 {
    let commits = matches!(deed, Deed::ThenRun(sql) if sql.starts_with("COMMIT"));
    i64::from(commits && !database.ends_with("Sqlite"))
}

async fn s7_a_handler_that_ends_its_transaction_never_gets_a_yes<D: Database>(world: World<D>) {
    for deed in [
        Deed::ThenRun("COMMIT".to_owned()),
        Deed::ThenRun("ROLLBACK".to_owned()),
        Deed::Run("COMMIT".to_owned()),
        Deed::Run("ROLLBACK".to_owned()),
        Deed::ThenRun("COMMIT; BEGIN".to_owned()),
        Deed::Run("ROLLBACK; BEGIN".to_owned()),
    ] {
        let branch = Branch::tcc(&job(deed.clone()));
        for _ in 0..2 {
            assert_eq!(world.prepare(&branch).await, Vote::Unanswered, "S7: {deed:?}");
        }
        // Nobody can tell what is left of it where something may be: and then nobody claims to.
        let state = world.state(&branch).await;
        let recorded = is_recorded(std::any::type_name::<D>(), &deed);
        assert_eq!(state.as_deref(), recorded.then_some("running"), "S11: {deed:?}");
        let kept = kept_effects(std::any::type_name::<D>(), &deed);
        assert_eq!(world.effects(&branch, "try").await, kept, "S7: {deed:?}");
        let end = world.cancelled(&branch).await;
        let hazard = End::Heuristic(HeuristicKind::Hazard);
        assert_eq!(end, if recorded { hazard } else { End::Done }, "S11: {deed:?}");
        let effects = (world.effects(&branch, "try").await, world.effects(&branch, "cancel").await);
        assert_eq!(effects, (kept, 0), "S7, S11: {deed:?}");
    }
    // Nothing of it hangs on the connections.
    for _ in 0..40 {
        let branch = Branch::tcc(&WORK);
        assert!(world.prepare(&branch).await.is_prepared());
        assert_eq!(world.commit(&branch).await, End::Done);
        assert_eq!(world.effects(&branch, "confirm").await, 1);
    }
}

async fn s7_a_handler_that_ends_its_transaction_in_phase_two_is_not_done<D: Database>(
    world: World<D>,
) {
    for sql in ["COMMIT", "ROLLBACK", "COMMIT; BEGIN"] {
        for deed in [Deed::Run(sql.to_owned()), Deed::ThenRun(sql.to_owned())] {
            let job = Job { prepare: Deed::Work, phase_two: deed.clone() };
            let [committed, cancelled] = [Branch::tcc(&job), Branch::tcc(&job)];
            for branch in [&committed, &cancelled] {
                assert!(world.prepare(branch).await.is_prepared());
            }
            assert_eq!(world.commit(&committed).await, End::Unanswered, "S7: {deed:?}");
            assert_eq!(world.cancel(&cancelled).await, End::Unanswered, "S7: {deed:?}");
            let (database, is_rollback) = (std::any::type_name::<D>(), sql == "ROLLBACK");
            // What has kept nothing can be done again. Of everything else nobody can tell what it has kept.
            let keeps_nothing =
                database.ends_with("Sqlite") || database.ends_with("MySql") && is_rollback;
            let expected = if keeps_nothing { "prepared" } else { "running" };
            for branch in [&committed, &cancelled] {
                let state = world.state(branch).await;
                assert_eq!(state.as_deref(), Some(expected), "S11: {deed:?}");
            }
        }
    }
}

async fn s7_a_handler_may_use_savepoints<D: Database>(world: World<D>) {
    let sql = "SAVEPOINT mine; INSERT INTO effect VALUES ('', '', 'undone');
               ROLLBACK TO SAVEPOINT mine; RELEASE SAVEPOINT mine";
    let deed = Deed::Run(sql.to_owned());
    let branch = Branch::tcc(&Job { prepare: deed.clone(), phase_two: deed });
    assert!(world.prepare(&branch).await.is_prepared());
    assert_eq!(world.commit(&branch).await, End::Done);
    assert_eq!(world.effects(&branch, "confirm").await, 1);
    let undone = "SELECT count(*) FROM effect WHERE what = 'undone'".to_owned();
    assert_eq!(D::number(&world.pool, undone).await, 0);
}

async fn s7_a_failed_handler_leaves_nothing<D: Database>(world: World<D>) {
    let branch = Branch::tcc(&job(Deed::Fail));
    assert_eq!(world.prepare(&branch).await, Vote::Unanswered);
    assert_eq!(world.state(&branch).await, None, "no vote");
    assert_eq!(world.effects(&branch, "try").await, 0);
    let healed = Branch { payload: Branch::tcc(&WORK).payload, ..branch.clone() };
    assert!(world.prepare(&healed).await.is_prepared());
    assert_eq!(world.effects(&branch, "try").await, 1, "S7");
}

async fn s7_a_failed_phase_two_is_done_later<D: Database>(world: World<D>) {
    let branch = Branch::tcc(&Job { prepare: Deed::Work, phase_two: Deed::Fail });
    assert!(world.prepare(&branch).await.is_prepared());
    assert_eq!(world.commit(&branch).await, End::Unanswered);
    assert_eq!(world.effects(&branch, "confirm").await, 0);
    let healed = Branch { payload: Branch::tcc(&WORK).payload, ..branch.clone() };
    assert_eq!(world.commit(&healed).await, End::Done);
    assert_eq!(world.effects(&branch, "confirm").await, 1, "S7");
}

async fn s11_commit_of_an_unknown_branch_is_a_hazard<D: Database>(world: World<D>) {
    let branch = Branch::tcc(&WORK);
    let hazard = End::Heuristic(HeuristicKind::Hazard);
    for _ in 0..2 {
        assert_eq!(world.commit(&branch).await, hazard, "S11");
    }
    assert_eq!(world.prepare(&branch).await, Vote::refused("ALREADY_ENDED"));
    assert_eq!(world.cancel(&branch).await, hazard, "S11");
    assert_eq!(world.runs(), 0);
}

async fn s7_what_is_not_offered_or_not_readable_is_refused_and_stored<D: Database>(
    world: World<D>,
) {
    let unknown = Branch::new(Mode::Tcc, "unknown", &WORK);
    let wrong_mode = Branch::new(Mode::Saga, "work", &WORK);
    let not_a_saga = Branch::new(Mode::Tcc, "step", &WORK);
    let two_phase = Branch::new(Mode::TwoPhaseCommit, "work", &WORK);
    let unreadable = Branch { payload: "no JSON".into(), ..Branch::tcc(&WORK) };
    for (branch, reason) in [
        (&unknown, "ACTION_NOT_OFFERED"),
        (&wrong_mode, "MODE_NOT_OFFERED"),
        (&not_a_saga, "MODE_NOT_OFFERED"),
        (&two_phase, "MODE_NOT_OFFERED"),
        (&unreadable, "PAYLOAD_UNREADABLE"),
    ] {
        assert_eq!(world.prepare(branch).await, Vote::refused(reason));
        // With nothing wrong about it any more: the stored answer.
        let Branch { tx_id, branch_id, .. } = branch.clone();
        let healed = Branch { tx_id, branch_id, ..Branch::tcc(&WORK) };
        assert_eq!(world.prepare(&healed).await, Vote::refused(reason), "S7: stored");
        assert_eq!(world.cancel(branch).await, End::Done);
        assert_eq!(world.effects(branch, "try").await, 0);
    }
    assert_eq!(world.runs(), 0);
}

/// In InnoDB the two that waited for the first one share its lock, and then want it alone: a
/// deadlock, of which one is the victim.
async fn s7_three_prepares_of_which_the_first_fails<D: Database>(world: World<D>) {
    for _ in 0..5 {
        let failing = Branch::tcc(&job(Deed::WaitAndFail));
        let branch = Branch { payload: Branch::tcc(&WORK).payload, ..failing.clone() };
        let first = {
            let world = world.clone();
            tokio::spawn(async move { world.prepare(&failing).await })
        };
        world.gate.waiting().await;
        let others: Vec<_> = (0..2)
            .map(|_| {
                let (world, branch) = (world.clone(), branch.clone());
                tokio::spawn(async move { world.prepare(&branch).await })
            })
            .collect();
        // Most of the time they wait by then; whenever they come, the end is right.
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.gate.open();
        assert_eq!(first.await.unwrap(), Vote::Unanswered);
        let vote = world.vote(&branch).await;
        assert!(vote.is_prepared(), "S7: {vote:?}");
        for other in others {
            let heard = other.await.unwrap();
            assert!(heard == vote || heard == Vote::Working, "never a no: {heard:?}");
        }
        assert_eq!(world.effects(&branch, "try").await, 1, "S7");
    }
}

/// Cancel and Commit that come while Prepare is at work have no answer before it has one.
async fn s7_phase_two_waits_for_prepare<D: Database>(world: World<D>) {
    for commits in [true, false] {
        let branch = Branch::tcc(&job(Deed::Wait));
        let prepare = {
            let (world, branch) = (world.clone(), branch.clone());
            tokio::spawn(async move { world.prepare(&branch).await })
        };
        world.gate.waiting().await;
        let end = {
            let (world, branch) = (world.clone(), branch.clone());
            tokio::spawn(async move {
                if commits {
                    world.committed(&branch).await
                } else {
                    world.cancelled(&branch).await
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!end.is_finished(), "S7: it cannot tell yet");
        world.gate.open();
        assert!(prepare.await.unwrap().is_prepared());
        assert_eq!(end.await.unwrap(), End::Done);
        let what = if commits { "confirm" } else { "cancel" };
        assert_eq!(world.effects(&branch, what).await, 1, "S7");
    }
}

async fn s7_a_saga_step_runs_once_and_is_compensated_once<D: Database>(world: World<D>) {
    let [kept, undone] = [0, 1].map(|_| Branch::new(Mode::Saga, "step", &WORK));
    for branch in [&kept, &undone] {
        let vote = world.prepare(branch).await;
        assert!(vote.is_prepared(), "{vote:?}");
        assert_eq!(world.prepare(branch).await, vote, "S7: the same output");
        assert_eq!(world.effects(branch, "try").await, 1, "S7");
    }
    for _ in 0..2 {
        assert_eq!(world.cancel(&undone).await, End::Done);
        assert_eq!(world.commit(&kept).await, End::Done);
    }
    assert_eq!(world.effects(&undone, "compensate").await, 1, "S7");
    assert_eq!(world.effects(&kept, "compensate").await, 0);
    assert_eq!(world.state(&kept).await.as_deref(), Some("committed"));
    assert_eq!(world.cancel(&kept).await, End::Heuristic(HeuristicKind::Commit), "S11");
    let mode = format!("SELECT mode FROM unanimo_barrier WHERE tx_id = '{}'", kept.tx_id);
    assert_eq!(D::text(&world.pool, mode).await.as_deref(), Some("saga"));
}

async fn s8_compensation_before_a_saga_step_leaves_a_tombstone<D: Database>(world: World<D>) {
    let branch = Branch::new(Mode::Saga, "step", &WORK);
    assert_eq!(world.cancel(&branch).await, End::Done, "S8");
    assert_eq!(world.prepare(&branch).await, Vote::refused("ALREADY_ENDED"), "S8");
    assert_eq!(world.effects(&branch, "compensate").await, 0, "S8");
    assert_eq!(world.runs(), 0, "S8");
}
