//! Guard against web pages: a browser on this machine reaches the address, too, and must not act for a page of another
//! site.

use std::net::IpAddr;

use http::{HeaderMap, StatusCode, header};

/// Checks that no page of another site is behind a request. Where `by_name` is false nobody is known by an identity, and
/// a name of the host proves nothing: it may be a page's own, which was turned to this address (DNS rebinding).
pub(super) fn check(headers: &HeaderMap, by_name: bool) -> Result<(), (StatusCode, &'static str)> {
    let text =
        |name| headers.get(name).map(|value: &http::HeaderValue| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or("");
    if !by_name && !is_plain(host) {
        let why =
            "the host must be an IP address or localhost, as long as callers have no identities";
        return Err((StatusCode::MISDIRECTED_REQUEST, why));
    }
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    let is_other_site = site.is_some_and(|site| !["same-origin", "none"].contains(&site));
    let origin = text(header::ORIGIN);
    let is_other_origin = origin.is_some_and(|origin| {
        let of = origin.split_once("://").map_or(origin, |(_, of)| of);
        !of.eq_ignore_ascii_case(host)
    });
    if is_other_site || is_other_origin {
        return Err((StatusCode::FORBIDDEN, "the request comes from a page of another site"));
    }
    Ok(())
}

/// Checks that a body says that it is JSON: a form of a page cannot.
pub(super) fn check_json(headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let Some(media_type) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = media_type.to_str().unwrap_or("?").split(';').next().unwrap_or_default();
    match essence.trim().eq_ignore_ascii_case("application/json") {
        true => Ok(()),
        false => Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body must be JSON, with the header content-type: application/json",
        )),
    }
}

fn is_plain(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_sites_are_refused() {
        let check = |pairs: &[(&'static str, &'static str)], by_name| {
            let headers = pairs.iter().map(|(name, value)| {
                (header::HeaderName::from_static(name), http::HeaderValue::from_static(value))
            });
            check(&headers.collect(), by_name).map_or_else(|(status, _)| status.as_u16(), |()| 200)
        };
        for (pairs, by_name, expected) in [
            (&[("host", "127.0.0.1:7611")][..], false, 200),
            (&[("host", "[::1]:7611")], false, 200),
            (&[("host", "localhost")], false, 200),
            (&[("host", "rebound.example:7611")], false, 421),
            (&[("host", "127.0.0.1.example")], false, 421),
            (&[], false, 421),
            (&[("host", "tx.shop.example")], true, 200),
            (&[("host", "localhost:1"), ("origin", "http://localhost:1")], false, 200),
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
