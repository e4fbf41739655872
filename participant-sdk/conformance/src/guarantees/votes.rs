//! Votes are given once.

use std::time::{Duration, SystemTime};

use super::{expect_done, expect_refused, expect_same};
use crate::session::{Branch, Session, Stop};
use crate::{Mode, Vote};

/// Callers that send the same at once. More than one waits behind the first, also where a participant
/// has a slot or two only.
pub(super) const TWINS: usize = 8;

/// Far more than clocks differ.
const LONG_PAST: Duration = Duration::from_secs(3600);

/// An action that nobody offers.
pub(super) const NO_ACTION: &str = "unanimo-check.no-such-action";

pub(super) async fn duplicate(session: Session) -> Result<(), Stop> {
    let branch = session.branch();
    let first = session.prepare(&branch).await?;
    for time in ["second", "third"] {
        let again = session.prepare(&branch).await?;
        expect_same(&first, &again, &format!("the same Prepare, sent a {time} time,"))?;
    }
    Ok(())
}

pub(super) async fn concurrent(session: Session) -> Result<(), Stop> {
    let branch = session.branch();
    let votes = session
        .at_once(TWINS, |session, _| {
            let branch = branch.clone();
            async move { session.prepare(&branch).await }
        })
        .await?;
    for vote in &votes {
        expect_same(&votes[0], vote, "one of eight equal Prepares at once")?;
    }
    let again = session.prepare(&branch).await?;
    expect_same(&votes[0], &again, "the same Prepare, sent again afterwards,")
}

pub(super) async fn late_duplicate(session: Session) -> Result<(), Stop> {
    let mut branch = session.prepared().await?;
    let first = Vote::Prepared(branch.output.clone());
    branch.prepare_until = Some(SystemTime::now() - LONG_PAST);
    let again = session.prepare(&branch).await?;
    expect_same(&first, &again, "a duplicate of a Prepare, past its prepare_until,")
}

pub(super) async fn too_late(session: Session) -> Result<(), Stop> {
    let mut branch = late(&session);
    let first = session.prepare(&branch).await?;
    expect_refused(&first, "a first Prepare, an hour past its prepare_until,")?;
    let again = session.prepare(&branch).await?;
    expect_same(&first, &again, "a Prepare that was too late, sent again,")?;
    branch.prepare_until = None;
    let again = session.prepare(&branch).await?;
    expect_refused(&again, "a Prepare that was too late, sent again without a bound,")?;
    let end = session.cancel(&branch).await?;
    expect_done(&end, "Cancel of a branch whose Prepare was too late")
}

fn late(session: &Session) -> Branch {
    let mut branch = session.branch();
    branch.prepare_until = Some(SystemTime::now() - LONG_PAST);
    branch
}

pub(super) async fn unknown_action(session: Session) -> Result<(), Stop> {
    let mut branch = session.branch();
    branch.action = NO_ACTION.to_owned();
    let first = session.prepare(&branch).await?;
    let what = format!("Prepare of action {NO_ACTION}");
    expect_refused(&first, &what)?;
    let again = session.prepare(&branch).await?;
    expect_same(&first, &again, &format!("{what}, sent again,"))?;
    let end = session.cancel(&branch).await?;
    expect_done(&end, "Cancel of a branch whose action is not offered")
}

/// A branch that is refused, and the means.
fn to_refuse(session: &Session) -> (Branch, &'static str) {
    match &session.options().refused_payload {
        Some(payload) => {
            let branch = session.branch().with_refused(payload, session.options());
            (branch, "the payload to refuse")
        }
        None => (late(session), "a prepare_until in the past"),
    }
}

async fn refused(session: &Session) -> Result<(Branch, Vote), Stop> {
    let (branch, how) = to_refuse(session);
    let vote = session.prepare(&branch).await?;
    expect_refused(&vote, &format!("Prepare with {how}"))?;
    Ok((branch, vote))
}

pub(super) async fn stored_refusal(session: Session) -> Result<(), Stop> {
    let (branch, first) = refused(&session).await?;
    let twins = session
        .at_once(TWINS, |session, _| {
            let branch = branch.clone();
            async move { session.prepare(&branch).await }
        })
        .await?;
    for again in &twins {
        expect_same(&first, again, "a Prepare that was refused, sent again,")?;
    }
    let end = session.cancel(&branch).await?;
    expect_done(&end, "Cancel of a refused branch")?;
    let again = session.prepare(&branch).await?;
    expect_refused(&again, "a Prepare that was refused, sent again after Cancel,")
}

pub(super) async fn commit_after_refusal(session: Session) -> Result<(), Stop> {
    session.needs_commit()?;
    let (branch, _) = refused(&session).await?;
    for time in ["", ", sent again,"] {
        let end = session.commit(&branch).await?;
        if end.heuristic().is_none() {
            let text = format!("Commit of a refused branch{time} was answered {end}");
            return Err(Stop::Failed(format!("{text}, expected a heuristic outcome")));
        }
    }
    Ok(())
}

pub(super) async fn independent(session: Session) -> Result<(), Stop> {
    let one = session.prepared().await?;
    let two = one.sibling();
    let cancelled = "after another branch of its transaction was prepared and cancelled";
    // What is prepared may hold the locks that its sibling needs.
    if session.options().mode != Mode::TwoPhaseCommit {
        let Vote::Prepared(output) = session.prepare(&two).await? else {
            // There may be enough for one of them only.
            session.cancel(&one).await?;
            return first_after(&session, &one.sibling().sibling(), cancelled).await;
        };
        let end = session.cancel(&one).await?;
        expect_done(&end, "Cancel of the first of two prepared branches")?;
        let again = session.prepare(&two).await?;
        let what = "a duplicate of the second branch's Prepare, after the first was cancelled,";
        expect_same(&Vote::Prepared(output), &again, what)?;
        let end = session.cancel(&two).await?;
        return expect_done(&end, "Cancel of the second of two prepared branches");
    }
    let end = session.cancel(&one).await?;
    expect_done(&end, "Cancel of the first branch")?;
    first_after(&session, &two, cancelled).await
}

async fn first_after(session: &Session, branch: &Branch, when: &str) -> Result<(), Stop> {
    match session.prepare(branch).await? {
        Vote::Prepared(_) => {
            let end = session.cancel(branch).await?;
            expect_done(&end, "Cancel of the second branch")
        }
        vote => Err(Stop::Failed(format!("Prepare of a branch {when} was answered {vote}"))),
    }
}
