//! A recorded history as an answer: pages of it, each of which is a JSON document of its own, bounded.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use unanimo_core::history::{Cut, Document, End, Entry, Program};
use unanimo_core::{Record, TxId, Version};

/// Most bytes of a history that is exported. The answer has to fit into 4 MiB, with some room for what
/// surrounds it.
pub const HISTORY_BYTES_MAX: usize = 15 << 18;

/// Page of a history that is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    /// It begins after this version.
    pub(super) after: Version,
    /// Most entries that it has.
    entries_max: usize,
    /// Most bytes that it has.
    bytes_max: usize,
}

impl Page {
    /// Makes a page of so many entries; 0 is as many as fit.
    pub(super) fn new(after: Version, size: u32) -> Self {
        let size = if size == 0 { u32::MAX } else { size };
        let entries_max = usize::try_from(size).unwrap_or(usize::MAX);
        Self { after, entries_max, bytes_max: HISTORY_BYTES_MAX }
    }
}

/// Makes the JSON of a page of a transaction's history, and returns the version after which the next one begins;
/// `None` if nothing was recorded from its begin on. Each entry comes as it is stored.
pub(super) fn document(
    record: &Record,
    stored: &[String],
    page: Page,
) -> Option<(String, Option<Version>)> {
    let program =
        Program { name: "unanimo".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let mut document = Document::of(record, Vec::new(), program)?;
    let bytes_max = page.bytes_max.saturating_sub(json(&document).len());
    let Fitting { entries, left_out, ends } = fitting(record, stored, Page { bytes_max, ..page });
    // Without the first one nothing of it can be replayed.
    let first = Version::default().next();
    if page.after < first {
        entries.first().filter(|entry| entry.version == first)?;
    }
    let next = entries.last().filter(|_| left_out > 0 && !ends).map(|last| last.version);
    document.entries = entries;
    document.cut = (left_out > 0).then_some(Cut { entries: left_out });
    let end = End::of(&document.entries).filter(|_| left_out == 0);
    // A later page does not know how many came before.
    document.end =
        end.map(|end| End { entries: end.entries.filter(|_| page.after < first), ..end });
    Some((json(&document), next))
}

/// Makes one document of all pages: the last one, with the entries of all of them. What this version does not know stays as
/// it is.
///
/// # Errors
/// A page is no JSON.
pub fn joined(mut pages: Vec<String>) -> Result<String, serde_json::Error> {
    if pages.len() == 1 {
        return Ok(pages.remove(0));
    }
    // Entries are passed on as they are: a long history is many megabytes.
    let mut whole: BTreeMap<String, Box<RawValue>> = BTreeMap::new();
    let mut entries: Vec<Box<RawValue>> = Vec::new();
    for page in pages {
        whole = serde_json::from_str(&page)?;
        if let Some(of_page) = whole.get("entries") {
            entries.append(&mut serde_json::from_str(of_page.get())?);
        }
    }
    if let Some(end) = whole.get("end") {
        let mut end: serde_json::Map<String, Value> = serde_json::from_str(end.get())?;
        end.insert("entries".to_owned(), entries.len().into());
        whole.insert("end".to_owned(), to_raw_value(&end)?);
    }
    whole.insert("entries".to_owned(), to_raw_value(&entries)?);
    serde_json::to_string(&whole)
}

/// Entries of a page.
struct Fitting {
    entries: Vec<Entry>,
    /// Number of those that come after it.
    left_out: usize,
    /// The next one cannot be read.
    ends: bool,
}

/// Returns the longest beginning that fits, and the number of those that do not.
fn fitting(record: &Record, stored: &[String], page: Page) -> Fitting {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for (index, text) in stored.iter().enumerate() {
        // And a comma.
        bytes += text.len() + 1;
        let left_out = stored.len() - index;
        if text.is_empty() || bytes > page.bytes_max || index >= page.entries_max {
            return Fitting { entries, left_out, ends: false };
        }
        let Some(entry) = read(text, record.identity.tx_id) else {
            return Fitting { entries, left_out, ends: true };
        };
        // Written after the transaction was read.
        if entry.version > record.version {
            break;
        }
        entries.push(entry);
    }
    Fitting { entries, left_out: 0, ends: false }
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
    use unanimo_core::history::{Error, LAST_VERSION};
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
    fn a_history_of_any_length_is_exported_page_by_page() {
        let policy = Policy { record: RecordPolicy::All, ..Policy::default() };
        let (tx, stored) = long(64, &policy);
        let all: usize = stored.iter().map(String::len).sum();
        assert!(all > 4 << 20, "{all} bytes fit into one message anyway");
        let mut whole: Option<Document> = None;
        let mut from = Version::default();
        loop {
            let had = whole.take().map(|whole| whole.entries).unwrap_or_default();
            // As the store answers.
            let mut bytes = 0;
            let fits = |text: &String| {
                bytes += text.len();
                if bytes <= 4 << 20 { text.clone() } else { String::new() }
            };
            let later: Vec<String> = stored[had.len()..].iter().map(fits).collect();
            let (text, next) =
                document(&tx.record(), &later, Page::new(from, 0)).expect("recorded");
            assert!(text.len() <= HISTORY_BYTES_MAX + 64, "{} bytes", text.len());
            let mut page: Document = serde_json::from_str(&text).expect("a document");
            page.entries.splice(..0, had);
            let left = stored.len() - page.entries.len();
            assert_eq!(page.cut.map_or(0, |cut| cut.entries), left, "what comes after it is told");
            whole = Some(page);
            let Some(next) = next else { break };
            assert!(std::mem::replace(&mut from, next) < next, "it goes on");
        }
        let whole = whole.expect("a page");
        assert!(from > Version::default(), "it fits into one page");
        assert_eq!(whole.entries.len(), stored.len());
        unanimo_core::history::replay(&whole).expect("it is equal");
    }

    #[test]
    fn a_first_page_alone_can_be_replayed() {
        let policy = Policy { record: RecordPolicy::All, ..Policy::default() };
        let (tx, stored) = long(2, &policy);
        let page = Page::new(Version::default(), 7);
        let (text, next) = document(&tx.record(), &stored, page).expect("recorded");
        assert_eq!(next, Some(Version(7)));
        let read: Document = serde_json::from_str(&text).expect("a document");
        assert_eq!(read.entries.len(), 7);
        let error = unanimo_core::history::replay(&read).expect_err("it is a part");
        let Error::NotWhole { missing, replayed } = error else { panic!("{error}") };
        assert_eq!(replayed.transitions, 7, "what is there is equal");
        let left = stored.len() - 7;
        let version = tx.version().0;
        assert_eq!(
            missing,
            format!("it ends at version 7 of {version}: {left} entries were left out")
        );
    }

    #[test]
    fn a_history_ends_before_what_this_version_cannot_read() {
        let policy = Policy { record: RecordPolicy::All, ..Policy::default() };
        let (tx, mut stored) = long(2, &policy);
        stored[3] = stored[3].replace("\"input\":", "\"later\":");
        for (from, entries) in [(0, 3), (3, 0)] {
            let from = Version(from);
            let at = usize::try_from(from.0).expect("small");
            let page = Page::new(from, 0);
            let (text, next) = document(&tx.record(), &stored[at..], page).expect("recorded");
            let read: Document = serde_json::from_str(&text).expect("a document");
            let cut = read.cut.expect("it is cut").entries;
            assert_eq!((read.entries.len(), cut, next), (entries, stored.len() - 3, None));
        }
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
        let first = Page::new(Version::default(), 0);
        assert_eq!(document(&tx.record(), &[], first), None);
        assert_eq!(document(&tx.record(), &stored[1..], first), None);
    }

    #[test]
    fn pages_are_the_last_one_with_all_entries() {
        let pages = [
            r#"{"format": "f", "later": 1, "entries": [{"version": 1}, {"version": 2}], "cut": {"entries": 3}}"#,
            r#"{"format": "f", "later": 2, "entries": [{"version": 3}], "cut": {"entries": 2}}"#,
            r#"{"format": "f", "later": 3, "entries": [], "cut": {"entries": 2}}"#,
        ];
        let whole = r#"{"format": "f", "later": 3, "entries": [{"version": 1}, {"version": 2}, {"version": 3}], "cut": {"entries": 2}}"#;
        let read = |text: &str| -> Value { serde_json::from_str(text).expect("JSON") };
        let text = joined(pages.map(str::to_owned).into()).expect("JSON");
        assert_eq!(read(&text), read(whole));
        let pages = [
            r#"{"entries": [{"version": 1}, {"version": 2}], "cut": {"entries": 1}}"#,
            r#"{"entries": [{"version": 3}], "end": {"version": 3}}"#,
        ];
        let text = joined(pages.map(str::to_owned).into()).expect("JSON");
        assert_eq!(read(&text)["end"], read(r#"{"version": 3, "entries": 3}"#));
        assert_eq!(joined(vec!["as it is".to_owned()]).expect("one"), "as it is");
    }
}
