//! Clocks that are wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use unanimo_coordinator::config::Period;
use unanimo_coordinator::env::{Env, SystemEnv};
use unanimo_core::{Timestamp, TxId};
use unanimo_proto::v1::Outcome;
use unanimo_tests::postgres::Server;
use unanimo_tests::scripted::Scripted;
use unanimo_tests::wait::until;

use super::http::http_get;
use super::{World, config, sqlite_url, tcc};
use crate::store::execute;

const DAYS_8_MS: u64 = 8 * 24 * 60 * 60 * 1000;

/// Clock that a test sets.
#[derive(Debug, Default)]
struct Set {
    ahead_ms: AtomicU64,
}

impl Env for Set {
    fn now(&self) -> Timestamp {
        SystemEnv.now().after(Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed)))
    }

    fn tx_id(&self, now: Timestamp) -> TxId {
        SystemEnv.tx_id(now)
    }
}

async fn alarm(world: &World) -> u32 {
    let (_, text) = http_get(world, "/metrics").await;
    let line = "unanimo_alarms{alarm=\"clock_skew\"} ";
    let found = text.lines().find_map(|found| found.strip_prefix(line));
    found.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

/// S9, S10: the coordinator's clock is eight days ahead for a moment, and nothing is purged.
#[tokio::test]
async fn s9_a_clock_that_jumps_purges_nothing() {
    for url in [Server::shared().database().await, sqlite_url()] {
        let mut config = config(&url);
        config.purge_interval = Period::millis(20);
        let clock = Arc::new(Set::default());
        let world = World::start_at(config, Scripted::default(), Arc::clone(&clock) as _).await;
        let paid = world.submit(tcc("pay-1", &["ok"])).await.unwrap();
        world.get_until("pay-1", "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(alarm(&world).await, 0);

        clock.ahead_ms.store(DAYS_8_MS, Ordering::Relaxed);
        until("the alarm", async || (alarm(&world).await == 1).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let again = world.submit(tcc("pay-1", &["ok"])).await.unwrap();
        assert_eq!((again.outcome(), &again.tx_id), (Outcome::Committed, &paid.tx_id));
        let shown = world.get("pay-1").await;
        assert_eq!(shown.branches.len(), 1, "its details are there");

        clock.ahead_ms.store(0, Ordering::Relaxed);
        until("the alarm to be cleared", async || (alarm(&world).await == 0).then_some(())).await;
        let new = world.submit(tcc("pay-2", &["ok"])).await.unwrap();
        assert_eq!(new.outcome(), Outcome::Committed);
        assert_eq!(world.get("pay-1").await.tx_id, paid.tx_id);
        world.running.stop().await.unwrap();
    }
}

/// A start that finds the last purge long ago raises an alarm before its clocks are believed: a week of gids is at
/// stake. After an hour's stop, and at the very first start, nothing is wrong.
#[tokio::test]
async fn s9_a_start_long_after_the_last_purge_raises_an_alarm() {
    const HOUR_MS: u64 = 60 * 60 * 1000;
    for url in [Server::shared().database().await, sqlite_url()] {
        for (ago_ms, expected) in [(None, 0), (Some(5 * HOUR_MS), 0), (Some(DAYS_8_MS), 1)] {
            let mut config = config(&url);
            config.purge_interval = Period::millis(20);
            if let Some(ago_ms) = ago_ms {
                let last = SystemEnv.now().0 - ago_ms;
                execute(&url, &format!("UPDATE cluster SET purge_clock_ms = {last}")).await;
            }
            let world = World::start(config).await;
            world.submit(tcc("g", &["ok"])).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(alarm(&world).await, expected, "{ago_ms:?}");
            world.running.stop().await.unwrap();
        }
    }
}

/// A purge still takes place when all is well.
#[tokio::test]
async fn what_is_old_is_purged_by_clocks_that_agree() {
    for url in [Server::shared().database().await, sqlite_url()] {
        let mut config = config(&url);
        config.purge_interval = Period::millis(20);
        config.retention = Period::millis(300);
        config.gid_retention = Period::millis(600);
        let world = World::start(config).await;
        world.submit(tcc("old", &["ok"])).await.unwrap();
        until("the gid to be purged", async || {
            let key = unanimo_proto::v1::get_transaction_request::Key::Gid("old".to_owned());
            let request =
                unanimo_proto::v1::GetTransactionRequest { key: Some(key), ..Default::default() };
            world.client().get_transaction(request).await.is_err().then_some(())
        })
        .await;
        world.running.stop().await.unwrap();
    }
}
