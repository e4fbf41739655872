//! Prepares with conditions, and the media types of outputs: the same cases on every database.

use std::time::{Duration, SystemTime};

use tonic::Code;
use unanimo_proto::v1::prepare_response::Answer;
use unanimo_proto::v1::{HeuristicKind, Mode, Payload};

use super::barrier::on_every_database;
use super::calls::{Branch, End, Vote, World};
use super::databases::Database;
use super::handler::{Deed, Job};

on_every_database!(
    s7_an_unknown_requirement_is_refused_and_stored,
    s7_a_refusal_of_work_that_must_succeed_is_not_stored,
    s7_what_is_stored_answers_work_that_must_succeed_too,
    s7_work_that_must_succeed_runs_once_after_a_twin_has_refused,
    s7_a_duplicate_gets_the_same_media_type,
    s7_a_refusal_of_an_unknown_feature_is_not_stored_where_work_must_succeed,
    s7_phase_two_that_requires_an_unknown_feature_is_no_answer,
    s8_s11_a_mode_that_is_not_known_is_answered_by_the_row,
);

const WORK: Job = Job { prepare: Deed::Work, phase_two: Deed::Work };

fn job(prepare: Deed) -> Job {
    Job { prepare, phase_two: Deed::Work }
}

/// The same branch with nothing wrong about it.
fn healed(branch: &Branch) -> Branch {
    let Branch { tx_id, branch_id, .. } = branch.clone();
    let healed = Branch { tx_id, branch_id, ..Branch::tcc(&WORK) };
    if branch.must_succeed { healed.that_must_succeed() } else { healed }
}

fn requiring(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn s7_an_unknown_requirement_is_refused_and_stored<D: Database>(world: World<D>) {
    for action in ["work", "unknown"] {
        let branch = Branch {
            requires: requiring(&["tcc", "sealed"]),
            ..Branch::new(Mode::Tcc, action, &WORK)
        };
        let Ok(Answer::Refused(refusal)) = world.answer(&branch).await else { panic!("{action}") };
        assert_eq!(refusal.reason, "FEATURE_UNSUPPORTED");
        assert!(refusal.message.contains("required feature sealed;"), "{}", refusal.message);
        assert_eq!(world.state(&branch).await.as_deref(), Some("refused"), "S7: stored");
        let again = world.prepare(&healed(&branch)).await;
        assert_eq!(again, Vote::refused("FEATURE_UNSUPPORTED"), "S7: the stored answer");
        assert_eq!(world.cancel(&branch).await, End::Done);
    }
    assert_eq!(world.runs(), 0);
    let known = requiring(&[
        "must_succeed",
        "output_bytes_max",
        "saga",
        "step_inputs",
        "tcc",
        "two_phase_commit",
    ]);
    let branch = Branch { requires: known, ..Branch::tcc(&WORK) };
    assert!(world.prepare(&branch).await.is_prepared());
}

async fn s7_a_refusal_of_work_that_must_succeed_is_not_stored<D: Database>(world: World<D>) {
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let must = |branch: Branch| branch.that_must_succeed();
    for (branch, reason) in [
        (must(Branch::tcc(&job(Deed::Refuse))), "NO"),
        (must(Branch::new(Mode::Tcc, "unknown", &WORK)), "ACTION_NOT_OFFERED"),
        (must(Branch::new(Mode::Saga, "work", &WORK)), "MODE_NOT_OFFERED"),
        (Branch { payload: "no JSON".into(), ..must(Branch::tcc(&WORK)) }, "PAYLOAD_UNREADABLE"),
        (
            Branch { requires: requiring(&["sealed"]), ..must(Branch::tcc(&WORK)) },
            "FEATURE_UNSUPPORTED",
        ),
        (Branch { until: Some(hour_ago), ..must(Branch::tcc(&WORK)) }, "TOO_LATE"),
    ] {
        for _ in 0..2 {
            assert_eq!(world.prepare(&branch).await, Vote::refused(reason));
            assert_eq!(world.state(&branch).await, None, "no vote, no row: {reason}");
            assert_eq!(world.effects(&branch, "try").await, 0, "all of it is undone: {reason}");
        }
        let healed = healed(&branch);
        let vote = world.vote(&healed).await;
        assert!(vote.is_prepared(), "{reason}: {vote:?}");
        assert_eq!(world.state(&healed).await.as_deref(), Some("prepared"), "stored as ever");
        assert_eq!(world.prepare(&branch).await, vote, "S7: the stored answer, {reason}");
        assert_eq!(world.committed(&healed).await, End::Done);
        assert_eq!(world.effects(&healed, "try").await, 1, "S7");
    }
    // The handler is told.
    let only = Branch::tcc(&job(Deed::OnlyIfItMustSucceed));
    assert_eq!(world.prepare(&only).await, Vote::refused("MAY_FAIL"));
    let only = Branch::tcc(&job(Deed::OnlyIfItMustSucceed)).that_must_succeed();
    assert!(world.prepare(&only).await.is_prepared());
}

async fn s7_what_is_stored_answers_work_that_must_succeed_too<D: Database>(world: World<D>) {
    let cancelled = Branch::tcc(&WORK).that_must_succeed();
    assert_eq!(world.cancel(&cancelled).await, End::Done);
    assert_eq!(world.prepare(&cancelled).await, Vote::refused("ALREADY_ENDED"), "S8");
    assert_eq!(world.state(&cancelled).await.as_deref(), Some("cancelled"), "S8");

    let refused = Branch::tcc(&job(Deed::Refuse));
    assert_eq!(world.prepare(&refused).await, Vote::refused("NO"));
    let again = healed(&refused).that_must_succeed();
    assert_eq!(world.prepare(&again).await, Vote::refused("NO"), "S7: a vote stands");
    assert_eq!(world.runs(), 1);
}

/// The twin waits for the row of the first, which is rolled back.
async fn s7_work_that_must_succeed_runs_once_after_a_twin_has_refused<D: Database>(
    world: World<D>,
) {
    let refuses = Deed::RunWaitAndRefuse("SELECT 1".to_owned(), "SELECT 1".to_owned());
    let refuses = Branch::tcc(&job(refuses)).that_must_succeed();
    let first = {
        let (world, refuses) = (world.clone(), refuses.clone());
        tokio::spawn(async move { world.prepare(&refuses).await })
    };
    world.gate.waiting().await;
    let branch = healed(&refuses);
    let twin = {
        let (world, branch) = (world.clone(), branch.clone());
        tokio::spawn(async move { world.vote(&branch).await })
    };
    world.gate.open();
    assert_eq!(first.await.unwrap(), Vote::refused("NO"));
    assert!(twin.await.unwrap().is_prepared());
    assert_eq!(world.effects(&branch, "try").await, 1, "S7");
    assert_eq!(world.runs(), 2, "S7");
}

async fn s7_a_refusal_of_an_unknown_feature_is_not_stored_where_work_must_succeed<D: Database>(
    world: World<D>,
) {
    for must_succeed in [true, false] {
        let requires = requiring(&["must_succeed", "sealed"]);
        let branch = Branch { requires, must_succeed, ..Branch::tcc(&WORK) };
        for _ in 0..2 {
            assert_eq!(world.prepare(&branch).await, Vote::refused("FEATURE_UNSUPPORTED"));
            assert_eq!(world.state(&branch).await, None, "must_succeed={must_succeed}");
        }
        assert!(world.vote(&Branch { must_succeed: false, ..healed(&branch) }).await.is_prepared());
    }
}

async fn s7_phase_two_that_requires_an_unknown_feature_is_no_answer<D: Database>(world: World<D>) {
    let branch = Branch::tcc(&WORK);
    let sealed = requiring(&["tcc", "sealed"]);
    for state in [None, Some("prepared")] {
        assert_eq!(world.end_requiring(&branch, &sealed).await, [Code::Unimplemented; 2]);
        assert_eq!(world.state(&branch).await.as_deref(), state, "nothing is stored");
        assert!(world.vote(&branch).await.is_prepared());
    }
    for what in ["confirm", "cancel"] {
        assert_eq!(world.effects(&branch, what).await, 0, "nothing is done");
    }
    assert_eq!(world.committed(&branch).await, End::Done);
}

async fn s8_s11_a_mode_that_is_not_known_is_answered_by_the_row<D: Database>(world: World<D>) {
    let later = |branch: &Branch| Branch { of_later_mode: true, ..branch.clone() };
    for action in ["work", "unknown"] {
        let branch = later(&Branch::new(Mode::Tcc, action, &WORK));
        assert_eq!(world.prepare(&branch).await, Vote::refused("MODE_NOT_OFFERED"));
        assert_eq!(world.state(&branch).await.as_deref(), Some("refused"), "S7: stored");
        let again = world.prepare(&healed(&branch)).await;
        assert_eq!(again, Vote::refused("MODE_NOT_OFFERED"), "S7: the stored answer");
        let rolled_back = End::Heuristic(HeuristicKind::Rollback);
        assert_eq!(world.commit(&branch).await, rolled_back, "S11");
        assert_eq!(world.cancel(&branch).await, End::Done);
    }
    let early = Branch::tcc(&WORK);
    assert_eq!(world.cancel(&later(&early)).await, End::Done);
    assert_eq!(world.state(&early).await.as_deref(), Some("cancelled"), "S8: a tombstone");
    assert_eq!(world.prepare(&early).await, Vote::refused("ALREADY_ENDED"), "S8");
    assert_eq!(world.runs(), 0);
    let commits = Branch::tcc(&WORK);
    assert!(world.vote(&commits).await.is_prepared());
    assert_eq!(world.committed(&later(&commits)).await, End::Done);
    assert_eq!(world.cancel(&later(&commits)).await, End::Heuristic(HeuristicKind::Commit), "S11");
    let cancels = Branch::tcc(&WORK);
    assert!(world.vote(&cancels).await.is_prepared());
    assert_eq!(world.cancelled(&later(&cancels)).await, End::Done);
    // Its row is not one of two-phase commit: nothing is said to be done.
    let reserved = Branch::tcc(&WORK);
    assert!(world.vote(&reserved).await.is_prepared());
    let as_another = Branch { mode: Mode::TwoPhaseCommit, ..reserved.clone() };
    assert_eq!(world.commit(&as_another).await, End::Unanswered, "S11");
    assert_eq!(world.committed(&reserved).await, End::Done);
    let unspecified = Branch { mode: Mode::Unspecified, ..Branch::tcc(&WORK) };
    assert_eq!(world.prepare(&unspecified).await, Vote::Unanswered);
    assert_eq!(world.cancel(&unspecified).await, End::Unanswered);
}

async fn s7_a_duplicate_gets_the_same_media_type<D: Database>(world: World<D>) {
    let branch = Branch::tcc(&WORK);
    for end in [false, true] {
        if end {
            assert_eq!(world.committed(&branch).await, End::Done);
        }
        for _ in 0..2 {
            let Ok(Answer::Prepared(prepared)) = world.answer(&branch).await else { panic!() };
            let media_type = "application/json".to_owned();
            assert_eq!(prepared.output, Some(Payload { data: "0".into(), media_type }), "S7");
        }
    }
    let Branch { tx_id, branch_id, .. } = &branch;
    let stored = format!(
        "SELECT output_type FROM unanimo_barrier
         WHERE tx_id = '{tx_id}' AND branch_id = '{branch_id}'"
    );
    assert_eq!(D::text(&world.pool, stored).await.as_deref(), Some("application/json"));
}
