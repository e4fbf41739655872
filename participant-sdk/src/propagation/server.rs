//! The layer that servers wear.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;
use tonic::Code;
use tower_layer::Layer;
use tower_service::Service;

use super::client::is_grpc;
use super::context::{self, Malformed};
use super::scope::{Ambient, Propagation};
use super::trace::Trace;
use crate::status as bounded;

/// A tower layer for servers of HTTP, gRPC included (axum, tonic): makes the transaction that a
/// request belongs to the [current](Propagation::current) one of its handler, and puts the branches
/// that joined for it, here and below, on the reply.
///
/// A request without the context's headers is served outside any transaction. One whose headers break
/// a rule is answered with 400, or `INVALID_ARGUMENT` in gRPC, and reaches no handler. So is one with
/// another header whose name begins with `unanimo-`, which a later version may have put there: it is
/// answered with 400, or `UNIMPLEMENTED` in gRPC, with `FEATURE_UNSUPPORTED` and the header's name.
///
/// The reply's headers are sent before its body: whoever joins while a body is streamed is not named,
/// and the transaction aborts.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ServerLayer;

impl ServerLayer {
    /// The layer.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for ServerLayer {
    type Service = ServerService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ServerService { inner }
    }
}

/// A server that wears a [`ServerLayer`].
#[derive(Clone, Debug)]
pub struct ServerService<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for ServerService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<Answer<R>>;
    type Error = S::Error;
    type Future = ServerFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let trace = Trace::from_headers(request.headers());
        let context = match context::Context::from_headers(request.headers()) {
            Ok(context) => context,
            Err(error) => {
                let grpc = is_grpc(request.headers());
                return ServerFuture::Malformed { error: Some(error), grpc };
            }
        };
        let propagation = context.map(|context| Propagation::serving(context, trace.clone()));
        if let Some(propagation) = &propagation {
            request.extensions_mut().insert(propagation.clone());
        }
        // Also where there is none: whatever this server is called from is not its request's.
        let ambient = Ambient { trace, propagation: propagation.clone() };
        let call = ambient.clone().enter(|| self.inner.call(request));
        ServerFuture::Serving { call: ambient.scope(call), propagation }
    }
}

pin_project! {
    /// A request that is being served.
    #[derive(Debug)]
    #[project = ServerProjection]
    pub enum ServerFuture<F> {
        /// By the server.
        #[doc(hidden)]
        Serving { #[pin] call: Scoped<F>, propagation: Option<Propagation> },
        /// Its headers break a rule.
        #[doc(hidden)]
        Malformed { error: Option<Malformed>, grpc: bool },
    }
}

type Scoped<F> = TaskLocalFuture<Ambient, F>;

impl<F, R, E> Future for ServerFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<Answer<R>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            ServerProjection::Serving { call, propagation } => {
                let mut response = ready!(call.poll(context))?;
                if let Some(propagation) = propagation {
                    propagation.tell(response.headers_mut());
                }
                Ok(response.map(|body| Answer::Handler { body }))
            }
            ServerProjection::Malformed { error, grpc } => {
                let error = error.take();
                let unsupported = error.as_ref().is_some_and(Malformed::is_unsupported);
                let text = error.map(|error| error.to_string()).unwrap_or_default();
                Ok(match (*grpc, unsupported) {
                    (true, true) => status(bounded::status(Code::Unimplemented, &text)),
                    (true, false) => status(bounded::status(Code::InvalidArgument, &text)),
                    // Not of the 5xx, which many clients send again.
                    (false, _) => bad_request(text),
                })
            }
        })
    }
}

fn status<R>(status: tonic::Status) -> Response<Answer<R>> {
    status.into_http::<tonic::body::Body>().map(|_| Answer::Text { text: None })
}

fn bad_request<R>(text: String) -> Response<Answer<R>> {
    let mut response = Response::new(Answer::Text { text: Some((text + "\n").into()) });
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

pin_project! {
    /// The body of an answer: the server's own, or a word of the layer's.
    #[derive(Debug)]
    #[project = AnswerProjection]
    pub enum Answer<B> {
        /// The server's own.
        #[doc(hidden)]
        Handler { #[pin] body: B },
        /// The layer's.
        #[doc(hidden)]
        Text { text: Option<Bytes> },
    }
}

impl<B: Body<Data = Bytes>> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project() {
            AnswerProjection::Handler { body } => body.poll_frame(context),
            AnswerProjection::Text { text } => Poll::Ready(text.take().map(Frame::data).map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Handler { body } => body.is_end_stream(),
            Self::Text { text } => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Handler { body } => body.size_hint(),
            Self::Text { text } => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;
    use std::task::Waker;

    use unanimo_proto::v1::{Mode, Vote};

    use super::*;

    const TX: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    /// A handler that joins with a branch `own` where there is a transaction, and says whether there
    /// was one both when it was called and when it ran.
    #[derive(Clone)]
    struct Handler;

    impl Service<Request<()>> for Handler {
        type Response = Response<String>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<()>) -> Self::Future {
            let called = Propagation::current().is_some();
            Box::pin(async move {
                let current = Propagation::current();
                let told = request.extensions().get::<Propagation>().is_some();
                assert!(current.is_some() == called && told == called);
                if let Some(propagation) = current {
                    propagation.voted("own", Vote::Prepared);
                }
                let mut response = Response::new(called.to_string());
                // As if it passed on the reply of another service.
                let below = HeaderValue::from_static("below=none");
                response.headers_mut().insert("unanimo-branches", below);
                Ok(response)
            })
        }
    }

    fn serve(request: Request<()>) -> Response<Answer<String>> {
        let served = pin!(ServerLayer::new().layer(Handler).call(request));
        match served.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(response)) => response,
            Poll::Pending => panic!("the handler waits for nothing"),
        }
    }

    fn propagation() -> Propagation {
        let context = context::Context::new(TX, "g", Mode::Tcc, "c").expect("a context");
        Propagation::new(context, Trace::default())
    }

    fn text(response: Response<Answer<String>>) -> String {
        match response.into_body() {
            Answer::Handler { body } => body,
            Answer::Text { text } => {
                String::from_utf8(text.unwrap_or_default().to_vec()).expect("text")
            }
        }
    }

    #[test]
    fn a_handler_finds_its_requests_transaction_and_its_branches_are_told() {
        let mut request = Request::new(());
        propagation().inject(request.headers_mut());
        let response = serve(request);
        assert_eq!(response.headers()["unanimo-tx-id"], TX);
        let lines: Vec<_> = response.headers().get_all("unanimo-branches").iter().collect();
        assert_eq!(lines, ["below=none", "own=prepared"]);
        assert_eq!(text(response), "true");
        assert!(Propagation::current().is_none(), "it is the handler's alone");
    }

    /// A caller in the same process gives nothing along but the request.
    #[test]
    fn a_request_without_a_context_is_outside_its_callers_transaction_too() {
        let around = Ambient { trace: Trace::default(), propagation: Some(propagation()) };
        let response = around.enter(|| serve(Request::new(())));
        assert!(!response.headers().contains_key("unanimo-tx-id"));
        assert_eq!(text(response), "false");
    }

    /// A later version may put there what the request means.
    #[test]
    fn an_unknown_header_is_refused_and_named() {
        for with_context in [true, false] {
            let mut request = Request::new(());
            if with_context {
                propagation().inject(request.headers_mut());
            }
            request.headers_mut().insert("unanimo-sealed", HeaderValue::from_static("1"));
            let mut grpc = request.clone();
            let response = serve(request);
            assert_eq!(response.status(), StatusCode::BAD_REQUEST);
            let said = text(response);
            assert!(said.starts_with("header unanimo-sealed is not supported"), "{said}");
            assert!(said.contains("FEATURE_UNSUPPORTED"), "{said}");

            let content = HeaderValue::from_static("application/grpc");
            grpc.headers_mut().insert("content-type", content);
            let status = tonic::Status::from_header_map(serve(grpc).headers()).expect("a status");
            assert_eq!(status.code(), tonic::Code::Unimplemented);
            assert!(status.message().contains("FEATURE_UNSUPPORTED"), "{status}");
        }
    }

    #[test]
    fn a_malformed_context_is_answered_in_the_callers_protocol() {
        let mut request = Request::new(());
        request.headers_mut().insert("unanimo-mode", HeaderValue::from_static("tcc"));
        let mut grpc = request.clone();
        let response = serve(request);
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let said = text(response);
        assert!(said.starts_with("header unanimo-tx-id must be there once"), "{said}");

        let content = HeaderValue::from_static("application/grpc");
        grpc.headers_mut().insert("content-type", content);
        let response = serve(grpc);
        assert_eq!(response.status(), StatusCode::OK);
        let status = tonic::Status::from_header_map(response.headers()).expect("a status");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().starts_with("header unanimo-tx-id"), "{status}");
    }

    /// A peer ends the whole connection, with every other call on it, where a reply's headers are too long.
    #[test]
    fn a_reply_is_short_however_long_the_name_of_a_header_is() {
        let mut request = Request::new(());
        let name = format!("unanimo-{}", "%".repeat(6 << 10));
        let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
        request.headers_mut().insert(name, HeaderValue::from_static("1"));
        let content = HeaderValue::from_static("application/grpc");
        request.headers_mut().insert("content-type", content);
        let response = serve(request);
        let bytes =
            response.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
        assert!(bytes.sum::<usize>() < 2 << 10, "{response:?}");
        let status = tonic::Status::from_header_map(response.headers()).expect("a status");
        assert!(status.message().contains("FEATURE_UNSUPPORTED"), "{status}");
    }
}
