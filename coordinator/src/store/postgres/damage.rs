//! Damaged pages of the log. PostgreSQL gives up on a whole statement as soon as it comes to one. So a statement that goes
//! through many transactions is made again in parts, each of which either succeeds or is halved. The names of those that
//! cannot be read are elsewhere, too: in `gids`, or in `parked`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::QueryAs;
use uuid::Uuid;

use super::super::error::is_corrupt;
use crate::alarm::TRANSACTION_UNREADABLE;

/// Identifiers of one millisecond.
const MS: u128 = 1 << 80;

/// Parts that fail, after which a search ends: a damaged page costs some hundred.
const FAILURES_MAX: u32 = 4_096;

/// Longest time of a search: it is one request to the store, and what was found counts.
const SEARCH_MAX: Duration = Duration::from_secs(5);

/// Pause after which a place that could not be read is looked at again: the names are in no order of time, and all of
/// them are read.
const LOOK_PAUSE: Duration = Duration::from_secs(60);

/// Names of all transactions in a range. The index of the names is in another order.
const NAMES: &str = "
SELECT tx_id FROM gids WHERE tx_id >= $1 AND tx_id < $2
UNION SELECT tx_id FROM parked WHERE tx_id >= $1 AND tx_id < $2
ORDER BY tx_id";

const NAMES_OF_PARKED: &str =
    "SELECT tx_id FROM parked WHERE tx_id >= $1 AND tx_id < $2 ORDER BY tx_id";

/// Reads each row of a range, but no large value.
const READ: &str = "
SELECT count(follows + version + owner + kind)::int8 FROM log WHERE tx_id >= $1 AND tx_id < $2";

/// Range of identifiers: from this one, before that one.
pub(super) type Range = (u128, u128);

/// Returns the ends of a range as statements take them.
pub(super) fn ends((from, before): Range) -> (Uuid, Uuid) {
    (Uuid::from_u128(from), Uuid::from_u128(before))
}

/// Search in parts, the newest first.
#[derive(Debug)]
pub(super) struct Parts {
    work: Vec<Range>,
    failures: u32,
    until: Instant,
    /// Milliseconds of which something cannot be read.
    failed: Vec<Range>,
}

impl Parts {
    pub(super) fn new(from: Uuid, before: Uuid) -> Self {
        Self::until((from.as_u128(), before.as_u128()), Instant::now() + SEARCH_MAX)
    }

    fn until(range: Range, until: Instant) -> Self {
        Self { work: vec![range], failures: 0, until, failed: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Option<Range> {
        loop {
            let (from, before) = self.work.pop()?;
            if from < before {
                return Some((from, before));
            }
        }
    }

    /// Takes a part that cannot be read as a whole.
    ///
    /// # Errors
    /// The part's, once the search has met too much.
    pub(super) fn failed(
        &mut self,
        (from, before): Range,
        error: sqlx::Error,
    ) -> Result<(), sqlx::Error> {
        self.failures += 1;
        if self.failures >= FAILURES_MAX || Instant::now() >= self.until {
            return Err(error);
        }
        if before - from > MS {
            let middle = from + (before - from) / 2;
            self.work.extend([(from, middle), (middle, before)]);
        } else {
            self.failed.push((from, before));
        }
        Ok(())
    }
}

/// Names that are gone through in halves.
#[derive(Debug)]
pub(super) struct Halves<'a> {
    work: Vec<&'a [Uuid]>,
    until: Instant,
    /// Those for each of which a statement fails alone, with its error.
    pub(super) unreadable: Vec<(Uuid, sqlx::Error)>,
}

impl<'a> Halves<'a> {
    pub(super) fn new(ids: &'a [Uuid]) -> Self {
        Self::until(ids, Instant::now() + SEARCH_MAX)
    }

    fn until(ids: &'a [Uuid], until: Instant) -> Self {
        Self { work: vec![ids], until, unreadable: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Option<&'a [Uuid]> {
        self.work.pop().filter(|part| !part.is_empty())
    }

    /// Takes a part that cannot be read as a whole.
    ///
    /// # Errors
    /// The part's, once the time is over.
    pub(super) fn failed(
        &mut self,
        part: &'a [Uuid],
        error: sqlx::Error,
    ) -> Result<(), sqlx::Error> {
        if Instant::now() >= self.until {
            return Err(error);
        }
        if let [id] = part {
            self.unreadable.push((*id, error));
        } else {
            let (first, second) = part.split_at(part.len() / 2);
            self.work.extend([second, first]);
        }
        Ok(())
    }
}

/// Does a statement for as many of these as can be done, and returns the others.
///
/// # Errors
/// Those that have nothing to do with damage.
pub(super) async fn in_halves<T>(
    connection: &mut PgConnection,
    ids: &[Uuid],
    statement: impl Fn(&[Uuid]) -> QueryAs<'static, sqlx::Postgres, T, PgArguments>,
) -> Result<(Vec<T>, Vec<(Uuid, sqlx::Error)>), sqlx::Error>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin + 'static,
{
    let (mut done, mut halves) = (Vec::new(), Halves::new(ids));
    while let Some(part) = halves.next() {
        match statement(part).fetch_all(&mut *connection).await {
            Err(error) if is_corrupt(&error) => halves.failed(part, error)?,
            rows => done.extend(rows?),
        }
    }
    Ok((done, halves.unreadable))
}

/// Damage that is known, of one database.
#[derive(Clone, Debug, Default)]
pub(super) struct Damage(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Names of each millisecond of which something cannot be read, and when they were looked for.
    names: BTreeMap<u128, (Instant, Vec<Uuid>)>,
    /// When something that the purge goes by could not be read in these milliseconds of ends, and when that was.
    ends: BTreeMap<i64, Instant>,
}

impl Damage {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of milliseconds of which something cannot be read, and no name is known.
    pub(super) fn lost(&self) -> i64 {
        let lost = self.known().names.values().filter(|(_, names)| names.is_empty()).count();
        i64::try_from(lost).unwrap_or(i64::MAX)
    }

    /// Returns the names of all transactions in the parts of a search that cannot be read, the newest first.
    pub(super) async fn names(
        &self,
        connection: &mut PgConnection,
        parts: Parts,
    ) -> Result<Vec<Uuid>, sqlx::Error> {
        let is_new = |known: &Known, from: &u128| {
            known.names.get(from).is_none_or(|(at, _)| at.elapsed() >= LOOK_PAUSE)
        };
        let failed = parts.failed;
        let new: Vec<Range> = {
            let known = self.known();
            failed.iter().copied().filter(|(from, _)| is_new(&known, from)).collect()
        };
        let first = new.iter().map(|(from, _)| *from).min();
        if let (Some(first), Some(last)) = (first, new.iter().map(|(_, before)| *before).max()) {
            let all = all_names(connection, (first, last)).await?;
            let mut known = self.known();
            for (from, before) in new {
                let within = |id: &&Uuid| (from..before).contains(&id.as_u128());
                let names: Vec<Uuid> = all.iter().filter(within).copied().collect();
                if names.is_empty()
                    && known.names.get(&from).is_none_or(|(_, names)| !names.is_empty())
                {
                    tell_lost(from);
                }
                known.names.insert(from, (Instant::now(), names));
            }
        }
        let known = self.known();
        let names = failed.iter().filter_map(|(from, _)| known.names.get(from));
        let mut names: Vec<Uuid> = names.flat_map(|(_, names)| names).copied().collect();
        names.sort_unstable_by(|a, b| b.cmp(a));
        names.dedup();
        Ok(names)
    }

    /// Forgets what can be read again.
    pub(super) async fn look_again(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        let lost: Vec<u128> = {
            let known = self.known();
            let lost = known
                .names
                .iter()
                .filter(|(_, (at, names))| names.is_empty() && at.elapsed() >= LOOK_PAUSE);
            lost.map(|(from, _)| *from).collect()
        };
        for from in lost {
            let (first, last) = ends((from, from + MS));
            let read = sqlx::query_scalar::<_, i64>(READ).bind(first).bind(last);
            match read.fetch_one(&mut *connection).await {
                Err(error) if is_corrupt(&error) => {
                    self.known().names.insert(from, (Instant::now(), Vec::new()));
                }
                Err(error) => return Err(error),
                Ok(_) => drop(self.known().names.remove(&from)),
            }
        }
        Ok(())
    }

    /// Returns the parts of a time, the oldest last, without the milliseconds that could not be read a moment ago.
    pub(super) fn readable_ends(&self, before: i64) -> Vec<RangeInclusive<i64>> {
        let mut known = self.known();
        known.ends.retain(|_, at| at.elapsed() < LOOK_PAUSE);
        let (mut parts, mut from) = (Vec::new(), 0);
        for end in known.ends.range(..before).map(|(end, _)| *end) {
            parts.push(from..=end - 1);
            from = end + 1;
        }
        parts.push(from..=before - 1);
        parts.retain(|part| !part.is_empty());
        parts.reverse();
        parts
    }

    /// Takes milliseconds of ends of which something cannot be read, and returns the names of those that may have ended
    /// then: of an hour before.
    pub(super) async fn ended_about(
        &self,
        connection: &mut PgConnection,
        failed: &[i64],
    ) -> Result<Vec<Uuid>, sqlx::Error> {
        let (Some(first), Some(last)) = (failed.iter().min(), failed.iter().max()) else {
            return Ok(Vec::new());
        };
        let at = |ms: i64| u128::try_from(ms).unwrap_or_default() * MS;
        let names = all_names(connection, (at(first - 3_600_000), at(last + 1))).await?;
        let now = Instant::now();
        self.known().ends.extend(failed.iter().map(|end| (*end, now)));
        Ok(names)
    }
}

fn tell_lost(from: u128) {
    let ms = u64::try_from(from / MS).unwrap_or(u64::MAX);
    tracing::error!(
        alarm = TRANSACTION_UNREADABLE,
        begun_ms = ms,
        "a page of the log is damaged, and the names of the transactions on it that were begun in this millisecond are \
         lost; restore a backup of the database"
    );
}

/// Returns the names in a range, as far as there are any.
async fn all_names(connection: &mut PgConnection, range: Range) -> Result<Vec<Uuid>, sqlx::Error> {
    let (from, before) = ends(range);
    let names = sqlx::query_scalar(NAMES).bind(from).bind(before);
    match names.fetch_all(&mut *connection).await {
        Err(error) if is_corrupt(&error) => {
            let names = sqlx::query_scalar(NAMES_OF_PARKED).bind(from).bind(before);
            names.fetch_all(connection).await
        }
        names => names,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(parts: &mut Parts, is_damaged: impl Fn(Range) -> bool) -> (Vec<Range>, bool) {
        let mut read = Vec::new();
        while let Some(part) = parts.next() {
            if !is_damaged(part) {
                read.push(part);
            } else if parts.failed(part, sqlx::Error::RowNotFound).is_err() {
                return (read, true);
            }
        }
        (read, false)
    }

    #[test]
    fn all_but_a_damaged_millisecond_is_searched_the_newest_first() {
        let damaged = 77 * MS + 5;
        let has = |(from, before): Range| (from..before).contains(&damaged);
        let mut parts = Parts::new(Uuid::nil(), Uuid::from_u128(1_000 * MS));
        let (read, ended) = walk(&mut parts, has);
        assert!(!ended);
        assert!(read.windows(2).all(|pair| pair[1].1 <= pair[0].0), "{read:?}");
        let [(from, before)] = parts.failed[..] else { panic!("{:?}", parts.failed) };
        assert!(before - from <= MS && has((from, before)));
        let all: u128 = read.iter().map(|(from, before)| before - from).sum();
        assert_eq!(all + (before - from), 1_000 * MS);
    }

    #[test]
    fn a_search_ends_with_its_time_and_with_too_much_damage() {
        let mut late = Parts::until((0, 1_000 * MS), Instant::now());
        assert_eq!(walk(&mut late, |_| true), (Vec::new(), true));
        assert_eq!(late.failures, 1);
        let far = Instant::now() + Duration::from_secs(3_600);
        let mut all = Parts::until((0, u128::from(FAILURES_MAX) * MS), far);
        assert_eq!(walk(&mut all, |_| true), (Vec::new(), true));
        assert_eq!(all.failures, FAILURES_MAX);
    }

    #[test]
    fn halves_end_with_each_that_fails_alone_and_with_their_time() {
        let ids: Vec<Uuid> = (0..100).map(Uuid::from_u128).collect();
        let go = |mut halves: Halves<'_>| {
            let mut read: Vec<Uuid> = Vec::new();
            while let Some(part) = halves.next() {
                if !part.contains(&ids[41]) {
                    read.extend(part);
                } else if halves.failed(part, sqlx::Error::RowNotFound).is_err() {
                    return (read, None);
                }
            }
            (read, Some(halves.unreadable))
        };
        let (read, Some(unreadable)) = go(Halves::new(&ids)) else { panic!("it is in time") };
        assert_eq!(read, [&ids[..41], &ids[42..]].concat());
        assert!(matches!(unreadable[..], [(id, _)] if id == ids[41]));
        assert!(matches!(go(Halves::until(&ids, Instant::now())), (read, None) if read.is_empty()));
        assert_eq!(Halves::new(&[]).next(), None);
    }

    #[test]
    fn ends_that_could_not_be_read_are_passed_over() {
        let damage = Damage::default();
        assert_eq!(damage.readable_ends(10), [0..=9]);
        damage.known().ends.extend([(0, Instant::now()), (4, Instant::now()), (5, Instant::now())]);
        assert_eq!(damage.readable_ends(10), [6..=9, 1..=3]);
        assert_eq!(damage.readable_ends(5), [1..=3]);
    }
}
