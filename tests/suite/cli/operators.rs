//! Operator's commands for a transaction that does not end by itself.

use super::Served;

#[tokio::test]
async fn a_stuck_transaction_is_retried_resolved_and_forgotten() {
    let served = Served::start(&[
        "--stalled-after=50ms",
        "--call-timeout=50ms",
        "--phase-two-backoff=1h",
        "--phase-two-backoff-max=1h",
    ])
    .await;
    let submitted = served.submit("g", &["commit-hang", "ok"], &["--json"]).await;
    let tx_id = submitted.check(0).json()["tx_id"].as_str().unwrap().to_owned();
    served.show_until("g", "its alarm", |shown| shown["stalled"] == true).await;
    let ran = served.tx(&["show", "g"]).await;
    ran.check(0).says(&[
        "state      committing: decided, and not",
        "waits      Commit of branch a was sent to participant p",
        "attention  stalled\n",
        "next       A branch does not end. Repair its participant, ",
        &format!("\n           unanimo tx retry {tx_id}\n           unanimo tx resolve {tx_id} --branch a --as HOW"),
    ]);
    assert!(!ran.out.contains("--branch b"), "it has ended: {}", ran.out);
    let none = served.tx(&["retry"]).await;
    none.check(2).complains(&["Usage: unanimo tx retry [OPTIONS] <TX|--all>"]);
    served.tx(&["list", "--attention"]).await.check(0).says(&["stalled\n"]);

    let before = served.p.calls(&tx_id, "a").len();
    served.tx(&["retry", "g", "--branch", "a", "--operator", "ann"]).await.check(0);
    super::until("the retry", async || (served.p.calls(&tx_id, "a").len() > before).then_some(()))
        .await;
    let ran = served.tx(&["retry", &tx_id, "--branch", "x"]).await;
    ran.check(2).complains(&["error: branch_id must name"]);

    let resolve = ["resolve", "g", "--branch", "a", "--as", "rolled-back", "--note", "the bank"];
    let nobody = served.tx(&resolve).await;
    nobody.check(2).complains(&["error: who acts is not known: $USER is not set; --operator NAME"]);
    // Who only counts does nothing that has to be signed.
    let count = ["resolve", "--all", "--participant=p", "--as=committed", "--dry-run"];
    served.tx(&count).await.check(0).says(&["1 transactions would be"]);
    served.tx(&["forget", "--all", "--dry-run"]).await.check(0).says(&["0 transactions would"]);
    let forget = ["forget", "g", "--operator", "ann", "--note", "paid by hand", "--json"];
    let ran = served.tx(&forget).await;
    ran.check(1).complains(&["reason: NOTHING_TO_FORGET (FAILED_PRECONDITION)"]);
    // The operator's name is by default that of the user who is logged in.
    let mut command = served.tx_command(&resolve);
    command.env("USER", "");
    let ran = super::Program::start(command).end().await;
    ran.check(2).complains(&["--operator NAME"]);
    let mut command = served.tx_command(&resolve);
    command.env("USER", "bob");
    let ran = super::Program::start(command).end().await;
    ran.check(0).says(&["state      committed\nheuristic  mixed\nattention  heuristic mixed\n"]);
    let shown = served.tx(&["show", "g", "--json"]).await.json();
    assert_eq!(shown["branches"][0]["heuristic_note"], "bob: the bank");
    assert_eq!(shown["branches"][0]["state"], "heuristic_rollback");
    let clear = format!("\n           unanimo tx forget {tx_id} --operator YOU");
    served.tx(&["show", "g"]).await.check(0).says(&["next       A branch ended against", &clear]);
    let ran = served.tx(&["rollback", "g"]).await;
    ran.check(6).says(&["heuristic: mixed: an operator has to look at it\n"]);

    // Its participant has not confirmed the end of the branch.
    served.tx(&forget).await.check(1).complains(&["with --released"]);
    let forget = [&forget[..], &["--released"]].concat();
    let forgotten = served.tx(&forget).await.check(0).json();
    assert_eq!(forgotten["attention"], false);
    assert_eq!(forgotten["heuristic"], "mixed");
    let ran = served.tx(&["show", "g"]).await;
    ran.check(0).says(&["retried", "by ann: paid by hand"]);
    assert!(!ran.out.contains("next  "), "{}", ran.out);
    // The outcome stays heuristic, and nobody has to look at it any more.
    served.tx(&["rollback", "g"]).await.check(6).says(&["heuristic: mixed\n"]);
    served.stop().await.check(0);
}

#[tokio::test]
async fn a_transaction_is_rolled_back_if_it_is_not_decided_and_no_gid_is_taken() {
    let served = Served::start(&[]).await;
    served.tx(&["rollback", "g"]).await.check(1).complains(&["GID_UNKNOWN"]);
    served.submit("g", &["hang"], &["--wait", "accepted"]).await.check(0);
    served.tx(&["rollback", "g"]).await.check(0).says(&["aborted", "gid    g\n"]);
    let again = served.tx(&["rollback", "g", "--json"]).await.check(0).json();
    assert_eq!((&again["outcome"], &again["abort_cause"]), (&"aborted".into(), &"rollback".into()));
    served.submit("h", &["ok"], &["--wait", "ended"]).await.check(0);
    let late = served.tx(&["rollback", "h"]).await;
    late.check(1).says(&["committed\n"]).complains(&["it is committed, and that stays so"]);
    served.stop().await.check(0);
}
