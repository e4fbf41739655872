//! Calls of which an attempt may have had its effect: no later refusal speaks of it.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use unanimo_proto::v1::Outcome;
use unanimo_sdk::client::{Error, NotDecided};
use unanimo_sdk::{Client, Outcome as Heard};

use super::initiator::Fake;

/// Longest wait of a call: enough for a few attempts.
const WAIT: Duration = Duration::from_secs(2);

/// Result of a call, as its caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Committed,
    NotDecided,
    Rejected,
    GidReused,
}

/// Status of a coordinator; `effect` is left out if it is empty.
fn status(code: Code, reason: &str, retryable: bool, effect: &str) -> Status {
    of_domain("unanimo", code, reason, retryable, effect)
}

fn of_domain(domain: &str, code: Code, reason: &str, retryable: bool, effect: &str) -> Status {
    let mut metadata = HashMap::from([("retryable".to_owned(), retryable.to_string())]);
    if !effect.is_empty() {
        metadata.insert("effect".to_owned(), effect.to_owned());
    }
    let details = ErrorDetails::with_error_info(reason, domain, metadata);
    Status::with_error_details(code, "no", details)
}

fn overloaded() -> Status {
    status(Code::ResourceExhausted, "OVERLOADED", true, "none")
}

/// First answers: none, one that says that nothing happened, and those that do not.
fn firsts() -> [(Option<Status>, bool); 8] {
    let moving = |effect| status(Code::Unavailable, "STORE_UNAVAILABLE", true, effect);
    [
        (None, true),
        (Some(overloaded()), true),
        (Some(moving("none")), true),
        (Some(moving("unknown")), false),
        (Some(moving("")), false),
        (Some(moving("later")), false),
        (Some(of_domain("proxy", Code::Unavailable, "BUSY", true, "none")), false),
        (Some(Status::unavailable("the connection broke")), false),
    ]
}

/// Answers to every later attempt, with the result after attempts that changed nothing, and after one
/// that may have. The last element tells whether it ends the retrying.
fn thens() -> Vec<(Status, Seen, Seen, bool)> {
    use Seen::{GidReused, NotDecided, Rejected};
    let refused = |code, reason| status(code, reason, false, "none");
    let mut thens = vec![
        (overloaded(), Rejected, NotDecided, false),
        (refused(Code::InvalidArgument, "FIELD_INVALID"), Rejected, NotDecided, true),
        (refused(Code::Unimplemented, "FEATURE_UNSUPPORTED"), Rejected, NotDecided, true),
        (refused(Code::NotFound, "TX_UNKNOWN"), Rejected, NotDecided, true),
        // It excludes every attempt: another request has the gid.
        (refused(Code::AlreadyExists, "GID_REUSED"), GidReused, GidReused, true),
        (status(Code::AlreadyExists, "GID_REUSED", false, ""), GidReused, GidReused, true),
        (status(Code::Internal, "STORE_REFUSED", false, "unknown"), NotDecided, NotDecided, true),
        (status(Code::InvalidArgument, "FIELD_INVALID", false, ""), NotDecided, NotDecided, true),
        (status(Code::Unavailable, "STOPPED", true, "unknown"), NotDecided, NotDecided, false),
        (
            of_domain("proxy", Code::PermissionDenied, "DENIED", false, "none"),
            NotDecided,
            NotDecided,
            true,
        ),
    ];
    for code in [
        Code::InvalidArgument,
        Code::NotFound,
        Code::OutOfRange,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::Unauthenticated,
        Code::Unimplemented,
    ] {
        thens.push((Status::new(code, "a proxy's"), NotDecided, NotDecided, true));
    }
    for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Internal, Code::Unknown] {
        thens.push((Status::new(code, "lost"), NotDecided, NotDecided, false));
    }
    thens
}

fn seen(heard: Result<Heard, Error>) -> Seen {
    match heard {
        Ok(Heard::Committed(_)) => Seen::Committed,
        Ok(Heard::NotDecided(NotDecided {
            error: Some(Error::Unavailable { last, .. }), ..
        })) => {
            assert!(!last.is_empty(), "the last answer is told");
            Seen::NotDecided
        }
        Err(Error::Rejected { .. }) => Seen::Rejected,
        Err(Error::GidReused { .. }) => Seen::GidReused,
        heard => panic!("{heard:?}"),
    }
}

async fn client(fake: &Fake) -> Client {
    fake.client().await.wait_at_most(WAIT)
}

/// S10: `Rejected` says that nothing has happened, so no attempt may have been indeterminate.
#[tokio::test]
async fn s10_a_refusal_does_not_speak_of_an_attempt_whose_effect_is_unknown() {
    let mut cases = tokio::task::JoinSet::new();
    for (first, nothing_happened) in firsts() {
        for (then, after_nothing, after_unknown, ends) in thens() {
            let first = first.clone();
            cases.spawn(async move {
                let case = format!("{first:?} then {then:?}");
                let fake = Fake::new(Outcome::Committed.into());
                let fake = fake.at_first(first.clone()).refusing(then);
                let expected = if nothing_happened { after_nothing } else { after_unknown };
                assert_eq!(seen(client(&fake).await.tcc("g").submit().await), expected, "{case}");
                if ends {
                    let attempts = 1 + usize::from(first.is_some());
                    assert_eq!(fake.asked().len(), attempts, "no use to repeat it: {case}");
                } else {
                    assert!(fake.asked().len() > 1, "repeated: {case}");
                }
            });
        }
        cases.spawn(async move {
            let fake = Fake::new(Outcome::Committed.into()).at_first(first);
            let heard = client(&fake).await.tcc("g").submit().await;
            assert_eq!(seen(heard), Seen::Committed, "an OK reply decides");
        });
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}

/// A call that changes nothing has no attempt that matters.
#[tokio::test]
async fn s10_a_question_is_answered_whatever_became_of_its_first_attempt() {
    let unknown = status(Code::NotFound, "GID_UNKNOWN", false, "none");
    let fake = Fake::default().at_first([Status::unavailable("lost")]).refusing(unknown.clone());
    let error = client(&fake).await.find("g").await.unwrap_err();
    assert!(matches!(error, Error::Rejected { reason, .. } if reason == "GID_UNKNOWN"));
    // What is no answer of a coordinator stays none.
    let fake = Fake::default().refusing(Status::not_found("no such route"));
    let error = client(&fake).await.find("g").await.unwrap_err();
    assert!(error.to_string().contains("NotFound: no such route"), "{error}");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    // The same refusal of a call that changes something.
    let fake = Fake::default().at_first([Status::unavailable("lost")]).refusing(unknown);
    let error = client(&fake).await.tcc("g").begin().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}
