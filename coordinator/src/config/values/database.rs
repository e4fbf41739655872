//! Settings that name the database.

use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::store;

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

    /// Tells whether it has a password, or what may be one.
    #[must_use]
    pub fn has_secret(&self) -> bool {
        self.to_string() != self.0
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

/// Shows it without its password, and without what may be one.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() || self.file().is_some() {
            return f.write_str(&self.0);
        }
        let Some((scheme, rest)) = self.0.split_once("://") else { return f.write_str("***") };
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        write!(f, "{scheme}://")?;
        // A password may hold an @: the last one separates it from the host.
        match place.rsplit_once('@') {
            Some((login, host)) => match login.split_once(':') {
                Some((user, _)) => write!(f, "{user}:***@{host}")?,
                None => write!(f, "{login}@{host}")?,
            },
            // A password with a question mark ends the host too soon.
            None if has_ports(place) && !may_have_login(query) => f.write_str(place)?,
            None => f.write_str("***")?,
        }
        let Some(query) = query else { return Ok(()) };
        let parameters = query.split('&').map(|parameter| match parameter.split_once('=') {
            Some((name, _)) if store::is_shown(name) => parameter.to_owned(),
            Some((name, _)) if name.ends_with("password") => format!("{name}=***"),
            _ => "***".to_owned(),
        });
        write!(f, "?{}", parameters.collect::<Vec<_>>().join("&"))
    }
}

/// Tells whether what is read as parameters may be the end of a password, and the hosts behind it.
fn may_have_login(query: Option<&str>) -> bool {
    query.into_iter().flat_map(|query| query.split('&')).any(|parameter| {
        let name = parameter.split('=').next().unwrap_or_default();
        parameter.contains('@') && !store::is_shown(name) && !name.ends_with("password")
    })
}

/// Tells whether what stands behind the hosts of an address are ports.
fn has_ports(place: &str) -> bool {
    let hosts = place.split('/').next().unwrap_or_default();
    hosts.split(',').all(|host| {
        let behind = host.rsplit_once(']').map_or(host, |(_, behind)| behind);
        let port = behind.split_once(':').map_or("", |(_, port)| port);
        port.bytes().all(|byte| byte.is_ascii_digit())
    })
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
