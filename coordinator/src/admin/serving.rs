//! Serving loop of HTTP, with what bounds a connection in time and in memory (promise L5).

use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::response::Response;
use axum::serve::Listener;
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::codegen::Service;
use unanimo_tls::Peer;

use super::Client;
use super::bounded::{Bounded, Placed};

/// Longest time for the headers of a request, counted from the end of the one before. Long enough that a client that
/// asks every now and then finds its connection open: a scrape comes every 15 s.
const HEADERS_MAX: Duration = Duration::from_secs(30);

/// Most bytes of the headers of a request, and of what is read ahead: a token of an issuer has a few thousand.
const HEADERS_BYTES_MAX: usize = 32 << 10;

/// A connection that tells what is known of its other end.
pub(super) trait Peered {
    fn peer(&self) -> Peer;
}

/// Serves until it is told to stop and has answered what was under way. A connection that is as old as `age_max` ends
/// after its answer; zero is no bound.
pub(super) async fn serve<L>(
    mut listener: Bounded<L>,
    router: Router,
    age_max: Duration,
    stop: impl Future<Output = ()>,
) where
    L: Listener<Addr: Into<Option<std::net::SocketAddr>>>,
    L::Io: Peered,
{
    let (stopping, _) = watch::channel(());
    // Dropped with this future, they are aborted.
    let mut open = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            io = listener.accept() => {
                let client = Client { peer: Some(io.inner().peer()), calls: io.calls().clone() };
                let served = Served { router: router.clone(), client };
                open.spawn(connection(io, served, age_max, stopping.subscribe()));
            }
            Some(_) = open.join_next(), if !open.is_empty() => {}
            () = &mut stop => break,
        }
    }
    drop(listener);
    drop(stopping);
    while open.join_next().await.is_some() {}
}

async fn connection<IO>(
    io: Placed<IO>,
    served: Served,
    age_max: Duration,
    mut stopping: watch::Receiver<()>,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_MAX)
        .max_buf_size(HEADERS_BYTES_MAX);
    let service = TowerToHyperService::new(served);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let end = async {
        match age_max.is_zero() {
            // The error is that the server stops.
            true => drop(stopping.changed().await),
            false => drop(tokio::time::timeout(age_max, stopping.changed()).await),
        }
    };
    tokio::select! {
        ended = connection.as_mut() => return tell(ended),
        () = end => connection.as_mut().graceful_shutdown(),
    }
    tell(connection.await);
}

fn tell(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection over HTTP ended with an error");
    }
}

/// Routes, for the requests of one connection.
#[derive(Clone)]
struct Served {
    router: Router,
    client: Client,
}

impl<B> Service<Request<B>> for Served
where
    Router: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = <Router as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        <Router as Service<Request<B>>>::poll_ready(&mut self.router, context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(ConnectInfo(self.client.clone()));
        self.router.call(request)
    }
}
