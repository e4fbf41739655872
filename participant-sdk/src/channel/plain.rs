//! Calls that can be read on the way: those to another machine without TLS.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tonic::{Code, Request, Status};

use super::{BadAddress, is_address};
use crate::status::status;

/// Most addresses that are remembered as told: more than a program has coordinators.
const TOLD_MAX: usize = 64;

/// Addresses about which the log has its warning.
static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Tells whether calls to this address can be read on the way.
pub(super) fn is_open(endpoint: &str) -> Result<bool, BadAddress> {
    let tls = is_address(endpoint)?;
    let uri: Option<http::Uri> = endpoint.parse().ok();
    let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
    Ok(!tls && !unanimo_tls::is_loopback(host))
}

/// Makes the error of a token that would go to such an address.
pub(super) fn bad(endpoint: &str) -> BadAddress {
    BadAddress { endpoint: endpoint.to_owned(), rule: rule() }
}

/// Refuses a call that has a token.
pub(super) fn check(endpoint: &str, call: Request<()>) -> Result<Request<()>, Status> {
    match call.metadata().contains_key("authorization") {
        // A code that is not tried again: it stays so until somebody mends it.
        true => Err(status(Code::Unauthenticated, &format!("{endpoint}: {}", rule()))),
        false => Ok(call),
    }
}

fn rule() -> String {
    "a token is sent to it, so it must be https, or this machine's loopback, unless Coordinator::insecure \
     allows others to read it"
        .to_owned()
}

/// Tells once that calls to this address can be read on the way.
pub(super) fn tell(endpoint: &str) {
    if is_news(&mut TOLD.lock().unwrap_or_else(PoisonError::into_inner), endpoint) {
        tracing::warn!(
            endpoint,
            "the coordinator is on another machine, and is called without TLS: whoever is on the way can read and \
             change calls and answers; use https, or Coordinator::insecure where the network itself encrypts"
        );
    }
}

fn is_news(told: &mut BTreeSet<String>, endpoint: &str) -> bool {
    told.len() < TOLD_MAX && told.insert(endpoint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_machine_without_tls_is_open() {
        for open in ["http://c:1", "http://10.0.0.1:1", "http://localhost.x:1", "HTTP://c"] {
            assert!(is_open(open).expect(open), "{open}");
        }
        for closed in [
            "https://c:1",
            "HTTPS://c:1",
            "http://127.0.0.2:1",
            "http://[::1]:1",
            "http://LOCALHOST:1",
        ] {
            assert!(!is_open(closed).expect(closed), "{closed}");
        }
    }

    #[test]
    fn each_address_is_told_once_and_not_without_end() {
        let mut told = BTreeSet::new();
        assert!(is_news(&mut told, "http://c:0") && !is_news(&mut told, "http://c:0"));
        let more = (1..1000).filter(|n| is_news(&mut told, &format!("http://c:{n}")));
        assert_eq!(more.count(), TOLD_MAX - 1);
    }
}
