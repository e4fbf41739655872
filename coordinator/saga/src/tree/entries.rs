//! Entries of an object, found by name.

use std::collections::HashMap;
use std::ops::Deref;

use super::{Key, Node};

/// Entries that are looked through. More of them get an index.
const WITHOUT_INDEX_MAX: usize = 16;

/// Entries of an object, in the order in which they are written. No two have one name; but one that was told as a
/// twin is kept, so that what is in it is checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries {
    list: Vec<(Key, Node)>,
    /// Positions by name, where there are many.
    index: HashMap<String, usize>,
}

impl Entries {
    /// Returns the first entry of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&(Key, Node)> {
        if self.list.len() <= WITHOUT_INDEX_MAX {
            return self.list.iter().find(|(key, _)| key.name == name);
        }
        self.index.get(name).map(|at| &self.list[*at])
    }

    /// Appends an entry.
    pub(crate) fn push(&mut self, key: Key, node: Node) {
        self.list.push((key, node));
        let count = self.list.len();
        let without = if self.index.is_empty() { 0 } else { count - 1 };
        if count > WITHOUT_INDEX_MAX {
            for at in without..count {
                self.index.entry(self.list[at].0.name.clone()).or_insert(at);
            }
        }
    }
}

impl Deref for Entries {
    type Target = [(Key, Node)];

    fn deref(&self) -> &Self::Target {
        &self.list
    }
}

impl FromIterator<(Key, Node)> for Entries {
    fn from_iter<I: IntoIterator<Item = (Key, Node)>>(entries: I) -> Self {
        let mut all = Self::default();
        entries.into_iter().for_each(|(key, node)| all.push(key, node));
        all
    }
}

impl IntoIterator for Entries {
    type Item = (Key, Node);
    type IntoIter = std::vec::IntoIter<(Key, Node)>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Entries {}
