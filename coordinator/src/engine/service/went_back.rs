//! Transactions whose rows are of an earlier time: a failover or a restore has lost what this incarnation was told to
//! be durable.
//!
//! Their participants and clients may have heard of that. So the row is not believed: what is in memory is written
//! again, whole, and until it is stored nothing more is sent or told.

mod backlog;
mod held;
mod remembered;
#[cfg(test)]
pub(super) mod tests;

use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{
    BranchNumber, Gid, Input, Phase, Record, Transaction, Transition, TxId, Version,
};

use self::backlog::Backlog;
use self::held::Held;
pub(in crate::engine) use self::remembered::MAY_MISS;
use self::remembered::{Ends, Remembered};
use super::super::live::Live;
use super::Service;
use crate::alarm::DATABASE_WENT_BACK;
use crate::store::{Earlier, Key, Life};

/// Time in which the alarm is told once. Each transaction has a line of its own.
const TELL_WINDOW: Duration = Duration::from_secs(60);

/// Knowledge of what a database that went back lacks.
#[derive(Debug, Default)]
pub(in crate::engine) struct Known {
    /// When the alarm was told last.
    told_at: Option<Instant>,
    /// Promoted servers that were looked at; `None` where no server is ever promoted.
    generation: Option<u64>,
    ends: Ends,
    /// Ends that are to be written again.
    backlog: Backlog,
    held: Held,
}

impl Known {
    /// Makes one that knows of these promoted servers. An end is deleted when its gid has been kept for so long.
    pub(in crate::engine) fn new(generation: Option<u64>, gid_retention: Duration) -> Self {
        Self { generation, ends: Ends::kept_for(gid_retention), ..Self::default() }
    }

    fn tells(&mut self, now: Instant) -> bool {
        let tells = self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_WINDOW);
        if tells {
            self.told_at = Some(now);
        }
        tells
    }

    /// Notes a transaction that has ended here, if its end can be lost with a server.
    pub(super) fn ended(&mut self, tx: &Transaction) {
        if self.generation.is_some() {
            self.ends.insert(tx, self.generation);
        }
    }

    /// Notes the version as which an end that is remembered stands in the database.
    pub(super) fn rewritten(&mut self, tx: &Transaction) {
        self.ends.rewritten(tx.tx_id(), tx.version(), self.generation);
    }

    /// Tells whether a transaction is known to have ended.
    pub(super) fn remembers(&self, tx_id: TxId) -> bool {
        self.ends.get(tx_id).is_some()
    }

    /// Tells whether the database may lack this end.
    fn may_lack(&self, tx_id: TxId) -> bool {
        self.unproven(&Key::Tx(tx_id)).is_some()
    }

    /// Returns an end of this key that the database may lack: it was written before a standby was promoted.
    fn unproven(&self, key: &Key) -> Option<&Remembered> {
        let tx_id = match key {
            Key::Tx(tx_id) => *tx_id,
            Key::Gid(gid) => self.ends.find(gid)?,
        };
        let end = self.ends.get(tx_id).filter(|end| end.generation < self.generation)?;
        Some(end).filter(|end| self.ends.may_miss(end))
    }
}

impl Live {
    /// Makes the transition from what is stored to the present state; of one without details it says so.
    fn written_again(
        &mut self,
        is_stored: bool,
        branches: usize,
        outputs: &[BranchNumber],
    ) -> Transition {
        let transition = self.tx.written_again(is_stored, branches, outputs);
        Transition { stripped_at: self.stripped_at, ..transition }
    }
}

impl Service {
    /// Looks at everything in memory once a standby of the database was promoted: each row that it lacks, or has of an
    /// earlier time, is written again. Until that is durable nothing more is told (promise S3).
    pub(super) fn after_promotion(&mut self) {
        let generation = self.store.generation();
        if std::mem::replace(&mut self.went_back.generation, generation) == generation {
            return;
        }
        self.went_back.ends.promoted();
        let stored = self.live.iter().filter(|(_, live)| live.is_stored());
        for tx_id in stored.map(|(tx_id, _)| *tx_id).collect::<Vec<_>>() {
            if let Some(live) = self.live.get_mut(&tx_id) {
                // It is written as the next version, or its end is being written as this one.
                let version = live.tx.version();
                let awaited = if live.has_ended() { version } else { version.next() };
                live.handed_over(awaited, true);
            }
            // Never rejected, and nothing for what has ended: that is being written.
            let _ = self.apply(tx_id, Input::Rewrite);
        }
        // What waits for its participant goes out after that.
        for waiting in self.waiting.take_all() {
            let live = self.live.get_mut(&waiting.tx_id);
            if let Some(live) = live.filter(|live| waiting.is_awaited(live)) {
                live.hold(vec![waiting.call], Vec::new());
            }
        }
        self.look_at_ends();
    }

    /// Tells whether another server has taken the place of one of this generation.
    pub(super) fn was_replaced(&self, generation: Option<u64>) -> bool {
        generation < self.went_back.generation
    }

    /// Has a version written once more whose acknowledgement came from a server that was replaced since: nothing
    /// that waits for it is told or sent before. What was handed over later has all of it.
    pub(super) fn write_there(&mut self, tx_id: TxId, version: Version) {
        let Some(live) = self.live.get_mut(&tx_id) else { return };
        if live.tx.version() > version {
            return;
        }
        live.handed_over(version.next(), true);
        if !live.has_ended() {
            // No call of this life waits for its participant: what had been released before the promotion is held since
            // that was noticed, for a write of its own, which is later than this version. One without a row by then, and
            // one that has just been claimed, have released nothing in this life.
            debug_assert!(!self.waiting.has(tx_id, live.life), "a call of {tx_id} waits");
            // Never rejected.
            let _ = self.apply(tx_id, Input::Rewrite);
            return;
        }
        live.tx.next_version();
        let transition = live.written_again(false, 0, &[]);
        self.hand_over_end(transition);
    }

    /// Holds the calls that this life of a transaction has waiting for their participants, until what is awaited is
    /// durable.
    fn hold_waiting(&mut self, tx_id: TxId, life: Life) {
        let calls = self.waiting.take_of(tx_id, life);
        if let Some(live) = self.live.get_mut(&tx_id) {
            live.hold(calls, Vec::new());
        }
    }

    /// Hands over an end that the row has, or is found to be of an earlier time.
    fn hand_over_end(&mut self, mut transition: Transition) {
        (transition.begins, transition.enlisted, transition.outputs) = Default::default();
        let write_id = self.write_id();
        let Some(live) = self.live.get(&transition.tx_id) else { return };
        self.journal.submit(transition, write_id, live.life);
    }

    /// Brings an end back to memory that the database may lack, and has it written again: whoever asks for it hears
    /// of it once it is durable. One of which the branches are not remembered is left to its row.
    pub(super) fn recall(&mut self, key: &Key) {
        let is_whole = |end: &&Remembered| end.is_whole;
        let end = self.went_back.unproven(key).filter(is_whole).cloned();
        if let Some(transition) = end.and_then(|end| self.bring_back(end)) {
            self.hand_over_end(transition);
        }
    }

    /// The same for a request that would begin a transaction: an end of which the branches are not remembered is stored
    /// again as the purge leaves it, without its details, unless the gid has a row.
    pub(super) fn recall_instead(&mut self, gid: &Gid) {
        let key = Key::Gid(gid.clone());
        self.recall(&key);
        let end = self.went_back.unproven(&key).cloned();
        let Some(transition) = end.and_then(|end| self.bring_back(end)) else { return };
        let tx_id = transition.tx_id;
        let write_id = self.write_id();
        let Some(live) = self.live.get(&tx_id) else { return };
        self.journal.submit_again(transition, write_id, live.life, &Earlier::default());
    }

    /// Brings back what is remembered of a transaction that is not in the store, and tells whether it is to be looked for
    /// again: it is in memory, or the last promoted server may have lacked it and has it by now.
    pub(super) fn recall_missing(&mut self, key: &Key) -> bool {
        let (tx_id, gid) = match key {
            Key::Tx(tx_id) => {
                let end = self.went_back.ends.get(*tx_id);
                (Some(*tx_id), end.map(|end| end.record.identity.gid.clone()))
            }
            Key::Gid(gid) => (self.went_back.ends.find(gid), Some(gid.clone())),
        };
        if let Some(gid) = gid {
            self.recall_instead(&gid);
        }
        let is_live = match key {
            Key::Tx(tx_id) => self.live.contains_key(tx_id),
            Key::Gid(gid) => self.by_gid.contains_key(gid),
        };
        let end = tx_id.and_then(|tx_id| self.went_back.ends.get(tx_id));
        let ends = &self.went_back.ends;
        is_live || end.is_some_and(|end| ends.may_miss(end) && !ends.may_be_purged(end))
    }

    /// Brings an end to memory. Returns all of it, as the next version.
    fn bring_back(&mut self, end: Remembered) -> Option<Transition> {
        let Remembered { record, is_whole, .. } = end;
        let (tx_id, generation) = (record.identity.tx_id, self.went_back.generation);
        if self.live.contains_key(&tx_id) {
            return None;
        }
        tracing::debug!(%tx_id, gid = %record.identity.gid, "a remembered end is written again");
        self.went_back.ends.written_at(tx_id, generation);
        self.insert(*record);
        let live = self.live.get_mut(&tx_id)?;
        live.stripped_at = (!is_whole).then(|| live.clock.now());
        live.tx.next_version();
        live.handed_over(live.tx.version(), true);
        Some(live.written_again(false, 0, &[]))
    }

    /// Brings a transaction to its end that had ended here, and that the database has as it was before. Its
    /// participants know that end: nothing is sent. Returns the record if it is another one.
    pub(super) fn end_again(&mut self, record: Record) -> Option<Record> {
        let tx_id = record.identity.tx_id;
        let is_open = !matches!(record.state.phase, Phase::Ended { .. });
        let known = self.went_back.ends.get(tx_id).cloned();
        let Some(known) = known.filter(|_| is_open) else { return Some(record) };
        let outputs: Vec<_> = record.outputs.iter().map(|(number, _)| *number).collect();
        let (branches, found) = (record.branches.len(), record.version);
        self.tell_went_back();
        tracing::warn!(
            %tx_id,
            gid = %record.identity.gid,
            found = found.0,
            outcome = ?known.record.state.phase.decision(),
            "the stored transaction is of an earlier time; its end is written again"
        );
        let (phase, heuristic) = (known.record.state.phase, known.record.state.heuristic);
        match known.is_whole {
            // Never with an earlier version than the row has.
            true => {
                let version = known.record.version.max(found);
                self.insert(Record { version, ..*known.record });
            }
            false => self.insert(record),
        }
        let generation = self.went_back.generation;
        self.went_back.ends.written_at(tx_id, generation);
        let live = self.live.get_mut(&tx_id)?;
        match known.is_whole {
            true => live.tx.next_version(),
            false => live.tx.end_again(phase, heuristic),
        }
        let transition = live.tx.written_again(true, branches, &outputs);
        live.went_back(found);
        live.handed_over(transition.version, true);
        let (life, write_id) = (live.life, self.write_id());
        let earlier = Earlier { row: Some((self.me, found)), branches, outputs };
        self.journal.submit_again(transition, write_id, life, &earlier);
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
        let former = live.life;
        live.went_back(found);
        let (branches, is_stored) = (earlier.branches, earlier.row.is_some());
        let mut transition = live.written_again(is_stored, branches, &earlier.outputs);
        live.handed_over(transition.version, true);
        let life = live.life;
        self.hold_waiting(tx_id, former);
        self.note_a_sleep(&mut transition);
        let write_id = self.write_id();
        self.journal.submit_again(transition, write_id, life, earlier);
    }
}
