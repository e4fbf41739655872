use serde_json::{Value, json};

use super::*;

fn tx(of: Value) -> Tx {
    serde_json::from_value(of).expect("a transaction")
}

fn drawn(of: Value) -> Chart {
    Chart::of(&tx(of), None, "2026-03-04T12:10:00Z".parse().expect("a time"))
}

/// A branch whose first attempts failed, and that votes and ends at last.
fn retried(mode: &str, state: &str) -> Value {
    json!({
        "branchId": "debit", "mode": mode, "state": state, "vote": "VOTE_PREPARED",
        "votedAt": "2026-03-04T12:00:02Z", "endedAt": "2026-03-04T12:00:10Z",
        "prepareAttempts": {"count": 3, "firstAt": "2026-03-04T12:00:00Z",
            "lastAt": "2026-03-04T12:00:01Z", "firstError": "refused", "lastError": "timed out"},
        "phaseTwoAttempts": {"count": 1, "firstAt": "2026-03-04T12:00:03Z",
            "lastAt": "2026-03-04T12:00:03Z"},
    })
}

fn ended(outcome: &str, branch: &Value) -> Value {
    json!({
        "createdAt": "2026-03-04T12:00:00Z", "decidedAt": "2026-03-04T12:00:03Z",
        "endedAt": "2026-03-04T12:00:10Z", "outcome": outcome, "branches": [branch],
    })
}

/// A bar has the name of the call that it is, by mode and outcome.
#[test]
fn a_bar_is_named_after_its_call() {
    let (committed, aborted) = ("OUTCOME_COMMITTED", "OUTCOME_ABORTED");
    for (mode, state, outcome, expected) in [
        ("MODE_TCC", "COMMITTED", committed, ["prepare", "commit"]),
        ("MODE_TWO_PHASE_COMMIT", "CANCELLED", aborted, ["prepare", "cancel"]),
        ("MODE_SAGA", "CANCELLED", aborted, ["action", "compensate"]),
        ("MODE_SAGA", "COMMITTED", committed, ["action", "commit"]),
        // Its own state counts: it was ended against the decision.
        ("MODE_TCC", "HEURISTIC_ROLLBACK", committed, ["prepare", "commit"]),
        ("MODE_TCC", "HEURISTIC_COMMIT", aborted, ["prepare", "cancel"]),
    ] {
        let chart = drawn(ended(outcome, &retried(mode, &format!("BRANCH_STATE_{state}"))));
        let classes: Vec<_> = chart.rows[0].bars.iter().map(|bar| bar.class).collect();
        assert_eq!(classes, expected, "{mode} {state} {outcome}");
        let calls: Vec<_> = chart.tries.iter().map(|one| one.call).collect();
        let names = ["Prepare", "Commit", "Cancel", "action", "compensation"];
        assert!(calls.iter().all(|call| names.contains(call)) && calls[0] != calls[1]);
        let legend: Vec<_> = chart.legend.iter().map(|(class, _)| *class).collect();
        let decided = if outcome == committed { "committed" } else { "aborted" };
        assert_eq!(legend, [expected[0], expected[1], "begun", "vote", "ended", decided, "end"]);
    }
}

/// Number, times and errors of the attempts can be read, and not only by a pointer over the picture.
#[test]
fn attempts_are_told_in_words_with_both_errors() {
    let chart = drawn(ended("OUTCOME_COMMITTED", &retried("MODE_TCC", "BRANCH_STATE_COMMITTED")));
    assert_eq!(
        chart.tries[0],
        Try {
            branch: "debit".into(),
            call: "Prepare",
            number: "3".into(),
            from: "2026-03-04 12:00:00.000".into(),
            to: "2026-03-04 12:00:01.000".into(),
            said: "first: refused; last: timed out".into(),
            is_bad: false,
        }
    );
    assert_eq!((&*chart.tries[1].number, &*chart.tries[1].said), ("1", ""));
    let row = &chart.rows[0];
    assert_eq!((row.ticks.as_slice(), &*row.count), (&[220.0, 297.0][..], "4×"));
    assert_eq!((row.bars[0].x, row.bars[0].width), (220.0, 154.0));
    let points: Vec<_> = row.points.iter().map(|point| (point.class, &*point.title)).collect();
    assert_eq!(points, [("vote", "voted prepared"), ("ended", "ended: committed")]);
    assert_eq!(row.points[0].x, 374.0);
    assert!(!chart.is_recorded && chart.writes.is_empty());
}

/// One that fails has no answer: its bar goes to the right end.
#[test]
fn what_fails_is_shown_as_failing() {
    let mut branch = retried("MODE_TCC", "BRANCH_STATE_COMMITTING");
    branch["endedAt"] = json!("");
    branch["phaseTwoAttempts"]["lastError"] = json!("connection refused");
    let mut of = ended("OUTCOME_COMMITTED", &branch);
    of["endedAt"] = json!("");
    let chart = drawn(of);
    let bar = &chart.rows[0].bars[1];
    assert!(bar.class == "failing" && (bar.x + bar.width - 990.0).abs() < 0.1, "{bar:?}");
    assert!(chart.tries[1].is_bad && chart.tries[1].said == "connection refused");
    assert_eq!(bar.title, "Commit, 1 in 9 min: connection refused");
    assert!(chart.legend.contains(&("failing", "failing")));
    assert!(chart.legend.iter().all(|(class, _)| *class != "end"));
}

#[test]
fn a_long_name_is_cut_and_told_in_full() {
    let name = "0123456789".repeat(5);
    let branch = json!({"branchId": name, "prepareAttempts": {"count": 1, "firstAt": "2026-03-04T12:00:00Z", "lastAt": "2026-03-04T12:00:00Z"}});
    let chart = drawn(json!({"createdAt": "2026-03-04T12:00:00Z", "branches": [branch]}));
    let row = &chart.rows[0];
    assert_eq!((row.label.chars().count(), &row.name), (LABEL_MAX + 1, &name));
    assert_eq!(chart.tries[0].branch, name);
    assert_eq!(row.count, "", "there is one alone");
}

#[test]
fn more_attempts_than_can_be_read_are_counted() {
    let branches: Vec<_> = (0..150)
        .map(|n| {
            let mut branch = retried("MODE_TCC", "BRANCH_STATE_COMMITTED");
            branch["branchId"] = json!(format!("b-{n}"));
            branch
        })
        .collect();
    let mut of = ended("OUTCOME_COMMITTED", &json!({}));
    of["branches"] = json!(branches);
    let chart = drawn(of);
    assert_eq!((chart.tries.len(), chart.tries_left_out), (LISTED_MAX, 100));
}

fn example() -> unanimo_core::history::Document {
    let text = include_str!("../../../../tests/histories/0.1.0/saga-gives-up-attempts.json");
    serde_json::from_str(text).expect("a document")
}

/// Of a recorded transaction each attempt has a bar, and each version a line.
#[test]
fn a_recorded_history_has_single_attempts_and_versions() {
    let document = example();
    let recording = Recording::of(&document);
    let of = json!({
        "createdAt": "2026-01-01T00:00:00Z", "endedAt": "2026-01-01T00:00:00.168Z",
        "outcome": "OUTCOME_ABORTED", "decidedAt": "2026-01-01T00:00:00.154Z",
        "branches": [
            {"branchId": "a", "mode": "MODE_SAGA", "state": "BRANCH_STATE_CANCELLED"},
            {"branchId": "b", "mode": "MODE_SAGA", "state": "BRANCH_STATE_CANCELLED"},
        ],
    });
    let chart = Chart::of(&tx(of), Some(&recording), Timestamp::UNIX_EPOCH);
    let tries: Vec<_> =
        chart.tries.iter().map(|one| (&*one.branch, one.call, &*one.number)).collect();
    assert_eq!(
        tries,
        [
            ("a", "action", "1"),
            ("a", "compensation", "1"),
            ("b", "action", "1"),
            ("b", "action", "2"),
            ("b", "action", "3"),
            ("b", "compensation", "1"),
        ]
    );
    assert!(chart.tries[2].is_bad && !chart.tries[2].said.is_empty(), "{:?}", chart.tries[2]);
    assert_eq!(chart.tries[2].from, "2026-01-01 00:00:00.007");
    assert_eq!(chart.tries[2].to, "2026-01-01 00:00:00.014");
    let classes: Vec<_> = chart.rows[1].bars.iter().map(|bar| bar.class).collect();
    assert_eq!(classes, ["failing", "failing", "failing", "compensate"]);
    let written: Vec<_> = chart.writes.iter().map(|(version, at)| (*version, &at[17..])).collect();
    assert_eq!(
        written,
        [(1, "00.000"), (2, "00.014"), (3, "00.071"), (4, "00.154"), (5, "00.168")]
    );
    assert_eq!(chart.marks.iter().filter(|mark| mark.class == "write").count(), 5);
    assert!(chart.is_recorded && chart.legend.contains(&("write", "durable write")));
}

/// A failure is recorded with the next write: until then the picture has what the API tells.
#[test]
fn attempts_that_are_not_recorded_yet_are_drawn_as_the_api_tells_them() {
    let recording = Recording::to(&example(), 2);
    let chart = |count: u32, error: &str| {
        let of = json!({
            "createdAt": "2026-01-01T00:00:00Z",
            "branches": [
                {"branchId": "a", "mode": "MODE_SAGA", "votedAt": "2026-01-01T00:00:00.007Z",
                    "prepareAttempts": {"count": 1, "firstAt": "2026-01-01T00:00:00Z", "lastAt": "2026-01-01T00:00:00Z"}},
                {"branchId": "b", "mode": "MODE_SAGA",
                    "prepareAttempts": {"count": count, "firstAt": "2026-01-01T00:00:00.007Z", "lastAt": "2026-01-01T00:00:03Z", "lastError": error}},
            ],
        });
        let now = "2026-01-01T00:00:10Z".parse().expect("a time");
        let chart = Chart::of(&tx(of), Some(&recording), now);
        let said: Vec<_> =
            chart.tries[1..].iter().map(|one| format!("{}: {}", one.number, one.said)).collect();
        (said, chart.rows[1].count.clone())
    };
    assert_eq!(chart(1, ""), (vec!["1: no answer yet".to_owned()], String::new()));
    assert_eq!(chart(1, "down"), (vec!["1: down".to_owned()], String::new()));
    let first = "1: failed: its error is not recorded yet".to_owned();
    assert_eq!(chart(2, "down"), (vec![first.clone(), "2: down".to_owned()], "2×".to_owned()));
    assert_eq!(chart(9, "down"), (vec![first, "2 to 9: down".to_owned()], "9×".to_owned()));
}

/// Step by step only what has happened until then is there: an answer that is to come is none.
#[test]
fn a_history_is_drawn_as_far_as_it_has_come() {
    let document = example();
    for (inputs, attempts, answered, writes) in
        [(1, 1, 0, 1), (2, 2, 1, 1), (3, 2, 2, 2), (4, 3, 2, 2), (5, 3, 3, 3)]
    {
        let recording = Recording::to(&document, inputs);
        let open = recording.attempts.iter().filter(|one| one.until.is_some()).count();
        assert_eq!(
            (recording.attempts.len(), open, recording.writes.len()),
            (attempts, answered, writes),
            "{inputs}"
        );
    }
    assert_eq!(Recording::to(&document, usize::MAX).attempts, Recording::of(&document).attempts);
}

/// An adopted transaction waits for no answer of before.
#[test]
fn an_attempt_of_an_incarnation_that_went_away_has_ended() {
    let text = include_str!("../../../../tests/histories/0.1.0/saga-crashes.json");
    let document = serde_json::from_str(text).expect("a document");
    let recording = Recording::of(&document);
    let lost = |one: &&recording::Attempt| one.said.contains("another incarnation");
    let lost: Vec<_> = recording.attempts.iter().filter(lost).collect();
    assert!(!lost.is_empty(), "{:?}", recording.attempts);
    assert!(lost.iter().all(|one| one.is_bad && one.until.is_some()));
}
