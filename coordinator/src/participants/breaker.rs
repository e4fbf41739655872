//! Breaker of the calls of one kind to one participant.
//!
//! After failures in a row it opens: calls wait, new work is refused before anything of it is stored, and
//! one call at a time tries whether the participant is back. The first answer closes it. A busy one, WORKING or
//! too late, is no failure, and does not tell that anything gets done: it neither opens the breaker nor
//! closes it at once. Work may take long: a participant that has given nothing but busy answers for a while
//! is back, too.
//!
//! A failure is the *participant's* or the *branch's own*, and only those of the participant open the breaker;
//! `Breaker::is_the_branchs_own` says which. Some branches fail whenever they are called, at a participant that
//! works: so the calls of branches that fail and those of all others are probes each in a turn of their own
//! (`Past`), and where the participant was reached, new work is let in from time to time.

mod turn;

use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::TxId;

use self::turn::Turn;

/// Failures in a row that open the breaker. Fewer are common where a participant is started anew.
const FAILURES_TO_OPEN: u32 = 5;

/// Transactions that failures without any answer must belong to: one of them may wait for a lock.
const SILENT_TO_OPEN: usize = 3;

/// Transactions that failures must belong to where errors are among them: the participant works, and a few
/// records may be what it cannot deal with.
const ERRORS_TO_OPEN: usize = 5;

/// Longest pause between two probes, whatever the backoff of calls is: new work waits for it.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Shortest time before new work is let in where calls wait: these are tried first, for what is let in may be
/// owed something for as long as the participant fails.
const OTHERS_FIRST: Duration = Duration::from_secs(1);

/// Time for which busy answers to probes, and no failure among them, say that the participant is back.
const BUSY_IS_BACK: Duration = Duration::from_secs(30);

/// Time after the last failure in which a busy answer does not end the row of failures.
const ROW_MAX: Duration = Duration::from_secs(60);

/// Pauses between probes: doubling from `base` to `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// First pause.
    pub base: Duration,
    /// Longest pause.
    pub cap: Duration,
}

impl Pauses {
    fn first(self) -> Duration {
        self.base.min(PAUSE_MAX)
    }

    fn after(self, pause: Duration) -> Duration {
        (pause * 2).min(self.cap.max(self.base)).min(PAUSE_MAX)
    }
}

/// Permission for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// It may be sent.
    Free,
    /// It may be sent, and tries whether the participant is back.
    Probe,
    /// It has to wait.
    Wait,
}

/// Past of the calls of one kind for one branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    /// None has failed since the last answer, if there was any call at all.
    Good,
    /// All have failed since then.
    Failing {
        /// Time of the first failure.
        since: Instant,
    },
}

/// Kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection could be made.
    Unreachable,
    /// The call was sent then, had all the time that a call has, and there is no answer.
    Silent {
        /// When it was sent.
        since: Instant,
    },
    /// It was answered with an error.
    Error,
}

/// Failure of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault<'a> {
    /// Transaction of the call.
    pub(crate) tx_id: TxId,
    /// Kind of the failure.
    pub(crate) failure: Failure,
    /// Past of the call's branch, without this failure.
    pub(crate) past: Past,
    /// The call was a probe.
    pub(crate) probe: bool,
    /// Its text.
    pub(crate) error: &'a str,
}

/// New work that was let in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Invited {
    /// When the breaker opened.
    opened: Instant,
    /// When it was let in.
    at: Instant,
    /// The turn of before, and when new work had been let in by then.
    before: (Turn, Instant),
}

/// The breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    pauses: Pauses,
    open: Option<Open>,
    /// When the participant has last answered any call.
    answered_at: Option<Instant>,
    /// When a call that had less than its full time has first ended without an answer since then.
    hurried_at: Option<Instant>,
    /// The participant's failures since its last answer.
    failures: u32,
    failed_at: Option<Instant>,
    unreachable: u32,
    /// There were errors among them.
    errors: bool,
    transactions: Vec<TxId>,
    last_error: String,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    /// Probes by calls of branches that do not fail.
    good: Turn,
    /// Probes by calls of branches that fail: a failure of these may be their own.
    failing: Turn,
    /// New work that is let in. Nobody knows when it calls, so there is no end of it to wait for.
    invited: Turn,
    /// When new work was last let in, or the breaker opened.
    invited_at: Instant,
    /// The last call that failed had reached the participant.
    reached: bool,
    /// Since when probes get busy answers and no failure.
    busy_since: Option<Instant>,
}

impl Open {
    fn new(now: Instant, pause: Duration, reached: bool) -> Self {
        let turn = Turn::new(now, pause);
        let (busy_since, invited_at) = (None, now);
        Self {
            since: now,
            good: turn,
            failing: turn,
            invited: turn,
            invited_at,
            reached,
            busy_since,
        }
    }

    fn turn(&mut self, past: Past) -> &mut Turn {
        match past {
            Past::Good => &mut self.good,
            Past::Failing { .. } => &mut self.failing,
        }
    }
}

impl Breaker {
    pub(super) fn new(pauses: Pauses) -> Self {
        Self {
            pauses,
            open: None,
            answered_at: None,
            hurried_at: None,
            failures: 0,
            failed_at: None,
            unreachable: 0,
            errors: false,
            transactions: Vec::new(),
            last_error: String::new(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Returns since when it is open.
    pub(crate) fn open_since(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.since)
    }

    pub(crate) fn last_error(&self) -> &str {
        &self.last_error
    }

    /// Asks for permission to send a call now.
    pub(crate) fn pass(&mut self, now: Instant, past: Past) -> Pass {
        match &mut self.open {
            None => Pass::Free,
            Some(open) => match open.turn(past).take(now) {
                true => Pass::Probe,
                false => Pass::Wait,
            },
        }
    }

    /// Returns when the next call of a branch with this past may be a probe.
    pub(crate) fn next_probe(&mut self, past: Past) -> Option<Instant> {
        self.open.as_mut().map(|open| open.turn(past).next())
    }

    /// Tells whether new work is refused, where so many calls wait. Where nobody can be reached, any of them
    /// finds out when that is over; and wherever it is, a `good` one of a branch that does not fail does. Where
    /// all that wait belong to branches that fail, it may be their own fault: new work is let in, once in each
    /// pause.
    pub(super) fn refuses(&self, now: Instant, waiting: usize, good: bool) -> bool {
        self.open.as_ref().is_some_and(|open| {
            let others_first = waiting > 0 && now < open.invited_at + OTHERS_FIRST;
            let others_find_out = good || (waiting > 0 && !open.reached);
            others_first || others_find_out || now < open.invited.next()
        })
    }

    /// New work is let in. Returns what is to be given back if that tries nothing after all.
    pub(super) fn invite(&mut self, now: Instant) -> Option<Invited> {
        let open = self.open.as_mut()?;
        let invited =
            Invited { opened: open.since, at: now, before: (open.invited, open.invited_at) };
        open.invited.fail(now, self.pauses);
        open.invited_at = now;
        Some(invited)
    }

    /// New work that was let in has tried nothing: other work may be let in instead.
    pub(super) fn give_back(&mut self, invited: Invited) {
        let Invited { opened, at, before } = invited;
        if let Some(open) = self.open.as_mut().filter(|o| (o.since, o.invited_at) == (opened, at)) {
            (open.invited, open.invited_at) = before;
        }
    }

    /// The participant has answered. Returns the time for which the breaker was open.
    pub(crate) fn answered(&mut self, now: Instant) -> Option<Duration> {
        self.answered_at = Some(now);
        self.end_row();
        self.open.take().map(|open| now - open.since)
    }

    fn end_row(&mut self) {
        self.hurried_at = None;
        self.failures = 0;
        self.failed_at = None;
        self.unreachable = 0;
        self.errors = false;
        self.transactions.clear();
    }

    /// The participant has given a busy answer to a call, or to a probe. Returns the time for which the
    /// breaker was open if it is closed by that.
    pub(crate) fn busy(&mut self, now: Instant, past: Past, probe: bool) -> Option<Duration> {
        let Some(open) = &mut self.open else {
            if self.failed_at.is_none_or(|at| now.saturating_duration_since(at) >= ROW_MAX) {
                self.end_row();
            }
            return None;
        };
        if !probe {
            return None;
        }
        open.reached = true;
        let since = *open.busy_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= BUSY_IS_BACK {
            return self.answered(now);
        }
        open.turn(past).repeat(now);
        None
    }

    /// A call has failed. Returns true if this opens the breaker.
    pub(crate) fn failed(&mut self, now: Instant, fault: Fault<'_>) -> bool {
        if let Some(open) = &mut self.open {
            fault.error.clone_into(&mut self.last_error);
            open.reached = fault.failure != Failure::Unreachable;
            open.busy_since = None;
            if fault.probe {
                open.turn(fault.past).fail(now, self.pauses);
            }
            return false;
        }
        if self.is_the_branchs_own(fault) {
            return false;
        }
        fault.error.clone_into(&mut self.last_error);
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
        let reached = fault.failure != Failure::Unreachable;
        if !reached {
            self.unreachable = self.unreachable.saturating_add(1);
        }
        self.errors |= fault.failure == Failure::Error;
        let counted = self.transactions.contains(&fault.tx_id);
        if self.transactions.len() < ERRORS_TO_OPEN && !counted {
            self.transactions.push(fault.tx_id);
        }
        let transactions = if self.errors { ERRORS_TO_OPEN } else { SILENT_TO_OPEN };
        let certain =
            self.unreachable >= FAILURES_TO_OPEN || self.transactions.len() >= transactions;
        if self.failures < FAILURES_TO_OPEN || !certain {
            return false;
        }
        self.open = Some(Open::new(now, self.pauses.first(), reached));
        true
    }

    /// Tells whose failure it is. Where no connection can be made, it is the participant's, whoever calls.
    /// Any other one is the branch's own if the participant has answered others meanwhile: since the branch
    /// began to fail, or while it waited for an answer. Such a branch goes on at its own backoff.
    fn is_the_branchs_own(&self, fault: Fault<'_>) -> bool {
        let began = match (fault.failure, fault.past) {
            (Failure::Unreachable, _) | (Failure::Error, Past::Good) => return false,
            (_, Past::Failing { since }) | (Failure::Silent { since }, Past::Good) => since,
        };
        self.answered_at.is_some_and(|answered_at| began < answered_at)
    }

    /// A call has ended without an answer in less than the `full` time of a call, which says nothing of the
    /// participant. Tells whether that is silence all the same: for a full time such calls have ended, and none
    /// was answered.
    pub(crate) fn is_silence(&mut self, now: Instant, full: Duration) -> bool {
        // No row of its own: it goes on until an answer.
        self.failed_at.get_or_insert(now);
        now - *self.hurried_at.get_or_insert(now) >= full
    }

    /// A probe has ended and tells nothing: it was given up before its time, or had too little.
    pub(crate) fn untold(&mut self, now: Instant, past: Past) {
        if let Some(open) = &mut self.open {
            open.turn(past).repeat(now);
        }
    }

    /// The participant has registered again: calls may try now whether it is back.
    pub(super) fn returned(&mut self, now: Instant) {
        let pause = self.pauses.first();
        if let Some(open) = &mut self.open {
            let turn = Turn::due(now, pause);
            (open.good, open.failing, open.invited) = (turn, turn, turn);
        }
    }
}

#[cfg(test)]
mod tests;
