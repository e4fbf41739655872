//! Spans of the transactions in memory.

use std::collections::HashMap;
use std::time::Instant;

use unanimo_core::{
    Branch, BranchNumber, Call, Decision, Heuristic, Identity, Operation as Asked, Phase,
    Transaction, TxId,
};

use super::super::clock::Anchor;
use super::super::waiting::{kind, next_kind};
use crate::participants::directory::CallKind;
use crate::spans::{
    Attributes, Begun, Context, Kind, Operation, Span, SpanId, Spans, TraceId, Traced, Value,
    of_branch, of_transaction,
};
use crate::store::journal::Flush;

/// Most flushes to which a transaction's span is linked: the first ones.
const LINKS_MAX: usize = 32;

/// Nanoseconds in the unit of the core.
const MILLISECOND: u64 = 1_000_000;

/// A branch, and the name of its operation.
type Key = (BranchNumber, &'static str);

/// A transaction in memory that is sampled.
#[derive(Debug)]
struct Open {
    context: Context,
    is_adopted: bool,
    /// It is decided, and Prepares that this has overtaken are ended.
    is_decided: bool,
    links: Vec<(TraceId, SpanId)>,
    operations: HashMap<Key, Begun>,
    /// End of the last operation that has ended.
    last: u64,
}

impl Open {
    fn new(context: Context, is_adopted: bool) -> Self {
        let (links, operations) = Default::default();
        Self { context, is_adopted, is_decided: false, links, operations, last: 0 }
    }

    /// Ends an operation, with what its branch has come to.
    fn end(&mut self, tx: &Transaction, key: Key) -> Option<Span> {
        let begun = self.operations.remove(&key)?;
        let context = self.context.clone();
        let span = Operation { context, begun }.end(attributes(tx, key));
        self.last = self.last.max(span.end);
        Some(span)
    }
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
        self.open.insert(identity.tx_id, Open::new(context, is_adopted));
    }

    /// A transaction leaves memory.
    pub(super) fn forget(&mut self, tx_id: TxId) {
        self.open.remove(&tx_id);
    }

    /// Returns the trace of a transaction, for its log lines.
    pub(super) fn id(&self, identity: &Identity) -> Option<String> {
        self.spans.trace_id(identity)
    }

    /// A call is sent: its operation begins with the first one, at the transaction's time.
    pub(super) fn sent(
        &mut self,
        tx: &Transaction,
        branch: &Branch,
        call: Call,
        clock: Anchor,
    ) -> Traced {
        self.end_overtaken(tx);
        let identity = tx.identity();
        let Some(open) = self.open.get_mut(&identity.tx_id) else {
            // Not sampled: whoever comes next is told so, and its caller's trace goes on as it came.
            let context = self.spans.context(identity).filter(|context| context.parent.is_none());
            return context.map_or(Traced::AsItCame, Traced::Unsampled);
        };
        let name = call.operation.as_str();
        let begun = open.operations.entry((branch.number, name)).or_insert_with(|| Begun {
            span_id: SpanId::of_operation(identity.tx_id, branch.number, name),
            name,
            start: clock.nanos(),
            since: Instant::now(),
        });
        Traced::Sampled(Operation { context: open.context.clone(), begun: *begun })
    }

    /// A call has ended, and was taken note of: its operation ends if it is not sent again.
    pub(super) fn call_ended(&mut self, tx: &Transaction, call: Call) {
        self.end_overtaken(tx);
        let Some(open) = self.open.get_mut(&tx.tx_id()) else { return };
        let Some(branch) = tx.branch(call.number) else { return };
        if goes_on(branch, kind(call.operation)) {
            return;
        }
        let span = open.end(tx, (call.number, call.operation.as_str()));
        span.into_iter().for_each(|span| self.spans.add(span));
    }

    /// Ends the Prepares that the decision has overtaken: they are not sent again.
    fn end_overtaken(&mut self, tx: &Transaction) {
        let Some(open) = self.open.get_mut(&tx.tx_id()) else { return };
        if open.is_decided || tx.phase().decision().is_none() {
            return;
        }
        open.is_decided = true;
        let is_over = |(number, name): &Key| {
            let again = |branch: &Branch| goes_on(branch, CallKind::Prepare);
            *name == Asked::Prepare.as_str() && !tx.branch(*number).is_some_and(again)
        };
        let over: Vec<Key> = open.operations.keys().copied().filter(is_over).collect();
        let ended = over.into_iter().filter_map(|key| open.end(tx, key));
        ended.for_each(|span| self.spans.add(span));
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
        let Some(mut open) = self.open.remove(&tx.tx_id()) else { return };
        let Phase::Ended { decision, at, .. } = tx.phase() else { return };
        for key in open.operations.keys().copied().collect::<Vec<_>>() {
            let span = open.end(tx, key);
            span.into_iter().for_each(|span| self.spans.add(span));
        }
        let identity = tx.identity();
        let mut attributes = of_transaction(identity);
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
            state: open.context.state,
            name: "transaction",
            kind: Kind::Internal,
            start: identity.created_at.0.saturating_mul(MILLISECOND),
            // Its own times are whole milliseconds.
            end: open.last.max(at.0.saturating_mul(MILLISECOND)),
            attributes,
            events: decided.into_iter().collect(),
            links: open.links,
            error: is_heuristic
                .then(|| "branches ended against the decision, or may have".to_owned()),
        });
    }
}

/// Tells whether a branch's calls of this kind go on.
fn goes_on(branch: &Branch, kind: CallKind) -> bool {
    branch.is_called() && next_kind(branch) == kind
}

/// Attributes of an operation that ends.
fn attributes(tx: &Transaction, (number, name): Key) -> Attributes {
    let Some(branch) = tx.branch(number) else { return of_transaction(tx.identity()) };
    let mut attributes = of_branch(tx.identity(), &branch.spec);
    let (progress, is_prepare) = (&branch.progress, name == Asked::Prepare.as_str());
    let attempts = match is_prepare {
        true => &progress.prepare_attempts,
        false => &progress.phase_two_attempts,
    };
    attributes.push(("unanimo.attempts", Value::Number(attempts.count.into())));
    if let Some(refusal) = progress.refusal.as_ref().filter(|_| is_prepare) {
        attributes.push(("unanimo.refused", Value::Text(refusal.reason.clone())));
    }
    attributes
}

/// The span of a flush, in a trace of its own: it is of many transactions.
fn of_flush((trace_id, span_id): (TraceId, SpanId), flush: Flush, start: u64) -> Span {
    let rows = i64::try_from(flush.rows).unwrap_or(i64::MAX);
    Span {
        trace_id,
        span_id,
        parent: None,
        state: None,
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

#[cfg(all(test, feature = "otlp"))]
mod tests;
