//! Kill -9 of the coordinator between any two durable steps of each example, on both stores: at each visit of each crash
//! point on SQLite. On PostgreSQL at each third visit, because the store differs and the saga does not; in full by
//! `cargo xtask kills`.

use std::collections::BTreeSet;

use tokio::task::JoinSet;
use unanimo_coordinator::crash::{POINTS, SAGA_POINTS};
use unanimo_examples::sagas::args::Name;
use unanimo_examples::sagas::example::Stage;

use super::{Case, Store};

/// Most visits of a crash point in one run of an example: more calls and writes than any has.
const VISITS_MAX: u32 = 64;

/// Each example, and its last step that can refuse.
const EXAMPLES: [(Name, &str); 3] =
    [(Name::Trip, "payment"), (Name::Order, "shipment"), (Name::Pipeline, "monitor")];

/// Returns the crash points of an example.
fn points(example: Name) -> Vec<&'static str> {
    // Those of a child, and that of a lock.
    let more = SAGA_POINTS.iter().filter(|point| match example {
        Name::Trip => **point == "locks-taken",
        Name::Order => **point != "locks-taken",
        Name::Pipeline => false,
    });
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

/// Kills the coordinator at each crash point of each kind of run. `stride` leaves visits out.
async fn crash_everywhere(store: Store, stride: usize) {
    let mut running = JoinSet::new();
    let mut passed = BTreeSet::new();
    for (example, last) in EXAMPLES {
        for point in points(example) {
            passed.insert((example.example().name, point));
            for case in cases(store, example, last) {
                running.spawn(async move {
                    let died = at_every_visit(case, point, stride).await;
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
async fn at_every_visit(case: Case, point: &'static str, stride: usize) -> bool {
    let mut died = false;
    for visit in (1..=VISITS_MAX).step_by(stride) {
        if case.clone().crashes(point, visit).run().await.is_none() {
            break;
        }
        died = true;
    }
    died
}

#[tokio::test]
async fn s7_examples_are_whole_after_a_crash_at_every_visit_of_every_point() {
    crash_everywhere(Store::Sqlite, 1).await;
}

#[tokio::test]
async fn s7_examples_on_postgres_are_whole_after_a_crash_at_every_third_visit() {
    crash_everywhere(Store::Postgres, 3).await;
}

#[tokio::test]
#[ignore = "takes many minutes: cargo xtask kills"]
async fn s7_examples_on_postgres_are_whole_after_a_crash_at_every_visit_of_every_point() {
    crash_everywhere(Store::Postgres, 1).await;
}
