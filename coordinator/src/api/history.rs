//! A recorded history as an answer: one JSON document, bounded.

use unanimo_core::history::{Cut, Document, Entry, Program};
use unanimo_core::{Record, TxId, Version};

/// Most bytes of a history that is exported. The answer has to fit into 4 MiB, with some room for what
/// surrounds it.
pub const HISTORY_BYTES_MAX: usize = 15 << 18;

/// Makes the JSON of a transaction's history, with as many of its first entries as fit; `None` if nothing
/// was recorded from its begin on. Each entry comes as it is stored.
pub(super) fn document(record: &Record, stored: &[String]) -> Option<String> {
    let program =
        Program { name: "unanimo".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let mut document = Document::of(record, Vec::new(), program)?;
    let head = json(&document).len();
    let (entries, left_out) = fitting(record, stored, HISTORY_BYTES_MAX.saturating_sub(head));
    // Without the first one nothing of it can be replayed.
    entries.first().filter(|entry| entry.version == Version::default().next())?;
    document.entries = entries;
    document.cut = (left_out > 0).then_some(Cut { entries: left_out });
    Some(json(&document))
}

/// Returns the longest beginning that fits, and the number of those that do not.
fn fitting(record: &Record, stored: &[String], bytes_max: usize) -> (Vec<Entry>, usize) {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for (index, text) in stored.iter().enumerate() {
        // And a comma.
        bytes += text.len() + 1;
        let is_left_out = text.is_empty() || bytes > bytes_max;
        let entry = (!is_left_out).then(|| read(text, record.identity.tx_id)).flatten();
        let Some(entry) = entry else { return (entries, stored.len() - index) };
        // Written after the transaction was read.
        if entry.version > record.version {
            break;
        }
        entries.push(entry);
    }
    (entries, 0)
}

/// Reads an entry. One of a later version of the program may have what this one does not know: then
/// the document ends before it.
fn read(text: &str, tx_id: TxId) -> Option<Entry> {
    serde_json::from_str(text)
        .map_err(|error| {
            tracing::warn!(%tx_id, %error, "an entry of the history cannot be read by this version");
        })
        .ok()
}

fn json(document: &Document) -> String {
    serde_json::to_string(document).expect("texts, numbers and lists of them")
}

#[cfg(test)]
mod tests {
    use unanimo_core::history::LAST_VERSION;
    use unanimo_core::{
        ActionName, BranchId, BranchSpec, Definition, Drive, Gid, Input, Mode, ParticipantName,
        Payload, Policy, PrepareAnswer, RecordPolicy, Timestamp, Transaction,
    };

    use super::*;

    /// A step that fails again and again, with many branches beside it.
    fn long(branches: usize, policy: &Policy) -> (Transaction, Vec<String>) {
        let spec = |index: usize| BranchSpec {
            branch_id: BranchId::new(&format!("{index:0>128}")).expect("an id"),
            participant: ParticipantName::new(&"p".repeat(64)).expect("a name"),
            action: ActionName::new(&"a".repeat(64)).expect("a name"),
            payload: Payload::default(),
            mode: Mode::Tcc,
            step: Default::default(),
        };
        let definition = Definition {
            gid: Gid::new("g").expect("a gid"),
            mode: Mode::Tcc,
            drive: Drive::Declarative,
            branches: (0..branches).map(spec).collect(),
            timeout: Some(std::time::Duration::from_secs(1 << 40)),
            start: Default::default(),
            locks: Vec::new(),
            parent: None,
            children: Vec::new(),
            metadata: Default::default(),
            trace: Default::default(),
            initiator: String::new(),
        };
        let mut now = Timestamp(1);
        let tx_id = TxId(uuid::Uuid::nil());
        let (mut tx, effects) = Transaction::begin(tx_id, definition, now, policy);
        let mut stored = Vec::new();
        let mut keep = |effects: &unanimo_core::Effects| {
            let history = effects.transition.iter().flat_map(|made| made.history.iter());
            stored.extend(history.map(|entry| serde_json::to_string(entry).expect("JSON")));
        };
        keep(&effects);
        let mut calls = effects.calls;
        let mut beyond = 0;
        while beyond < 100 {
            beyond += usize::from(tx.version() >= LAST_VERSION);
            let answers = std::mem::take(&mut calls);
            for call in answers {
                let answer = PrepareAnswer::Failed("x".repeat(1024));
                let (number, attempt) = (call.number, call.attempt);
                let input = Input::PrepareAnswered { number, attempt, answer };
                keep(&tx.apply(input, now, policy).expect("it fits"));
            }
            now = tx.wake_at(policy).expect("the next attempt");
            let effects = tx.apply(Input::Tick, now, policy).expect("it fits");
            keep(&effects);
            calls = effects.calls;
        }
        (tx, stored)
    }

    #[test]
    fn a_history_fits_into_a_message_and_says_what_is_cut() {
        let policy = Policy { record: RecordPolicy::All, ..Policy::default() };
        let (tx, stored) = long(64, &policy);
        let all: usize = stored.iter().map(String::len).sum();
        assert!(all > 4 << 20, "{all} bytes fit anyway");
        let text = document(&tx.record(), &stored).expect("recorded");
        assert!(text.len() <= HISTORY_BYTES_MAX + 64, "{} bytes", text.len());
        let read: Document = serde_json::from_str(&text).expect("a document");
        let cut = read.cut.expect("it does not fit").entries;
        assert_eq!(read.entries.len() + cut, stored.len());
        unanimo_core::history::replay(&read).expect("what is there is equal");
    }

    #[test]
    fn a_history_ends_some_time() {
        let policy = Policy { record: RecordPolicy::All, ..Policy::default() };
        let (tx, stored) = long(1, &policy);
        assert!(tx.version() >= LAST_VERSION);
        assert_eq!(stored.len(), 1_000, "a participant that is down adds to it for ever");
    }

    #[test]
    fn what_was_not_recorded_from_its_begin_is_not_exported() {
        let policy = Policy { record: RecordPolicy::All, ..Policy::default() };
        let (tx, stored) = long(2, &policy);
        assert_eq!(document(&tx.record(), &[]), None);
        assert_eq!(document(&tx.record(), &stored[1..]), None);
    }
}
