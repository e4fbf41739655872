//! Requests of parents: their children begin, and hear the decision.

use tokio::time::Instant;
use unanimo_core::{Definition, Gid, Input, Parent, PhaseTwoOperation};

use super::super::admission::{held_at, shares};
use super::super::children::{ChildEnd, is_child_of};
use super::super::{Answer, Error, Until};
use super::Handle;
use crate::store::Key;

impl Handle {
    /// Begins a child, or finds it, and waits until it has voted or ended. It belongs to a transaction
    /// that has begun: it is counted, for that one's identity, too, and never refused.
    ///
    /// # Errors
    /// Its gid belongs to another request, or the store does not answer.
    pub(crate) async fn begin_child(
        &self,
        definition: Definition,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let shares = shares(&self.shared.directory, definition.branches.iter().map(held_at));
        let admission = &self.shared.admission;
        let bytes = definition.held_bytes();
        let holding = admission.opened().admit_always(&definition.initiator, bytes);
        let permit = admission.admit_always(1, bytes, shares).holding(holding);
        self.begin_admitted(definition, Ok(permit), Until::ChildVoted, deadline).await
    }

    /// Hands its parent's decision to a child, and waits until it has ended. A Cancel that finds no child
    /// leaves a tombstone under its gid: then none will begin.
    ///
    /// # Errors
    /// The store does not answer.
    pub(crate) async fn end_child(
        &self,
        gid: &Gid,
        parent: Parent,
        operation: PhaseTwoOperation,
        deadline: Instant,
    ) -> Result<ChildEnd, Error> {
        let found = match self.wait(Key::Gid(gid.clone()), Until::Durable, deadline).await {
            Err(Error::UnknownGid) if operation == PhaseTwoOperation::Cancel => {
                let permit = self.shared.admission.admit_always(1, 0, Vec::new());
                match self
                    .leave_tombstone((gid.clone(), String::new()), permit, Until::Durable, deadline)
                    .await?
                {
                    Ok(answer) => answer,
                    // Somebody was faster: the next Cancel looks at whoever it is.
                    Err(_) => return Ok(ChildEnd::Working),
                }
            }
            Err(Error::UnknownGid) => return Ok(ChildEnd::Unknown),
            found => found?,
        };
        let Answer::View(view) = found else { return Ok(ChildEnd::Working) };
        if !is_child_of(&view.tx, parent) {
            return Ok(match operation {
                PhaseTwoOperation::Cancel => ChildEnd::None,
                PhaseTwoOperation::Commit => ChildEnd::Unknown,
            });
        }
        let key = Key::Tx(view.tx.tx_id());
        let input = Input::ParentDecided { operation };
        match self.input(key, input, Until::Ended, deadline).await? {
            Answer::View(view) if view.tx.phase().ended_at().is_some() => {
                Ok(ChildEnd::Ended(Box::new(view.tx)))
            }
            Answer::View(_) | Answer::NotYet(_) => Ok(ChildEnd::Working),
        }
    }
}
