//! Spans of the transactions in memory.

use std::collections::HashMap;
use std::time::Instant;

use unanimo_core::{
    Branch, BranchNumber, Call, Decision, Heuristic, Identity, Operation as Asked, Phase,
    Transaction, TxId,
};

use super::super::waiting::{kind, next_kind};
use crate::spans::{
    Attributes, Context, Kind, Operation, Span, SpanId, Spans, TraceId, Traced, Value,
};
use crate::store::journal::Flush;

/// Most flushes to which a transaction's span is linked: the first ones.
const LINKS_MAX: usize = 32;

/// Nanoseconds in the unit of the core.
const MILLISECOND: u64 = 1_000_000;

/// A transaction in memory that is sampled.
#[derive(Debug)]
struct Open {
    context: Context,
    is_adopted: bool,
    links: Vec<(TraceId, SpanId)>,
    operations: HashMap<(BranchNumber, &'static str), Operation>,
}

/// Spans of the transactions in memory.
#[derive(Debug, Default)]
pub(in crate::engine) struct Traces {
    spans: Spans,
    open: HashMap<TxId, Open>,
    /// The flush that has a span.
    flushed: Option<Flush>,
}

impl Traces {
    pub(in crate::engine) fn new(spans: Spans) -> Self {
        Self { spans, ..Self::default() }
    }

    /// A transaction comes to memory.
    pub(super) fn begin(&mut self, identity: &Identity, is_adopted: bool) {
        let Some(context) = self.spans.context(identity).filter(|context| context.sampled) else {
            return;
        };
        let (links, operations) = Default::default();
        self.open.insert(identity.tx_id, Open { context, is_adopted, links, operations });
    }

    /// A transaction leaves memory.
    pub(super) fn forget(&mut self, tx_id: TxId) {
        self.open.remove(&tx_id);
    }

    /// Returns the trace of a transaction, for its log lines.
    pub(super) fn id(&self, identity: &Identity) -> Option<String> {
        self.spans.trace_id(identity)
    }

    /// A call is sent: its operation begins with the first one.
    pub(super) fn sent(&mut self, tx: &Transaction, branch: &Branch, call: Call) -> Traced {
        let identity = tx.identity();
        let Some(open) = self.open.get_mut(&identity.tx_id) else {
            // Not sampled: whoever comes next is told so, and its caller's trace goes on as it came.
            let context = self.spans.context(identity).filter(|context| context.parent.is_none());
            let sent = context.map(|context| context.naming(context.span_id));
            return Traced {
                sent: sent.unwrap_or_else(|| identity.trace.clone()),
                operation: None,
            };
        };
        let name = call.operation.as_str();
        let spans = &self.spans;
        let operation = open.operations.entry((branch.number, name)).or_insert_with(|| Operation {
            context: open.context.clone(),
            span_id: SpanId::of_operation(identity.tx_id, branch.number, name),
            name,
            call: rpc(call.operation),
            start: spans.now(),
            since: Instant::now(),
            attributes: of_branch(tx, branch),
        });
        let sent = open.context.naming(operation.span_id);
        Traced { sent, operation: Some(operation.clone()) }
    }

    /// A call has ended, and was taken note of: its operation ends if it is not sent again.
    pub(super) fn call_ended(&mut self, tx: &Transaction, call: Call) {
        let Some(open) = self.open.get_mut(&tx.tx_id()) else { return };
        let Some(branch) = tx.branch(call.number) else { return };
        if branch.is_called() && next_kind(branch) == kind(call.operation) {
            return;
        }
        let key = (call.number, call.operation.as_str());
        if let Some(operation) = open.operations.remove(&key) {
            self.spans.add(end(operation, Some(branch)));
        }
    }

    /// A write of a transaction is durable: its span is linked to the flush.
    pub(super) fn flushed(&mut self, tx_id: TxId, flush: Option<Flush>) {
        let (Some(open), Some(flush)) = (self.open.get_mut(&tx_id), flush) else { return };
        let me = self.spans.me();
        let of = (TraceId::of_flush(me, flush.number), SpanId::of_flush(me, flush.number));
        if open.links.len() < LINKS_MAX {
            open.links.push(of);
        }
        if self.flushed.replace(flush) != Some(flush) {
            self.spans.add(of_flush(of, flush, self.spans.at(flush.started)));
        }
    }

    /// A transaction has ended here, and that is durable.
    pub(super) fn ended(&mut self, tx: &Transaction) {
        let Some(open) = self.open.remove(&tx.tx_id()) else { return };
        let Phase::Ended { decision, at, .. } = tx.phase() else { return };
        let mut last = at.0.saturating_mul(MILLISECOND);
        for ((number, _), operation) in open.operations {
            let span = end(operation, tx.branch(number));
            last = last.max(span.end);
            self.spans.add(span);
        }
        let identity = tx.identity();
        let mut attributes = of_transaction(tx);
        let outcome = if decision == Decision::Commit { "committed" } else { "aborted" };
        attributes.push(("unanimo.outcome", Value::Text(outcome.to_owned())));
        attributes.push(("unanimo.adopted", Value::Flag(open.is_adopted)));
        let decided =
            tx.phase().decided_at().map(|at| ("decided", at.0.saturating_mul(MILLISECOND)));
        let is_heuristic = tx.heuristic() != Heuristic::None;
        self.spans.add(Span {
            trace_id: open.context.trace_id,
            span_id: open.context.span_id,
            parent: open.context.parent,
            state: open.context.state.unwrap_or_default(),
            name: "transaction",
            kind: Kind::Internal,
            start: identity.created_at.0.saturating_mul(MILLISECOND),
            end: last,
            attributes,
            events: decided.into_iter().collect(),
            links: open.links,
            error: is_heuristic
                .then(|| "branches ended against the decision, or may have".to_owned()),
        });
    }
}

/// Ends an operation, with what its branch has come to.
fn end(operation: Operation, branch: Option<&Branch>) -> Span {
    let mut more = Attributes::new();
    let progress = branch.map(|branch| &branch.progress);
    if let Some(progress) = progress {
        let attempts = match operation.name {
            "prepare" => &progress.prepare_attempts,
            _ => &progress.phase_two_attempts,
        };
        more.push(("unanimo.attempts", Value::Number(attempts.count.into())));
        if let Some(refusal) = progress.refusal.as_ref().filter(|_| operation.name == "prepare") {
            more.push(("unanimo.refused", Value::Text(refusal.reason.clone())));
        }
    }
    operation.end(more, None)
}

fn rpc(operation: Asked) -> &'static str {
    match operation.as_str() {
        "prepare" => "unanimo.v1.ParticipantService/Prepare",
        "commit" => "unanimo.v1.ParticipantService/Commit",
        _ => "unanimo.v1.ParticipantService/Cancel",
    }
}

fn of_transaction(tx: &Transaction) -> Attributes {
    let identity = tx.identity();
    let mode = identity.mode().map_or("none", |mode| mode.name());
    vec![
        ("unanimo.tx_id", Value::Text(identity.tx_id.to_string())),
        ("unanimo.gid", Value::Text(identity.gid.to_string())),
        ("unanimo.mode", Value::Text(mode.to_owned())),
    ]
}

fn of_branch(tx: &Transaction, branch: &Branch) -> Attributes {
    let spec = &branch.spec;
    let mut attributes = of_transaction(tx);
    attributes.extend([
        ("unanimo.branch_id", Value::Text(spec.branch_id.to_string())),
        ("unanimo.participant", Value::Text(spec.participant.to_string())),
        ("unanimo.action", Value::Text(spec.action.to_string())),
    ]);
    attributes
}

/// The span of a flush, in a trace of its own: it is of many transactions.
fn of_flush((trace_id, span_id): (TraceId, SpanId), flush: Flush, start: u64) -> Span {
    let rows = i64::try_from(flush.rows).unwrap_or(i64::MAX);
    Span {
        trace_id,
        span_id,
        parent: None,
        state: String::new(),
        name: "journal flush",
        kind: Kind::Internal,
        start,
        end: start.saturating_add(crate::spans::nanos(flush.took)),
        attributes: vec![("unanimo.transactions", Value::Number(rows))],
        events: Vec::new(),
        links: Vec::new(),
        error: None,
    }
}
