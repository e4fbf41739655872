//! Advice for a transaction that needs a person: what is wrong, and the commands to type.
//!
//! They name it by its `tx_id`: a gid may have the form of another one's. One that is copied without being read does no
//! harm: how a branch has ended is left to be filled in.

use super::data::Tx;

/// End of a command that ends a branch by hand.
const BY_HAND: &str = "--as HOW --operator YOU --note \"why\"";

/// Branches for which a command is written out.
const BRANCHES_SHOWN: usize = 5;

/// Alarm of a transaction, and the commands that end it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Advice {
    /// Name of the alarm.
    pub(super) alarm: &'static str,
    pub(super) why: &'static str,
    pub(super) commands: Vec<String>,
}

impl Tx {
    /// Returns what a person is to do; nothing if it needs none.
    pub(super) fn advice(&self) -> Vec<Advice> {
        if !self.unreadable.is_empty() {
            return vec![Advice {
                alarm: "transaction_unreadable",
                why: "Its rows cannot be read. Start the version that wrote them, or repair them; then this makes the \
                      coordinator read them again.",
                commands: vec![self.command("show")],
            }];
        }
        if !self.attention {
            return Vec::new();
        }
        let mut all: Vec<_> = self.alarms.iter().filter_map(|name| self.of_alarm(name)).collect();
        if self.stalled && all.is_empty() {
            all.push(Advice {
                alarm: "transaction_stalled",
                why: "A branch does not end. Repair its participant, and have the calls sent at once. If it will never \
                      answer, end the work there by hand, and say how it ended: committed, rolled-back or hazard.",
                commands: self.again_or(BY_HAND),
            });
        }
        if self.is_heuristic() {
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
        let called = self.branches.iter().filter(|branch| branch.is_open() && branch.is_called());
        let mut branches: Vec<_> =
            called.map(|branch| branch.branch_id.as_str()).take(BRANCHES_SHOWN).collect();
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn alarms(of: serde_json::Value) -> Vec<(&'static str, Vec<String>)> {
        let tx: Tx = serde_json::from_value(of).expect("a transaction");
        tx.advice().into_iter().map(|advice| (advice.alarm, advice.commands)).collect()
    }

    #[test]
    fn each_alarm_has_its_commands() {
        let retry = "unanimo tx retry T".to_owned();
        let resolve = |branch: &str| {
            format!("unanimo tx resolve T --branch {branch} --as HOW --operator YOU --note \"why\"")
        };
        let forget = "unanimo tx forget T --operator YOU --note \"why\"".to_owned();
        assert_eq!(alarms(json!({"txId": "T"})), []);
        // One that was forgotten is heuristic for ever.
        assert_eq!(alarms(json!({"txId": "T", "heuristic": "HEURISTIC_MIXED"})), []);
        assert_eq!(
            alarms(json!({"txId": "T", "attention": true, "unreadable": "damaged"})),
            [("transaction_unreadable", vec!["unanimo tx show T".to_owned()])]
        );
        assert_eq!(
            alarms(json!({"txId": "T", "attention": true, "stalled": true})),
            [("transaction_stalled", vec![retry.clone(), resolve("BRANCH")])]
        );
        let branches = json!([
            {"branchId": "ended", "endedAt": "2026-03-04T12:00:00Z", "phaseTwoAttempts": {"count": 1}},
            {"branchId": "owed", "phaseTwoAttempts": {"count": 3}},
            {"branchId": "sent", "prepareAttempts": {"count": 1}},
            {"branchId": "later"},
        ]);
        assert_eq!(
            alarms(json!({
                "txId": "T", "attention": true, "stalled": true, "alarms": ["pivot_unanswered"],
                "heuristic": "HEURISTIC_HAZARD", "branches": branches,
            })),
            [
                ("pivot_unanswered", vec![retry, resolve("owed"), resolve("sent")]),
                ("heuristic_outcome", vec![forget]),
            ]
        );
        let too_large = json!({"txId": "T", "attention": true, "alarms": ["output_too_large"]});
        let found = alarms(too_large);
        assert!(found[0].1[1].contains("--output JSON"), "{found:?}");
    }

    #[test]
    fn alarms_have_the_names_that_the_log_has() {
        for kind in [
            crate::alarm::PIVOT_UNANSWERED,
            crate::alarm::REFUSED_AFTER_COMMIT,
            crate::alarm::OUTPUT_TOO_LARGE,
        ] {
            let found = alarms(json!({"txId": "T", "attention": true, "alarms": [kind]}));
            assert_eq!(found.len(), 1, "{kind}");
            assert_eq!(found[0].0, kind);
        }
    }
}
