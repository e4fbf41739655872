//! Operations of a branch as if the participant's database were at another place.

use std::time::Instant;

use unanimo_proto::v1::BranchContext;

use super::{Branch, PAUSE, Session, Stop, cancel, commit, is_passing, prepare};
use crate::answer;

/// A place that no database has.
const ELSEWHERE: &str = "unanimo-check.elsewhere";

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Phase one.
    Prepare,
    /// Phase two after COMMIT.
    Commit,
    /// Phase two after ABORT.
    Cancel,
}

impl Session {
    /// Sends an operation of a branch as for another place of its database, and returns the answer in words; `None` if
    /// it got an error status.
    ///
    /// # Errors
    /// It does not arrive.
    pub async fn elsewhere(
        &self,
        operation: Operation,
        branch: &Branch,
    ) -> Result<Option<String>, Stop> {
        // Whatever comes of it, its end is sent without a place.
        self.open(branch);
        let context =
            BranchContext { database_place: ELSEWHERE.to_owned(), ..branch.context.clone() };
        let there = Branch { context, ..branch.clone() };
        let target = &self.inner.target;
        let started = Instant::now();
        loop {
            let sent = match operation {
                Operation::Prepare => {
                    let sent = target.prepare(self.request(prepare(&there, 1)));
                    self.within(sent).await.map(|response| answer::vote(response).words())
                }
                Operation::Commit => {
                    let sent = target.commit(self.request(commit(&there, 1)));
                    self.within(sent).await.map(|response| self.committed(branch, response).words())
                }
                Operation::Cancel => {
                    let sent = target.cancel(self.request(cancel(&there, 1)));
                    self.within(sent).await.map(|response| answer::cancelled(response).words())
                }
            };
            let why = match sent {
                Ok(words) => return Ok(Some(words)),
                Err(status) if is_passing(&status) => answer::status(&status),
                Err(_) => return Ok(None),
            };
            if started.elapsed() > self.options().patience {
                return Err(self.no_answer(&format!("{operation:?}"), &why));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
