//! Rests: without its lease an incarnation decides nothing, and sends nothing.
//!
//! Requests come all the same, for as long as the database is away. Whoever sent one is answered when its
//! time is up, and then nobody waits for it: it is dropped, or its caller would repeat it until the memory
//! is full.

use std::time::Duration;

use super::super::message::Message;
use super::Service;

/// Between two looks at what has come.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

impl Service {
    /// Waits until the lease holds.
    pub(super) async fn rest(&mut self) {
        while !self.lease.is_held() {
            // The time-out is the look's interval.
            let _ = tokio::time::timeout(LOOK_INTERVAL, self.lease.held()).await;
            while let Ok(message) = self.inbox.try_recv() {
                self.rested.push(message);
            }
            self.rested.retain(Message::is_wanted);
        }
    }

    /// Takes what came during the last rest.
    pub(super) fn take_rested(&mut self) {
        for message in std::mem::take(&mut self.rested) {
            self.take(message);
        }
    }
}
