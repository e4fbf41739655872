//! One attempt at one endpoint, and what its end says of endpoint and participant.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;
use unanimo_core::TxId;

use super::BranchCall;
use crate::participants::breaker::{Failure, Fault, Past};
use crate::participants::directory::{CallKind, Entry, Failed, Taken};

/// An attempt that is given up so shortly before its end has no answer: the deadline's timer was faster.
const NEARLY: Duration = Duration::from_millis(100);

/// Failure of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::participants) enum Verdict {
    /// No connection could be made, and nothing was sent.
    Connect(String),
    /// There is no answer, and the call had all its time.
    Silent(String),
    /// There is no answer within the time that the transaction allows, which is less: its initiator chose
    /// that, and it says nothing of the participant.
    Hurried(String),
    /// The participant answered with an error that may concern others as well.
    Error(String),
    /// The participant answered with an error about this request.
    Declined(String),
}

impl Verdict {
    /// Makes the verdict of a call that was not answered in its time.
    pub(super) fn unanswered(timeout: Duration, is_full: bool) -> Self {
        let error = format!("no answer within {timeout:?}");
        if is_full { Self::Silent(error) } else { Self::Hurried(error) }
    }

    /// Corrects the verdict of an error: a participant that keeps to the time that it was given says so
    /// itself.
    pub(super) fn within(self, is_full: bool, code: Code) -> Self {
        let over = matches!(code, Code::DeadlineExceeded | Code::Cancelled);
        match self {
            Self::Error(error) if over && !is_full => Self::Hurried(error),
            verdict => verdict,
        }
    }

    pub(super) fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_))
    }

    pub(super) fn error(&self) -> &str {
        match self {
            Self::Connect(error)
            | Self::Silent(error)
            | Self::Hurried(error)
            | Self::Error(error)
            | Self::Declined(error) => error,
        }
    }

    pub(super) fn into_error(self) -> String {
        match self {
            Self::Connect(error)
            | Self::Silent(error)
            | Self::Hurried(error)
            | Self::Error(error)
            | Self::Declined(error) => error,
        }
    }
}

/// An attempt. One that is dropped without an end was overtaken by a decision, or by the deadline.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    entry: &'a Arc<Entry>,
    kind: CallKind,
    tx_id: TxId,
    participant: &'a str,
    probe: bool,
    past: Past,
    timeout: Duration,
    full: Duration,
    /// The slot that it was sent from, and when.
    sent: Option<(Taken, Instant)>,
    /// When it was last sent, wherever.
    sent_at: Option<Instant>,
    over: bool,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(entry: &'a Arc<Entry>, kind: CallKind, call: &'a BranchCall) -> Self {
        Self {
            entry,
            kind,
            tx_id: call.identity.tx_id,
            participant: call.spec.participant.as_str(),
            probe: call.probe,
            past: call.past,
            timeout: call.timeout,
            full: call.full,
            sent_at: None,
            sent: None,
            // The coordinator itself waits for others: its answers say nothing of itself.
            over: entry.is_own(),
        }
    }

    /// The call goes out from this slot.
    pub(super) fn sent(&mut self, taken: Taken) {
        let now = Instant::now();
        self.sent_at = Some(now);
        self.sent = Some((taken, now));
    }

    /// The participant has answered. A busy answer tells that it is there, and not that anything gets done.
    pub(super) fn answered(&mut self, busy: bool) {
        if let Some((taken, _)) = self.sent.take() {
            taken.answered();
        }
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let now = Instant::now();
        let was_open = match busy {
            true => self.entry.breaker(self.kind).busy(now, self.past, self.probe),
            false => self.entry.breaker(self.kind).answered(now),
        };
        if let Some(was_open) = was_open {
            tracing::info!(
                participant = self.participant, calls = self.kind.name(), failed_for = ?was_open,
                waiting = self.entry.waiting(self.kind),
                "the participant answers again; what waits for it is sent little by little"
            );
        }
    }

    /// The call has failed at its endpoint, and gives the slot back.
    pub(super) fn failed_there(&mut self, verdict: &Verdict) {
        let Some((taken, since)) = self.sent.take() else { return };
        let failed = match verdict {
            Verdict::Connect(_) => Failed::Connect,
            Verdict::Silent(_) => Failed::Silent { since },
            Verdict::Error(_) => Failed::Error,
            Verdict::Hurried(_) => Failed::Hurried { since },
            Verdict::Declined(_) => return taken.answered(),
        };
        if let Some(ejected_for) = taken.failed(failed) {
            tracing::debug!(
                participant = self.participant,
                endpoint = taken.url(),
                ?verdict,
                ?ejected_for,
                "an endpoint fails, and is passed over for a while if there are others"
            );
        }
    }

    /// The call has failed, wherever it was sent.
    pub(super) fn failed(&mut self, verdict: &Verdict) {
        let (failure, error) = match verdict {
            Verdict::Declined(_) => return self.answered(false),
            Verdict::Hurried(_) if !self.is_silence() => return self.untold(),
            Verdict::Connect(error) => (Failure::Unreachable, error),
            Verdict::Silent(error) | Verdict::Hurried(error) => {
                let since = self.sent_at.unwrap_or_else(Instant::now);
                (Failure::Silent { since }, error)
            }
            Verdict::Error(error) => (Failure::Error, error),
        };
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let &mut Self { tx_id, past, probe, .. } = self;
        let fault = Fault { tx_id, failure, past, probe, error };
        let opens = self.entry.breaker(self.kind).failed(Instant::now(), fault);
        if opens {
            tracing::warn!(
                participant = self.participant,
                calls = self.kind.name(),
                error,
                "the participant fails: new work for it is refused, and what is owed to it waits until it answers again"
            );
        }
    }
}

impl Attempt<'_> {
    /// Tells whether calls of less than their full time are all that there is, and none is answered.
    fn is_silence(&self) -> bool {
        !self.over && self.entry.breaker(self.kind).is_silence(Instant::now(), self.full)
    }

    /// The call is over, and tells nothing of the participant.
    fn untold(&mut self) {
        if !std::mem::replace(&mut self.over, true) && self.probe {
            self.entry.breaker(self.kind).untold(Instant::now(), self.past);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let silent = |(_, at): &(Taken, Instant)| at.elapsed() + NEARLY >= self.timeout;
        if self.timeout > NEARLY && self.sent.as_ref().is_some_and(silent) {
            let verdict = Verdict::unanswered(self.timeout, self.timeout >= self.full);
            self.failed_there(&verdict);
            self.failed(&verdict);
        } else {
            self.untold();
        }
    }
}
