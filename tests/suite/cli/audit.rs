//! The audit, as an operator reads, exports and checks it.

use std::fs;
use std::path::Path;

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
    found.check(1).complains(&["entry 2 has another hash than the one that was noted"]);
    served.audit(&["verify", "--noted", "2:00"]).await.check(2);

    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    let of = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let path = new_path(".jsonl");
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
        (String::new(), "the end of the export is missing"),
    ] {
        let found = verify_file(&path, &tampered).await;
        found.check(1).complains(&[words]);
    }
    let later = text.replace("\"unanimo_audit\":1", "\"unanimo_audit\":2");
    verify_file(&path, &later).await.check(1).complains(&["its form is 2"]);
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
        verify().await.check(1).complains(&["the audit is not as it was written", words]);
        let restore = "TRUNCATE audit, audit_chain; INSERT INTO audit TABLE kept;
             INSERT INTO audit_chain TABLE ends";
        execute(&url, restore).await;
        verify().await.check(0);
    }
    // All of it is gone but the row about the end.
    execute(&url, "DELETE FROM audit").await;
    verify().await.check(1).complains(&["ends with entry 0, and had 6"]);
}

/// A process that is killed between the first entry and the act, or between the act and its outcome, leaves the
/// first entry, and the act is carried out by the command that comes again.
#[tokio::test]
async fn s3_a_kill_beside_an_act_leaves_its_entry() {
    for (point, is_done) in [("audit-before-act", false), ("audit-after-act", true)] {
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
        audit(&["verify"]).await.check(0).says(&["1 entries"]);
        let listed = audit(&["list", "--json"]).await.json();
        assert_eq!(listed["entries"][0]["kind"], "asked", "{point}");
        assert_eq!(listed["entries"][0]["tx_id"], tx_id.as_str(), "{point}");
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
