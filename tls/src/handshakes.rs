//! Handshakes of a server: many at a time, each within a time, and for one address not all of them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_stream::Stream;

use crate::places::{Place, Places};
use crate::server::{Protocol, Server};
use crate::stream::TlsStream;

/// Longest time of a handshake. Two round trips over the longest way on earth take a second.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most handshakes at a time, of which one address may have three quarters of those that others leave. Each holds memory,
/// and a client that never goes on holds it for [`HANDSHAKE_TIMEOUT`], or for a second where there are too many: then the
/// earliest one of who has the most is ended for another one. A connection for which there is no place is closed.
pub const HANDSHAKES_MAX: usize = 1024;

/// Pause between two lines in the log about handshakes that failed.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// TLS connections, made of a stream of TCP connections.
#[derive(Debug)]
pub struct Handshakes<S> {
    server: Server,
    protocol: Protocol,
    tcp: Option<S>,
    running: JoinSet<Result<TlsStream, Failed>>,
    failed: Failures,
    max: usize,
    places: Arc<Places>,
}

#[derive(Debug)]
struct Failed {
    peer: Option<SocketAddr>,
    why: String,
}

/// Failed handshakes since they were told.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    told: Option<Instant>,
}

impl<S> Handshakes<S> {
    pub(crate) fn new(server: Server, protocol: Protocol, tcp: S) -> Self {
        let (running, failed) = (JoinSet::new(), Failures::default());
        let places = Arc::default();
        Self { server, protocol, tcp: Some(tcp), running, failed, max: HANDSHAKES_MAX, places }
    }

    /// Has no more handshakes at a time than so many, and one at least.
    #[must_use]
    pub fn at_most(self, max: usize) -> Self {
        Self { max: max.max(1), ..self }
    }

    /// Begins a handshake, if there is a place for it.
    fn begin(&mut self, tcp: TcpStream) {
        let peer = tcp.peer_addr().ok();
        let address = peer.map(|peer| peer.ip());
        match self.places.take(self.max, address, tokio::time::Instant::now()) {
            Some(place) => self.go_on(tcp, peer, place),
            None => self.failed.tell(&Failed { peer, why: "too many are under way".to_owned() }),
        }
    }

    fn go_on(&mut self, tcp: TcpStream, peer: Option<SocketAddr>, mut place: Place) {
        // The files may have changed since the last one.
        let acceptor = self.server.acceptor(self.protocol);
        self.running.spawn(async move {
            let failed = |why: String| Failed { peer, why };
            let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp));
            let ended = tokio::select! {
                ended = handshake => ended,
                () = place.lost() => {
                    return Err(failed("too many are under way, and it did not go on".to_owned()));
                }
            };
            match ended {
                Ok(Ok(stream)) => Ok(TlsStream::new(stream)),
                Ok(Err(error)) => Err(failed(error.to_string())),
                Err(_) => Err(failed(format!("no handshake within {HANDSHAKE_TIMEOUT:?}"))),
            }
        });
    }
}

impl<S: Stream<Item = io::Result<TcpStream>> + Unpin> Stream for Handshakes<S> {
    type Item = io::Result<TlsStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.running.poll_join_next(context) {
                Poll::Ready(Some(Ok(Ok(stream)))) => return Poll::Ready(Some(Ok(stream))),
                Poll::Ready(Some(Ok(Err(failed)))) => {
                    self.failed.tell(&failed);
                    continue;
                }
                Poll::Ready(Some(Err(_))) => continue,
                Poll::Ready(None) | Poll::Pending => {}
            }
            let Some(tcp) = &mut self.tcp else {
                return if self.running.is_empty() { Poll::Ready(None) } else { Poll::Pending };
            };
            match ready!(Pin::new(tcp).poll_next(context)) {
                Some(Ok(tcp)) => self.begin(tcp),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.tcp = None,
            }
        }
    }
}

impl Failures {
    /// Tells the first failure, and from then on one a minute: whoever reaches the port can make any number.
    fn tell(&mut self, Failed { peer, why }: &Failed) {
        self.count += 1;
        if self.told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
            let peer = peer.map(|peer| peer.to_string());
            tracing::warn!(peer, why, failed = self.count, "a TLS handshake has failed");
            (self.count, self.told) = (0, Some(Instant::now()));
        }
    }
}
