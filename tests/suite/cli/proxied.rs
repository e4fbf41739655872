//! Commands whose answers come from a proxy, or get lost in it.

use axum::response::Response;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use unanimo_tests::guard::{Called, Guard, Way, http_status, nothing_set};

use super::sagas::trip;
use super::{Ran, Served, file, run, tcc};

/// A status of a program that is no coordinator, in the coordinator's form.
fn of_domain(domain: &str, code: Code) -> Response {
    let metadata = [("effect", "none"), ("retryable", "false")];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let details = ErrorDetails::with_error_info("GID_REUSED", domain, metadata);
    Status::with_error_details(code, "a proxy's", details).into_http()
}

type Answer = fn() -> Response;

/// Answers that a coordinator never made.
const ANSWERS: &[(&str, Answer)] = &[
    ("HTTP 403", || http_status(403)),
    ("HTTP 404", || http_status(404)),
    ("HTTP 502", || http_status(502)),
    ("HTTP 503", || http_status(503)),
    ("INVALID_ARGUMENT", || Status::invalid_argument("a proxy's").into_http()),
    ("NOT_FOUND", || Status::not_found("a proxy's").into_http()),
    ("OUT_OF_RANGE", || Status::out_of_range("a proxy's").into_http()),
    ("PERMISSION_DENIED", || Status::permission_denied("a proxy's").into_http()),
    ("RESOURCE_EXHAUSTED", || Status::resource_exhausted("a proxy's").into_http()),
    ("UNAUTHENTICATED", || Status::unauthenticated("a proxy's").into_http()),
    ("UNIMPLEMENTED", || Status::unimplemented("a proxy's").into_http()),
    ("another's ALREADY_EXISTS", || of_domain("proxy", Code::AlreadyExists)),
    ("another's INVALID_ARGUMENT", || of_domain("proxy", Code::InvalidArgument)),
    ("an OK without a message", || Status::ok("").into_http()),
    ("an OK without a result", nothing_set),
];

/// S10: the command fails only where it has begun nothing. What a proxy answers, at once or after the coordinator has
/// committed, does not tell that.
#[tokio::test]
async fn s10_a_proxys_no_is_no_failure_of_a_submission() {
    let served = Served::start(&[]).await;
    for (number, (name, answer)) in ANSWERS.iter().enumerate() {
        let lost = |called: &Called| match &*called.method {
            "SubmitTransaction" => Way::After(answer()),
            _ => Way::Pass,
        };
        let guard = Guard::before(served.endpoint.clone(), lost).await;
        let at = ["--endpoint", guard.address(), "--timeout", "400ms"];
        let (path, gid) = (file(&tcc(&format!("tx-{number}"), &["ok"])), format!("saga-{number}"));
        let submit = [&["tx", "submit", &path][..], &at].concat();
        let definition = trip("ok");
        let saga = ["saga", "run", &definition, "--gid", &gid, "--set=who=a", "--set=fare=1"];
        let saga = [&saga[..], &at].concat();
        for command in [submit, saga] {
            let ran: Ran = run(&command).await;
            assert_eq!(ran.code, 5, "{name}: {}{}", ran.out, ran.err);
            ran.says(&["not decided yet"]).complains(&["no answer:"]);
        }
        for gid in [format!("tx-{number}"), gid] {
            served.show_until(&gid, name, |shown| shown["state"] == "committed").await;
        }
        // One that has never arrived is not known either.
        let stopped = |called: &Called| match &*called.method {
            "SubmitTransaction" => Way::Instead(answer()),
            _ => Way::Pass,
        };
        let guard = Guard::before(served.endpoint.clone(), stopped).await;
        let path = file(&tcc(&format!("never-{number}"), &["ok"]));
        let at = ["--endpoint", guard.address(), "--timeout", "400ms"];
        run(&[&["tx", "submit", &path][..], &at].concat()).await.check(5);
    }
    served.stop().await.check(0);
}

/// S10: a rollback whose answer got lost may have taken effect, and the command says so by its exit code.
#[tokio::test]
async fn s10_a_proxys_no_is_no_failure_of_a_rollback() {
    let served = Served::start(&[]).await;
    for (number, (name, answer)) in ANSWERS.iter().enumerate() {
        let gid = format!("g-{number}");
        served.submit(&gid, &["hang"], &["--wait", "accepted"]).await.check(0);
        let lost = |called: &Called| match &*called.method {
            "RollbackTransaction" => Way::After(answer()),
            _ => Way::Pass,
        };
        let guard = Guard::before(served.endpoint.clone(), lost).await;
        let ran: Ran = run(&["tx", "rollback", &gid, "--endpoint", guard.address()]).await;
        assert_eq!(ran.code, 5, "{name}: {}{}", ran.out, ran.err);
        ran.says(&["not decided yet"]).complains(&["no answer:"]);
        served.tx(&["rollback", &gid]).await.check(0).says(&["aborted"]);
    }
    served.stop().await.check(0);
}

/// S10: that there is no such transaction is the coordinator's to say.
#[tokio::test]
async fn s10_a_proxys_not_found_is_no_word_about_a_transaction() {
    let served = Served::start(&[]).await;
    let gid = "01a0c2d4-0000-7000-8000-000000000000";
    served.submit(gid, &["ok"], &[]).await.check(0);
    // Of a name in the form of a tx_id the gid is asked for where there is no such tx_id.
    served.tx(&["show", gid]).await.check(0);
    let lost = |called: &Called| match &*called.method {
        "GetTransaction" => Way::Instead(Status::not_found("a proxy's").into_http()),
        _ => Way::Pass,
    };
    let guard = Guard::before(served.endpoint.clone(), lost).await;
    let at = ["--endpoint", guard.address()];
    let ran = run(&[&["tx", "show", gid][..], &at].concat()).await;
    ran.check(1).complains(&["failed to get an answer from http://127.0.0.1:"]);
    assert_eq!(guard.calls().len(), 1, "it is no answer: {:?}", guard.calls());
    // A graph that cannot be drawn is told.
    let definition = trip("ok");
    let saga = ["saga", "run", &definition, "--gid=g", "--set=who=a", "--set=fare=1", "--graph"];
    run(&[&saga[..], &at].concat()).await.check(0).complains(&["no graph: "]);
    served.stop().await.check(0);
}
