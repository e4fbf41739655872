use super::*;
use crate::env::SystemEnv;

const START: u64 = 5_000_000_000_000;

fn spans() -> (Spans, mpsc::Receiver<Span>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let (spans, waiting) =
        Spans::new(Arc::new(SystemEnv), Incarnation(1), 1.0, Arc::clone(&metrics));
    (spans, waiting, metrics)
}

fn operation() -> Operation {
    let (trace_id, span_id) = (TraceId([1; 16]), SpanId([2; 8]));
    let context = Context { trace_id, span_id, parent: None, state: None, sampled: true };
    let (name, since) = ("prepare", Instant::now());
    Operation { context, begun: Begun { span_id: SpanId([3; 8]), name, start: START, since } }
}

/// A collector that takes nothing costs so much memory, and no more.
#[test]
fn l5_spans_that_find_no_room_are_dropped_and_counted() {
    let (spans, mut waiting, metrics) = spans();
    for _ in 0..WAITING_MAX {
        spans.add(operation().end(Vec::new()));
    }
    assert_eq!(metrics.count_spans_dropped(), 0);
    for _ in 0..3 {
        spans.add(operation().end(Vec::new()));
    }
    assert_eq!(metrics.count_spans_dropped(), 3);
    let mut kept = 0;
    while waiting.try_recv().is_ok() {
        kept += 1;
    }
    assert_eq!(kept, WAITING_MAX);
    spans.add(operation().end(Vec::new()));
    assert_eq!((metrics.count_spans_dropped(), waiting.try_recv().is_ok()), (3, true));
}

/// An attempt goes to another endpoint where no connection can be made, and later on perhaps to the first one again.
#[test]
fn calls_of_one_attempt_are_spans_of_their_own() {
    let (spans, _waiting, _metrics) = spans();
    let attempt = || spans.attempt(&operation(), Vec::new(), 1, "http://127.0.0.1:1");
    let (first, again) = (attempt(), attempt());
    assert!(first.sent().is_some());
    assert_ne!(first.sent(), again.sent());
}

/// Attempts go by the clock of their operation, whatever the system's says, and are within it.
#[test]
fn an_attempt_is_within_its_operation() {
    const HOUR: u64 = 3600 * 1_000_000_000;
    let (spans, mut waiting, _metrics) = spans();
    let operation = operation();
    spans.attempt(&operation, Vec::new(), 1, "http://127.0.0.1:1").answered(false);
    let attempt = waiting.try_recv().expect("its span");
    let operation = operation.end(Vec::new());
    assert!(START <= attempt.start && attempt.start <= attempt.end, "{attempt:?}");
    assert!(attempt.end <= operation.end && operation.end < START + HOUR, "{operation:?}");
}
