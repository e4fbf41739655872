//! Calls of which an attempt may have had its effect: no later refusal speaks of it.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use unanimo_proto::v1::Outcome;
use unanimo_sdk::client::{Error, NotDecided};
use unanimo_sdk::{Client, Outcome as Heard};
use unanimo_testing::Coordinator;
use unanimo_tests::guard::{Called, Guard, Way, http_status, nothing_set};

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
pub(super) fn status(code: Code, reason: &str, retryable: bool, effect: &str) -> Status {
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
    // Of too many at once the last attempts are cut off by the end of the wait, and nobody knows what became of them.
    let turns = std::sync::Arc::new(tokio::sync::Semaphore::new(16));
    for (first, nothing_happened) in firsts() {
        for (then, after_nothing, after_unknown, ends) in thens() {
            let (first, turns) = (first.clone(), std::sync::Arc::clone(&turns));
            cases.spawn(async move {
                let _turn = turns.acquire_owned().await.unwrap();
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

/// An answer that a coordinator never made.
type Answer = fn() -> axum::response::Response;

/// S10: an answer that is not the coordinator's tells nothing, be it the first one of the call or not, and so does an OK
/// reply in which nothing is set. Everything has happened behind it.
#[tokio::test]
async fn s10_an_answer_that_is_no_coordinators_tells_nothing_of_any_call() {
    let coordinator = Coordinator::start().await.unwrap();
    let known = coordinator.client().unwrap();
    let answers: [(&str, Answer); 6] = [
        ("HTTP 403", || http_status(403)),
        ("HTTP 404", || http_status(404)),
        ("HTTP 503", || http_status(503)),
        ("NOT_FOUND", || Status::not_found("no such route").into_http()),
        ("PERMISSION_DENIED", || Status::permission_denied("not you").into_http()),
        ("nothing set", nothing_set),
    ];
    for (number, (name, answer)) in answers.into_iter().enumerate() {
        let lost = move |called: &Called| match &*called.method {
            "GetServerInfo" => Way::Pass,
            _ => Way::After(answer()),
        };
        let guard = Guard::before(coordinator.endpoint(), lost).await;
        // One node, and two that are asked one after the other.
        for nodes in [1, 2] {
            let client = Client::of(vec![guard.address(); nodes]).unwrap();
            let client = client.wait_at_most(Duration::from_millis(300));
            let gid = |what: &str| format!("{what}-{number}-{nodes}");
            // Nobody can be reserved: it is aborted, and that is not heard.
            let heard = client.tcc(gid("submit")).submit().await;
            let not_decided = |heard: Result<Heard, Error>| match heard {
                Ok(Heard::NotDecided(_)) => {}
                heard => panic!("{name}: {heard:?}"),
            };
            not_decided(heard);
            not_decided(client.rollback(gid("rollback")).await);
            let begun = client.tcc(gid("begin")).begin().await.unwrap_err();
            let says_nothing = matches!(begun, Error::Unavailable { .. } | Error::Answer(_));
            assert!(says_nothing, "{name}: {begun:?}");
            let Ok(Heard::NotDecided(found)) = known.find(gid("begin")).await else {
                panic!("{name}: it has begun")
            };
            assert!(found.tx_id.is_some(), "{name}: it has begun");
            // Of a question only the coordinator's answer counts.
            match client.find(gid("rollback")).await {
                Ok(Heard::NotDecided(_)) | Err(Error::Unavailable { .. }) => {}
                heard => panic!("{name}: {heard:?}"),
            }
            assert!(known.find(gid("rollback")).await.unwrap().is_aborted(), "{name}");
        }
    }
    coordinator.stop().await.unwrap();
}

/// S10: the same of a transaction that is driven step by step: what has happened behind a proxy's no is not told as if it
/// had not.
#[tokio::test]
async fn s10_a_proxys_no_to_a_commit_is_not_decided() {
    let coordinator = Coordinator::start().await.unwrap();
    let answers: [Answer; 4] = [
        || http_status(404),
        || Status::not_found("no such route").into_http(),
        || Status::unimplemented("no such method").into_http(),
        nothing_set,
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let lost = move |called: &Called| match &*called.method {
            "CommitTransaction" | "RollbackTransaction" => Way::After(answer()),
            _ => Way::Pass,
        };
        let guard = Guard::before(coordinator.endpoint(), lost).await;
        let client = Client::new(guard.address()).unwrap().wait_at_most(Duration::from_millis(300));
        for (commits, gid) in [(true, format!("c-{number}")), (false, format!("r-{number}"))] {
            let tx = client.tcc(&gid).begin().await.unwrap();
            let heard = if commits { tx.commit().await } else { tx.rollback().await };
            let Ok(Heard::NotDecided(not_decided)) = heard else { panic!("{heard:?}") };
            assert_eq!(not_decided.tx_id.as_deref(), Some(tx.tx_id()));
            let known = coordinator.client().unwrap().find(&gid).await.unwrap();
            assert_eq!(known.is_committed(), commits, "{known:?}");
        }
    }
    coordinator.stop().await.unwrap();
}

/// S10: a begin whose branch a proxy keeps from the coordinator is rolled back: a further attempt would be kept from it,
/// too, and nobody has a handle of the transaction.
#[tokio::test]
async fn s10_a_begin_whose_branch_a_proxy_forbids_is_rolled_back() {
    let coordinator = Coordinator::start().await.unwrap();
    let forbidden = |called: &Called| match &*called.method {
        "ExecuteBranch" => Way::Instead(Status::permission_denied("not you").into_http()),
        _ => Way::Pass,
    };
    let guard = Guard::before(coordinator.endpoint(), forbidden).await;
    let client = Client::new(guard.address()).unwrap();
    let begun = client.tcc("g").branch("b", "p", "a", ()).begin().await.unwrap_err();
    let Error::NotExecuted { outcome, error, .. } = begun else { panic!("{begun:?}") };
    assert_eq!(outcome, Outcome::Aborted);
    assert!(matches!(*error, Error::Unavailable { retryable: false, .. }), "{error:?}");
    assert!(coordinator.client().unwrap().find("g").await.unwrap().is_aborted());
    coordinator.stop().await.unwrap();
}
