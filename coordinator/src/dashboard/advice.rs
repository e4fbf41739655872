//! Advice for a transaction that needs a person, of an answer of the API.

use super::data::Tx;
use crate::advice::{Advice, Troubled};

impl Tx {
    /// Returns what a person is to do; nothing if it needs none.
    pub(super) fn advice(&self) -> Vec<Advice> {
        let called = self.branches.iter().filter(|branch| branch.is_open() && branch.is_called());
        let troubled = Troubled {
            tx_id: &self.tx_id,
            is_unreadable: !self.unreadable.is_empty(),
            has_attention: self.attention,
            is_stalled: self.stalled,
            is_heuristic: self.is_heuristic(),
            alarms: &self.alarms,
            open: called.map(|branch| branch.branch_id.as_str()).collect(),
        };
        troubled.advice()
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
