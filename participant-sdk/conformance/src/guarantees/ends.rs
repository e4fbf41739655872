//! Commit and Cancel of what was prepared, and of what was not.

use unanimo_proto::v1::{HeuristicKind, Payload};

use super::votes::TWINS;
use super::{expect_done, expect_no_yes, expect_same};
use crate::Vote;
use crate::session::{Branch, Session, Stop};

/// The same branch where the coordinator has lost its output, in a crash say.
fn without_output(branch: &Branch) -> Branch {
    Branch { output: Payload::default(), ..branch.clone() }
}

pub(super) async fn cancel_twice(session: Session) -> Result<(), Stop> {
    for (first, how) in [(true, "with its output"), (false, "without its output")] {
        let branch = session.prepared().await?;
        let told = if first { branch } else { without_output(&branch) };
        let end = session.cancel(&told).await?;
        expect_done(&end, &format!("Cancel of a prepared branch, {how},"))?;
        let end = session.cancel(&without_output(&told)).await?;
        expect_done(&end, "Cancel of a cancelled branch")?;
    }
    Ok(())
}

pub(super) async fn cancel_at_once(session: Session) -> Result<(), Stop> {
    let branch = session.prepared().await?;
    let ends = session
        .at_once(TWINS, |session, _| {
            let branch = branch.clone();
            async move { session.cancel(&branch).await }
        })
        .await?;
    let what = "one of eight Cancels at once, of a prepared branch,";
    ends.iter().try_for_each(|end| expect_done(end, what))
}

pub(super) async fn prepare_after_cancel(session: Session) -> Result<(), Stop> {
    let branch = session.prepared().await?;
    let end = session.cancel(&branch).await?;
    expect_done(&end, "Cancel of a prepared branch")?;
    for _ in 0..2 {
        let vote = session.prepare(&branch).await?;
        expect_no_yes(&vote, "a duplicate of Prepare, after the branch was cancelled,")?;
    }
    let end = session.cancel(&branch).await?;
    expect_done(&end, "Cancel, sent again after a late duplicate of Prepare,")
}

pub(super) async fn commit_after_cancel(session: Session) -> Result<(), Stop> {
    session.needs_commit()?;
    let branch = session.prepared().await?;
    let end = session.cancel(&branch).await?;
    expect_done(&end, "Cancel of a prepared branch")?;
    let end = session.commit(&branch).await?;
    match end.heuristic() {
        Some(HeuristicKind::Rollback | HeuristicKind::Hazard) => {}
        Some(_) | None => {
            return Err(Stop::Failed(format!(
                "Commit of a cancelled branch was answered {end}, expected HEURISTIC_ROLLBACK or \
                 HEURISTIC_HAZARD"
            )));
        }
    }
    Ok(())
}

pub(super) async fn commit_unknown(session: Session) -> Result<(), Stop> {
    session.needs_commit()?;
    let branch = session.branch();
    for time in ["", ", sent again,"] {
        let end = session.commit(&branch).await?;
        if end.heuristic() != Some(HeuristicKind::Hazard) {
            return Err(Stop::Failed(format!(
                "Commit of a branch that was never prepared{time} was answered {end}, expected \
                 HEURISTIC_HAZARD"
            )));
        }
    }
    let vote = session.prepare(&branch).await?;
    expect_no_yes(&vote, "a Prepare that came after its Commit")
}

pub(super) async fn commit_twice(session: Session) -> Result<(), Stop> {
    session.needs_commit()?;
    for (first, how) in [(true, "with its output"), (false, "without its output")] {
        let branch = session.prepared().await?;
        let told = if first { branch } else { without_output(&branch) };
        let end = session.commit(&told).await?;
        expect_done(&end, &format!("Commit of a prepared branch, {how},"))?;
        let end = session.commit(&without_output(&told)).await?;
        expect_done(&end, "Commit of a committed branch")?;
    }
    Ok(())
}

pub(super) async fn commit_at_once(session: Session) -> Result<(), Stop> {
    session.needs_commit()?;
    let branch = session.prepared().await?;
    let ends = session
        .at_once(TWINS, |session, _| {
            let branch = branch.clone();
            async move { session.commit(&branch).await }
        })
        .await?;
    ends.iter().try_for_each(|end| expect_done(end, "one of eight Commits at once"))
}

pub(super) async fn prepare_after_commit(session: Session) -> Result<(), Stop> {
    session.needs_commit()?;
    let branch = session.prepared().await?;
    let end = session.commit(&branch).await?;
    expect_done(&end, "Commit of a prepared branch")?;
    let again = session.prepare(&branch).await?;
    let first = Vote::Prepared(branch.output.clone());
    expect_same(&first, &again, "a duplicate of Prepare, after the branch was committed,")?;
    let end = session.commit(&branch).await?;
    expect_done(&end, "Commit, sent again after a late duplicate of Prepare,")
}

pub(super) async fn cancel_after_commit(session: Session) -> Result<(), Stop> {
    session.needs_commit()?;
    let branch = session.prepared().await?;
    let end = session.commit(&branch).await?;
    expect_done(&end, "Commit of a prepared branch")?;
    let end = session.cancel(&branch).await?;
    if end.heuristic() != Some(HeuristicKind::Commit) {
        return Err(Stop::Failed(format!(
            "Cancel of a committed branch was answered {end}, expected HEURISTIC_COMMIT"
        )));
    }
    let end = session.commit(&branch).await?;
    expect_done(&end, "Commit of a committed branch, after a Cancel that came too late,")
}
