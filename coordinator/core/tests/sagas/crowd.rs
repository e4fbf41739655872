//! Several sagas that take the same locks. What the store would answer is told by a table of its own rules:
//!
//! - A lock is held shared by any number, or by one alone.
//! - Who waits goes before the younger ones. Nobody is given what an older one waits for.
//! - All locks of a request are granted, or none.
//! - Who is to wait for an older one is told whether an older one waits for what it holds.
//! - Who holds a lock shared and wants it alone asks for it as for any other: it keeps what it has meanwhile.
//!
//! The youngest of a circle of those that wait for each other gives up: that is checked apart, by a walk over
//! who waits for whom. What may be used at the same time is checked apart from it, from what was sent.

use proptest::prelude::*;
use unanimo_core::{
    AbortCause, Decision, Input, Lock, LockAnswer, LockMode, LockName, LockRequest, Phase,
};

use crate::life::Life;
use crate::participants::Effect;
use crate::plan::{BEGIN, Fate, LockFate, Move, Plan, a_move, rival};
use crate::play::{ROUNDS_MAX, pick};

/// Rounds of a crowd: an older saga asks again and again until a younger one has ended.
const CROWD_ROUNDS_MAX: usize = 20 * ROUNDS_MAX;

/// The rarest situation.
const CIRCLE: &str = "in a circle";

/// Row of the table of locks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    name: LockName,
    /// The saga, by age: the first is the oldest.
    of: usize,
    alone: bool,
    granted: bool,
}

/// Sagas of different ages, and their locks.
pub(crate) struct Crowd {
    lives: Vec<Life>,
    rows: Vec<Row>,
    pub(crate) seen: Seen,
}

/// Situations that were reached. A generator that reaches nothing proves nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    shared_together: u64,
    told_older: u64,
    told_younger: u64,
    waits_behind: u64,
    stricter_granted: u64,
    stricter_waits: u64,
    circles: u64,
    gave_up: u64,
    committed: u64,
    crashed: u64,
}

/// Plans of two to four sagas, oldest first, and moves of each.
pub(crate) fn plans() -> impl Strategy<Value = (Vec<Plan>, Vec<(usize, Move)>)> {
    let one = (0..64_usize, any::<u64>().prop_map(a_move));
    let moves = proptest::collection::vec(one, 0..120);
    (proptest::collection::vec(rival(), 2..=4), moves)
}

impl Crowd {
    pub(crate) fn begin(plans: Vec<Plan>) -> Self {
        let lives =
            plans.into_iter().zip(0..).map(|(plan, age)| Life::begin(plan, age, BEGIN)).collect();
        Self { lives, rows: Vec::new(), seen: Seen::default() }
    }

    pub(crate) fn play(&mut self, which: usize, a_move: Move) {
        let which = which % self.lives.len();
        if !self.lives[which].plan.plays(&a_move) {
            return;
        }
        match a_move {
            Move::AnswerLocks(at, fate) => {
                if let Some(request) = pick(&self.lives[which].awaited_locks(), at) {
                    let lost = matches!(fate, LockFate::Failed { .. });
                    let taken = fate != LockFate::Failed { taken: false };
                    self.answer(which, request, taken, lost);
                }
            }
            a_move => {
                self.seen.crashed += u64::from(matches!(a_move, Move::Crash { .. }));
                self.lives[which].play(a_move);
            }
        }
        self.one_clock();
        self.check();
    }

    /// The store answers a request, and the answer arrives or is lost.
    fn answer(&mut self, which: usize, request: usize, taken: bool, lost: bool) {
        let (_, request) = self.lives[which].lock_wire.remove(request);
        let mut answer = LockAnswer::Failed("lost".into());
        if taken {
            let decided = self.lives[which].durable_phase() != Phase::Active;
            let told = match decided {
                true => LockAnswer::Failed("it is decided".into()),
                false => self.take(which, request),
            };
            if !lost {
                answer = told;
            }
        }
        let behind = matches!(answer, LockAnswer::Held { older: true, .. });
        let circle = behind.then(|| self.circle(which)).flatten();
        let was_open = self.lives[which].tx.phase() == Phase::Active;
        self.lives[which].locks_answered(request, answer);
        let decision = self.lives[which].tx.phase().decision();
        let locked = matches!(decision, Some(Decision::Abort(AbortCause::Locked(_))));
        assert!(!locked || which > 0, "the oldest gave up");
        self.seen.gave_up += u64::from(locked && was_open);
        if let Some(circle) = circle {
            let is_open = self.lives[which].tx.phase() == Phase::Active;
            assert!(!is_open, "L1: {which}, the youngest of {circle:?}, waits on: {:?}", self.rows);
            self.seen.circles += 1;
        }
    }

    /// Takes locks as the store is to do it.
    fn take(&mut self, which: usize, request: LockRequest) -> LockAnswer {
        let owner = request.number.map(|number| number.index());
        let wanted: Vec<Lock> = self.lives[which].locks_of(owner).to_vec();
        let obstacles = wanted.iter().flat_map(|lock| self.obstacles(which, lock));
        // An older one is told first.
        let obstacle = obstacles.min_by_key(|row| (row.of > which, !row.granted, row.of)).cloned();
        for lock in wanted {
            let alone = lock.mode == LockMode::Exclusive;
            let same = |row: &Row| (&row.name, row.of, row.alone) == (&lock.name, which, alone);
            let shared = |row: &Row| (&row.name, row.of) == (&lock.name, which) && row.granted;
            if alone && self.rows.iter().any(|row| shared(row) && !row.alone) {
                let count = match obstacle {
                    None => &mut self.seen.stricter_granted,
                    Some(_) => &mut self.seen.stricter_waits,
                };
                *count += 1;
            }
            let granted = obstacle.is_none();
            match self.rows.iter_mut().find(|row| same(row)) {
                Some(row) => row.granted |= granted,
                None => self.rows.push(Row { name: lock.name, of: which, alone, granted }),
            }
        }
        let Some(Row { name: lock, of, granted, .. }) = obstacle else {
            return LockAnswer::Granted;
        };
        let (older, waits) = (of < which, !granted);
        self.seen.told_older += u64::from(older);
        self.seen.told_younger += u64::from(!older);
        self.seen.waits_behind += u64::from(waits);
        let holder = self.lives[of].tx.identity().gid.clone();
        let blocks_older = older && self.blocks_older(which);
        LockAnswer::Held { lock, holder, older, waits, blocks_older }
    }

    /// Tells whether an older one waits for what a saga holds.
    fn blocks_older(&self, which: usize) -> bool {
        let held = self.rows.iter().filter(|row| row.of == which && row.granted);
        let waits_for = |row: &Row, held: &Row| {
            let waits = row.of < which && !row.granted && self.is_active(row.of);
            waits && row.name == held.name && (row.alone || held.alone)
        };
        held.into_iter().any(|held| self.rows.iter().any(|row| waits_for(row, held)))
    }

    fn is_active(&self, which: usize) -> bool {
        self.lives[which].durable_phase() == Phase::Active
    }

    /// Returns those whom a saga waits for, by the rows of all.
    fn waited_for(&self, which: usize) -> Vec<usize> {
        let waits = |row: &&Row| row.of == which && !row.granted && self.is_active(which);
        let of_row = |row: &Row| {
            let mode = if row.alone { LockMode::Exclusive } else { LockMode::Shared };
            let name = row.name.clone();
            let lock = Lock { name, mode, wait_max: std::time::Duration::ZERO };
            self.obstacles(which, &lock).into_iter().map(|row| row.of).collect::<Vec<_>>()
        };
        self.rows.iter().filter(waits).flat_map(of_row).collect()
    }

    /// Returns a circle of sagas that wait for each other of which this one is the youngest.
    fn circle(&self, youngest: usize) -> Option<Vec<usize>> {
        let mut ways = vec![vec![youngest]];
        while let Some(way) = ways.pop() {
            for next in self.waited_for(way[way.len() - 1]) {
                if next == youngest {
                    return Some(way);
                }
                if next < youngest && !way.contains(&next) {
                    ways.push([&way[..], &[next]].concat());
                }
            }
        }
        None
    }

    /// Returns what stands in the way of a lock.
    fn obstacles(&self, which: usize, lock: &Lock) -> Vec<&Row> {
        let alone = lock.mode == LockMode::Exclusive;
        let of_name = |row: &&Row| row.name == lock.name;
        let is_held = |row: &Row| row.of == which && row.granted && row.alone >= alone;
        if self.rows.iter().filter(of_name).any(is_held) {
            return Vec::new();
        }
        let stands = |row: &&Row| {
            let phase = self.lives[row.of].durable_phase();
            let waits_before = row.of < which && phase == Phase::Active;
            row.of != which
                && (row.alone || alone)
                && (row.granted || waits_before)
                && phase.ended_at().is_none()
        };
        self.rows.iter().filter(of_name).filter(stands).collect()
    }

    /// Time is the same for all of them, and passes for nobody alone.
    fn one_clock(&mut self) {
        let now = self.lives.iter().map(|life| life.now).max().unwrap();
        for life in &mut self.lives {
            life.now = now;
            if life.tx.wake_at(&life.policy).is_some_and(|at| at <= now) {
                life.apply(Input::Tick);
                life.check_durable();
            }
        }
    }

    /// No two sagas that have not ended did something under locks that they cannot share.
    fn check(&mut self) {
        let open = |life: &&Life| life.durable_phase().ended_at().is_none();
        let open: Vec<&Life> = self.lives.iter().filter(open).collect();
        let mut together = false;
        for (at, one) in open.iter().enumerate() {
            for other in &open[at + 1..] {
                for (own, its) in
                    one.used.iter().flat_map(|a| other.used.iter().map(move |b| (a, b)))
                {
                    if own.name != its.name {
                        continue;
                    }
                    let shared = (own.mode, its.mode) == (LockMode::Shared, LockMode::Shared);
                    let (one, other) = (&one.tx.identity().gid, &other.tx.identity().gid);
                    assert!(shared, "{one} and {other} both use {own:?}");
                    together = true;
                }
            }
        }
        self.seen.shared_together += u64::from(together);
    }

    /// Faults are healed: all is written and answered, and time passes.
    pub(crate) fn heal(&mut self) {
        for _ in 0..CROWD_ROUNDS_MAX {
            let mut moved = false;
            for which in 0..self.lives.len() {
                self.lives[which].write(usize::MAX);
                while let Some(packet) = self.lives[which].awaited_packets().first().copied() {
                    self.lives[which].deliver(packet, Fate::Done);
                    self.lives[which].write(usize::MAX);
                    moved = true;
                }
                while let Some(request) = self.lives[which].awaited_locks().first().copied() {
                    self.answer(which, request, true, false);
                    self.lives[which].write(usize::MAX);
                    moved = true;
                }
            }
            self.check();
            if moved {
                continue;
            }
            let wakes = self.lives.iter().filter_map(|life| life.tx.wake_at(&life.policy));
            let Some(wake) = wakes.min() else { break };
            let now = self.lives[0].now.max(wake);
            self.lives.iter_mut().for_each(|life| life.now = now);
            self.one_clock();
        }
        for life in &self.lives {
            let phase = life.durable_phase();
            assert!(phase.ended_at().is_some(), "L1: never ended: {:?}", life.tx);
        }
    }

    pub(crate) fn check_end(&mut self) {
        for life in &self.lives {
            life.check_end();
            let left = life.participants.rows.iter().any(|row| row.effect == Effect::Held);
            self.seen.committed += u64::from(life.committed() && left);
        }
    }
}

impl Seen {
    pub(crate) fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        for ((_, count), (_, more)) in self.all().into_iter().zip(other.all()) {
            *count += *more;
        }
    }

    fn all(&mut self) -> [(&'static str, &mut u64); 10] {
        [
            ("shared at the same time", &mut self.shared_together),
            ("told of an older one", &mut self.told_older),
            ("told of a younger one", &mut self.told_younger),
            ("told of one that waits", &mut self.waits_behind),
            ("granted alone what it had shared", &mut self.stricter_granted),
            ("waiting for alone what it had shared", &mut self.stricter_waits),
            (CIRCLE, &mut self.circles),
            ("given up", &mut self.gave_up),
            ("committed", &mut self.committed),
            ("crashed", &mut self.crashed),
        ]
    }

    pub(crate) fn check(mut self, cases: u64) {
        for (name, count) in self.all() {
            // Few plans have two sagas that cross each other.
            let one_in = if name == CIRCLE { 300 } else { 50 };
            assert!(*count * one_in >= cases, "in {cases} plans only {count} were {name}");
        }
    }
}
