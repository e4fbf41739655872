//! Advice for a transaction that needs a person: what is wrong, and the commands to type.
//!
//! They name it by its `tx_id`: a gid may have the form of another one's. One that is copied without being read does no
//! harm: how a branch has ended is left to be filled in.

/// End of a command that ends a branch by hand.
const BY_HAND: &str = "--as HOW --operator YOU --note \"why\"";

/// Branches for which a command is written out.
const BRANCHES_SHOWN: usize = 5;

/// Alarm of a transaction, and the commands that end it.
#[derive(Debug, PartialEq, Eq)]
pub struct Advice {
    /// Name of the alarm.
    pub alarm: &'static str,
    /// Cause, and a way to end it, in sentences.
    pub why: &'static str,
    /// Commands to type, the first one first.
    pub commands: Vec<String>,
}

/// Transaction as far as advice is given by it.
#[derive(Debug, Default)]
pub struct Troubled<'a> {
    /// Its `tx_id`.
    pub tx_id: &'a str,
    /// Its rows cannot be read.
    pub is_unreadable: bool,
    /// It has an alarm that is not cleared.
    pub has_attention: bool,
    /// A branch of it does not end.
    pub is_stalled: bool,
    /// A branch has ended against the decision, or nobody can tell how.
    pub is_heuristic: bool,
    /// Names of its alarms that say more.
    pub alarms: &'a [String],
    /// Branches that have not ended, and for which a participant was called.
    pub open: Vec<&'a str>,
}

impl Troubled<'_> {
    /// Returns what a person is to do; nothing if it needs none.
    #[must_use]
    pub fn advice(&self) -> Vec<Advice> {
        if self.is_unreadable {
            return vec![Advice {
                alarm: "transaction_unreadable",
                why: "Its rows cannot be read. Start the version that wrote them, or repair them; then this makes the \
                      coordinator read them again.",
                commands: vec![self.command("show")],
            }];
        }
        if !self.has_attention {
            return Vec::new();
        }
        let mut all: Vec<_> = self.alarms.iter().filter_map(|name| self.of_alarm(name)).collect();
        if self.is_stalled && all.is_empty() {
            all.push(Advice {
                alarm: "transaction_stalled",
                why: "A branch does not end. Repair its participant, and have the calls sent at once. If it will never \
                      answer, end the work there by hand, and say how it ended: committed, rolled-back or hazard.",
                commands: self.again_or(BY_HAND),
            });
        }
        if self.is_heuristic {
            all.push(Advice {
                alarm: "heuristic_outcome",
                why: "A branch ended against the decision, or nobody can tell how. Compare the data of the participants, \
                      and repair it by hand. When all has ended and is right again, clear the alarm; where a branch was \
                      resolved by hand, with --released, by which you say that you have looked at what is held there.",
                commands: vec![format!("{} --operator YOU --note \"why\"", self.command("forget"))],
            });
        }
        all
    }

    fn of_alarm(&self, name: &str) -> Option<Advice> {
        let (alarm, why, end) = match name {
            "pivot_unanswered" => (
                "pivot_unanswered",
                "The pivot has no answer, and only its answer decides. Repair its participant, and have the call sent at \
                 once. If it will never answer, find out whether its work is done, and answer in its place: committed or \
                 rolled-back.",
                BY_HAND,
            ),
            "refused_after_commit" => (
                "refused_after_commit",
                "A step after the pivot was refused, and the saga only goes forward. Repair what the refusal names, and have \
                 the step sent at once. If its participant will never do it, do it by hand, and say so: committed.",
                BY_HAND,
            ),
            "output_too_large" => (
                "output_too_large",
                "An output is too large for the step that reads it. Repair the participant: its output must be smaller. If it \
                 has stored its answer and cannot, give the output that the other step is to read.",
                "--as committed --output JSON --operator YOU --note \"why\"",
            ),
            _ => return None,
        };
        Some(Advice { alarm, why, commands: self.again_or(end) })
    }

    /// Returns the command that sends what waits, and those that end the branches by hand.
    fn again_or(&self, end: &str) -> Vec<String> {
        let mut branches: Vec<_> = self.open.iter().copied().take(BRANCHES_SHOWN).collect();
        if branches.is_empty() {
            branches.push("BRANCH");
        }
        let resolve =
            branches.iter().map(|id| format!("{} --branch {id} {end}", self.command("resolve")));
        std::iter::once(self.command("retry")).chain(resolve).collect()
    }

    fn command(&self, act: &str) -> String {
        format!("unanimo tx {act} {}", self.tx_id)
    }
}
