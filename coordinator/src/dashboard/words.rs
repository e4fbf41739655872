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

/// Modes by which a list can be filtered.
pub(super) const MODES: &[(&str, &str)] =
    &[("MODE_TWO_PHASE_COMMIT", "two-phase commit"), ("MODE_TCC", "TCC"), ("MODE_SAGA", "saga")];

pub(super) fn now() -> Timestamp {
    Timestamp::now()
}

/// Returns the time so many seconds ago, as JSON has it.
pub(super) fn ago(secs: i64) -> String {
    let before = now().checked_sub(SignedDuration::from_secs(secs)).unwrap_or(Timestamp::MIN);
    format!("{before:.0}")
}

/// Returns the time back to which a list was looked through, by the token of its next page; nothing where that tells none.
pub(super) fn back_to(token: &str) -> String {
    let millis =
        token.parse::<uuid::Uuid>().ok().and_then(|id| (id.as_u128() >> 80).try_into().ok());
    let at = millis.and_then(|millis| Timestamp::from_millisecond(millis).ok());
    at.map(|at| time(&format!("{at:.0}"))).unwrap_or_default()
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

/// Returns the same to the millisecond.
pub(super) fn exact(text: &str) -> String {
    let seconds = time(text);
    let fraction = text.split_once('.').map_or("", |(_, rest)| rest.trim_end_matches('Z'));
    if seconds.is_empty() { seconds } else { format!("{seconds}.{fraction:0<3.3}") }
}

/// Returns the age that a time has now.
pub(super) fn since(text: &str) -> String {
    age(text, now())
}

/// Returns for how long something has lasted; nothing for what is no time.
pub(super) fn lasting(text: &str) -> String {
    let age = since(text);
    age.strip_suffix(" ago").unwrap_or(&age).to_owned()
}

/// Returns the age of a time, or how long it is until then; nothing for what is no time.
fn age(text: &str, now: Timestamp) -> String {
    let Ok(at) = text.parse::<Timestamp>() else { return String::new() };
    let millis = now.as_millisecond() - at.as_millisecond();
    let coarse = |millis: i64| match millis {
        ..120_000 => format!("{} s", millis / 1_000),
        _ => duration(millis),
    };
    if millis < 0 { format!("in {}", coarse(-millis)) } else { format!("{} ago", coarse(millis)) }
}

/// Returns the value of a limit in the largest unit in which it is whole.
pub(super) fn limit(name: &str, value: &str) -> String {
    let whole = |number: u64, units: &[(u64, &str)]| {
        let (size, unit) =
            units.iter().find(|(size, _)| number.is_multiple_of(*size) && number > 0)?;
        let count = number / size;
        let unit = match *unit {
            "days" if count == 1 => "day",
            "bytes" if count == 1 => "byte",
            unit => unit,
        };
        Some(format!("{count} {unit}"))
    };
    let shown = if let Some(secs) = value.strip_suffix('s').and_then(|secs| secs.parse().ok()) {
        whole(secs, &[(86_400, "days"), (3_600, "h"), (60, "min"), (1, "s")])
    } else if name.contains("Bytes") {
        let sizes = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes")];
        value.parse().ok().and_then(|bytes| whole(bytes, &sizes))
    } else {
        None
    };
    shown.unwrap_or_else(|| value.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_in_the_largest_unit_in_which_they_are_whole() {
        for (name, value, shown) in [
            ("timeoutMax", "604800s", "7 days"),
            ("gidRetention", "86400s", "1 day"),
            ("waitMax", "5400s", "90 min"),
            ("waitMax", "61s", "61 s"),
            ("waitMax", "1.500s", "1.500s"),
            ("waitMax", "0s", "0s"),
            ("payloadBytesMax", "1048576", "1 MiB"),
            ("payloadsBytesMax", "1572864", "1536 KiB"),
            ("outputBytesMax", "1000", "1000 bytes"),
            ("branchesMax", "1024", "1024"),
        ] {
            assert_eq!(limit(name, value), shown, "{name} {value}");
        }
    }

    #[test]
    fn times_of_a_history_have_milliseconds() {
        for (text, shown) in [
            ("2026-03-04T12:00:01Z", "2026-03-04 12:00:01.000"),
            ("2026-03-04T12:00:01.5Z", "2026-03-04 12:00:01.500"),
            ("2026-03-04T12:00:01.123456Z", "2026-03-04 12:00:01.123"),
            ("", ""),
        ] {
            assert_eq!(exact(text), shown);
        }
    }

    #[test]
    fn the_token_of_a_page_tells_how_far_it_has_looked() {
        for (token, shown) in [
            ("019cb8b8-1e00-7fff-bfff-000000000000", "2026-03-04 12:00:00"),
            ("019cb8b8-21e7-ffff-ffff-ffffffffffff", "2026-03-04 12:00:00"),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", ""),
            ("shop", ""),
            ("", ""),
        ] {
            assert_eq!(back_to(token), shown, "{token}");
        }
    }

    #[test]
    fn ages_are_in_the_unit_that_tells_most() {
        let now: Timestamp = "2026-03-04T12:00:00Z".parse().expect("a time");
        for (text, expected) in [
            ("2026-03-04T12:00:00Z", "0 s ago"),
            ("2026-03-04T11:59:58.900Z", "1 s ago"),
            ("2026-03-04T11:58:01Z", "119 s ago"),
            ("2026-03-04T11:57:00Z", "3 min ago"),
            ("2026-03-04T09:00:00Z", "3 h ago"),
            ("2026-03-01T12:00:00Z", "3 days ago"),
            ("2026-03-04T12:00:20Z", "in 20 s"),
            ("", ""),
            ("soon", ""),
        ] {
            assert_eq!(age(text, now), expected, "{text}");
        }
    }
}
