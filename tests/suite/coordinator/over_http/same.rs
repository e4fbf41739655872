//! Comparison of two answers to the same call, one after the other.

use prost_types::Timestamp;
use serde_json::{Map, Value};

/// Numbers and times of GetStatistics and of participants' calls that go on.
const OF_THE_MOMENT: &[&str] = &[
    "steps",
    "undecidedFor",
    "owedFor",
    "flushP50",
    "flushP99",
    "journalBacklogCount",
    "purgedAt",
    "countedFrom",
    "callCount",
    "callP50",
    "callP99",
    "failedCount",
    "lastErrorAt",
];

/// Those of them that are in every answer.
const IN_EACH: &[&str] = &["answeredAt", "window", "recent"];

/// Checks that the second answer is the first one, or what became of it meanwhile: numbers that grow have not become less, and
/// what was told is told again.
#[track_caller]
pub(super) fn same(of: &str, first: &Value, second: &Value) {
    match (first, second) {
        (Value::Object(first), Value::Object(second)) => {
            let names = first.keys().chain(second.keys());
            for name in names.filter(|name| !OF_THE_MOMENT.contains(&name.as_str())) {
                field(&format!("{of}: {name}"), name, first, second);
            }
        }
        (Value::Array(first), Value::Array(second)) => {
            assert_eq!(first.len(), second.len(), "{of}: {first:?} and {second:?}");
            first.iter().zip(second).for_each(|(first, second)| same(of, first, second));
        }
        _ => assert_eq!(first, second, "{of}"),
    }
}

#[track_caller]
fn field(of: &str, name: &str, first: &Map<String, Value>, second: &Map<String, Value>) {
    let (one, other) = (&first.get(name), &second.get(name));
    let both = format!("{one:?} and {other:?}");
    match name {
        "revision" | "count" => assert!(number(*one) <= number(*other), "{of}: {both}"),
        "lastAt" => assert!(time(*one) <= time(*other), "{of}: {both}"),
        // Reckoned from how long ago it was, at the time of the answer: both are rounded.
        "lastSeenAt" => {
            let (one, other) = (time(*one), time(*other));
            assert_eq!(one.is_some(), other.is_some(), "{of}: {both}");
            let rounded = other.map(|(seconds, nanos)| match nanos + 1_000_000 {
                more if more < 1_000_000_000 => (seconds, more),
                more => (seconds + 1, more - 1_000_000_000),
            });
            assert!(one <= rounded, "{of}: {both}");
        }
        "eventId" => {
            let is_id =
                |of: &Option<&Value>| of.and_then(Value::as_str).is_some_and(|id| !id.is_empty());
            assert!(is_id(one) && is_id(other), "{of}: {both}");
        }
        "timeline" => {
            let (one, other) = (events(*one), events(*other));
            assert!(other.starts_with(&one), "{of}: {one:?} is not the beginning of {other:?}");
        }
        "waiting" => {
            let (one, other) = (one.map(waiting), other.map(waiting));
            assert_eq!(one, other, "{of}");
        }
        name if IN_EACH.contains(&name) => {
            assert!(one.is_some() && other.is_some(), "{of}: {both}");
        }
        _ => match (one, other) {
            (Some(one), Some(other)) => same(of, one, other),
            _ => panic!("{of} is in one answer alone: {both}"),
        },
    }
}

/// Returns a number, which is a text where it has 64 bits, and is left out where it is 0.
fn number(of: Option<&Value>) -> u64 {
    let Some(of) = of else { return 0 };
    let of_text = of.as_str().and_then(|text| text.parse().ok());
    of.as_u64().or(of_text).unwrap_or_else(|| panic!("{of} is no number"))
}

fn time(of: Option<&Value>) -> Option<(i64, i32)> {
    of.map(|at| {
        let parsed = at.as_str().and_then(|at| at.parse::<Timestamp>().ok());
        let Timestamp { seconds, nanos } = parsed.unwrap_or_else(|| panic!("{at} is no time"));
        (seconds, nanos)
    })
}

/// Returns the events of a timeline without their times.
fn events(of: Option<&Value>) -> Vec<Value> {
    let mut events = of.and_then(Value::as_array).cloned().unwrap_or_default();
    for event in &mut events {
        let at = event.as_object_mut().and_then(|event| event.remove("occurredAt"));
        assert!(time(at.as_ref()).is_some(), "{event} has no time");
    }
    events
}

/// Returns what a transaction waits for, without the times: a call that is waited for and one that comes again are one cause.
fn waiting(of: &Value) -> (String, Value, Value) {
    assert!(of["sentence"].as_str().is_some_and(|sentence| !sentence.is_empty()), "{of}");
    let cause = of["cause"].as_str().unwrap();
    let cause = if cause == "WAIT_CAUSE_RETRY" { "WAIT_CAUSE_ANSWER" } else { cause };
    (cause.to_owned(), of["branchId"].clone(), of["branchCount"].clone())
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use serde_json::json;

    use super::*;

    #[test]
    fn answers_that_differ_are_found() {
        let event = |at: &str, event: &str| json!({ "occurredAt": at, "event": event });
        let (at, later) = ("2026-01-31T12:00:00Z", "2026-01-31T12:00:01Z");
        for (first, second, expected) in [
            (json!({"a": [1, {"b": "c"}]}), json!({"a": [1, {"b": "c"}]}), true),
            (json!({"a": 1}), json!({"a": 2}), false),
            (json!({"a": 1}), json!({}), false),
            (json!({}), json!({"a": 1}), false),
            (json!({"a": [1]}), json!({"a": [1, 2]}), false),
            (json!({"revision": "9"}), json!({"revision": "10"}), true),
            (json!({"revision": "10"}), json!({"revision": "9"}), false),
            (json!({}), json!({"count": 1}), true),
            (json!({"count": 1}), json!({}), false),
            (json!({"lastAt": at}), json!({"lastAt": later}), true),
            (json!({"lastAt": later}), json!({"lastAt": at}), false),
            (json!({"timeline": [event(at, "a")]}), json!({"timeline": [event(later, "a")]}), true),
            (json!({"timeline": [event(at, "a")]}), json!({"timeline": [event(at, "b")]}), false),
            (json!({"timeline": [event(at, "a")]}), json!({}), false),
            (
                json!({"waiting": {"cause": "WAIT_CAUSE_RETRY", "branchId": "a", "sentence": "x"}}),
                json!({"waiting": {"cause": "WAIT_CAUSE_ANSWER", "branchId": "a", "sentence": "y"}}),
                true,
            ),
            (
                json!({"waiting": {"cause": "WAIT_CAUSE_RETRY", "branchId": "a", "sentence": "x"}}),
                json!({"waiting": {"cause": "WAIT_CAUSE_RETRY", "branchId": "b", "sentence": "x"}}),
                false,
            ),
            (json!({"waiting": {"cause": "", "sentence": "x"}}), json!({}), false),
            (json!({"window": {}}), json!({"window": {"x": 1}}), true),
            (json!({"window": {}}), json!({}), false),
            (json!({"eventId": "x"}), json!({"eventId": "y"}), true),
            (json!({"eventId": "x"}), json!({"eventId": ""}), false),
        ] {
            let found = catch_unwind(|| same("x", &first, &second)).is_ok();
            assert_eq!(found, expected, "{first} and {second}");
        }
    }
}
