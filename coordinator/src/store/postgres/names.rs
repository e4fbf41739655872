//! Clients' names (`gids`), by epochs.
//!
//! A name's key is a piece of a hash: of many names each new one would be in a place of the index of its own, which the
//! server has to read, and to write whole into its log after each checkpoint. So names are inserted under the epoch of
//! their time, in a part of the index that stays small. Under the earlier epochs, which are closed, a name is looked for
//! only where the [`Filter`] of one says that it may be there.
//!
//! **The rule that promise S9 relies on**: under one gid there is one name, in one epoch. It holds because
//!
//! - an incarnation has the number of the last epoch beside its fence, and a nonce that was drawn when the epoch began.
//!   A batch locks that row. It inserts names under the epoch that its process knows, and only if number and nonce are
//!   those of the row; within an epoch the index lets one of two in;
//! - an epoch is closed by one statement that changes the rows of all incarnations that may write. It waits for the
//!   batches under way, so all names of the epoch are there once the next one begins, and no other one comes. An
//!   incarnation that is created meanwhile has counted a birth, and the statement then changes nothing;
//! - a batch that knows the next epoch began after that, and sees all names of the earlier ones. It looks for each of its
//!   names in all of them but those whose filter, made of the names of the closed epoch, says that it is not there;
//! - a database that went back (a standby that was behind, a backup) may have another epoch of the same number. It has
//!   another nonce: the process reads anew what is there, and keeps a filter only if its epoch was closed by the same.
//!
//! A name that is read is looked for where it may be, and then everywhere before anybody says that there is none.

mod filter;
mod keep;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use self::filter::Filter;

/// Reads the last epoch, and all others.
const KNOWN: &str = "
SELECT cluster.epoch, epoch_nonce, epochs.epoch, closed_by
FROM cluster LEFT JOIN epochs ON epochs.epoch <> cluster.epoch
ORDER BY epochs.epoch";

/// Names of an epoch from which on it is closed. Beside many names it is a part of them: so there are never many epochs.
pub(super) const NAMES_OF_EPOCH: u64 = 1 << 20;

/// Most bytes of filters in memory: of about 340 million names. Names of other epochs are looked for in the database.
const FILTERS_BYTES_MAX: usize = 512 << 20;

/// Knowledge of the epochs, of one process. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Names(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    read: Mutex<Read>,
    /// Names that this process has inserted under the last epoch since they were counted.
    inserted: AtomicU64,
    kept: tokio::sync::Mutex<keep::Kept>,
    /// Names of an epoch from which on it is closed, where there are few.
    names_of_epoch: u64,
}

#[derive(Debug, Default)]
struct Read {
    known: Option<Arc<Known>>,
    /// It is not what the database has.
    is_stale: bool,
    /// Number of promoted servers that were found when it was read.
    generation: u64,
}

/// Epochs of a database, as they were read.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The last one.
    pub(super) epoch: i32,
    pub(super) nonce: Uuid,
    /// All others.
    closed: Vec<Closed>,
}

#[derive(Clone, Debug)]
struct Closed {
    epoch: i32,
    /// `None` of one that somebody has changed by hand: it gets no filter.
    closed_by: Option<Uuid>,
    filter: Option<Arc<Filter>>,
}

/// A closed epoch: its number, and what it was closed by.
type OfEpoch = (i32, Uuid);

impl Closed {
    fn of(&self) -> Option<OfEpoch> {
        Some((self.epoch, self.closed_by?))
    }
}

impl Known {
    /// Returns the closed epochs in which a name may be.
    fn closed_of(&self, key: Uuid) -> impl Iterator<Item = i32> {
        let may_have = move |closed: &&Closed| match &closed.filter {
            Some(filter) => filter.may_have(key),
            None => true,
        };
        self.closed.iter().filter(may_have).map(|closed| closed.epoch)
    }

    /// Returns the epochs in which a name may be.
    pub(super) fn epochs_of(&self, key: Uuid) -> Vec<i32> {
        std::iter::once(self.epoch).chain(self.closed_of(key)).collect()
    }

    /// Returns the places where names are looked for before they are inserted, in two columns: closed epochs, and keys.
    pub(super) fn looked_for(&self, keys: impl Iterator<Item = Uuid>) -> (Vec<i32>, Vec<Uuid>) {
        let (mut epochs, mut looked_for) = (Vec::new(), Vec::new());
        for key in keys {
            for epoch in self.closed_of(key) {
                epochs.push(epoch);
                looked_for.push(key);
            }
        }
        (epochs, looked_for)
    }

    fn filters_bytes(&self) -> usize {
        let filters = self.closed.iter().filter_map(|closed| closed.filter.as_ref());
        filters.map(|filter| filter.bytes()).sum()
    }
}

impl Names {
    pub(super) fn new(names_of_epoch: u64) -> Self {
        Self(Arc::new(Shared { names_of_epoch, ..Shared::default() }))
    }

    /// Returns what is known, if it is.
    pub(super) fn known(&self) -> Option<Arc<Known>> {
        let read = self.lock();
        read.known.clone().filter(|_| !read.is_stale)
    }

    /// Counts names that were inserted.
    pub(super) fn inserted(&self, names: usize) {
        self.0.inserted.fetch_add(names as u64, Ordering::Relaxed);
    }

    /// Notes that what is known is not what the database has.
    pub(super) fn forget(&self) {
        self.lock().is_stale = true;
    }

    /// Notes it for a new session. A server that was promoted may lack what the purge has deleted: the names are back, and
    /// a filter that was made later lacks them. What the database has of filters went back with the names.
    pub(super) fn forget_at(&self, generation: u64) {
        let mut read = self.lock();
        if read.generation < generation {
            read.known = None;
            read.generation = generation;
        }
        read.is_stale = true;
    }

    /// Counts the promoted servers that were found when it was read.
    fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Reads which epochs there are. The filters of those that were known stay.
    pub(super) async fn read(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Arc<Known>, sqlx::Error> {
        type Row = (i32, Uuid, Option<i32>, Option<Uuid>);
        let (before, generation) = {
            let read = self.lock();
            (read.known.clone(), read.generation)
        };
        let rows: Vec<Row> = sqlx::query_as(KNOWN).fetch_all(connection).await?;
        let Some((epoch, nonce, ..)) = rows.first().copied() else {
            return Err(sqlx::Error::RowNotFound);
        };
        let filter_of = |epoch: i32, closed_by: Option<Uuid>| {
            let closed = before.as_ref()?.closed.iter();
            let mut same = closed.filter(|c| (c.epoch, c.closed_by) == (epoch, closed_by));
            same.next()?.filter.clone()
        };
        let closed = rows.into_iter().filter_map(|(_, _, epoch, closed_by)| {
            let epoch = epoch?;
            Some(Closed { epoch, closed_by, filter: filter_of(epoch, closed_by) })
        });
        let known = Arc::new(Known { epoch, nonce, closed: closed.collect() });
        let mut read = self.lock();
        // A server that was promoted meanwhile is read by whoever has found it.
        if read.generation == generation {
            *read = Read { known: Some(Arc::clone(&known)), is_stale: false, generation };
        }
        Ok(known)
    }

    /// Notes the filter of an epoch, if it is of the server that is read now, that epoch is still known, and there is room;
    /// and tells whether it has.
    fn note(&self, of: OfEpoch, generation: u64, filter: Filter) -> bool {
        let mut read = self.lock();
        let Some(before) = read.known.as_deref() else { return false };
        if read.generation != generation {
            return false;
        }
        let mut after = before.clone();
        let is_it = |closed: &Closed| closed.of() == Some(of);
        let Some(place) = after.closed.iter().position(is_it) else { return false };
        after.closed[place].filter = None;
        let has_room = after.filters_bytes() + filter.bytes() <= FILTERS_BYTES_MAX;
        after.closed[place].filter = has_room.then(|| Arc::new(filter));
        read.known = Some(Arc::new(after));
        has_room
    }

    fn lock(&self) -> MutexGuard<'_, Read> {
        // Nothing in here panics half way through a change.
        self.0.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rows::gid_key;

    /// A filter that was made after the purge of a name is not used where the name may be back.
    #[test]
    fn s9_filters_are_dropped_at_a_promotion() {
        let (names, closed_by) = (Names::new(4), Uuid::from_u128(7));
        let filter = || {
            let mut filter = Filter::new(1);
            filter.insert(gid_key("order-1"));
            filter
        };
        let closed = vec![Closed { epoch: 1, closed_by: Some(closed_by), filter: None }];
        let known = Known { epoch: 2, nonce: Uuid::from_u128(8), closed };
        let read = || names.lock().known = Some(Arc::new(known.clone()));
        let key = gid_key("order-2");
        let epochs = || names.lock().known.clone().expect("it is known").epochs_of(key);
        read();
        let before = names.generation();
        assert!(names.note((1, closed_by), before, filter()));
        assert_eq!(epochs(), [2]);
        // Another session with the same server.
        names.forget_at(before);
        assert!(names.known().is_none());
        assert_eq!(epochs(), [2]);
        names.forget_at(before + 1);
        assert!(names.lock().known.is_none());
        // One that was made before is not noted after it.
        read();
        assert!(!names.note((1, closed_by), before, filter()));
        assert_eq!(epochs(), [2, 1]);
        // What connected before it changes nothing.
        names.forget_at(before);
        assert!(names.note((1, closed_by), before + 1, filter()));
    }
}
