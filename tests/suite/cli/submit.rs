//! `tx submit`.

use std::fs::File;
use std::net::TcpListener;

use serde_json::json;

use super::{Program, Served, addresses, file, new_path, run, serve, sqlite, tcc};

#[tokio::test]
async fn an_outcome_is_printed_and_is_the_exit_code() {
    let served = Served::start(&[]).await;
    let ran = served.submit("good", &["ok", "output-5"], &["--wait", "ended"]).await;
    ran.check(0).says(&["committed\ngid    good\ntx_id  0", "BRANCH  VOTE      OUTPUT  WHY\n"]);
    ran.says(&["a       prepared  -       -\n", "b       prepared  5B      -\n"]);
    assert_eq!(ran.err, "");
    let ran = served.submit("bad", &["ok", "refuse"], &[]).await;
    ran.check(4).says(&["aborted: branch b refused\n", "NO_MONEY: the account"]);
    let ran = served.submit("slow", &["hang"], &["--timeout", "300ms"]).await;
    ran.check(5).says(&["not decided yet\ngid    slow\n", "`unanimo tx watch slow` follows it"]);
    let payload = &served.p.seen()[0].payload;
    assert!(payload.ends_with(br#","big":12345678901234567890123}"#), "{payload:?}");

    let ran = served.submit("good", &["ok", "output-5"], &["--json"]).await;
    let mut again = ran.check(0).json();
    assert!(again["tx_id"].take().is_string());
    let branch = |id: &str| {
        json!({"branch_id": id, "vote": "prepared", "refusal": null, "last_error": null,
               "output_dropped": false})
    };
    let mut second = branch("b");
    second["output_base64"] = "b29vb28=".into();
    assert_eq!(
        again,
        json!({"tx_id": null, "gid": "good", "outcome": "committed", "ended": true,
               "heuristic": "none", "abort_cause": null, "abort_branch_id": null, "abort_detail": null,
               "branches": [branch("a"), second]})
    );
    let aborted = served.submit("bad", &["ok", "refuse"], &["--json"]).await;
    let aborted = aborted.check(4).json();
    assert_eq!(aborted["abort_cause"], "refused");
    assert_eq!(aborted["abort_branch_id"], "b");
    assert_eq!(aborted["branches"][1]["refusal"]["reason"], "NO_MONEY");
    let ran = served.submit("slow", &["hang"], &["--json", "--timeout=300ms"]).await;
    assert_eq!(ran.check(5).json()["outcome"], "not_decided");
}

/// A wait for acceptance is a success once it is there, and there is nothing to repeat.
#[tokio::test]
async fn what_is_accepted_is_a_success_and_is_followed() {
    let served = Served::start(&[]).await;
    let accepted = ["--wait", "accepted"];
    let ran = served.submit("g", &["hang"], &accepted).await;
    ran.check(0).says(&["accepted, and not decided yet\ngid    g\ntx_id  0"]);
    ran.says(&["\nhint: `unanimo tx watch g` follows it\n"]);
    assert!(!ran.out.contains("same command"), "{}", ran.out);
    let ran = served.submit("g", &["hang"], &["--wait", "accepted", "--json"]).await;
    assert_eq!(ran.check(0).json()["outcome"], "not_decided");
    // What is decided by then is told as ever.
    served.submit("bad", &["refuse"], &["--wait", "ended"]).await.check(4);
    served.submit("bad", &["refuse"], &accepted).await.check(4).says(&["aborted: "]);
}

#[tokio::test]
async fn it_is_read_from_standard_input_and_an_unread_answer_changes_nothing() {
    let served = Served::start(&[]).await;
    let path = file(&tcc("g", &["refuse"]));
    let mut command = served.tx_command(&["submit", "-"]);
    command.stdin(File::open(&path).unwrap());
    Program::start(command).end().await.check(4).says(&["aborted"]);

    let mut program = Program::start_unread(served.tx_command(&["submit", &path]));
    program.end().await.check(4);
    let mut program = Program::start_unread(served.tx_command(&["list"]));
    let ran = program.end().await;
    ran.check(0);
    assert_eq!(ran.err, "");
}

#[tokio::test]
async fn what_is_wrong_with_a_file_is_named_and_nothing_is_sent() {
    for (content, complaint) in [
        ("{", "EOF while parsing"),
        ("", "the file is empty; `unanimo tx submit --help` describes it\n"),
        (r#"{"mode": "tcc", "branches": []}"#, "missing field `gid`"),
        (r#"{"gid": "g", "mode": "xa"}"#, "mode: must be 2pc"),
        (r#"{"gid": "g", "mode": "tcc", "brunches": []}"#, "brunches: unknown field"),
        (
            r#"{"gid": "g", "mode": "tcc", "timeout": 5}"#,
            "timeout: must be a text such as \"30s\" or",
        ),
        (r#"{"gid": "g", "mode": "tcc", "branches": [{"branch_id": "ä"}]}"#, "[0].branch_id: must"),
    ] {
        // The file is checked before any coordinator is called.
        let path = file(content);
        let ran = run(&["tx", "submit", &path]).await;
        ran.check(2).complains(&[&format!("error: failed to understand {path}: "), complaint]);
    }
    run(&["tx", "submit", "nowhere.json"])
        .await
        .check(2)
        .complains(&["read nowhere.json: No such"]);
}

#[tokio::test]
async fn a_refusal_names_its_reason_and_fields() {
    // The time in which participants may still come to register is over at once.
    let served = Served::start(&["--keep-alive-interval=1ms"]).await;
    let path = file(&tcc("g", &["ok"]).replace("\"p\"", "\"nobody\""));
    let ran = served.tx(&["submit", &path]).await;
    ran.check(2).complains(&[
        "error: branches[0].participant must be known: participant nobody is not known",
        "\n  reason: PARTICIPANT_UNKNOWN (INVALID_ARGUMENT)\n  effect: none\n",
        "hint: `unanimo participant list` shows who has registered\n",
    ]);
    assert_eq!(ran.err.matches("branches[0]").count(), 1, "said once: {}", ran.err);
    let path = file(&tcc("h", &["ok", "ok"]).replace("\"p\"", "\"nobody\""));
    let ran = served.tx(&["submit", &path]).await;
    ran.check(2).complains(&[
        "error: 2 fields break rules\n  reason: PARTICIPANT_UNKNOWN (INVALID_ARGUMENT)\n",
        "\n  branches[0].participant: must be known",
        "\n  branches[1].participant: must be known",
    ]);
    assert_eq!(ran.err.matches("branches[1]").count(), 1, "said once: {}", ran.err);
    served.submit("g", &["ok"], &[]).await.check(0);
    let ran = served.submit("g", &["refuse"], &[]).await;
    ran.check(1).complains(&[
        "reason: GID_REUSED (ALREADY_EXISTS)\n  effect: none\n  outcome: committed\n  tx_id: 0",
        "hint: `unanimo tx show 0",
        "` shows the other one; for other work choose another gid\n",
    ]);
    served.stop().await.check(0);
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let ran = run(&["tx", "list", "--endpoint", &endpoint]).await;
    ran.check(1).complains(&[
        &format!("error: failed to reach a coordinator at {endpoint}: Connection refused"),
        "hint: does `unanimo serve` run there? --endpoint URL or UNANIMO_ENDPOINT names another address; a standby \
         refuses calls until it serves: `curl http://127.0.0.1:7611/readyz` tells\n",
    ]);
    // Nobody knows what an earlier run has begun, and there may be nothing to follow.
    let path = file(&tcc("g", &["ok"]));
    let ran = run(&["tx", "submit", &path, "--endpoint", &endpoint]).await;
    ran.check(5).says(&["not known: no coordinator was reached\ngid    g\n\nhint: run the same"]);
    assert!(!ran.out.contains("watch") && !ran.out.contains("decided"), "{}", ran.out);
    let accepted = ["tx", "submit", &path, "--wait", "accepted", "--endpoint", &endpoint];
    run(&accepted).await.check(5).says(&["hint: run the same"]);
    for (bad, complaint) in [("127.0.0.1:7610", "must be http://"), ("ftp://h:1", "must be http:")]
    {
        run(&["tx", "list", "--endpoint", bad]).await.check(2).complains(&[complaint]);
    }
}

#[tokio::test]
async fn the_address_of_http_is_told() {
    let url = sqlite(&new_path(".db"));
    let mut program = serve(&url, &[]);
    let (_, admin) = addresses(&mut program).await;
    let ran = run(&["tx", "list", "--endpoint", &admin]).await;
    ran.check(1)
        .complains(&["hint: is this the address of HTTP (`admin-listen`, port 7611)? gRPC"]);
}

/// A branch that has ended otherwise than was decided is no success, and no failure of the command.
#[tokio::test]
async fn s11_a_deviation_has_an_exit_code_of_its_own() {
    let served = Served::start(&[]).await;
    for (gid, actions, says) in [
        ("mixed", ["commit-heuristic", "ok"], "committed\n"),
        ("hazard", ["cancel-hazard", "refuse"], "aborted: branch b refused\n"),
    ] {
        let ran = served.submit(gid, &actions, &["--wait", "ended"]).await;
        ran.check(6).says(&[says, &format!("heuristic: {gid}: an operator has to look at it")]);
        let ran = served.submit(gid, &actions, &["--json"]).await;
        assert_eq!(ran.check(6).json()["heuristic"], gid);
        served.tx(&["watch", gid]).await.check(6);
    }
    served.submit("good", &["ok"], &["--wait", "ended"]).await.check(0);
    served.tx(&["watch", "good"]).await.check(0);
}
