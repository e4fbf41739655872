//! Allow-list of the endpoints that may be registered.
//!
//! A coordinator that dials whatever it is told to is a way into its network. So an endpoint must have one of the known
//! forms, and match one of the patterns that the operator allows.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;
use unanimo_core::Violation;
use unanimo_proto::over_http;

/// Most bytes of an endpoint.
pub const ENDPOINT_BYTES_MAX: usize = 256;

/// A pattern of endpoints: `loopback`, `*`, a host, `*.domain`, or an address with a prefix length;
/// each but the first two with an optional `:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    Loopback,
    Name(String),
    Below(String),
    Network(IpAddr, u8),
}

impl Pattern {
    /// Returns the pattern that is allowed when nothing is configured.
    #[must_use]
    pub fn loopback() -> Self {
        Self { host: Host::Loopback, port: None }
    }

    fn matches(&self, host: &str, port: u16) -> bool {
        if self.port.is_some_and(|wanted| wanted != port) {
            return false;
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        match &self.host {
            Host::Any => true,
            Host::Loopback => match address {
                Some(address) => address.is_loopback(),
                None => host.eq_ignore_ascii_case("localhost"),
            },
            Host::Name(name) => host.eq_ignore_ascii_case(name),
            Host::Below(domain) => {
                let at = host.len().checked_sub(domain.len() + 1);
                at.is_some_and(|at| {
                    host.is_char_boundary(at)
                        && host.as_bytes()[at] == b'.'
                        && host[at + 1..].eq_ignore_ascii_case(domain)
                })
            }
            Host::Network(network, bits) => {
                address.is_some_and(|address| is_within(address, *network, *bits))
            }
        }
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let prefix = |value: u128, width: u32| value.checked_shr(width - u32::from(bits)).unwrap_or(0);
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            prefix(u32::from(a).into(), 32) == prefix(u32::from(n).into(), 32)
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => prefix(a.into(), 128) == prefix(n.into(), 128),
        _ => false,
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || {
            format!(
                "{text:?} is no endpoint pattern: write loopback, *, a host name, *.domain, or an \
                 address with a prefix length such as 10.0.0.0/8, each with an optional :port"
            )
        };
        match text {
            "*" => return Ok(Self { host: Host::Any, port: None }),
            "loopback" => return Ok(Self::loopback()),
            _ => {}
        }
        // The colons of an IPv6 address are no port.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse().map_err(|_| rule())?))
            }
            _ => (text, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if let Some((network, bits)) = host.split_once('/') {
            let network: IpAddr = network.parse().map_err(|_| rule())?;
            let width = if network.is_ipv4() { 32 } else { 128 };
            let bits = bits.parse().ok().filter(|bits| *bits <= width).ok_or_else(rule)?;
            Host::Network(network, bits)
        } else if let Some(domain) = host.strip_prefix("*.") {
            Host::Below(named(domain).ok_or_else(rule)?)
        } else {
            Host::Name(named(host).ok_or_else(rule)?)
        };
        Ok(Self { host, port })
    }
}

fn named(host: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    (!host.is_empty() && host.chars().all(good)).then(|| host.to_owned())
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => f.write_str("*")?,
            Host::Loopback => f.write_str("loopback")?,
            Host::Name(name) if name.contains(':') => write!(f, "[{name}]")?,
            Host::Name(name) => f.write_str(name)?,
            Host::Below(domain) => write!(f, "*.{domain}")?,
            Host::Network(network, bits) if network.is_ipv6() => write!(f, "[{network}/{bits}]")?,
            Host::Network(network, bits) => write!(f, "{network}/{bits}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Reason for which an endpoint cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It has none of the known forms.
    #[error(transparent)]
    Invalid(#[from] Violation),
    /// No pattern allows it.
    #[error("endpoint {0} is not on the coordinator's endpoint-allow list")]
    NotAllowed(String),
    /// It is without TLS, and on another machine.
    #[error(
        "endpoint {0} is on another machine and without TLS: it must begin with https://, unless the \
         coordinator's setting insecure allows it"
    )]
    Plaintext(String),
}

/// Endpoints that may be without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plaintext {
    /// All.
    Anywhere,
    /// Those of this machine.
    Loopback,
}

impl Plaintext {
    /// Checks the form of an endpoint, and that it has TLS or needs none.
    ///
    /// # Errors
    /// It is malformed, or must have TLS.
    pub fn check(self, endpoint: &str) -> Result<(), Error> {
        let Parsed { host, port, tls, .. } = parse_endpoint(endpoint)?;
        match tls || self == Self::Anywhere || Pattern::loopback().matches(&host, port) {
            true => Ok(()),
            false => Err(Error::Plaintext(endpoint.to_owned())),
        }
    }
}

/// Checks the form of an endpoint, and that some pattern allows it.
///
/// # Errors
/// It is malformed, or not allowed.
pub fn check_endpoint(endpoint: &str, allowed: &[Pattern]) -> Result<(), Error> {
    let Parsed { host, port, .. } = parse_endpoint(endpoint)?;
    if allowed.iter().any(|pattern| pattern.matches(&host, port)) {
        Ok(())
    } else {
        Err(Error::NotAllowed(endpoint.to_owned()))
    }
}

/// Parts of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Host, in brackets if it is an IPv6 address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// It is called with TLS.
    pub tls: bool,
    /// It is called over HTTP/1.1 with JSON, and not over gRPC.
    pub json: bool,
}

/// Parts of a participant's endpoint, which is called over gRPC, or over HTTP with JSON.
///
/// # Errors
/// It is none of `http://HOST:PORT`, `https://HOST:PORT`, `http+json://HOST:PORT/BASE` and `https+json://HOST:PORT/BASE`.
pub fn parse_endpoint(endpoint: &str) -> Result<Parsed, Violation> {
    let forms = "must be http://HOST:PORT or https://HOST:PORT, or without gRPC http+json://HOST:PORT/BASE or \
                 https+json://HOST:PORT/BASE";
    let (Some(plain), true) = (over_http::base(endpoint), endpoint.len() <= ENDPOINT_BYTES_MAX)
    else {
        return parse(endpoint, false, forms);
    };
    // The rules of the address below which its calls are.
    parse(&plain, true, forms).map_err(|violation| match violation.rule.starts_with(forms) {
        true if !endpoint.contains('@') => {
            Violation::new("endpoint", format!("{forms}, is {endpoint:?}"))
        }
        _ => violation,
    })
}

/// Parts of an address that is called over gRPC.
///
/// # Errors
/// It is neither `http://HOST:PORT` nor `https://HOST:PORT`.
pub fn parse_grpc(endpoint: &str) -> Result<Parsed, Violation> {
    parse(endpoint, false, "must be http://HOST:PORT or https://HOST:PORT")
}

fn parse(endpoint: &str, json: bool, forms: &str) -> Result<Parsed, Violation> {
    let rule = |rule: String| Violation::new("endpoint", rule);
    if endpoint.len() > ENDPOINT_BYTES_MAX {
        let found = endpoint.len();
        return Err(rule(format!("must be at most {ENDPOINT_BYTES_MAX} bytes, has {found}")));
    }
    // What stands before an @ may be a password.
    let malformed = || match endpoint.contains('@') {
        true => rule(format!("{forms}, without a name or a password before its host")),
        false => rule(format!("{forms}, is {endpoint:?}")),
    };
    let uri: Uri = endpoint.parse().map_err(|_| malformed())?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(malformed()),
    };
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else { return Err(malformed()) };
    let bare = match json {
        // Between its call and a server nobody must read the path in another way.
        true => uri.path() == "/" || uri.path()[1..].split('/').all(is_segment),
        false => uri.path() == "/",
    };
    let bare = bare && uri.query().is_none() && !endpoint.contains('#');
    let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    // TLS compares it with the names in a certificate.
    let is_name = !tls || unanimo_tls::is_server_name(host);
    if host.is_empty() || port == 0 || !bare || user || !is_name {
        return Err(malformed());
    }
    Ok(Parsed { host: host.to_owned(), port, tls, json })
}

/// Tells whether a part of a path has letters, digits and `-`, `_`, `.`, `~` alone, and is no step to elsewhere.
fn is_segment(part: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
    !part.is_empty() && part != "." && part != ".." && part.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, endpoint: &str, allowed: bool) {
        let parsed: Pattern = pattern.parse().expect("a pattern");
        assert_eq!(parsed.to_string().parse(), Ok(parsed.clone()), "it prints as it reads");
        let result = check_endpoint(endpoint, &[parsed]);
        assert_eq!(result.is_ok(), allowed, "{pattern} and {endpoint}: {result:?}");
    }

    #[test]
    fn patterns_allow_what_they_say() {
        for (pattern, endpoint, allowed) in [
            ("loopback", "http://127.0.0.1:5000", true),
            ("loopback", "http://127.9.9.9:1", true),
            ("loopback", "http://[::1]:5000", true),
            ("loopback", "http://localhost:5000", true),
            ("loopback", "http://localhost.evil.example:5000", false),
            ("loopback", "http://10.0.0.1:5000", false),
            ("*", "http://10.0.0.1:5000", true),
            ("bank", "http://bank:5000", true),
            ("bank", "https://bank:5000", true),
            ("bank", "https://other:5000", false),
            ("bank", "http://Bank:5000", true),
            ("bank", "http://bank.example:5000", false),
            ("bank:5000", "http://bank:5000", true),
            ("bank:5000", "http://bank:5001", false),
            ("*.svc.local", "http://a.b.svc.local:1", true),
            ("*.svc.local", "http://svc.local:1", false),
            ("*.svc.local", "http://evilsvc.local:1", false),
            ("10.0.0.0/8", "http://10.200.3.4:1", true),
            ("10.0.0.0/8", "http://11.0.0.1:1", false),
            ("10.0.0.0/8", "http://ten.example:1", false),
            ("10.0.0.0/8:7000", "http://10.1.1.1:7001", false),
            ("0.0.0.0/0", "http://8.8.8.8:1", true),
            ("bank:5000", "http+json://bank:5000/tx/v1", true),
            ("bank:5000", "https+json://bank:5000", true),
            ("bank:5000", "http+json://bank:5001/tx", false),
            ("loopback", "http+json://127.0.0.1:5000/", true),
            ("loopback", "http+json://10.0.0.1:5000/", false),
            ("[fd00::/8]:7000", "http://[fd12::1]:7000", true),
            ("[fd00::/8]", "http://[fe12::1]:7000", false),
        ] {
            check(pattern, endpoint, allowed);
        }
    }

    #[test]
    fn without_tls_an_endpoint_is_on_this_machine() {
        for (endpoint, allowed) in [
            ("http://127.0.0.1:1", true),
            ("http://localhost:1", true),
            ("http://bank:1", false),
            ("http://10.0.0.1:1", false),
            ("https://bank:1", true),
            ("http+json://localhost:1/tx", true),
            ("http+json://bank:1/tx", false),
            ("https+json://bank:1/tx", true),
        ] {
            assert_eq!(Plaintext::Loopback.check(endpoint).is_ok(), allowed, "{endpoint}");
            Plaintext::Anywhere.check(endpoint).expect(endpoint);
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_rule() {
        for pattern in ["", "bank:x", "10.0.0.0/33", "*.", "a b", "http://bank"] {
            pattern.parse::<Pattern>().expect_err(pattern);
        }
        for endpoint in [
            "",
            "bank:5000",
            "https://bank",
            "https://bank..x:5000",
            "ftp://bank:5000",
            "http://bank",
            "http://bank:0",
            "http://bank:5000/path",
            "http://bank:5000/?q",
            "http://user@bank:5000",
            "http://:5000",
            "http://bank:99999",
            "http+json://bank",
            "http+json://bank:5000/tx?q",
            "http+json://bank:5000/tx#f",
            "http+json://user@bank:5000/tx",
            "http+json://bank:5000/a/../b",
            "http+json://bank:5000/a//b",
            "http+json://bank:5000/%2e",
            "https+json://bank..x:5000/tx",
            "json://bank:5000",
            "http+json+json://bank:5000",
            &format!("http://{}:1", "x".repeat(300)),
        ] {
            let error = check_endpoint(endpoint, &["*".parse().expect("a pattern")]);
            let Err(Error::Invalid(violation)) = error else { panic!("{endpoint}: {error:?}") };
            assert_eq!(violation.field, "endpoint");
        }
        for text in
            ["http://ann:secret@bank:1", "ann:secret@bank", "http+json://ann:secret@bank:1/"]
        {
            let rule = parse_endpoint(text).expect_err("a password").rule;
            assert!(
                rule.contains("without a name or a password") && !rule.contains("secret"),
                "{rule}"
            );
        }
        let rule = parse_endpoint("http+json://bank/tx").expect_err("no port").rule;
        assert!(rule.ends_with(r#", is "http+json://bank/tx""#), "{rule}");
        parse_grpc("http+json://bank:5000").expect_err("it is not called over gRPC");
        parse_grpc("http://bank:5000").expect("it is");
    }
}
