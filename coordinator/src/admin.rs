//! Health, metrics and the API over HTTP.

mod bounded;
mod readers;
mod serving;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use unanimo_tls::{Peer, Server, TlsStream};

use self::bounded::{Bounded, Calls, Places};
pub(crate) use self::readers::Readers;
use self::serving::Peered;
use self::tls::TlsListener;
use crate::api::Turns;
use crate::api::http::{Slot, malformed, not_yet, paths, too_many};
use crate::coordinator::Status;
use crate::dashboard;
use crate::descriptors::Room;
use crate::held::Held;

/// Address of a server, and the bounds on its connections.
pub(crate) struct At {
    pub(crate) listener: TcpListener,
    pub(crate) room: Room,
    /// Longest life of a connection; zero is no bound.
    pub(crate) age_max: Duration,
    /// Nothing without TLS.
    pub(crate) tls: Option<Server>,
}

/// State of the pages of health and metrics.
#[derive(Clone)]
struct Shown {
    status: Arc<Status>,
    readers: Readers,
}

/// A client of this server.
#[derive(Clone, Debug)]
struct Client {
    /// Its address, and its names as TLS knows them.
    peer: Option<Peer>,
    /// Calls on its connection.
    calls: Calls,
}

/// Serves until it is told to stop and has answered what was under way, with the API if it is given. The error is the
/// listener's.
pub(crate) async fn serve(
    at: At,
    (status, readers): (Arc<Status>, Readers),
    api: Option<Slot>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz));
    let router = router.route("/metrics", get(metrics)).with_state(Shown { status, readers });
    let api = api.map(|api| api_router(api, at.room.connections));
    let router = api.into_iter().fold(router, Router::merge);
    serve_router(at, router, stop).await
}

/// Serves the API alone, on so many connections at once.
pub(crate) async fn serve_api(
    at: At,
    api: Slot,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = api_router(api, at.room.connections);
    serve_router(at, router, stop).await
}

/// Time without a byte after which the system asks whether a peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Has connections end whose peers are gone: one that only waits for an answer says nothing by itself. Those that are
/// accepted have what is set here.
fn keep_alive(listener: &TcpListener) -> std::io::Result<()> {
    sockopt::set_socket_keepalive(listener, true)?;
    Ok(sockopt::set_tcp_keepidle(listener, KEEPALIVE)?)
}

async fn serve_router(
    At { listener, room, age_max, tls }: At,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    keep_alive(&listener)?;
    let router = router.layer(middleware::from_fn(with_one_host));
    let router = router.layer(middleware::map_response(guarded));
    // The listener is dropped at the stop; what is under way has its places until this future is.
    let places = Places::new(room.connections);
    let of_listener = places.clone();
    match tls {
        None => {
            let listener = Bounded::new(listener, of_listener);
            serving::serve(listener, router, age_max, stop).await;
        }
        Some(server) => {
            let listener = TlsListener::new(listener, &server, room.handshakes);
            let listener = Bounded::new(listener, of_listener);
            serving::serve(listener, router, age_max, stop).await;
        }
    }
    drop(places);
    Ok(())
}

impl Peered for TlsStream {
    fn peer(&self) -> Peer {
        Self::peer(self).clone()
    }
}

impl Peered for TcpStream {
    fn peer(&self) -> Peer {
        Peer { address: self.peer_addr().ok(), names: None }
    }
}

/// Makes the router of the API, and of the pages that look at it.
fn api_router(api: Slot, open_max: usize) -> Router {
    let pages = dashboard::router(Slot::clone(&api), peer_of);
    let pages = pages.layer(middleware::map_response_with_state(Slot::clone(&api), counted));
    let turns = Turns::new(open_max);
    let router = paths().fold(Router::new(), |router, path| router.route(&path, any(call)));
    let router = router.with_state(api).merge(pages);
    router.layer(middleware::from_fn_with_state(turns, in_turn))
}

/// Answers a call when it has a turn, which ends with the answer.
async fn in_turn(State(turns): State<Turns>, mut request: Request, next: Next) -> Response {
    let client = request.extensions().get::<ConnectInfo<Client>>();
    let client = client.map(|ConnectInfo(client)| client);
    let address = client.and_then(|client| client.peer.as_ref()?.address);
    let Some(turn) = turns.next(address.map(|address| address.ip())) else {
        return too_many();
    };
    let held = (turn.clone(), client.map(|client| client.calls.begin()));
    // Whose it is, is known once the caller is.
    request.extensions_mut().insert(turn);
    next.run(request).await.map(|body| axum::body::Body::new(Held::new(body, held)))
}

/// Counts a page until it is read, as answers of the API are.
async fn counted(State(api): State<Slot>, page: Response) -> Response {
    match api.get() {
        None => page,
        Some(api) => api.counted(page).await,
    }
}

/// Refuses a request whose host is not one: what it is checked for must be what it was sent to.
async fn with_one_host(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    let is_other = |authority: &Authority| {
        host.is_none_or(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
    };
    if hosts.next().is_some() || request.uri().authority().is_some_and(is_other) {
        let why = "the header host must be there once, and an address that names a host must name the same";
        return malformed(why);
    }
    next.run(request).await
}

/// Adds what keeps an answer from being taken for something else, where its own does not say it.
async fn guarded(mut response: Response) -> Response {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Answers a call of the API, as soon as the coordinator serves.
async fn call(State(api): State<Slot>, mut request: Request) -> Response {
    let client = request.extensions_mut().remove::<ConnectInfo<Client>>();
    match api.get() {
        None => not_yet(),
        Some(api) => api.answer(request, client.and_then(|ConnectInfo(of)| of.peer)).await,
    }
}

/// Answers 200 while the engine works, 503 if only a restart helps.
async fn healthz(State(Shown { status, .. }): State<Shown>) -> impl IntoResponse {
    if status.is_alive().await {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the engine does not answer\n")
    }
}

/// Answers 200 if the coordinator accepts new work, otherwise 503, with a line for each obstacle to those who may hear it.
async fn readyz(
    State(Shown { status, readers }): State<Shown>,
    request: Request,
) -> impl IntoResponse {
    let may_hear = readers.may_hear(request.headers(), peer_of(&request).as_ref());
    let obstacles = status.obstacles().await;
    if obstacles.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else if !may_hear {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned())
    } else {
        let lines = obstacles.iter().map(|obstacle| format!("not ready: {obstacle}\n"));
        (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
    }
}

/// Returns what is known of who sent a request.
fn peer_of(request: &Request) -> Option<Peer> {
    let client = request.extensions().get::<ConnectInfo<Client>>();
    client.and_then(|ConnectInfo(client)| client.peer.clone())
}

/// Answers 403 to who may not read them: they name participants.
async fn metrics(State(Shown { status, readers }): State<Shown>, request: Request) -> Response {
    if let Some(why) = readers.denied(request.headers(), peer_of(&request).as_ref()) {
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], status.metrics().await).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_connections_end_with_their_peers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        keep_alive(&listener).expect("options");
        let address = listener.local_addr().expect("an address");
        let peer = tokio::net::TcpStream::connect(address).await.expect("a connection");
        let (accepted, _) = listener.accept().await.expect("it");
        assert!(sockopt::socket_keepalive(&accepted).expect("an option"));
        assert_eq!(sockopt::tcp_keepidle(&accepted).expect("an option"), KEEPALIVE);
        drop(peer);
    }
}
