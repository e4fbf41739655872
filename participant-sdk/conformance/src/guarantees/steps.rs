//! Life of a step's row in a saga: done, asked about again, compensated at any moment, and the pivot and what
//! comes after it.

use std::time::{Duration, SystemTime};

use unanimo_proto::v1::Mode;

use super::conditions::{expect_prepared, is_unsupported};
use super::inputs::without_inputs;
use super::votes::TWINS;
use super::{expect_done, expect_no_yes, expect_refused, expect_same, later};
use crate::Vote;
use crate::session::{Branch, Session, Stop};

/// Time from a Prepare to its bound, where the bound is waited for: a slow participant is still in time.
const BOUND: Duration = Duration::from_millis(1_500);

/// Time after the bound in which a participant may do what it does with rows past it: several of a short
/// interval between two sweeps.
const PAST_BOUND: Duration = Duration::from_millis(700);

/// Moments of a Prepare at which its compensation comes.
const COMPENSATED_AFTER_MS: [u64; 6] = [0, 1, 2, 4, 8, 16];

/// Reason of the refusal of work whose output would be dropped.
const OUTPUT_TOO_LARGE: &str = "OUTPUT_TOO_LARGE";

fn without_bound(branch: Branch) -> Branch {
    Branch { prepare_until: None, ..branch }
}

/// A yes of a first Prepare; where the participant does not know a feature, the check is skipped.
async fn yes(session: &Session, branch: &Branch, what: &str) -> Result<Vote, Stop> {
    let vote = session.prepare(branch).await?;
    if is_unsupported(&vote) {
        return Err(Stop::Skipped(format!("the participant answers {what} {vote}")));
    }
    expect_prepared(&vote, what)?;
    Ok(vote)
}

/// Makes sure that the action can say yes: otherwise there is nothing to check.
async fn able(session: &Session) -> Result<Branch, Stop> {
    let able = session.prepared().await?;
    let end = session.cancel(&able).await?;
    expect_done(&end, "Cancel of a prepared branch")?;
    Ok(able)
}

pub(super) async fn outlives_its_bound(session: Session) -> Result<(), Stop> {
    able(&session).await?;
    let mut branch = session.branch();
    branch.prepare_until = Some(SystemTime::now() + BOUND);
    let started = tokio::time::Instant::now();
    let first = session.prepare(&branch).await?;
    if !first.is_prepared() && started.elapsed() > BOUND / 2 {
        return Err(Stop::Skipped(format!("its vote took longer than {:?}", BOUND / 2)));
    }
    expect_prepared(&first, "Prepare")?;
    tokio::time::sleep_until(started + BOUND + PAST_BOUND).await;
    // With its bound it would be refused as too late, if its row were gone, and without it done again.
    let again = session.prepare(&branch).await?;
    expect_same(&first, &again, "a Prepare that had voted before its bound, sent again after it,")?;
    let again = session.prepare(&without_bound(branch.clone())).await?;
    expect_same(&first, &again, "the same Prepare, sent after its bound without one,")?;
    let end = session.cancel(&branch).await?;
    expect_done(&end, "Cancel of a prepared branch, after the bound of its Prepare,")?;
    let vote = session.prepare(&without_bound(branch)).await?;
    expect_no_yes(&vote, "a Prepare that came after Cancel, both past its bound,")
}

pub(super) async fn cancelled_at_work(session: Session) -> Result<(), Stop> {
    for after_ms in COMPENSATED_AFTER_MS {
        let branch = session.branch();
        session
            .at_once(2 * TWINS, |session, which| {
                let branch = branch.clone();
                async move {
                    if which < TWINS {
                        // It may come first, and be yes.
                        return session.prepare(&branch).await.map(drop);
                    }
                    later(Duration::from_millis(after_ms)).await;
                    let end = session.cancel(&branch).await?;
                    expect_done(&end, "Cancel, sent eight times while its Prepare was at work,")
                }
            })
            .await?;
        let vote = session.prepare(&branch).await?;
        if vote != Vote::ReadOnly {
            expect_no_yes(&vote, "a Prepare, sent again after it was cancelled at work,")?;
        }
        let end = session.cancel(&branch).await?;
        expect_done(&end, "Cancel, sent again after it had come at work,")?;
    }
    Ok(())
}

/// A coordinator that has lost the vote knows neither it nor the output, and counts attempts anew.
pub(super) async fn cancelled_without_an_end(session: Session) -> Result<(), Stop> {
    let known = able(&session).await?;
    // Time after which nobody waits for the first answer, and how often it is sent again.
    for (left_after_ms, again) in [(0, 1), (1, 1), (4, 2), (16, 1)] {
        let branch = session.branch();
        session.prepare_and_leave(&branch, Duration::from_millis(left_after_ms)).await;
        for _ in 0..again {
            let vote = session.prepare(&branch).await?;
            expect_prepared(&vote, "a Prepare whose first answer was lost, sent again,")?;
        }
        let end = session.cancel(&branch).await?;
        expect_done(&end, "Cancel without output, of a step without a known end,")?;
        // By a coordinator that knows more.
        let told = Branch { output: known.output.clone(), ..branch.clone() };
        let end = session.cancel(&told).await?;
        expect_done(&end, "the same Cancel, sent again with the output,")?;
        let vote = session.prepare(&branch).await?;
        expect_no_yes(&vote, "a Prepare that came after the Cancel of a step without an end")?;
    }
    Ok(())
}

pub(super) async fn no_bound(session: Session) -> Result<(), Stop> {
    able(&session).await?;
    let pivot = without_bound(session.branch());
    let first = session.prepare(&pivot).await?;
    expect_prepared(&first, "Prepare without a prepare_until")?;
    let again = session.prepare(&pivot).await?;
    expect_same(&first, &again, "Prepare without a prepare_until, sent again,")?;
    let end = session.cancel(&pivot).await?;
    expect_done(&end, "Cancel without a prepare_until of a prepared branch")?;
    let vote = session.prepare(&pivot).await?;
    expect_no_yes(&vote, "Prepare without a prepare_until, after its Cancel,")?;

    // An operator has answered no in its place, and its call is still under way.
    let pivot = without_bound(session.branch());
    let end = session.cancel(&pivot).await?;
    expect_done(&end, "Cancel without a prepare_until of a branch that was never prepared")?;
    for _ in 0..2 {
        let vote = session.prepare(&pivot).await?;
        expect_no_yes(&vote, "a Prepare that came after a Cancel, both without a prepare_until,")?;
    }
    Ok(())
}

pub(super) async fn in_order(session: Session) -> Result<(), Stop> {
    if session.options().mode == Mode::TwoPhaseCommit {
        let text = "in two-phase commit one branch may wait for the rows of another one";
        return Err(Stop::Skipped(text.to_owned()));
    }
    let step = session.prepared().await?;
    let pivot = without_bound(step.sibling());
    let later = pivot.sibling().that_must_succeed();
    let all = [&step, &pivot, &later];
    let mut votes = Vec::new();
    for branch in all {
        votes.push(yes(&session, branch, "Prepare of a step, a pivot, or a step after it,").await?);
    }
    // Nothing more is sent for them after COMMIT, but what is repeated.
    for (branch, first) in all.iter().zip(&votes).rev() {
        let again = session.prepare(branch).await?;
        expect_same(first, &again, "a step of a saga, sent again when later ones were done,")?;
    }
    for undone in (0..all.len()).rev() {
        let end = session.cancel(all[undone]).await?;
        expect_done(&end, "Cancel of a step of a saga, after those that depend on it,")?;
        let vote = session.prepare(all[undone]).await?;
        expect_no_yes(&vote, "a step of a saga, sent again after its Cancel,")?;
        for (branch, first) in all[..undone].iter().zip(&votes) {
            let again = session.prepare(branch).await?;
            expect_same(
                first,
                &again,
                "a step of a saga, sent again when a later one was undone,",
            )?;
        }
    }
    Ok(())
}

pub(super) async fn input_that_comes_later(session: Session) -> Result<(), Stop> {
    if session.options().inputs.is_empty() {
        return Err(Stop::Skipped("no input was given that the action reads".to_owned()));
    }
    able(&session).await?;
    let branch = session.branch().that_must_succeed();
    let vote = session.prepare(&without_inputs(&branch)).await?;
    if is_unsupported(&vote) {
        return Err(Stop::Skipped("the participant does not know must_succeed".to_owned()));
    }
    // Some do without.
    let refused = matches!(vote, Vote::Refused(_));
    let first = session.prepare(&branch).await?;
    let what = "a Prepare that must succeed, without an input at first,";
    expect_prepared(&first, what)?;
    if !refused {
        expect_same(&vote, &first, what)?;
    }
    let end = session.cancel(&branch).await?;
    expect_done(&end, "Cancel of a branch that lacked an input at first")
}

pub(super) async fn output_bound(session: Session) -> Result<(), Stop> {
    let known = able(&session).await?;
    let size = known.output.data.len();
    let Some(less) = size.checked_sub(1) else {
        return Err(Stop::Skipped("the action has no output".to_owned()));
    };
    let bounded = |branch: Branch, most: usize| {
        let output_bytes_max = Some(u64::try_from(most).unwrap_or(u64::MAX));
        Branch { output_bytes_max, ..without_bound(branch) }
    };
    let what = "Prepare with an output_bytes_max";
    let branch = session.branch();
    let large = bounded(branch.clone(), less);
    let vote = session.prepare(&large).await?;
    if is_unsupported(&vote) {
        return Err(Stop::Skipped("the participant does not know output_bytes_max".to_owned()));
    }
    let too_large = |vote: &Vote| match vote {
        Vote::Refused(refusal) if refusal.reason == OUTPUT_TOO_LARGE => Ok(()),
        vote => {
            let text =
                format!("{what} of {less}, whose output has {size} bytes, was answered {vote}");
            Err(Stop::Failed(format!(
                "{text}, expected REFUSED with the reason {OUTPUT_TOO_LARGE}"
            )))
        }
    };
    too_large(&vote)?;
    let again = session.prepare(&bounded(branch.clone(), size)).await?;
    expect_same(&vote, &again, &format!("{what} that was too small, sent again with more,"))?;
    let end = session.cancel(&large).await?;
    expect_done(&end, "Cancel of a branch whose output was too large")?;

    // Of work that may only succeed no refusal is stored: the next process may have a smaller output.
    let branch = session.branch().that_must_succeed();
    let vote = session.prepare(&bounded(branch.clone(), less)).await?;
    if is_unsupported(&vote) {
        return Ok(());
    }
    expect_refused(&vote, &format!("{what} of {less}, that must succeed,"))?;
    let vote = session.prepare(&bounded(branch.clone(), size)).await?;
    expect_prepared(&vote, &format!("{what} of {size}, that was refused for less,"))?;
    let end = session.cancel(&branch).await?;
    expect_done(&end, "Cancel of a branch whose output was too large at first")
}
