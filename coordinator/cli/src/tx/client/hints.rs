//! Hints: what to do about an error of a call.

use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt};
use unanimo_coordinator::participants::allow::parse_grpc;

use super::{cause, own};
use crate::output::clean;

/// Hint where a connection was made and no answer came.
const BROKEN: &str = "is this the address of HTTP (`admin-listen`, port 7611)? gRPC is at `listen`, by default port \
    7610; or the connection broke, or the coordinator wants TLS (a URL that begins with https://) or a certificate \
    (--tls-cert and --tls-key); the request may have taken effect or not, and it is safe to run the same command again";

const EXPIRED: &str = "the coordinator needs a new certificate, or a clock is wrong";

/// Ways in which TLS fails, by a part of the cause's text, and what mends each.
const TLS_HINTS: &[(&str, &str)] = &[
    (
        "UnknownIssuer",
        "the coordinator's certificate is of another authority: --tls-ca names the file of the right one",
    ),
    (
        // An authority of the same name.
        "BadSignature",
        "the coordinator's certificate is of another authority: --tls-ca names the file of the right one",
    ),
    ("not valid for name", "--tls-name gives the name that is in the coordinator's certificate"),
    ("certificate expired", EXPIRED),
    ("CertificateExpired", EXPIRED),
    ("CertExpired", EXPIRED),
    ("InvalidContentType", "nothing speaks TLS there: does the endpoint begin with http://?"),
    ("NoApplicationProtocol", "no gRPC is spoken there: is it the address for health and metrics?"),
    (
        "frame with invalid size",
        "TLS may be spoken there: it needs a URL that begins with https://",
    ),
    ("CertificateRequired", "the coordinator asks for a certificate: --tls-cert and --tls-key"),
];

/// Returns a hint for a connection that was made, and on which TLS has failed.
fn tls_hint(why: &str) -> Option<&'static str> {
    TLS_HINTS.iter().find(|(part, _)| why.contains(part)).map(|(_, hint)| *hint)
}

/// Returns the hint where nobody listens.
pub(super) fn of_unreachable(endpoint: &str, why: &str) -> String {
    if let Some(hint) = tls_hint(why) {
        return hint.to_owned();
    }
    let (scheme, host) = match parse_grpc(endpoint) {
        Ok(at) => (if at.tls { "https" } else { "http" }, at.host),
        Err(_) => ("http", "HOST".to_owned()),
    };
    format!(
        "does `unanimo serve` run there? --endpoint URL or UNANIMO_ENDPOINT names another address; a standby refuses \
         calls until it serves: `curl {scheme}://{host}:7611/readyz` tells"
    )
}

/// Returns the hint for a coordinator's reason that stays the same however often the request is sent.
fn of_reason(info: &ErrorInfo) -> Option<String> {
    let told = |key: &str| info.metadata.get(key).map(|value| clean(value));
    let text = match info.reason.as_str() {
        "GID_REUSED" => {
            let name = told("tx_id").unwrap_or_else(|| "GID".to_owned());
            return Some(format!(
                "`unanimo tx show {name}` shows the other one; for other work choose another gid"
            ));
        }
        "PARTICIPANT_UNKNOWN" => "`unanimo participant list` shows who has registered",
        "NO_HISTORY" => "the setting `history` says which are recorded: by default sagas",
        "REVISION_UNKNOWN" => "begin with `--from 0`",
        "DENIED" => {
            let words = |roles| {
                format!(
                    "let the file of identities give it a role for this call ({roles}), or call as one that has it"
                )
            };
            return told("roles").map(words);
        }
        _ => return None,
    };
    Some(text.to_owned())
}

/// Returns the hint for an answer.
pub(super) fn of_status(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    let retryable =
        |info: &ErrorInfo| info.metadata.get("retryable").is_some_and(|value| value == "true");
    if own(&details).is_some_and(retryable) {
        let delay = details.retry_info().and_then(|info| info.retry_delay);
        let when = delay.map_or_else(String::new, |delay| format!(" in {delay:?}"));
        return Some(format!("run the same command again{when}; it takes effect only once"));
    }
    match status.code() {
        _ if let Some(info) = own(&details) => of_reason(info),
        // The server tells of a missing certificate behind its own handshake, or closes the connection.
        _ if let Some(hint) = tls_hint(&cause(status)) => Some(hint.to_owned()),
        Code::Unavailable | Code::Unknown => Some(BROKEN.to_owned()),
        Code::Cancelled if cause(status) == "connection closed" => Some(BROKEN.to_owned()),
        Code::Cancelled | Code::DeadlineExceeded => {
            Some(
                "--timeout sets a longer wait; the request may still take effect, and it is safe to run \
                 the same command again"
                    .to_owned(),
            )
        }
        Code::Unimplemented => Some(
            "the endpoint is no coordinator of this version, or it is its address of HTTP (gRPC is at `listen`, by \
             default port 7610), or a proxy answers for it"
                .to_owned(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;
    use unanimo_coordinator::api::error::DOMAIN;

    use super::*;
    use crate::tx::client::Error;

    fn hint(reason: &str, metadata: &[(&str, &str)]) -> Option<String> {
        let all = [("retryable", "false"), ("effect", "none")].iter().chain(metadata);
        let metadata: HashMap<String, String> =
            all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        of_status(&Status::with_error_details(Code::FailedPrecondition, "no", details))
    }

    #[test]
    fn a_reason_that_stays_has_its_hint() {
        let told = |reason| hint(reason, &[]).unwrap_or_default();
        assert_eq!(
            told("GID_REUSED"),
            "`unanimo tx show GID` shows the other one; for other work choose another gid"
        );
        assert!(hint("GID_REUSED", &[("tx_id", "T")]).is_some_and(|told| told.contains("show T`")));
        assert_eq!(
            told("PARTICIPANT_UNKNOWN"),
            "`unanimo participant list` shows who has registered"
        );
        assert_eq!(
            told("NO_HISTORY"),
            "the setting `history` says which are recorded: by default sagas"
        );
        assert_eq!(told("REVISION_UNKNOWN"), "begin with `--from 0`");
        let roles = [("roles", "operator or viewer")];
        assert_eq!(
            hint("DENIED", &roles).as_deref(),
            Some(
                "let the file of identities give it a role for this call (operator or viewer), or call as one that has it"
            )
        );
        // A role does not help it.
        assert_eq!(hint("DENIED", &[]), None);
        assert_eq!(hint("NOTHING_TO_FORGET", &[]), None);
    }

    #[test]
    fn the_likely_slips_are_told_first() {
        let reset = of_status(&Status::unknown("connection reset")).unwrap_or_default();
        let first =
            "is this the address of HTTP (`admin-listen`, port 7611)? gRPC is at `listen`, ";
        assert!(reset.starts_with(first), "{reset}");
        let refused = of_unreachable("http://10.0.0.7:7610", "Connection refused");
        assert!(refused.contains("`curl http://10.0.0.7:7611/readyz` tells"), "{refused}");
        let refused = of_unreachable("https://[::1]:7610", "Connection refused");
        assert!(refused.contains("`curl https://[::1]:7611/readyz` tells"), "{refused}");
        let broken = of_unreachable("http://10.0.0.7:7610", "received UnknownIssuer");
        assert!(broken.contains("--tls-ca"), "{broken}");
    }

    fn refused(fields: &[(&str, &str)], message: &str) -> Error {
        let metadata = HashMap::from([("retryable".to_owned(), "false".to_owned())]);
        let mut details = ErrorDetails::with_error_info("FIELD_INVALID", DOMAIN, metadata);
        for (field, rule) in fields {
            details.add_bad_request_violation(*field, *rule);
        }
        Status::with_error_details(Code::InvalidArgument, message, details).into()
    }

    #[test]
    fn fields_are_told_once_and_by_the_names_of_the_file() {
        let one = [("branches[1].participant", "must be known")];
        let error = refused(&one, "branches[1].participant must be known");
        let reason = "\n  reason: FIELD_INVALID (INVALID_ARGUMENT)";
        assert_eq!(error.to_string(), format!("branches[1].participant must be known{reason}"));
        let steps = ["hotel", "flight"].map(str::to_owned);
        let error = error.of_steps(&steps);
        assert_eq!(error.to_string(), format!("steps.flight.participant must be known{reason}"));
        let two = [("branches[0].x", "is 1"), ("branches[1].branches[0].y", "is 2")];
        let error = refused(&two, "branches[0].x is 1; branches[1].branches[0].y is 2");
        assert_eq!(
            error.of_steps(&steps).to_string(),
            format!(
                "2 fields break rules{reason}\n  steps.hotel.x: is 1\n  steps.flight.branches[0].y: is 2"
            )
        );
        // A message that says more stays.
        let error = refused(&one, "it is late").of_steps(&steps).to_string();
        assert_eq!(error, format!("it is late{reason}\n  steps.flight.participant: must be known"));
    }
}
