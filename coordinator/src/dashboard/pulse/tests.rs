use serde_json::json;

use super::*;

#[test]
fn numbers_are_shown_with_their_lines() {
    let answer = json!({
        "window": {"beganAt": "2026-03-04T12:00:00Z", "length": "600s", "begunCount": "90",
            "committedCount": "60", "refusedCount": "1", "decisionP50": "0.001250s", "decisionP99": "1.5s"},
        "recent": {"length": "10s", "begunCount": "25"},
        "steps": [
            {"length": "5s", "begunCount": "10"}, {"length": "5s"}, {"length": "5s", "begunCount": "5"},
        ],
        "inFlightCount": "7", "owedCount": "2", "owedFor": "130s",
        "undecidedCount": "1", "undecidedFor": "15.6s",
    });
    let statistics: Statistics = serde_json::from_value(answer).expect("an answer");
    let beats = statistics.beats();
    let of = |name: &str| beats.iter().find(|beat| beat.name == name).expect("it is there");
    let begun = of("begun a second");
    assert_eq!((begun.value.as_str(), begun.more.as_str()), ("2.5", "90 in all"));
    let spark = begun.spark.as_ref().expect("a line");
    assert_eq!(spark.path, "M0.0 1.0L120.0 39.0L240.0 20.0");
    assert_eq!(spark.label, "begun a second: first 2.0, last 1.0, at most 2.0");
    let took = of("time to decision, p50");
    assert_eq!((took.value.as_str(), took.more.as_str()), ("1.2 ms", "p99 1.5 s"));
    assert_eq!(of("owed a Commit or Cancel").more, "the oldest has waited 2 min");
    assert_eq!(of("undecided").more, "the oldest began 15.6 s ago");
    assert_eq!(of("in doubt").more, "");
    assert!(!of("refused a second").is_bad, "none was lately");
    assert_eq!(
        (statistics.span().as_str(), statistics.since().as_str()),
        ("10 min", "2026-03-04 12:00:00")
    );
    assert_eq!(Spark::of(&[1.0], "one", |v| v.to_string()), None);
}

#[test]
fn what_is_not_known_is_no_number() {
    let names = |answer: serde_json::Value| -> Vec<&'static str> {
        let statistics: Statistics = serde_json::from_value(answer).expect("an answer");
        statistics.beats().iter().map(|beat| beat.name).collect()
    };
    let of_transactions = ["in memory", "undecided", "in doubt", "owed a Commit or Cancel"];
    assert_eq!(names(json!({"inFlightCount": "3"})), of_transactions);
    let all = names(json!({"window": {"beganAt": "2026-03-04T12:00:00Z", "length": "600s"}}));
    assert_eq!(all.len(), 9);
}

/// An age is of a time that is past, and this lasts.
#[test]
fn a_participant_fails_for_a_time() {
    let health = |since: &str| -> Health {
        let health = json!({"failing": true, "failingSinceAt": since});
        serde_json::from_value(health).expect("health")
    };
    let word = health(&crate::dashboard::words::ago(185)).word();
    assert_eq!(word, "fails, for 3 min");
    assert_eq!(health("").word(), "fails");
}

/// A closed breaker is not taken for answers: a few records that always fail do not open it.
#[test]
fn a_participant_whose_calls_fail_is_not_said_to_answer() {
    for (failed, calls, word, tone) in [
        (0, 0, "not called lately", ""),
        (0, 20, "answers", "good"),
        (49, 1_000, "answers", "good"),
        (50, 1_000, "some calls fail", "wait"),
        (499, 1_000, "some calls fail", "wait"),
        (500, 1_000, "most calls fail", "bad"),
        (18, 20, "most calls fail", "bad"),
        (1, 1, "most calls fail", "bad"),
    ] {
        let health = json!({"failedCount": failed.to_string(), "callCount": calls.to_string()});
        let health: Health = serde_json::from_value(health).expect("health");
        assert_eq!((health.word().as_str(), health.tone()), (word, tone), "{failed} of {calls}");
    }
}

#[test]
fn what_the_process_has_in_trouble_is_told() {
    let server = |of: serde_json::Value| -> Vec<String> {
        let server: Server = serde_json::from_value(of).expect("a server");
        server.troubles().iter().map(|(name, why)| format!("{name}: {why}")).collect()
    };
    assert_eq!(server(json!({})), [""; 0], "nothing is known of it");
    assert_eq!(server(json!({"node": "one", "leaseHeld": true})), [""; 0]);
    let all = server(json!({
        "node": "one", "purgeLateBy": "3600s", "damagedRangeCount": "2",
        "alarms": [{"name": "clock_skew", "count": "2"}, {"name": "keys_not_fetched", "count": "1"}],
    }));
    assert_eq!(
        all,
        [
            "clock_skew: 2 of them.",
            "keys_not_fetched: ",
            "lease_lost: Its lease has run out: it decides and sends nothing.",
            "purge_late: The purge is late by 60 min: the log says why.",
            "log_damaged: Places of damage in the log of which not even the names of the transactions are known: 2.",
        ]
    );
}

#[test]
fn a_share_of_failures_is_never_nothing_where_one_failed() {
    let share = |failed: u64, calls: u64| {
        let health = json!({"failedCount": failed.to_string(), "callCount": calls.to_string()});
        serde_json::from_value::<Health>(health).expect("health").share()
    };
    assert_eq!(share(0, 0), "0.0 %");
    assert_eq!(share(1, 5_000), "below 0.1 %");
    assert_eq!(share(1, 3), "33.3 %");
    assert_eq!(share(9, 9), "100.0 %");
}
