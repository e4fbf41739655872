//! One attempt at one endpoint, and what its end says of endpoint and participant.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::TxId;

use super::BranchCall;
use crate::participants::breaker::Failure;
use crate::participants::directory::{CallKind, Entry, Failed, Taken};

/// An attempt that is given up so shortly before its end has no answer: the deadline's timer was faster.
const NEARLY: Duration = Duration::from_millis(100);

/// Failure of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::participants) enum Verdict {
    /// No connection could be made, and nothing was sent.
    Connect(String),
    /// There is no answer.
    Silent(String),
    /// The participant answered with an error that may concern others as well.
    Error(String),
    /// The participant answered with an error about this request.
    Declined(String),
}

impl Verdict {
    pub(super) fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_))
    }

    pub(super) fn into_error(self) -> String {
        match self {
            Self::Connect(error)
            | Self::Silent(error)
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
    timeout: Duration,
    /// The slot that it was sent from, and when.
    sent: Option<(Taken, Instant)>,
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
            timeout: call.timeout,
            sent: None,
            // The coordinator itself waits for others: its answers say nothing of itself.
            over: entry.is_own(),
        }
    }

    /// The call goes out from this slot.
    pub(super) fn sent(&mut self, taken: Taken) {
        self.sent = Some((taken, Instant::now()));
    }

    /// The participant has answered.
    pub(super) fn answered(&mut self) {
        if let Some((taken, _)) = self.sent.take() {
            taken.answered();
        }
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let was_open = self.entry.breaker(self.kind).answered(Instant::now());
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
            Verdict::Declined(_) => return self.answered(),
            Verdict::Connect(error) => (Failure::Unreachable, error),
            Verdict::Silent(error) => (Failure::Silent, error),
            Verdict::Error(error) => (Failure::Error, error),
        };
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let (now, probe) = (Instant::now(), self.probe);
        let opens = self.entry.breaker(self.kind).failed(now, self.tx_id, failure, probe, error);
        if opens {
            tracing::warn!(
                participant = self.participant,
                calls = self.kind.name(),
                error,
                "the participant fails: new work for it is refused, and what is owed to it waits until                  it answers again"
            );
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
            let verdict = Verdict::Silent(format!("no answer within {:?}", self.timeout));
            self.failed_there(&verdict);
            self.failed(&verdict);
        } else if self.probe {
            self.entry.breaker(self.kind).given_up();
        }
    }
}
