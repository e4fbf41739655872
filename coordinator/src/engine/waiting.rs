//! Calls that wait for their participants: for those that fail, and for those that came back and are not to
//! be flooded.
//!
//! A call is sent at once if its participant's breaker is closed, and it repeats none that failed. Also a
//! repetition after an answer (WORKING) is work like any other. Repetitions of what failed, and whatever was
//! adopted until it is answered, go at a pace that grows as long as they are answered: 50,000 calls that are
//! owed to one participant must not slow down the work of the others (promise L3).
//!
//! While the breaker is open, probes are the newest call of a branch that does not fail, which is the one that
//! has most likely nothing in common with those that do, and in turn the calls of branches that fail.

mod lane;
mod pace;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{Branch, BranchNumber, Call, Operation, ParticipantName, TxId};

use self::lane::Lane;
use super::live::Live;
use crate::participants::breaker::{Pass, Past};
use crate::participants::directory::{CallKind, Entry};
use crate::store::Life;

/// Calls that were dropped, and are kept by transaction all the same.
const DROPPED_FEW: usize = 1_024;

/// Between two looks at the calls that wait.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Returns the kind of a call.
pub(super) fn kind(operation: Operation) -> CallKind {
    match operation {
        Operation::Prepare => CallKind::Prepare,
        Operation::PhaseTwo(_) => CallKind::PhaseTwo,
    }
}

/// Returns the kind of the branch's next call.
pub(super) fn next_kind(branch: &Branch) -> CallKind {
    if branch.is_owed() { CallKind::PhaseTwo } else { CallKind::Prepare }
}

/// Calls that wait, by participant and kind.
#[derive(Debug)]
pub(super) struct Waiting {
    lanes: BTreeMap<(ParticipantName, CallKind), Lane>,
    /// The same calls, with some that were dropped, by transaction and branch.
    calls: HashMap<(TxId, BranchNumber), WaitingCall>,
    /// When they are looked at next, if any wait.
    look_at: Option<Instant>,
}

/// A call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WaitingCall {
    pub(super) tx_id: TxId,
    /// The stay in memory in which it was released.
    pub(super) life: Life,
    pub(super) call: Call,
    /// Past of its branch.
    pub(super) past: Past,
    /// It was adopted, and not answered since: nobody knows of its past before.
    pub(super) is_adopted: bool,
    /// Its branch was woken to be tried, and was not yet.
    pub(super) is_untried: bool,
}

impl WaitingCall {
    /// Tells whether its transaction still awaits it. A call of a former life is not: the attempts of the present one may
    /// have the same numbers, and wait until they are durable (promises S3, S6).
    pub(super) fn is_awaited(&self, live: &Live) -> bool {
        let Call { number, operation, attempt } = self.call;
        let branch = live.tx.branch(number).filter(|_| live.life == self.life);
        branch.is_some_and(|branch| branch.awaits(operation, attempt))
    }
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self { lanes: BTreeMap::new(), calls: HashMap::new(), look_at: None }
    }

    /// Asks for permission to send a call now. One that is part of a backlog has a pace to keep.
    pub(super) fn ask(
        &mut self,
        name: &ParticipantName,
        entry: &Arc<Entry>,
        kind: CallKind,
        past: Past,
        adopted: bool,
        now: Instant,
    ) -> Pass {
        match entry.breaker(kind).pass(now, past) {
            Pass::Free if adopted || past != Past::Good => {
                let lane = self.lane(name, entry, kind, now);
                let first = lane.is_empty() && lane.pace.take(now);
                if first { Pass::Free } else { Pass::Wait }
            }
            pass => pass,
        }
    }

    fn lane(
        &mut self,
        name: &ParticipantName,
        entry: &Arc<Entry>,
        kind: CallKind,
        now: Instant,
    ) -> &mut Lane {
        let lane = self.lanes.entry((name.clone(), kind)).or_insert_with(|| Lane::new(entry, now));
        lane.follow(entry);
        lane
    }

    /// Keeps a call until it may be sent.
    pub(super) fn push(
        &mut self,
        name: &ParticipantName,
        entry: &Arc<Entry>,
        waiting: WaitingCall,
        now: Instant,
    ) {
        let kind = kind(waiting.call.operation);
        self.calls.insert((waiting.tx_id, waiting.call.number), waiting);
        let lane = self.lane(name, entry, kind, now);
        match waiting.past {
            Past::Good => lane.good.push_back(waiting),
            Past::Failing { .. } if waiting.is_untried => lane.failing.push_front(waiting),
            Past::Failing { .. } => lane.failing.push_back(waiting),
        }
        lane.pace.note_backlog(lane.len());
        lane.tell(kind);
        self.hurry(now);
    }

    /// Something has happened that may let calls go.
    pub(super) fn hurry(&mut self, now: Instant) {
        if !self.lanes.is_empty() {
            let soon = now + LOOK_INTERVAL;
            self.look_at = Some(self.look_at.map_or(soon, |at| at.min(soon)));
        }
    }

    /// Returns the time until the next look.
    pub(super) fn until_look(&self, now: Instant) -> Option<Duration> {
        self.look_at.map(|at| at.saturating_duration_since(now))
    }

    /// Takes the calls that may be sent now, each with whether it is a probe. Those that are not wanted any
    /// more are dropped. `find` tells who has a name now.
    pub(super) fn take_due(
        &mut self,
        now: Instant,
        find: impl Fn(&ParticipantName) -> Option<Arc<Entry>>,
        wanted: impl Fn(&WaitingCall) -> bool,
    ) -> Vec<(WaitingCall, bool)> {
        if self.look_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for ((name, kind), lane) in &mut self.lanes {
            if let Some(entry) = find(name) {
                lane.follow(&entry);
            }
            let look = lane.take_due(*kind, now, &wanted, &mut due);
            next = next.into_iter().chain(look).min();
        }
        for (waiting, _) in &due {
            self.calls.remove(&(waiting.tx_id, waiting.call.number));
        }
        if self.calls.len() > 2 * self.len() + DROPPED_FEW {
            self.calls.retain(|_, waiting| wanted(waiting));
        }
        self.lanes.retain(|_, lane| !lane.is_empty() || !lane.pace.is_rested(now));
        self.look_at = next.map(|at| at.max(now + LOOK_INTERVAL));
        due
    }

    /// Drops the calls that are not wanted any more.
    pub(super) fn sweep(&mut self, wanted: impl Fn(&WaitingCall) -> bool) {
        for ((_, kind), lane) in &mut self.lanes {
            lane.good.retain(&wanted);
            lane.failing.retain(&wanted);
            lane.tell(*kind);
        }
        self.calls.retain(|_, waiting| wanted(waiting));
    }

    /// Counts the calls that wait, with some that are not wanted any more.
    pub(super) fn len(&self) -> usize {
        self.lanes.values().map(Lane::len).sum()
    }

    /// Tells whether the call waits that a branch awaits.
    pub(super) fn has_call(&self, live: &Live, number: BranchNumber) -> bool {
        let waiting = self.calls.get(&(live.tx.tx_id(), number));
        waiting.is_some_and(|waiting| waiting.is_awaited(live))
    }

    /// Returns transactions whose calls wait for participants that fail, but for as many of each participant as
    /// are `kept` of so many participants: these find out whether it is back. It looks at so many calls at most, and goes
    /// on from there the next time.
    pub(super) fn surplus(
        &mut self,
        kept: impl Fn(usize) -> usize,
        looks: usize,
        may_leave: impl Fn(&WaitingCall) -> bool,
    ) -> Vec<TxId> {
        let open = |(key, lane): &(&(ParticipantName, CallKind), &mut Lane)| {
            !lane.is_empty() && lane.entry.breaker(key.1).is_open()
        };
        let mut open: Vec<_> = self.lanes.iter_mut().filter(open).collect();
        let names: HashSet<&ParticipantName> = open.iter().map(|((name, _), _)| name).collect();
        let kept = kept(names.len());
        if open.iter().all(|(_, lane)| lane.len() <= kept) {
            return Vec::new();
        }
        let looks = (looks / open.len()).max(1);
        let first = |lane: &Lane| lane.calls().take(kept).map(|w| w.tx_id).collect::<Vec<_>>();
        let stays: HashSet<TxId> = open.iter().flat_map(|(_, lane)| first(lane)).collect();
        let mut leaves = Vec::new();
        for (_, lane) in &mut open {
            let seen = lane.look_behind(kept, looks);
            let chosen = seen.into_iter().filter(|waiting| may_leave(waiting));
            leaves.extend(chosen.map(|w| w.tx_id).filter(|tx_id| !stays.contains(tx_id)));
        }
        leaves
    }

    /// Takes all calls, whatever they wait for.
    pub(super) fn take_all(&mut self) -> Vec<WaitingCall> {
        let mut taken = Vec::new();
        for ((_, kind), lane) in &mut self.lanes {
            taken.extend(lane.good.drain(..).chain(lane.failing.drain(..)));
            lane.tell(*kind);
        }
        self.calls.clear();
        taken
    }

    /// Tells whether a call of this life of a transaction waits.
    pub(super) fn has(&self, tx_id: TxId, life: Life) -> bool {
        let of = |call: &WaitingCall| call.tx_id == tx_id && call.life == life;
        let mut lanes = self.lanes.values();
        lanes.any(|lane| lane.good.iter().chain(&lane.failing).any(of))
    }

    /// Takes the calls of one life of a transaction, whatever they wait for. Those of its former lives are dropped.
    pub(super) fn take_of(&mut self, tx_id: TxId, life: Life) -> Vec<Call> {
        let mut taken = Vec::new();
        for ((_, kind), lane) in &mut self.lanes {
            let mut keep = |waiting: &WaitingCall| {
                let other = waiting.tx_id != tx_id;
                if !other && waiting.life == life {
                    taken.push(waiting.call);
                }
                other
            };
            lane.good.retain(&mut keep);
            lane.failing.retain(&mut keep);
            lane.tell(*kind);
        }
        for call in &taken {
            self.calls.remove(&(tx_id, call.number));
        }
        taken
    }
}

#[cfg(test)]
mod tests;
