//! When a call has to be answered.
//!
//! The call's own deadline (`grpc-timeout`) and the transaction's are different things. A call that
//! waits for an outcome is answered shortly before its own, with what is known by then.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// The answer leaves this much before the deadline, or a tenth of the time, whichever is less: it
/// has to travel.
const MARGIN_MAX: Duration = Duration::from_millis(200);

/// Time that a call without a deadline has beyond its wait.
const SLACK: Duration = Duration::from_secs(1);

/// When a call that came now has to be answered.
pub(super) fn answer_by(headers: &MetadataMap, wait_max: Duration) -> Instant {
    let wait = match asked(headers) {
        Some(timeout) => (timeout - margin(timeout)).min(wait_max),
        None => wait_max,
    };
    Instant::now() + wait
}

/// When a call that came now has to be answered whatever its work does: a little later, so that the
/// work's own answer comes first, and still before the transport gives up.
pub(super) fn last_moment(headers: &MetadataMap, wait_max: Duration) -> Instant {
    let wait = match asked(headers) {
        Some(timeout) => timeout - margin(timeout) / 2,
        None => wait_max + SLACK,
    };
    Instant::now() + wait
}

fn asked(headers: &MetadataMap) -> Option<Duration> {
    headers.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?))
}

fn margin(timeout: Duration) -> Duration {
    (timeout / 10).min(MARGIN_MAX)
}

/// At most eight digits and a unit, by the gRPC-over-HTTP/2 protocol.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_by_the_protocol() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5M", Some(Duration::from_secs(300))),
            ("2H", Some(Duration::from_secs(7200))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("123456789S", None),
            ("1 S", None),
            ("1ä", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn an_answer_leaves_before_the_deadline() {
        let mut headers = MetadataMap::new();
        headers.insert("grpc-timeout", "1S".parse().expect("ASCII"));
        let by = answer_by(&headers, Duration::from_secs(300)) - Instant::now();
        assert!(by > Duration::from_millis(850) && by <= Duration::from_millis(900), "{by:?}");
        let by = answer_by(&MetadataMap::new(), Duration::from_secs(300)) - Instant::now();
        assert!(by > Duration::from_secs(299), "{by:?}");
    }
}
