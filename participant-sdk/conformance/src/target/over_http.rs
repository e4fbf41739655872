//! A participant that is called over HTTP/1.1 with JSON.

use std::error::Error;
use std::fmt;
use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::TcpStream;
use tonic::{Request, Status};
use unanimo_proto::over_http::{self, Call};
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, PrepareRequest, PrepareResponse,
};

use super::{CONNECT_TIMEOUT, Duration, Target};

/// Most bytes of a response: more than any answer has.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Time after which a connection without a call is closed: less than that of usual servers.
const IDLE: Duration = Duration::from_secs(4);

/// A participant that is called over HTTP/1.1 with JSON.
#[derive(Clone)]
pub struct OverHttp<C = HttpConnector> {
    client: Client<C, Full<Bytes>>,
    base: String,
}

impl<C> fmt::Debug for OverHttp<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverHttp").field("base", &self.base).finish_non_exhaustive()
    }
}

impl OverHttp {
    /// Connects to `http+json://HOST:PORT/BASE`.
    ///
    /// # Errors
    /// It is no such endpoint, or nobody listens there.
    pub async fn connect(endpoint: &str) -> io::Result<Self> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self::over(endpoint, connector).await
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> OverHttp<C> {
    /// Connects with this connector, such as one with TLS for `https+json://HOST:PORT/BASE`.
    ///
    /// # Errors
    /// It is no such endpoint, or nobody listens there.
    pub async fn over(endpoint: &str, connector: C) -> io::Result<Self> {
        let form = || io::Error::other("the endpoint must be http+json://HOST:PORT/BASE");
        let base = over_http::base(endpoint).ok_or_else(form)?;
        let uri: http::Uri = base.parse().map_err(|_| form())?;
        let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else { return Err(form()) };
        let listens = TcpStream::connect((host.trim_matches(['[', ']']), port));
        tokio::time::timeout(CONNECT_TIMEOUT, listens).await??;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self { client, base })
    }

    async fn call<T: Call>(&self, request: Request<T>) -> Result<T::Answer, Status> {
        let request = over_http::request(&self.base, request)?.map(Full::new);
        let response = self.client.request(request).await.map_err(|error| no_answer(&error))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| no_answer(&*error))?.to_bytes();
        over_http::answer::<T>(&http::Response::from_parts(parts, body))
    }
}

/// Makes the status of a call without a response, with its innermost cause.
fn no_answer(error: &(dyn Error + 'static)) -> Status {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Status::unavailable(format!("no answer: {cause}"))
}

#[async_trait]
impl<C: Connect + Clone + Send + Sync + 'static> Target for OverHttp<C> {
    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<PrepareResponse, Status> {
        self.call(request).await
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<CommitResponse, Status> {
        self.call(request).await
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<CancelResponse, Status> {
        self.call(request).await
    }
}
