//! Promises of sagas, under random graphs, answers, locks, times and crashes.
//!
//! A plan ([`plan`]) is a random transaction and what happens to it. The coordinator's side
//! ([`life`]) keeps its journal as a store does: a crash loses every transition that nobody awaits,
//! and calls leave only once what they wait for is written. The participants ([`participants`]) keep
//! a record of their own, and the promises are checked against that.
//!
//! `UNANIMO_SEED=… UNANIMO_CASES=… cargo test -p unanimo-core --test sagas` plays other plans.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod checks;
#[path = "../common/mod.rs"]
mod common;
mod life;
mod participants;
mod plan;
mod play;

use life::Life;
use plan::plan;
use proptest::test_runner::{Config, RngSeed, TestRunner};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn s1_s2_s4_s6_s7_s8_l1_hold_in_every_saga() {
    let seed = number("UNANIMO_SEED").unwrap_or(7);
    let cases = number("UNANIMO_CASES").unwrap_or(4_000);
    eprintln!("UNANIMO_SEED={seed}");
    let config = Config {
        cases: cases.try_into().expect("a number of cases"),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    let played = TestRunner::new(config).run(&plan(), |plan| {
        let moves = plan.moves.clone();
        let mut life = Life::begin(plan);
        moves.into_iter().for_each(|a_move| life.play(a_move));
        life.heal();
        life.check_end();
        life.late_deliveries();
        life.check_end();
        Ok(())
    });
    if let Err(failure) = played {
        panic!("UNANIMO_SEED={seed}: {failure}");
    }
}
