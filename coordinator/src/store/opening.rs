//! A database before its store is open: what is in it, who may write, and where it is.
//!
//! Connecting changes nothing. The tables are made, moved or migrated by [`Opening::open`], in one
//! transaction that ends in nothing if any incarnation may still write: a program that has to wait for
//! another one, or is refused, leaves that one's tables as they are.

use std::collections::BTreeMap;
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
    /// It was moved or restored, and nobody serves the original any more.
    Moved,
    /// It is a copy, and the original goes on. It gets a cluster id of its own. With a cluster id:
    /// only while it has that one, so that asking twice is the same as once.
    Copy(Option<String>),
}

/// A database that was connected to.
#[async_trait]
pub trait Opening: Send + Sync + fmt::Debug {
    /// Tells whether there is no table of Unanimo in it.
    fn is_new(&self) -> bool;

    /// Tells whether [`open`](Self::open) will change tables that an incarnation may be using: then
    /// none may be alive.
    fn needs_turn(&self) -> bool;

    /// Lists who may write, by the columns that the tables have had from the first version on.
    async fn live(&self) -> Result<Vec<LiveIncarnation>, Error>;

    /// Ends the right of an incarnation to write, by those columns.
    async fn fence(&self, incarnation: Incarnation, by: &str) -> Result<(), Error>;

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
        let parts = text.split_whitespace().filter_map(|part| part.split_once('='));
        Self(parts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Tells whether no part that both have differs.
    fn agrees_with(&self, other: &Self) -> bool {
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
    pub(super) fn compare_place(
        &self,
        here: &Place,
        told: Option<&Relocation>,
    ) -> Result<PlaceChange, Error> {
        let elsewhere = self.place.as_ref().is_some_and(|place| !place.agrees_with(here));
        let named = match told {
            Some(Relocation::Copy(Some(id))) => Some(*id == self.cluster_id),
            _ => None,
        };
        match (told, named) {
            (_, Some(true)) => Ok(PlaceChange::Copy),
            (_, Some(false)) if !elsewhere => Ok(PlaceChange::Stay),
            (Some(Relocation::Moved), _) if elsewhere => Ok(PlaceChange::Move),
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
            }),
            (_, _) if self.place.is_none() => Ok(PlaceChange::Move),
            (_, _) => Ok(PlaceChange::Stay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        Place::from_column(text)
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
        };
        let found = match itself.compare_place(&place(here), told.as_ref()) {
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
}
