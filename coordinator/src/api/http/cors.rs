//! Pages of other sites that may use the API (CORS): none, but those of the setting `http-origins`.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

/// Headers of a request that such a page may set.
const REQUEST_HEADERS: &str = "authorization, content-type, grpc-timeout, last-event-id, traceparent, tracestate, \
                               x-grpc-web, x-user-agent";

/// Headers of an answer that it may read.
const ANSWER_HEADERS: &str = "grpc-message, grpc-status, grpc-status-details-bin, retry-after";

/// Time for which a browser need not ask again, in seconds.
const MAX_AGE: &str = "600";

/// Returns the origin of a request, if its pages may use the API. It proves nothing: whoever calls needs an identity as
/// everybody does, and a browser adds none by itself.
pub(super) fn allowed(headers: &HeaderMap, origins: &[String]) -> Option<HeaderValue> {
    let mut given = headers.get_all(header::ORIGIN).iter();
    let origin = given.next()?;
    let text = origin.to_str().ok().filter(|_| given.next().is_none())?;
    origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(text)).then(|| origin.clone())
}

/// Tells whether a browser asks what a page may do.
pub(super) fn is_question(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Answers that question.
pub(super) fn answer<B: Default>() -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Lets the pages of an origin read an answer.
pub(super) fn open(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let exposed = HeaderValue::from_static(ANSWER_HEADERS);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}
