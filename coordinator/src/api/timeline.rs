//! A transaction's history as an answer: bounded, with its newest entries.

use prost::Message;
use unanimo_core::timeline::Entry;
use unanimo_proto::v1;

use crate::wire::time_to_wire;

/// Most entries of a history that are shown. A person reads no more; an operator's acts and the
/// attempts of 64 branches are a few hundred.
pub const TIMELINE_ENTRIES_MAX: usize = 1000;

/// Most bytes of a history that are shown: it stands beside payloads and outputs in one message.
pub const TIMELINE_BYTES_MAX: usize = 256 << 10;

/// A line of the history.
pub(super) fn timeline_entry(entry: Entry) -> v1::TimelineEntry {
    v1::TimelineEntry {
        occurred_at: Some(time_to_wire(entry.at)),
        event: entry.event.to_owned(),
        branch_id: entry.branch_id.map(String::from).unwrap_or_default(),
        detail: entry.detail,
    }
}

/// Returns the newest entries that fit, oldest first, and the number of those before them.
pub(super) fn newest(mut entries: Vec<v1::TimelineEntry>) -> (Vec<v1::TimelineEntry>, u32) {
    let mut bytes = 0;
    let fits = |entry: &&v1::TimelineEntry| {
        bytes += entry.encoded_len();
        bytes <= TIMELINE_BYTES_MAX
    };
    let kept = entries.iter().rev().take(TIMELINE_ENTRIES_MAX).take_while(fits).count();
    let dropped = entries.len() - kept;
    entries.drain(..dropped);
    (entries, u32::try_from(dropped).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: usize, detail_bytes: usize) -> Vec<v1::TimelineEntry> {
        let entry = |n: usize| v1::TimelineEntry {
            event: n.to_string(),
            detail: "x".repeat(detail_bytes),
            ..Default::default()
        };
        (0..count).map(entry).collect()
    }

    #[test]
    fn a_long_history_is_cut_to_its_newest_entries() {
        for (count, detail_bytes, kept) in [(0, 0, 0), (1000, 9, 1000), (1500, 9, 1000)] {
            let (shown, dropped) = newest(entries(count, detail_bytes));
            assert_eq!((shown.len(), dropped as usize), (kept, count - kept));
            assert_eq!(
                shown.last().map(|last| &*last.event),
                shown.last().map(|_| match count {
                    1000 => "999",
                    _ => "1499",
                })
            );
        }
        let (shown, dropped) = newest(entries(600, 1024));
        let bytes: usize = shown.iter().map(Message::encoded_len).sum();
        assert!(bytes <= TIMELINE_BYTES_MAX && bytes > TIMELINE_BYTES_MAX - 2048, "{bytes}");
        assert_eq!(shown.len() + dropped as usize, 600);
        assert_eq!(shown.last().expect("some").event, "599", "the newest stays");
    }
}
