//! Addresses of what is asked for.

use http::Uri;
use unanimo_tls::{is_loopback, is_server_name};

/// Most bytes of an address.
const URL_BYTES_MAX: usize = 2048;

/// Servers that may be asked without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    /// Those of this machine.
    Loopback,
    /// All.
    Anywhere,
}

/// Reads an address.
///
/// # Errors
/// The rule that it breaks. The address is not repeated, which may have a password.
pub(crate) fn parse_url(text: &str, plain: Plain) -> Result<Uri, &'static str> {
    const RULE: &str = "must be https://HOST/PATH, or http://HOST/PATH";
    if text.len() > URL_BYTES_MAX {
        return Err("must have at most 2048 bytes");
    }
    let uri: Uri = text.parse().map_err(|_| RULE)?;
    let authority = uri.authority().ok_or(RULE)?;
    if authority.as_str().contains('@') {
        return Err("must have no name and no password before its host");
    }
    // A port that is none would be taken for the usual one.
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    if !is_server_name(authority.host()) || (!port.is_empty() && authority.port_u16().is_none()) {
        return Err(RULE);
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if plain == Plain::Anywhere || is_loopback(authority.host()) => Ok(uri),
        Some("http") => {
            Err("must begin with https://, because it is on another machine, unless the setting \
                             insecure allows it")
        }
        _ => Err(RULE),
    }
}

/// Returns an address as it may be told: without what follows a `?`, which may be a secret.
pub(crate) fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_tls_or_is_of_this_machine() {
        for good in [
            "https://login.example/keys?v=2",
            "http://127.0.0.1:8/keys",
            "http://[::1]:8/",
            "http://localhost/k",
        ] {
            parse_url(good, Plain::Loopback).expect(good);
        }
        let plain = "http://login.example/keys";
        assert!(
            parse_url(plain, Plain::Loopback)
                .expect_err("no URL")
                .starts_with("must begin with https://")
        );
        parse_url(plain, Plain::Anywhere).expect("insecure");
        let long = format!("https://login.example/{}", "k".repeat(URL_BYTES_MAX));
        for bad in [
            "",
            "login.example/keys",
            "/keys",
            "ftp://login.example/keys",
            "https:///keys",
            "https://me:secret@login.example/",
            "https://a b/",
            "https://login.example:99999/",
            "https://login.example:/",
            &long,
        ] {
            let rule = parse_url(bad, Plain::Anywhere).expect_err(bad);
            assert!(rule.starts_with("must ") && !rule.contains("secret"), "{bad}: {rule}");
        }
    }
}
