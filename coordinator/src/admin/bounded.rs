//! Bound on the connections of a listener (promise L5).
//!
//! Probes and scrapes come from a few programs, each on a connection of a moment. Where there are too many, the earliest
//! is closed: it is the least likely to be one of these, and a new probe must be answered.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Sleep;

/// Connections at once.
const OPEN_MAX: usize = 128;

/// Longest time for which bytes of an answer are not taken.
const UNREAD_MAX: Duration = Duration::from_secs(60);

/// Listener with a bound on its connections.
pub(super) struct Bounded<L> {
    listener: L,
    /// Open ones, the earliest first. One that is dropped closes its connection.
    open: VecDeque<oneshot::Sender<()>>,
}

impl<L> Bounded<L> {
    pub(super) fn new(listener: L) -> Self {
        Self { listener, open: VecDeque::new() }
    }

    fn place(&mut self) -> oneshot::Receiver<()> {
        if self.open.len() >= OPEN_MAX {
            self.open.retain(|place| !place.is_closed());
        }
        if self.open.len() >= OPEN_MAX {
            drop(self.open.pop_front());
        }
        let (place, closed) = oneshot::channel();
        self.open.push_back(place);
        closed
    }
}

impl<L: Listener> Listener for Bounded<L> {
    type Io = Placed<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, L::Addr) {
        let (io, address) = self.listener.accept().await;
        (Placed { io, closed: self.place(), unread: None }, address)
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener.local_addr()
    }
}

/// Connection that ends when its place is another one's.
pub(super) struct Placed<IO> {
    io: IO,
    closed: oneshot::Receiver<()>,
    /// The end of the patience with a client that does not read; nothing while everything is sent.
    unread: Option<Pin<Box<Sleep>>>,
}

impl<IO> Placed<IO> {
    pub(super) fn inner(&self) -> &IO {
        &self.io
    }

    fn look(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match Pin::new(&mut self.closed).poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(_) => Err(io::Error::other("too many connections: the earliest is closed")),
        }
    }
}

impl<IO> Placed<IO> {
    /// Waits for the client to read, and not for longer than it may take.
    fn poll_unread<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let patience = self.unread.get_or_insert_with(|| Box::pin(tokio::time::sleep(UNREAD_MAX)));
        ready!(patience.as_mut().poll(context));
        let why = format!("an answer was not read within {UNREAD_MAX:?}");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Placed<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.look(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Placed<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.look(context)?;
        match Pin::new(&mut self.io).poll_write(context, bytes) {
            Poll::Pending => self.poll_unread(context),
            written => written,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_flush(context) {
            Poll::Pending => self.poll_unread(context),
            flushed => {
                self.unread = None;
                flushed
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn those_that_have_ended_take_no_place() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let mut bounded = Bounded::new(listener);
            let mut lasting = bounded.place();
            (0..3 * OPEN_MAX).for_each(|_| drop(bounded.place()));
            assert!(lasting.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty));
            let later: Vec<_> = (0..OPEN_MAX).map(|_| bounded.place()).collect();
            assert!(lasting.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
            assert_eq!((later.len(), bounded.open.len()), (OPEN_MAX, OPEN_MAX));
        });
    }
}
