//! Errors over HTTP: problem details (RFC 9457).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::answer::guarded;
use crate::api::error::{TABLE, code_name};

/// Page with the reasons.
const PAGE: &str = "https://github.com/unanimo-tx/unanimo/blob/main/docs/reference/errors.md";

/// Status of HTTP for each code of gRPC, by the mapping of `google.rpc.Code`.
const STATUSES: &[(Code, u16)] = &[
    (Code::Ok, 200),
    (Code::Cancelled, 499),
    (Code::Unknown, 500),
    (Code::InvalidArgument, 400),
    (Code::DeadlineExceeded, 504),
    (Code::NotFound, 404),
    (Code::AlreadyExists, 409),
    (Code::PermissionDenied, 403),
    (Code::Unauthenticated, 401),
    (Code::ResourceExhausted, 429),
    (Code::FailedPrecondition, 400),
    (Code::Aborted, 409),
    (Code::OutOfRange, 400),
    (Code::Unimplemented, 501),
    (Code::Internal, 500),
    (Code::Unavailable, 503),
    (Code::DataLoss, 500),
];

/// Returns the status of HTTP for a code of gRPC.
pub(super) fn http_status(code: Code) -> StatusCode {
    let found = STATUSES.iter().find(|(of, _)| *of == code);
    let status = found.and_then(|(_, status)| StatusCode::from_u16(*status).ok());
    status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Returns the problem details of a status.
pub(super) fn of(status: &Status) -> Value {
    let details = status.get_error_details();
    let http = http_status(status.code());
    let mut problem = json!({
        // What has this type is titled as its status is.
        "type": "about:blank",
        "title": http.canonical_reason().unwrap_or(code_name(status.code())),
        "status": http.as_u16(),
        "detail": status.message(),
        "code": code_name(status.code()),
    });
    if let Some(info) = details.error_info() {
        problem["type"] = format!("{PAGE}#{}", info.reason.to_lowercase()).into();
        problem["title"] = title(&info.reason).into();
        problem["reason"] = info.reason.clone().into();
        let mut metadata: serde_json::Map<_, _> =
            info.metadata.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        problem["retryable"] = (metadata.remove("retryable") == Some(json!("true"))).into();
        problem["effect"] = metadata.remove("effect").unwrap_or_else(|| json!("unknown"));
        if !metadata.is_empty() {
            problem["metadata"] = metadata.into();
        }
    }
    if let Some(bad) = details.bad_request().filter(|bad| !bad.field_violations.is_empty()) {
        let violations = bad.field_violations.iter();
        let violations = violations.map(|bad| json!({"field": bad.field, "rule": bad.description}));
        problem["violations"] = violations.collect();
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        problem["retryAfterMs"] = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).into();
    }
    problem
}

/// Returns the first sentence of what a reason means.
fn title(reason: &str) -> String {
    let described = TABLE.iter().find(|described| described.name == reason);
    let help = described.map_or(reason, |described| described.help);
    plain(help.split_inclusive(". ").next().unwrap_or(help).trim_end())
}

/// Returns a text of Markdown without its links and marks of code: `[text](address)` is `text`.
pub(crate) fn plain(markdown: &str) -> String {
    let mut plain = String::new();
    let mut rest = markdown;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((text, beyond)) = after.split_once("](") else { break };
        let Some((_, left)) = beyond.split_once(')') else { break };
        plain.extend([before, text]);
        rest = left;
    }
    plain += rest;
    plain.replace('`', "")
}

/// Makes the response of a status.
pub(super) fn response<B: From<Bytes>>(status: &Status) -> Response<B> {
    let mut response = made(http_status(status.code()), &of(status));
    let headers = response.headers_mut();
    if status.code() == Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(delay) = status.get_error_details().retry_info().and_then(|info| info.retry_delay) {
        // Whole seconds; the body has them exactly.
        let secs = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, secs.into());
    }
    response
}

/// Makes the response of what HTTP itself refuses.
pub(super) fn refusal<B: From<Bytes>>(status: StatusCode, detail: &str) -> Response<B> {
    made(status, &refused(status, detail))
}

/// Returns the problem details of what HTTP itself refuses.
pub(super) fn refused(status: StatusCode, detail: &str) -> Value {
    json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
    })
}

fn made<B: From<Bytes>>(status: StatusCode, problem: &Value) -> Response<B> {
    let mut response = Response::new(B::from(Bytes::from(problem.to_string())));
    *response.status_mut() = status;
    let media_type = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    guarded(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_plain_text() {
        assert_eq!(plain("a [b](c.md#d) and `E` [f](g)."), "a b and E f.");
        for reason in TABLE {
            let title = title(reason.name);
            assert!(!title.contains(['`', '[', ']']) && !title.contains("]("), "{title}");
        }
    }

    /// RFC 9457, section 4.2.1.
    #[test]
    fn a_problem_of_no_type_is_titled_as_its_status_is() {
        let of = |code| of(&Status::new(code, "why"));
        for (code, title) in [
            (Code::Internal, "Internal Server Error"),
            (Code::Unimplemented, "Not Implemented"),
            (Code::Cancelled, "CANCELLED"),
        ] {
            let problem = of(code);
            assert_eq!(
                (&problem["type"], &problem["title"], &problem["detail"]),
                (&json!("about:blank"), &json!(title), &json!("why"))
            );
        }
    }

    #[test]
    fn every_code_has_its_status() {
        for code in (0..=16).map(Code::from) {
            assert!(STATUSES.iter().any(|(of, _)| *of == code), "{code:?}");
        }
        assert_eq!(http_status(Code::FailedPrecondition), StatusCode::BAD_REQUEST);
        assert_eq!(http_status(Code::Cancelled).as_u16(), 499);
    }
}
