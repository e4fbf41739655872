//! Callers that go away.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tonic::Request;

use super::Session;
use super::branch::{Branch, prepare};

/// Time in which a request leaves the client, which hands it from task to task: where nobody waits any more before that, it
/// is not sent at all.
const SENDING: Duration = Duration::from_millis(2);

impl Session {
    /// Sends Prepare once and waits for so long only, from when it is sent. Whatever comes of it, the branch may be
    /// prepared.
    pub async fn prepare_and_leave(&self, branch: &Branch, timeout: Duration) {
        self.open(branch);
        let mut request = Request::new(prepare(branch, 1));
        // The client's own clock ends a call, too.
        let timeout = timeout.saturating_add(SENDING);
        request.set_timeout(timeout);
        let mut call = pin!(self.inner.target.prepare(request));
        let mut time = pin!(tokio::time::sleep(timeout));
        let mut is_sent = false;
        // It is handed over first. Then the time goes first: where both have come, as on a busy machine, the caller has
        // gone all the same. Nothing is concluded from an answer.
        poll_fn(|context| {
            if is_sent && time.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            is_sent = true;
            match call.as_mut().poll(context) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => time.as_mut().poll(context),
            }
        })
        .await;
    }
}
