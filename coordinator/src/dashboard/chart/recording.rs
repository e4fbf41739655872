//! Attempts and durable writes of a recorded history.

use unanimo_core::Timestamp;
use unanimo_core::history::{
    Document, Entry, Input, PhaseTwoResult, PrepareResult, RecordedOperation, Step,
};

/// Attempts and durable writes up to some input.
#[derive(Debug, Default)]
pub(in crate::dashboard) struct Recording {
    pub(super) attempts: Vec<Attempt>,
    /// Versions that were written, and when.
    pub(super) writes: Vec<(i64, i64)>,
}

/// Call to a participant, and its answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// Place of the branch among all.
    pub(super) branch: usize,
    pub(super) call: Call,
    pub(super) number: u32,
    pub(super) from: i64,
    /// End of the attempt, if it has ended.
    pub(super) until: Option<i64>,
    pub(super) said: String,
    pub(super) is_bad: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    First,
    Commit,
    Undo,
}

impl From<RecordedOperation> for Call {
    fn from(operation: RecordedOperation) -> Self {
        match operation {
            RecordedOperation::Prepare => Self::First,
            RecordedOperation::Commit => Self::Commit,
            RecordedOperation::Cancel => Self::Undo,
        }
    }
}

fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

impl Recording {
    /// Takes all that was recorded.
    pub(in crate::dashboard) fn of(document: &Document) -> Self {
        Self::to(document, usize::MAX)
    }

    /// Takes the first so many inputs.
    pub(in crate::dashboard) fn to(document: &Document, inputs: usize) -> Self {
        let mut recording = Self::default();
        let mut left = inputs;
        for entry in &document.entries {
            let taken = left.min(entry.steps.len());
            entry.steps[..taken].iter().for_each(|step| recording.take(step));
            left -= taken;
            if taken < entry.steps.len() {
                break;
            }
            let Entry { version, at, .. } = entry;
            recording.writes.push((version.0, millis(*at)));
        }
        recording
    }

    fn take(&mut self, step: &Step) {
        let at = millis(step.at);
        match &step.input {
            Input::PrepareAnswered { number, attempt, answer } => {
                let (said, is_bad) = of_prepare(answer);
                self.end((number.index(), Call::First, *attempt), at, said, is_bad);
            }
            Input::PhaseTwoAnswered { number, operation, attempt, answer } => {
                let (said, is_bad) = of_phase_two(answer);
                self.end((number.index(), (*operation).into(), *attempt), at, said, is_bad);
            }
            // Whoever adopts it waits for no answer of before.
            Input::Recovered { .. } => {
                for open in self.attempts.iter_mut().filter(|attempt| attempt.until.is_none()) {
                    open.until = Some(at);
                    "no answer before another incarnation adopted it".clone_into(&mut open.said);
                    open.is_bad = true;
                }
            }
            _ => {}
        }
        self.attempts.extend(step.calls.iter().map(|call| Attempt {
            branch: call.number.index(),
            call: call.operation.into(),
            number: call.attempt,
            from: at,
            until: None,
            said: String::new(),
            is_bad: false,
        }));
    }

    fn end(&mut self, of: (usize, Call, u32), at: i64, said: String, is_bad: bool) {
        let mut newest = self.attempts.iter_mut().rev();
        let found =
            newest.find(|one| (one.branch, one.call, one.number) == of && one.until.is_none());
        if let Some(found) = found {
            (found.until, found.said, found.is_bad) = (Some(at), said, is_bad);
        }
    }
}

fn of_prepare(answer: &PrepareResult) -> (String, bool) {
    match answer {
        PrepareResult::Prepared { .. } => ("prepared".to_owned(), false),
        PrepareResult::ReadOnly => ("read only".to_owned(), false),
        PrepareResult::Refused { reason, message } => {
            (format!("refused: {reason}: {message}"), true)
        }
        PrepareResult::Working { .. } => ("works on it".to_owned(), false),
        PrepareResult::Asleep { .. } => ("waits for time alone".to_owned(), false),
        PrepareResult::Failed { error } => (error.clone(), true),
    }
}

fn of_phase_two(answer: &PhaseTwoResult) -> (String, bool) {
    match answer {
        PhaseTwoResult::Done => ("done".to_owned(), false),
        PhaseTwoResult::Heuristic { note, .. } => (format!("heuristic: {note}"), true),
        PhaseTwoResult::Working { .. } => ("works on it".to_owned(), false),
        PhaseTwoResult::Failed { error } => (error.clone(), true),
    }
}
