//! Arguments and results as bytes on the wire, with their media type.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use unanimo_proto::v1;

/// Bytes of a media type.
const MEDIA_TYPE_BYTES_MAX: usize = 128;

/// Failure to make bytes of a value, or a value of bytes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// JSON.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Protocol Buffers.
    #[error("Protocol Buffers: {0}")]
    Prost(#[from] prost::DecodeError),
    /// Nothing was expected.
    #[error("{0} bytes where none were expected")]
    NotEmpty(usize),
    /// The media type breaks the rule.
    #[error(
        "media type {0:?} must be at most 128 bytes of printable ASCII, without space at either end"
    )]
    MediaType(String),
}

/// A value that can be sent.
pub trait Encode {
    /// Returns the value's bytes.
    ///
    /// # Errors
    /// The value cannot be written in its format.
    fn encode(&self) -> Result<Bytes, Error>;

    /// Returns the media type of the bytes (RFC 6838), such as `application/json`; empty if it is not
    /// known. At most 128 bytes of printable ASCII.
    fn media_type(&self) -> &str {
        ""
    }
}

/// A value that can be read.
pub trait Decode: Sized {
    /// Reads the value that the bytes stand for, whatever media type they came with.
    ///
    /// # Errors
    /// The bytes are not of the value's format.
    fn decode(bytes: &Bytes) -> Result<Self, Error>;

    /// Reads a value for which the media type matters, too.
    ///
    /// # Errors
    /// As of [`Self::decode`].
    fn decode_payload(payload: &Payload) -> Result<Self, Error> {
        Self::decode(&payload.data)
    }
}

/// Bytes with a media type of the user's own: for formats other than [`Json`] and [`Prost`].
///
/// ```
/// use unanimo_sdk::Payload;
///
/// let order = Payload::new("lamp;2", "text/csv");
/// assert_eq!(order.media_type, "text/csv");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The bytes.
    pub data: Bytes,
    /// Their media type (RFC 6838); empty if it is not known. At most 128 bytes of printable ASCII.
    pub media_type: Cow<'static, str>,
}

impl Payload {
    /// Makes one of bytes and their media type.
    pub fn new(data: impl Into<Bytes>, media_type: impl Into<Cow<'static, str>>) -> Self {
        Self { data: data.into(), media_type: media_type.into() }
    }

    /// Makes one of a value.
    ///
    /// # Errors
    /// The value cannot be written in its format, or its media type breaks the rule.
    pub fn of(value: &impl Encode) -> Result<Self, Error> {
        let media_type = match value.media_type() {
            "" => Cow::Borrowed(""),
            JSON => Cow::Borrowed(JSON),
            PROTOBUF => Cow::Borrowed(PROTOBUF),
            other if is_media_type(other) => Cow::Owned(other.to_owned()),
            other => return Err(Error::MediaType(other.to_owned())),
        };
        Ok(Self { data: value.encode()?, media_type })
    }

    #[cfg_attr(
        not(any(test, feature = "mysql", feature = "postgres", feature = "sqlite")),
        expect(dead_code, reason = "participants alone join, and they need a database")
    )]
    pub(crate) fn is_empty(&self) -> bool {
        self.data.is_empty() && self.media_type.is_empty()
    }
}

fn is_media_type(text: &str) -> bool {
    text.len() <= MEDIA_TYPE_BYTES_MAX
        && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        && !text.starts_with(' ')
        && !text.ends_with(' ')
}

impl From<v1::Payload> for Payload {
    fn from(v1::Payload { data, media_type }: v1::Payload) -> Self {
        Self::new(data, media_type)
    }
}

impl From<Payload> for v1::Payload {
    fn from(Payload { data, media_type }: Payload) -> Self {
        Self { data, media_type: media_type.into_owned() }
    }
}

impl Encode for Payload {
    fn encode(&self) -> Result<Bytes, Error> {
        Ok(self.data.clone())
    }

    fn media_type(&self) -> &str {
        &self.media_type
    }
}

impl Decode for Payload {
    /// Reads bytes of no known type.
    fn decode(bytes: &Bytes) -> Result<Self, Error> {
        Ok(Self::new(bytes.clone(), ""))
    }

    fn decode_payload(payload: &Payload) -> Result<Self, Error> {
        Ok(payload.clone())
    }
}

/// Media type of [`Json`].
const JSON: &str = "application/json";

/// Media type of [`Prost`].
const PROTOBUF: &str = "application/x-protobuf";

/// A value of [`serde`], sent as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// A message of [`prost`], sent as Protocol Buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prost<T>(pub T);

impl<T: Serialize> Encode for Json<T> {
    fn encode(&self) -> Result<Bytes, Error> {
        Ok(serde_json::to_vec(&self.0)?.into())
    }

    fn media_type(&self) -> &str {
        JSON
    }
}

impl<T: DeserializeOwned> Decode for Json<T> {
    fn decode(bytes: &Bytes) -> Result<Self, Error> {
        Ok(Self(serde_json::from_slice(bytes)?))
    }
}

impl<T: prost::Message> Encode for Prost<T> {
    fn encode(&self) -> Result<Bytes, Error> {
        Ok(self.0.encode_to_vec().into())
    }

    fn media_type(&self) -> &str {
        PROTOBUF
    }
}

impl<T: prost::Message + Default> Decode for Prost<T> {
    fn decode(bytes: &Bytes) -> Result<Self, Error> {
        Ok(Self(T::decode(bytes.as_ref())?))
    }
}

/// Bytes as they are, of no known type.
impl Encode for Bytes {
    fn encode(&self) -> Result<Bytes, Error> {
        Ok(self.clone())
    }
}

impl Decode for Bytes {
    fn decode(bytes: &Bytes) -> Result<Self, Error> {
        Ok(bytes.clone())
    }
}

/// Nothing.
impl Encode for () {
    fn encode(&self) -> Result<Bytes, Error> {
        Ok(Bytes::new())
    }
}

impl Decode for () {
    fn decode(bytes: &Bytes) -> Result<Self, Error> {
        if bytes.is_empty() { Ok(()) } else { Err(Error::NotEmpty(bytes.len())) }
    }
}

macro_rules! transparent {
    ($wrapper:ident) => {
        impl<T> Deref for $wrapper<T> {
            type Target = T;

            fn deref(&self) -> &T {
                &self.0
            }
        }

        impl<T> DerefMut for $wrapper<T> {
            fn deref_mut(&mut self) -> &mut T {
                &mut self.0
            }
        }
    };
}

transparent!(Json);
transparent!(Prost);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        let json = Json(vec![1, 2, 3]).encode().expect("JSON");
        assert_eq!(json, "[1,2,3]");
        assert_eq!(Json::<Vec<u8>>::decode(&json).expect("JSON").0, [1, 2, 3]);
        let message = prost_types::Duration { seconds: 7, nanos: 0 };
        let bytes = Prost(message).encode().expect("a message");
        assert_eq!(Prost::<prost_types::Duration>::decode(&bytes).expect("a message").seconds, 7);
        <()>::decode(&Bytes::new()).expect("nothing");
    }

    #[test]
    fn payloads_have_the_media_type_of_their_format() {
        let duration = prost_types::Duration { seconds: 7, nanos: 0 };
        let own = Payload::new("lamp;2", "text/csv");
        for (payload, media_type) in [
            (Payload::of(&Json(1)), "application/json"),
            (Payload::of(&Prost(duration)), "application/x-protobuf"),
            (Payload::of(&Bytes::from_static(b"x")), ""),
            (Payload::of(&()), ""),
            (Payload::of(&own), "text/csv"),
        ] {
            assert_eq!(payload.expect("a payload").media_type, media_type);
        }
        assert_eq!(Payload::decode_payload(&own).expect("itself"), own);
        assert_eq!(Bytes::decode_payload(&own).expect("bytes"), "lamp;2");
        let longest = "x".repeat(MEDIA_TYPE_BYTES_MAX);
        assert!(Payload::of(&Payload::new("", longest)).is_ok());
        let longer = "x".repeat(MEDIA_TYPE_BYTES_MAX + 1);
        for bad in [&*longer, "a\0", "é", " a/b", "a/b ", " "] {
            let error = Payload::of(&Payload::new("", bad.to_owned())).expect_err("no media type");
            assert!(error.to_string().contains("printable ASCII"), "{error}");
        }
    }

    #[test]
    fn bytes_of_another_format_are_an_error() {
        let bytes = Bytes::from_static(b"\xff{");
        for error in [
            Json::<u8>::decode(&bytes).expect_err("no JSON"),
            Prost::<prost_types::Duration>::decode(&bytes).expect_err("no message"),
            <()>::decode(&bytes).expect_err("something"),
        ] {
            assert!(!error.to_string().is_empty());
        }
    }
}
