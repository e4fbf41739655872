//! Crate `unanimo-testing`: correct handlers pass, and each fault of a handler is named.

mod mariadb;
mod postgres;
mod saga;
pub(crate) mod sqlite;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use unanimo_sdk::{Json, Participant, Serve, Sqlite};
use unanimo_testing::{Coordinator, Harness, Report, Subject};

/// Payload of every action of these tests.
#[derive(Serialize, Deserialize)]
struct Order {
    pieces: i64,
}

/// More than all checks together take, however often they try: a handler with a fault may give nothing back.
pub(crate) const STOCK: i64 = 10_000;

fn order(pieces: i64) -> Json<Order> {
    Json(Order { pieces })
}

async fn run<S: Subject>(harness: Harness<S>) -> Report {
    let harness = harness.payload(order(2)).refused_payload(order(STOCK + 1));
    harness.effect("free 9998, reserved 0").run().await
}

/// Runs a harness on a handler that may never answer: with a short patience, which is still enough
/// to wait for a lock.
async fn run_broken<S: Subject>(harness: Harness<S>) -> Report {
    run(harness.patience(Duration::from_secs(3))).await
}

/// Checks the names of the guarantees that fail, and a part of the first one's message.
#[track_caller]
fn check(report: &Report, names: &[&str], words: &str) {
    let failed = report.failed();
    let found: Vec<_> = failed.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, names, "{report}");
    assert!(failed[0].1.contains(words), "no {words:?} in {report}");
    assert!(!report.passed());
}

/// Crashes have met each call while it was under way, and its effect is right. A check whose crashes came too early
/// or too late is skipped.
#[track_caller]
fn check_crashes(report: &Report) {
    let text = report.to_string();
    for name in ["crash-in-prepare", "crash-in-commit", "crash-in-cancel"] {
        assert!(text.contains(&format!("passed   {name}\n")), "{name}: {text}");
    }
}

/// Coordinator for users' tests: whole transactions, and a crash in the middle.
#[tokio::test]
async fn a_coordinator_in_the_process_survives_its_crash() {
    let mut coordinator = Coordinator::start().await.unwrap();
    let shop = sqlite::Shop::<{ sqlite::GOOD }>::fresh().await.unwrap();
    let mut serving = shop
        .participant()
        .await
        .unwrap()
        .serve(Serve::on("127.0.0.1:0").register_with(coordinator.endpoint()))
        .await
        .unwrap();
    serving.registered().await.unwrap();
    let submit = async |coordinator: &Coordinator, gid: &str| {
        let client = coordinator.client().unwrap();
        client.tcc(gid).branch("b", "shop", "reserve", order(2)).submit().await.unwrap()
    };
    assert!(submit(&coordinator, "one").await.is_committed());
    let endpoint = coordinator.endpoint();
    coordinator.crash().await.unwrap();
    assert_eq!(coordinator.endpoint(), endpoint);
    assert!(submit(&coordinator, "one").await.is_committed(), "S9");
    assert!(submit(&coordinator, "two").await.is_committed());
    unanimo_tests::wait::until("both to be confirmed", async || {
        (shop.observe().await.unwrap() == "free 9996, reserved 0").then_some(())
    })
    .await;
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

/// Subject that observes nothing, so that no effects are compared.
struct Blind(sqlite::Shop<{ sqlite::CANCEL_FORGETS }>);

impl Subject for Blind {
    type Resource = Sqlite;

    async fn fresh() -> Result<Self, unanimo_sdk::BoxError> {
        Ok(Self(sqlite::Shop::fresh().await?))
    }

    async fn participant(&self) -> Result<Participant<Sqlite>, unanimo_sdk::BoxError> {
        self.0.participant().await
    }
}

#[tokio::test]
async fn without_an_observation_only_answers_are_checked() {
    let report = Harness::<Blind>::tcc("reserve").payload(order(2)).run().await;
    report.assert_passed();
    assert!(report.to_string().contains("visible-effect: `observe` shows nothing"), "{report}");
    let report = Harness::<Blind>::tcc("reserve").payload(order(STOCK + 1)).run().await;
    assert!(!report.passed(), "it refuses: {report}");
}
