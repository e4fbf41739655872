//! Banks whose own services join the transactions of their callers: one with HTTP, and in front of
//! it one with gRPC, which calls the other.
//!
//! An order is `ACTION/ACCOUNT/CENTS/THEN`. The service joins with the action, and then does THEN:
//! `ok`, `error` (answers that it failed), `lost` (the connection ends without an answer), `half`
//! (the body of the reply breaks off), `hang` (prints `joined` on standard output, and waits for
//! ever).

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::{Layer, ServiceExt};
use unanimo_examples::Posting;
use unanimo_sdk::propagation::{ClientLayer, ClientService, Joiner, ServerLayer};
use unanimo_sdk::{BoxError, Client, Json, Participant, Resource, Serve, Serving};

/// Header with the branch id to join with, if the caller gives one.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Bank with its services.
#[derive(Debug)]
pub struct Bank<R: Resource> {
    /// Address of its service for orders over HTTP.
    pub http: String,
    /// Service that the coordinator calls.
    pub serving: Serving,
    teller: Teller<R>,
}

/// Service for orders.
#[derive(Debug)]
struct Teller<R: Resource> {
    name: String,
    joiner: Joiner<R>,
    requests: Arc<Mutex<Vec<HeaderMap>>>,
}

impl<R: Resource> Clone for Teller<R> {
    fn clone(&self) -> Self {
        let Self { name, joiner, requests } = self;
        Self { name: name.clone(), joiner: joiner.clone(), requests: Arc::clone(requests) }
    }
}

impl<R: Resource> Bank<R> {
    /// Opens the bank, and registers it with its coordinator.
    ///
    /// # Panics
    /// The bank cannot be served.
    pub async fn open(participant: Participant<R>, coordinator: &Client, at: &str) -> Self {
        let service = participant.service().expect("a participant");
        let serve = Serve::on("127.0.0.1:0").register_with(at);
        let serving = service.serve(serve).await.expect("it is served");
        let teller = Teller {
            name: service.participant().to_owned(),
            joiner: service.joiner(coordinator.clone()),
            requests: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let http = format!("http://{}", listener.local_addr().expect("its address"));
        let router = Router::new()
            .route("/{action}/{account}/{cents}/{then}", post(take))
            .layer(ServerLayer::new())
            .with_state(teller.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { http, serving, teller }
    }

    /// Returns the headers of all requests that have reached its handler over HTTP.
    #[must_use]
    pub fn requests(&self) -> Vec<HeaderMap> {
        self.teller.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves orders over gRPC, too, forwards those for the other bank, and returns the endpoint.
    ///
    /// # Panics
    /// No port is free.
    pub async fn front(&self, other: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let other = other.to_owned();
        let front = Front { teller: self.teller.clone(), other, http: client(&ClientLayer::new()) };
        let mut server = Server::builder().layer(ServerLayer::new());
        tokio::spawn(server.add_service(HealthServer::new(front)).serve_with_incoming(incoming));
        format!("http://{address}")
    }
}

impl<R: Resource> Teller<R> {
    async fn join(&self, order: &str, key: Option<&str>) -> Result<(), Status> {
        let malformed = || Status::invalid_argument("an order is ACTION/ACCOUNT/CENTS/THEN");
        let [action, account, cents, _] = parts(order).ok_or_else(malformed)?;
        let cents = cents.parse().map_err(|_| malformed())?;
        let posting = Json(Posting { account: account.to_owned(), cents });
        let joined = match key {
            Some(key) => {
                let branch_id = format!("{}:{key}", self.name);
                self.joiner.join_as(branch_id, action, posting).await
            }
            None => self.joiner.join(action, posting).await,
        };
        match joined?.accepted() {
            Ok(_) => Ok(()),
            Err(refusal) => {
                Err(Status::failed_precondition(format!("{}: {}", refusal.reason, refusal.message)))
            }
        }
    }
}

fn parts(order: &str) -> Option<[&str; 4]> {
    order.split('/').collect::<Vec<_>>().try_into().ok()
}

async fn take<R: Resource>(
    State(teller): State<Teller<R>>,
    Path((action, account, cents, then)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let order = format!("{action}/{account}/{cents}/{then}");
    let key = headers.get(IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok()).map(str::to_owned);
    teller.requests.lock().unwrap_or_else(PoisonError::into_inner).push(headers);
    if let Err(status) = teller.join(&order, key.as_deref()).await {
        let code = match status.code() {
            Code::FailedPrecondition => StatusCode::CONFLICT,
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        return (code, status.message().to_owned()).into_response();
    }
    match then.as_str() {
        "error" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "half" => axum::body::Body::from_stream(Half::default()).into_response(),
        then => {
            end(then).await;
            "done".into_response()
        }
    }
}

/// Body that breaks off after its first part.
#[derive(Default)]
struct Half(u8);

impl Stream for Half {
    type Item = std::io::Result<&'static str>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0 += 1;
        match self.0 {
            1 => Poll::Ready(Some(Ok("do"))),
            // The first part is sent while the connection waits for the second.
            2 => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Some(Err(std::io::Error::other("the rest is lost")))),
        }
    }
}

async fn end(then: &str) {
    match then {
        // Ends the connection as a panic does, without its message.
        "lost" => std::panic::resume_unwind(Box::new(())),
        "hang" => {
            say("joined");
            std::future::pending::<()>().await;
        }
        _ => {}
    }
}

/// Prints a line for the test that has started this process.
#[expect(clippy::print_stdout, reason = "the test reads standard output")]
pub fn say(word: &str) {
    println!("{word}");
}

/// Service generated from a .proto file, here gRPC's health service. A request's name is an order
/// for this bank and one for the other bank, with a space between.
struct Front<R: Resource> {
    teller: Teller<R>,
    other: String,
    http: HttpClient,
}

#[tonic::async_trait]
impl<R: Resource> Health for Front<R> {
    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        let orders = request.into_inner().service;
        let (own, other) = orders.split_once(' ').unwrap_or((&orders, ""));
        self.teller.join(own, None).await?;
        if !other.is_empty() {
            let url = format!("{}/{other}", self.other);
            match send(&self.http, &url, None).await {
                Ok((StatusCode::OK, _)) => {}
                Ok((_, text)) => return Err(Status::failed_precondition(text)),
                Err(error) => return Err(Status::unavailable(error.to_string())),
            }
        }
        let then = parts(own).map(|parts| parts[3]).unwrap_or_default();
        if then == "error" {
            return Err(Status::internal("as ordered"));
        }
        end(then).await;
        Ok(tonic::Response::new(HealthCheckResponse::default()))
    }

    async fn watch(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("orders are taken one by one"))
    }
}

/// HTTP client with a layer.
pub type HttpClient = ClientService<legacy::Client<HttpConnector, Full<Bytes>>>;

/// Makes an HTTP client with this layer.
#[must_use]
pub fn client(layer: &ClientLayer) -> HttpClient {
    layer.layer(legacy::Client::builder(TokioExecutor::new()).build_http())
}

/// Sends an order, and returns the status and the text of the reply.
///
/// # Errors
/// The reply is missing or not complete.
pub async fn send(
    client: &HttpClient,
    url: &str,
    key: Option<&str>,
) -> Result<(StatusCode, String), BoxError> {
    let mut request = Request::post(url);
    if let Some(key) = key {
        request = request.header(IDEMPOTENCY_KEY, key);
    }
    let response = client.clone().oneshot(request.body(Full::default())?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec())?))
}
