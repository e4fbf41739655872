//! Steps of sagas that do not end by themselves, as an operator sees and ends them.

use std::fs;

use serde_json::Value;
use unanimo_tests::scripted::Mood;
use unanimo_tests::wait::until;

use super::{Program, Ran, Served, command, new_path};

impl Served {
    /// Runs a saga of these steps, and returns what was said.
    async fn run_steps(&self, gid: &str, steps: &str) -> Ran {
        let path = new_path(".yaml");
        fs::write(&path, format!("saga: s\nsteps:\n{steps}")).unwrap();
        let path = path.display().to_string();
        let args = ["saga", "run", &path, "--gid", gid, "--endpoint", &self.endpoint];
        Program::start(command(&args)).end().await
    }
}

/// S11: what is refused and may only succeed is told with its name and with what to do, in the list and alone.
#[tokio::test]
async fn s11_a_step_that_is_refused_after_commit_is_told() {
    let served = Served::start(&["--phase-two-backoff=1h", "--phase-two-backoff-max=1h"]).await;
    let steps = "  pay: {participant: p, action: ok, pivot: true, compensation: none}\n  ship: {participant: p, \
                 action: refuse, after: pay, compensation: none}\n";
    served.run_steps("g", steps).await.check(0);
    until("the alarm", async || {
        let listed = served.tx(&["list", "--attention"]).await;
        listed.check(0).out.contains("stalled (refused_after_commit)").then_some(())
    })
    .await;
    let listed = served.tx(&["list", "--attention", "--json"]).await.json();
    assert_eq!(listed["transactions"][0]["alarms"], serde_json::json!(["refused_after_commit"]));
    let shown = served.tx(&["show", "g", "--json"]).await.check(0).json();
    let sentence = shown["waiting"]["sentence"].as_str().unwrap();
    for part in [
        "Prepare of branch ship was sent to participant p at ",
        ", and was refused, although COMMIT is decided and it must succeed; it is sent again at ",
        "; last error: REFUSED after COMMIT: NO_MONEY: ",
        "; repair what the refusal names, and `unanimo tx retry` sends it at once; if it can never be done, end it \
         with `unanimo tx resolve`",
    ] {
        assert!(sentence.contains(part), "{part}: {sentence}");
    }
    assert!(!sentence.contains("is not answered"), "{sentence}");

    let resolve = ["resolve", "g", "--operator=ann", "--note=gone", "--as=rolled-back", "--branch"];
    let of_pay = served.tx(&[&resolve[..], &["pay"]].concat()).await;
    of_pay.check(1).complains(&[
        "step pay is neither to be compensated, nor to be done after COMMIT, nor a pivot that was sent: there is \
         nothing to resolve",
    ]);
    let of_ship = served.tx(&[&resolve[..], &["ship"]].concat()).await;
    let left = "participant p (step ship) has not confirmed that the step is done, and may not have done it";
    of_ship.check(0).complains(&[left]);
    let forget = ["forget", "g", "--operator=ann", "--note=sent by hand"];
    served.tx(&forget).await.check(1).complains(&[left, "with --released", "docs/sagas.md"]);
    let shown = served.tx(&["show", "g", "--json"]).await.json();
    assert_eq!(shown["alarms"], serde_json::json!([]));
    served.stop().await.check(0);
}

/// Prepared, reserved, or done: what may be left is told in the words of the branch's mode.
#[tokio::test]
async fn what_an_ended_branch_may_have_left_is_told_by_its_mode() {
    let served = Served::start(&["--phase-two-backoff=1h", "--phase-two-backoff-max=1h"]).await;
    served.p.set_mood(Mood::FailingInPhaseTwo);
    let steps = "  step: {participant: p, action: ok}\n  try: {participant: p, action: ok, mode: tcc}\n  xa: \
                 {participant: p, action: ok, mode: 2pc}\n  no: {participant: p, action: refuse, after: [step, try, xa]}\n";
    served.run_steps("g", steps).await.check(4);
    let resolve = ["resolve", "g", "--operator=ann", "--note=gone", "--as=hazard", "--branch"];
    for (branch, left) in [
        (
            "step",
            "(step step) has not confirmed the compensation, and may not have undone the step",
        ),
        (
            "try",
            "(branch try) has not confirmed the end of the branch that an operator resolved, and may still hold what it had reserved",
        ),
        (
            "xa",
            "(branch xa) has not confirmed the end of the branch that an operator resolved, and may still hold what it had prepared",
        ),
    ] {
        let ran = served.tx(&[&resolve[..], &[branch]].concat()).await;
        ran.check(0).complains(&["participant p ", left]);
    }
    for (branch, told) in [(
        "no",
        "step no is neither to be compensated, nor to be done after COMMIT, nor a pivot that was sent: ",
    )] {
        served.tx(&[&resolve[..], &[branch]].concat()).await.check(1).complains(&[told]);
    }
    served.stop().await.check(0);
}

/// A step that wants to be waited for longer than any call is told with its field, and not for each run again.
#[tokio::test]
async fn an_attempt_timeout_beyond_the_call_timeout_is_told_at_begin() {
    let served = Served::start(&["--log-format=json", "--call-timeout=5s"]).await;
    let steps = "  fit: {participant: p, action: ok, attempt_timeout: 5s}\n  long: {participant: p, action: ok, \
                 attempt_timeout: 5001ms}\n";
    for gid in ["one", "two"] {
        let ran = served.run_steps(gid, steps).await;
        ran.check(0);
        assert!(!ran.err.contains("warning"), "5001ms is within the default: {}", ran.err);
    }
    let lines: Vec<Value> = served
        .program
        .err()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line.to_string().contains("attempt_timeout"))
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    assert_eq!((&line["level"], &line["gid"]), (&"WARN".into(), &"one".into()), "{line}");
    assert_eq!(line["field"], "branches[1].attempt_timeout", "{line}");
    assert_eq!(
        (&line["branch_id"], &line["call_timeout"]),
        (&"long".into(), &"5s".into()),
        "{line}"
    );
    let beyond = "  long: {participant: p, action: ok, attempt_timeout: 10001ms}\n";
    let ran = served.run_steps("three", beyond).await;
    ran.check(0).complains(&[
        "warning: ",
        ":3:55: steps.long.attempt_timeout is beyond the coordinator's call-timeout",
    ]);
    served.stop().await.check(0);
}
