//! Metrics of what is open, and of the process.

use std::time::Duration;

use unanimo_tests::wait::until;

use super::http::http_get;
use super::{World, tcc};

/// Value of a series, as it is scraped.
pub(super) async fn value(world: &World, series: &str) -> Option<f64> {
    let (code, text) = http_get(world, "/metrics").await;
    assert_eq!(code, 200);
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

const ACTIVE: &str = "unanimo_transactions_open{mode=\"tcc\",state=\"active\"}";
const COMMITTING: &str = "unanimo_transactions_open{mode=\"tcc\",state=\"committing\"}";
const UNDECIDED: &str = "unanimo_oldest_undecided_seconds";
const OWED: &str = "unanimo_oldest_owed_seconds";

#[tokio::test]
async fn open_transactions_are_counted_with_the_oldest() {
    let world = World::sqlite().await;
    assert_eq!(value(&world, ACTIVE).await, None);
    assert_eq!((value(&world, UNDECIDED).await, value(&world, OWED).await), (Some(0.0), Some(0.0)));
    world.p.hold(true);
    // One that is not decided, and later one that owes a Commit.
    let mut client = world.client();
    let request = tcc("undecided", &["gated"]);
    let undecided = tokio::spawn(async move { client.submit_transaction(request).await });
    until("the first one", async || value(&world, ACTIVE).await.filter(|&n| n == 1.0)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.submit(tcc("owed", &["ok"])).await.unwrap();
    until("the second one", async || value(&world, COMMITTING).await.filter(|&n| n == 1.0)).await;
    let (undecided_for, owed_for) = (value(&world, UNDECIDED).await, value(&world, OWED).await);
    assert!(undecided_for >= owed_for.map(|owed| owed + 0.3), "{undecided_for:?} {owed_for:?}");
    until("the second one's age", async || value(&world, OWED).await.filter(|&s| s > 0.5)).await;
    world.p.hold(false);
    undecided.await.unwrap().unwrap();
    until("the end of both", async || {
        (value(&world, "unanimo_transactions_live").await == Some(0.0)).then_some(())
    })
    .await;
    assert_eq!((value(&world, ACTIVE).await, value(&world, COMMITTING).await), (None, None));
    assert_eq!((value(&world, UNDECIDED).await, value(&world, OWED).await), (Some(0.0), Some(0.0)));
    let answers = "unanimo_participant_answer_seconds_count{participant=\"p\"}";
    assert_eq!(value(&world, answers).await, Some(4.0));
}

#[tokio::test]
async fn a_purge_is_told_with_its_time() {
    let world = World::sqlite().await;
    let last = until("a purge", async || {
        value(&world, "unanimo_last_purge_timestamp_seconds").await.filter(|&time| time > 0.0)
    })
    .await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((now.as_secs_f64() - last).abs() < 60.0, "{last}");
}
