//! The other end of a connection.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

/// The other end of a connection that was accepted. tonic puts it into each request's extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its address, if the system knows it.
    pub address: Option<SocketAddr>,
    /// Names in its certificate, which an accepted authority has signed: URIs (such as SPIFFE ids) first, then
    /// DNS names, each as it is. `None` if it showed no certificate.
    ///
    /// A URI has a colon behind its scheme, and a DNS name has none, so that a text is a name of one kind alone. A URI
    /// without a scheme, which RFC 5280 forbids, is left out: it could be another one's DNS name.
    pub names: Option<Arc<[String]>>,
}

impl Peer {
    /// Makes the peer of a certificate in DER that somebody else has **verified**, such as the TLS of tonic's own
    /// server: put it into the extensions of each request.
    #[must_use]
    pub fn of_verified_certificate(address: Option<SocketAddr>, certificate: &[u8]) -> Self {
        Self { address, names: Some(names(&CertificateDer::from_slice(certificate))) }
    }
}

/// Returns the names in a certificate.
pub(crate) fn names(certificate: &CertificateDer<'_>) -> Arc<[String]> {
    // It was verified, so it can be read.
    let Ok(parsed) = EndEntityCert::try_from(certificate) else { return Arc::default() };
    let uris = parsed.valid_uri_names().filter(|name| has_scheme(name));
    let dns_names = parsed.valid_dns_names().filter(|name| !name.contains(':'));
    uris.chain(dns_names).map(str::to_owned).collect()
}

/// Returns the end of a certificate's time.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    // The library tells it only to who asks for a later time. That is looked at before all else.
    let later = UnixTime::since_unix_epoch(Duration::MAX);
    let usage = KeyUsage::client_auth();
    match parsed.verify_for_usage(&[], &[], &[], later, usage, None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(not_after.as_secs()))
        }
        _ => None,
    }
}

/// Returns the reason for which a certificate is not good at this time.
pub(crate) fn out_of_time(
    certificate: &CertificateDer<'_>,
    now: SystemTime,
) -> Option<&'static str> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).ok()?);
    // The time is looked at before all else, and whatever is said of the rest.
    match parsed.verify_for_usage(&[], &[], &[], now, KeyUsage::client_auth(), None, None) {
        Err(webpki::Error::CertExpired { .. }) => Some("has expired"),
        Err(webpki::Error::CertNotValidYet { .. }) => Some("is not valid yet"),
        _ => None,
    }
}

/// Returns what stands for a caller that has no name: its address, and of IPv6 the network, in which a host has all
/// addresses.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Tells whether a certificate can have this name: a URI with its scheme, or a DNS name. A distinguished name (`CN=…`), an
/// address of IP or of mail is none of the names that are compared.
#[must_use]
pub fn is_subject(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte);
        !label.is_empty() && label.bytes().all(is_good)
    };
    match text.contains(':') {
        true => has_scheme(text) && text.bytes().all(|byte| byte.is_ascii_graphic()),
        false => text.parse::<IpAddr>().is_err() && text.split('.').all(is_label),
    }
}

/// Tells whether a text begins with a scheme and its colon (RFC 3986).
fn has_scheme(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once(':') else { return false };
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    #[test]
    fn a_subject_is_a_name_that_is_compared() {
        for good in ["spiffe://shop.example/web", "urn:x:y", "shop.example", "web", "*.a_b.c-d"] {
            assert!(is_subject(good), "{good}");
        }
        for bad in [
            "",
            "CN=web",
            "CN=web,O=x",
            "web@shop.example",
            "10.0.0.1",
            "::1",
            "//shop.example/web",
            "spiffe://shop.example/a b",
            "a..b",
            "web ",
        ] {
            assert!(!is_subject(bad), "{bad}");
        }
    }

    #[test]
    fn the_end_of_a_certificate_is_known() {
        for (year, seconds) in [(2030, 1_893_456_000), (2080, 3_471_292_800)] {
            let mut params = CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = KeyPair::generate().expect("a key");
            let certificate = params.self_signed(&key).expect("a certificate");
            let end = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(not_after(certificate.der()), Some(end), "{year}");
        }
    }

    #[test]
    fn a_certificate_is_good_in_its_time() {
        for is_ca in [rcgen::IsCa::NoCa, rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)] {
            let mut params = CertificateParams::default();
            params.not_before = rcgen::date_time_ymd(2030, 1, 1);
            params.not_after = rcgen::date_time_ymd(2080, 1, 1);
            params.is_ca = is_ca;
            let key = KeyPair::generate().expect("a key");
            let certificate = params.self_signed(&key).expect("a certificate");
            for (seconds, expected) in [
                (1_893_455_999, Some("is not valid yet")),
                (1_893_456_000, None),
                (3_471_292_800, None),
                (3_471_292_801, Some("has expired")),
            ] {
                let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
                assert_eq!(out_of_time(certificate.der(), now), expected, "{seconds}");
            }
        }
    }

    #[test]
    fn a_uri_is_never_taken_for_a_dns_name() {
        let mut params = CertificateParams::default();
        let uri = |text: &str| SanType::URI(text.to_owned().try_into().expect("ASCII"));
        let dns = |text: &str| SanType::DnsName(text.to_owned().try_into().expect("ASCII"));
        params.subject_alt_names = vec![
            dns("shop.example"),
            uri("bank.example"),
            uri("spiffe://shop.example/web"),
            uri("//bank.example"),
            uri(":bank"),
            dns("spiffe://shop.example/bank"),
            uri("urn:uuid:7"),
        ];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let peer = Peer::of_verified_certificate(None, certificate.der());
        let names = peer.names.expect("names");
        assert_eq!(*names, ["spiffe://shop.example/web", "urn:uuid:7", "shop.example"]);
    }
}
