//! The layer that clients wear.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Request, Response, header};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::branches::CallEnd;
use super::reply::Reply;
use super::scope::Propagation;

/// A tower layer for clients of HTTP, gRPC included: puts the transaction's context on each call, and
/// notes the branches that the reply names.
///
/// Which transaction that is: the [`Propagation`] in the request's extensions, else the one that the
/// layer was [made for](Propagation::layer), else the [current](Propagation::current) one. Without
/// any the call passes as it is. The current one is known where the call is made, so this is the
/// outermost of the layers that hand calls to tasks (`tower::buffer`).
///
/// The votes of a call count while the call is good: a status of 2xx and a body that was read to its end, or not at
/// all; in gRPC a status of OK, which is behind the body. Those of any other are not taken, and the transaction
/// aborts: the call may be sent again, and its work would be there twice. In gRPC-Web the status is in the body itself:
/// this layer must be outside of the one that reads it there, and makes trailers of it.
#[derive(Clone, Debug, Default)]
pub struct ClientLayer {
    of: Option<Propagation>,
}

impl ClientLayer {
    /// For calls of whichever transaction is current.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn of(propagation: Propagation) -> Self {
        Self { of: Some(propagation) }
    }
}

impl<S> Layer<S> for ClientLayer {
    type Service = ClientService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ClientService { inner, of: self.of.clone() }
    }
}

/// A client that wears a [`ClientLayer`].
#[derive(Clone, Debug)]
pub struct ClientService<S> {
    inner: S,
    of: Option<Propagation>,
}

impl<S, B, R> Service<Request<B>> for ClientService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: http_body::Body,
{
    type Response = Response<Reply<R>>;
    type Error = S::Error;
    type Future = ClientFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let own = request.extensions().get::<Propagation>();
        let propagation = own.or(self.of.as_ref()).cloned().or_else(Propagation::current);
        if let Some(propagation) = &propagation {
            propagation.inject(request.headers_mut());
        }
        ClientFuture { inner: self.inner.call(request), propagation }
    }
}

pin_project! {
    /// A call under way.
    #[derive(Debug)]
    pub struct ClientFuture<F> {
        #[pin]
        inner: F,
        propagation: Option<Propagation>,
    }
}

impl<F, R, E> Future for ClientFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: http_body::Body,
{
    type Output = Result<Response<Reply<R>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(context))?;
        let headers = response.headers();
        let grpc = is_grpc(headers) || is_grpc_web(headers);
        let told = !grpc || headers.contains_key(tonic::Status::GRPC_STATUS);
        let vouched = this.propagation.take().and_then(|propagation| {
            let vouched = propagation.take(response.headers(), end(&response, grpc));
            (!vouched.is_empty()).then_some((propagation, vouched))
        });
        Poll::Ready(Ok(response.map(|body| Reply::new(body, (grpc, told), vouched))))
    }
}

/// As far as the headers tell. A gRPC reply without a message has its status there.
fn end<R>(response: &Response<R>, grpc: bool) -> CallEnd {
    let ok = |status: &header::HeaderValue| status.as_bytes() == b"0";
    let status = response.headers().get(tonic::Status::GRPC_STATUS);
    if response.status().is_success() && (!grpc || status.is_none_or(ok)) {
        CallEnd::Succeeded
    } else {
        CallEnd::Failed
    }
}

/// Tells whether the status of a call is in its trailers. That of gRPC-Web is in its body.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    is_of(headers, b"application/grpc")
}

fn is_grpc_web(headers: &HeaderMap) -> bool {
    is_of(headers, b"application/grpc-web") || is_of(headers, b"application/grpc-web-text")
}

fn is_of(headers: &HeaderMap, media_type: &[u8]) -> bool {
    let rest = headers.get(header::CONTENT_TYPE).and_then(|value| {
        let rest = value.as_bytes().strip_prefix(media_type)?;
        Some(rest.first().copied())
    });
    matches!(rest, Some(None | Some(b'+' | b';' | b' ')))
}
