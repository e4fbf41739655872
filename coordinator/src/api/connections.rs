//! Connections of callers (promise L5).
//!
//! Each holds a descriptor and some memory before anything is asked on it. So they are bounded, together and from one
//! address: one more is closed at once, behind its handshake where there is TLS. One on which HTTP/2 does not begin is closed soon: it would keep its place
//! from others. One on which an answer is not read for long, though that is given up, is closed, too: HTTP/2 has no other way
//! to let go of what was handed over for it.

mod places;
mod reserved;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpConnectInfo};
use unanimo_tls::{Peer, TlsStream};

pub(crate) use self::places::RESERVED_MAX;
use self::places::{Kind, Place, Places};
pub(super) use self::reserved::{Call, Reserved};
use crate::descriptors::Room;
use crate::metrics::Metrics;

/// Longest time for which an answer of some size is not read. As long as a request may take to come.
pub(super) const UNREAD_MAX: Duration = Duration::from_secs(60);

/// Longest time for which it is not let go of after that.
const GIVEN_UP_MAX: Duration = Duration::from_secs(15);

/// Bytes with which HTTP/2 begins (RFC 9113, 3.4). From then on a connection is asked whether anybody is there.
const FIRST_BYTES: usize = 24;

/// Longest time for the first bytes of a connection.
const FIRST_BYTES_MAX: Duration = Duration::from_secs(20);

/// Interval between two looks at that.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Interval between two looks at a connection on which only calls of operators are served.
const RESERVED_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Pause between two log lines about connections that are too many.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Connections that are accepted, as long as there are not too many.
#[derive(Debug)]
pub(super) struct Connections<S> {
    incoming: S,
    places: Arc<Places>,
    room: Room,
    metrics: Arc<Metrics>,
    refused: u64,
    told_at: Option<Instant>,
}

impl<S> Connections<S> {
    pub(super) fn new(incoming: S, room: Room, metrics: Arc<Metrics>) -> Self {
        let places = Places::new((room.connections, room.reserved), Arc::clone(&metrics));
        Self { incoming, places, room, metrics, refused: 0, told_at: None }
    }

    fn refuse(&mut self) {
        self.refused += 1;
        self.metrics.connection_refused();
        if self.told_at.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
            tracing::warn!(
                open = self.room.connections,
                refused = self.refused,
                "there are as many connections of callers, or from one address, as may be (connections-max, or the \
                 limit of open files); further ones are closed"
            );
            (self.refused, self.told_at) = (0, Some(Instant::now()));
        }
    }
}

/// A connection that tells where it comes from.
pub(super) trait Addressed {
    /// Returns the address, if the system knows it.
    fn address(&self) -> Option<IpAddr>;
}

impl Addressed for TcpStream {
    fn address(&self) -> Option<IpAddr> {
        self.peer_addr().ok().map(|address| address.ip())
    }
}

impl Addressed for TlsStream {
    fn address(&self) -> Option<IpAddr> {
        self.peer().address.map(|address| address.ip())
    }
}

impl<S: Stream<Item = io::Result<IO>> + Unpin, IO: Addressed> Stream for Connections<S> {
    type Item = io::Result<Connection<IO>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(Pin::new(&mut self.incoming).poll_next(context)) {
                Some(Ok(io)) => match self.places.take(io.address()) {
                    Some(place) => return Poll::Ready(Some(Ok(Connection::new(io, place)))),
                    None => {
                        drop(io);
                        self.refuse();
                    }
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// Answers of a connection that are not read yet, by when they were handed over.
#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<Unread>);

#[derive(Debug, Default)]
struct Unread {
    since: BTreeMap<u64, Instant>,
    next: u64,
}

impl Readers {
    fn lock(&self) -> MutexGuard<'_, Unread> {
        // Nothing in here panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an answer that is handed over at this time.
    pub(super) fn begin(&self, at: Instant) -> u64 {
        let mut unread = self.lock();
        unread.next += 1;
        let number = unread.next;
        unread.since.insert(number, at);
        number
    }

    /// Notes that it is read, or given up.
    pub(super) fn end(&self, number: u64) {
        self.lock().since.remove(&number);
    }

    fn are_stuck(&self) -> bool {
        let first = self.lock().since.first_key_value().map(|(_, since)| *since);
        first.is_some_and(|since| since.elapsed() >= UNREAD_MAX + GIVEN_UP_MAX)
    }
}

/// Knowledge of a connection that each of its requests carries.
#[derive(Clone, Debug)]
pub(super) struct Info<C> {
    of: C,
    own: Own,
}

/// The part of it that the coordinator itself needs.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) readers: Arc<Readers>,
    /// Use of a connection on which only calls of operators are served.
    pub(super) reserved: Option<Arc<Reserved>>,
}

/// Takes what a request carries of its connection, and leaves what it is of in its place.
pub(super) fn connection_of<T>(request: &mut http::Request<T>) -> Option<Own> {
    let extensions = request.extensions_mut();
    if let Some(Info { of, own }) = extensions.remove::<Info<Peer>>() {
        extensions.insert(of);
        return Some(own);
    }
    let Info { of, own } = extensions.remove::<Info<TcpConnectInfo>>()?;
    extensions.insert(of);
    Some(own)
}

/// A connection that has a place.
#[derive(Debug)]
pub(super) struct Connection<IO> {
    io: IO,
    readers: Arc<Readers>,
    look: Pin<Box<Sleep>>,
    /// Until when its first bytes have to come; nothing once they have.
    first_until: Option<Instant>,
    /// Those that are still to come.
    first_bytes: usize,
    /// Its use, if it may not last for ever.
    reserved: Option<Arc<Reserved>>,
    _place: Place,
}

impl<IO> Connection<IO> {
    fn new(io: IO, place: Place) -> Self {
        let now = Instant::now();
        let is_reserved = place.kind() == Kind::Reserved;
        let reserved = is_reserved.then(|| Arc::new(Reserved::new(now)));
        let mut connection = Self {
            io,
            readers: Arc::default(),
            look: Box::pin(tokio::time::sleep(Duration::ZERO)),
            first_until: Some(now + FIRST_BYTES_MAX),
            first_bytes: FIRST_BYTES,
            reserved,
            _place: place,
        };
        connection.look_later(now);
        connection
    }

    fn look_later(&mut self, now: Instant) {
        let interval = self.reserved.as_ref().map_or(LOOK_INTERVAL, |_| RESERVED_LOOK_INTERVAL);
        self.look.as_mut().reset(now + interval);
    }

    /// Looks whether something comes, and whether answers are read, when it is time for that. Tells whether it is over
    /// without a fault of the caller's.
    fn poll_look(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        while self.look.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            self.look_later(now);
            if self.first_until.is_some_and(|until| now >= until) {
                let why = format!("HTTP/2 did not begin on it within {FIRST_BYTES_MAX:?}");
                tracing::debug!(why, "a connection is closed");
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            if self.readers.are_stuck() {
                let why = format!("an answer was not read within {UNREAD_MAX:?}");
                tracing::warn!(why, "a connection is closed");
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            if let Some(why) = self.reserved.as_ref().and_then(|reserved| reserved.is_over(now)) {
                tracing::debug!(why, "a connection is closed");
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl<IO: Connected> Connected for Connection<IO> {
    type ConnectInfo = Info<IO::ConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        let own = Own { readers: Arc::clone(&self.readers), reserved: self.reserved.clone() };
        Info { of: self.io.connect_info(), own }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Connection<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.poll_look(context)? {
            // As if the caller had closed it: what is to be sent is sent, and nothing more is read.
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        self.first_bytes = self.first_bytes.saturating_sub(buffer.filled().len() - before);
        self.first_until = self.first_until.filter(|_| self.first_bytes > 0);
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Connection<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Where it cannot be written to, it may not be read from either.
        if self.poll_look(context)? {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Reads after these bytes from a connection whose answer was handed over so long ago, until the first look at it
    /// is over.
    fn read_after(unread_for: Duration, first_for: Duration, sent: &[u8]) -> Option<io::ErrorKind> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            let (mut far, near) = tokio::io::duplex(64);
            let place = Places::new((1, 32), Arc::default()).take(None).expect("a place");
            let mut connection = Connection::new(near, place);
            far.write_all(sent).await.expect("room");
            connection.read_exact(&mut vec![0; sent.len()]).await.expect("what was sent");
            connection.look = Box::pin(tokio::time::sleep(Duration::ZERO));
            let at = Instant::now().checked_sub(unread_for).expect("a time");
            connection.readers.begin(at);
            let until = Instant::now() + first_for;
            connection.first_until = connection.first_until.map(|_| until);
            let reading = connection.read_u8();
            let read = tokio::time::timeout(Duration::from_millis(200), reading).await.ok()?;
            Some(read.expect_err("nothing more was sent").kind())
        })
    }

    #[test]
    fn l5_a_connection_whose_answers_are_not_read_is_closed() {
        assert_eq!(read_after(Duration::ZERO, FIRST_BYTES_MAX, b""), None);
        let long = UNREAD_MAX + GIVEN_UP_MAX;
        assert_eq!(read_after(long, FIRST_BYTES_MAX, b""), Some(io::ErrorKind::TimedOut));
    }

    #[test]
    fn l5_a_connection_on_which_nothing_comes_is_closed() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let (most, all) = (&preface[..FIRST_BYTES - 1], &preface[..]);
        for (sent, expected) in [
            (&b""[..], Some(io::ErrorKind::TimedOut)),
            (b"P", Some(io::ErrorKind::TimedOut)),
            (most, Some(io::ErrorKind::TimedOut)),
            (all, None),
        ] {
            assert_eq!(read_after(Duration::ZERO, Duration::ZERO, sent), expected, "{sent:?}");
        }
    }

    #[test]
    fn l5_a_connection_for_operators_ends_after_a_refused_call() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let read = runtime.expect("a runtime").block_on(async {
            let (_far, near) = tokio::io::duplex(64);
            let place = Places::new((0, 32), Arc::default()).take(None).expect("a place");
            let mut connection = Connection::new(near, place);
            connection.reserved.as_ref().expect("a reserved place").refuse();
            let reading = connection.read_u8();
            tokio::time::timeout(FIRST_BYTES_MAX / 2, reading).await
        });
        let error = read.expect("it is closed").expect_err("nothing was sent");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_read_is_not_waited_for() {
        let readers = Readers::default();
        let long_ago = Instant::now().checked_sub(UNREAD_MAX + GIVEN_UP_MAX).expect("a time");
        let (first, second) = (readers.begin(long_ago), readers.begin(Instant::now()));
        assert!(readers.are_stuck());
        readers.end(first);
        assert!(!readers.are_stuck());
        readers.end(second);
    }
}
