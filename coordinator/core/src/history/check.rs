//! The rules for a document: whatever keeps them can be replayed without a panic.

use std::time::Duration;

use super::{Document, Entry, FORMAT, Input, PrepareResult, Settings, Size};
use crate::definition::Violation;
use crate::ids::{BranchNumber, Version};
use crate::policy::{BRANCHES_MAX, RulesVersion};

/// Most bytes of a payload or an output that a document may state: memory is taken for it.
const BYTES_MAX: usize = 64 << 20;
/// Longest time that a setting may have: a year. A longer one is a mistake.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Largest version: numbers up to it are exact in every program that reads JSON.
const VERSION_MAX: Version = Version(1 << 53);

impl Document {
    /// Returns the first rule that the document breaks.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        let rule = |field: String, rule: String| Some(Violation::new(field, rule));
        if self.format != FORMAT {
            return rule("format".into(), format!("must be {FORMAT}, is {}", self.format));
        }
        let count = self.branches.len();
        if count > BRANCHES_MAX {
            let most = format!("must have at most {BRANCHES_MAX} branches, has {count}");
            return rule("branches".into(), most);
        }
        let in_branches = (0..count).find_map(|index| self.bad_branch(index));
        in_branches
            .or_else(|| self.bad_begin())
            .or_else(|| (0..self.entries.len()).find_map(|index| self.bad_entry(index)))
            .or_else(|| self.bad_end())
    }

    /// Tells whether there is more than its end says.
    fn bad_end(&self) -> Option<Violation> {
        let (end, last) = (self.end?, self.entries.last()?.version);
        if self.cut.is_some() {
            let rule = "must not be given together with cut";
            return Some(Violation::new("end", rule));
        }
        if end.version < last {
            let rule = format!("must be that of the last entry, {}, is {}", last.0, end.version.0);
            return Some(Violation::new("end.version", rule));
        }
        let count = self.entries.len();
        let fewer = end.entries.filter(|entries| *entries < count)?;
        let rule = format!("must be the number of entries, {count}, is {fewer}");
        Some(Violation::new("end.entries", rule))
    }

    fn bad_branch(&self, index: usize) -> Option<Violation> {
        let shape = &self.branches[index];
        let earlier = self.branches[..index].iter();
        if earlier.into_iter().any(|other| other.branch_id == shape.branch_id) {
            let rule = format!("must be unique, {} came before", shape.branch_id);
            return Some(Violation::new(format!("branches[{index}].branch_id"), rule));
        }
        let numbers = shape.depends_on.iter().enumerate();
        let depends = numbers.map(|(at, number)| (format!("depends_on[{at}]"), *number));
        let orders = shape.inputs.iter().enumerate();
        let inputs = orders.map(|(at, order)| (format!("inputs[{at}].branch"), order.number));
        depends
            .chain(inputs)
            .find_map(|(field, number)| {
                self.bad_number(&format!("branches[{index}].{field}"), number)
            })
            .or_else(|| bad_size(&format!("branches[{index}].payload"), &shape.payload))
    }

    /// Tells whether it does not begin with the begin.
    fn bad_begin(&self) -> Option<Violation> {
        let Some(first) = self.entries.first() else {
            return Some(Violation::new("entries", "must have at least 1 entry, has none"));
        };
        let begin = first.steps.first().map(|step| &step.input);
        match begin {
            Some(Input::Begin { branches, .. }) if usize::from(*branches) > self.branches.len() => {
                let rule = format!("must be at most {}, is {branches}", self.branches.len());
                Some(Violation::new("entries[0].steps[0].input.begin.branches", rule))
            }
            Some(Input::Begin { .. }) if first.version == Version(1) => None,
            _ => {
                let rule = format!(
                    "must begin the transaction (version 1), is version {}: nothing was recorded \
                     before",
                    first.version.0
                );
                Some(Violation::new("entries[0]", rule))
            }
        }
    }

    fn bad_entry(&self, index: usize) -> Option<Violation> {
        let Entry { version, steps, .. } = &self.entries[index];
        let before = index.checked_sub(1).map_or(Version(0), |at| self.entries[at].version);
        if *version <= before || *version > VERSION_MAX {
            let rule = format!("must be above {} and at most 2^53, is {}", before.0, version.0);
            return Some(Violation::new(format!("entries[{index}].version"), rule));
        }
        if steps.is_empty() {
            let rule = "must have at least 1 step, has none";
            return Some(Violation::new(format!("entries[{index}].steps"), rule));
        }
        steps.iter().enumerate().find_map(|(at, step)| {
            let field = format!("entries[{index}].steps[{at}].input");
            let begins = matches!(step.input, Input::Begin { .. });
            if begins && (index, at) != (0, 0) {
                return Some(Violation::new(field, "must not be a second begin"));
            }
            self.bad_input(&field, &step.input)
        })
    }

    /// Returns the rule that an input breaks; `field` is the key under which its kind stands.
    fn bad_input(&self, field: &str, input: &Input) -> Option<Violation> {
        let number = |path: &str, number| self.bad_number(&format!("{field}.{path}"), number);
        let size = |path: &str, size| bad_size(&format!("{field}.{path}"), size);
        match input {
            Input::Begin { settings, .. } => bad_settings(&format!("{field}.begin"), settings),
            Input::Recovered { settings, .. } => {
                bad_settings(&format!("{field}.recovered"), settings)
            }
            Input::CommitAsked { listed } => listed
                .iter()
                .enumerate()
                .find_map(|(at, (of, _))| number(&format!("commit_asked.listed[{at}][0]"), *of)),
            Input::PrepareAnswered { number: of, answer, .. } => {
                number("prepare_answered.branch", *of).or_else(|| match answer {
                    PrepareResult::Prepared { output } => {
                        size("prepare_answered.answer.prepared.output", output)
                    }
                    _ => None,
                })
            }
            Input::ParentDecided { operation } => {
                bad_operation(&format!("{field}.parent_decided"), *operation)
            }
            Input::PhaseTwoAnswered { number: of, operation, .. } => {
                number("phase_two_answered.branch", *of)
                    .or_else(|| bad_operation(&format!("{field}.phase_two_answered"), *operation))
            }
            Input::Enlist { number: of, .. } => number("enlist.branch", *of),
            Input::Resolve { number: of, output, .. } => number("resolve.branch", *of)
                .or_else(|| output.as_ref().and_then(|output| size("resolve.output", output))),
            Input::LocksAnswered { number: of, .. } => {
                of.and_then(|of| number("locks_answered.branch", of))
            }
            Input::Retry { number: of, .. } => of.and_then(|of| number("retry.branch", of)),
            Input::RollbackAsked | Input::Tick | Input::Rewrite | Input::Forget { .. } => None,
        }
    }

    fn bad_number(&self, field: &str, number: BranchNumber) -> Option<Violation> {
        let count = self.branches.len();
        (number.get() == 0 || usize::from(number.get()) > count).then(|| {
            let rule = format!("must number one of the {count} branches, is {number}");
            Violation::new(field, rule)
        })
    }
}

fn bad_operation(field: &str, operation: super::RecordedOperation) -> Option<Violation> {
    let phase_one = operation.phase_two().is_none();
    phase_one.then(|| Violation::new(format!("{field}.operation"), "must be commit or cancel"))
}

fn bad_size(field: &str, size: &Size) -> Option<Violation> {
    (size.bytes > BYTES_MAX).then(|| {
        let rule = format!("must be at most {BYTES_MAX} bytes, is {}", size.bytes);
        Violation::new(format!("{field}.bytes"), rule)
    })
}

fn bad_settings(field: &str, settings: &Settings) -> Option<Violation> {
    let (rules, newest) = (settings.rules, RulesVersion::CURRENT);
    if rules > newest {
        let rule = format!(
            "must be at most {}: the history was recorded by a newer version, which goes by other rules",
            newest.0
        );
        return Some(Violation::new(format!("{field}.settings.rules"), rule));
    }
    [
        ("vote_noted_after", settings.vote_noted_after),
        ("late_starts_spread", settings.late_starts_spread),
        ("retry_after_max", settings.retry_after_max),
        ("stalled_after", settings.stalled_after),
        ("clock_skew", settings.clock_skew),
        ("prepare_backoff.base", settings.prepare_backoff.base),
        ("prepare_backoff.cap", settings.prepare_backoff.cap),
        ("phase_two_backoff.base", settings.phase_two_backoff.base),
        ("phase_two_backoff.cap", settings.phase_two_backoff.cap),
        ("lock_backoff.base", settings.lock_backoff.base),
        ("lock_backoff.cap", settings.lock_backoff.cap),
    ]
    .into_iter()
    .find(|(_, duration)| *duration > DURATION_MAX)
    .map(|(name, _)| Violation::new(format!("{field}.settings.{name}"), "must be at most a year"))
}
