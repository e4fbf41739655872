//! Promises of sagas, under random graphs, answers, locks, times and crashes.
//!
//! A plan ([`plan`]) is a random transaction and what happens to it. The coordinator's side
//! ([`life`]) keeps its journal as a store does: a crash loses every transition that nobody awaits,
//! and calls leave only once what they wait for is written. The participants ([`participants`]) keep
//! a record of their own, and the promises are checked against that.
//!
//! `TEST_SEED=… UNANIMO_CASES=… cargo test -p unanimo-core --test sagas` plays other plans.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod checks;
#[path = "../common/mod.rs"]
mod common;
mod crowd;
mod family;
mod life;
mod participants;
mod plan;
mod play;

use crowd::Crowd;
use family::Family;
use life::Life;
use participants::Effect;
use plan::plan;

use proptest::test_runner::{Config, RngSeed, TestRunner};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Results of the plans. A generator that reaches nothing proves nothing.
#[derive(Debug, Default)]
struct Tally {
    committed: u64,
    aborted: u64,
    committed_by_pivot: u64,
    steps_after_pivot: u64,
    undone_in_order: u64,
    kept: u64,
    children_in_doubt: u64,
    crashed: u64,
    committed_by_word: u64,
    aborted_by_word: u64,
}

impl Tally {
    fn count(&mut self, life: &Life) {
        let rows = &life.participants.rows;
        let depends = &life.order.depends;
        let undone = |at: usize| rows[at].effect == Effect::Undone;
        let any_before = |at: usize| (0..rows.len()).any(|b| depends[at][b] && undone(b));
        self.committed += u64::from(life.committed());
        self.aborted += u64::from(!life.committed());
        let by_pivot = life.committed() && life.order.pivot.is_some();
        self.committed_by_pivot += u64::from(by_pivot);
        let after = by_pivot && (0..rows.len()).any(|at| life.order.is_after_pivot(at));
        self.steps_after_pivot += u64::from(after);
        self.undone_in_order += u64::from((0..rows.len()).any(|at| undone(at) && any_before(at)));
        let kept = |row: &participants::Row| row.kept && row.effect == Effect::Held;
        self.kept += u64::from(!life.committed() && rows.iter().any(kept));
        self.children_in_doubt += u64::from(life.in_doubt);
        self.crashed += u64::from(life.life > 1);
        let stored = &life.journal.durable.0.state.branches;
        let pivot = life.order.pivot.and_then(|pivot| stored.get(pivot));
        let by_word = pivot.is_some_and(|pivot| pivot.vote.is_none() && !pivot.refused_by_word);
        self.committed_by_word += u64::from(life.committed() && by_word);
        self.aborted_by_word += u64::from(pivot.is_some_and(|pivot| pivot.refused_by_word));
    }

    fn check(&self, cases: u64) {
        let Self { committed, aborted, committed_by_pivot, steps_after_pivot, .. } = *self;
        let Self { undone_in_order, kept, children_in_doubt, crashed, .. } = *self;
        let Self { committed_by_word, aborted_by_word, .. } = *self;
        for (name, count) in
            [("committed by word", committed_by_word), ("aborted by word", aborted_by_word)]
        {
            assert!(count * 1_000 >= cases, "only {count} of {cases} plans were {name}");
        }
        for (name, count) in [
            ("committed", committed),
            ("aborted", aborted),
            ("committed by a pivot", committed_by_pivot),
            ("with steps after the pivot", steps_after_pivot),
            ("undone in order", undone_in_order),
            ("with kept effects", kept),
            ("in doubt", children_in_doubt),
            ("crashed", crashed),
        ] {
            assert!(count * 50 >= cases, "only {count} of {cases} plans were {name}");
        }
    }
}

/// Returns the seed, the number of cases, and what runs them.
fn runner(cases_default: u64) -> (u64, u64, TestRunner) {
    let seed = number("TEST_SEED").unwrap_or(7);
    let cases = number("UNANIMO_CASES").unwrap_or(cases_default);
    eprintln!("TEST_SEED={seed}");
    let config = Config {
        cases: cases.try_into().expect("a number of cases"),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    (seed, cases, TestRunner::new(config))
}

/// Sagas that take shared and exclusive locks against each other: no two use what they may not share, nobody gives up
/// before its time or for a younger one, and all end.
#[test]
fn l1_locks_keep_sagas_apart_and_all_of_them_end() {
    let (seed, cases, mut runner) = runner(1_500);
    let seen = std::cell::RefCell::new(crowd::Seen::default());
    let played = runner.run(&crowd::plans(), |(plans, moves)| {
        let mut crowd = Crowd::begin(plans);
        moves.into_iter().for_each(|(which, a_move)| crowd.play(which, a_move));
        crowd.heal();
        crowd.check_end();
        seen.borrow_mut().add(&crowd.seen);
        Ok(())
    });
    if let Err(failure) = played {
        panic!("TEST_SEED={seed}: {failure}");
    }
    let seen = seen.into_inner();
    eprintln!("{seen:?}");
    seen.check(cases);
}

/// Sagas with children, and children of those: all of a family ends in the same way, and in order.
#[test]
fn s1_s2_s4_s7_l1_hold_in_every_family() {
    let (seed, cases, mut runner) = runner(3_000);
    let seen = std::cell::RefCell::new(family::Seen::default());
    let played = runner.run(&family::families(), |(plans, places, moves)| {
        let mut family = Family::begin(plans, &places);
        moves.into_iter().for_each(|(which, a_move)| family.play(which, a_move));
        family.heal();
        family.check_end();
        seen.borrow_mut().add(&family.seen);
        Ok(())
    });
    if let Err(failure) = played {
        panic!("TEST_SEED={seed}: {failure}");
    }
    let seen = seen.into_inner();
    eprintln!("{seen:?}");
    seen.check(cases);
}

#[test]
fn s1_s2_s4_s6_s7_s8_l1_hold_in_every_saga() {
    let (seed, cases, mut runner) = runner(8_000);
    let tally = std::cell::RefCell::new(Tally::default());
    let played = runner.run(&plan(), |plan| {
        let moves = plan.played();
        let mut life = Life::begin(plan, 0, plan::BEGIN);
        moves.into_iter().for_each(|a_move| life.play(a_move));
        life.heal();
        life.check_end();
        tally.borrow_mut().count(&life);
        life.late_deliveries();
        life.check_end();
        Ok(())
    });
    if let Err(failure) = played {
        panic!("TEST_SEED={seed}: {failure}");
    }
    let tally = tally.into_inner();
    eprintln!("{tally:?}");
    tally.check(cases);
}
