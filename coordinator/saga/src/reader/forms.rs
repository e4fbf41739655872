//! Texts of a form: durations, times, names of locks, and what is said of those that are none.

use std::time::Duration;

use unanimo_core::{Timestamp, ids};

use crate::fields::Object;
use crate::nearest::hint;
use crate::tree::Value;

/// Form of a text.
pub(super) struct Form<T> {
    /// Name and example, fitting after "must be".
    pub(super) kind: &'static str,
    pub(super) parse: fn(&str) -> Option<T>,
    /// More about a text that is none; empty if there is nothing to say.
    pub(super) hint: fn(&str) -> String,
}

pub(super) const DURATION: Form<Duration> = Form {
    kind: "a duration such as 250ms, 15s or 1h 30m",
    parse: parse_duration,
    hint: duration_hint,
};

pub(super) const TIME: Form<Timestamp> = Form {
    kind: "a time such as 2026-01-31T12:00:00Z",
    parse: parse_time,
    hint: |_| String::new(),
};

/// Most digits that are shown once more.
const DIGITS_MAX: usize = 12;

/// Name and example of a lock, fitting after "must be".
pub(super) const LOCK_NAME: &str = "the name of a lock, such as account:42";

/// Units longer than an hour, with their hours; those without have not always as many.
const LONG_UNITS: [(&[&str], u64); 3] = [
    (&["d", "day", "days"], 24),
    (&["w", "wk", "wks", "week", "weeks"], 7 * 24),
    (&["mo", "mos", "month", "months", "y", "yr", "yrs", "year", "years"], 0),
];

fn parse_duration(text: &str) -> Option<Duration> {
    Duration::try_from(text.parse::<jiff::SignedDuration>().ok()?).ok()
}

/// Reads a time of RFC 3339.
fn parse_time(text: &str) -> Option<Timestamp> {
    let at: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok().map(Timestamp)
}

/// Tells of a duration without a unit, or with one that has not the same length always and everywhere.
fn duration_hint(text: &str) -> String {
    let text = text.trim();
    let is_digit = |c: char| c.is_ascii_digit();
    if text.parse::<f64>().is_ok() && text.ends_with(is_digit) {
        return match text.len() <= DIGITS_MAX && text.chars().all(is_digit) {
            true => format!("; it needs a unit, such as {text}s"),
            false => "; it needs a unit, such as s".to_owned(),
        };
    }
    let words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    let long = |word: &str| LONG_UNITS.iter().find(|(names, _)| names.contains(&word));
    let Some((_, hours)) = words.into_iter().find_map(|word| long(&word.to_lowercase())) else {
        return String::new();
    };
    let unit = text.trim_start_matches(is_digit);
    let count = text[..text.len() - unit.len()].parse::<u64>().ok();
    let is_all = unit.trim().chars().all(|c| c.is_ascii_alphabetic());
    match count.and_then(|count| count.checked_mul(*hours)).filter(|hours| *hours > 0 && is_all) {
        Some(hours) => format!("; the longest unit is the hour, so write {hours}h"),
        None => "; the longest unit is the hour, so write 24h for a day".to_owned(),
    }
}

/// Tells of an object that was to be the name of a lock: YAML takes what stands behind a colon and a space for a value.
pub(super) fn name_with_a_gap(value: &Value) -> Option<String> {
    let Value::Map(entries) = value else { return None };
    let (key, node) = entries.iter().next().filter(|_| entries.len() == 1)?;
    let (Value::Text(rest) | Value::Number(rest)) = &node.value else { return None };
    let known = || Object::Lock.fields().iter().map(|field| field.name);
    let is_field = known().any(|name| name == key.name) || !hint(&key.name, known()).is_empty();
    let is_short = key.name.len() + rest.len() < ids::NAME_BYTES_MAX;
    (!is_field && is_short).then(|| {
        format!(
            "must be {LOCK_NAME}, is an object; write \"{}:{rest}\" without a space behind the colon",
            key.name
        )
    })
}
