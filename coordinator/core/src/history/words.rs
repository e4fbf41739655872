//! Inputs, effects and standings in words, for people who compare them.

use std::fmt::Write as _;

use super::{
    Call, Delivered, Document, Event, Input, LockRequest, LockResult, PhaseTwoResult,
    PrepareResult, RecordedOperation, Standing,
};
use crate::branch::{HeuristicKind, Vote};
use crate::ids::BranchNumber;
use crate::time::Timestamp;

impl RecordedOperation {
    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Commit => "commit",
            Self::Cancel => "cancel",
        }
    }
}

impl Document {
    /// Describes an input.
    #[must_use]
    pub fn input_in_words(&self, input: &Input) -> String {
        match input {
            Input::Begin { branches, .. } => format!("begun with {branches} branches"),
            Input::Recovered { by, .. } => format!("adopted by incarnation {by}"),
            Input::Enlist { number, by, .. } => {
                let by = match by {
                    super::Caller::Coordinator => "coordinator",
                    super::Caller::Initiator => "initiator",
                };
                format!("{} enlisted, called by the {by}", self.name(*number))
            }
            Input::CommitAsked { listed } => {
                let listed: Vec<String> =
                    listed.iter().map(|(number, vote)| self.listed(*number, *vote)).collect();
                format!("COMMIT asked for, with {}", or_nothing(&listed))
            }
            Input::RollbackAsked => "ABORT asked for".to_owned(),
            Input::ParentDecided { operation } => {
                format!("the parent decided: {}", operation.name())
            }
            Input::PrepareAnswered { number, attempt, answer } => {
                format!("prepare {} #{attempt}: {}", self.name(*number), prepare(answer))
            }
            Input::PhaseTwoAnswered { number, operation, attempt, answer } => {
                let (operation, name) = (operation.name(), self.name(*number));
                format!("{operation} {name} #{attempt}: {}", phase_two(answer))
            }
            Input::LocksAnswered { number, attempt, answer } => {
                format!("{} #{attempt}: {}", self.locks_of(*number), locks(answer))
            }
            Input::Tick => "time passed".to_owned(),
            Input::Rewrite => "written again".to_owned(),
            Input::Retry { number, operator } => {
                let what = number.map_or("all".to_owned(), |number| self.name(number));
                let by = operator.as_ref().map_or(String::new(), |name| format!(" by {name}"));
                format!("retry of {what}{by}")
            }
            Input::Resolve { number, kind, output, operator, note } => {
                let (name, kind) = (self.name(*number), kind.in_words());
                let output = output.as_ref().map_or(String::new(), |output| {
                    format!(" with an output of {} bytes", output.bytes)
                });
                format!("{operator} resolved {name} as {kind}{output}: {note}")
            }
            Input::Forget { operator, note } => format!("{operator} cleared the alarm: {note}"),
        }
    }

    /// Describes calls.
    #[must_use]
    pub fn calls_in_words(&self, calls: &[Call]) -> String {
        let call = |call: &Call| {
            let mut text =
                format!("{} {} #{}", call.operation.name(), self.name(call.number), call.attempt);
            if let Some(until) = call.until {
                let _ = write!(text, " until {}", self.time(until));
            }
            if call.must_succeed {
                text.push_str(" (must succeed)");
            }
            for Delivered { name, size } in &call.inputs {
                let _ = write!(text, " with {name} of {} bytes", size.bytes);
            }
            if let Some(output) = &call.output {
                let _ = write!(text, " with its output of {} bytes", output.bytes);
            }
            if let Some(max) = call.output_bytes_max {
                let _ = write!(text, " (output of at most {max} bytes)");
            }
            text
        };
        or_nothing(&calls.iter().map(call).collect::<Vec<_>>())
    }

    /// Describes requests for locks.
    #[must_use]
    pub fn locks_in_words(&self, requests: &[LockRequest]) -> String {
        let request = |request: &LockRequest| {
            format!("{} #{}", self.locks_of(request.number), request.attempt)
        };
        or_nothing(&requests.iter().map(request).collect::<Vec<_>>())
    }

    /// Describes events.
    pub(super) fn events_in_words(&self, events: &[Event]) -> String {
        let event = |event: &Event| match event.number {
            Some(number) => format!("{} {}", event.name, self.name(number)),
            None => event.name.clone(),
        };
        or_nothing(&events.iter().map(event).collect::<Vec<_>>())
    }

    /// Describes the phase of a transaction, with its decision.
    #[must_use]
    pub fn phase_in_words(&self, standing: &Standing) -> String {
        let decision = match (standing.decision.as_deref(), &standing.cause) {
            (Some("commit"), _) => ", COMMIT".to_owned(),
            (Some(_), Some(cause)) => {
                let branch = standing.cause_branch.map(|number| self.name(number));
                let branch = branch.map_or(String::new(), |name| format!(" of {name}"));
                format!(", ABORT ({cause}{branch})")
            }
            (Some(_), None) => ", ABORT".to_owned(),
            (None, _) => String::new(),
        };
        format!("{}{decision}", standing.phase)
    }

    /// Describes a time, from the transaction's begin.
    #[must_use]
    pub fn time(&self, at: Timestamp) -> String {
        let begun = self.transaction.created_at;
        let (sign, ms) = match at >= begun {
            true => ('+', at.0 - begun.0),
            false => ('-', begun.0 - at.0),
        };
        format!("{sign}{}.{:03} s", ms / 1_000, ms % 1_000)
    }

    /// Returns the id of a branch, or its number if there is no such branch.
    #[must_use]
    pub fn name(&self, number: BranchNumber) -> String {
        let index = usize::from(number.get()).checked_sub(1);
        let shape = index.and_then(|index| self.branches.get(index));
        shape.map_or_else(|| format!("branch {number}"), |shape| shape.branch_id.to_string())
    }

    fn locks_of(&self, branch: Option<BranchNumber>) -> String {
        match branch {
            Some(number) => format!("locks of {}", self.name(number)),
            None => "locks of the transaction".to_owned(),
        }
    }

    fn listed(&self, number: BranchNumber, vote: Option<Vote>) -> String {
        let vote = match vote {
            Some(Vote::Prepared) => " PREPARED",
            Some(Vote::ReadOnly) => " READ_ONLY",
            Some(Vote::Refused) => " REFUSED",
            None => "",
        };
        format!("{}{vote}", self.name(number))
    }
}

fn prepare(answer: &PrepareResult) -> String {
    match answer {
        PrepareResult::Prepared { output } if output.bytes > 0 => {
            format!("PREPARED, output of {} bytes", output.bytes)
        }
        PrepareResult::Prepared { .. } => "PREPARED".to_owned(),
        PrepareResult::ReadOnly => "READ_ONLY".to_owned(),
        PrepareResult::Refused { reason, message } => format!("REFUSED, {reason}: {message}"),
        PrepareResult::Working { retry_after } => {
            format!("WORKING, again after {} ms", retry_after.as_millis())
        }
        PrepareResult::Asleep { until } => format!("a child that sleeps until {}", until.0),
        PrepareResult::Failed { error } => format!("no answer: {error}"),
    }
}

fn phase_two(answer: &PhaseTwoResult) -> String {
    match answer {
        PhaseTwoResult::Done => "done".to_owned(),
        PhaseTwoResult::Heuristic { kind: HeuristicKind::Commit, note } => {
            format!("HEURISTIC_COMMIT: {note}")
        }
        PhaseTwoResult::Heuristic { kind: HeuristicKind::Rollback, note } => {
            format!("HEURISTIC_ROLLBACK: {note}")
        }
        PhaseTwoResult::Heuristic { kind: HeuristicKind::Hazard, note } => {
            format!("HEURISTIC_HAZARD: {note}")
        }
        PhaseTwoResult::Working { retry_after } => {
            format!("WORKING, again after {} ms", retry_after.as_millis())
        }
        PhaseTwoResult::Failed { error } => format!("no answer: {error}"),
    }
}

fn locks(answer: &LockResult) -> String {
    match answer {
        LockResult::Granted => "granted".to_owned(),
        LockResult::Held { lock, holder, older, waits, blocks_older } => {
            let age = if *older { "older" } else { "younger" };
            let has_it = if *waits { "waited for" } else { "held" };
            let blocks = match blocks_older {
                true => "; an older one waits for a lock that this one holds",
                false => "",
            };
            format!("{lock} is {has_it} by {holder}, which is {age}{blocks}")
        }
        LockResult::Failed { error } => format!("no answer: {error}"),
    }
}

fn or_nothing(texts: &[String]) -> String {
    if texts.is_empty() { "nothing".to_owned() } else { texts.join(", ") }
}
