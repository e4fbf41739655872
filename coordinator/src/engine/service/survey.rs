//! Survey of what is in memory, for scrapes.

use std::collections::HashMap;
use std::time::Duration;

use unanimo_core::{Mode, Namespace, Phase};

use super::Service;
use crate::store::PhaseName;

/// Numbers and ages of the transactions in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Open ones by mode and state. A tombstone has no mode.
    pub(crate) open: HashMap<(Option<Mode>, PhaseName), usize>,
    /// Age of the oldest one that has started and is not decided.
    pub(crate) undecided_for: Duration,
    /// Time since the last vote of the child that has waited longest for its parent's decision.
    pub(crate) in_doubt_for: Duration,
    /// Time since the decision of the one that was decided first and has not ended.
    pub(crate) owed_for: Duration,
}

impl Service {
    /// Looks at all transactions in memory, or at those of one namespace: a few milliseconds for 100,000.
    pub(super) fn survey(&self, of: Option<&Namespace>) -> Survey {
        let mut survey = Survey::default();
        for live in self.live.values() {
            let (tx, now) = (&live.tx, live.clock.now());
            if of.is_some() && tx.identity().gid.namespace().as_ref() != of {
                continue;
            }
            let since = |age: &mut Duration, time: unanimo_core::Timestamp| {
                *age = (*age).max(time.until(now));
            };
            match tx.phase() {
                Phase::Ended { .. } => continue,
                Phase::Scheduled => {}
                Phase::Active | Phase::InDoubt { .. } => {
                    let started_at = tx.started_at().unwrap_or(tx.identity().created_at);
                    since(&mut survey.undecided_for, started_at);
                    if let Phase::InDoubt { at } = tx.phase() {
                        since(&mut survey.in_doubt_for, at);
                    }
                }
                Phase::Decided { at, .. } => since(&mut survey.owed_for, at),
            }
            let key = (tx.identity().mode(), PhaseName::of(tx.phase()));
            *survey.open.entry(key).or_default() += 1;
        }
        survey
    }
}
