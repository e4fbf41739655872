//! Recorded histories in which every text that a file may have would run in a page.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use tokio::net::TcpListener;
use unanimo_coordinator::Recorded;

use super::http::http_call;

/// Text that would run, load or break out if it were anything but text; no longer than a history keeps one.
const HOSTILE: &str =
    "</pre></title><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{7*7}}";

/// Collects the texts of a document.
fn texts(of: &Value, found: &mut BTreeSet<String>) {
    match of {
        Value::String(text) => drop(found.insert(text.clone())),
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

/// Puts another text in the place of one, wherever it stands.
fn replaced(of: &Value, text: &str) -> Value {
    match of {
        Value::String(this) if this == text => HOSTILE.into(),
        Value::Array(values) => values.iter().map(|value| replaced(value, text)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.clone(), replaced(value, text))).collect()
        }
        other => other.clone(),
    }
}

fn recorded(of: &Value) -> Option<Recorded> {
    Recorded::new(serde_json::from_value(of.clone()).ok()?).ok()
}

/// Returns the document with each text replaced that may be another one, and how many these were.
fn hostile(document: Value) -> (Value, usize) {
    let (mut all, mut count) = (BTreeSet::new(), 0);
    texts(&document, &mut all);
    let inputs = recorded(&document).expect("it is a history").count();
    let mut found = document;
    for text in all {
        let changed = replaced(&found, &text);
        if recorded(&changed).is_some_and(|recorded| recorded.count() == inputs) {
            (found, count) = (changed, count + 1);
        }
    }
    (found, count)
}

/// A look at a file of somebody else runs nothing of it.
#[tokio::test]
async fn texts_of_histories_stay_texts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("histories/0.1.0");
    for (name, least) in [
        ("2pc-refused", 1),
        ("2pc-deadline", 1),
        ("saga-operator", 1),
        ("saga-gives-up-attempts", 1),
        ("saga-alarms", 1),
        ("saga-trip-with-pivot", 0),
        ("saga-locks", 0),
    ] {
        let text = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
        let (document, count) = hostile(serde_json::from_slice(&text).unwrap());
        assert!(count > 0, "{name}: no text of it may be another one");
        let recorded = recorded(&document).unwrap();
        let inputs = recorded.count();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(recorded.serve(listener, std::future::pending()));
        let mut shown = 0;
        for number in 1..=inputs {
            let page = http_call(address, "GET", &format!("/{number}"), &[], b"").await;
            assert_eq!(page.code, 200, "{name}, {number}: {page:?}");
            for bad in ["<script>alert", "<img", "</pre></title>", "{{7*7}}\"'"] {
                assert!(!page.body.contains(bad), "{bad} in {name}, {number}: {}", page.body);
            }
            shown += page.body.matches("&#60;script&#62;alert(1)").count();
        }
        serving.abort();
        eprintln!("{name}: {count} texts, shown {shown} times");
        assert!(shown >= least, "{name}: {shown} times of {count} texts");
    }
}
