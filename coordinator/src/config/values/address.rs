//! Address that may be left out.

use std::net::SocketAddr;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

use super::Named;

/// Address to listen on; none, which is an empty text, is to not listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptionalAddress(pub Option<SocketAddr>);

impl Serialize for OptionalAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.map(|address| address.to_string()).unwrap_or_default())
    }
}

impl Named for OptionalAddress {
    const NAME: &'static str = SocketAddr::NAME;

    fn of_text(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self(None)),
            text => SocketAddr::of_text(text).map(Some).map(Self),
        }
    }

    fn of_file<'de, D: Deserializer<'de>>(file: D) -> Result<Self, D::Error> {
        Self::of_text(&String::deserialize(file)?).map_err(D::Error::custom)
    }
}
