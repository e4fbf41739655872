//! The rpcs over grpc-web, for programs in browsers: the frames of gRPC over HTTP/1.1, with the trailers as the last frame.
//!
//! A call goes the way of one of JSON, so cookies and whatever else a browser adds by itself are left behind.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower_layer::Layer;

use super::answer::{guarded, unbuffered};
use crate::api::admit::Admitting;
use crate::api::answers::Answers;

/// Media types of requests and answers: bytes, and base64 for clients that read text.
const MEDIA_TYPES: [&str; 4] = [
    "application/grpc-web+proto",
    "application/grpc-web",
    "application/grpc-web-text+proto",
    "application/grpc-web-text",
];

/// Trailers that belong to a status.
const OF_STATUS: [&str; 3] = ["grpc-status", "grpc-message", "grpc-status-details-bin"];

/// The services, as grpc-web calls them.
pub(super) type Web = GrpcWebService<InTrailers>;

/// Makes them of the services behind their admission.
pub(super) fn web(service: Admitting<Routes>) -> Web {
    GrpcWebLayer::new().layer(InTrailers(service))
}

/// Returns the media types of a request and of its answer. A form of a page can have none of them.
pub(super) fn media_types(
    headers: &HeaderMap,
) -> Result<[HeaderValue; 2], (StatusCode, &'static str)> {
    let known = |name| {
        let given = headers.get(name).and_then(|given: &HeaderValue| given.to_str().ok())?;
        let essence = given.split(';').next().unwrap_or_default().trim();
        MEDIA_TYPES.into_iter().find(|known| essence.eq_ignore_ascii_case(known))
    };
    let given = known(header::CONTENT_TYPE).ok_or((
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "the body must be grpc-web, with the header content-type: application/grpc-web+proto",
    ))?;
    let answer = known(header::ACCEPT).unwrap_or(given);
    Ok([given, answer].map(HeaderValue::from_static))
}

/// Makes the response of an answer, which is counted until it is read.
pub(super) fn response(mut answered: Response<Body>, answers: Answers) -> Response<Counted> {
    guarded(answered.headers_mut());
    unbuffered(answered.headers_mut());
    answered.map(|body| Counted { body, answers })
}

/// Services whose answers end with trailers, also those that are nothing but a status: a page finds it in one place.
#[derive(Clone, Debug)]
pub(super) struct InTrailers(Admitting<Routes>);

impl Service<Request<Body>> for InTrailers {
    type Response = Response<Ended>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Ended>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answering = self.0.call(request);
        Box::pin(async move {
            let (head, body) = answering.await?.into_parts();
            let trailers = head.headers.contains_key(OF_STATUS[0]).then_some(head.headers);
            Ok(Response::new(Ended { body, trailers, is_over: false }))
        })
    }
}

/// Body that ends with the trailers of a status.
pub(super) struct Ended {
    body: Body,
    /// Headers of an answer that is nothing else.
    trailers: Option<HeaderMap>,
    is_over: bool,
}

fn of_status(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // Its text is none that a header can have.
        headers.insert(OF_STATUS[0], HeaderValue::from(i32::from(status.code())));
    }
    headers
}

impl http_body::Body for Ended {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let trailers = match self.trailers.take() {
            Some(trailers) => trailers,
            None => match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Err(frame) => frame.into_trailers().unwrap_or_default(),
                },
                Some(Err(status)) => of_status(&status),
                None => of_status(&Status::unknown("the answer has ended without a status")),
            },
        };
        self.is_over = true;
        let kept = OF_STATUS.into_iter().filter_map(|name| {
            Some((header::HeaderName::from_static(name), trailers.get(name)?.clone()))
        });
        Poll::Ready(Some(Ok(Frame::trailers(kept.collect()))))
    }
}

/// Body that is counted until it is read.
pub(super) struct Counted {
    body: Body,
    answers: Answers,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context)?);
        let data = frame.and_then(|frame| frame.into_data().ok());
        // Where there is no room for it, the connection breaks off.
        Poll::Ready(data.map(|data| self.answers.counted(data).map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_that_it_is_grpc_web() {
        let types = |given: &'static str, accept: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(given));
            accept.map(|accept| headers.insert(header::ACCEPT, HeaderValue::from_static(accept)));
            media_types(&headers).map(|types| types.map(|of| of.to_str().unwrap_or("?").to_owned()))
        };
        let [bytes, _, _, text] = MEDIA_TYPES;
        let both = |of: &str| Ok([of.to_owned(), of.to_owned()]);
        assert_eq!(types("Application/grpc-web+proto; charset=x", None), both(bytes));
        assert_eq!(types(text, Some("*/*")), both(text), "the answer is as the request");
        assert_eq!(types(bytes, Some(text)), Ok([bytes.to_owned(), text.to_owned()]));
        for bad in ["", "application/grpc", "application/grpc-web+json", "text/plain"] {
            let refused = types(bad, None).expect_err(bad);
            assert_eq!(refused.0, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{bad}");
        }
        assert!(media_types(&HeaderMap::new()).is_err());
    }
}
