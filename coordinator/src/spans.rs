//! Spans of transactions, for a collector of OpenTelemetry.
//!
//! A transaction has one span from its begin to its end, with a child for each operation of a branch, whose
//! children are its attempts; the participant's handler is the attempt's child. The ids of a transaction and of its
//! operations follow from its tx_id: an incarnation that adopts it goes on with the same trace, and nothing of
//! it need be stored.
//!
//! Nobody waits for a collector: an ended span goes into a bounded queue, and is dropped and counted if that is
//! full.

#![cfg_attr(
    not(feature = "otlp"),
    expect(dead_code, reason = "a build without the feature makes no spans")
)]

#[cfg(feature = "otlp")]
mod export;
mod ids;
mod open;
#[cfg(all(test, feature = "otlp"))]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::mpsc;
use unanimo_core::{BranchSpec, Identity, Incarnation, TraceContext};

#[cfg(feature = "otlp")]
pub(crate) use self::export::{Collector, Headers, Protocol, collect};
pub(crate) use self::ids::{Context, SpanId, TraceId};
pub(crate) use self::open::{Attempt, Begun, Operation};
use crate::env::Env;
use crate::metrics::Metrics;

/// Most spans that wait for the collector: some hundred transactions. With the longest names, addresses and errors a span
/// takes 3 KB, and all of them 12 MB. More only hide that it is too slow.
pub(crate) const WAITING_MAX: usize = 4096;

/// Value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(i64),
    Flag(bool),
}

/// Attributes of a span.
pub(crate) type Attributes = Vec<(&'static str, Value)>;

/// Kind of a span, as OpenTelemetry has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Work within the coordinator.
    Internal,
    /// A call to another process.
    Client,
}

/// A span that has ended. Times are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) trace_id: TraceId,
    pub(crate) span_id: SpanId,
    pub(crate) parent: Option<SpanId>,
    pub(crate) state: Option<Arc<str>>,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) attributes: Attributes,
    pub(crate) events: Vec<(&'static str, u64)>,
    pub(crate) links: Vec<(TraceId, SpanId)>,
    /// Its error, if it has failed.
    pub(crate) error: Option<String>,
}

/// Maker of spans. Cheap to clone; without a collector it makes none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    env: Arc<dyn Env>,
    me: Incarnation,
    /// Part of the transactions without a caller's trace that are sampled.
    ratio: f64,
    /// Calls so far that have a span.
    calls: AtomicU64,
    queue: mpsc::Sender<Span>,
    metrics: Arc<Metrics>,
}

impl Spans {
    /// Makes spans, and the queue in which they wait.
    pub(crate) fn new(
        env: Arc<dyn Env>,
        me: Incarnation,
        ratio: f64,
        metrics: Arc<Metrics>,
    ) -> (Self, mpsc::Receiver<Span>) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let calls = AtomicU64::new(0);
        (Self(Some(Arc::new(Shared { env, me, ratio, calls, queue, metrics }))), waiting)
    }

    /// Returns the place of a transaction in its trace; `None` without a collector.
    pub(crate) fn context(&self, identity: &Identity) -> Option<Context> {
        let shared = self.0.as_ref()?;
        Some(Context::of(identity, shared.ratio))
    }

    /// Returns the trace of a transaction for its log lines: its caller's, or the one that is made of it here.
    pub(crate) fn trace_id(&self, identity: &Identity) -> Option<String> {
        let came = ids::parse(identity.trace.traceparent.as_deref());
        (came.is_some() || self.0.is_some()).then(|| trace_id(identity))
    }

    /// Returns the time of day in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.env.nanos())
    }

    /// Returns the time of day at a moment that has passed.
    pub(crate) fn at(&self, moment: Instant) -> u64 {
        self.now().saturating_sub(nanos(moment.elapsed()))
    }

    /// Returns the incarnation that makes the spans, for ids that no other one may have.
    pub(crate) fn me(&self) -> i64 {
        self.0.as_ref().map_or(0, |shared| shared.me.0)
    }

    /// Hands a span over to the collector, or drops it.
    pub(crate) fn add(&self, span: Span) {
        if let Some(shared) = &self.0
            && shared.queue.try_send(span).is_err()
        {
            shared.metrics.spans_dropped(1);
        }
    }

    /// Begins an attempt of an operation, which has these attributes, at the endpoint of this address.
    pub(crate) fn attempt(
        &self,
        of: &Operation,
        attributes: Attributes,
        number: u32,
        url: &str,
    ) -> Attempt {
        let calls = self.0.as_ref().map(|shared| shared.calls.fetch_add(1, Ordering::Relaxed));
        let span_id = of.begun.span_id.of_attempt(self.me(), calls.unwrap_or_default());
        Attempt::begin(self.clone(), of, span_id, attributes, (number, url))
    }
}

/// Place of a call to a participant in a trace.
#[derive(Clone, Debug, Default)]
pub(crate) enum Traced {
    /// It is not sampled, and its caller's trace goes on as it came.
    #[default]
    AsItCame,
    /// It is not sampled, in a trace of its own.
    Unsampled(Context),
    /// It is sampled.
    Sampled(Operation),
}

impl Traced {
    /// Returns the trace context that the participant gets, if its attempt has no span of its own.
    pub(crate) fn sent(&self, identity: &Identity) -> TraceContext {
        match self {
            Self::AsItCame => identity.trace.clone(),
            Self::Unsampled(context) => context.naming(context.span_id),
            Self::Sampled(of) => of.context.naming(of.begun.span_id),
        }
    }

    /// Returns the operation, if it is sampled.
    pub(crate) fn operation(&self) -> Option<&Operation> {
        match self {
            Self::Sampled(operation) => Some(operation),
            Self::AsItCame | Self::Unsampled(_) => None,
        }
    }
}

/// Returns the trace of a transaction: its caller's, or else the one that is made of its name.
pub(crate) fn trace_id(identity: &Identity) -> String {
    let came = ids::parse(identity.trace.traceparent.as_deref());
    let id = came.map_or_else(|| TraceId::of_transaction(identity.tx_id), |came| came.trace_id);
    id.to_string()
}

/// Returns the attributes that all spans of a transaction have.
pub(crate) fn of_transaction(identity: &Identity) -> Attributes {
    let mode = identity.mode().map_or("none", |mode| mode.name());
    vec![
        ("unanimo.tx_id", Value::Text(identity.tx_id.to_string())),
        ("unanimo.gid", Value::Text(identity.gid.to_string())),
        ("unanimo.mode", Value::Text(mode.to_owned())),
    ]
}

/// Returns the attributes that all spans of a branch have.
pub(crate) fn of_branch(identity: &Identity, spec: &BranchSpec) -> Attributes {
    let mut attributes = of_transaction(identity);
    attributes.extend([
        ("unanimo.branch_id", Value::Text(spec.branch_id.to_string())),
        ("unanimo.participant", Value::Text(spec.participant.to_string())),
        ("unanimo.action", Value::Text(spec.action.to_string())),
    ]);
    attributes
}

/// The whole nanoseconds of a duration.
pub(crate) fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
