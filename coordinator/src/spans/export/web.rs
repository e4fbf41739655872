//! The way to a collector over HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use prost::Message;

use super::{
    ANSWER_BYTES_MAX, ExportTraceServiceRequest, ExportTraceServiceResponse, Headers, NotTaken,
    PATIENCE, PAUSE, clipped,
};
use crate::outbound::{Bounds, Failure, Outbound};

/// Path of traces below a collector's address.
const PATH: &str = "/v1/traces";

/// Media type of requests and answers.
const PROTOBUF: &str = "application/x-protobuf";

const BOUNDS: Bounds = Bounds { patience: PATIENCE, body_bytes_max: ANSWER_BYTES_MAX };

/// Collector over HTTP.
pub(super) struct Web {
    url: String,
    outbound: Outbound,
}

impl Web {
    pub(super) fn new(url: &str, tls: &unanimo_tls::Client) -> Self {
        Self { url: address(url), outbound: Outbound::new(tls) }
    }

    /// Sends a batch once.
    pub(super) async fn send(
        &self,
        batch: &ExportTraceServiceRequest,
        headers: &Headers,
    ) -> Result<ExportTraceServiceResponse, NotTaken> {
        let final_of = |why: String| NotTaken { why: clipped(why), again: None };
        let mut request = Request::post(&self.url)
            .body(Bytes::from(batch.encode_to_vec()))
            .map_err(|error| final_of(error.to_string()))?;
        *request.headers_mut() = (*headers.current()).clone();
        let plain = [
            (header::CONTENT_TYPE, PROTOBUF),
            (header::ACCEPT, PROTOBUF),
            (header::USER_AGENT, concat!("unanimo/", env!("CARGO_PKG_VERSION"))),
        ];
        for (name, value) in plain {
            request.headers_mut().insert(name, header::HeaderValue::from_static(value));
        }
        let answer = self.outbound.send(request, BOUNDS).await.map_err(|failure| NotTaken {
            // A collector that is late may have taken it, and is slow enough.
            again: matches!(failure, Failure::NotSent(_) | Failure::Broken(_)).then_some(PAUSE),
            why: clipped(failure.to_string()),
        })?;
        let status = answer.status();
        if status.is_success() {
            return ExportTraceServiceResponse::decode(answer.into_body())
                .map_err(|_| final_of("what answered is no collector of OTLP".to_owned()));
        }
        let said = tonic_types::Status::decode(&answer.body()[..]).map(|of| of.message);
        let said = said.unwrap_or_default();
        let words = if said.is_empty() { String::new() } else { format!(": {said}") };
        Err(NotTaken {
            again: may_come_back(status).then(|| retry_after(answer.headers())),
            why: clipped(format!("the answer is {}{words}", status.as_u16())),
        })
    }
}

/// Returns the address of traces below this one; one that has the path is that of traces.
fn address(url: &str) -> String {
    let base = url.trim_end_matches('/');
    if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") }
}

/// Tells whether a collector that answers so may take the same batch later, as OTLP has it.
fn may_come_back(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// Returns the pause that the answer asks for, if it is not too long: meanwhile other spans wait, and are dropped.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = seconds.and_then(|text| text.trim().parse().ok());
    seconds.map_or(PAUSE, Duration::from_secs).min(PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_go_below_the_address() {
        for (url, expected) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otlp", "https://c/otlp/v1/traces"),
            ("https://c/otlp/v1/traces", "https://c/otlp/v1/traces"),
        ] {
            assert_eq!(address(url), expected);
        }
    }

    #[test]
    fn a_collector_says_when_to_come_back_within_bounds() {
        for (value, expected) in [
            (None, PAUSE),
            (Some("3"), Duration::from_secs(3)),
            (Some("3600"), PATIENCE),
            (Some("Fri, 31 Dec 1999 23:59:59 GMT"), PAUSE),
        ] {
            let value =
                value.map(|value| (header::RETRY_AFTER, header::HeaderValue::from_static(value)));
            assert_eq!(retry_after(&value.into_iter().collect()), expected);
        }
    }
}
