//! Commits and Cancels that a participant must not take.

use std::time::Instant;

use tonic::Code;

use super::{Branch, PAUSE, Session, Stop, cancel, commit, is_passing};
use crate::answer;

impl Session {
    /// Sends Commit, and expects UNIMPLEMENTED.
    ///
    /// # Errors
    /// It is answered, or refused with another status, or does not arrive.
    pub async fn commit_is_unimplemented(&self, what: &str, branch: &Branch) -> Result<(), Stop> {
        let send = || async {
            let request = self.request(commit(branch, 1));
            let sent = self.within(self.inner.target.commit(request)).await;
            sent.map(|response| drop(self.committed(branch, response)))
        };
        self.is_unimplemented(what, "Commit", send).await
    }

    /// Sends Cancel, and expects UNIMPLEMENTED.
    ///
    /// # Errors
    /// It is answered, or refused with another status, or does not arrive.
    pub async fn cancel_is_unimplemented(&self, what: &str, branch: &Branch) -> Result<(), Stop> {
        let send = || async {
            let request = self.request(cancel(branch, 1));
            self.within(self.inner.target.cancel(request)).await.map(|_| ())
        };
        self.is_unimplemented(what, "Cancel", send).await
    }

    async fn is_unimplemented<F>(
        &self,
        what: &str,
        operation: &str,
        send: impl Fn() -> F,
    ) -> Result<(), Stop>
    where
        F: Future<Output = Result<(), tonic::Status>>,
    {
        let started = Instant::now();
        loop {
            let status = match send().await {
                Ok(()) => {
                    let text = format!("{what} was answered, expected the status UNIMPLEMENTED");
                    return Err(Stop::Failed(text));
                }
                Err(status) if status.code() == Code::Unimplemented => return Ok(()),
                Err(status) => status,
            };
            let text = answer::status(&status);
            if !is_passing(&status) {
                let text = format!("{what} was answered {text}, expected UNIMPLEMENTED");
                return Err(Stop::Failed(text));
            }
            if started.elapsed() > self.options().patience {
                return Err(self.no_answer(operation, &text));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
