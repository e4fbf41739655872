//! Histories that are longer than an answer.

use unanimo_coordinator::store::{Write, Written};
use unanimo_core::history::{Entry, Input, Step};
use unanimo_core::{Mode, Version};

use super::{Fixture, a_write, on_both_stores};
use crate::fixtures::{Live, definition, new_gid, now};

on_both_stores!(l5_of_a_long_history_no_more_is_read_than_fits_into_an_answer);

/// Inputs of an entry: as many as wait for a write.
const INPUTS: usize = 64;

const ENTRIES: i64 = 2_000;

/// Entries in a row.
const PART: usize = 500;

async fn l5_of_a_long_history_no_more_is_read_than_fits_into_an_answer(fixture: Fixture) {
    let mut definition = definition(&new_gid());
    definition.mode = Mode::Saga;
    definition.branches.iter_mut().for_each(|branch| branch.mode = Mode::Saga);
    let (mut live, mut begin) = Live::begin_with(definition, now());
    let first = begin.history[0].clone();
    let tick = Step {
        at: now(),
        input: Input::Tick,
        calls: Vec::new(),
        locks: Vec::new(),
        wake_at: Some(now()),
    };
    let entry = |version| Entry {
        version: Version(version),
        steps: vec![tick.clone(); INPUTS],
        ..first.clone()
    };
    begin.history.extend((2..=ENTRIES).map(entry));
    let written: Vec<usize> =
        begin.history.iter().map(|entry| serde_json::to_string(entry).unwrap().len()).collect();
    let all: usize = written.iter().sum();
    assert!(all > 6 << 20, "it has {all} bytes");
    // Each entry is in the row of its version, or was folded into a later one.
    let (mut writer, mut moved) = (fixture.writer().await, live.rollback());
    let mut rest = begin.history.split_off(PART);
    begin.version = Version(PART as i64);
    let mut writes = vec![a_write(begin)];
    while !rest.is_empty() {
        let base = writes.last().unwrap().transition.version;
        let later = rest.split_off(PART);
        moved.version = Version(base.0 + PART as i64);
        moved.history = std::mem::replace(&mut rest, later);
        writes.push(Write { base, ..a_write(moved.clone()) });
    }
    for write in writes {
        assert_eq!(writer.write(&[write]).await.unwrap(), [Written::Applied]);
    }
    let transactions = fixture.store.transactions();
    let read = transactions.history(live.id(), Version::default()).await.unwrap();
    assert_eq!(read.len(), written.len(), "each entry is counted");
    let bytes: usize = read.iter().map(String::len).sum();
    assert!((3 << 20..=4 << 20).contains(&bytes), "{bytes} bytes were read");
    let full = read.iter().take_while(|entry| !entry.is_empty()).count();
    assert!(read[full..].iter().all(String::is_empty), "what comes after it is left out");
    for (text, bytes) in read[..full].iter().zip(&written) {
        assert_eq!(text.len(), *bytes);
    }
    // The next page begins behind those, and none of them counts any more.
    let after = Version(i64::try_from(full).unwrap());
    let rest = transactions.history(live.id(), after).await.unwrap();
    assert_eq!(rest.iter().map(String::len).collect::<Vec<_>>(), written[full..]);
}
