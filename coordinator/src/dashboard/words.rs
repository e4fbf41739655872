//! Words of the pages for what the contract's JSON says.

use jiff::{SignedDuration, Timestamp};

/// States by which a list can be filtered.
pub(super) const STATES: &[(&str, &str)] = &[
    ("TRANSACTION_STATE_SCHEDULED", "scheduled"),
    ("TRANSACTION_STATE_ACTIVE", "active"),
    ("TRANSACTION_STATE_IN_DOUBT", "in doubt"),
    ("TRANSACTION_STATE_COMMITTING", "committing"),
    ("TRANSACTION_STATE_ABORTING", "aborting"),
    ("TRANSACTION_STATE_COMMITTED", "committed"),
    ("TRANSACTION_STATE_ABORTED", "aborted"),
];

pub(super) fn now() -> Timestamp {
    Timestamp::now()
}

/// Returns the time so many seconds ago, as JSON has it.
pub(super) fn ago(secs: i64) -> String {
    let before = now().checked_sub(SignedDuration::from_secs(secs)).unwrap_or(Timestamp::MIN);
    format!("{before:.0}")
}

/// Returns a value of an enum without its prefix, in lower case.
pub(super) fn word(value: &str, prefix: &str) -> String {
    value.strip_prefix(prefix).unwrap_or(value).to_lowercase().replace('_', " ")
}

/// Returns a time as people read it, in UTC.
pub(super) fn time(text: &str) -> String {
    let seconds = text.split(['.', 'Z']).next().unwrap_or_default();
    seconds.replace('T', " ")
}

/// Returns a name of JSON as words.
pub(super) fn spaced(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

/// Returns a duration in the unit that tells most.
pub(super) fn duration(millis: i64) -> String {
    match millis {
        ..1_000 => format!("{millis} ms"),
        1_000..120_000 => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
        120_000..7_200_000 => format!("{} min", millis / 60_000),
        7_200_000..172_800_000 => format!("{} h", millis / 3_600_000),
        _ => format!("{} days", millis / 86_400_000),
    }
}
