//! Arguments and results as bytes on the wire.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a value is no bytes, or bytes are no value.
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
}

/// A value that can be sent.
pub trait Encode {
    /// The value's bytes.
    ///
    /// # Errors
    /// The value cannot be written in its format.
    fn encode(&self) -> Result<Bytes, Error>;
}

/// A value that can be read.
pub trait Decode: Sized {
    /// The value that the bytes stand for.
    ///
    /// # Errors
    /// The bytes are not of the value's format.
    fn decode(bytes: &Bytes) -> Result<Self, Error>;
}

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
}

impl<T: prost::Message + Default> Decode for Prost<T> {
    fn decode(bytes: &Bytes) -> Result<Self, Error> {
        Ok(Self(T::decode(bytes.as_ref())?))
    }
}

/// Bytes as they are.
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
