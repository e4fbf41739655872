//! Proxy in front of a coordinator that understands gRPC: it notes the calls, and answers some of them itself.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tower::{Service, ServiceExt};

/// A call, as the proxy sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Called {
    /// Name of the method, without its service.
    pub method: String,
    /// Header `authorization`.
    pub authorization: Option<String>,
}

/// Way in which a call is answered.
#[derive(Debug)]
pub enum Way {
    /// By the coordinator.
    Pass,
    /// So, and the coordinator never sees it.
    Instead(Response),
    /// So, after the coordinator has answered: its answer is lost.
    After(Response),
}

type Ways = dyn Fn(&Called) -> Way + Send + Sync;

/// A proxy in front of a coordinator.
#[derive(Clone)]
pub struct Guard {
    address: String,
    to: Channel,
    way: Arc<Ways>,
    calls: Arc<Mutex<Vec<Called>>>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Guard {
    /// Starts one before the coordinator at this address.
    ///
    /// # Panics
    /// The address is none, or no port is free.
    pub async fn before(
        coordinator: String,
        way: impl Fn(&Called) -> Way + Send + Sync + 'static,
    ) -> Self {
        let to = Endpoint::from_shared(coordinator).expect("an address").connect_lazy();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("its address"));
        let guard = Self { address, to, way: Arc::new(way), calls: Arc::default() };
        let routes = Routes::from(Router::new().fallback_service(guard.clone()));
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(incoming));
        guard
    }

    /// Address at which it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Calls that have come, in their order.
    #[must_use]
    pub fn calls(&self) -> Vec<Called> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Makes the answer of a proxy that knows HTTP only.
///
/// # Panics
/// It is no status.
#[must_use]
pub fn http_status(status: u16) -> Response {
    let response = Response::builder().status(status).header("content-type", "text/html");
    response.body(Body::from("<h1>this is a proxy</h1>")).expect("a response")
}

/// Makes an OK reply in which no field is set.
#[must_use]
pub fn nothing_set() -> Response {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    // The length of the message.
    let message = http_body_util::Full::new(bytes::Bytes::from_static(&[0; 5]));
    let body = message.with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::new(body));
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

impl Service<Request> for Guard {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let header = request.headers().get("authorization");
        let authorization = header.map(|is| String::from_utf8_lossy(is.as_bytes()).into_owned());
        let called = Called { method, authorization };
        let way = (self.way)(&called);
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(called);
        let to = self.to.clone();
        Box::pin(async move {
            if let Way::Instead(answer) = way {
                return Ok(answer);
            }
            let answered = match to.oneshot(request.map(tonic::body::Body::new)).await {
                Ok(response) => response.map(Body::new),
                Err(error) => Status::unavailable(error.to_string()).into_http(),
            };
            let Way::After(answer) = way else { return Ok(answered) };
            // All of it has come: the coordinator has done what was asked.
            let _ = axum::body::to_bytes(answered.into_body(), usize::MAX).await;
            Ok(answer)
        })
    }
}
