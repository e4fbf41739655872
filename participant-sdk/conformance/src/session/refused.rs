//! Commits and Cancels that a participant must not answer.

use std::time::Instant;

use super::{Branch, PAUSE, Session, Stop, cancel, commit, is_passing};
use crate::answer;

impl Session {
    /// Returns the id of the participant's database, if its votes carry one.
    #[must_use]
    pub fn database_id(&self) -> Option<String> {
        self.lock().database_id.clone()
    }

    /// Sends Cancel, and expects an error instead of an answer.
    ///
    /// # Errors
    /// It is answered, or does not arrive.
    pub async fn cancel_in_vain(&self, what: &str, branch: &Branch) -> Result<(), Stop> {
        let started = Instant::now();
        loop {
            let request = self.request(cancel(branch, 1));
            let why = match self.within(self.inner.target.cancel(request)).await {
                Ok(_) => {
                    let text = format!("{what} was answered, expected an error status");
                    return Err(Stop::Failed(text));
                }
                Err(status) if is_passing(&status) => answer::status(&status),
                Err(_) => return Ok(()),
            };
            if started.elapsed() > self.options().patience {
                return Err(self.no_answer("Cancel", &why));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends Commit, and expects an error instead of an answer.
    ///
    /// # Errors
    /// It is answered, or does not arrive.
    pub async fn commit_in_vain(&self, what: &str, branch: &Branch) -> Result<(), Stop> {
        let started = Instant::now();
        loop {
            let request = self.request(commit(branch, 1));
            let why = match self.within(self.inner.target.commit(request)).await {
                Ok(response) => {
                    let answered = self.committed(branch, response).words();
                    let text = format!("{what} was answered {answered}, expected an error status");
                    return Err(Stop::Failed(text));
                }
                Err(status) if is_passing(&status) => answer::status(&status),
                Err(_) => return Ok(()),
            };
            if started.elapsed() > self.options().patience {
                return Err(self.no_answer("Commit", &why));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
