//! Types of settings, with their text forms.

mod address;
mod database;
mod files;
mod protocol;
mod ratio;

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use unanimo_core::{ParticipantName, RecordPolicy};

pub(super) use self::address::named_endpoint;
pub use self::address::{HostNames, OptionalAddress, Origins};
pub use self::database::{DatabaseSchema, DatabaseUrl};
pub(super) use self::files::KeysAt;
pub use self::files::{FilePath, KeysPlace, ServerName};
pub use self::protocol::OtlpProtocol;
pub use self::ratio::Ratio;
use crate::participants::allow::Pattern;

/// Names of a type's values in help texts, and how they are read.
pub(super) trait Named: Sized {
    const NAME: &'static str;
    /// All values, if they are few; otherwise empty.
    const VALUES: &'static [&'static str] = &[];

    /// Reads a value from a flag or a variable.
    fn of_text(text: &str) -> Result<Self, String>;

    /// Reads a value from the file.
    fn of_file<'de, D: Deserializer<'de>>(file: D) -> Result<Self, D::Error>;
}

/// Value of a setting, read in its type's own way.
#[derive(Clone, Debug)]
pub(super) struct Given<T>(pub(super) T);

impl<'de, T: Named> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(file: D) -> Result<Self, D::Error> {
        T::of_file(file).map(Self)
    }
}

/// An address to listen on may name its host: `localhost:7610`.
impl Named for SocketAddr {
    const NAME: &'static str = "HOST:PORT";

    fn of_text(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(format!("{text:?} is no address: write HOST:PORT, such as 127.0.0.1:7610"));
        }
        let found = text.to_socket_addrs();
        let found = found.map_err(|error| format!("{text:?} cannot be resolved: {error}"))?;
        // `localhost` is mostly both; clients use IPv4 unless they are told otherwise.
        let (four, six): (Vec<_>, Vec<_>) = found.partition(Self::is_ipv4);
        let first = four.into_iter().chain(six).next();
        first.ok_or_else(|| format!("{text:?} has no address"))
    }

    fn of_file<'de, D: Deserializer<'de>>(file: D) -> Result<Self, D::Error> {
        Self::of_text(&String::deserialize(file)?).map_err(D::Error::custom)
    }
}

macro_rules! named {
    ($($kind:ty = $name:literal $($values:expr)?;)*) => {
        $(impl Named for $kind {
            const NAME: &'static str = $name;
            $(const VALUES: &'static [&'static str] = &$values;)?

            fn of_text(text: &str) -> Result<Self, String> {
                text.parse().map_err(|rule| format!("{rule}"))
            }

            fn of_file<'de, D: Deserializer<'de>>(file: D) -> Result<Self, D::Error> {
                Self::deserialize(file)
            }
        })*
    };
}

named! {
    NodeName = "NAME";
    DatabaseUrl = "URL";
    DatabaseSchema = "NAME";
    bool = "BOOL" ["true", "false"];
    Patterns = "PATTERNS";
    HostNames = "NAMES";
    Origins = "ORIGINS";
    LogFormat = "FORMAT" ["human", "json"];
    History = "WHICH" ["sagas", "all", "none"];
    FilePath = "FILE";
    KeysPlace = "FILE|URL";
    OtlpProtocol = "PROTOCOL" ["grpc", "http/protobuf"];
    ServerName = "NAME";
    String = "TEXT";
    Period = "DURATION";
    usize = "NUMBER";
    u32 = "NUMBER";
}

/// Duration, written as `250ms`, `15s` or `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Serialize)]
#[serde(into = "String")]
pub struct Period(pub Duration);

impl Period {
    /// Makes a duration of seconds.
    #[must_use]
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// Makes a duration of milliseconds.
    #[must_use]
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || format!("{text:?} is no duration: write 250ms, 15s or 1h 30m");
        let parsed: jiff::SignedDuration = text.parse().map_err(|_| rule())?;
        Ok(Self(Duration::try_from(parsed).map_err(|_| rule())?))
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PeriodVisitor)
    }
}

/// Reader of a duration. A number without a unit is the likely mistake: the error names the rule, and not a type.
struct PeriodVisitor;

impl PeriodVisitor {
    fn is_none<E: serde::de::Error>(value: impl fmt::Display) -> Result<Period, E> {
        Err(E::custom(format!("must be a text such as \"30s\" or \"1h 30m\", is {value}")))
    }
}

impl serde::de::Visitor<'_> for PeriodVisitor {
    type Value = Period;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text such as \"30s\" or \"1h 30m\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Period, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Period, E> {
        Self::is_none(number)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Period, E> {
        Self::is_none(number)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Period, E> {
        Self::is_none(number)
    }
}

impl From<Period> for String {
    fn from(period: Period) -> Self {
        period.to_string()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(duration) => write!(f, "{duration:#}"),
            Err(_) => write!(f, "{:?}", self.0),
        }
    }
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for people.
    Human,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err("must be human or json"),
        }
    }
}

/// Transactions of which a history is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub struct History(pub RecordPolicy);

impl FromStr for History {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = RecordPolicy::ALL.iter().find(|policy| policy.name() == text);
        known.copied().map(Self).ok_or("must be sagas, all or none")
    }
}

impl TryFrom<String> for History {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<History> for &'static str {
    fn from(History(policy): History) -> Self {
        policy.name()
    }
}

/// Name of a node, of the same alphabet as all names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(ParticipantName);

impl NodeName {
    /// Returns the host's name without characters outside the alphabet; `node` if none is left.
    #[must_use]
    pub fn of_host() -> Self {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        let good = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let name: String = host.chars().filter(good).take(64).collect();
        name.parse().unwrap_or_else(|_| "node".parse().expect("a name"))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for NodeName {
    type Err = unanimo_core::ids::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        ParticipantName::new(text).map(Self)
    }
}

/// List of endpoint patterns: in the file a list, in a flag or a variable separated by commas.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Patterns(pub Vec<Pattern>);

impl FromStr for Patterns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<Vec<String>> for Patterns {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl Serialize for Patterns {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read_as_they_are_written() {
        for text in ["250ms", "15s", "1h 30m", "24h", "1s 500ms"] {
            let period: Period = text.parse().expect(text);
            assert_eq!(period.to_string().parse(), Ok(period), "{text}");
        }
        assert_eq!("1h 30m".parse(), Ok(Period::secs(5400)));
        for text in ["", "15", "-1s", "fast"] {
            let error = text.parse::<Period>().expect_err(text);
            assert!(error.contains("write 250ms, 15s or 1h 30m"), "{error}");
        }
    }

    #[test]
    fn an_address_to_listen_on_may_name_its_host() {
        for (text, port) in [("127.0.0.1:7610", 7610), ("localhost:0", 0), ("[::1]:7610", 7610)] {
            let address = SocketAddr::of_text(text).expect(text);
            assert!(address.ip().is_loopback() && address.port() == port, "{address}");
        }
        for (text, rule) in [
            ("localhost", "write HOST:PORT"),
            ("7610", "write HOST:PORT"),
            (":7610", "write HOST:PORT"),
            ("localhost:http", "write HOST:PORT"),
            ("localhost:70000", "write HOST:PORT"),
            ("no-such-host.invalid:1", "cannot be resolved: "),
        ] {
            let error = SocketAddr::of_text(text).expect_err(text);
            assert!(error.starts_with(&format!("{text:?} ")) && error.contains(rule), "{error}");
        }
    }

    #[test]
    fn a_database_url_hides_its_password() {
        for (url, shown) in [
            ("sqlite:data/x.db", "sqlite:data/x.db"),
            ("postgres://host/db", "postgres://host/db"),
            ("postgres://ann@host/db", "postgres://ann@host/db"),
            (
                "postgres://ann:s3:cr@t@host:5432/db?sslmode=require",
                "postgres://ann:***@host:5432/db?sslmode=require",
            ),
            (
                "postgres://host/db?user=ann&password=secret&sslmode=require",
                "postgres://host/db?user=ann&password=***&sslmode=require",
            ),
            ("postgres://host:5,[::1]:6,two/db", "postgres://host:5,[::1]:6,two/db"),
            ("postgres://ann:se/cr@t@host/db", "postgres://ann:***@host/db"),
            ("postgres://host:5/db?password=secr@t", "postgres://host:5/db?password=***"),
            (
                "postgres://host/db?user=ann&password=secr@t",
                "postgres://host/db?user=ann&password=***",
            ),
            (
                "postgres://h/db?password=a&password=secret",
                "postgres://h/db?password=***&password=***",
            ),
            ("postgres://h/db?password=a&secret", "postgres://h/db?password=***&***"),
            ("postgres://h/db?sslpassword=secret&port=1", "postgres://h/db?sslpassword=***&port=1"),
            ("postgres://h/db?pass%77ord=secret", "postgres://h/db?***"),
            ("postgres://h/db?passwd=secret", "postgres://h/db?***"),
            ("postgres://ann:se?cret@host/db", "postgres://***?***"),
            ("postgres://ann:2024?cret@host/db", "postgres://***?***"),
            ("postgres://ann:12/ab?c=d@h", "postgres://***?***"),
            ("host=h user=ann password=secret", "***"),
            ("postgres:ann:secret@h", "***"),
        ] {
            let url = DatabaseUrl::new(url);
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
            assert_eq!(url.has_secret(), shown.contains("***"));
        }
    }

    #[test]
    fn a_schema_needs_no_quotes() {
        for good in ["unanimo", "public", "group_2", "_x"] {
            assert_eq!(good.parse::<DatabaseSchema>().expect(good).as_str(), good);
        }
        let long = "a".repeat(64);
        for bad in ["", "Unanimo", "a-b", "a.b", "a\"b", "2nd", "pg_x", "information_schema", &long]
        {
            bad.parse::<DatabaseSchema>().expect_err(bad);
        }
    }

    #[test]
    fn a_host_has_a_name() {
        assert!(!NodeName::of_host().as_str().is_empty());
    }
}
