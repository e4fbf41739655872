//! Steps of sagas: their inputs, their compensations, and what may go wrong between the two. The same
//! cases on every database.

use unanimo_proto::v1::Mode;
use unanimo_proto::v1::prepare_response::Answer;

use super::barrier::on_every_database;
use super::calls::{Branch, End, Vote, World};
use super::databases::Database;
use super::handler::{Deed, Job};

on_every_database!(
    s7_a_step_gets_its_inputs_and_so_does_its_compensation,
    a_missing_input_is_refused_with_its_name,
    s7_a_missing_input_of_phase_two_is_no_end,
    s7_a_step_that_still_works_is_compensated_once_when_it_is_done,
    s8_a_step_that_fails_while_it_is_cancelled_never_runs_again,
    s7_a_handler_that_panics_leaves_nothing,
    s7_a_step_that_must_succeed_runs_once_after_it_has_refused,
    s8_an_uncompensated_step_is_cancelled_only_where_it_never_ran,
    s7_work_whose_output_would_be_missed_is_undone,
);

const WORK: Job = Job { prepare: Deed::Work, phase_two: Deed::Work };

fn job(prepare: Deed) -> Job {
    Job { prepare, phase_two: Deed::Work }
}

fn read(name: &str) -> Deed {
    Deed::Read(name.to_owned())
}

async fn s7_a_step_gets_its_inputs_and_so_does_its_compensation<D: Database>(world: World<D>) {
    let reads = Job { prepare: read("ticket"), phase_two: read("ticket") };
    for (mode, action, undone) in
        [(Mode::Saga, "step", "compensate"), (Mode::Tcc, "work", "cancel")]
    {
        let branch = Branch::new(mode, action, &reads).with_input("ticket", "\"seat-7\"");
        let branch = branch.with_input("other", "7");
        let vote = world.prepare(&branch).await;
        assert!(vote.is_prepared(), "{vote:?}");
        assert_eq!(world.effects(&branch, "seat-7").await, 1);
        assert_eq!(world.prepare(&branch).await, vote, "S7: the same output");
        assert_eq!(world.cancel(&branch).await, End::Done);
        assert_eq!(world.effects(&branch, "seat-7").await, 2, "phase two has it, too");
        assert_eq!(world.effects(&branch, undone).await, 1, "S7");
    }
    let branch = Branch::tcc(&reads).with_input("ticket", "\"seat-8\"");
    assert!(world.prepare(&branch).await.is_prepared());
    assert_eq!(world.commit(&branch).await, End::Done);
    assert_eq!(world.effects(&branch, "seat-8").await, 2, "Commit has it, too");
}

async fn a_missing_input_is_refused_with_its_name<D: Database>(world: World<D>) {
    for (branch, reason, words) in [
        (
            Branch::step(&job(read("ticket"))),
            "INPUT_MISSING",
            "input ticket of action step must be given; the call has no inputs",
        ),
        (
            Branch::step(&job(read("ticket"))).with_input("seat", "7").with_input("flight", "7"),
            "INPUT_MISSING",
            "input ticket of action step must be given; the call has flight, seat",
        ),
        (
            Branch::step(&job(read("ticket"))).with_input("ticket", "no JSON"),
            "INPUT_UNREADABLE",
            "input ticket of action step must be readable: JSON: ",
        ),
    ] {
        let Ok(Answer::Refused(refusal)) = world.answer(&branch).await else { panic!("{words}") };
        assert_eq!(refusal.reason, reason);
        assert!(refusal.message.starts_with(words), "{}", refusal.message);
        assert_eq!(world.state(&branch).await.as_deref(), Some("refused"), "S7: stored");
        assert_eq!(world.effects(&branch, "try").await, 0, "S7: undone");

        let must = Branch { tx_id: uuid::Uuid::now_v7(), ..branch }.that_must_succeed();
        assert_eq!(world.prepare(&must).await, Vote::refused(reason));
        assert_eq!(world.state(&must).await, None, "not stored where it must succeed");
    }
}

async fn s7_a_missing_input_of_phase_two_is_no_end<D: Database>(world: World<D>) {
    let branch = Branch::step(&Job { prepare: Deed::Work, phase_two: read("ticket") });
    assert!(world.prepare(&branch).await.is_prepared());
    assert_eq!(world.cancel(&branch).await, End::Unanswered);
    assert_eq!(world.state(&branch).await.as_deref(), Some("prepared"));
    let whole = branch.with_input("ticket", "\"seat-7\"");
    assert_eq!(world.cancel(&whole).await, End::Done);
    assert_eq!(world.effects(&whole, "compensate").await, 1, "S7");
}

/// Cancel comes while the step is at work: it waits for it, and then makes up for it once.
async fn s7_a_step_that_still_works_is_compensated_once_when_it_is_done<D: Database>(
    world: World<D>,
) {
    let branch = Branch::step(&job(Deed::Wait));
    let step = {
        let (world, branch) = (world.clone(), branch.clone());
        tokio::spawn(async move { world.prepare(&branch).await })
    };
    world.gate.waiting().await;
    // It meets the row of the step for as long as the lock's time-out, and is told that it works.
    assert_eq!(world.cancel(&branch).await, End::Working);
    let cancels: Vec<_> = (0..3)
        .map(|_| {
            let (world, branch) = (world.clone(), branch.clone());
            tokio::spawn(async move { world.cancelled(&branch).await })
        })
        .collect();
    world.gate.open();
    let vote = step.await.unwrap();
    for cancel in cancels {
        assert_eq!(cancel.await.unwrap(), End::Done);
    }
    // SQLite's one writer may have let the compensation's tombstone go first, never both.
    let ran = world.effects(&branch, "try").await;
    assert_eq!(world.effects(&branch, "compensate").await, ran, "S7: {vote:?}");
    assert!(ran == 1 && vote.is_prepared(), "the step was at work first: {vote:?}");
    assert_eq!(world.state(&branch).await.as_deref(), Some("cancelled"));
    assert_eq!(world.prepare(&branch).await, Vote::refused("ALREADY_ENDED"), "S8");
}

/// The step is undone by its own failure before the Cancel: there is nothing to make up for.
async fn s8_a_step_that_fails_while_it_is_cancelled_never_runs_again<D: Database>(world: World<D>) {
    let branch = Branch::step(&job(Deed::WaitAndFail));
    let step = {
        let (world, branch) = (world.clone(), branch.clone());
        tokio::spawn(async move { world.prepare(&branch).await })
    };
    world.gate.waiting().await;
    let cancel = {
        let (world, branch) = (world.clone(), branch.clone());
        tokio::spawn(async move { world.cancelled(&branch).await })
    };
    world.gate.open();
    assert_eq!(step.await.unwrap(), Vote::Unanswered);
    assert_eq!(cancel.await.unwrap(), End::Done);
    let runs = world.runs();
    assert_eq!(world.prepare(&branch).await, Vote::refused("ALREADY_ENDED"), "S8");
    assert_eq!(world.runs(), runs, "S8");
    for what in ["try", "compensate"] {
        assert_eq!(world.effects(&branch, what).await, 0, "S8: {what}");
    }
}

async fn s7_a_handler_that_panics_leaves_nothing<D: Database>(world: World<D>) {
    let panics = Branch::step(&job(Deed::Panic));
    // More often than there are connections and slots: none is lost with the handler.
    for _ in 0..20 {
        assert_eq!(world.prepare(&panics).await, Vote::Unanswered);
    }
    assert_eq!(world.state(&panics).await, None, "no vote, no row");
    let branch = Branch { payload: Branch::step(&WORK).payload, ..panics };
    assert!(world.vote(&branch).await.is_prepared());
    assert_eq!(world.effects(&branch, "try").await, 1, "S7");

    let compensation = Branch {
        payload: Branch::step(&Job { phase_two: Deed::Panic, ..WORK }).payload,
        ..branch.clone()
    };
    for _ in 0..20 {
        assert_eq!(world.cancel(&compensation).await, End::Unanswered);
    }
    assert_eq!(world.effects(&branch, "compensate").await, 0, "S7");
    assert_eq!(world.cancelled(&branch).await, End::Done);
    assert_eq!(world.effects(&branch, "compensate").await, 1, "S7");
}

async fn s7_a_step_that_must_succeed_runs_once_after_it_has_refused<D: Database>(world: World<D>) {
    for action in ["step", "final"] {
        let refuses = Branch::new(Mode::Saga, action, &job(Deed::Refuse)).that_must_succeed();
        for _ in 0..2 {
            assert_eq!(world.prepare(&refuses).await, Vote::refused("NO"));
            assert_eq!(world.state(&refuses).await, None, "not stored: {action}");
        }
        let branch = Branch { payload: Branch::step(&WORK).payload, ..refuses };
        let vote = world.prepare(&branch).await;
        assert!(vote.is_prepared(), "{vote:?}");
        assert_eq!(world.prepare(&branch).await, vote, "S7: the same output");
        assert_eq!(world.effects(&branch, "try").await, 1, "S7");
    }
}

async fn s8_an_uncompensated_step_is_cancelled_only_where_it_never_ran<D: Database>(
    world: World<D>,
) {
    let of = |job: &Job| Branch::new(Mode::Saga, "final", job);
    let never_ran = of(&WORK);
    assert_eq!(world.cancel(&never_ran).await, End::Done, "S8: a tombstone");
    assert_eq!(world.prepare(&never_ran).await, Vote::refused("ALREADY_ENDED"), "S8");
    let refused = of(&job(Deed::Refuse));
    assert_eq!(world.prepare(&refused).await, Vote::refused("NO"));
    assert_eq!(world.cancel(&refused).await, End::Done);

    let done = of(&WORK);
    assert!(world.prepare(&done).await.is_prepared());
    assert_eq!(world.cancel(&done).await, End::Unanswered, "it is not said to be undone");
    assert_eq!(world.state(&done).await.as_deref(), Some("prepared"));
    assert_eq!(world.effects(&done, "try").await, 1);
}

/// An output that a later step reads is told its bound: work with a larger one is undone, and refused. A no to
/// work that must succeed is not stored.
async fn s7_work_whose_output_would_be_missed_is_undone<D: Database>(world: World<D>) {
    let no = Vote::refused("OUTPUT_TOO_LARGE");
    let small = |branch: Branch, most| Branch { output_bytes_max: Some(most), ..branch };
    let pivot = small(Branch::step(&WORK), 0);
    assert_eq!(world.prepare(&pivot).await, no);
    assert_eq!(world.effects(&pivot, "try").await, 0, "S7");
    assert_eq!(world.state(&pivot).await.as_deref(), Some("refused"));
    assert_eq!(world.prepare(&small(pivot, 9)).await, no, "the stored answer is the answer");

    let later = small(Branch::step(&WORK).that_must_succeed(), 0);
    assert_eq!(world.prepare(&later).await, no);
    assert_eq!(world.state(&later).await, None);
    let mended = small(later, 9);
    assert!(world.prepare(&mended).await.is_prepared());
    assert_eq!(world.effects(&mended, "try").await, 1, "S7");
    // A stored answer is told, whatever the bound is now.
    assert!(world.prepare(&small(mended, 0)).await.is_prepared());
}
