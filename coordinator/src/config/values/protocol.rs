//! Protocol of a collector.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Protocol by which spans go to their collector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OtlpProtocol {
    /// gRPC.
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    /// HTTP/1.1 with bodies of protobuf.
    #[serde(rename = "http/protobuf")]
    Http,
}

impl FromStr for OtlpProtocol {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::Http),
            _ => Err("must be grpc or http/protobuf"),
        }
    }
}
