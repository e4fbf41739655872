//! Operations that meet.

use std::time::Duration;

use super::{expect_done, expect_no_yes};
use crate::Vote;
use crate::session::{Session, Stop};

/// Times that two operations are sent at once.
const ROUNDS: usize = 20;

/// The same where each round may commit work that stays.
const COMMITTING_ROUNDS: usize = 5;

/// Waits of callers before they go away: less than a participant takes, and more.
const LEAVING_AFTER_MS: [u64; 8] = [0, 1, 2, 3, 5, 8, 13, 21];

/// In every other round Cancel goes first, by so little that it may be overtaken.
fn head_start(round: usize) -> Duration {
    Duration::from_micros(200 * (round as u64 / 2))
}

pub(super) async fn prepare_and_cancel(session: Session) -> Result<(), Stop> {
    for round in 0..ROUNDS {
        let branch = session.branch();
        session
            .at_once(2, |session, which| {
                let branch = branch.clone();
                async move {
                    if which == round % 2 {
                        tokio::time::sleep(head_start(round)).await;
                    }
                    if which == 0 {
                        // It may come first, and be yes.
                        session.prepare(&branch).await.map(drop)
                    } else {
                        let end = session.cancel(&branch).await?;
                        expect_done(&end, "Cancel, at once with its Prepare,")
                    }
                }
            })
            .await?;
        let vote = session.prepare(&branch).await?;
        let what = "a Prepare, sent again after it had met its Cancel,";
        if vote != Vote::ReadOnly {
            expect_no_yes(&vote, what)?;
        }
        let end = session.cancel(&branch).await?;
        expect_done(&end, "Cancel, sent again after it had met its Prepare,")?;
    }
    Ok(())
}

pub(super) async fn abandoned(session: Session) -> Result<(), Stop> {
    for after_ms in LEAVING_AFTER_MS {
        let branch = session.branch();
        session.prepare_and_leave(&branch, Duration::from_millis(after_ms)).await;
        let first = session.prepare(&branch).await?;
        let again = session.prepare(&branch).await?;
        super::expect_same(&first, &again, "a Prepare whose first caller had gone away")?;
        let end = session.cancel(&branch).await?;
        expect_done(&end, "Cancel of a branch whose first caller had gone away")?;

        let branch = session.branch();
        session.prepare_and_leave(&branch, Duration::from_millis(after_ms)).await;
        let end = session.cancel(&branch).await?;
        expect_done(&end, "Cancel of a Prepare whose caller had gone away")?;
        let vote = session.prepare(&branch).await?;
        expect_no_yes(&vote, "a Prepare whose caller had gone away, sent again after Cancel,")?;
    }
    Ok(())
}

pub(super) async fn commit_and_cancel(session: Session) -> Result<(), Stop> {
    session.needs_commit()?;
    for round in 0..COMMITTING_ROUNDS {
        let branch = session.prepared().await?;
        let ends = session
            .at_once(2, |session, which| {
                let branch = branch.clone();
                async move {
                    if which == round % 2 {
                        tokio::time::sleep(head_start(round)).await;
                    }
                    match which {
                        0 => session.commit(&branch).await,
                        _ => session.cancel(&branch).await,
                    }
                }
            })
            .await?;
        if ends.iter().all(|end| end.heuristic().is_none()) {
            let text = "Commit and Cancel of one branch, sent at once, were both answered done";
            return Err(Stop::Failed(text.to_owned()));
        }
    }
    Ok(())
}
