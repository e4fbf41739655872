//! The codec of the generated services: protobuf, with a bound on the number of elements.
//!
//! An element of a repeated field takes two bytes on the wire and several hundred in memory. So the bytes
//! of a message bound nothing: what is large is counted before it is decoded.

use std::marker::PhantomData;

use prost::{Message, Name};
use prost_types::Any;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};
use tonic::{Code, Status};
use tonic_prost::ProstEncoder;

use crate::elements::{self, ELEMENTS_MAX};

/// Size from which on a message's elements are counted. Those of a smaller one do not matter.
const COUNTED_BYTES_MIN: usize = 64 << 10;

/// Codec of the messages `T`, which are sent, and `U`, which are received.
#[derive(Debug)]
pub(crate) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Counting<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Counting(PhantomData)
    }
}

/// Decoder that counts before it decodes.
#[derive(Debug)]
pub(crate) struct Counting<U>(PhantomData<U>);

impl<U: Message + Name + Default> Decoder for Counting<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        use bytes::Buf;
        // The whole message lies in one piece.
        let bytes = source.chunk();
        if bytes.len() >= COUNTED_BYTES_MIN
            && let Err(field) = elements::check(U::NAME, bytes)
        {
            return Err(too_many(&field));
        }
        let decoded = U::decode(source);
        decoded.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Makes the refusal of a message with too many elements; `field` has most of them.
fn too_many(field: &str) -> Status {
    let rule =
        format!("must not have so many elements: a message may have {ELEMENTS_MAX} of all kinds");
    let info = ErrorInfo {
        reason: "FIELD_INVALID".to_owned(),
        domain: "unanimo".to_owned(),
        metadata: [("retryable", "false"), ("effect", "none")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    };
    let bad = FieldViolation { field: field.to_owned(), description: rule.clone() };
    let message = format!("{field} {rule}");
    let details = RpcStatus {
        code: Code::InvalidArgument.into(),
        message: message.clone(),
        details: vec![
            any("google.rpc.ErrorInfo", &info),
            any("google.rpc.BadRequest", &BadRequest { field_violations: vec![bad] }),
        ],
    };
    Status::with_details(Code::InvalidArgument, message, details.encode_to_vec().into())
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: std::collections::HashMap<String, String>,
}

/// `google.rpc.BadRequest`.
#[derive(Clone, PartialEq, Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

/// `google.rpc.BadRequest.FieldViolation`.
#[derive(Clone, PartialEq, Message)]
struct FieldViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
}
