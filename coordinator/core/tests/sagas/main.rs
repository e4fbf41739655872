//! Promises of sagas, under random graphs, answers, locks, times and crashes.
//!
//! A plan ([`plan`]) is a random transaction and what happens to it. The coordinator's side
//! ([`life`]) keeps its journal as a store does: a crash loses every transition that nobody awaits,
//! and calls leave only once what they wait for is written. The participants ([`participants`]) keep
//! a record of their own, and the promises are checked against that.
//!
//! Each run plays the plans of [`FIXED_SEED`], and of a new seed, which it prints.
//! `TEST_SEED=… UNANIMO_CASES=… cargo test -p unanimo-core --test sagas` plays those of one seed.
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

use std::hash::{BuildHasher as _, Hasher as _};

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

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

/// Seed of the plans that every run plays. What they reach is counted.
const FIXED_SEED: u64 = 7;

/// Of so many plans of the fixed seed, one is played of the new one.
const NEW_SHARE: u64 = 4;

/// Plays plans: those of `TEST_SEED`, or else those of the fixed seed, and some of a seed that no run had.
/// `play` gets what runs them, and returns what checks the number of those that it saw.
fn for_each_seed<Check: FnOnce(u64)>(
    cases_default: u64,
    play: impl Fn(&mut TestRunner) -> Result<Check, String>,
) {
    let cases = number("UNANIMO_CASES").unwrap_or(cases_default);
    let given = number("TEST_SEED");
    let fresh = std::hash::RandomState::new().build_hasher().finish();
    let seeds = match given {
        Some(seed) => vec![(seed, cases)],
        None => vec![(FIXED_SEED, cases), (fresh, cases.div_ceil(NEW_SHARE))],
    };
    for (seed, cases) in seeds {
        eprintln!("TEST_SEED={seed}");
        let config = Config {
            cases: cases.try_into().expect("a number of cases"),
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(seed),
            ..Config::default()
        };
        match play(&mut TestRunner::new(config)) {
            // A share of them is too few to count what is rare.
            Ok(check) if given.is_some() || seed == FIXED_SEED => check(cases),
            Ok(_) => {}
            Err(failure) => panic!("TEST_SEED={seed}: {failure}"),
        }
    }
}

#[test]
#[should_panic(expected = "TEST_SEED=")]
fn a_failure_tells_the_seed_that_repeats_it() {
    for_each_seed(4, |runner| {
        let one = |_| Err::<(), _>(TestCaseError::fail("of purpose"));
        runner.run(&proptest::arbitrary::any::<u64>(), one).map_err(|why| why.to_string())?;
        Ok(|_| ())
    });
}

/// Two runs play different plans beside the same ones.
#[test]
fn each_run_has_a_seed_of_its_own() {
    let drawn = || {
        let drawn = std::cell::RefCell::new(Vec::new());
        for_each_seed(4, |runner| {
            let keep = |number: u64| {
                drawn.borrow_mut().push(number);
                Ok(())
            };
            runner.run(&proptest::arbitrary::any::<u64>(), keep).map_err(|why| why.to_string())?;
            Ok(|_| ())
        });
        drawn.into_inner()
    };
    let (first, second) = (drawn(), drawn());
    if number("TEST_SEED").is_some() {
        assert_eq!(first, second);
        return;
    }
    let fixed = first.len() - 1;
    assert_eq!((&first[..fixed], first.len()), (&second[..fixed], second.len()));
    assert_ne!(first[fixed], second[fixed]);
}

/// Sagas that take shared and exclusive locks against each other: no two use what they may not share, nobody gives up
/// for a younger one, or before its time unless an older one waits for what it holds, the youngest of a circle gives up
/// at once, and all end.
#[test]
fn l1_locks_keep_sagas_apart_and_all_of_them_end() {
    for_each_seed(1_500, |runner| {
        let seen = std::cell::RefCell::new(crowd::Seen::default());
        let played = runner.run(&crowd::plans(), |(plans, moves)| {
            let mut crowd = Crowd::begin(plans);
            moves.into_iter().for_each(|(which, a_move)| crowd.play(which, a_move));
            crowd.heal();
            crowd.check_end();
            seen.borrow_mut().add(&crowd.seen);
            Ok(())
        });
        played.map_err(|failure| failure.to_string())?;
        let seen = seen.into_inner();
        eprintln!("{seen:?}");
        Ok(move |cases| seen.check(cases))
    });
}

/// Sagas with children, and children of those: all of a family ends in the same way, and in order.
#[test]
fn s1_s2_s4_s7_l1_hold_in_every_family() {
    for_each_seed(3_000, |runner| {
        let seen = std::cell::RefCell::new(family::Seen::default());
        let played = runner.run(&family::families(), |(plans, places, moves)| {
            let mut family = Family::begin(plans, &places);
            moves.into_iter().for_each(|(which, a_move)| family.play(which, a_move));
            family.heal();
            family.check_end();
            seen.borrow_mut().add(&family.seen);
            Ok(())
        });
        played.map_err(|failure| failure.to_string())?;
        let seen = seen.into_inner();
        eprintln!("{seen:?}");
        Ok(move |cases| seen.check(cases))
    });
}

#[test]
fn s1_s2_s4_s6_s7_s8_l1_hold_in_every_saga() {
    for_each_seed(8_000, |runner| {
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
        played.map_err(|failure| failure.to_string())?;
        let tally = tally.into_inner();
        eprintln!("{tally:?}");
        Ok(move |cases| tally.check(cases))
    });
}
