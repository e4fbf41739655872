//! Random requests for shared and exclusive locks, by transactions of any age and their children. The answers are
//! compared with the rules as this test has them:
//!
//! - Two families hold one lock at a time only if both hold it shared.
//! - A request is granted if no other family stands in the way of any of its locks: as a holder that has not ended, or
//!   as an older one that waits and is not decided.
//! - Who is told of an older one is told whether an older one waits for what its family holds.
//! - What the family holds, in this mode or exclusive, nobody stands in the way of. Exclusive after shared is asked for as
//!   any other lock.

use std::time::Duration;

use unanimo_coordinator::store::{Error, LockTake, LockTaken};
use unanimo_core::{Gid, Lock, LockMode, LockName, Phase, Transition, TxId, Version};

use super::{Fixture, on_both_stores};
use crate::fixtures::{LONG_AGO, Live, definition, new_gid};

on_both_stores!(random_requests_are_answered_by_the_rules);

/// Rounds of a test, each with locks of its own.
const ROUNDS: usize = 12;

/// Moves of a round.
const MOVES: usize = 120;

/// Locks of a round.
const NAMES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Decided,
    Ended,
}

struct One {
    tx_id: TxId,
    gid: Gid,
    /// Id of the transaction at the top.
    family: TxId,
    state: State,
    /// Writes that decide it and that end it.
    ends: [Transition; 2],
}

#[derive(Clone, Debug)]
struct Row {
    name: LockName,
    of: usize,
    alone: bool,
    granted: bool,
}

#[derive(Default)]
struct Model {
    all: Vec<One>,
    rows: Vec<Row>,
    shared_together: usize,
    stricter: usize,
    blocking: usize,
}

async fn random_requests_are_answered_by_the_rules(fixture: Fixture) {
    let given = std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or(11);
    eprintln!("TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut shared_together, mut stricter, mut blocking) = (0, 0, 0);
    for round in 0..ROUNDS {
        let mut model = Model::default();
        let names: Vec<LockName> =
            (0..NAMES).map(|n| LockName::new(&format!("r{round}.{n}")).unwrap()).collect();
        for _ in 0..MOVES {
            match random.u8(0..24) {
                0..3 => model.begin(&fixture, &mut random).await,
                4 => model.end(&fixture, &mut random, State::Decided).await,
                3 => model.end(&fixture, &mut random, State::Ended).await,
                _ => model.take(&fixture, &mut random, &names).await,
            }
        }
        shared_together += model.shared_together;
        stricter += model.stricter;
        blocking += model.blocking;
    }
    assert!(shared_together > ROUNDS, "locks were shared {shared_together} times only");
    assert!(blocking > ROUNDS, "in the way of an older one were {blocking} only");
    assert!(stricter > ROUNDS / 2, "exclusive was asked for after shared {stricter} times only");
}

impl Model {
    /// Begins a transaction of any age, or a child of one that is open.
    async fn begin(&mut self, fixture: &Fixture, random: &mut fastrand::Rng) {
        let mut definition = definition(&new_gid());
        let name = LockName::new("any").unwrap();
        let wait_max = Duration::from_secs(1);
        definition.locks = vec![Lock { name, mode: LockMode::Exclusive, wait_max }];
        let age = Duration::from_millis(random.u64(0..1_000_000));
        let (mut live, begin) = Live::begin_with(definition, LONG_AGO.after(age));
        fixture.write([begin]).await;
        let end = live.rollback();
        let Phase::Ended { decision, at, .. } = end.state.phase else { panic!("{end:?}") };
        let mut decides = end.clone();
        decides.state.phase = Phase::Decided { decision, at };
        decides.releases_locks = false;
        let version = Version(end.version.0 + 1);
        let ends = [decides, Transition { version, ..end }];
        let open = self.all.iter().filter(|one| one.state == State::Open);
        let above = open.map(|one| one.family).nth(random.usize(0..8));
        self.all.push(One {
            tx_id: live.id(),
            gid: live.tx.identity().gid.clone(),
            family: above.unwrap_or(live.id()),
            state: State::Open,
            ends,
        });
    }

    /// Decides or ends one.
    async fn end(&mut self, fixture: &Fixture, random: &mut fastrand::Rng, to: State) {
        let fits = |at: &usize| match to {
            State::Decided => self.all[*at].state == State::Open,
            _ => self.all[*at].state != State::Ended,
        };
        let all: Vec<usize> = (0..self.all.len()).filter(fits).collect();
        let Some(at) = random.choice(&all).copied() else { return };
        let one = &mut self.all[at];
        let [decides, ends] = one.ends.clone();
        if one.state == State::Open {
            fixture.write([decides]).await;
        }
        if to == State::Ended {
            fixture.write([ends]).await;
            self.rows.retain(|row| row.of != at);
        }
        self.all[at].state = to;
    }

    async fn take(&mut self, fixture: &Fixture, random: &mut fastrand::Rng, names: &[LockName]) {
        if self.all.is_empty() {
            return;
        }
        let of = random.usize(0..self.all.len());
        let mut wanted: Vec<(LockName, LockMode)> = Vec::new();
        // One after the other, by half: whoever has one then waits for another.
        let only = random.bool().then(|| random.usize(0..names.len()));
        for (index, name) in names.iter().enumerate() {
            if only.is_some_and(|only| only != index) {
                continue;
            }
            match random.u8(0..4) {
                0 => wanted.push((name.clone(), LockMode::Shared)),
                1 => wanted.push((name.clone(), LockMode::Exclusive)),
                _ => {}
            }
        }
        let (tx_id, family) = (self.all[of].tx_id, self.all[of].family);
        let take = LockTake { tx_id, family, locks: wanted.clone() };
        let taken = fixture.store.locks().take(fixture.me, &take).await;
        if self.all[of].state != State::Open {
            assert!(matches!(taken, Err(Error::NotOpen(id)) if id == tx_id), "{taken:?}");
            return;
        }
        let asked = || format!("{wanted:?} by {of} of {family:?}, of {:?}", self.rows);
        let mut obstacles: Vec<&Row> = Vec::new();
        for (name, mode) in &wanted {
            obstacles.extend(self.obstacles(family, name, *mode == LockMode::Exclusive));
        }
        let mut blocking = 0;
        match taken.unwrap() {
            LockTaken::Granted => assert!(obstacles.is_empty(), "{obstacles:?}: {}", asked()),
            LockTaken::Held { lock, holder, older, waits, blocks_older } => {
                let is_told = |row: &&&Row| {
                    let other = &self.all[row.of];
                    row.name == lock
                        && other.gid == holder
                        && older == (other.family < family)
                        && waits != row.granted
                };
                let told = obstacles.iter().find(is_told);
                assert!(told.is_some(), "{lock} {holder} {older} {waits}: {}", asked());
                let any_older = obstacles.iter().any(|row| self.all[row.of].family < family);
                assert_eq!(older, any_older, "an older one is told first: {}", asked());
                let expected = older && self.blocks_older(family);
                assert_eq!(blocks_older, expected, "it is in an older one's way: {}", asked());
                blocking += usize::from(blocks_older);
            }
        }
        let granted = obstacles.is_empty();
        self.blocking += blocking;
        self.note(of, wanted, granted);
        self.check();
    }

    /// Returns whatever stands in the way of a lock.
    fn obstacles<'m>(
        &'m self,
        family: TxId,
        name: &'m LockName,
        alone: bool,
    ) -> impl Iterator<Item = &'m Row> {
        let of_name = self.rows.iter().filter(move |row| row.name == *name);
        let own = move |row: &Row| self.all[row.of].family == family;
        let is_held = of_name.clone().any(move |row| own(row) && row.granted && row.alone >= alone);
        of_name.filter(move |row| {
            let other = &self.all[row.of];
            let waits_before = other.family < family && other.state == State::Open;
            !is_held && !own(row) && (row.alone || alone) && (row.granted || waits_before)
        })
    }

    /// Tells whether an older one waits for what a family holds.
    fn blocks_older(&self, family: TxId) -> bool {
        let held =
            || self.rows.iter().filter(|row| row.granted && self.all[row.of].family == family);
        self.rows.iter().any(|waits| {
            let other = &self.all[waits.of];
            let is_older = other.family < family && other.state == State::Open && !waits.granted;
            is_older && held().any(|row| row.name == waits.name && (row.alone || waits.alone))
        })
    }

    fn note(&mut self, of: usize, wanted: Vec<(LockName, LockMode)>, granted: bool) {
        for (name, mode) in wanted {
            let alone = mode == LockMode::Exclusive;
            let is_shared = |row: &Row| row.of == of && row.name == name && !row.alone;
            self.stricter +=
                usize::from(alone && self.rows.iter().any(|row| is_shared(row) && row.granted));
            let same = |row: &&mut Row| row.of == of && row.name == name && row.alone == alone;
            match self.rows.iter_mut().find(same) {
                Some(row) => row.granted |= granted,
                None => self.rows.push(Row { name, of, alone, granted }),
            }
        }
    }

    /// No two families hold what they cannot share.
    fn check(&mut self) {
        let held: Vec<&Row> = self.rows.iter().filter(|row| row.granted).collect();
        let mut together = 0;
        for (at, one) in held.iter().enumerate() {
            for other in &held[at + 1..] {
                if one.name == other.name && self.all[one.of].family != self.all[other.of].family {
                    assert!(!one.alone && !other.alone, "{one:?} and {other:?}");
                    together += 1;
                }
            }
        }
        self.shared_together += together;
    }
}
