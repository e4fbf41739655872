//! Answers: gRPC in, JSON out.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt;
use prost_reflect::MessageDescriptor;
use tonic::body::Body;
use tonic::{Code, Status};

use super::mapping;
use super::request::PREFIX_BYTES;

/// Returns the error in headers or trailers of gRPC, if there is one.
pub(super) fn error_in(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

/// Messages of gRPC that come in pieces.
#[derive(Debug, Default)]
pub(super) struct Messages(BytesMut);

impl Messages {
    pub(super) fn add(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    /// Takes the next whole one.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let length = self.0.get(1..PREFIX_BYTES)?.get_u32() as usize;
        if self.0.len() < PREFIX_BYTES + length {
            return None;
        }
        self.0.advance(PREFIX_BYTES);
        Some(self.0.split_to(length).freeze())
    }
}

/// Makes JSON of a message.
pub(super) fn json(message: &MessageDescriptor, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    mapping::write(message, bytes).map_err(|error| {
        tracing::error!(
            error,
            message = message.full_name(),
            "an answer cannot be written as JSON"
        );
        Status::internal("the answer cannot be written as JSON: ask for it over gRPC")
    })
}

/// Reads the one message of an answer.
pub(super) async fn only(
    response: Response<Body>,
    message: &MessageDescriptor,
) -> Result<Vec<u8>, Status> {
    if let Some(status) = error_in(response.headers()) {
        return Err(status);
    }
    let (mut body, mut messages) = (response.into_body(), Messages::default());
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => messages.add(&data),
            Err(frame) => {
                if let Some(status) = frame.trailers_ref().and_then(error_in) {
                    return Err(status);
                }
            }
        }
    }
    let answer = messages.next().ok_or_else(|| Status::internal("there is no answer"))?;
    json(message, &answer)
}

/// Makes the response of JSON.
pub(super) fn response<B: From<Bytes>>(json: Bytes) -> Response<B> {
    let mut response = Response::new(B::from(json));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    guarded(headers);
    response
}

/// Adds what has a proxy such as nginx hand each part of a stream on as it comes: it would keep them until it has many.
pub(super) fn unbuffered(headers: &mut HeaderMap) {
    let name = header::HeaderName::from_static("x-accel-buffering");
    headers.insert(name, header::HeaderValue::from_static("no"));
}

/// Adds what keeps an answer out of caches, and from being taken for something else.
pub(super) fn guarded(headers: &mut HeaderMap) {
    for (name, value) in
        [(header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")]
    {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
}
