//! Body of a request: JSON in, a gRPC message out, when the service asks for it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body as _, Frame};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::Status;
use tonic::body::Body;
use unanimo_core::Violation;

use super::mapping;
use crate::api::error::invalid;

/// Bytes of JSON for a byte of a message: base64 takes a third more, and names and escapes some.
const JSON_FACTOR: usize = 2;

/// Bytes before a message of gRPC: whether it is compressed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// Body that is a message of gRPC.
pub(super) enum Request {
    /// It is still to be made of JSON.
    Json(Json),
    /// It is made.
    Made(Option<Bytes>),
}

/// JSON that comes.
pub(super) struct Json {
    pub(super) body: Body,
    pub(super) message: MessageDescriptor,
    pub(super) of_path: Vec<(&'static str, String)>,
    /// Most bytes of the message.
    pub(super) bytes_max: usize,
    pub(super) received: BytesMut,
}

impl Json {
    fn poll_received(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let json_max = self.bytes_max.saturating_mul(JSON_FACTOR);
        while let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)?) {
            let Ok(data) = frame.into_data() else { continue };
            if self.received.len() + data.len() > json_max {
                return Poll::Ready(Err(Status::out_of_range(format!(
                    "the body is too large: it may have {json_max} bytes (message-bytes-max)"
                ))));
            }
            self.received.extend_from_slice(&data);
        }
        Poll::Ready(Ok(()))
    }
}

/// Makes the status of a request that cannot be read.
pub(super) fn unreadable(violation: Violation) -> Status {
    invalid(violation)
}

/// Puts a message as gRPC does.
pub(super) fn framed(message: &DynamicMessage) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    // A message of 4 GiB would have been refused before.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode(&mut frame).expect("it grows");
    frame.freeze()
}

impl http_body::Body for Request {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Self::Json(json) = &mut *self {
            let received = ready!(json.poll_received(context));
            let made = received.and_then(|()| {
                let read = mapping::read(&json.message, &json.received, &json.of_path);
                read.map(|message| framed(&message)).map_err(unreadable)
            });
            match made {
                Ok(frame) => *self = Self::Made(Some(frame)),
                Err(status) => {
                    *self = Self::Made(None);
                    return Poll::Ready(Some(Err(status)));
                }
            }
        }
        match &mut *self {
            Self::Made(frame) => Poll::Ready(frame.take().map(|frame| Ok(Frame::data(frame)))),
            Self::Json(_) => Poll::Pending,
        }
    }
}
