//! A participant over HTTP/1.1 with JSON: the calls of `ParticipantService` for services without gRPC.
//!
//! Its endpoint is `http+json://HOST:PORT/BASE` or `https+json://HOST:PORT/BASE`. A call is a POST to `BASE/prepare`,
//! `BASE/commit` or `BASE/cancel`, with the request in the JSON mapping of the contract; the answer is its response in
//! the same mapping. Here is the meaning of both, without a network: [`request`] makes the request, [`answer`] reads
//! the response.
//!
//! An answer is a response with the status 200, the content type `application/json` and a body that can be read as the
//! message. Everything else is an error status, as over gRPC: never a vote, never done.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage};
use tonic::codegen::http::{self, HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, PrepareRequest, PrepareResponse,
};

/// Header with the time in milliseconds that the caller waits for the answer.
pub const TIMEOUT_HEADER: &str = "unanimo-timeout-ms";

/// Behind `http` or `https` in the scheme of an endpoint.
const SUFFIX: &str = "+json";

/// Headers that a call has over gRPC, too.
const HEADERS: [&str; 3] = ["authorization", "traceparent", "tracestate"];

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET);
    pool.expect("the descriptors are generated with the code")
});

/// Request to a participant.
pub trait Call: Message + Name {
    /// Last segment of its path.
    const PATH: &'static str;
    /// Response.
    type Answer: Message + Name + Default;
}

impl Call for PrepareRequest {
    const PATH: &'static str = "prepare";
    type Answer = PrepareResponse;
}

impl Call for CommitRequest {
    const PATH: &'static str = "commit";
    type Answer = CommitResponse;
}

impl Call for CancelRequest {
    const PATH: &'static str = "cancel";
    type Answer = CancelResponse;
}

/// Returns the address with `http` or `https` below which an endpoint of this form is called; `None` for one of another
/// form, which is called over gRPC.
#[must_use]
pub fn base(endpoint: &str) -> Option<String> {
    let (scheme, rest) = endpoint.split_once("://")?;
    let at = scheme.len().checked_sub(SUFFIX.len()).filter(|at| scheme.is_char_boundary(*at))?;
    let (scheme, suffix) = scheme.split_at(at);
    let is_known = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    (is_known && suffix.eq_ignore_ascii_case(SUFFIX))
        .then(|| format!("{}://{}", scheme.to_ascii_lowercase(), rest.trim_end_matches('/')))
}

/// Makes the request of a call below this base.
///
/// # Errors
/// The base is no address.
pub fn request<C: Call>(
    base: &str,
    call: tonic::Request<C>,
) -> Result<http::Request<Bytes>, Status> {
    let (metadata, _, message) = call.into_parts();
    let uri: Uri = format!("{base}/{}", C::PATH)
        .parse()
        .map_err(|_| Status::internal("the endpoint is no address"))?;
    let mut request = http::Request::new(json(&message)?.into());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    for (name, value) in
        [(header::CONTENT_TYPE, "application/json"), (header::ACCEPT, "application/json")]
    {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some(timeout) = timeout(&metadata) {
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        headers.insert(TIMEOUT_HEADER, ms.into());
    }
    let given = metadata.into_headers();
    for name in HEADERS {
        if let Some(value) = given.get(name) {
            headers.insert(name, value.clone());
        }
    }
    Ok(request)
}

/// Returns the time for the answer that a call names in its header `grpc-timeout`.
#[must_use]
pub fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Writes a message as JSON.
fn json<M: Message + Name>(message: &M) -> Result<Vec<u8>, Status> {
    let unwritable =
        |error: String| Status::internal(format!("cannot be written as JSON: {error}"));
    let message = DynamicMessage::decode(descriptor::<M>(), message.encode_to_vec().as_slice())
        .map_err(|error| unwritable(error.to_string()))?;
    serde_json::to_vec(&message).map_err(|error| unwritable(error.to_string()))
}

fn descriptor<M: Name>() -> prost_reflect::MessageDescriptor {
    POOL.get_message_by_name(&M::full_name()).expect("the descriptors have each message")
}

/// Reads the answer of a call.
///
/// # Errors
/// The response is none: a status other than 200, another content type, or a body that is not the message.
pub fn answer<C: Call>(response: &http::Response<Bytes>) -> Result<C::Answer, Status> {
    let (status, body) = (response.status(), response.body());
    if status != StatusCode::OK {
        return Err(error(status, response.headers(), body));
    }
    if !is_json(response.headers(), "application/json") {
        let found = content_type(response.headers());
        let found = found.map_or_else(|| "none".to_owned(), |found| format!("{found:?}"));
        return Err(Status::unimplemented(format!(
            "HTTP 200 is no answer of a participant: its content-type must be application/json, is {found}; \
             is the endpoint right, and is no proxy in between?"
        )));
    }
    read::<C::Answer>(body).map_err(|error| {
        Status::internal(format!("HTTP 200 with a body that cannot be read: {error}"))
    })
}

/// Reads a message from JSON. Fields and values of a later version are passed over, as over gRPC.
fn read<M: Message + Name + Default>(body: &[u8]) -> Result<M, String> {
    if body.is_empty() {
        return Err("it is empty".to_owned());
    }
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = DynamicMessage::deserialize_with_options(descriptor::<M>(), &mut reader, &options);
    let message = read.map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    message.transcode_to().map_err(|error| error.to_string())
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

/// Tells whether the content type is this one, whatever its parameters.
fn is_json(headers: &HeaderMap, wanted: &str) -> bool {
    let essence = content_type(headers).and_then(|found| found.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(wanted))
}

/// Makes the error status of a response that is no answer.
fn error(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Status {
    let is_problem = ["application/problem+json", "application/json"];
    let problem = is_problem
        .iter()
        .any(|wanted| is_json(headers, wanted))
        .then(|| serde_json::from_slice::<serde_json::Value>(body).ok())
        .flatten();
    let text = |name: &str| problem.as_ref()?.get(name)?.as_str();
    let code = text("code").and_then(code_of_name).unwrap_or_else(|| code(status));
    let said = text("detail").or_else(|| text("title")).filter(|said| !said.is_empty());
    let mut message = match said {
        Some(said) => format!("HTTP {}: {said}", status.as_u16()),
        None => format!("HTTP {status}"),
    };
    if let Some(hint) = hint(status) {
        message = format!("{message}; {hint}");
    }
    Status::new(code, message)
}

/// Returns the code of gRPC that a status of HTTP means, where the body does not name one.
#[must_use]
pub fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        400 | 422 => Code::InvalidArgument,
        401 | 407 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        409 => Code::Aborted,
        412 => Code::FailedPrecondition,
        413 | 429 => Code::ResourceExhausted,
        408 | 502 | 503 => Code::Unavailable,
        499 => Code::Cancelled,
        500 => Code::Internal,
        504 => Code::DeadlineExceeded,
        // Whatever listens there has no such call.
        300..=399 | 404 | 405 | 415 | 501 => Code::Unimplemented,
        _ => Code::Unknown,
    }
}

/// Explains a status by which the endpoint, or what is in front of it, is set up wrong.
fn hint(status: StatusCode) -> Option<&'static str> {
    match status.as_u16() {
        404 => Some("below the endpoint's base there must be prepare, commit and cancel"),
        405 => Some("prepare, commit and cancel must take POST"),
        413 => Some("the server, or a proxy in between, must take bodies of 8 MiB"),
        415 => Some("prepare, commit and cancel must take application/json"),
        300..=399 => {
            Some("a redirect is not followed: the endpoint must be the participant itself")
        }
        200..=299 => Some("an answer has the status 200"),
        _ => None,
    }
}

fn code_of_name(name: &str) -> Option<Code> {
    Some(match name {
        "CANCELLED" => Code::Cancelled,
        "UNKNOWN" => Code::Unknown,
        "INVALID_ARGUMENT" => Code::InvalidArgument,
        "DEADLINE_EXCEEDED" => Code::DeadlineExceeded,
        "NOT_FOUND" => Code::NotFound,
        "ALREADY_EXISTS" => Code::AlreadyExists,
        "PERMISSION_DENIED" => Code::PermissionDenied,
        "RESOURCE_EXHAUSTED" => Code::ResourceExhausted,
        "FAILED_PRECONDITION" => Code::FailedPrecondition,
        "ABORTED" => Code::Aborted,
        "OUT_OF_RANGE" => Code::OutOfRange,
        "UNIMPLEMENTED" => Code::Unimplemented,
        "INTERNAL" => Code::Internal,
        "UNAVAILABLE" => Code::Unavailable,
        "DATA_LOSS" => Code::DataLoss,
        "UNAUTHENTICATED" => Code::Unauthenticated,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
