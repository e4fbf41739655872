//! Kill -9 of the coordinator between any two durable steps of each example, on both stores: in short at some visit of
//! each crash point, and in full (`cargo xtask kills`) at each visit of each of them.

use std::collections::BTreeSet;

use tokio::task::JoinSet;
use unanimo_coordinator::crash::{POINTS, SAGA_POINTS};
use unanimo_examples::sagas::args::Name;
use unanimo_examples::sagas::example::Stage;

use super::{Case, Store};

/// Most visits of a crash point in one run of an example: more calls and writes than any has.
const VISITS_MAX: u32 = 64;

/// Visits among which one is chosen at first. Fewer than most points have in most runs.
const VISITS: u32 = 12;

/// Each example, and its last step that can refuse.
const EXAMPLES: [(Name, &str); 3] =
    [(Name::Trip, "payment"), (Name::Order, "shipment"), (Name::Pipeline, "monitor")];

/// Visits of a crash point at which coordinators are killed, each in a run of its own.
#[derive(Clone, Copy, Debug)]
enum Visits {
    /// One after the other, until a run has fewer.
    All,
    /// One that the seed chooses.
    One(u64),
}

/// Returns the crash points of an example.
fn points(example: Name) -> Vec<&'static str> {
    // Only this one has a child; none takes locks.
    let more = if example == Name::Order { SAGA_POINTS } else { &[] };
    let more = more.iter().filter(|point| **point != "locks-taken");
    POINTS.iter().chain(more).copied().collect()
}

/// Returns a run that commits, one whose last step that can refuse does, and one in which that step hangs.
fn cases(store: Store, example: Name, last: &'static str) -> [Case; 3] {
    let step = example.example().steps.iter().find(|step| step.id == last).unwrap();
    let decides = step.stage != Stage::BeforePivot;
    let cases = [
        Case::new(example, &[], true),
        Case::new(example, &[("--fail", last)], false),
        Case::new(example, &[("--hang", last)], decides),
    ];
    cases.map(|case| Case { store, ..case })
}

/// Kills the coordinator at each crash point of each kind of run.
async fn crash_everywhere(store: Store, visits: Visits) {
    let mut running = JoinSet::new();
    let mut passed = BTreeSet::new();
    let mut random = fastrand::Rng::with_seed(match visits {
        Visits::One(seed) => seed,
        Visits::All => 0,
    });
    for (example, last) in EXAMPLES {
        for point in points(example) {
            passed.insert((example.example().name, point));
            for case in cases(store, example, last) {
                let first = random.u32(1..=VISITS);
                running.spawn(async move {
                    let died = match visits {
                        Visits::All => at_every_visit(case, point).await,
                        Visits::One(_) => at_one_visit(case, point, first).await,
                    };
                    died.then(|| (example.example().name, point))
                });
            }
        }
    }
    let mut crashed = BTreeSet::new();
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(point) => crashed.extend(point),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    assert_eq!(crashed, passed, "a point was never passed");
}

/// Kills the coordinator at one visit after the other; tells whether it died at all.
async fn at_every_visit(case: Case, point: &'static str) -> bool {
    let mut died = false;
    for visit in 1..=VISITS_MAX {
        if case.clone().crashes(point, visit).run().await.is_none() {
            break;
        }
        died = true;
    }
    died
}

/// Kills the coordinator at this visit, or at an earlier one if there are not so many; tells whether it died.
async fn at_one_visit(case: Case, point: &'static str, mut visit: u32) -> bool {
    loop {
        if case.clone().crashes(point, visit).run().await.is_some() {
            return true;
        }
        if visit == 1 {
            return false;
        }
        visit = visit.div_ceil(2);
    }
}

/// Seed of the visits, which `TEST_SEED` sets.
pub(super) fn seed() -> u64 {
    let given = std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("TEST_SEED={seed}");
    seed
}

#[tokio::test]
async fn s7_examples_are_whole_after_a_crash_at_any_point() {
    crash_everywhere(Store::Sqlite, Visits::One(seed())).await;
}

#[tokio::test]
async fn s7_examples_on_postgres_are_whole_after_a_crash_at_any_point() {
    crash_everywhere(Store::Postgres, Visits::One(seed())).await;
}

#[tokio::test]
#[ignore = "takes many minutes: cargo xtask kills"]
async fn s7_examples_are_whole_after_a_crash_at_every_visit_of_every_point() {
    crash_everywhere(Store::Sqlite, Visits::All).await;
}

#[tokio::test]
#[ignore = "takes many minutes: cargo xtask kills"]
async fn s7_examples_on_postgres_are_whole_after_a_crash_at_every_visit_of_every_point() {
    crash_everywhere(Store::Postgres, Visits::All).await;
}
