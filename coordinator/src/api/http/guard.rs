//! Guard against web pages: a browser on this machine reaches the address, too, and must not act for a page of another
//! site.

use std::net::IpAddr;

use http::{HeaderMap, StatusCode, header};
use unanimo_core::Violation;

use crate::api::deadline;

/// Names that the host in a request may have.
#[derive(Clone, Debug)]
pub(crate) enum Hosts {
    /// Any: callers are known by an identity.
    Any,
    /// An IP address, `localhost`, and these. Another name may be a page's own, which was turned to this address (DNS
    /// rebinding).
    Own(Vec<String>),
}

impl Hosts {
    fn has(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Own(names) => {
                let name = name_of(host);
                name.eq_ignore_ascii_case("localhost")
                    || name.parse::<IpAddr>().is_ok()
                    || names.iter().any(|own| own.eq_ignore_ascii_case(name))
            }
        }
    }
}

/// Checks that no page of another site is behind a request.
pub(super) fn check(headers: &HeaderMap, hosts: &Hosts) -> Result<(), (StatusCode, &'static str)> {
    check_host(headers, hosts)?;
    check_site(headers)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// Checks that the host is not a page's own name for this address.
pub(super) fn check_host(
    headers: &HeaderMap,
    hosts: &Hosts,
) -> Result<(), (StatusCode, &'static str)> {
    match hosts.has(text(headers, header::HOST).unwrap_or("")) {
        true => Ok(()),
        false => Err((
            StatusCode::MISDIRECTED_REQUEST,
            "the host must be an IP address, localhost or one of http-hosts, as long as callers have no \
             identities",
        )),
    }
}

/// Checks that a page, if there is one behind a request, is of this address.
pub(super) fn check_site(headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let text = |name| text(headers, name);
    let host = text(header::HOST).unwrap_or("");
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    let is_other_site = site.is_some_and(|site| !["same-origin", "none"].contains(&site));
    let origin = text(header::ORIGIN);
    let is_other_origin = origin.is_some_and(|origin| {
        let (scheme, of) = origin.split_once("://").unwrap_or(("", origin));
        let port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        // A browser leaves this port out, and a proxy may write it.
        let without = |host: &'_ str| host.strip_suffix(port).unwrap_or(host).to_ascii_lowercase();
        without(of) != without(host)
    });
    if is_other_site || is_other_origin {
        return Err((
            StatusCode::FORBIDDEN,
            "the request comes from a page of another site, or through a proxy that does not pass the header host on \
             as it was",
        ));
    }
    Ok(())
}

/// Checks the time that a caller gives: one that cannot be read would be no bound, and nobody would tell.
pub(super) fn check_timeout(headers: &HeaderMap) -> Result<(), Violation> {
    let mut given = headers.get_all("grpc-timeout").iter();
    let is_good = given.next().is_none_or(|value| {
        value.to_str().ok().and_then(deadline::parse).is_some() && given.next().is_none()
    });
    let rule = "the header must be there once: up to eight digits and one of H, M, S, m, u and n, such as 10S";
    if is_good { Ok(()) } else { Err(Violation::new("grpc-timeout", rule)) }
}

/// Checks that a page of this address is behind a form: every browser says where one comes from.
pub(super) fn check_own_page(headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let is_told = headers.contains_key(header::ORIGIN)
        || headers.contains_key(header::HeaderName::from_static("sec-fetch-site"));
    match is_told {
        true => Ok(()),
        false => Err((
            StatusCode::FORBIDDEN,
            "a form needs the header origin or sec-fetch-site; programs use the API: /v1/openapi.json",
        )),
    }
}

/// Checks that a body says that it is JSON, if there is one: a form of a page cannot.
pub(super) fn check_json(headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let is_json = match headers.get(header::CONTENT_TYPE) {
        None => {
            let is_none = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
            is_none && !headers.contains_key(header::TRANSFER_ENCODING)
        }
        Some(media_type) => {
            let essence = media_type.to_str().unwrap_or("?").split(';').next().unwrap_or_default();
            essence.trim().eq_ignore_ascii_case("application/json")
        }
    };
    match is_json {
        true => Ok(()),
        false => Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body must be JSON, with the header content-type: application/json",
        )),
    }
}

/// Checks that the browser has asked before it sent what a page of another origin does: it asks for JSON, and not for a
/// form or for nothing. What it sends without asking may carry the certificate of whoever looks at the page.
pub(super) fn check_asked(headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    match headers.contains_key(header::CONTENT_TYPE) {
        true => check_json(headers),
        false => Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "a page of another origin must send the header content-type: application/json, also without a body",
        )),
    }
}

/// Returns a host without its port and its brackets.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (header::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        });
        pairs.collect()
    }

    #[test]
    fn a_body_says_that_it_is_json() {
        for (pairs, is_good) in [
            (&[][..], true),
            (&[("content-length", "0")], true),
            (&[("content-length", "2")], false),
            (&[("transfer-encoding", "chunked")], false),
            (&[("content-length", "2"), ("content-type", "application/json; charset=utf-8")], true),
            (&[("content-length", "2"), ("content-type", "text/plain")], false),
        ] {
            assert_eq!(check_json(&headers(pairs)).is_ok(), is_good, "{pairs:?}");
        }
    }

    #[test]
    fn a_timeout_that_cannot_be_read_is_refused() {
        for (pairs, is_good) in [
            (&[][..], true),
            (&[("grpc-timeout", "10S")], true),
            (&[("grpc-timeout", "10")], false),
            (&[("grpc-timeout", "10s")], false),
            (&[("grpc-timeout", "")], false),
            (&[("grpc-timeout", "5 seconds")], false),
        ] {
            assert_eq!(check_timeout(&headers(pairs)).is_ok(), is_good, "{pairs:?}");
        }
        let mut twice = headers(&[("grpc-timeout", "1S")]);
        twice.append("grpc-timeout", http::HeaderValue::from_static("2S"));
        assert!(check_timeout(&twice).is_err());
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let check = |pairs: &[(&'static str, &'static str)], by_name| {
            let hosts = match by_name {
                true => Hosts::Any,
                false => Hosts::Own(vec!["tx.own.example".to_owned()]),
            };
            check(&headers(pairs), &hosts).map_or_else(|(status, _)| status.as_u16(), |()| 200)
        };
        for (pairs, by_name, expected) in [
            (&[("host", "127.0.0.1:7611")][..], false, 200),
            (&[("host", "[::1]:7611")], false, 200),
            (&[("host", "localhost")], false, 200),
            (&[("host", "rebound.example:7611")], false, 421),
            (&[("host", "127.0.0.1.example")], false, 421),
            (&[], false, 421),
            (&[("host", "tx.shop.example")], true, 200),
            (&[("host", "TX.own.example:7611")], false, 200),
            (&[("host", "tx.own.example.evil")], false, 421),
            (&[("host", "evil.tx.own.example")], false, 421),
            (&[("host", "tx.own.example"), ("origin", "http://tx.own.example")], false, 200),
            (&[("host", "tx.own.example"), ("origin", "http://evil.example")], false, 403),
            (&[("host", "localhost:1"), ("origin", "http://localhost:1")], false, 200),
            (&[("host", "tx.own.example:443"), ("origin", "https://tx.own.example")], false, 200),
            (&[("host", "tx.own.example"), ("origin", "https://tx.own.example:443")], false, 200),
            (&[("host", "tx.own.example:80"), ("origin", "http://tx.own.example")], false, 200),
            (&[("host", "tx.own.example:443"), ("origin", "http://tx.own.example")], false, 403),
            (&[("host", "tx.own.example:80"), ("origin", "https://tx.own.example")], false, 403),
            (&[("host", "tx.own.example:8443"), ("origin", "https://tx.own.example")], false, 403),
            (&[("host", "[::1]:80"), ("origin", "http://[::1]")], false, 200),
            (&[("host", "[::80]"), ("origin", "http://[::]")], false, 403),
            (&[("host", "localhost:1"), ("origin", "http://localhost:2")], false, 403),
            (&[("host", "localhost:1"), ("origin", "null")], false, 403),
            (&[("host", "localhost:1"), ("sec-fetch-site", "cross-site")], false, 403),
            (&[("host", "localhost:1"), ("sec-fetch-site", "same-site")], true, 403),
            (&[("host", "localhost:1"), ("sec-fetch-site", "none")], false, 200),
        ] {
            assert_eq!(check(pairs, by_name), expected, "{pairs:?}");
        }
    }
}
