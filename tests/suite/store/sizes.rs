//! Rows with megabytes: they are read and purged a few at a time, and history by who asks for it alone.

use std::collections::BTreeSet;
use std::time::Duration;

use unanimo_coordinator::store::{Claim, Filter, Key, Retention};
use unanimo_core::{PhaseTwoAnswer, PhaseTwoOperation, Version};

use super::{Fixture, create, execute, on_both_stores};
use crate::fixtures::{LONG_AGO, Live, definition, new_gid, now};

on_both_stores!(
    l5_a_page_reads_so_many_bytes,
    l5_a_purge_takes_so_many_bytes,
    s11_a_history_that_cannot_be_read_harms_its_readers_alone,
);

const MEBIBYTE: usize = 1 << 20;

/// Bytes that are read for one page of a list, and that one run of the purge takes, in MiB.
const PAGE_MAX: usize = 32;
const PURGE_MAX: usize = 8;

/// Begins and ends a transaction with a mebibyte of metadata.
async fn large(fixture: &Fixture) -> Live {
    let mut definition = definition(&new_gid());
    definition.metadata.insert("large".to_owned(), "x".repeat(MEBIBYTE));
    let (mut live, begin) = Live::begin_with(definition, LONG_AGO);
    fixture.write([begin, live.rollback()]).await;
    fixture.write(live.phase_two(PhaseTwoOperation::Cancel, &PhaseTwoAnswer::Done)).await;
    live
}

async fn l5_a_page_reads_so_many_bytes(fixture: Fixture) {
    let mut all = BTreeSet::new();
    for _ in 0..PAGE_MAX + 8 {
        all.insert(large(&fixture).await.id());
    }
    let mut filter = Filter { limit: 100, ..Filter::default() };
    let mut found = BTreeSet::new();
    let first = fixture.store.transactions().list(&filter).await.unwrap();
    assert!((PAGE_MAX / 2..=PAGE_MAX + 4).contains(&first.found.len()), "{}", first.found.len());
    found.extend(first.found.iter().flatten().map(|stored| stored.record.identity.tx_id));
    filter.before = first.next;
    assert!(filter.before.is_some(), "there are more");
    let second = fixture.store.transactions().list(&filter).await.unwrap();
    assert_eq!((second.found.len(), second.next), (all.len() - found.len(), None));
    found.extend(second.found.iter().flatten().map(|stored| stored.record.identity.tx_id));
    assert_eq!(found, all, "each once");
}

async fn l5_a_purge_takes_so_many_bytes(fixture: Fixture) {
    const COUNT: u64 = 20;
    for _ in 0..COUNT {
        large(&fixture).await;
    }
    let day = Duration::from_secs(86_400);
    let retention = Retention { details: day, gids: day * 2 };
    let mut all = 0;
    loop {
        let stripped = fixture.store.purge().strip(fixture.me, retention, now()).await.unwrap();
        if stripped == 0 {
            break;
        }
        assert!(stripped as usize <= PURGE_MAX, "{stripped} at once");
        all += stripped;
    }
    assert_eq!(all, COUNT);
}

async fn s11_a_history_that_cannot_be_read_harms_its_readers_alone(fixture: Fixture) {
    let (mut live, begin) = Live::begin_with(definition(&new_gid()), LONG_AGO);
    fixture.write([begin]).await;
    let damaged = match fixture.url.starts_with("sqlite:") {
        true => "UPDATE log SET history = x'0900'",
        false => "UPDATE log SET history = '\\x0900'",
    };
    execute(&fixture.url, damaged).await;
    let transactions = fixture.store.transactions();
    let stored = transactions.find(&Key::Tx(live.id())).await.unwrap().unwrap();
    assert_eq!(stored.record, live.tx.record());
    let filter = Filter { limit: 10, ..Filter::default() };
    assert!(transactions.list(&filter).await.unwrap().found[0].is_ok());
    assert!(transactions.history(live.id(), Version(0)).await.is_err());
    let heir = create(&fixture.store, "heir").await;
    fixture.store.incarnations().fence(fixture.me, "a test").await.unwrap();
    let claimed = transactions.claim(heir, Claim::OfFenced(10)).await.unwrap();
    assert_eq!((claimed.records.len(), claimed.unreadable), (1, vec![]));
    live = Live::resume(unanimo_core::Transaction::restore(claimed.records[0].clone()));
    live.now = LONG_AGO;
    let fixture = Fixture { me: heir, ..fixture };
    fixture.write([live.rollback()]).await;
    fixture.write(live.phase_two(PhaseTwoOperation::Cancel, &PhaseTwoAnswer::Done)).await;
    let day = Duration::from_secs(86_400);
    let retention = Retention { details: day, gids: day * 2 };
    assert_eq!(fixture.store.purge().strip(heir, retention, now()).await.unwrap(), 1);
}
