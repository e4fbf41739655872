//! Damage that is known: the milliseconds of which something cannot be read, and the names of what was begun then.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Connection;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::super::super::error::is_corrupt;
use super::{MS, Parts, Range, ends};
use crate::alarm::TRANSACTION_UNREADABLE;
use crate::store::in_full;

/// Pause after which a place that could not be read is looked at again: the names are in no order of time, and all of
/// them are read.
const LOOK_PAUSE: Duration = Duration::from_secs(60);

/// Places that are known at once, but for those of one search.
const PLACES_MAX: usize = 16_384;

/// Names of all transactions in a range. The index of the names is in another order.
const NAMES: &str = "
SELECT tx_id FROM gids WHERE tx_id >= $1 AND tx_id < $2
UNION SELECT tx_id FROM parked WHERE tx_id >= $1 AND tx_id < $2
ORDER BY tx_id";

/// Bounds the time of the names: they are one part of a request.
const BOUND: &str = "SET LOCAL statement_timeout = '3s'";

const NAMES_OF_PARKED: &str =
    "SELECT tx_id FROM parked WHERE tx_id >= $1 AND tx_id < $2 ORDER BY tx_id";

/// Reads each row of a range, but no large value.
const READ: &str = "
SELECT count(follows + version + owner + kind)::int8 FROM log WHERE tx_id >= $1 AND tx_id < $2";

/// Steps of the purge, each of which goes by ends of its own.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Step {
    /// Details are deleted.
    Strip,
    /// Names are deleted.
    Delete,
}

/// Names of what was begun in milliseconds of which something cannot be read.
#[derive(Debug)]
pub(in super::super) struct Names {
    /// Those that are known, the newest first.
    pub(in super::super) known: Vec<Uuid>,
    /// There may be others: the names could not be read, and are not damaged.
    pub(in super::super) are_some: bool,
}

/// Damage that is known, of one database.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Damage(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Milliseconds of which something cannot be read.
    places: BTreeMap<u128, Place>,
    /// Milliseconds of ends in which something cannot be read that the purge goes by, and when that was, by its step.
    ends: [BTreeMap<i64, Instant>; 2],
}

#[derive(Debug)]
struct Place {
    /// When its names were looked for.
    asked: Instant,
    /// When it could not be read.
    read: Instant,
    names: Vec<Uuid>,
    /// There may be other names.
    are_some: bool,
}

impl Known {
    /// Returns the places whose names are to be looked for, and forgets what nobody has met for a while. One without a
    /// name is counted until it can be read.
    fn unasked_of(&mut self, failed: &BTreeSet<u128>) -> BTreeSet<u128> {
        let is_late = |place: &Place| place.asked.elapsed() >= LOOK_PAUSE;
        self.places
            .retain(|ms, place| failed.contains(ms) || place.names.is_empty() || !is_late(place));
        if self.places.len() > PLACES_MAX {
            self.places.retain(|ms, _| failed.contains(ms));
        }
        let is_new = |ms: &&u128| self.places.get(*ms).is_none_or(is_late);
        failed.iter().filter(is_new).copied().collect()
    }

    /// Takes the names that were found in these places.
    fn take(&mut self, asked: &BTreeSet<u128>, found: &Names) {
        let now = Instant::now();
        let mut lost = Vec::new();
        for ms in asked {
            let within = |id: &&Uuid| id.as_u128() / MS == *ms;
            let mut names: Vec<Uuid> = found.known.iter().filter(within).copied().collect();
            let before = self.places.remove(ms);
            if found.are_some {
                names.extend(before.map(|before| before.names).unwrap_or_default());
                names.sort_unstable();
                names.dedup();
            } else if names.is_empty()
                && before.is_none_or(|before| before.are_some || !before.names.is_empty())
            {
                lost.push(*ms);
            }
            let place = Place { asked: now, read: now, names, are_some: found.are_some };
            self.places.insert(*ms, place);
        }
        tell_lost(&lost);
    }

    /// Returns the names in the places of a search.
    fn names(&self, parts: &Parts) -> Names {
        let (from, before) = parts.range;
        let places = parts.failed.iter().filter_map(|ms| self.places.get(ms));
        let are_some = places.clone().any(|place| place.are_some);
        let within = |id: &&Uuid| (from..before).contains(&id.as_u128());
        let mut known: Vec<Uuid> =
            places.flat_map(|place| &place.names).filter(within).copied().collect();
        known.sort_unstable_by(|a, b| b.cmp(a));
        known.dedup();
        Names { known, are_some }
    }
}

impl Damage {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of milliseconds of which something cannot be read, and no name is known.
    pub(in super::super) fn lost(&self) -> i64 {
        let lost = self.known().places.values().filter(|place| place.names.is_empty()).count();
        i64::try_from(lost).unwrap_or(i64::MAX)
    }

    /// Returns the names of all transactions in the parts of a search that cannot be read.
    ///
    /// # Errors
    /// Only of a connection that is lost.
    pub(in super::super) async fn names(
        &self,
        connection: &mut PgConnection,
        parts: &Parts,
    ) -> Result<Names, sqlx::Error> {
        let asked = self.known().unasked_of(&parts.failed);
        if let (Some(first), Some(last)) = (asked.first(), asked.last()) {
            let range = (first * MS, (last + 1).saturating_mul(MS));
            let found = all_names(connection, range).await?;
            self.known().take(&asked, &found);
        }
        Ok(self.known().names(parts))
    }

    /// Forgets what can be read again.
    pub(in super::super) async fn look_again(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        let is_due = |place: &Place| place.names.is_empty() && place.read.elapsed() >= LOOK_PAUSE;
        let lost: Vec<u128> = {
            let known = self.known();
            let lost = known.places.iter().filter(|(_, place)| is_due(place));
            lost.map(|(ms, _)| *ms).collect()
        };
        for ms in lost {
            let (first, last) = ends((ms * MS, (ms + 1).saturating_mul(MS)));
            let read = sqlx::query_scalar::<_, i64>(READ).bind(first).bind(last);
            match read.fetch_one(&mut *connection).await {
                Err(error) if is_corrupt(&error) => {
                    if let Some(place) = self.known().places.get_mut(&ms) {
                        place.read = Instant::now();
                    }
                }
                Err(error) => return Err(error),
                Ok(_) => drop(self.known().places.remove(&ms)),
            }
        }
        Ok(())
    }

    /// Returns the parts of a time, the oldest last, without the milliseconds that could not be read a moment ago.
    pub(in super::super) fn readable_ends(
        &self,
        step: Step,
        before: i64,
    ) -> Vec<RangeInclusive<i64>> {
        let mut known = self.known();
        let ends = &mut known.ends[step as usize];
        ends.retain(|_, at| at.elapsed() < LOOK_PAUSE);
        let (mut parts, mut from) = (Vec::new(), 0);
        for end in ends.range(..before).map(|(end, _)| *end) {
            parts.push(from..=end - 1);
            from = end + 1;
        }
        parts.push(from..=before - 1);
        parts.retain(|part| !part.is_empty());
        parts.reverse();
        parts
    }

    /// Takes milliseconds of ends of which something cannot be read, and returns the names of those that may have ended
    /// then, the newest first: of an hour before.
    pub(in super::super) async fn ended_about(
        &self,
        connection: &mut PgConnection,
        step: Step,
        failed: &[i64],
    ) -> Result<Vec<Uuid>, sqlx::Error> {
        let (Some(first), Some(last)) = (failed.iter().min(), failed.iter().max()) else {
            return Ok(Vec::new());
        };
        let now = Instant::now();
        self.known().ends[step as usize].extend(failed.iter().map(|end| (*end, now)));
        let at = |ms: i64| u128::try_from(ms).unwrap_or_default() * MS;
        let names = all_names(connection, (at(first - 3_600_000), at(last + 1))).await?;
        let mut names = names.known;
        names.reverse();
        Ok(names)
    }
}

/// Tells of milliseconds in which nothing is named, in the order of time.
fn tell_lost(lost: &[u128]) {
    let (Some(first), Some(last)) = (lost.first(), lost.last()) else { return };
    let ms = |ms: &u128| u64::try_from(*ms).unwrap_or(u64::MAX);
    tracing::error!(
        alarm = TRANSACTION_UNREADABLE,
        count = lost.len(),
        first_ms = ms(first),
        last_ms = ms(last),
        "a page of the log, or of its index, is damaged, and nothing names the transactions that were begun in these \
         milliseconds, if there were any; build the index anew on a copy of the database, or restore a backup"
    );
}

/// Returns the names in a range, as far as they can be read, the oldest first.
async fn all_names(connection: &mut PgConnection, range: Range) -> Result<Names, sqlx::Error> {
    let error = match bounded_names(connection, range).await {
        Ok(known) => return Ok(Names { known, are_some: false }),
        Err(error @ sqlx::Error::Database(_)) => error,
        Err(error) => return Err(error),
    };
    let are_some = !is_corrupt(&error);
    let error = in_full(&error);
    tracing::warn!(error, "failed to read names of transactions; those that are parked are known");
    let (from, before) = ends(range);
    let names = sqlx::query_scalar(NAMES_OF_PARKED).bind(from).bind(before);
    match names.fetch_all(connection).await {
        Ok(known) => Ok(Names { known, are_some }),
        Err(error @ sqlx::Error::Database(_)) => {
            Ok(Names { known: Vec::new(), are_some: are_some || !is_corrupt(&error) })
        }
        Err(error) => Err(error),
    }
}

async fn bounded_names(
    connection: &mut PgConnection,
    range: Range,
) -> Result<Vec<Uuid>, sqlx::Error> {
    let (from, before) = ends(range);
    let mut bounded = connection.begin().await?;
    sqlx::query(BOUND).execute(&mut *bounded).await?;
    let names = sqlx::query_scalar(NAMES).bind(from).bind(before);
    let names = names.fetch_all(&mut *bounded).await;
    bounded.rollback().await?;
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A search that could not read these milliseconds.
    fn failed(range: Range, places: &[u128]) -> Parts {
        let (from, before) = ends(range);
        let mut parts = Parts::new(from, before);
        parts.failed.extend(places);
        parts
    }

    fn found(ids: &[u128], are_some: bool) -> Names {
        Names { known: ids.iter().map(|id| Uuid::from_u128(*id)).collect(), are_some }
    }

    #[test]
    fn a_place_is_the_same_for_each_search_and_names_are_those_of_its_range() {
        let (mut known, ids) = (Known::default(), [7 * MS + 1, 7 * MS + 5, 7 * MS + 9]);
        let narrow = failed((7 * MS + 4, 7 * MS + 8), &[7]);
        let asked = known.unasked_of(&narrow.failed);
        assert_eq!(asked, BTreeSet::from([7]));
        known.take(&asked, &found(&ids, false));
        assert_eq!(known.names(&narrow).known, [Uuid::from_u128(ids[1])]);
        // The next one, with other ends, finds all names of the place, and does not look for them.
        let wide = failed((0, 100 * MS), &[7]);
        assert_eq!(known.unasked_of(&wide.failed), BTreeSet::new());
        let newest_first = ids.iter().rev().map(|id| Uuid::from_u128(*id));
        assert_eq!(known.names(&wide).known, newest_first.collect::<Vec<_>>());
    }

    #[test]
    fn places_are_forgotten_after_a_pause_but_for_those_without_a_name() {
        let damage = Damage::default();
        let asked = BTreeSet::from([7, 8]);
        damage.known().take(&asked, &found(&[7 * MS], false));
        assert_eq!((damage.lost(), damage.known().places.len()), (1, 2));
        let Some(long_ago) = Instant::now().checked_sub(LOOK_PAUSE) else { return };
        damage.known().places.values_mut().for_each(|place| place.asked = long_ago);
        assert_eq!(damage.known().unasked_of(&BTreeSet::from([9])), BTreeSet::from([9]));
        let left: Vec<u128> = damage.known().places.keys().copied().collect();
        assert_eq!((left, damage.lost()), (vec![8], 1));
    }

    #[test]
    fn places_are_bounded() {
        let mut known = Known::default();
        known.take(&(0..=PLACES_MAX as u128).collect(), &found(&[], true));
        assert_eq!(known.unasked_of(&BTreeSet::from([3])), BTreeSet::new());
        assert_eq!(known.places.len(), 1);
    }

    #[test]
    fn names_that_could_not_be_read_are_not_looked_for_at_once_and_take_none_away() {
        let (mut known, parts) = (Known::default(), failed((0, 100 * MS), &[7]));
        known.take(&parts.failed, &found(&[7 * MS], false));
        known.take(&parts.failed, &found(&[], true));
        let names = known.names(&parts);
        assert_eq!((names.known, names.are_some), (vec![Uuid::from_u128(7 * MS)], true));
        assert_eq!(known.unasked_of(&parts.failed), BTreeSet::new());
    }

    #[test]
    fn ends_that_could_not_be_read_are_passed_over_by_the_step_that_met_them() {
        let (damage, now) = (Damage::default(), Instant::now());
        assert_eq!(damage.readable_ends(Step::Strip, 10), [0..=9]);
        damage.known().ends[0].extend([(0, now), (4, now), (5, now)]);
        assert_eq!(damage.readable_ends(Step::Strip, 10), [6..=9, 1..=3]);
        assert_eq!(damage.readable_ends(Step::Strip, 5), [1..=3]);
        assert_eq!(damage.readable_ends(Step::Delete, 10), [0..=9]);
    }
}
