//! Cancel before Prepare.

use super::votes::TWINS;
use super::{expect_done, expect_refused};
use crate::session::{Session, Stop};

pub(super) async fn cancel_first(session: Session) -> Result<(), Stop> {
    let branch = session.branch();
    for time in ["", ", sent again,"] {
        let end = session.cancel(&branch).await?;
        expect_done(&end, &format!("Cancel of a branch that was never prepared{time}"))?;
    }
    Ok(())
}

pub(super) async fn cancel_first_at_once(session: Session) -> Result<(), Stop> {
    let branch = session.branch();
    let ends = session
        .at_once(TWINS, |session, _| {
            let branch = branch.clone();
            async move { session.cancel(&branch).await }
        })
        .await?;
    let what = "one of eight Cancels at once, of a branch that was never prepared,";
    ends.iter().try_for_each(|end| expect_done(end, what))
}

pub(super) async fn late_prepare(session: Session) -> Result<(), Stop> {
    let branch = session.branch();
    let end = session.cancel(&branch).await?;
    expect_done(&end, "Cancel of a branch that was never prepared")?;
    for time in ["a Prepare", "a second Prepare"] {
        let vote = session.prepare(&branch).await?;
        expect_refused(&vote, &format!("{time} that came after its Cancel"))?;
    }
    let votes = session
        .at_once(TWINS, |session, _| {
            let branch = branch.clone();
            async move { session.prepare(&branch).await }
        })
        .await?;
    let what = "one of eight Prepares at once that came after their Cancel";
    votes.iter().try_for_each(|vote| expect_refused(vote, what))?;
    let end = session.cancel(&branch).await?;
    expect_done(&end, "Cancel, sent again after the late Prepare,")
}
