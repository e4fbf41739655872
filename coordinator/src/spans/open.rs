//! Spans that have begun.

use std::time::Instant;

use unanimo_core::TraceContext;

use super::{Attributes, Context, Kind, Span, SpanId, Spans, Value, nanos};

/// Begin of an operation. Many may be owed for long: whatever its transaction knows is added when it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    pub(crate) span_id: SpanId,
    /// Name of the operation.
    pub(crate) name: &'static str,
    /// Time of its begin, by the transaction's clock.
    pub(crate) start: u64,
    pub(crate) since: Instant,
}

impl Begun {
    /// Returns the time by which it and its attempts go: that of its begin, and what has passed since.
    fn now(&self) -> u64 {
        self.start.saturating_add(nanos(self.since.elapsed()))
    }

    /// Returns the name of its attempts.
    fn call(&self) -> &'static str {
        match self.name {
            "prepare" => "unanimo.v1.ParticipantService/Prepare",
            "commit" => "unanimo.v1.ParticipantService/Commit",
            _ => "unanimo.v1.ParticipantService/Cancel",
        }
    }
}

/// An operation of a branch that is under way, and sampled.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) context: Context,
    pub(crate) begun: Begun,
}

impl Operation {
    /// Ends it.
    pub(crate) fn end(self, attributes: Attributes) -> Span {
        let Self { context, begun } = self;
        Span {
            trace_id: context.trace_id,
            span_id: begun.span_id,
            parent: Some(context.span_id),
            state: context.state,
            name: begun.name,
            kind: Kind::Internal,
            start: begun.start,
            end: begun.now(),
            attributes,
            events: Vec::new(),
            links: Vec::new(),
            error: None,
        }
    }
}

/// An attempt that is under way. One that is dropped was overtaken: by a decision, or by the end of the process's work.
#[derive(Debug)]
pub(crate) struct Attempt {
    spans: Spans,
    context: Context,
    /// Its operation, whose clock it goes by.
    begun: Begun,
    /// The span, until it is handed over.
    span: Option<Span>,
}

impl Attempt {
    pub(super) fn begin(
        spans: Spans,
        of: &Operation,
        span_id: SpanId,
        mut attributes: Attributes,
        (number, url): (u32, &str),
    ) -> Self {
        let Operation { context, begun } = of;
        attributes.push(("unanimo.attempt", Value::Number(number.into())));
        attributes.push(("server.address", Value::Text(url.to_owned())));
        let start = begun.now();
        let span = Span {
            trace_id: context.trace_id,
            span_id,
            parent: Some(begun.span_id),
            state: context.state.clone(),
            name: begun.call(),
            kind: Kind::Client,
            start,
            end: start,
            attributes,
            events: Vec::new(),
            links: Vec::new(),
            error: None,
        };
        Self { spans, context: context.clone(), begun: *begun, span: Some(span) }
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
        span.end = self.begun.now();
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
