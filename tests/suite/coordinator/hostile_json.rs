//! The API over HTTP, and requests that are none.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use unanimo_tests::wait::{PATIENCE, until};

use super::http::{Reply, http_call, reply};
use super::process::Process;
use super::{World, sqlite_url, tcc};

const JSON: (&str, &str) = ("content-type", "application/json");

const SUBMIT: &str = "/v1/transactions";

async fn post(world: &World, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let address = world.running.admin_address().unwrap();
    http_call(address, "POST", path, headers, body.as_bytes()).await
}

/// A branch, with more text in it.
fn with_branch(text: &str) -> String {
    format!(r#"{{"gid": "g", "mode": "MODE_TCC", "branches": [{{"branchId": "a", {text}}}]}}"#)
}

/// Bodies that are no requests are refused, with its field and its place in the text; nothing is stored.
#[tokio::test]
async fn what_cannot_be_read_is_refused_with_its_field() {
    let world = World::sqlite().await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_child = "{\"child\":{\"branches\":[".repeat(200);
    let many = format!(r#"{{"branches": [{}{{}}]}}"#, "{},".repeat(70_000));
    let names: String = (0..70_000).map(|n| format!("\"{n}\": \"\",")).collect();
    let mapped = format!(r#"{{"metadata": {{{names} "x": ""}}}}"#);
    for (body, field, rule) in [
        ("{", "the body", "must be JSON: EOF while parsing an object at line 1 column 1"),
        ("[]", "the body", "cannot be read"),
        ("\"x\"", "the body", "cannot be read"),
        ("{} {}", "the body", "must be JSON: trailing characters at line 1 column 4"),
        ("{\"gid\": \"a\"\n, }", "the body", "at line 2 column 3"),
        ("{\"gid\": \"\\ud800\"}", "the body", "must be JSON"),
        (&deep, "the body", "recursion limit exceeded"),
        (&format!("{{\"branches\":[{deep_child}"), "the body", "recursion limit exceeded"),
        (&many, "branches", "must not have so many elements"),
        (&mapped, "metadata", "must not have so many elements"),
        (r#"{"gid": "a", "gid": "b"}"#, "gid", "must not be there twice"),
        (r#"{"waitFor": 1, "wait_for": 2}"#, "wait_for", "must not be there twice"),
        (r#"{"metadata": {"a": "", "a": ""}}"#, "metadata.a", "must not be there twice"),
        (
            r#"{"nothing": 1}"#,
            "nothing",
            "is no field of SubmitTransactionRequest (line 1, column 10",
        ),
        (
            &with_branch(r#""payload": {"dat": ""}"#),
            "branches[0].payload.dat",
            "is no field of Payload",
        ),
        (r#"{"gid": 7}"#, "gid", "cannot be read: invalid type: integer `7`, expected a string"),
        (r#"{"branches": {}}"#, "branches", "cannot be read"),
        (r#"{"includeOutputs": "true"}"#, "includeOutputs", "expected a boolean"),
        (r#"{"timeout": "soon"}"#, "timeout", "must be seconds as a text, such as \"1.5s\""),
        (r#"{"timeout": 5}"#, "timeout", "cannot be read"),
        (r#"{"startAt": "yesterday"}"#, "startAt", "such as \"2026-01-31T12:00:00Z\""),
        (r#"{"mode": "TCC"}"#, "mode", "must be one of MODE_TWO_PHASE_COMMIT, MODE_TCC"),
        (r#"{"mode": 1.5}"#, "mode", "cannot be read"),
        (r#"{"mode": 99999999999}"#, "mode", "cannot be read"),
        (&with_branch(r#""payload": {"data": "*"}"#), "branches[0].payload.data", "invalid base64"),
        (
            &with_branch(r#""retry": {"attemptsMax": -1}"#),
            "branches[0].retry.attemptsMax",
            "cannot be read",
        ),
    ] {
        let reply = post(&world, SUBMIT, &[JSON], body).await;
        let start = &body[..body.len().min(80)];
        let problem: Value =
            serde_json::from_str(&reply.body).unwrap_or_else(|_| panic!("{start}: {reply:?}"));
        assert_eq!(
            (reply.code, &problem["reason"]),
            (400, &"FIELD_INVALID".into()),
            "{start}: {problem}"
        );
        assert_eq!(problem["violations"][0]["field"], field, "{start}: {problem}");
        let told = problem["violations"][0]["rule"].as_str().unwrap();
        assert!(told.contains(rule), "{start}: {told}");
    }
    let reply = post(&world, SUBMIT, &[JSON], "").await;
    assert!(reply.code == 400 && reply.body.contains("gid must"), "nothing at all: {reply:?}");
    let listed = http_call(world.running.admin_address().unwrap(), "GET", SUBMIT, &[], b"").await;
    assert_eq!((listed.code, listed.body.as_str()), (200, "{}"));
}

/// One value has several spellings.
#[tokio::test]
async fn numbers_and_bytes_are_read_in_each_spelling() {
    let world = World::sqlite().await;
    let texts = ["\"YS1iL2M=\"", "\"YS1iL2M\"", "\"YS1iL2M=\", \"mediaType\": \"\""];
    for (number, text) in texts.into_iter().enumerate() {
        let body = with_branch(&format!(
            r#""participant": "p", "action": "ok", "payload": {{"data": {text}}}, "retry": null"#
        ));
        let reply = post(&world, SUBMIT, &[JSON], &body).await;
        // Always the same transaction.
        assert_eq!(reply.code, 200, "{number}: {reply:?}");
    }
    let address = world.running.admin_address().unwrap();
    for (revision, expected) in [("1", 200), ("\"1\"", 400), ("1.0", 400), ("-1", 400)] {
        let path = format!("/v1/transactions/g:watch?afterRevision={revision}");
        let reply = http_call(address, "GET", &path, &[], b"").await;
        assert_eq!(reply.code, expected, "{revision}: {reply:?}");
    }
    for (size, expected) in [("1", 200), ("\"1\"", 200), ("1.0", 200), ("1e0", 200), ("true", 400)]
    {
        let body = with_branch(&format!(
            r#""participant": "p", "action": "ok", "payload": {{"data": "YS1iL2M="}}, "retry": {{"attemptsMax": {size}}}"#
        ));
        let saga = body.replace("TCC", "SAGA").replace("\"g\"", "\"s\"");
        let reply = post(&world, SUBMIT, &[JSON], &saga).await;
        assert_eq!(reply.code, expected, "{size}: {reply:?}");
    }
}

/// Addresses, methods and media types that are none, and pages of other sites.
#[tokio::test]
async fn what_http_alone_has_is_refused() {
    let world = World::sqlite().await;
    let address = world.running.admin_address().unwrap();
    let host = address.to_string();
    let good = r#"{"gid": "g", "mode": "MODE_TCC"}"#;
    for (method, path, headers, code, why) in [
        ("GET", "/v1/nothing", &[][..], 404, "nothing is there"),
        ("GET", "/v1/transactions/a:b", &[], 404, "a colon of a name is written %3A"),
        ("DELETE", SUBMIT, &[], 405, "the method must be POST, GET"),
        ("HEAD", "/v1/server", &[], 405, ""),
        ("OPTIONS", SUBMIT, &[], 405, "the method must be"),
        (
            "POST",
            "/v1/transactions:begin",
            &[("content-type", "text/plain")],
            415,
            "application/json",
        ),
        (
            "POST",
            "/v1/transactions:begin",
            &[("content-type", "application/x-www-form-urlencoded")],
            415,
            "",
        ),
        ("POST", "/v1/transactions:begin", &[], 415, "application/json"),
        ("POST", "/v1/transactions:begin?gid=x", &[JSON], 400, "not in the query"),
        (
            "POST",
            "/v1/transactions:begin",
            &[JSON, ("origin", "https://evil.example")],
            403,
            "another site",
        ),
        (
            "POST",
            "/v1/transactions:begin",
            &[JSON, ("sec-fetch-site", "cross-site")],
            403,
            "another site",
        ),
        ("GET", SUBMIT, &[("host", "localhost"), ("host", "localhost")], 400, "must be there once"),
        ("GET", SUBMIT, &[("host", "evil.example")], 421, "must be an IP address, localhost"),
        ("GET", "/v1/transactions?states=NONE", &[], 400, "states"),
        ("GET", "/v1/transactions?nothing=1", &[], 400, "is no field of ListTransactionsRequest"),
        ("GET", "/v1/transactions?attention=yes", &[], 400, "attention"),
        ("GET", "/v1/transactions?pageSize=1&page_size=2", &[], 400, "twice"),
        ("GET", "/v1/transactions/g?tx_id=x", &[], 400, "the path has gid"),
        ("GET", "/v1/transactions/g?gid=x", &[], 400, "the path has gid"),
        ("GET", "/v1/transactions?gidPrefix=%ff", &[], 400, "percent-encoded"),
    ] {
        let body = if method == "POST" { good.as_bytes() } else { b"" };
        let reply = http_call(address, method, path, headers, body).await;
        let of = format!("{method} {path} {headers:?}: {reply:?}");
        assert_eq!(reply.code, code, "{of}");
        assert!(reply.body.contains(why), "{why} in {of}");
        assert!(reply.head.contains("nosniff") && reply.head.contains("no-store"), "{of}");
        assert!(!reply.head.contains("access-control-allow"), "{of}");
        assert!(reply.head.contains("application/problem+json"), "{of}");
        if method != "HEAD" {
            let problem: serde_json::Value = serde_json::from_str(&reply.body).expect(&of);
            assert_eq!(problem["status"], code, "{of}");
            assert!(problem["title"].is_string() && problem["detail"].is_string(), "{of}");
        }
    }
    let own = format!("http://{host}");
    let headers = [JSON, ("origin", own.as_str()), ("sec-fetch-site", "same-origin")];
    let reply =
        http_call(address, "POST", "/v1/transactions:begin", &headers, good.as_bytes()).await;
    assert_eq!(reply.code, 200, "a page of its own: {reply:?}");
}

/// L5: a body without end is refused long before its end, and others are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_a_body_of_100_mb_costs_little() {
    let mut process = Process::start(&sqlite_url(), &[]).await;
    process.client().submit_transaction(tcc("before", &["ok"])).await.expect("served");
    let before = process.resident();
    let mut stream = TcpStream::connect(process.admin_address()).await.unwrap();
    let head = "POST /v1/transactions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 104857600\r\n\r\n{\"gid\": \"";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move {
        let chunk = vec![b'a'; 1 << 20];
        for sent in 0..100_u32 {
            if write.write_all(&chunk).await.is_err() {
                return sent;
            }
        }
        100
    });
    let mut response = Vec::new();
    let answered = tokio::time::timeout(PATIENCE, read.read_to_end(&mut response)).await;
    answered.expect("it is answered, or closed").ok();
    let text = String::from_utf8_lossy(&response);
    assert!(reply(&text).code == 400 && text.contains("too large"), "{text}");
    let sent = sending.await.unwrap();
    assert!(sent < 90, "{sent} MB were taken");
    process.client().submit_transaction(tcc("after", &["ok"])).await.expect("others are served");
    let cost = process.resident_max().saturating_sub(before);
    assert!(cost < 96 << 20, "it costs {} MiB", cost >> 20);
}

/// L5: a body that does not come on is given up, and so is one of a caller who goes away.
#[tokio::test]
async fn l5_a_body_that_does_not_come_on_is_given_up() {
    let world = World::sqlite().await;
    let mut stream = TcpStream::connect(world.running.admin_address().unwrap()).await.unwrap();
    let head = "POST /v1/transactions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 1000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let text = until("the answer", async || {
        let mut buffer = vec![0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
    })
    .await;
    let reply = reply(&text);
    assert_eq!(reply.code, 429, "{text}");
    assert!(text.contains("the request does not come on") && text.contains("OVERLOADED"), "{text}");
}

/// The description has every address, and is what is served.
#[tokio::test]
async fn the_description_is_served() {
    let world = World::sqlite().await;
    let address = world.running.admin_address().unwrap();
    let reply = http_call(address, "GET", "/v1/openapi.json", &[], b"").await;
    assert_eq!(reply.code, 200);
    assert_eq!(reply.body, include_str!("../../../docs/reference/openapi.json"));
    let description: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(description["openapi"], "3.1.0");
    let text = description.to_string();
    for reference in text.split("\"$ref\":\"#/components/").skip(1) {
        let path = reference.split('"').next().unwrap().replace('/', "\"][\"");
        let (kind, name) = path.split_once("\"][\"").unwrap();
        assert!(description["components"][kind][name].is_object(), "{path}");
    }
    let paths = description["paths"].as_object().unwrap();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            let described = operation["description"].as_str().unwrap_or_default();
            assert!(described.len() > 20, "{method} {path}");
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let in_path = parameters.iter().filter(|of| of["in"] == "path").count();
            assert_eq!(in_path, path.matches('{').count(), "{path}");
        }
    }
}
