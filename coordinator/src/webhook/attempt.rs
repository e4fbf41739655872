//! One attempt to send a message, and the pause after a failure.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use unanimo_core::Timestamp;

use super::{Webhook, message};
use crate::outbound::{Bounds, Outbound};

/// Most bytes of an answer. Nothing is read of it but its status.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Pause after the first failure; it doubles with each.
const BACKOFF: Duration = Duration::from_secs(1);

/// Longest pause that a receiver may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// Answer of a receiver to one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was taken, with this status.
    Yes(u16),
    /// It was not: why, and the pause that the receiver asks for.
    Not(String, Option<Duration>),
    /// The receiver says that it is gone.
    Gone,
}

/// Sends a message once. A redirect is a failure: a signed message goes where the file says, and nowhere else.
pub(super) async fn send(
    outbound: &Outbound,
    webhook: &Webhook,
    (id, now): (&str, Timestamp),
    body: Vec<u8>,
) -> Taken {
    let seconds = now.0 / 1000;
    let signatures = message::signatures(&webhook.secrets, id, seconds, &body);
    let mut request = Request::post(webhook.url.clone())
        .header(header::CONTENT_TYPE, message::MEDIA_TYPE)
        .header(header::USER_AGENT, concat!("unanimo/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", id)
        .header("webhook-timestamp", seconds)
        .header("webhook-signature", signatures);
    for (name, value) in &webhook.headers {
        request = request.header(name, value);
    }
    let Ok(request) = request.body(Bytes::from(body)) else {
        return Taken::Not("the request cannot be made".to_owned(), None);
    };
    let bounds = Bounds { patience: webhook.timeout, body_bytes_max: ANSWER_BYTES_MAX };
    match outbound.send(request, bounds).await {
        Ok(answer) if answer.status().is_success() => Taken::Yes(answer.status().as_u16()),
        Ok(answer) if answer.status() == http::StatusCode::GONE => Taken::Gone,
        Ok(answer) => {
            let cause = format!("answered {}", answer.status());
            Taken::Not(cause, retry_after(answer.headers(), now))
        }
        Err(failure) => Taken::Not(failure.to_string(), None),
    }
}

/// Returns the pause that an answer asks for: in seconds, or until a time.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_millisecond();
            Duration::from_millis(u64::try_from(until).ok()?.saturating_sub(now.0))
        }
    };
    Some(pause.min(RETRY_AFTER_MAX))
}

/// Returns the pause after so many failures in a row: between half of it and all of it, by chance.
pub(super) fn pause_after(
    failures: u32,
    most: Duration,
    asked: Option<Duration>,
    chance: u128,
) -> Duration {
    let doubled = BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(20));
    let whole = doubled.min(most);
    let part = u32::try_from(chance % 1024).unwrap_or(0);
    let pause = whole / 2 + whole / 2 * part / 1024;
    pause.max(asked.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_by_chance_and_as_the_receiver_asks() {
        let secs = Duration::from_secs;
        let whole = |failures| pause_after(failures, secs(300), None, 1023);
        for (failures, most) in
            [(1, 1), (2, 2), (3, 4), (8, 128), (9, 256), (10, 300), (4_000, 300)]
        {
            let (low, high) = (pause_after(failures, secs(300), None, 0), whole(failures));
            assert_eq!(low, secs(most) / 2);
            assert!(high > low && high <= secs(most), "{high:?}");
        }
        assert_eq!(pause_after(1, secs(300), Some(secs(17)), 0), secs(17));
        assert!(pause_after(9, secs(300), Some(secs(17)), 0) > secs(17), "it is no shorter");
        assert!(pause_after(1, Duration::from_millis(10), None, 1023) <= Duration::from_millis(10));
    }

    #[test]
    fn a_receiver_asks_for_a_pause_in_seconds_or_until_a_time_within_an_hour() {
        let now = Timestamp(784_111_777_000);
        let asked = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(text));
            retry_after(&headers, now).map(|pause| pause.as_secs())
        };
        assert_eq!(asked("17"), Some(17));
        assert_eq!(asked("86400"), Some(3600));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:47 GMT"), Some(10));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:07 GMT"), Some(0), "it has passed");
        assert_eq!((asked("-1"), asked("soon"), asked("")), (None, None, None));
    }
}
