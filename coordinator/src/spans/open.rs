//! Spans that have begun.

use std::time::Instant;

use unanimo_core::TraceContext;

use super::{Attributes, Context, Kind, Span, SpanId, Spans, Value, nanos};

/// An operation of a branch that is under way, and sampled.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) context: Context,
    pub(crate) span_id: SpanId,
    /// Name of the operation.
    pub(crate) name: &'static str,
    /// Name of its attempts.
    pub(crate) call: &'static str,
    /// Time of its begin.
    pub(crate) start: u64,
    pub(crate) since: Instant,
    /// Attributes of it and of its attempts.
    pub(crate) attributes: Attributes,
}

impl Operation {
    /// Ends it.
    pub(crate) fn end(self, more: Attributes, error: Option<String>) -> Span {
        let Self { context, span_id, name, start, since, mut attributes, .. } = self;
        attributes.extend(more);
        Span {
            trace_id: context.trace_id,
            span_id,
            parent: Some(context.span_id),
            state: context.state.unwrap_or_default(),
            name,
            kind: Kind::Internal,
            start,
            end: start.saturating_add(nanos(since.elapsed())),
            attributes,
            events: Vec::new(),
            links: Vec::new(),
            error,
        }
    }
}

/// An attempt that is under way. One that is dropped was overtaken: by a decision, or by the end of the process's work.
#[derive(Debug)]
pub(crate) struct Attempt {
    spans: Spans,
    context: Context,
    since: Instant,
    /// The span, until it is handed over.
    span: Option<Span>,
}

impl Attempt {
    pub(super) fn begin(
        spans: Spans,
        of: &Operation,
        (number, endpoint): (u32, u32),
        url: &str,
    ) -> Self {
        let mut attributes = of.attributes.clone();
        attributes.push(("unanimo.attempt", Value::Number(number.into())));
        attributes.push(("server.address", Value::Text(url.to_owned())));
        let start = spans.now();
        let span = Span {
            trace_id: of.context.trace_id,
            span_id: of.span_id.of_attempt(spans.me(), number, endpoint),
            parent: Some(of.span_id),
            state: of.context.state.clone().unwrap_or_default(),
            name: of.call,
            kind: Kind::Client,
            start,
            end: start,
            attributes,
            events: Vec::new(),
            links: Vec::new(),
            error: None,
        };
        Self { spans, context: of.context.clone(), since: Instant::now(), span: Some(span) }
    }

    /// Returns the trace context that the participant gets: its handler's span is this one's child.
    pub(crate) fn sent(&self) -> Option<TraceContext> {
        self.span.as_ref().map(|span| self.context.naming(span.span_id))
    }

    /// The participant has answered, though perhaps to be asked again.
    pub(crate) fn answered(self, is_busy: bool) {
        self.end(if is_busy { "asked_for_time" } else { "answered" }, None);
    }

    /// There is no answer.
    pub(crate) fn failed(self, error: &str) {
        self.end("failed", Some(error.to_owned()));
    }

    fn end(mut self, result: &'static str, error: Option<String>) {
        self.hand_over(result, error);
    }

    fn hand_over(&mut self, result: &'static str, error: Option<String>) {
        let Some(mut span) = self.span.take() else { return };
        span.end = span.start.saturating_add(nanos(self.since.elapsed()));
        span.attributes.push(("unanimo.result", Value::Text(result.to_owned())));
        span.error = error;
        self.spans.add(span);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.hand_over("overtaken", None);
    }
}
