//! Files that may be set, and the name of a server.

use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::outbound::without_query;

/// Path of a file; empty if none is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FilePath(String);

impl FilePath {
    /// Returns the path, if one is set.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.is_set().then(|| Path::new(&self.0))
    }

    /// Tells whether a file is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.0.is_empty()
    }
}

impl FromStr for FilePath {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// Place of an issuer's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum KeysAt<'a> {
    /// A file.
    File(&'a Path),
    /// Behind this address.
    Url(&'a str),
    /// Where the issuer says.
    Discovered,
}

/// Place of an issuer's keys, as text: a file, an address with `http://` or `https://`, or `discover`; empty if none is
/// set. It is shown without what follows the `?` of an address, which may be a secret.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct KeysPlace(String);

impl fmt::Display for KeysPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place() {
            Some(KeysAt::Url(url)) if url.contains('?') => write!(f, "{}?***", without_query(url)),
            _ => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for KeysPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for KeysPlace {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl KeysPlace {
    /// Tells whether there is one.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.0.is_empty()
    }

    /// Returns the place, if one is set.
    pub(in crate::config) fn place(&self) -> Option<KeysAt<'_>> {
        match self.0.as_str() {
            "" => None,
            "discover" => Some(KeysAt::Discovered),
            url if url.starts_with("http://") || url.starts_with("https://") => {
                Some(KeysAt::Url(url))
            }
            path => Some(KeysAt::File(Path::new(path))),
        }
    }
}

impl FromStr for KeysPlace {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// Name of a server in its certificate; empty if none is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerName(String);

impl ServerName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}
