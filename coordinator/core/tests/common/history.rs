//! The record of a run, replayed.

use unanimo_core::history::{Document, Entry, Program, Replayed, replay};
use unanimo_core::{Effects, Record};

/// Entries that a store would hold.
#[derive(Clone, Default)]
pub(crate) struct History(Vec<Entry>);

impl History {
    /// Writes what the effects ask for.
    pub(crate) fn write(&mut self, effects: &Effects) {
        self.0.extend(effects.transition.iter().flat_map(|transition| transition.history.clone()));
    }

    /// The document of the stored transaction, as it comes out of a file again.
    pub(crate) fn export(&self, record: &Record) -> Document {
        let program = Program { name: "unanimo".to_owned(), version: "0.0.0".to_owned() };
        let document = Document::of(record, self.0.clone(), program).expect("no tombstone");
        let text = serde_json::to_string(&document).expect("JSON");
        let read: Document = serde_json::from_str(&text).expect("a document");
        assert_eq!(read, document);
        read
    }

    /// The same inputs have the same effects.
    pub(crate) fn check(&self, record: &Record) -> Replayed {
        let document = self.export(record);
        replay(&document).unwrap_or_else(|error| {
            panic!("{error}\n{}", serde_json::to_string_pretty(&document).expect("JSON"))
        })
    }
}
