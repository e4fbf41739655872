//! When a call has to be answered.
//!
//! The call's own deadline (`grpc-timeout`) and the transaction's are different things. A call that
//! waits for an outcome is answered shortly before its own, with what is known by then. No call
//! outlives its own, whatever it waits for: [`Late`] is what it is told then.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};
use unanimo_proto::v1;

use super::convert;
use super::error::from_engine;
use super::feed::Following;
use super::watch::Watching;
use crate::engine::{Answer, Error, PEEK_MAX};

/// The answer leaves this much before the deadline, or a third of the time, whichever is less: it
/// has to travel, and both ends may be busy.
const MARGIN_MAX: Duration = Duration::from_millis(140);

/// Moment at which a call has arrived, before its message was read.
#[derive(Clone, Copy, Debug)]
struct Arrived(Instant);

/// Notes when a call arrives.
pub(super) fn note_arrival(mut request: Request<()>) -> Result<Request<()>, Status> {
    arrives(request.extensions_mut());
    Ok(request)
}

/// Notes with a call that it arrives now.
pub(super) fn arrives(extensions: &mut Extensions) {
    extensions.insert(Arrived(Instant::now()));
}

/// Times of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    /// Until when it may wait.
    pub(super) until: Instant,
    /// When its answer has to leave at the latest.
    pub(super) last: Instant,
    /// The one that the caller named, however late: for a stream without an end.
    pub(super) asked: Option<Instant>,
}

impl Deadline {
    /// Returns the times of a call with these headers.
    pub(super) fn of(headers: &MetadataMap, extensions: &Extensions, wait_max: Duration) -> Self {
        let now = Instant::now();
        let arrived = extensions.get().map_or(now, |Arrived(at)| *at);
        let asked = headers.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
        let left = |timeout: Duration| timeout - (timeout / 3).min(MARGIN_MAX);
        let longest = wait_max + PEEK_MAX;
        let asked = asked.map(left);
        let left = asked.unwrap_or(longest).min(longest);
        let last = arrived + left;
        // One that no clock tells is none.
        let asked = asked.and_then(|asked| arrived.checked_add(asked));
        Self { until: last - (left / 3).min(PEEK_MAX), last, asked }
    }

    /// Returns the times of a call that waits no longer than until then.
    pub(super) fn by(self, until: Instant) -> Self {
        Self { until: self.until.min(until), last: self.last.min(until + PEEK_MAX), ..self }
    }
}

/// Answer to a call whose time is over before anything could be told.
pub(super) trait Late: Sized {
    /// Returns it; `why` says what kept it.
    fn late(why: Error) -> Result<Self, Status> {
        Err(from_engine(why))
    }
}

macro_rules! late {
    ($($refused:ty),*; $($not_decided:ident),*) => {
        $(impl Late for $refused {})*
        $(impl Late for v1::$not_decided {
            fn late(_: Error) -> Result<Self, Status> {
                Ok(Self { result: Some(convert::result(Answer::NotYet(None), false)) })
            }
        })*
    };
}

late! {
    v1::BeginTransactionResponse, v1::EnlistBranchResponse, v1::GetTransactionResponse,
    v1::ListTransactionsResponse, v1::ExportTransactionResponse, v1::InquireBranchesResponse,
    v1::GetServerInfoResponse, v1::RegisterEndpointResponse, v1::DeregisterEndpointResponse,
    v1::ListParticipantsResponse, v1::RetryTransactionResponse, v1::ResolveBranchResponse,
    v1::ForgetTransactionResponse, v1::ListAuditResponse, v1::ListWebhooksResponse,
    v1::ListDeadLettersResponse, v1::RedeliverEventsResponse, v1::TestWebhookResponse, v1::GetStatisticsResponse,
    Watching, Following;
    SubmitTransactionResponse, CommitTransactionResponse, RollbackTransactionResponse
}

impl Late for v1::ExecuteBranchResponse {
    fn late(_: Error) -> Result<Self, Status> {
        Ok(Self { outcome: v1::Outcome::NotDecided.into(), ..Default::default() })
    }
}

/// At most eight digits and a unit, by the gRPC-over-HTTP/2 protocol.
pub(super) fn parse(text: &str) -> Option<Duration> {
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
        let (max, arrived) = (Duration::from_secs(300), Instant::now());
        let of = |timeout: &str| {
            let mut headers = MetadataMap::new();
            headers.insert("grpc-timeout", timeout.parse().expect("ASCII"));
            let mut extensions = Extensions::new();
            extensions.insert(Arrived(arrived));
            let Deadline { until, last, asked } = Deadline::of(&headers, &extensions, max);
            let asked = asked.expect("it is named");
            assert!(
                asked == last || asked - arrived == Duration::from_secs(24 * 3600) - MARGIN_MAX
            );
            ((until - arrived).as_millis(), (last - arrived).as_millis())
        };
        for (timeout, expected) in [
            ("1S", (810, 860)),
            ("700m", (510, 560)),
            ("500m", (310, 360)),
            ("210m", (93, 140)),
            ("60m", (26, 40)),
            ("0m", (0, 0)),
            ("24H", (300_000, 300_050)),
        ] {
            assert_eq!(of(timeout), expected, "{timeout}");
        }
        let none = Deadline::of(&MetadataMap::new(), &Extensions::new(), max);
        assert!(none.until - Instant::now() > Duration::from_secs(299), "{none:?}");
        assert_eq!(none.asked, None);
    }
}
