//! `unanimo tx export` and `unanimo replay`.

use std::fs;
use std::net::SocketAddr;

use serde_json::Value;
use unanimo_tests::scripted::Scripted;
use unanimo_tests::wait::until;

use super::{Program, Served, Signal, addresses, command, file, new_path, run, serve, sqlite, tcc};
use crate::coordinator::http::http_call;

/// Changes a document, and returns the path of what comes out.
fn changed(text: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut document: Value = serde_json::from_str(text).unwrap();
    change(&mut document);
    file(&document.to_string())
}

#[tokio::test]
async fn a_history_is_exported_and_replayed() {
    let served = Served::start(&["--history", "all"]).await;
    served.submit("g", &["fail-3", "output-7", "refuse"], &["--wait", "ended"]).await.check(4);
    let path = new_path(".json").display().to_string();
    served.tx(&["export", "g", "-o", &path]).await.check(0);
    let again = served.tx(&["export", "g", "-o", &path]).await;
    again.check(1).complains(&["failed to write", "exists"]);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains("12345678901234567890123"), "no payload is in it: {text}");
    let out = served.tx(&["export", "g"]).await;
    assert_eq!(out.check(0).out, text);

    let replayed = run(&["replay", &path]).await;
    replayed.check(0).says(&["equal", "g (tcc): ", " inputs, ", "recorded by unanimo "]);
    let by_gid = run(&["replay", "--endpoint", &served.endpoint, "g"]).await;
    assert_eq!(by_gid.check(0).out, replayed.out);
    let json = run(&["replay", "--json", &path]).await.check(0).json();
    assert_eq!((&json["equal"], &json["gid"]), (&true.into(), &"g".into()));

    // Not a terminal: all states, one after the other.
    let steps = run(&["replay", "--step", &path]).await;
    steps.check(0).says(&["1.1  begun with 3 branches", "decided, ABORT (refused of c)", "equal"]);
    assert!(steps.out.lines().all(|line| line.chars().count() <= 80), "{}", steps.out);
}

#[tokio::test]
async fn a_difference_is_told_and_a_bad_file_refused() {
    let served = Served::start(&["--history", "all"]).await;
    served.submit("g", &["ok", "refuse"], &["--wait", "ended"]).await.check(4);
    let text = served.tx(&["export", "g"]).await.check(0).out.clone();
    // A version that would have committed.
    let path = changed(&text, |document| {
        document["entries"][1]["after"]["decision"] = "commit".into();
    });
    let ran = run(&["replay", &path]).await;
    ran.check(1).says(&[
        "differs",
        "version 2, input ",
        "the phase differs",
        "recorded: decided, COMMIT",
    ]);
    let json = run(&["replay", "--json", &path]).await.check(1).json();
    assert_eq!(json["equal"], false);
    assert_eq!(json["difference"]["version"], 2);

    let path = changed(&text, |document| document["branches"][0]["mode"] = "XA".into());
    let ran = run(&["replay", &path]).await;
    ran.check(2).complains(&["branches[0].mode: must be 2pc, tcc or saga"]);
    let path = changed(&text, |document| document["entries"][0]["version"] = 7.into());
    let ran = run(&["replay", &path]).await;
    ran.check(2).complains(&["entries[0] must begin the transaction (version 1), is version 7"]);
    // A record that lost its end, and a field that nobody knows.
    let path = changed(&text, |document| {
        document["entries"].as_array_mut().unwrap().pop();
        document["entries"][0]["later"] = 1.into();
    });
    for more in [&[][..], &["--step"]] {
        let ran = run(&[&["replay", path.as_str()], more].concat()).await;
        ran.check(1).says(&["part     g (tcc)", "equal as far as it goes: it ends at version "]);
        ran.complains(&["entries[0].later is no field of this version, and passed over"]);
        assert!(!ran.out.contains("equal    "), "{}", ran.out);
    }
    let json = run(&["replay", "--json", &path]).await.check(1).json();
    assert_eq!((&json["equal"], &json["difference"]), (&false.into(), &Value::Null));
    assert_eq!(json["unknown"], serde_json::json!(["entries[0].later"]));
    let gap = changed(&text, |document| {
        document["end"]["entries"] = 99.into();
    });
    let ran = run(&["replay", &gap]).await;
    ran.check(1).says(&["entries, and 99 were recorded"]);

    run(&["replay", "no/such.json"]).await.check(2).complains(&["failed to read no/such.json"]);
    let unknown = run(&["replay", "--endpoint", &served.endpoint, "nobody"]).await;
    unknown.check(1).complains(&["GID_UNKNOWN"]);
}

/// A record of earlier rules is replayed by them, and that is said. The number of the first ones may be left out.
#[tokio::test]
async fn rules_of_a_record_are_told() {
    let same = include_str!("../../histories/0.1.0/saga-sequence.json");
    let settings = "/entries/0/steps/0/input/begin/settings";
    let rules = |number: u16| {
        changed(same, |document| {
            document.pointer_mut(settings).unwrap()["rules"] = number.into();
        })
    };
    let absent = file(same);
    for path in [&absent, &rules(0)] {
        let ran = run(&["replay", path]).await;
        ran.check(0).says(&[
            "equal",
            "it went by rules 0, and is replayed by them",
            "are the first",
        ]);
        assert_eq!(ran.err, "");
        let json = run(&["replay", "--json", path]).await.check(0).json();
        assert_eq!((&json["rules"], &json["unknown"]), (&[0].into(), &Value::Array(Vec::new())));
    }
    let newer = run(&["replay", &rules(99)]).await;
    newer.check(2).complains(&["settings.rules must be at most", "by a newer version"]);
    let waited = include_str!("../../histories/0.1.0/saga-crash-while-a-lock-is-waited-for.json");
    let current = changed(waited, set_current_rules);
    let ran = run(&["replay", &current]).await;
    assert!(!ran.check(0).out.contains("rules"), "{}", ran.out);
}

/// Has every life in a record gone by the rules of this version.
fn set_current_rules(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    "rules" => *field = unanimo_core::RulesVersion::CURRENT.0.into(),
                    _ => set_current_rules(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(set_current_rules),
        _ => {}
    }
}

/// Each of them is told, and the command fails as the worst of them.
#[tokio::test]
async fn several_histories_have_the_exit_code_of_the_worst() {
    let same = include_str!("../../histories/0.1.0/saga-sequence.json");
    let equal = file(same);
    let differs = changed(same, |document| document["entries"][0]["awaited"] = false.into());
    let no_history = file("{}");
    for (files, code) in [
        ([&equal, &equal, &equal], 0),
        ([&equal, &differs, &equal], 1),
        ([&differs, &no_history, &equal], 2),
        ([&no_history, &differs, &equal], 2),
    ] {
        let ran = run(&["replay", files[0], files[1], files[2]]).await;
        ran.check(code);
        let told = |word: &str| ran.out.lines().filter(|line| line.starts_with(word)).count();
        let expected = |file: &String| files.iter().filter(|name| **name == file).count();
        assert_eq!((told("equal"), told("differs")), (expected(&equal), expected(&differs)));
        assert_eq!(ran.err.matches("error: ").count(), expected(&no_history), "{}", ran.err);
    }
}

#[tokio::test]
async fn the_setting_says_what_is_recorded() {
    let served = Served::start(&[]).await;
    served.submit("t", &["ok"], &["--wait", "ended"]).await.check(0);
    served.tx(&["export", "t"]).await.check(1).complains(&[
        "NO_HISTORY",
        "hint: the setting `history` says which are recorded: by default sagas",
    ]);
    let saga = file(&tcc("s", &["ok", "fail-1"]).replace("\"tcc\"", "\"saga\""));
    served.tx(&["submit", &saga, "--wait", "ended"]).await.check(0);
    run(&["replay", "--endpoint", &served.endpoint, "s"]).await.check(0).says(&["equal", "(saga)"]);
}

/// A crash means to the engine and the store what it means to a replay.
#[tokio::test]
async fn s3_a_history_goes_on_after_a_kill() {
    let url = sqlite(&new_path(".db"));
    let p = Scripted::default();
    let participant = format!("p={}", p.serve().await);
    let arguments = ["--history", "all", "--participant", participant.as_str()];
    let mut first = serve(&url, &arguments);
    let (endpoint, _) = addresses(&mut first).await;
    let path = file(&tcc("g", &["fail-2", "ok", "commit-hang"]));
    let submit = ["tx", "--endpoint", &endpoint, "submit", &path, "--wait", "decided"];
    run(&submit).await.check(0);
    first.process.kill();
    let mut second = serve(&url, &arguments);
    let (endpoint, _) = addresses(&mut second).await;
    until("the second life to adopt it", async || {
        let ran = run(&["replay", "--endpoint", &endpoint, "g", "--json"]).await;
        (ran.check(0).json()["recoveries"] == 1).then_some(())
    })
    .await;
    let resolve = ["--branch", "c", "--as", "committed", "--operator", "ann", "--note", "seen"];
    let mut all = vec!["tx", "--endpoint", &endpoint, "resolve", "g"];
    all.extend(resolve);
    run(&all).await.check(0);
    let ran = run(&["replay", "--endpoint", &endpoint, "g"]).await;
    ran.check(0).says(&["equal", "1 adoption;"]);
}

/// The page of a transaction leads to its history as a file, which `view` and `replay` take: a long one is whole in it. They take
/// an answer of the API as well.
#[tokio::test]
async fn a_history_is_taken_from_the_page_of_its_transaction() {
    let p = Scripted::default();
    let participant = format!("p={}", p.serve().await);
    let more = ["--participant", &*participant];
    let database = sqlite(&new_path(".db"));
    let mut program = serve(&database, &[&more[..], &["--history", "all"]].concat());
    let (endpoint, admin) = addresses(&mut program).await;
    let admin: SocketAddr = admin.trim_start_matches("http://").parse().unwrap();
    let get = async |path: &str| http_call(admin, "GET", path, &[], b"").await;
    let submit = async |gid: &str, action: &str| {
        let definition = file(&tcc(gid, &["ok", action]));
        let args =
            ["tx", "--endpoint", &*endpoint, "submit", &definition, "--json", "--wait", "ended"];
        run(&args).await.json()["tx_id"].as_str().unwrap().to_owned()
    };
    let tx_id = submit("g", "refuse").await;
    let page = get(&format!("/tx/{tx_id}")).await;
    let link = format!("/tx/{tx_id}/history.json");
    assert!(page.body.contains(&format!("href=\"{link}\" download")), "{page:?}");
    // Its picture is of what was recorded.
    for shown in ["Bars are single attempts", "Durable writes: ", "mark write"] {
        assert!(page.body.contains(shown), "{shown}: {page:?}");
    }
    let history = get(&link).await;
    let named = format!("content-disposition: attachment; filename=\"unanimo-{tx_id}.json\"");
    for header in [&*named, "content-type: application/json", "nosniff", "no-store"] {
        assert!(history.code == 200 && history.head.contains(header), "{header}: {history:?}");
    }
    let answer = get(&format!("/v1/tx/{tx_id}:export")).await;
    for text in [&history.body, &answer.body] {
        let path = file(text);
        run(&["replay", &path]).await.check(0).says(&["equal"]);
        let mut viewer = Program::start(command(&["view", "--no-open", "--json", &path]));
        let told = async || serde_json::from_str::<Value>(&viewer.out()).ok();
        let told = until("the address", told).await;
        assert!(told["inputs"].as_u64() > Some(3) && told["remark"].is_null(), "{told}");
        viewer.process.signal(Signal::INT);
        viewer.end().await.check(0);
    }
    let missing = get("/tx/0199b0d0-0000-7000-8000-000000000000/history.json").await;
    assert!(missing.code == 404 && missing.body.contains("</html>"), "{missing:?}");
    program.process.signal(Signal::TERM);
    program.end().await.check(0);

    // Where nothing is recorded there is no link to it.
    let mut program = serve(&database, &[&more[..], &["--history", "none"]].concat());
    let (endpoint, admin) = addresses(&mut program).await;
    let admin: SocketAddr = admin.trim_start_matches("http://").parse().unwrap();
    let definition = file(&tcc("h", &["ok"]));
    let args = ["tx", "--endpoint", &*endpoint, "submit", &definition, "--json", "--wait", "ended"];
    let tx_id = run(&args).await.json()["tx_id"].as_str().unwrap().to_owned();
    let page = http_call(admin, "GET", &format!("/tx/{tx_id}"), &[], b"").await;
    assert!(page.code == 200 && !page.body.contains("history.json"), "{page:?}");
    assert!(page.body.contains("A bar goes from the first attempt"), "{page:?}");
    program.process.signal(Signal::TERM);
    program.end().await.check(0);
}

/// Pages of a history: one for each input, to this machine alone, until the command is ended.
#[tokio::test]
async fn a_history_is_looked_at_page_by_page() {
    let served = Served::start(&["--history", "all"]).await;
    served.submit("g", &["ok", "refuse"], &["--wait", "ended"]).await.check(4);
    let text = served.tx(&["export", "g"]).await.check(0).out.clone();
    let path = file(&text);
    let mut viewer = Program::start(command(&["view", "--no-open", "--json", &path]));
    let told = until("the address", async || serde_json::from_str::<Value>(&viewer.out()).ok());
    let told = told.await;
    let address = told["address"].as_str().unwrap();
    let address = address.strip_prefix("http://").unwrap().trim_end_matches('/').parse().unwrap();
    let count = told["inputs"].as_u64().unwrap();
    assert!(count > 3 && told["remark"].is_null(), "{told}");

    let get = async |path: &str| http_call(address, "GET", path, &[], b"").await;
    let first = get("/1").await;
    for shown in ["begun with 2 branches", "href=\"/2\"", "<svg class=\"chart\""] {
        assert!(first.body.contains(shown), "{shown}: {}", first.body);
    }
    let last = get(&format!("/{count}")).await;
    assert!(last.body.contains("aborted") && last.body.contains("class=\"base\""), "{last:?}");
    for (path, code) in [("/", 303), ("/assets/style.css", 200), ("/0", 404), ("/x", 404)] {
        assert_eq!(get(path).await.code, code, "{path}");
    }
    let past = get(&format!("/{}", count + 1)).await;
    let rule = format!("The inputs of this history are at /1 to /{count}.");
    assert!(past.code == 404 && past.body.contains(&rule), "{past:?}");
    // A page of another site, whose name was turned to this address.
    let turned = http_call(address, "GET", "/1", &[("host", "evil.example")], b"").await;
    assert!(turned.code == 421 && !turned.body.contains("begun"), "{turned:?}");
    viewer.process.signal(Signal::INT);
    viewer.end().await.check(0);

    // What differs, or is not whole, is told; what is no history is refused.
    let other = changed(&text, |document| {
        document["entries"][1]["after"]["decision"] = "commit".into();
    });
    let viewer = Program::start(command(&["view", "--no-open", &other]));
    viewer.until_err("the phase differs").await;
    let bad = changed(&text, |document| document["branches"][0]["mode"] = "XA".into());
    let ran = run(&["view", "--no-open", &bad]).await;
    ran.check(2).complains(&["branches[0].mode: must be 2pc, tcc or saga"]);
    let none = run(&["view", "--no-open", "/none.json"]).await;
    none.check(2).complains(&["failed to read /none.json"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ran = run(&["view", "--no-open", "--port", &port, &path]).await;
    ran.check(1).complains(&[&format!("listen on --port {port} for the pages: "), "in use"]);
    let empty = file("");
    for command in ["view", "replay"] {
        let ran = run(&[command, &empty]).await;
        let says = format!("understand {empty}: the file is empty; `unanimo tx export` makes one");
        ran.check(2).complains(&[&says]);
    }
}
