//! Bound on the connections of a listener (promise L5).
//!
//! Probes and scrapes come from a few programs, each on a connection of a moment. Where there are too many, the earliest
//! is closed on which no call is under way: it is the least likely to be one of these, and a new probe must be answered.
//! It is one of the address that has the most, so that one address closes none of another one's.
//! Calls have fewer [turns](crate::api::Turns) than there are places, so that there is such a connection.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::identity::network_of;

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

    /// Counts one more, until it is dropped.
    pub(super) fn begin(&self) -> Call {
        self.0.calls.fetch_add(1, Ordering::AcqRel);
        Call(self.clone())
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

/// Call that is under way on a connection, until its answer has been handed over.
#[derive(Debug)]
pub(super) struct Call(Calls);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Place of an open connection. When it is dropped the connection is closed.
#[derive(Debug)]
struct Place {
    keep: oneshot::Sender<()>,
    calls: Calls,
    /// Address of the other end, if the system knows it.
    of: Option<IpAddr>,
}

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

    /// Takes a place for a connection from this address; none if a call is under way on every one that could be closed
    /// for it.
    fn take(&self, of: Option<IpAddr>) -> Option<(oneshot::Receiver<()>, Calls)> {
        let of = of.map(network_of);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.max {
            open.retain(|place| !place.keep.is_closed());
        }
        if open.len() >= self.max {
            let victim = victim(&open, of)?;
            open.remove(victim);
        }
        let ((keep, closed), calls) = (oneshot::channel(), Calls::default());
        open.push_back(Place { keep, calls: calls.clone(), of });
        Some((closed, calls))
    }
}

/// Returns the place that is taken away for a connection from this address: one of who has the most, if it can be.
fn victim(open: &VecDeque<Place>, of: Option<IpAddr>) -> Option<usize> {
    let mut counts = HashMap::<_, usize>::new();
    open.iter().for_each(|place| *counts.entry(place.of).or_default() += 1);
    let most = counts.values().max().copied().unwrap_or_default();
    let has = |of: Option<IpAddr>| counts.get(&of).copied().unwrap_or_default();
    let has_most = |place: &Place| has(place.of) == most;
    // An answer on its way is cut off only where there is nothing else: its reader may be slow, and a probe may not.
    let idle = |may: &dyn Fn(&Place) -> bool| {
        let free = |place: &Place| may(place) && !place.calls.are_there();
        let unused = open.iter().position(|place| free(place) && !place.calls.is_answering());
        unused.or_else(|| open.iter().position(free))
    };
    match has(of) >= most {
        true => idle(&|place| place.of == of),
        false => idle(&has_most).or_else(|| idle(&|_| true)),
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

impl<L: Listener<Addr: Into<Option<SocketAddr>>>> Bounded<L> {
    /// Returns the next connection that has a place. Nothing is lost if it is dropped before.
    pub(super) async fn accept(&mut self) -> Placed<L::Io> {
        loop {
            let (io, address) = self.listener.accept().await;
            let address: Option<SocketAddr> = address.into();
            if let Some((closed, calls)) = self.places.take(address.map(|address| address.ip())) {
                let begun = Some(0);
                return Placed { io, closed: Some(closed), calls, unread: None, begun };
            }
            tracing::debug!("a call is under way on every connection: one more is closed");
        }
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
