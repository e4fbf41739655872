//! Statuses are bounded.

use tonic_types::StatusExt;

use super::*;
use crate::api::bounds::STATUS_BYTES_MAX;

#[test]
fn an_error_names_its_reason_its_fields_and_whether_to_retry() {
    let violations =
        vec![Violation::new("gid", "must not be empty"), Violation::new("timeout", "is odd")];
    let status = from_engine(engine::Error::Invalid(violations));
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "gid must not be empty; timeout is odd");
    let details = status.get_error_details();
    let info = details.error_info().expect("every error has it");
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("FIELD_INVALID", "unanimo"));
    assert_eq!((&*info.metadata["retryable"], &*info.metadata["effect"]), ("false", "none"));
    let fields = &details.bad_request().expect("fields").field_violations;
    assert_eq!((&*fields[1].field, &*fields[1].description), ("timeout", "is odd"));
    assert!(details.retry_info().is_none());

    let status = from_engine(engine::Error::Draining);
    let details = status.get_error_details();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(details.error_info().expect("it").metadata["retryable"], "true");
    assert!(details.retry_info().is_some());
}

/// A call is never said to have changed nothing where something may have been stored.
#[test]
fn an_error_tells_whether_its_call_may_have_changed_something() {
    let effect = |error| {
        let details = from_engine(error).get_error_details();
        details.error_info().expect("every error has it").metadata["effect"].clone()
    };
    let no_answer = || store::Error::Url(String::new());
    for error in [
        engine::Error::Store(std::sync::Arc::new(no_answer())),
        engine::Error::StoreSilent,
        engine::Error::Moving,
        engine::Error::Stopped,
        engine::Error::Refused(String::new()),
    ] {
        assert_eq!(effect(error.clone()), "unknown", "{error:?}");
    }
    for error in [
        engine::Error::Draining,
        engine::Error::UnknownGid,
        engine::Error::NeverSeen,
        Rejection::CommitReused.into(),
        Rejection::Closed.into(),
    ] {
        assert_eq!(effect(error.clone()), "none", "{error:?}");
    }
}

/// Bytes of a status as it travels.
fn wire_bytes(status: &Status) -> usize {
    let message = status.message().bytes();
    let message: usize = message.map(|b| if matches!(b, b' '..=b'~') { 1 } else { 3 }).sum();
    message + status.details().len().div_ceil(3) * 4
}

#[test]
fn a_status_is_bounded_whatever_it_is_made_of() {
    for text in ["x", "ä", "\u{1f980}", "\0"] {
        let long = text.repeat(20_000);
        let violation = |n: usize| Violation::new(format!("branches[{n}].{long}"), &*long);
        for count in [1, 3, 400] {
            let violations = (0..count).map(violation).collect();
            let status = from_engine(engine::Error::Invalid(violations));
            assert!(wire_bytes(&status) < STATUS_BYTES_MAX, "{count} of {text:?}");
            let fields = status.get_error_details().bad_request().expect("fields").clone();
            assert!(fields.field_violations[0].field.starts_with("branches[0]."));
        }
        let status = unsupported(&[&long]);
        assert!(wire_bytes(&status) < STATUS_BYTES_MAX, "a feature of {text:?}");
        let status = from_engine(engine::Error::Refused(long));
        assert!(wire_bytes(&status) < STATUS_BYTES_MAX, "an error of {text:?}");
    }
}

#[test]
fn a_status_tells_how_many_fields_are_bad() {
    let violations = (0..400).map(|n| Violation::new(format!("branches[{n}]"), "must differ"));
    let status = from_engine(engine::Error::Invalid(violations.collect()));
    assert!(status.message().starts_with("400 fields break rules: branches[0] must differ; "));
    let details = status.get_error_details();
    assert_eq!(details.error_info().expect("it").metadata["violations"], "400");
    assert!(details.bad_request().expect("fields").field_violations.len() > 10);
}
