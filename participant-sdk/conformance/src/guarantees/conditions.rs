//! Prepares that require something.

use super::{expect_done, expect_refused, expect_same, votes};
use crate::Vote;
use crate::session::{Session, Stop};

/// A feature that no version has.
const NO_FEATURE: &str = "unanimo-check.no-such-feature";

/// Reason of the refusal of a feature that is not known.
const UNSUPPORTED: &str = "FEATURE_UNSUPPORTED";

pub(super) async fn unknown_requirement(session: Session) -> Result<(), Stop> {
    for known_action in [true, false] {
        let mut branch = session.branch();
        branch.requires = vec![NO_FEATURE.to_owned()];
        if !known_action {
            branch.action = votes::NO_ACTION.to_owned();
        }
        let what = format!("Prepare that requires {NO_FEATURE}");
        let first = session.prepare(&branch).await?;
        expect_refused(&first, &what)?;
        if !is_unsupported(&first) {
            let text = format!("{what} was answered {first}, expected the reason {UNSUPPORTED}");
            return Err(Stop::Failed(text));
        }
        // With nothing wrong about it any more: the stored answer.
        branch.requires.clear();
        branch.action = session.options().action.clone();
        let again = session.prepare(&branch).await?;
        expect_same(&first, &again, &format!("{what}, sent again without that,"))?;
        let end = session.cancel(&branch).await?;
        expect_done(&end, "Cancel of a branch whose requirement is not known")?;
    }
    Ok(())
}

pub(super) async fn must_succeed(session: Session) -> Result<(), Stop> {
    // It must be able to say yes, and know the feature.
    let able = session.prepared().await?;
    let end = session.cancel(&able).await?;
    expect_done(&end, "Cancel of a prepared branch")?;
    let good = session.branch().that_must_succeed();
    let vote = session.prepare(&good).await?;
    if is_unsupported(&vote) {
        return Err(Stop::Skipped("the participant does not know must_succeed".to_owned()));
    }
    expect_prepared(&vote, "Prepare that must succeed")?;
    let again = session.prepare(&good).await?;
    expect_prepared(&again, "a Prepare that must succeed, sent again,")?;
    let end = session.cancel(&good).await?;
    expect_done(&end, "Cancel of a prepared branch")?;

    let good = session.branch().that_must_succeed();
    let mut bad = good.clone();
    match &session.options().refused_payload {
        Some(payload) => bad.payload = payload.clone(),
        None => bad.action = votes::NO_ACTION.to_owned(),
    }
    for time in ["", ", sent again,"] {
        let vote = session.prepare(&bad).await?;
        expect_refused(&vote, &format!("Prepare that must succeed and cannot{time}"))?;
    }
    let vote = session.prepare(&good).await?;
    expect_prepared(&vote, "a Prepare that must succeed, sent again when it can,")?;
    let end = session.cancel(&good).await?;
    expect_done(&end, "Cancel of a branch that was refused before it was prepared")
}

fn is_unsupported(vote: &Vote) -> bool {
    matches!(vote, Vote::Refused(refusal) if refusal.reason == UNSUPPORTED)
}

fn expect_prepared(vote: &Vote, when: &str) -> Result<(), Stop> {
    match vote {
        Vote::Prepared(_) => Ok(()),
        vote => Err(Stop::Failed(format!("{when} was answered {vote}, expected PREPARED"))),
    }
}
