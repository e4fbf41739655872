//! Connections that cannot be accepted, such as for want of a descriptor.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tokio_stream::Stream;

/// Pause after a connection that could not be accepted. It is there still, so that the next try fails as soon.
const PAUSE: Duration = Duration::from_millis(100);

/// Pause between two log lines about that.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Failures to accept since they were told.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    told_at: Option<Instant>,
}

impl Failures {
    /// Notes a failure, tells of it now and then, and returns the time to wait; none if it was of one connection alone.
    fn note(&mut self, error: &io::Error) -> Option<Duration> {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        let of_one = [ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted];
        if of_one.contains(&error.kind()) {
            return None;
        }
        self.count += 1;
        if self.told_at.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
            tracing::warn!(%error, failed = self.count, "no connection can be accepted; trying again");
            (self.count, self.told_at) = (0, Some(Instant::now()));
        }
        Some(PAUSE)
    }
}

/// Connections of a listener that pauses when it cannot accept any.
#[derive(Debug)]
pub(crate) struct Accepting<S> {
    incoming: S,
    failures: Failures,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Accepting<S> {
    pub(crate) fn new(incoming: S) -> Self {
        Self { incoming, failures: Failures::default(), pause: None }
    }
}

impl<IO, S: Stream<Item = io::Result<IO>> + Unpin> Stream for Accepting<S> {
    type Item = io::Result<IO>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(Pin::new(&mut self.incoming).poll_next(context)) {
                Some(Err(error)) => {
                    let pause = self.failures.note(&error);
                    self.pause = pause.map(|pause| Box::pin(tokio::time::sleep(pause)));
                }
                accepted => return Poll::Ready(accepted),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    /// EMFILE, as the system tells it.
    fn no_descriptor() -> io::Error {
        rustix::io::Errno::MFILE.into()
    }

    #[test]
    fn l5_a_listener_without_descriptors_pauses_and_goes_on() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            let aborted = io::Error::from(io::ErrorKind::ConnectionAborted);
            let accepted = [Err(no_descriptor()), Err(no_descriptor()), Err(aborted), Ok(7)];
            let mut accepting = Accepting::new(tokio_stream::iter(accepted));
            let started = Instant::now();
            let next = accepting.next().await.expect("it goes on");
            assert_eq!(next.expect("it is accepted"), 7);
            assert!(started.elapsed() >= 2 * PAUSE, "{:?}", started.elapsed());
            assert_eq!(accepting.failures.count, 1, "the first one is told, and the next not yet");
            assert!(accepting.next().await.is_none());
        });
    }
}
