//! An example: its definition, its participants, the ways in which it can break, and what it must leave.

use unanimo_sdk::{Participant, Sqlite};

/// A saga, and everything that it needs to run.
#[derive(Debug)]
pub struct Example {
    /// Its name.
    pub name: &'static str,
    /// The saga in one line.
    pub title: &'static str,
    /// Text of its definition.
    pub definition: &'static str,
    /// Its participants.
    pub programs: &'static [Program],
    /// Its steps, those of its child included, in the order of the definition.
    pub steps: &'static [Step],
    /// Steps that are transactions of their own, each with the step of it that its name stands for on the command line.
    pub children: &'static [(&'static str, &'static str)],
    /// Facts that are looked up after a run.
    pub checks: &'static [Check],
    /// Sentence for the end of a committed saga.
    pub committed: &'static str,
    /// Sentence for the end of an aborted one.
    pub aborted: &'static str,
}

/// A participant: its name, the tables of its database, and its handlers.
#[derive(Debug)]
pub struct Program {
    /// Name of the participant.
    pub name: &'static str,
    /// Statements that make its tables.
    pub tables: &'static str,
    /// Makes the participant of its name and database.
    pub participant: fn(&str, Sqlite) -> Participant<Sqlite>,
}

/// A step, and the way in which it can be made to refuse: by the state of its participant's data.
#[derive(Debug)]
pub struct Step {
    /// Name of the step.
    pub id: &'static str,
    /// Name of its participant.
    pub participant: &'static str,
    /// Statement after which the participant refuses.
    pub breaks: &'static str,
    /// For the pivot and the steps after it.
    pub stage: Stage,
}

/// Place of a step in its saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// ABORT may follow it.
    BeforePivot,
    /// Its answer decides.
    Pivot,
    /// It comes after the decision COMMIT. The statement mends what the step's `breaks` broke.
    AfterPivot(&'static str),
}

/// A fact in a participant's database, and its value after each outcome.
#[derive(Debug)]
pub struct Check {
    /// Name of the participant.
    pub participant: &'static str,
    /// The fact, in words.
    pub what: &'static str,
    /// Query that returns it, a number.
    pub query: &'static str,
    /// Value after COMMIT.
    pub committed: i64,
    /// Least and greatest value after ABORT: they differ where a step's effect is kept.
    pub aborted: (i64, i64),
}

impl Example {
    /// Returns the step of this name; for a child's name a step of the child.
    #[must_use]
    pub fn step(&self, id: &str) -> Option<&'static Step> {
        let child = self.children.iter().find(|(child, _)| *child == id);
        let id = child.map_or(id, |(_, step)| step);
        self.steps.iter().find(|step| step.id == id)
    }
}

impl Check {
    /// Makes a check of a fact that must be zero after ABORT.
    #[must_use]
    pub const fn new(
        participant: &'static str,
        what: &'static str,
        query: &'static str,
        committed: i64,
    ) -> Self {
        Self { participant, what, query, committed, aborted: (0, 0) }
    }

    /// Tells whether a value is what the outcome allows.
    #[must_use]
    pub fn holds(&self, is_committed: bool, value: i64) -> bool {
        let (least, most) = self.aborted;
        if is_committed { value == self.committed } else { (least..=most).contains(&value) }
    }
}
