//! Interruptions of a command that goes on until somebody ends it.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals by which people end a command: Ctrl-C, an end of the terminal, and `kill`.
#[derive(Debug)]
pub(super) struct Interruptions {
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
}

impl Interruptions {
    pub(super) fn listen() -> Self {
        let listen = |kind| signal(kind).ok();
        Self { terminate: listen(SignalKind::terminate()), hang_up: listen(SignalKind::hangup()) }
    }

    /// Returns at the next one.
    pub(super) async fn next(&mut self) {
        let heard = async |signal: &mut Option<Signal>| match signal {
            Some(signal) => signal.recv().await,
            // A signal that nobody can wait for does not come.
            None => std::future::pending().await,
        };
        tokio::select! {
            Ok(()) = tokio::signal::ctrl_c() => {}
            _ = heard(&mut self.terminate) => {}
            _ = heard(&mut self.hang_up) => {}
        }
    }
}
