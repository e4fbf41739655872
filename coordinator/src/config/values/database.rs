//! Settings that name the database.

use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Address of a database. It may hold a password, which is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Makes an address. [`Config::violations`](crate::Config::violations) checks it.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// Returns the address with its password.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the path of an SQLite file, as it was given; `None` of another database.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        let path = self.0.strip_prefix("sqlite:")?;
        Some(path.strip_prefix("//").unwrap_or(path).as_ref())
    }
}

impl FromStr for DatabaseUrl {
    type Err = Infallible;

    fn from_str(url: &str) -> Result<Self, Infallible> {
        Ok(Self::new(url))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A password may hold an @: the last one separates it from the host.
        let Some((scheme, rest)) = self.0.split_once("://") else {
            return f.write_str(&self.0);
        };
        let host_end = rest.rfind('@').map_or(0, |at| at + 1);
        let (login, host) = rest.split_at(host_end);
        write!(f, "{scheme}://")?;
        match login.split_once(':') {
            Some((user, _)) => write!(f, "{user}:***@")?,
            None => f.write_str(login)?,
        }
        match host.split_once("password=") {
            Some((before, after)) => {
                let rest = after.find('&').map_or("", |end| &after[end..]);
                write!(f, "{before}password=***{rest}")
            }
            None => f.write_str(host),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Name of a schema of PostgreSQL, of the letters that need no quotes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatabaseSchema(String);

/// Longest name that PostgreSQL does not cut.
const SCHEMA_BYTES_MAX: usize = 63;

impl DatabaseSchema {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for DatabaseSchema {
    fn default() -> Self {
        Self("unanimo".to_owned())
    }
}

impl FromStr for DatabaseSchema {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit();
        let good = (1..=SCHEMA_BYTES_MAX).contains(&text.len())
            && text.bytes().all(plain)
            && !text.starts_with(|first: char| first.is_ascii_digit());
        if !good {
            return Err(format!(
                "must be 1 to {SCHEMA_BYTES_MAX} of the characters a-z, 0-9 and _, and begin with none \
                 of the digits"
            ));
        }
        if text.starts_with("pg_") || text == "information_schema" {
            return Err(format!("must be no schema of PostgreSQL itself, is {text:?}"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for DatabaseSchema {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DatabaseSchema> for String {
    fn from(schema: DatabaseSchema) -> Self {
        schema.0
    }
}
