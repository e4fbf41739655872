//! Prepares that require something.

use super::{expect_done, expect_no_yes, expect_refused, expect_same, votes};
use crate::Vote;
use crate::session::{Branch, Session, Stop};

/// A feature that no version has.
const NO_FEATURE: &str = "unanimo-check.no-such-feature";

/// A mode that no version has.
const NO_MODE: i32 = 4711;

/// Reason of the refusal of a mode that is not known, or not offered.
const MODE_NOT_OFFERED: &str = "MODE_NOT_OFFERED";

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
        Some(payload) => bad = bad.with_refused(payload, session.options()),
        None => bad.action = votes::NO_ACTION.to_owned(),
    }
    for time in ["", ", sent again,"] {
        let vote = session.prepare(&bad).await?;
        expect_refused(&vote, &format!("Prepare that must succeed and cannot{time}"))?;
    }
    let first = session.prepare(&good).await?;
    expect_prepared(&first, "a Prepare that must succeed, sent again when it can,")?;
    let twins = session
        .at_once(votes::TWINS, |session, _| {
            let good = good.clone();
            async move { session.prepare(&good).await }
        })
        .await?;
    for again in &twins {
        expect_same(&first, again, "a Prepare that must succeed and did, sent again,")?;
    }
    let end = session.cancel(&good).await?;
    expect_done(&end, "Cancel of a branch that was refused before it was prepared")
}

pub(super) async fn unknown_and_must_succeed(session: Session) -> Result<(), Stop> {
    // It must be able to say yes.
    let able = session.prepared().await?;
    let end = session.cancel(&able).await?;
    expect_done(&end, "Cancel of a prepared branch")?;
    let what = format!("Prepare that requires must_succeed and {NO_FEATURE}");
    for must_succeed in [true, false] {
        let good = session.branch();
        let mut bad = good.clone();
        bad.requires = vec!["must_succeed".to_owned(), NO_FEATURE.to_owned()];
        bad.must_succeed = must_succeed;
        let vote = session.prepare(&bad).await?;
        expect_refused(&vote, &what)?;
        let vote = session.prepare(&good).await?;
        expect_prepared(&vote, &format!("{what}, sent again without that,"))?;
        let end = session.cancel(&good).await?;
        expect_done(&end, "Cancel of a branch that was refused before it was prepared")?;
    }
    Ok(())
}

pub(super) async fn phase_two(session: Session) -> Result<(), Stop> {
    let requiring = |branch: &Branch| {
        let phase_two_requires = vec![NO_FEATURE.to_owned()];
        Branch { phase_two_requires, ..branch.clone() }
    };
    // No tombstone is left, and nothing is ended.
    let branch = session.branch();
    let cancel = format!("Cancel that requires {NO_FEATURE}");
    session.cancel_is_unimplemented(&cancel, &requiring(&branch)).await?;
    if let Vote::Refused(refusal) = session.prepare(&branch).await? {
        let able = session.prepared().await?;
        let end = session.cancel(&able).await?;
        expect_done(&end, "Cancel of a prepared branch")?;
        let vote = Vote::Refused(refusal);
        return Err(Stop::Failed(format!("a Prepare after a {cancel} was answered {vote}")));
    }
    session.cancel_is_unimplemented(&cancel, &requiring(&branch)).await?;
    let commit = format!("Commit that requires {NO_FEATURE}");
    session.commit_is_unimplemented(&commit, &requiring(&branch)).await?;
    let end = session.cancel(&branch).await?;
    expect_done(&end, &format!("Cancel after a {commit}"))
}

pub(super) async fn unknown_mode(session: Session) -> Result<(), Stop> {
    let of_unknown_mode = |branch: &Branch| {
        let mut branch = branch.clone();
        branch.context.mode = NO_MODE;
        branch
    };
    for known_action in [true, false] {
        let mut good = session.branch();
        if !known_action {
            good.action = votes::NO_ACTION.to_owned();
        }
        let bad = of_unknown_mode(&good);
        let what = format!("Prepare in mode {NO_MODE}");
        let first = session.prepare(&bad).await?;
        expect_refused(&first, &what)?;
        if !matches!(&first, Vote::Refused(refusal) if refusal.reason == MODE_NOT_OFFERED) {
            let text = format!("{what} was answered {first}, expected {MODE_NOT_OFFERED}");
            return Err(Stop::Failed(text));
        }
        let again = session.prepare(&good).await?;
        expect_same(&first, &again, &format!("{what}, sent again in one that is known,"))?;
        let end = session.cancel(&bad).await?;
        expect_done(&end, &format!("Cancel in mode {NO_MODE} of a refused branch"))?;
    }
    let branch = session.branch();
    let end = session.cancel(&of_unknown_mode(&branch)).await?;
    expect_done(&end, &format!("Cancel in mode {NO_MODE} of a branch that was never prepared"))?;
    let vote = session.prepare(&branch).await?;
    expect_no_yes(&vote, &format!("a Prepare that came after its Cancel in mode {NO_MODE}"))
}

pub(super) fn is_unsupported(vote: &Vote) -> bool {
    matches!(vote, Vote::Refused(refusal) if refusal.reason == UNSUPPORTED)
}

pub(super) fn expect_prepared(vote: &Vote, when: &str) -> Result<(), Stop> {
    match vote {
        Vote::Prepared(_) => Ok(()),
        vote => Err(Stop::Failed(format!("{when} was answered {vote}, expected PREPARED"))),
    }
}
