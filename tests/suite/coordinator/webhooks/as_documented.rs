//! The check of a signature that the page about notifications shows.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;

use super::{
    OTHER_SECRET, Receiver, SECRET, World, begins, config, entry, file, sqlite_url, tcc, with,
};
use crate::python::python;

const PAGE: &str = include_str!("../../../../docs/notifications.md");

/// Calls the function of the page with the message in the first line of its input, and prints what it returns.
const CALL: &str = "
import json, sys
of = json.loads(sys.stdin.readline())
try:
    print(verify(of['secret'], of['headers'], of['body'].encode()))
except Exception as error:
    print(type(error).__name__)
";

fn verified(secret: &str, headers: &serde_json::Value, body: &str) -> String {
    let (_, code) = PAGE.split_once("```python\n").expect("the page has an example");
    let (code, _) = code.split_once("```").expect("its end");
    let mut command = python();
    command.args(["-c", &format!("{code}{CALL}")]);
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let of = json!({ "secret": secret, "headers": headers, "body": body });
    writeln!(process.stdin.take().unwrap(), "{of}").unwrap();
    let ran = process.wait_with_output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}

/// Messages of the coordinator are accepted, and nothing that somebody else has made of them.
#[tokio::test]
async fn the_check_of_a_signature_is_as_the_page_shows_it() {
    let receiver = Receiver::start().await;
    let path = file(&entry("a", &receiver, &[OTHER_SECRET, SECRET], ""));
    let world = World::start(with(config(&sqlite_url()), &path)).await;
    begins(&world, "a").await;
    world.submit(tcc("g", &["ok"])).await.unwrap();
    let taken = receiver.has_taken(1).await;
    let body = String::from_utf8(taken[0].body.to_vec()).unwrap();
    let mut headers = json!({});
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        headers[name] = json!(taken[0].header(name));
    }
    for secret in [SECRET, OTHER_SECRET] {
        assert_eq!(verified(secret, &headers, &body), "True");
        assert_eq!(verified(secret, &headers, &body.replace("committed", "aborted")), "False");
    }
    let unknown = "whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";
    assert_eq!(verified(unknown, &headers, &body), "False");
    let seconds: u64 = taken[0].header("webhook-timestamp").parse().unwrap();
    for (name, value) in [
        ("webhook-id", json!("4711")),
        ("webhook-timestamp", json!((seconds + 1).to_string())),
        ("webhook-timestamp", json!((seconds - 301).to_string())),
        ("webhook-timestamp", json!("soon")),
        ("webhook-signature", json!("")),
        ("webhook-signature", json!("v1,")),
        ("webhook-signature", json!("v1,\u{e4}")),
    ] {
        let mut forged = headers.clone();
        forged[name] = value.clone();
        assert_ne!(verified(SECRET, &forged, &body), "True", "{name}: {value}");
    }
}
