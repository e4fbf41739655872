//! Inputs of steps.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::conditions::is_unsupported;
use super::{expect_done, expect_no_yes, expect_same};
use crate::Vote;
use crate::session::{Branch, Session, Stop};

/// An input that no action reads.
const NO_INPUT: &str = "unanimo-check.no-such-input";

pub(super) fn without_inputs(branch: &Branch) -> Branch {
    Branch { inputs: BTreeMap::new(), ..branch.clone() }
}

pub(super) async fn given(session: Session) -> Result<(), Stop> {
    let able = session.prepared().await?;
    let end = session.cancel(&able).await?;
    expect_done(&end, "Cancel of a prepared branch")?;
    for phase_two_has_them in [true, false] {
        let mut branch = session.branch();
        branch.inputs.insert(NO_INPUT.to_owned(), Bytes::from_static(b"1"));
        let first = session.prepare(&branch).await?;
        if is_unsupported(&first) {
            return Err(Stop::Skipped("the participant does not know step_inputs".to_owned()));
        }
        if !first.is_prepared() {
            let text = format!("Prepare with the input {NO_INPUT} was answered {first}");
            return Err(Stop::Failed(format!("{text}, and without it PREPARED")));
        }
        let again = session.prepare(&branch).await?;
        expect_same(&first, &again, "the same Prepare with inputs, sent a second time,")?;
        // Without those that no action reads: what it does read, a coordinator that knew of its yes
        // sends.
        let mut told = branch.clone();
        if !phase_two_has_them {
            told.inputs.remove(NO_INPUT);
        }
        let end = session.cancel(&told).await?;
        expect_done(&end, "Cancel of a branch that was prepared with inputs")?;
    }
    Ok(())
}

pub(super) async fn missing(session: Session) -> Result<(), Stop> {
    if session.options().inputs.is_empty() {
        return Err(Stop::Skipped("no input was given that the action reads".to_owned()));
    }
    let whole = session.branch();
    let branch = without_inputs(&whole);
    let first = session.prepare(&branch).await?;
    let what = "a Prepare without the action's inputs, sent again";
    if let Vote::Refused(_) = &first {
        // With nothing wrong about it any more: the stored answer.
        let again = session.prepare(&whole).await?;
        expect_same(&first, &again, &format!("{what} with them,"))?;
        let end = session.cancel(&branch).await?;
        expect_done(&end, "Cancel of a branch that was refused for want of an input")?;
    } else {
        let again = session.prepare(&branch).await?;
        expect_same(&first, &again, &format!("{what},"))?;
        let end = session.cancel(&whole).await?;
        expect_done(&end, "Cancel of a branch that was prepared without inputs")?;
    }

    let branch = session.branch();
    let end = session.cancel(&without_inputs(&branch)).await?;
    expect_done(&end, "Cancel, without inputs, of a branch that was never prepared")?;
    let vote = session.prepare(&branch).await?;
    expect_no_yes(&vote, "a Prepare that came after its Cancel without inputs")
}
