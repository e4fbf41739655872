//! Requests over HTTP/1.1 to what others run: bounded in time and in bytes, without redirects and proxies.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;
use unanimo_tls::HttpConnector;

use self::replies::TooMuch;
pub(crate) use self::replies::{Counted, OfServer, Replies, Reply};
pub(crate) use self::url::{Plain, parse_url, without_query};

/// Longest wait for a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Time after which a connection that nobody uses is closed. Less than the five seconds after which servers such as
/// Node's close it: a request that meets its connection's end has no answer.
const IDLE: Duration = Duration::from_secs(4);

/// Connections that wait at one server for a request.
pub(crate) const KEPT_MAX: usize = 8;

/// Bytes that are read of the body of an error.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Bounds of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// From the request to the last byte of the answer.
    pub(crate) patience: Duration,
    /// Most bytes of the answer's body.
    pub(crate) body_bytes_max: usize,
}

/// Request without an answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection: the server has not seen the request.
    NotSent(String),
    /// The connection ended, or what came is no answer. The server may have done what was asked.
    Broken(String),
    /// The same, after this time.
    Late(Duration),
    /// The body has more than so many bytes.
    TooLong(usize),
    /// There is no memory for it now.
    TooMuch(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(cause) => write!(f, "cannot connect: {cause}"),
            Self::Broken(cause) => write!(f, "no answer: {cause}"),
            Self::Late(patience) => write!(f, "no answer after {patience:?}"),
            Self::TooLong(most) => write!(f, "the answer has more than {most} bytes"),
            Self::TooMuch(cause) => f.write_str(cause),
        }
    }
}

/// Client of servers over `http` and `https`. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    client: legacy::Client<HttpConnector, Full<Bytes>>,
    /// Counts its answers, if they are counted.
    server: Option<Arc<OfServer>>,
}

impl Outbound {
    pub(crate) fn new(tls: &unanimo_tls::Client) -> Self {
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(KEPT_MAX)
            .build(tls.http(CONNECT_PATIENCE));
        Self { client, server: None }
    }

    /// Counts its answers as this server's.
    pub(crate) fn counted(self, server: Arc<OfServer>) -> Self {
        Self { server: Some(server), ..self }
    }

    /// Sends a request, and reads the whole answer, whatever its status is.
    ///
    /// # Errors
    /// There is no answer within the bounds.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        bounds: Bounds,
    ) -> Result<Response<Bytes>, Failure> {
        let sent = self.answer(request, bounds.body_bytes_max);
        timeout(bounds.patience, sent).await.unwrap_or(Err(Failure::Late(bounds.patience)))
    }

    async fn answer(
        &self,
        request: Request<Bytes>,
        body_bytes_max: usize,
    ) -> Result<Response<Bytes>, Failure> {
        let response = self.client.request(request.map(Full::new)).await.map_err(|error| {
            let words = chain(&error);
            if error.is_connect() { Failure::NotSent(words) } else { Failure::Broken(words) }
        })?;
        let (parts, body) = response.into_parts();
        if !parts.status.is_success() {
            let said = beginning(body).await?;
            return Ok(Response::from_parts(parts, said));
        }
        if body.size_hint().lower() > body_bytes_max as u64 {
            return Err(Failure::TooLong(body_bytes_max));
        }
        let body = Reply::new(body, self.server.clone());
        match Limited::new(body, body_bytes_max).collect().await {
            Ok(body) => Ok(Response::from_parts(parts, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(Failure::TooLong(body_bytes_max)),
            Err(error) if error.is::<TooMuch>() => Err(Failure::TooMuch(error.to_string())),
            Err(error) => Err(Failure::Broken(chain(&*error))),
        }
    }
}

/// Reads the beginning of the body of an error, which is all that anybody is told of it.
async fn beginning<B>(mut body: B) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Error + 'static,
{
    let mut said = BytesMut::new();
    while said.len() < ERROR_BYTES_MAX {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| Failure::Broken(chain(&error)))?;
        if let Some(data) = frame.data_ref() {
            let room = ERROR_BYTES_MAX - said.len();
            said.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(said.freeze())
}

/// The error and what caused it, each once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut words = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let said = cause.to_string();
        if !words.contains(&said) {
            words.push_str(if words.is_empty() { "" } else { ": " });
            words.push_str(&said);
        }
        next = cause.source();
    }
    words
}

mod replies;
mod url;

#[cfg(test)]
mod tests;
