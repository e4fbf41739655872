//! Bound on the connections of a listener (promise L5).
//!
//! Probes and scrapes come from a few programs, each on a connection of a moment. Where there are too many, the earliest
//! is closed on which no call is under way: it is the least likely to be one of these, and a new probe must be answered.
//! Calls have fewer [turns](Turns) than there are places, so that there is such a connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Sleep;

/// Of so many places one is left to what is no call.
const LEFT_OF: usize = 8;

/// Longest time for which bytes of an answer are not taken.
const UNREAD_MAX: Duration = Duration::from_secs(60);

/// Calls that are under way on one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls(Arc<OfConnection>);

#[derive(Debug, Default)]
struct OfConnection {
    calls: AtomicUsize,
    /// The answer of the last one is on its way: it was handed over, and is not sent yet.
    is_answering: AtomicBool,
}

impl Calls {
    fn are_there(&self) -> bool {
        self.0.calls.load(Ordering::Acquire) > 0
    }

    fn is_answering(&self) -> bool {
        self.0.is_answering.load(Ordering::Acquire)
    }

    fn begin(&self) -> Self {
        self.0.calls.fetch_add(1, Ordering::AcqRel);
        self.clone()
    }

    fn end(&self) {
        self.0.is_answering.store(true, Ordering::Release);
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }

    /// Notes that everything that was handed over is sent.
    fn sent(&self) {
        self.0.is_answering.store(false, Ordering::Release);
    }
}

/// Turns of the calls of a listener.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(super) fn new(open_max: usize) -> Self {
        Self(Arc::new(Semaphore::new((open_max - open_max / LEFT_OF).min(Semaphore::MAX_PERMITS))))
    }

    /// Returns the turn of one more call on a connection, until it is dropped; none if there are too many.
    pub(super) fn next(&self, calls: Option<&Calls>) -> Option<Turn> {
        let turn = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(Turn { calls: calls.map(Calls::begin), _turn: turn })
    }
}

/// Turn of a call, until its answer has been handed over.
#[derive(Debug)]
pub(super) struct Turn {
    calls: Option<Calls>,
    _turn: OwnedSemaphorePermit,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(calls) = &self.calls {
            calls.end();
        }
    }
}

/// Place of an open connection. When it is dropped the connection is closed.
type Place = (oneshot::Sender<()>, Calls);

/// Places of the connections of a listener: those are closed that are open when the last of these is dropped.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Taken ones, the earliest first.
    open: Arc<Mutex<VecDeque<Place>>>,
    max: usize,
}

impl Places {
    pub(super) fn new(max: usize) -> Self {
        Self { open: Arc::default(), max }
    }

    /// Takes a place; none if a call is under way on every connection.
    fn take(&self) -> Option<(oneshot::Receiver<()>, Calls)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.max {
            open.retain(|(place, _)| !place.is_closed());
        }
        if open.len() >= self.max {
            // An answer on its way is cut off only where there is nothing else: its reader may be slow, and a probe may not.
            let is_idle = |(_, calls): &Place| !calls.are_there() && !calls.is_answering();
            let idle = open.iter().position(is_idle);
            let idle = idle.or_else(|| open.iter().position(|(_, calls)| !calls.are_there()))?;
            open.remove(idle);
        }
        let ((place, closed), calls) = (oneshot::channel(), Calls::default());
        open.push_back((place, calls.clone()));
        Some((closed, calls))
    }
}

/// Bytes with which HTTP/2 begins: no method of HTTP/1 is this. What it holds for a client that does not read is not bounded here.
const PREFACE: &[u8] = b"PRI ";

/// Listener with a bound on its connections.
pub(super) struct Bounded<L> {
    listener: L,
    places: Places,
}

impl<L> Bounded<L> {
    pub(super) fn new(listener: L, places: Places) -> Self {
        Self { listener, places }
    }
}

impl<L: Listener> Listener for Bounded<L> {
    type Io = Placed<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, L::Addr) {
        loop {
            let (io, address) = self.listener.accept().await;
            if let Some((closed, calls)) = self.places.take() {
                let begun = Some(0);
                return (Placed { io, closed: Some(closed), calls, unread: None, begun }, address);
            }
            tracing::debug!("a call is under way on every connection: one more is closed");
        }
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener.local_addr()
    }
}

/// Connection that ends when its place is another one's.
pub(super) struct Placed<IO> {
    io: IO,
    /// Nothing once it is closed.
    closed: Option<oneshot::Receiver<()>>,
    calls: Calls,
    /// The end of the patience with a client that does not read; nothing while it reads, or everything is sent.
    unread: Option<Pin<Box<Sleep>>>,
    /// Bytes of [`PREFACE`] with which it has begun; nothing once it is known to speak HTTP/1.
    begun: Option<usize>,
}

impl<IO> Placed<IO> {
    pub(super) fn inner(&self) -> &IO {
        &self.io
    }

    pub(super) fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Looks at its first bytes.
    fn begins(&mut self, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            let Some(begun) = self.begun else { break };
            self.begun = (PREFACE[begun] == *byte).then_some(begun + 1);
            if self.begun == Some(PREFACE.len()) {
                return Err(io::Error::other("HTTP/2 is spoken at the address of gRPC alone"));
            }
        }
        Ok(())
    }

    fn look(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(closed) = &mut self.closed
            && Pin::new(closed).poll(context).is_pending()
        {
            return Ok(());
        }
        self.closed = None;
        Err(io::Error::other("too many connections, or the end: this one is closed"))
    }

    /// Notes whether the client has taken something.
    fn written(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => self.poll_unread(context),
            written => {
                self.unread = None;
                written
            }
        }
    }

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
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        self.begins(&buffer.filled()[before..])?;
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Placed<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.look(context)?;
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.written(written, context)
    }

    /// Passes the pieces on: where they were put together, they would be copied, and the count of
    /// [answers](crate::api) that are not read would end with the copy.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.look(context)?;
        let written = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look(context)?;
        match Pin::new(&mut self.io).poll_flush(context) {
            Poll::Pending => self.poll_unread(context),
            flushed => {
                self.unread = None;
                self.calls.sent();
                flushed
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
