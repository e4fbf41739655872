//! Connections to participants: dialled on first use, and no more than the process has descriptors for.
//!
//! An endpoint over gRPC has a pair of connections for all its calls. One over HTTP/1.1 needs one for each call under
//! way, and keeps a few for the next ones.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Endpoint as Dial;
use unanimo_proto::over_http;
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;

use super::{CallKind, Options};
use crate::outbound::{Counted, KEPT_MAX, OfServer, Outbound, Replies};
use crate::participants::allow::parse_endpoint;
use crate::participants::transport::{Client, Json};

/// Longest time to wait for a participant's connection. It is on a near network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection on which nothing is answered for so long is closed, and its calls have failed. The
/// ping is what finds out that a host has vanished without a word.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Flow-control windows. Wide: small messages of many calls share a connection, and none should
/// wait for another's.
const WINDOW_BYTES: u32 = 16 << 20;

/// Largest list of headers or trailers that is taken from a participant. A status travels there; only the
/// beginning of it is kept. The participant is told this bound, and many gRPC libraries keep to it. A longer
/// list ends the connection with every call on it: it comes in frames, of which the HTTP/2 library takes a
/// number that follows from this bound, and there is no setting that gives up the one call instead. Not
/// larger: the time that a list takes to be read grows with the square of its length, to half a second here.
const HEADERS_BYTES_MAX: u32 = 4 << 20;

/// Connections of one endpoint at a time for calls of one past: one for Prepares and one for the rest.
const PER_PAIR: usize = 2;

/// Time without a call after which the connections of an endpoint are closed.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(10 * 60);

/// Part of all places that Prepares over HTTP/1.1, each of which takes one, leave to others.
const PHASE_TWO_PART: usize = 4;

/// Between two closings of others' connections for calls over HTTP/1.1.
const CLOSE_INTERVAL: Duration = Duration::from_secs(1);

/// Bound on all connections, and how they are made.
#[derive(Debug)]
pub(super) struct Connections {
    open: Arc<AtomicUsize>,
    max: usize,
    message_bytes_max: usize,
    /// Answers on their way in.
    replies: Arc<Replies>,
    tls: unanimo_tls::Client,
    /// When connections were closed for a call over HTTP/1.1 last.
    closed_at: Mutex<Option<Instant>>,
}

/// Connections of one endpoint.
#[derive(Debug)]
pub(super) struct Dialled {
    lines: Lines,
    used_at: Instant,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few, and each is beside a connection")]
enum Lines {
    /// HTTP/2 bounds the calls on a connection, so Prepares have their own.
    Grpc {
        usual: Pair,
        /// For calls of branches that fail: what such a call does to its connection, again and again, is not done
        /// to the calls of others. Dialled when there is one.
        failing: Option<Pair>,
    },
    /// Each call has a connection for itself.
    Json {
        client: Json,
        /// The place of those that are kept.
        _kept: Arc<Open>,
    },
}

/// A connection for each kind of call.
#[derive(Debug)]
struct Pair {
    clients: [Client; PER_PAIR],
    open: Arc<Open>,
    used_at: Instant,
}

/// Places of so many connections, for as long as anybody uses them.
#[derive(Debug)]
pub(crate) struct Open {
    all: Arc<AtomicUsize>,
    count: usize,
}

impl Connections {
    pub(super) fn new(options: &Options, tls: unanimo_tls::Client) -> Self {
        let Options { connections_max, message_bytes_max, replies_bytes_max, .. } = *options;
        Self {
            open: Arc::default(),
            max: connections_max,
            message_bytes_max,
            replies: Replies::new(replies_bytes_max),
            tls,
            closed_at: Mutex::default(),
        }
    }

    /// Makes the usual connections of an endpoint; `None` if there are as many as there may be. They are
    /// dialled by their first calls.
    pub(super) fn dial(&self, url: &str) -> Option<Dialled> {
        let now = Instant::now();
        let lines = match over_http::base(url) {
            Some(base) => {
                let kept = self.reserve(KEPT_MAX)?;
                let outbound = Outbound::new(&self.tls).counted(self.replies.of_server());
                let client = Json::new(outbound, base, self.message_bytes_max);
                Lines::Json { client, _kept: kept }
            }
            None => Lines::Grpc { usual: self.pair(url, now)?, failing: None },
        };
        Some(Dialled { lines, used_at: now })
    }

    /// Takes the places of so many connections, if they are free.
    fn reserve(&self, count: usize) -> Option<Arc<Open>> {
        // Counted first, so that two at once cannot both take the last place.
        let before = self.open.fetch_add(count, Ordering::Relaxed);
        let open = Arc::new(Open { all: Arc::clone(&self.open), count });
        (before + count <= self.max).then_some(open)
    }

    /// Takes the place of a call that has a connection of its own. Prepares leave a part of all places to calls that
    /// end what is prepared, and to new endpoints.
    fn reserve_call(&self, kind: CallKind) -> Option<Arc<Open>> {
        let open = self.reserve(1)?;
        let most = match kind {
            CallKind::Prepare => self.max - self.max / PHASE_TWO_PART,
            CallKind::PhaseTwo => self.max,
        };
        (self.open.load(Ordering::Relaxed) <= most).then_some(open)
    }

    /// Tells whether connections of others may be closed for a call: not for each one, where there are many.
    pub(super) fn may_close(&self, now: Instant) -> bool {
        let mut closed_at = self.closed_at.lock().unwrap_or_else(PoisonError::into_inner);
        let may = closed_at.is_none_or(|at| now.saturating_duration_since(at) >= CLOSE_INTERVAL);
        if may {
            *closed_at = Some(now);
        }
        may
    }

    fn pair(&self, url: &str, now: Instant) -> Option<Pair> {
        let open = self.reserve(PER_PAIR)?;
        let server = self.replies.of_server();
        let client = || self.client(url, Arc::clone(&server));
        Some(Pair { clients: [client(), client()], open, used_at: now })
    }

    fn client(&self, url: &str, server: Arc<OfServer>) -> Client {
        const CHECKED: &str = "endpoints are checked before they are stored";
        let bounded = |dial: Dial| {
            dial.connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .http2_max_header_list_size(HEADERS_BYTES_MAX)
                .initial_connection_window_size(WINDOW_BYTES)
                .initial_stream_window_size(WINDOW_BYTES)
        };
        let channel = match parse_endpoint(url).expect(CHECKED).tls {
            true => self.tls.lazy(url, bounded).expect(CHECKED),
            false => bounded(Dial::from_shared(url.to_owned()).expect(CHECKED)).connect_lazy(),
        };
        let client = ParticipantServiceClient::new(Counted::new(channel, server))
            .max_decoding_message_size(self.message_bytes_max)
            .max_encoding_message_size(self.message_bytes_max);
        Client::Grpc(client)
    }

    /// Says that there is no room.
    pub(super) fn no_room(&self) -> String {
        let max = self.max;
        format!("of the {max} connections to participants, none is free for this call")
    }
}

impl Dialled {
    /// Returns the client for a call, of a branch that fails or not; `None` if there is no room for its connection. If
    /// there is none for connections of their own, calls that fail take the usual ones.
    pub(super) fn client(
        &mut self,
        kind: CallKind,
        fails: bool,
        url: &str,
        connections: &Connections,
        now: Instant,
    ) -> Option<(Client, Arc<Open>)> {
        self.used_at = now;
        match &mut self.lines {
            Lines::Json { client, .. } => {
                Some((Client::Json(client.clone()), connections.reserve_call(kind)?))
            }
            Lines::Grpc { usual, failing } => {
                if fails && failing.is_none() {
                    *failing = connections.pair(url, now);
                }
                let pair = failing.as_mut().filter(|_| fails).unwrap_or(usual);
                pair.used_at = now;
                Some((pair.clients[kind as usize].clone(), Arc::clone(&pair.open)))
            }
        }
    }

    pub(super) fn is_idle(&self, now: Instant, idle_max: Duration) -> bool {
        now - self.used_at >= idle_max
    }

    /// Closes the connections for calls that fail, if none is under way there and none was for long.
    pub(super) fn close_failing(&mut self, now: Instant, idle_max: Duration) {
        let Lines::Grpc { failing, .. } = &mut self.lines else { return };
        let is_idle =
            |pair: &Pair| now - pair.used_at >= idle_max && Arc::strong_count(&pair.open) == 1;
        if failing.as_ref().is_some_and(is_idle) {
            *failing = None;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.fetch_sub(self.count, Ordering::Relaxed);
    }
}
