//! Ids of traces and spans, after W3C Trace Context.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use unanimo_core::{BranchNumber, Identity, TraceContext, TxId};

use crate::wire::Traceparent;

/// Id of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceId(pub(crate) [u8; 16]);

/// Id of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanId(pub(crate) [u8; 8]);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl TraceId {
    /// The trace of a transaction whose caller has none: the tx_id without its hyphens, so that each leads to the
    /// other. Its last seven bytes are random, as W3C asks.
    pub(crate) fn of_transaction(tx_id: TxId) -> Self {
        Self(tx_id.0.into_bytes())
    }

    /// The trace of a flush of the journal, which is of many transactions.
    pub(crate) fn of_flush(me: i64, number: u64) -> Self {
        let hash = hash(b"flush trace", &[&me.to_be_bytes(), &number.to_be_bytes()]);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        Self(id)
    }

    /// Tells whether it is among this part of all traces: by its random bytes, so that every node says the same.
    fn is_among(self, ratio: f64) -> bool {
        let mut random = [0; 8];
        random[1..].copy_from_slice(&self.0[9..]);
        #[expect(clippy::cast_precision_loss, reason = "56 bits: the last three do not matter")]
        let place = u64::from_be_bytes(random) as f64 / (1_u64 << 56) as f64;
        place < ratio
    }
}

impl SpanId {
    /// The span of a transaction.
    fn of_transaction(tx_id: TxId) -> Self {
        Self::of(b"transaction", &[tx_id.0.as_bytes()])
    }

    /// The span of an operation of a branch.
    pub(crate) fn of_operation(tx_id: TxId, number: BranchNumber, operation: &str) -> Self {
        let number = (number.index() as u64).to_be_bytes();
        Self::of(b"operation", &[tx_id.0.as_bytes(), &number, operation.as_bytes()])
    }

    /// The span of an attempt: of this call of an incarnation. The number of an attempt may come again, at another
    /// endpoint, after a wait for the participant, or after a crash.
    pub(crate) fn of_attempt(self, me: i64, call: u64) -> Self {
        Self::of(b"attempt", &[&self.0, &me.to_be_bytes(), &call.to_be_bytes()])
    }

    /// The span of a flush of the journal.
    pub(crate) fn of_flush(me: i64, number: u64) -> Self {
        Self::of(b"flush", &[&me.to_be_bytes(), &number.to_be_bytes()])
    }

    fn of(what: &[u8], parts: &[&[u8]]) -> Self {
        let hash = hash(what, parts);
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        // Only zeros are no id.
        id[7] |= u8::from(id == [0; 8]);
        Self(id)
    }
}

fn hash(what: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(what);
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// The span of another process, as `traceparent` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Came {
    pub(crate) trace_id: TraceId,
    span_id: SpanId,
    sampled: bool,
}

/// Reads `traceparent`; `None` if it is none.
pub(crate) fn parse(traceparent: Option<&str>) -> Option<Came> {
    let Traceparent { trace_id, span_id, flags } = Traceparent::parse(traceparent?)?;
    Some(Came {
        trace_id: TraceId(trace_id.to_be_bytes()),
        span_id: SpanId(span_id.to_be_bytes()),
        sampled: flags & 1 == 1,
    })
}

/// Place of a transaction in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) trace_id: TraceId,
    /// Its own span.
    pub(crate) span_id: SpanId,
    /// The span of whoever began it.
    pub(crate) parent: Option<SpanId>,
    pub(crate) state: Option<Arc<str>>,
    pub(crate) sampled: bool,
}

impl Context {
    /// Makes that of a transaction: in its caller's trace, sampled as that is, or in one of its own.
    pub(super) fn of(identity: &Identity, ratio: f64) -> Self {
        let span_id = SpanId::of_transaction(identity.tx_id);
        match parse(identity.trace.traceparent.as_deref()) {
            Some(Came { trace_id, span_id: parent, sampled }) => {
                let state = identity.trace.tracestate.as_deref().map(Arc::from);
                Self { trace_id, span_id, parent: Some(parent), state, sampled }
            }
            None => {
                let trace_id = TraceId::of_transaction(identity.tx_id);
                let sampled = trace_id.is_among(ratio);
                Self { trace_id, span_id, parent: None, state: None, sampled }
            }
        }
    }

    /// Returns the context that names this span of the trace.
    pub(crate) fn naming(&self, span: SpanId) -> TraceContext {
        let flags = u8::from(self.sampled);
        let traceparent = format!("00-{}-{span}-{flags:02x}", self.trace_id);
        let tracestate = self.state.as_deref().map(str::to_owned);
        TraceContext { traceparent: Some(traceparent), tracestate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_parent_is_read_as_w3c_says() {
        let read = |text: &str| {
            parse(Some(text)).map(|c| (c.trace_id.to_string(), c.span_id.to_string(), c.sampled))
        };
        let known = |sampled| Some((TRACE.to_owned(), SPAN.to_owned(), sampled));
        let zeros = (format!("{:032}", 0), format!("{:016}", 0));
        for (text, expected) in [
            (format!("00-{TRACE}-{SPAN}-01"), known(true)),
            (format!("00-{TRACE}-{SPAN}-00"), known(false)),
            (format!("00-{TRACE}-{SPAN}-03"), known(true)),
            (format!("01-{TRACE}-{SPAN}-01-later"), known(true)),
            (format!("00-{TRACE}-{SPAN}-01-later"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", zeros.0), None),
            (format!("00-{TRACE}-{}-01", zeros.1), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{TRACE}-{SPAN}-+1"), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            ("00-ä".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(read(&text), expected, "{text}");
        }
        assert_eq!(parse(None), None);
    }

    #[test]
    fn a_ratio_samples_so_many_and_every_node_the_same() {
        let ids: Vec<TraceId> = (0..4000)
            .map(|n| {
                let time = uuid::Timestamp::from_unix(uuid::NoContext, 1_700_000_000 + n, 0);
                TraceId::of_transaction(TxId(uuid::Uuid::new_v7(time)))
            })
            .collect();
        for (ratio, range) in
            [(0.0, 0..=0), (0.25, 800..=1200), (0.5, 1700..=2300), (1.0, 4000..=4000)]
        {
            let sampled = ids.iter().filter(|id| id.is_among(ratio)).count();
            assert!(range.contains(&sampled), "{ratio}: {sampled}");
        }
        assert!(ids.iter().all(|id| !id.is_among(0.2) || id.is_among(0.4)), "more only adds");
    }

    #[test]
    fn spans_of_a_transaction_have_ids_of_their_own() {
        let tx_id = TxId(uuid::Uuid::from_u128(7));
        let one = SpanId::of_operation(tx_id, BranchNumber::from_index(0), "prepare");
        let ids = [
            SpanId::of_transaction(tx_id),
            one,
            SpanId::of_operation(tx_id, BranchNumber::from_index(0), "commit"),
            SpanId::of_operation(tx_id, BranchNumber::from_index(1), "prepare"),
            one.of_attempt(1, 1),
            one.of_attempt(1, 2),
            one.of_attempt(2, 1),
        ];
        for (index, id) in ids.iter().enumerate() {
            assert!(!ids[..index].contains(id), "{index}");
        }
        assert_eq!(
            one,
            SpanId::of_operation(tx_id, BranchNumber::from_index(0), "prepare"),
            "and keep them"
        );
    }
}
