//! The initiator's client, against a coordinator.

use std::time::Duration;

use unanimo_sdk::Outcome;
use unanimo_testing::Coordinator;

/// S10: what a gid's transaction came to, and that a gid never seen stays without effect.
#[tokio::test]
async fn s10_a_gid_is_found_waited_for_and_rolled_back() {
    let coordinator = Coordinator::start().await.unwrap();
    let client = coordinator.client().unwrap();
    let info = client.server_info().await.unwrap();
    assert!(!info.version.is_empty() && !info.cluster_id.is_empty(), "{info:?}");
    assert!(info.features.iter().any(|name| name == "tcc"), "{info:?}");
    assert!(info.limits.branches_max > 0, "{info:?}");

    let tombstone = client.rollback("never").await.unwrap();
    assert!(tombstone.is_aborted(), "{tombstone:?}");
    let late = client.tcc("never").branch("b", "p", "a", ()).submit().await.unwrap();
    assert!(late.is_aborted(), "{late:?}");

    let tx = client.tcc("g").begin().await.unwrap();
    let found = client.find("g").await.unwrap();
    let Outcome::NotDecided(found) = found else { panic!("{found:?}") };
    assert_eq!(found.tx_id.as_deref(), Some(tx.tx_id()));
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.find("g").wait_until_decided().await })
    };
    let outcome = client.rollback("g").wait_until_ended().await.unwrap();
    let Outcome::Aborted(aborted) = outcome else { panic!("{outcome:?}") };
    assert!(aborted.ended && aborted.tx_id == tx.tx_id(), "{aborted:?}");
    assert!(waiting.await.unwrap().unwrap().is_aborted());
    let ended = client.find("g").wait_until_ended().await.unwrap();
    assert!(matches!(&ended, Outcome::Aborted(aborted) if aborted.ended), "{ended:?}");
    let again = tx.commit().await.unwrap();
    assert!(again.is_aborted(), "the decision stands: {again:?}");
    coordinator.stop().await.unwrap();
}

/// The longest time that there is stands for a wait without an end.
#[tokio::test]
async fn a_wait_without_an_end_is_a_wait() {
    let coordinator = Coordinator::start().await.unwrap();
    let client = coordinator.client().unwrap().wait_at_most(Duration::MAX);
    assert!(!client.server_info().await.unwrap().version.is_empty());
    let aborted = client.rollback("never").await.unwrap();
    assert!(aborted.is_aborted(), "{aborted:?}");
    coordinator.stop().await.unwrap();
}
