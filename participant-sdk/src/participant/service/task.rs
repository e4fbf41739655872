//! Operations in tasks of their own: their pauses, their bounds, and the log lines of those that have no answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinHandle};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tracing::Instrument;

use crate::action::{Unreadable, bounded};
use crate::handler::{Branch, Call};
use crate::payload::Payload;
use crate::propagation::Trace;
use crate::resource::Fault;
use crate::wire;

/// After which an operation that met a lock is to be sent again for the first time. It doubles with each
/// attempt: a lock may be held for as long as a person needs to free it.
pub(super) const LOCKED_PAUSE: Duration = Duration::from_millis(200);

/// Longest of these pauses.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Time that is allowed to a call whose caller does not say how long it waits.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Time past its handler's bound that an operation has to look whether the handler has lost its transaction, and to
/// record that.
const CHECKED_WITHIN: Duration = Duration::from_secs(2);

/// Time past its bound in which an operation must have returned to its runtime, which ends it.
const RETURNS_WITHIN: Duration = Duration::from_secs(5);

/// Returns the pause after an attempt.
pub(super) fn pause(first: Duration, attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16);
    (first * (1 << doublings)).min(PAUSE_MAX)
}

/// Bound of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) at_most: Duration,
    /// It is the one that the service has set for its handlers, and no sign of trouble.
    pub(super) is_handlers: bool,
}

/// Call of an operation, besides what it is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// Time for which the caller waits.
    pub(crate) timeout: Option<Duration>,
    pub(crate) trace: Trace,
}

impl Caller {
    pub(super) fn of(headers: &MetadataMap) -> Self {
        let trace = Trace::from_headers(headers.as_ref());
        Self { timeout: wire::timeout(headers), trace }
    }
}

/// Runs an operation in a task of its own: a coordinator that goes away, or does not wait, cancels
/// no database work half way. Its handler is ended at its bound, and the connection is closed then. `None` tells
/// that another operation is in its way.
pub(super) async fn in_own_task<T: Send + 'static>(
    operation: &'static str,
    call: Call<Payload>,
    slot: OwnedSemaphorePermit,
    bound: Bound,
    trace: Trace,
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<Option<T>, Status> {
    let Branch { tx_id, gid, branch_id, participant, .. } = &call.branch;
    let (action, attempt, traceparent) = (&call.action, call.attempt, trace.parent());
    // Of the span that the server's own tracing has entered for the call, if it has.
    let span = tracing::info_span!(
        "participant_operation",
        operation, participant, %tx_id, gid, branch_id, action, attempt, traceparent
    );
    #[cfg(feature = "opentelemetry")]
    trace.adopt(&span);
    let call = Arc::new(call);
    let at_most = bound.at_most.saturating_add(CHECKED_WITHIN);
    let late = (operation, Arc::clone(&call), at_most.saturating_add(RETURNS_WITHIN));
    let work = async move {
        let _slot = slot;
        let work = bounded(bound.at_most, trace.scope(work));
        let ended = tokio::time::timeout(at_most, work).await;
        let result = ended.unwrap_or(Err(Fault::Overtime(bound.at_most)));
        if let Err(fault) = &result {
            tell(operation, &call, fault, bound.is_handlers);
        }
        result
    };
    let work = tokio::spawn(work.instrument(span.clone()));
    // In a task of its own, too: the caller may have gone long before.
    let ended = tokio::spawn(watched(work, late).instrument(span)).await;
    match ended.and_then(|ended| ended) {
        Ok(Ok(answer)) => Ok(Some(answer)),
        Ok(Err(Fault::Busy)) => Ok(None),
        Ok(Err(fault)) => {
            let code = match &fault {
                Fault::Definite { .. } | Fault::Indeterminate { .. } => Code::Unavailable,
                Fault::Overtime(_) | Fault::Unseen(_) | Fault::Blocked(_) => Code::DeadlineExceeded,
                Fault::Handler(_) => Code::Unknown,
                _ => Code::Internal,
            };
            let text = match &fault {
                Fault::Panicked(text) => format!("the handler of {operation} panicked: {text}"),
                other => other.to_string(),
            };
            Err(wire::status(code, &text))
        }
        Err(_) => Err(Status::internal(format!("the handler of {operation} panicked"))),
    }
}

/// Waits for an operation. One that blocks its thread, with a lock or a sleep of the standard library, is not ended at
/// its bound by anything: a person is told, and the caller.
async fn watched<T>(
    mut work: JoinHandle<Result<T, Fault>>,
    (operation, call, late): (&'static str, Arc<Call<Payload>>, Duration),
) -> Result<Result<T, Fault>, JoinError> {
    if let Ok(ended) = tokio::time::timeout(late, &mut work).await {
        return ended;
    }
    let fault = Fault::Blocked(late);
    tell(operation, &call, &fault, false);
    Ok(Err(fault))
}

fn tell(operation: &'static str, call: &Call<Payload>, fault: &Fault, at_handlers_bound: bool) {
    let alarm = match fault {
        Fault::Busy => return,
        Fault::Lost(_) => "handler_lost_transaction",
        // It is as the service has set it.
        Fault::Overtime(_) if at_handlers_bound => "",
        Fault::Overtime(_) | Fault::Unseen(_) | Fault::Blocked(_) => "operation_overtime",
        Fault::NotOffered(_) => "open_action_gone",
        Fault::Handler(error) if error.is::<Unreadable>() => "open_payload_unreadable",
        _ => "",
    };
    let Call { branch, action, attempt, .. } = call;
    let Branch { tx_id, gid, branch_id, .. } = branch;
    if alarm.is_empty() {
        tracing::warn!(
            %tx_id, gid, branch_id, action, attempt, operation, error = %fault,
            "no answer; it will be asked again"
        );
    } else {
        tracing::error!(
            alarm, %tx_id, gid, branch_id, action, attempt, operation, error = %fault,
            "no answer; it will be asked again, and a person is needed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let pauses = [0, 1, 2, 3, 9, 99, u32::MAX].map(|attempt| pause(LOCKED_PAUSE, attempt));
        let ms = pauses.map(|pause| pause.as_millis());
        assert_eq!(ms, [200, 200, 400, 800, 30_000, 30_000, 30_000]);
    }
}
