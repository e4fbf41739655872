use super::*;
use crate::v1::{HeuristicKind, commit_response, prepare_response};

fn response(status: u16, content_type: &str, body: &str) -> http::Response<Bytes> {
    let mut response = http::Response::new(Bytes::copy_from_slice(body.as_bytes()));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    if !content_type.is_empty() {
        let value = HeaderValue::from_str(content_type).expect("a value");
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

const JSON: &str = "application/json";

fn vote(body: &str) -> Result<Option<prepare_response::Answer>, Status> {
    answer::<PrepareRequest>(&response(200, JSON, body)).map(|response| response.answer)
}

fn end(body: &str) -> Result<Option<commit_response::Answer>, Status> {
    answer::<CommitRequest>(&response(200, JSON, body)).map(|response| response.answer)
}

#[test]
fn endpoints_of_this_form_have_a_base() {
    for (endpoint, expected) in [
        ("http+json://shop:80", Some("http://shop:80")),
        ("https+json://shop:443/tx/", Some("https://shop:443/tx")),
        ("HTTP+JSON://shop:80/a/b", Some("http://shop:80/a/b")),
        ("http://shop:80", None),
        ("https://shop:80/+json://", None),
        ("ftp+json://shop:80", None),
        ("+json://shop:80", None),
        ("shop:80", None),
    ] {
        assert_eq!(base(endpoint).as_deref(), expected, "{endpoint}");
    }
}

#[test]
fn a_call_is_a_post_with_the_headers_of_grpc() {
    let mut call = tonic::Request::new(CommitRequest { attempt: 3, ..Default::default() });
    call.set_timeout(Duration::from_millis(2500));
    let metadata = call.metadata_mut();
    metadata.insert("traceparent", "00-1-2-01".parse().expect("a value"));
    metadata.insert("authorization", "Bearer t".parse().expect("a value"));
    metadata.insert("other", "x".parse().expect("a value"));
    let request = request("http://shop:80/tx", call).expect("an address");
    assert_eq!(
        (request.method(), request.uri().to_string().as_str()),
        (&Method::POST, "http://shop:80/tx/commit")
    );
    let header =
        |name: &str| request.headers().get(name).map(|value| value.to_str().expect("ASCII"));
    assert_eq!(header(TIMEOUT_HEADER), Some("2500"));
    assert_eq!(header("traceparent"), Some("00-1-2-01"));
    assert_eq!(header("authorization"), Some("Bearer t"));
    assert_eq!((header("other"), header("grpc-timeout")), (None, None));
    assert_eq!(request.body(), &Bytes::from_static(br#"{"attempt":3}"#));
}

#[test]
fn a_timeout_is_read_in_each_unit() {
    for (text, expected) in [
        ("2H", Some(Duration::from_secs(7200))),
        ("2M", Some(Duration::from_secs(120))),
        ("5S", Some(Duration::from_secs(5))),
        ("100m", Some(Duration::from_millis(100))),
        ("7u", Some(Duration::from_micros(7))),
        ("7n", Some(Duration::from_nanos(7))),
        ("7", None),
        ("S", None),
        ("", None),
        ("-1S", None),
    ] {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().expect("a value"));
        assert_eq!(timeout(&metadata), expected, "{text}");
    }
}

#[test]
fn an_answer_is_read_and_what_a_later_version_adds_is_passed_over() {
    use prepare_response::Answer;
    let prepared = vote(r#"{"prepared": {"output": {"data": "NDI=", "new": [1]}}, "later": {}}"#);
    let Ok(Some(Answer::Prepared(prepared))) = prepared else { panic!("{prepared:?}") };
    assert_eq!(prepared.output.expect("an output").data, Bytes::from_static(b"42"));
    let refused = vote(r#"{"refused": {"reason": "SOLD_OUT"}, "databaseId": "d"}"#);
    let Ok(Some(Answer::Refused(refusal))) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal.reason, "SOLD_OUT");
    let with_charset = answer::<PrepareRequest>(&response(
        200,
        "Application/JSON; charset=utf-8",
        r#"{"readOnly":{}}"#,
    ));
    assert!(matches!(with_charset.expect("an answer").answer, Some(Answer::ReadOnly(_))));
}

/// A kind of end that nobody knows is one that cannot be told, whether it comes as a name or as a number.
#[test]
fn an_end_of_a_kind_that_is_not_known_stays_heuristic() {
    for kind in [r#""HEURISTIC_KIND_LATER""#, "99", "null"] {
        let end = end(&format!(r#"{{"heuristic": {{"kind": {kind}, "note": "n"}}}}"#));
        let Ok(Some(commit_response::Answer::Heuristic(outcome))) = end else { panic!("{end:?}") };
        assert_eq!((outcome.kind(), outcome.note.as_str()), (HeuristicKind::Unspecified, "n"));
    }
}

#[test]
fn what_says_nothing_is_no_answer() {
    for body in ["{}", r#"{"later": {}}"#, r#"{"prepared": null}"#] {
        assert_eq!(vote(body).expect("a message"), None, "{body}");
    }
}

/// Neither a vote nor done, whatever a proxy or a broken server says in its place.
#[test]
fn what_is_no_answer_is_an_error() {
    for body in [
        "",
        "null",
        "[]",
        "\"prepared\"",
        "true",
        "<html>prepared</html>",
        r#"{"prepared": {}"#,
        r#"{"prepared": {}} {}"#,
        r#"{"prepared": {}, "refused": {"reason": "NO"}}"#,
        r#"{"prepared": {}, "prepared": {}}"#,
        r#"{"prepared": true}"#,
        r#"{"prepared": {"output": {"data": "?"}}}"#,
    ] {
        let status = vote(body).expect_err(body);
        assert_eq!(status.code(), Code::Internal, "{body}: {status:?}");
    }
    let good = r#"{"done": {}}"#;
    for content_type in
        ["", "text/html", "text/plain", "application/jsonp", "application/problem+json"]
    {
        let status = answer::<CommitRequest>(&response(200, content_type, good));
        let status = status.expect_err(content_type);
        assert_eq!(status.code(), Code::Unimplemented, "{content_type}");
        assert!(status.message().contains("must be application/json"), "{status:?}");
    }
    for status in (100..=599).filter(|status| *status != 200) {
        let error = answer::<CommitRequest>(&response(status, JSON, good));
        assert_ne!(error.expect_err("no answer").code(), Code::Ok, "{status}");
    }
}

#[test]
fn a_status_means_what_grpc_says() {
    for (status, body, code, text) in [
        (400, "", Code::InvalidArgument, "HTTP 400 Bad Request"),
        (401, "", Code::Unauthenticated, "HTTP 401 Unauthorized"),
        (404, "", Code::Unimplemented, "there must be prepare, commit and cancel"),
        (405, "", Code::Unimplemented, "must take POST"),
        (413, "", Code::ResourceExhausted, "bodies of 8 MiB"),
        (302, "", Code::Unimplemented, "a redirect is not followed"),
        (204, "", Code::Unknown, "an answer has the status 200"),
        (
            409,
            r#"{"title": "Busy", "detail": "a row is locked"}"#,
            Code::Aborted,
            "HTTP 409: a row is locked",
        ),
        (503, r#"{"title": "Away"}"#, Code::Unavailable, "HTTP 503: Away"),
        (500, r#"{"code": "UNIMPLEMENTED", "detail": "no"}"#, Code::Unimplemented, "HTTP 500: no"),
        (500, r#"{"code": "OK"}"#, Code::Internal, "HTTP 500 Internal Server Error"),
        (500, "<html>", Code::Internal, "HTTP 500 Internal Server Error"),
        (599, "", Code::Unknown, "HTTP 599"),
    ] {
        let error = answer::<PrepareRequest>(&response(status, "application/problem+json", body));
        let error = error.expect_err("no answer");
        assert_eq!(error.code(), code, "{status} {body}");
        assert!(error.message().contains(text), "{status} {body}: {error:?}");
    }
}
