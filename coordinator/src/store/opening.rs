//! A database before its store is open: what is in it, who may write, and where it is.
//!
//! Connecting changes nothing. The tables are made, moved or migrated by [`Opening::open`], in one
//! transaction that ends in nothing if any incarnation may still write: a program that has to wait for
//! another one, or is refused, leaves that one's tables as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use unanimo_core::Incarnation;

use super::{Error, LiveIncarnation, Store};

/// Table of the migrations that have been run. It is Unanimo's own: other programs keep theirs in
/// the same database, under the library's default name.
pub(super) const HISTORY: &str = "unanimo_migrations";

/// An operator's word about a database that is in another place than it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relocation {
    /// It was moved or restored, and nobody serves the original any more. Accepted once: given at the
    /// start after that as well, it may have been left behind, and does not accept another move.
    Moved,
    /// The same, and only for the place that is named, as a refusal names it.
    MovedTo(String),
    /// A word of this start that has been heard: it was [`Moved`](Self::Moved), and accepts nothing more.
    Spent,
    /// It is a copy, and the original goes on. It gets a cluster id of its own. With a cluster id:
    /// only while it has that one, so that asking twice is the same as once.
    Copy(Option<String>),
}

impl Relocation {
    /// Returns what is left of the word once the database has been opened with it.
    #[must_use]
    pub fn heard(&self) -> Option<Self> {
        match self {
            Self::Moved | Self::Spent => Some(Self::Spent),
            // It is good for one place only, wherever it is said again.
            Self::MovedTo(_) => Some(self.clone()),
            Self::Copy(_) => None,
        }
    }

    /// Tells whether the start was given a flag that names no place.
    fn is_flag(&self) -> bool {
        matches!(self, Self::Moved | Self::Spent)
    }
}

/// Start that opens a database: whose it is, and what an operator has said.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Name of its node.
    pub node: String,
    /// The word, if the database is in another place than it was.
    pub told: Option<Relocation>,
}

/// A database that was connected to.
#[async_trait]
pub trait Opening: Send + Sync + fmt::Debug {
    /// Tells whether there is no table of Unanimo in it.
    fn is_new(&self) -> bool;

    /// Tells whether [`open`](Self::open) will change tables that an incarnation may be using: then
    /// none may be alive.
    fn needs_turn(&self) -> bool;

    /// Looks again at the tables, and lists who may write, by the columns that they have.
    /// [`needs_turn`](Self::needs_turn) goes by this look from then on.
    async fn live(&self) -> Result<Vec<LiveIncarnation>, Error>;

    /// Ends the right of an incarnation to write. See [`Incarnations::fence`](super::Incarnations::fence).
    async fn fence(&self, incarnation: Incarnation, by: &str) -> Result<(), Error>;

    /// Ends the right of an incarnation to write if its counter has not moved. See
    /// [`Incarnations::fence_silent`](super::Incarnations::fence_silent).
    async fn fence_silent(
        &self,
        incarnation: Incarnation,
        counter: i64,
        by: &str,
    ) -> Result<bool, Error>;

    /// Tells whether an incarnation has displaced one of its own node name. See
    /// [`Incarnations::has_displaced`](super::Incarnations::has_displaced). Tables of an earlier version
    /// do not know it.
    async fn has_displaced(&self, live: &LiveIncarnation) -> Result<bool, Error>;

    /// Brings the tables to this version, and opens the store.
    ///
    /// # Errors
    /// [`Error::StillWritten`] if the tables would be changed while an incarnation may write.
    async fn open(&self) -> Result<Arc<dyn Store>, Error>;
}

/// Place of a database: parts by name, such as the server's identifier. A part that cannot be read is
/// left out, and says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place(BTreeMap<String, String>);

impl Place {
    pub(super) fn new(parts: impl IntoIterator<Item = (&'static str, Option<String>)>) -> Self {
        let known = parts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Self(known.collect())
    }

    pub(super) fn from_column(text: &str) -> Self {
        Self::of_parts(text.split_whitespace())
    }

    fn of_parts<'a>(parts: impl Iterator<Item = &'a str>) -> Self {
        let parts = parts.filter_map(|part| part.split_once('='));
        Self(parts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Returns the place in one word, for a command line.
    fn word(&self) -> String {
        self.to_string().replace(' ', ",")
    }

    /// Tells whether a word names this place: with each part that is known of it.
    fn is_named(&self, word: &str) -> bool {
        let named = Self::of_parts(word.split([',', ' ']));
        named.agrees_with(self) && self.0.keys().all(|part| named.0.contains_key(part))
    }

    /// Returns the place with one more part.
    pub(super) fn with(mut self, name: &'static str, value: Option<String>) -> Self {
        self.0.extend(value.map(|value| (name.to_owned(), value)));
        self
    }

    /// Tells whether this part is known.
    pub(super) fn knows(&self, part: &str) -> bool {
        self.0.contains_key(part)
    }

    /// Tells whether no part that both have differs.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        self.0.iter().all(|(name, value)| other.0.get(name).is_none_or(|other| other == value))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.write_str(&parts.join(" "))
    }
}

/// Identity of a database, as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Itself {
    pub(super) cluster_id: String,
    /// Where it was used last; `None` in the tables of an earlier version.
    pub(super) place: Option<Place>,
    /// Where it was made a copy.
    pub(super) copied_at: Option<Place>,
    /// Nodes whose last start was told [`Relocation::Moved`].
    pub(super) moved_by: Nodes,
}

/// Names of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Nodes(BTreeSet<String>);

impl Nodes {
    pub(super) fn from_column(text: &str) -> Self {
        Self(text.split_whitespace().map(str::to_owned).collect())
    }

    pub(super) fn to_column(&self) -> String {
        self.0.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
    }
}

/// Change of that by its opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PlaceChange {
    /// Nothing.
    Stay,
    /// The place is stored.
    Move,
    /// The place is stored, with a new cluster id, and without endpoints.
    Copy,
}

impl Itself {
    /// Compares the stored place with the one that the database is in.
    pub(super) fn compare_place(&self, here: &Place, start: &Start) -> Result<PlaceChange, Error> {
        let told = start.told.as_ref();
        let is_left = self.moved_by.0.contains(&start.node);
        let elsewhere = self.place.as_ref().is_some_and(|place| !place.agrees_with(here));
        let named = match told {
            Some(Relocation::Copy(Some(id))) => Some(*id == self.cluster_id),
            _ => None,
        };
        match (told, named) {
            (_, Some(true)) => Ok(PlaceChange::Copy),
            (_, Some(false)) if !elsewhere => Ok(PlaceChange::Stay),
            (Some(Relocation::Moved), _) if elsewhere && !is_left => Ok(PlaceChange::Move),
            (Some(Relocation::MovedTo(word)), _) if elsewhere && here.is_named(word) => {
                Ok(PlaceChange::Move)
            }
            (Some(Relocation::Copy(None)), _) if elsewhere => Ok(PlaceChange::Copy),
            (Some(Relocation::Copy(None)), _) => {
                let done = self.copied_at.as_ref().is_some_and(|place| place.agrees_with(here));
                // A disk that was cloned with its server is in the same place by all that it knows.
                let error = Error::NoCopy { cluster_id: self.cluster_id.clone() };
                if done { Ok(PlaceChange::Stay) } else { Err(error) }
            }
            (_, _) if elsewhere => Err(Error::Elsewhere {
                known: self.place.clone().unwrap_or_default().to_string(),
                found: here.to_string(),
                hint: here.hint(told),
                moved: match told {
                    Some(Relocation::Moved | Relocation::Spent | Relocation::MovedTo(_)) => {
                        format!("--moved={}", here.word())
                    }
                    _ => "--moved".to_owned(),
                },
            }),
            (_, _) if self.place.is_none() => Ok(PlaceChange::Move),
            (_, _) => Ok(PlaceChange::Stay),
        }
    }

    /// Returns what is to be stored of flags without a place, if it is not what is stored: a start knows
    /// of its own node's flag alone. One that had nothing to do is warned of.
    pub(super) fn new_flags(&self, start: &Start, change: &PlaceChange) -> Option<Nodes> {
        if start.told == Some(Relocation::Moved) && *change == PlaceChange::Stay {
            tracing::warn!(
                "--moved has nothing to do: the database is where it was used last. Take it out of the \
                 command: while it is there, it does not accept a later move"
            );
        }
        let mut moved_by = self.moved_by.clone();
        let is_changed = match start.told.as_ref().is_some_and(Relocation::is_flag) {
            true => moved_by.0.insert(start.node.clone()),
            false => moved_by.0.remove(&start.node),
        };
        is_changed.then_some(moved_by)
    }
}

impl Place {
    /// Returns a hint for a refusal, to be appended to it.
    fn hint(&self, told: Option<&Relocation>) -> &'static str {
        match told {
            Some(Relocation::Moved | Relocation::Spent) => {
                "; --moved was given at the last start of this node, too, and may have been left behind, so it does \
                 not accept this move"
            }
            Some(Relocation::MovedTo(_)) => "; the --moved that was given names another place",
            _ if self.0.contains_key("inode") => {
                "; a file system that numbers its files anew (at a mount over a network or with FUSE, at \
                 the first change in an overlay) has moved it, in this sense"
            }
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        Place::from_column(text)
    }

    fn start(node: &str, told: Option<Relocation>) -> Start {
        Start { node: node.to_owned(), told }
    }

    #[track_caller]
    fn check(
        stored: Option<&str>,
        here: &str,
        told: impl Into<Option<Relocation>>,
        expected: &str,
    ) {
        let told = told.into();
        let itself = Itself {
            cluster_id: "c1".into(),
            place: stored.map(place),
            copied_at: Some(place("database=77")),
            moved_by: Nodes::default(),
        };
        let found = match itself.compare_place(&place(here), &start("one", told.clone())) {
            Ok(change) => format!("{change:?}"),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{stored:?} {here} {told:?}: {found}");
    }

    #[test]
    fn a_database_stays_where_it_was() {
        check(None, "system=1 database=2", None, "Move");
        check(Some("system=1 database=2"), "system=1 database=2", None, "Stay");
        // What one of the two does not know says nothing.
        check(Some("system=1 database=2"), "database=2", None, "Stay");
        check(Some("database=2"), "system=1 database=2", None, "Stay");
        check(Some("system=1 database=2"), "system=1 database=2", Some(Relocation::Moved), "Stay");
    }

    #[test]
    fn another_place_needs_a_word() {
        for here in ["system=1 database=3", "system=9 database=2", "database=3"] {
            let stored = Some("system=1 database=2");
            check(stored, here, None, "--moved");
            check(stored, here, None, "--copy");
            check(stored, here, Some(Relocation::Moved), "Move");
            check(stored, here, Some(Relocation::Copy(None)), "Copy");
            check(stored, here, Some(Relocation::Copy(Some("c1".into()))), "Copy");
            // It has another id already: nothing tells that it is the copy that was meant.
            check(stored, here, Some(Relocation::Copy(Some("c0".into()))), "--moved");
        }
    }

    #[test]
    fn a_clone_in_the_same_place_is_a_copy_of_the_one_that_is_named() {
        let (stored, here) = (Some("system=1 database=2"), "system=1 database=2");
        check(stored, here, Some(Relocation::Copy(None)), "--copy=c1");
        check(stored, here, Some(Relocation::Copy(Some("c1".into()))), "Copy");
        check(stored, here, Some(Relocation::Copy(Some("c0".into()))), "Stay");
        // It was made a copy here before: the flag has done its work.
        check(Some("database=77"), "database=77", Some(Relocation::Copy(None)), "Stay");
    }

    #[test]
    fn a_flag_that_was_left_behind_accepts_no_other_move() {
        let at = |place: &str, is_left| Itself {
            place: Some(Place::from_column(place)),
            moved_by: Nodes::from_column(if is_left { "one two" } else { "two" }),
            ..Itself::default()
        };
        let here = place("system=1 database=3");
        let compare = |itself: &Itself, told: &Relocation| {
            let start = start("one", Some(told.clone()));
            itself.compare_place(&here, &start).map_err(|error| error.to_string())
        };
        let (before, after) = (at("system=1 database=2", false), at("system=1 database=2", true));
        assert_eq!(compare(&before, &Relocation::Moved), Ok(PlaceChange::Move));
        let refused = compare(&after, &Relocation::Moved).expect_err("it is refused");
        assert!(refused.contains("left behind"), "{refused}");
        // The same process has opened it before, and begins again.
        let refused = compare(&before, &Relocation::Spent).expect_err("it is refused");
        let word = "database=3,system=1";
        assert!(refused.contains(&format!("--moved={word}")), "{refused}");
        for named in [word, "system=1,database=3"] {
            let told = Relocation::MovedTo(named.into());
            assert_eq!(compare(&after, &told), Ok(PlaceChange::Move), "{named}");
            assert_eq!(compare(&at("system=1 database=3", true), &told), Ok(PlaceChange::Stay));
        }
        // Left behind from an earlier move, or with less than is known.
        for named in ["system=1,database=2", "system=9,database=3", "database=3", "", "nonsense"] {
            let refused = compare(&before, &Relocation::MovedTo(named.into())).expect_err(named);
            assert!(refused.contains("names another place"), "{named}: {refused}");
            assert!(refused.contains(&format!("--moved={word}")), "{named}: {refused}");
        }
    }

    #[test]
    fn a_flag_counts_until_a_start_of_its_node_without_it() {
        for (stored, told, new) in [
            ("", None, None),
            ("two", None, None),
            ("two", Some(Relocation::Moved), Some("one two")),
            ("one", Some(Relocation::Moved), None),
            ("one", Some(Relocation::Spent), None),
            ("one two", None, Some("two")),
            ("one", Some(Relocation::MovedTo("x=1".into())), Some("")),
        ] {
            let itself = Itself { moved_by: Nodes::from_column(stored), ..Itself::default() };
            let found = itself.new_flags(&start("one", told.clone()), &PlaceChange::Stay);
            assert_eq!(found.map(|nodes| nodes.to_column()).as_deref(), new, "{stored} {told:?}");
        }
    }
}
