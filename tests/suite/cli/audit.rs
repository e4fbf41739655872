//! The audit, as an operator reads, exports and checks it.

use std::fs;
use std::path::Path;

use unanimo_coordinator::audit::{Entry, Kind, hash_of, hex, unhex};
use unanimo_coordinator::crash::AUDIT_POINTS;
use unanimo_core::Timestamp;
use unanimo_proto::v1::operator_service_client::OperatorServiceClient;
use unanimo_proto::v1::{Resolution, ResolveBranchRequest, RetryTransactionRequest};

use super::{Ran, Served, new_path, run};
use crate::coordinator::process::Process;
use crate::coordinator::{World, tcc};
use crate::store::execute;
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

impl Served {
    async fn audit(&self, args: &[&str]) -> Ran {
        let all: Vec<&str> =
            ["audit", "--endpoint", &self.endpoint].iter().chain(args).copied().collect();
        run(&all).await
    }
}

async fn verify_file(path: &Path, text: &str) -> Ran {
    fs::write(path, text).unwrap();
    run(&["audit", "verify", &path.display().to_string()]).await
}

/// Lines of an export that are changed, taken away, moved or cut are found, and the first fault is told.
#[tokio::test]
async fn an_export_that_was_tampered_with_is_found() {
    let served = Served::start(&[]).await;
    served.audit(&["list"]).await.check(0).complains(&["the audit has no entries"]);
    served.audit(&["verify"]).await.check(0).says(&["0 entries are as they were written"]);
    served.submit("g", &["ok"], &["--wait", "ended"]).await.check(0);
    // A note is a text of a user's.
    let forget =
        ["forget", "g", "--operator", "ann", "--note", "paid\u{1b}[2J, \"by\" hand", "--released"];
    served.tx(&forget).await.check(1);
    served.tx(&["retry", "g", "--operator", "bob"]).await;
    let listed = served.audit(&["list"]).await;
    listed.check(0).says(&[
        "\"ann\"",
        "ForgetTransaction",
        "FAILED_PRECONDITION (NOTHING_TO_FORGET)",
        "paid\\u{1b}[2J, \"by\" hand",
        "127.0.0.1:",
    ]);
    assert!(!listed.out.contains('\u{1b}'), "{}", listed.out);
    let json = served.audit(&["list", "--json", "--limit", "2"]).await.json();
    let entries = json["entries"].as_array().unwrap();
    assert_eq!((entries.len(), &entries[0]["kind"]), (2, &"answered".into()), "{json}");
    assert_eq!(entries[0]["gid"], "g", "{json}");

    let path = new_path(".jsonl");
    let name = path.display().to_string();
    served.audit(&["export", "--output", &name]).await.check(0);
    served.audit(&["export", "--output", &name]).await.check(1).complains(&["exists"]);
    let text = fs::read_to_string(&path).unwrap();
    let verified = run(&["audit", "verify", &name]).await;
    verified.check(0).says(&["4 entries are as they were written"]);
    let last = verified.out.lines().last().unwrap().to_owned();
    let live = served.audit(&["verify"]).await;
    assert_eq!(live.check(0).out, verified.out);
    served.audit(&["verify", "--noted", &last]).await.check(0);
    let other = format!("2:{}", "0".repeat(64));
    let found = served.audit(&["verify", "--noted", &other]).await;
    found.check(7).complains(&["entry 2 has another hash than the one that was noted"]);
    for bad in ["2:00".to_owned(), format!("2:{}", "+f".repeat(32))] {
        served.audit(&["verify", "--noted", &bad]).await.check(2);
    }
    run(&["audit", "verify", "--help"]).await.check(0).says(&["7 it is not"]);
    run(&["--help"]).await.check(0).says(&["  7  `audit verify`"]);

    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    let of = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let path = new_path(".jsonl");
    let steering = "\"count\":0,\"\\u001b[2J\":1";
    let hash = json["entries"][0]["hash"].as_str().unwrap();
    let moved = [lines[0], lines[2], lines[1], lines[3], lines[4], lines[5]];
    for (tampered, words) in [
        (text.replace("paid", "lost"), "entry 1 does not follow from what is before it"),
        (text.replace("\"bob\"", "\"eve\""), "entry 3 does not follow"),
        (of(&[&lines[..2], &lines[3..]].concat()), "entries 2 to 2 are missing"),
        (of(&moved), "entries 1 to 1 are missing"),
        (of(&[&lines[..4], &lines[5..]].concat()), "ends with entry 3, and had 4"),
        (of(&lines[..5]), "the end of the export is missing"),
        (format!("{text}{}\n", lines[1]), "nothing behind the end"),
        (text.replace("\"kind\":\"asked\"", "\"kind\":\"done\""), "entry 1 cannot be read"),
        (text.replace("\"count\":0", "\"count\":0,\"more\":1"), "line 2: it is not an entry"),
        // What it says of a key steers no terminal.
        (text.replace("\"count\":0", steering), "unknown field `\\u{1b}[2J`"),
        // Another form of the same content has the same hash.
        (text.replacen("Z\"", "9Z\"", 1), "no export has entry 1 in this form"),
        (text.replace("\"roles\":[]", "\"roles\":[\"\"]"), "no export has entry 1 in this form"),
        (text.replace(hash, &hash.to_uppercase()), "no export has entry 4 in this form"),
        (String::new(), "line 1: the file is empty; `unanimo audit export` makes one"),
    ] {
        let found = verify_file(&path, &tampered).await;
        found.check(7).complains(&[words]);
    }
    // Where nobody can tell it is another exit code.
    let later = text.replace("\"unanimo_audit\":1", "\"unanimo_audit\":2");
    verify_file(&path, &later).await.check(1).complains(&["its form is 2"]);
    verify_file(&path, "{}\n").await.check(1).complains(&["line 1: it is not the first line"]);
    let nowhere = ["audit", "verify", "--endpoint", "http://127.0.0.1:1"];
    run(&nowhere).await.check(1).complains(&["failed to reach a coordinator"]);
    served.stop().await.check(0);
}

/// A change in the database is found over the wire.
#[tokio::test]
async fn a_database_that_was_tampered_with_is_found() {
    let url = Server::shared().database().await;
    let world = World::start(crate::coordinator::config(&url)).await;
    let endpoint = format!("http://{}", world.running.grpc_address().unwrap());
    let result = world.submit(tcc("g", &["ok"])).await.unwrap();
    for _ in 0..3 {
        let request = RetryTransactionRequest { tx_id: result.tx_id.clone(), ..Default::default() };
        let _ = OperatorServiceClient::new(world.channel.clone()).retry_transaction(request).await;
    }
    let verify = async || run(&["audit", "verify", "--endpoint", &endpoint]).await;
    verify().await.check(0).says(&["6 entries"]);
    execute(&url, "CREATE TABLE kept AS TABLE audit; CREATE TABLE ends AS TABLE audit_chain").await;
    for (tampering, words) in [
        ("UPDATE audit SET body = (SELECT body FROM kept WHERE number = 2) WHERE number = 3", "entry 3 does not follow"),
        ("UPDATE audit SET at_ms = at_ms + 1 WHERE number = 2", "entry 2 does not follow"),
        ("UPDATE audit SET body = 'x' WHERE number = 4", "entry 4 cannot be read"),
        ("UPDATE audit SET hash = 'x' WHERE number = 4", "entry 4 does not follow"),
        ("DELETE FROM audit WHERE number IN (2, 3)", "entries 2 to 3 are missing"),
        ("DELETE FROM audit WHERE number = 6", "ends with entry 5, and had 6"),
        (
            "UPDATE audit SET number = -number WHERE number IN (2, 4);
             UPDATE audit SET number = 6 + number WHERE number < 0",
            "entry 2 does not follow",
        ),
        (
            "DELETE FROM audit WHERE number < 3;
             UPDATE audit_chain SET purged_number = 2, purged_hash = (SELECT hash FROM kept WHERE number = 2)",
            "entries up to 2 are missing, and no entry says",
        ),
    ] {
        execute(&url, tampering).await;
        verify().await.check(7).complains(&["the audit is not as it was written", words]);
        let restore = "TRUNCATE audit, audit_chain; INSERT INTO audit TABLE kept;
             INSERT INTO audit_chain TABLE ends";
        execute(&url, restore).await;
        verify().await.check(0);
    }
    // All of it is gone but the row about the end.
    execute(&url, "DELETE FROM audit").await;
    verify().await.check(7).complains(&["ends with entry 0, and had 6"]);
}

/// An entry about a purge that is forged can remove what is before it; but it is told, and the entry that was noted is
/// compared, or is not taken for there.
#[tokio::test]
async fn a_forged_purge_is_told_and_a_noted_entry_that_is_gone_is_not_taken_for_there() {
    let url = Server::shared().database().await;
    let world = World::start(crate::coordinator::config(&url)).await;
    let endpoint = format!("http://{}", world.running.grpc_address().unwrap());
    let result = world.submit(tcc("g", &["ok"])).await.unwrap();
    for _ in 0..2 {
        let request = RetryTransactionRequest { tx_id: result.tx_id.clone(), ..Default::default() };
        let _ = OperatorServiceClient::new(world.channel.clone()).retry_transaction(request).await;
    }
    let audit = async |args: &[&str]| {
        let all: Vec<&str> =
            ["audit", "--endpoint", &endpoint].iter().chain(args).copied().collect();
        run(&all).await
    };
    let listed = audit(&["list", "--json"]).await.json();
    let newest_first = listed["entries"].as_array().unwrap().iter();
    let hashes: Vec<&str> =
        newest_first.rev().map(|entry| entry["hash"].as_str().unwrap()).collect();
    assert_eq!(hashes.len(), 4, "{listed}");
    let place = |number: usize| format!("{number}:{}", hashes[number - 1]);

    let purged = Entry { of: 2, reason: hashes[1].to_owned(), ..Entry::new(Kind::Purged) };
    let (at, body) = (Timestamp(1_000), purged.encode());
    let hash = hex(&hash_of(&unhex(hashes[3]).unwrap(), 5, at, &body));
    let forge = format!(
        "INSERT INTO audit (number, at_ms, body, hash)
         VALUES (5, 1000, decode('{}', 'hex'), decode('{hash}', 'hex'));
         UPDATE audit_chain SET last_number = 5, last_hash = decode('{hash}', 'hex'),
             purged_number = 2, purged_hash = decode('{}', 'hex');
         DELETE FROM audit WHERE number <= 2",
        hex(&body),
        hashes[1]
    );
    execute(&url, &forge).await;
    let verify = async |noted: &str| audit(&["verify", "--noted", noted]).await;
    let told = format!("purged {}, as entry 5 of 1970-01-01T00:00:01.000Z says\n", place(2));
    let since = format!("since the noted entry: {told}");
    let all = audit(&["verify"]).await;
    all.check(0).says(&[&told, "3 entries are as they were written"]);
    assert!(!all.out.contains("since"), "{}", all.out);
    for noted in [place(2), place(4)] {
        verify(&noted).await.check(0).says(&[&since, "3 entries are as they were written"]);
    }
    let behind = verify(&format!("5:{hash}")).await;
    behind.check(0).says(&[&told]);
    assert!(!behind.out.contains("since"), "{}", behind.out);
    let json = audit(&["verify", "--noted", &place(4), "--json"]).await.json();
    let purge = serde_json::json!({
        "purged": place(2), "entry": 5, "at": "1970-01-01T00:00:01.000Z",
    });
    assert_eq!(json["purged"], purge, "{json}");
    assert_eq!(json["purged_since_noted"], serde_json::json!([purge]), "{json}");

    let other = verify(&format!("2:{}", "0".repeat(64))).await;
    other.check(7).complains(&["entry 2 has another hash than the one that was noted"]);
    let gone = verify(&place(1)).await;
    gone.check(1).complains(&["entry 1, which was noted, was purged", "note a later one"]);
}

/// An export that fails leaves nothing that is in the way of the next one.
#[tokio::test]
async fn an_export_that_fails_leaves_no_file() {
    let url = Server::shared().database().await;
    let world = World::start(crate::coordinator::config(&url)).await;
    let endpoint = format!("http://{}", world.running.grpc_address().unwrap());
    let path = new_path(".jsonl");
    let name = path.display().to_string();
    let export = async || run(&["audit", "export", "-o", &name, "--endpoint", &endpoint]).await;
    execute(&url, "ALTER TABLE audit RENAME TO audit_hidden").await;
    export().await.check(1).complains(&["error: "]);
    assert!(!path.exists(), "{}", fs::read_to_string(&path).unwrap());
    execute(&url, "ALTER TABLE audit_hidden RENAME TO audit").await;
    export().await.check(0);
    run(&["audit", "verify", &name]).await.check(0).says(&["0 entries are as they were written"]);
}

/// A process that is killed between the first entry and the act, or between the act and its outcome, leaves the
/// first entry, and the act is carried out by the command that comes again.
#[tokio::test]
async fn s3_a_kill_beside_an_act_leaves_its_entry() {
    let points = AUDIT_POINTS.iter().zip([false, true]);
    assert_eq!(points.len(), AUDIT_POINTS.len(), "it says of each whether the act is done");
    for (point, is_done) in points {
        let url = crate::coordinator::sqlite_url();
        let crash = ("UNANIMO_CRASH_AT", format!("{point}:1"));
        let process = Process::start_with(&url, &[], &[crash]).await;
        let mut client = process.client();
        let submitted = client.submit_transaction(tcc("g", &["commit-hang"])).await.unwrap();
        let tx_id = submitted.into_inner().result.unwrap().tx_id;
        let request = ResolveBranchRequest {
            tx_id: tx_id.clone(),
            branch_id: "a".into(),
            resolution: Resolution::RolledBack.into(),
            operator: "ann".into(),
            note: "the bank is closed".into(),
            ..Default::default()
        };
        let mut operator = OperatorServiceClient::new(process.channel.clone());
        operator.resolve_branch(request.clone()).await.expect_err("it was killed");
        drop(process);
        let process = Process::start(&url, &[]).await;
        let endpoint = format!("http://{}", process.address());
        let audit = async |args: &[&str]| {
            let all: Vec<&str> =
                ["audit", "--endpoint", &endpoint].iter().chain(args).copied().collect();
            run(&all).await
        };
        audit(&["verify"]).await.check(0);
        let listed = audit(&["list", "--json"]).await.json();
        // The start tells what it begins with.
        let acts = listed["entries"].as_array().unwrap().iter();
        let acts: Vec<_> = acts.filter(|entry| entry["kind"] != "changed").collect();
        assert_eq!((acts.len(), &acts[0]["kind"]), (1, &"asked".into()), "{point}: {acts:?}");
        assert_eq!(acts[0]["tx_id"], tx_id.as_str(), "{point}");
        let tx = run(&["tx", "show", "g", "--json", "--endpoint", &endpoint]).await.json();
        let by = &tx["branches"][0]["resolved_by"];
        assert_eq!(*by == "ann", is_done, "{point}: {tx}");
        let operator = OperatorServiceClient::new(process.channel.clone());
        until("the act to be carried out", async || {
            operator.clone().resolve_branch(request.clone()).await.ok()
        })
        .await;
        audit(&["verify"]).await.check(0);
        let listed = audit(&["list", "--json", "--limit", "1"]).await.json();
        let answered = (&listed["entries"][0]["kind"], &listed["entries"][0]["outcome"]);
        assert_eq!(answered, (&"answered".into(), &"OK".into()), "{point}");
    }
}
