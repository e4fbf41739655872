//! W3C Trace Context, which travels beside the transaction's.

use http::header::{HeaderMap, HeaderName, HeaderValue};
#[cfg(feature = "opentelemetry")]
use opentelemetry::trace::TraceContextExt;
#[cfg(all(
    feature = "opentelemetry",
    any(feature = "mysql", feature = "postgres", feature = "sqlite")
))]
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId};
#[cfg(feature = "opentelemetry")]
use tracing_opentelemetry::OpenTelemetrySpanExt;
#[cfg(all(
    feature = "opentelemetry",
    any(feature = "mysql", feature = "postgres", feature = "sqlite")
))]
use unanimo_proto::Traceparent;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a header that is carried along; W3C asks for at least 512 of `tracestate`.
const TRACE_BYTES_MAX: usize = 1024;

/// Trace headers of the request that is being served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    parent: Option<HeaderValue>,
    state: Option<HeaderValue>,
}

impl Trace {
    /// Leaves out malformed headers: W3C asks not to fail for it.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let Some(parent) = joined(headers, &TRACEPARENT) else { return Self::default() };
        Self { parent: Some(parent), state: joined(headers, &TRACESTATE) }
    }

    /// Returns the parent as text; empty if there is none.
    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    pub(crate) fn parent(&self) -> &str {
        self.parent.as_ref().and_then(|parent| parent.to_str().ok()).unwrap_or_default()
    }

    /// Puts them on a call, unless its caller's own tracing has.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        let Some(parent) = &self.parent else { return };
        if headers.contains_key(TRACEPARENT) || headers.contains_key(TRACESTATE) {
            return;
        }
        headers.insert(TRACEPARENT, parent.clone());
        if let Some(state) = &self.state {
            headers.insert(TRACESTATE, state.clone());
        }
    }
}

#[cfg(feature = "opentelemetry")]
impl Trace {
    /// Returns the trace of the span that is entered; `None` if no layer of OpenTelemetry follows it.
    pub(super) fn of_entered_span() -> Option<Self> {
        let context = tracing::Span::current().context();
        let span = context.span();
        let span = span.span_context();
        if !span.is_valid() {
            return None;
        }
        let flags = u8::from(span.is_sampled());
        let parent = format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id());
        let state = HeaderValue::from_str(&span.trace_state().header()).ok();
        let state = state.filter(|state| !state.is_empty());
        Some(Self { parent: Some(HeaderValue::from_str(&parent).ok()?), state })
    }

    /// Makes a span of `tracing` a child of this trace's span, unless it has a parent by which it is in a trace.
    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    pub(crate) fn adopt(&self, span: &tracing::Span) {
        if Self::of_entered_span().is_some() {
            return;
        }
        let Some(parent) = self.span_context() else { return };
        let parent = opentelemetry::Context::new().with_remote_span_context(parent);
        // Without a layer of OpenTelemetry there is nothing to tell.
        let _ = span.set_parent(parent);
    }

    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    fn span_context(&self) -> Option<SpanContext> {
        let Traceparent { trace_id, span_id, flags } = Traceparent::parse(self.parent())?;
        let state = self.state.as_ref().and_then(|state| state.to_str().ok());
        let state = state.and_then(|state| state.parse().ok()).unwrap_or_default();
        let (trace, span) = (TraceId::from(trace_id), SpanId::from(span_id));
        Some(SpanContext::new(trace, span, TraceFlags::new(flags), true, state))
    }
}

/// The header's value, of several lines the list of them all.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let value = HeaderValue::from_bytes(&values.join(&b","[..])).ok()?;
    (1..=TRACE_BYTES_MAX).contains(&value.len()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, text) in lines {
            headers.append(*name, HeaderValue::from_static(text));
        }
        headers
    }

    #[test]
    fn a_trace_is_carried_along_and_never_in_place_of_the_callers_own() {
        let came =
            headers(&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")]);
        let trace = Trace::from_headers(&came);
        let mut sent = HeaderMap::new();
        trace.add_to(&mut sent);
        assert_eq!(sent, headers(&[("traceparent", PARENT), ("tracestate", "a=1,b=2")]));
        let own = headers(&[("traceparent", "00-own")]);
        let mut sent = own.clone();
        trace.add_to(&mut sent);
        assert_eq!(sent, own);
    }

    #[test]
    fn a_state_without_a_parent_and_what_is_too_long_are_left_out() {
        let mut long = headers(&[("traceparent", PARENT)]);
        long.insert("tracestate", HeaderValue::from_str(&"x".repeat(1025)).expect("a value"));
        let mut sent = HeaderMap::new();
        Trace::from_headers(&long).add_to(&mut sent);
        assert_eq!(sent, headers(&[("traceparent", PARENT)]));
        assert_eq!(Trace::from_headers(&headers(&[("tracestate", "a=1")])), Trace::default());
    }

    /// A span of a trace that the coordinator does not read would be in another trace than the transaction.
    #[cfg(all(
        feature = "opentelemetry",
        any(feature = "mysql", feature = "postgres", feature = "sqlite")
    ))]
    #[test]
    fn a_parent_of_a_span_is_read_as_w3c_says() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let read = |text: &str| {
            let mut came = HeaderMap::new();
            came.insert("traceparent", HeaderValue::from_str(text).expect("a value"));
            let read = Trace::from_headers(&came).span_context();
            read.map(|c| (c.trace_id().to_string(), c.span_id().to_string(), c.is_sampled()))
        };
        let known = |sampled| Some((trace.to_owned(), span.to_owned(), sampled));
        for (text, expected) in [
            (format!("00-{trace}-{span}-01"), known(true)),
            (format!("00-{trace}-{span}-00"), known(false)),
            (format!("01-{trace}-{span}-01-later"), known(true)),
            (format!("00-{trace}-{span}-01-later"), None),
            (format!("ff-{trace}-{span}-01"), None),
            (format!("0-{trace}-{span}-01"), None),
            (format!("00-1-{span}-01"), None),
            (format!("00-{trace}-1-01"), None),
            (format!("00-{trace}-{span}-1"), None),
            (format!("00-{trace}-{span}-+1"), None),
            (format!("00-{}-{span}-01", trace.to_uppercase()), None),
            (format!("00-{:032}-{span}-01", 0), None),
            (format!("00-{trace}-{:016}-01", 0), None),
            (format!("00-{trace}-{span}"), None),
        ] {
            assert_eq!(read(&text), expected, "{text}");
        }
    }
}
