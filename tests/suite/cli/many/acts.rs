//! Acts on many by condition: counted, agreed to, and done; and the bar that tells how far they are.

use std::io::Write;

use serde_json::{Value, json};

use super::fake::{Fake, committing};
use super::in_terminal;
use crate::cli::{Served, until};

/// Calls of phase two that are not repeated, so that what fails is stuck.
const STUCK: &[&str] = &[
    "--stalled-after=50ms",
    "--call-timeout=5s",
    "--phase-two-backoff=1h",
    "--phase-two-backoff-max=1h",
];

/// Makes transactions whose Commit has failed once, of TCC with metadata.
async fn stuck(served: &Served, gids: &[&str]) {
    for gid in gids {
        served.submit(gid, &["commit-fail-9", "ok"], &[]).await.check(0);
        served.show_until(gid, "its alarm", |shown| shown["stalled"] == true).await;
    }
}

async fn audit(served: &Served, kind: &str) -> Vec<Value> {
    let args = ["audit", "list", "--json", "--limit=200", "--endpoint", &served.endpoint];
    let listed = super::run(&args).await.check(0).json();
    let entries = listed["entries"].as_array().unwrap_or_else(|| panic!("{listed}")).clone();
    entries.into_iter().filter(|entry| entry["kind"] == "asked" && entry["act"] == kind).collect()
}

#[tokio::test]
async fn branches_of_many_are_resolved_and_their_alarms_cleared_by_condition() {
    let served = Served::start(STUCK).await;
    stuck(&served, &["r-1", "r-2", "other"]).await;
    let resolve = async |more: &[&str]| {
        let all = ["resolve", "--all", "--as=committed", "--operator=ann", "--json"];
        served.tx(&[&all, more].concat()).await
    };
    let of_r = ["--participant=p", "--gid-prefix=r-"];
    for (more, lacks) in [
        (&["--participant=p"][..], "--note"),
        (&["--note=gone"], "--all needs --participant"),
        (&["--note=gone", "--participant=p", "--state=active"], "committing, aborting"),
        (&["--note=gone", "--participant=p", "--branch=a"], "cannot be used with"),
        (&["--note=gone", "--participant=p", "--output=1"], "cannot be used with"),
        (&["--note=gone", "--participant=p", "r-1"], "cannot be used with"),
        (&["--note=gone", "--participant=p"], "would resolve as committed each branch of p"),
    ] {
        resolve(more).await.check(2).complains(&[lacks]);
    }
    let counted = resolve(&[&of_r[..], &["--dry-run"]].concat()).await.check(0).json();
    assert_eq!((&counted["matched"], &counted["dry_run"]), (&json!(2), &json!(true)), "{counted}");
    // Each condition counts.
    for (more, matched) in [
        (&["--state=committing"][..], 2),
        (&["--state=aborting"], 0),
        (&["--mode=tcc"], 2),
        (&["--mode=saga"], 0),
        (&["--metadata=no=where"], 0),
        (&["--since=1h"], 2),
        (&["--until=1h"], 0),
        (&["--attention"], 2),
    ] {
        let counted = resolve(&[&of_r[..], &["--dry-run"], more].concat()).await.check(0).json();
        assert_eq!(counted["matched"], matched, "{more:?}");
    }
    assert!(audit(&served, "ResolveBranch").await.is_empty());
    let done = resolve(&[&of_r[..], &["--note=the bank is closed", "--yes"]].concat()).await;
    let expected = json!({ "act": "resolve", "matched": 2, "done": 2, "nothing_due": 0,
        "failed": 0, "unreadable": 0, "left": 0, "dry_run": false });
    assert_eq!(done.check(0).json(), expected);
    for gid in ["r-1", "r-2"] {
        let shown = served.tx(&["show", gid, "--json"]).await.check(0).json();
        assert_eq!(shown["branches"][0]["resolution_note"], "the bank is closed", "{shown}");
        assert_eq!(shown["heuristic"], "hazard", "{shown}");
    }
    let other = served.tx(&["show", "other", "--json"]).await.check(0).json();
    assert_eq!(other["state"], "committing", "it did not match");
    let entries = audit(&served, "ResolveBranch").await;
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert!(entries.iter().all(|entry| {
        entry["operator"] == "ann" && entry["reason"] == "as committed: the bank is closed"
    }));

    let forget = async |more: &[&str]| {
        let all = ["forget", "--all", "--operator=ann", "--json", "--gid-prefix=r-"];
        served.tx(&[&all, more].concat()).await
    };
    let counted = forget(&["--dry-run"]).await.check(0).json();
    assert_eq!(counted["matched"], 2, "{counted}");
    // Nobody has looked: each is refused, and told.
    let refused = forget(&["--note=paid", "--yes"]).await;
    let came = refused.check(1).json();
    assert_eq!((&came["failed"], &came["done"]), (&json!(2), &json!(0)), "{came}");
    assert_eq!(refused.err.matches("STILL_HELD").count(), 2, "{}", refused.err);
    let came = forget(&["--note=paid", "--released", "--yes"]).await.check(0).json();
    assert_eq!((&came["matched"], &came["done"]), (&json!(2), &json!(2)), "{came}");
    let counted = forget(&["--dry-run"]).await.check(0).json();
    assert_eq!(counted["matched"], 0, "{counted}");
    served.stop().await.check(0);
}

/// On a terminal it says what it will do to how many, and waits for a yes.
#[tokio::test]
async fn an_act_on_many_is_agreed_to_at_the_terminal() {
    let served = Served::start(STUCK).await;
    stuck(&served, &["s-1", "s-2"]).await;
    let ask = async |answer: &str, code: i32| {
        let endpoint = served.endpoint.as_str();
        let args = ["tx", "retry", "--all", "--operator=ann", "--note=up", "--endpoint", endpoint];
        let mut terminal = in_terminal(&args);
        until("the question", async || terminal.out().contains("[y/N]").then_some(())).await;
        let asked = terminal.out();
        for part in ["retry 2 transactions", "No decision changes", "At most 50 a second"] {
            assert!(asked.contains(part), "{part}: {asked}");
        }
        let mut keys = terminal.process.child().stdin.take().unwrap();
        keys.write_all(answer.as_bytes()).unwrap();
        let ran = terminal.end().await;
        ran.check(code);
        drop(keys);
        ran.out
    };
    let out = ask("n\n", 1).await;
    assert!(out.contains("nothing was done") && out.contains("2 were not tried"), "{out}");
    assert!(audit(&served, "RetryTransaction").await.is_empty());
    let out = ask("y\n", 0).await;
    assert!(out.contains("2 transactions: calls of 2 were sent"), "{out}");
    let entries = audit(&served, "RetryTransaction").await;
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert!(entries.iter().all(|entry| entry["reason"] == "up"), "{entries:?}");
    // The reason of a retry of one is kept, too, and none is needed.
    served.tx(&["retry", "s-1", "--note", "one more"]).await.check(0);
    served.tx(&["retry", "s-1"]).await.check(0);
    let reasons: Vec<_> = audit(&served, "RetryTransaction").await;
    assert!(reasons.iter().any(|entry| entry["reason"] == "one more"), "{reasons:?}");
    served.stop().await.check(0);
}

/// Long work shows a bar on a terminal, which keeps to its line, and a line now and then where there is none.
#[tokio::test]
async fn long_work_tells_how_far_it_is() {
    let listed = (0..120).map(|of| committing(&format!("t{of}"), 9)).collect();
    let fake = Fake::start(listed, 500).await;
    let all = ["tx", "retry", "--all", "--note=n", "--yes", "--operator=ann"];
    let at = ["--endpoint", fake.endpoint.as_str()];
    let mut terminal = in_terminal(&[&all[..], &["--pace=60"], &at].concat());
    let ran = terminal.end().await;
    ran.check(0);
    let bars: Vec<_> = ran.out.split('\r').filter(|part| part.contains("of 120 tr")).collect();
    assert!(bars.len() >= 3, "{}", ran.out);
    assert!(bars.iter().all(|bar| bar.starts_with("\u{1b}[K[") && bar.chars().count() < 83));
    assert!(ran.out.contains("###") && ran.out.contains(" s left"), "{}", ran.out);
    assert!(ran.out.contains("\r\u{1b}[K120 transactions: calls of 120"), "{}", ran.out);
    let piped = super::run(&[&all[..], &["--pace=20"], &at].concat()).await;
    piped.check(0).complains(&[" of 120 transactions, "]);
    assert!(!piped.err.contains('\r') && piped.err.lines().count() <= 2, "{}", piped.err);
}
