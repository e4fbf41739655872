//! Address that may be left out, names of hosts, and origins of pages.

use std::net::SocketAddr;
use std::str::FromStr;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

use unanimo_core::ParticipantName;

use super::Named;
use crate::participants::allow;

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

/// Names of hosts: in the file a list, in a flag or a variable separated by commas. None is an empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct HostNames(pub Vec<String>);

impl FromStr for HostNames {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = text.split(',').map(|name| name.trim().to_owned());
        match text.trim() {
            "" => Ok(Self::default()),
            _ => names.collect::<Vec<_>>().try_into(),
        }
    }
}

impl TryFrom<Vec<String>> for HostNames {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Self, String> {
        let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        match names.iter().find(|name| name.is_empty() || !name.chars().all(is_good)) {
            None => Ok(Self(names)),
            Some(bad) => {
                Err(format!("{bad:?} is no name of a host: write it without a scheme and a port"))
            }
        }
    }
}

/// Origins of pages: in the file a list, in a flag or a variable separated by commas. None is an empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Origins(pub Vec<String>);

impl FromStr for Origins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let origins = text.split(',').map(|origin| origin.trim().to_owned());
        match text.trim() {
            "" => Ok(Self::default()),
            _ => origins.collect::<Vec<_>>().try_into(),
        }
    }
}

impl TryFrom<Vec<String>> for Origins {
    type Error = String;

    fn try_from(origins: Vec<String>) -> Result<Self, String> {
        match origins.iter().find(|origin| !is_origin(origin)) {
            None => Ok(Self(origins)),
            Some(bad) => Err(format!(
                "{bad:?} is no origin: write a scheme and a host as a browser does, such as https://shop.example or \
                 http://localhost:3000"
            )),
        }
    }
}

/// Tells whether a browser may send it: a scheme, a host and maybe a port, and nothing behind them.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_good =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    host.is_some_and(|host| !host.is_empty() && host.chars().all(is_good))
}

/// Returns the name of a participant and its endpoint, which are set as `NAME=URL`.
pub(in crate::config) fn named_endpoint(text: &str) -> Result<(ParticipantName, String), String> {
    let (name, url) = text.split_once('=').ok_or("must be NAME=http://HOST:PORT")?;
    let name = ParticipantName::try_from(name.to_owned()).map_err(|rule| format!("NAME {rule}"))?;
    allow::parse_endpoint(url).map_err(|violation| violation.to_string())?;
    Ok((name, url.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_those_of_browsers() {
        let origins = |text: &str| text.parse::<Origins>().map(|Origins(origins)| origins);
        assert_eq!(origins(""), Ok(Vec::new()));
        let both = ["https://shop.example", "http://[::1]:3000"].map(str::to_owned).to_vec();
        assert_eq!(origins("https://shop.example, http://[::1]:3000"), Ok(both));
        for bad in ["*", "null", "shop.example", "https://", "https://a/", "https://a,,", "ftp://a"]
        {
            origins(bad).expect_err(bad);
        }
    }

    #[test]
    fn names_of_hosts_are_separated_by_commas() {
        let names = |text: &str| text.parse::<HostNames>().map(|HostNames(names)| names);
        assert_eq!(names(""), Ok(Vec::new()));
        let both = ["tx.shop.example", "coordinator"].map(str::to_owned).to_vec();
        assert_eq!(names("tx.shop.example, coordinator"), Ok(both));
        for bad in ["a,,b", "http://a", "a:7611", "*", "a b"] {
            names(bad).expect_err(bad);
        }
    }
}
