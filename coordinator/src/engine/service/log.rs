//! Log lines of a transition, and of the alarms that concern participants.

use tokio::time::Instant;
use unanimo_core::{
    Branch, BranchNumber, Event, EventKind, ParticipantName, PrepareAnswer, Timestamp, Transition,
    TxId,
};

use super::Service;
use super::alarms::Repeated;
use crate::alarm;
use crate::lines::Lines;
use crate::participants::caller::TOO_LATE;

/// Lines about outputs that were dropped.
static DROPPED: Lines = Lines::readable();

impl Service {
    /// Logs the events of a transition: alarms, operators' acts, and dropped outputs.
    pub(super) fn log_events(&mut self, transition: &Transition) {
        let held_up = |event: &Event| held_up_by(event.kind).is_some();
        transition.events.iter().filter(|event| held_up(event)).for_each(|event| {
            self.raise_held_up(transition.tx_id, event);
        });
        let Some(live) = self.live.get(&transition.tx_id).filter(|_| !transition.events.is_empty())
        else {
            return;
        };
        let identity = live.tx.identity();
        let trace = || self.traces.id(identity);
        for Event { kind, number, detail, .. } in &transition.events {
            let branch = number.and_then(|number| live.tx.branch(number));
            let branch_id = branch.map_or("", |branch| branch.spec.branch_id.as_str());
            let (tx_id, gid) = (transition.tx_id, &identity.gid);
            match kind {
                // One line a participant.
                EventKind::Stalled
                | EventKind::PivotUnanswered
                | EventKind::RefusedAfterCommit
                | EventKind::OutputTooLarge => {}
                // One line a participant as well: it may have ended everything by itself.
                EventKind::Heuristic => {
                    let participant = branch.map(|branch| &branch.spec.participant);
                    let is_new = participant.is_none_or(|participant| {
                        let (name, now) = (alarm::HEURISTIC_OUTCOME, Instant::now());
                        self.alarms.raise(name, participant, detail, now)
                    });
                    if is_new {
                        let participant = participant.map(ParticipantName::as_str);
                        tracing::error!(
                            alarm = alarm::HEURISTIC_OUTCOME, participant, %tx_id, %gid, trace_id = trace(),
                            branch_id, detail,
                            "the participant ended a branch against the decision, or cannot tell how it ended"
                        );
                    }
                }
                EventKind::OutputDropped => {
                    if let Some(left_out) = DROPPED.take() {
                        tracing::warn!(
                            %tx_id, %gid, trace_id = trace(), branch_id, detail, left_out,
                            "the output of a Prepare was dropped"
                        );
                    }
                }
                EventKind::Resolved => tracing::error!(
                    alarm = alarm::HEURISTIC_OUTCOME, %tx_id, %gid, trace_id = trace(), branch_id, detail,
                    "an operator ended a branch by hand, and nothing more is sent to its participant"
                ),
                EventKind::Forgotten | EventKind::Retried => {
                    tracing::warn!(
                        %tx_id, %gid, trace_id = trace(), branch_id, detail, act = kind.as_str(), "an operator acted"
                    );
                }
                EventKind::Started | EventKind::InDoubt => {
                    tracing::debug!(
                        %tx_id, %gid, trace_id = trace(), event = kind.as_str(), "the transaction moved on"
                    );
                }
                EventKind::Adopted => {
                    tracing::debug!(%tx_id, %gid, trace_id = trace(), detail, "the transaction was adopted");
                }
            }
        }
    }

    /// Raises the alarm of a transaction that participants hold up: a line for each of these that has none,
    /// with the first of its transactions.
    fn raise_held_up(&mut self, tx_id: TxId, event: &Event) {
        let Some(live) = self.live.get(&tx_id) else { return };
        let gid = &live.tx.identity().gid;
        let trace_id = self.traces.id(live.tx.identity());
        let at = |branch: &&Branch| event.number.is_none_or(|number| branch.number == number);
        let owing = live.tx.branches().iter().filter(|branch| branch.progress.ended_at.is_none());
        let mut told: Vec<&ParticipantName> = Vec::new();
        for branch in owing.filter(at) {
            let participant = &branch.spec.participant;
            if told.contains(&participant) {
                continue;
            }
            told.push(participant);
            let detail = &event.detail;
            let last_error = branch.last_error().unwrap_or(detail);
            let branch_id =
                event.number.map_or("", |_: BranchNumber| branch.spec.branch_id.as_str());
            let Some((name, what)) = held_up_by(event.kind) else { continue };
            if self.alarms.raise(name, participant, last_error, Instant::now()) {
                tracing::error!(
                    alarm = name, %participant, %tx_id, %gid, trace_id, branch_id, detail, last_error,
                    "{what}"
                );
            }
        }
    }

    /// Tells the alarms that have grown, each with its count.
    pub(super) fn repeat_alarms(&mut self) {
        let Some(repeated) = self.alarms.repeated(Instant::now()) else { return };
        for Repeated { alarm, participant, count, last_error } in repeated {
            let what = match alarm {
                alarm::HEURISTIC_OUTCOME => {
                    "the participant ended more branches against the decision, or cannot tell how"
                }
                _ => "the participant holds up more transactions",
            };
            tracing::error!(
                alarm, %participant, transactions = count, last_error,
                "{what}; tx list --attention names them"
            );
        }
        self.metrics.skewed(self.alarms.count(alarm::CLOCK_SKEW));
    }

    /// Raises the alarm of a clock that differs: the participant says that it is past a time that is not
    /// here yet.
    pub(super) fn note_skew(&mut self, tx_id: TxId, number: BranchNumber, answer: &PrepareAnswer) {
        let PrepareAnswer::Refused(refusal) = answer else { return };
        let Some(live) = self.live.get(&tx_id).filter(|_| refusal.reason == TOO_LATE) else {
            return;
        };
        let Some(branch) = live.tx.branch(number) else { return };
        let Some(until) = live.tx.prepare_until(branch, &self.options.policy) else { return };
        let (now, participant) = (live.clock.now(), &branch.spec.participant);
        let is_new = now < live.tx.deadline()
            && self.alarms.raise(alarm::CLOCK_SKEW, participant, &refusal.message, Instant::now());
        if is_new {
            tracing::error!(
                alarm = alarm::CLOCK_SKEW, %participant, %tx_id, gid = %live.tx.identity().gid,
                trace_id = self.traces.id(live.tx.identity()), branch_id = branch.spec.branch_id.as_str(),
                coordinator_time = shown(now), participant_time_past = shown(until),
                deadline = shown(live.tx.deadline()),
                "the participant refuses as too late what is not late: its clock, or its database's, is \
                 ahead of the coordinator's"
            );
        }
    }
}

/// Returns the name of the alarm that a participant raises by an event, and its words.
fn held_up_by(kind: EventKind) -> Option<(&'static str, &'static str)> {
    Some(match kind {
        EventKind::Stalled => (
            alarm::TRANSACTION_STALLED,
            "a participant has not ended Commit or Cancel for longer than stalled-after",
        ),
        EventKind::PivotUnanswered => (
            alarm::PIVOT_UNANSWERED,
            "the pivot of a saga has no answer long after the saga's deadline",
        ),
        EventKind::RefusedAfterCommit => (
            alarm::REFUSED_AFTER_COMMIT,
            "a participant refused a step that may only succeed; it is sent again",
        ),
        EventKind::OutputTooLarge => (
            alarm::OUTPUT_TOO_LARGE,
            "the output of a step is too large for the step that reads it; it is sent again",
        ),
        _ => return None,
    })
}

/// Formats a time of day.
fn shown(at: Timestamp) -> String {
    let at = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map(|at| at.to_string()).unwrap_or_default()
}
