//! Health, metrics and the API over HTTP.

mod bounded;
mod tls;

use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::serve::IncomingStream;
use tokio::net::TcpListener;
use unanimo_tls::Peer;

use self::bounded::Bounded;
use self::tls::TlsListener;
use crate::api::http::{Slot, not_yet};
use crate::coordinator::Status;
use crate::dashboard;

/// TLS of this server.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) server: unanimo_tls::Server,
    /// Clients are known by their certificates, and the metrics are for these alone.
    pub(crate) knows_clients: bool,
}

/// A client of this server, as TLS knows it.
#[derive(Clone, Debug)]
struct Client(Peer);

/// Serves until the process ends, with the API if it is given. The error is the listener's.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    status: Arc<Status>,
    api: Option<Slot>,
) -> std::io::Result<()> {
    let open = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz));
    let knows_clients = tls.as_ref().is_some_and(|tls| tls.knows_clients);
    let figures = match knows_clients {
        true => get(metrics_for_clients),
        false => get(metrics),
    };
    let router = open.route("/metrics", figures).with_state(status);
    serve_router(listener, tls, api.map(api_router).into_iter().fold(router, Router::merge)).await
}

/// Serves the API alone.
pub(crate) async fn serve_api(
    listener: TcpListener,
    tls: Option<Tls>,
    api: Slot,
) -> std::io::Result<()> {
    serve_router(listener, tls, api_router(api)).await
}

async fn serve_router(
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
) -> std::io::Result<()> {
    match tls {
        None => axum::serve(Bounded::new(listener), router).await,
        Some(Tls { server, .. }) => {
            let listener = Bounded::new(TlsListener::new(listener, &server));
            let service = router.into_make_service_with_connect_info::<Client>();
            axum::serve(listener, service).await
        }
    }
}

impl Connected<IncomingStream<'_, Bounded<TlsListener>>> for Client {
    fn connect_info(stream: IncomingStream<'_, Bounded<TlsListener>>) -> Self {
        Self(stream.io().inner().peer().clone())
    }
}

/// Makes the router of the API, and of the pages that look at it.
fn api_router(api: Slot) -> Router {
    let pages = dashboard::router(Slot::clone(&api), |request| {
        let client = request.extensions().get::<ConnectInfo<Client>>();
        client.map(|ConnectInfo(Client(peer))| peer.clone())
    });
    Router::new().route("/v1/{*rest}", any(call)).with_state(api).merge(pages)
}

/// Answers a call of the API, as soon as the coordinator serves.
async fn call(State(api): State<Slot>, mut request: Request) -> Response {
    let client = request.extensions_mut().remove::<ConnectInfo<Client>>();
    match api.get() {
        None => not_yet(),
        Some(api) => api.answer(request, client.map(|ConnectInfo(Client(peer))| peer)).await,
    }
}

/// Answers 200 while the engine works, 503 if only a restart helps.
async fn healthz(State(status): State<Arc<Status>>) -> impl IntoResponse {
    if status.is_alive().await {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the engine does not answer\n")
    }
}

/// Answers 200 if the coordinator accepts new work, otherwise 503 with a line for each obstacle.
async fn readyz(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let obstacles = status.obstacles().await;
    if obstacles.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        let lines = obstacles.iter().map(|obstacle| format!("not ready: {obstacle}\n"));
        (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
    }
}

/// Answers 403 to whoever shows no certificate: the metrics name participants.
async fn metrics_for_clients(status: State<Arc<Status>>, request: Request) -> Response {
    let client = request.extensions().get::<ConnectInfo<Client>>();
    match client.is_some_and(|ConnectInfo(Client(peer))| peer.names.is_some()) {
        true => metrics(status).await.into_response(),
        false => (StatusCode::FORBIDDEN, "a client certificate is needed\n").into_response(),
    }
}

async fn metrics(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], status.metrics().await)
}
