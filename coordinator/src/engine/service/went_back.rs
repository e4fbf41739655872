//! Transactions whose rows are of an earlier time: a failover or a restore has lost what this incarnation was told to
//! be durable.
//!
//! Their participants and clients may have heard of that. So the row is not believed: what is in memory is written
//! again, whole, and until it is stored nothing more is sent or told.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{Heuristic, Input, Phase, Record, Transaction, TxId, Version};

use super::Service;
use crate::alarm::DATABASE_WENT_BACK;
use crate::store::Earlier;

/// Time in which the alarm is told once. Each transaction has a line of its own.
const TELL_WINDOW: Duration = Duration::from_secs(60);

/// Ends that are remembered. A standby that is promoted is behind by less: seconds, at ten thousand in each.
const ENDS_MAX: usize = 65_536;

/// Knowledge of what a database that went back lacks.
#[derive(Debug, Default)]
pub(in crate::engine) struct Known {
    /// When the alarm was told last.
    told_at: Option<Instant>,
    /// Promoted servers that were looked at.
    generation: u64,
    /// Ends of transactions that have left memory, and these in the order in which they did.
    ends: HashMap<TxId, (Phase, Heuristic)>,
    order: VecDeque<TxId>,
}

impl Known {
    fn tells(&mut self, now: Instant) -> bool {
        let tells = self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_WINDOW);
        if tells {
            self.told_at = Some(now);
        }
        tells
    }

    /// Notes a transaction that has ended here.
    pub(super) fn ended(&mut self, tx: &Transaction) {
        if self.order.len() >= ENDS_MAX
            && let Some(first) = self.order.pop_front()
        {
            self.ends.remove(&first);
        }
        if self.ends.insert(tx.tx_id(), (tx.phase(), tx.heuristic())).is_none() {
            self.order.push_back(tx.tx_id());
        }
    }
}

impl Service {
    /// Looks at everything in memory once a standby of the database was promoted: each row that it lacks, or has of an
    /// earlier time, is written again.
    pub(super) fn after_promotion(&mut self) {
        let generation = self.store.generation();
        if std::mem::replace(&mut self.went_back.generation, generation) == generation {
            return;
        }
        let stored = self.live.iter().filter(|(_, live)| live.is_stored());
        for tx_id in stored.map(|(tx_id, _)| *tx_id).collect::<Vec<_>>() {
            // Never rejected, and nothing for what has ended: that is being written.
            let _ = self.apply(tx_id, Input::Rewrite);
        }
    }

    /// Brings a transaction to its end that had ended here, and that the database has as it was before. Its
    /// participants know that end: nothing is sent. Returns the record if it is another one.
    pub(super) fn end_again(&mut self, record: Record) -> Option<Record> {
        let tx_id = record.identity.tx_id;
        let ended = self.went_back.ends.get(&tx_id).copied();
        let is_open = !matches!(record.state.phase, Phase::Ended { .. });
        let Some((phase, heuristic)) = ended.filter(|_| is_open) else { return Some(record) };
        let outputs: Vec<_> = record.outputs.iter().map(|(number, _)| *number).collect();
        let (branches, found) = (record.branches.len(), record.version);
        self.tell_went_back();
        tracing::warn!(
            %tx_id,
            gid = %record.identity.gid,
            found = found.0,
            outcome = ?phase.decision(),
            "the stored transaction is of an earlier time; its end is written again"
        );
        self.insert(record);
        let live = self.live.get_mut(&tx_id)?;
        live.tx.end_again(phase, heuristic);
        let transition = live.tx.written_again(true, branches, &outputs);
        live.handed_over(transition.version, true);
        let (life, write_id) = (live.life, self.write_id());
        self.journal.submit(transition, write_id, life);
        None
    }

    fn tell_went_back(&mut self) {
        if self.went_back.tells(Instant::now()) {
            tracing::error!(
                alarm = DATABASE_WENT_BACK,
                "the database has lost what it had acknowledged: what is known here is written again"
            );
        }
    }

    /// Writes a transaction again whose row went back.
    pub(super) fn write_again(&mut self, tx_id: TxId, earlier: &Earlier) {
        self.tell_went_back();
        let Some(live) = self.live.get_mut(&tx_id) else { return };
        let found = earlier.row.map_or(Version::default(), |(_, version)| version);
        tracing::warn!(
            %tx_id,
            gid = %live.tx.identity().gid,
            found = found.0,
            known = live.tx.version().0,
            outcome = ?live.tx.outcome(),
            "the stored transaction is of an earlier time; it is written again from memory"
        );
        live.went_back(found);
        let (branches, is_stored) = (earlier.branches, earlier.row.is_some());
        let mut transition = live.tx.written_again(is_stored, branches, &earlier.outputs);
        live.handed_over(transition.version, true);
        let life = live.life;
        self.note_a_sleep(&mut transition);
        let write_id = self.write_id();
        self.journal.submit_again(transition, write_id, life, earlier);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rows_that_went_back_are_one_alarm() {
        let (mut known, start) = (Known::default(), Instant::now());
        assert_eq!((0..1_000).filter(|_| known.tells(start)).count(), 1);
        assert!(!known.tells(start + TELL_WINDOW / 2));
        assert!(known.tells(start + TELL_WINDOW));
    }
}
