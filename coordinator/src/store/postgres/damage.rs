//! Damaged pages of the log. PostgreSQL gives up on a whole statement as soon as it comes to one. So a statement that goes
//! through many transactions is made again in parts, each of which either succeeds or is halved. The names of those that
//! cannot be read are elsewhere, too: in `gids`, or in `parked`.

mod known;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::QueryAs;
use uuid::Uuid;

pub(super) use self::known::{Damage, Step};
use super::super::error::is_corrupt;

/// Identifiers of one millisecond.
const MS: u128 = 1 << 80;

/// Parts that fail, after which a search ends: a damaged page costs some hundred.
const FAILURES_MAX: u32 = 4_096;

/// Longest time of a search: it is one request to the store, and what was found counts.
pub(super) const SEARCH_MAX: Duration = Duration::from_secs(5);

/// Range of identifiers: from this one, before that one.
pub(super) type Range = (u128, u128);

/// Returns the ends of a range as statements take them.
pub(super) fn ends((from, before): Range) -> (Uuid, Uuid) {
    (Uuid::from_u128(from), Uuid::from_u128(before))
}

/// Search in parts, the newest first.
#[derive(Debug)]
pub(super) struct Parts {
    range: Range,
    work: Vec<Range>,
    failures: u32,
    until: Instant,
    /// Milliseconds of which something cannot be read.
    failed: BTreeSet<u128>,
    /// Error of the last part that could not be read.
    pub(super) error: Option<sqlx::Error>,
}

impl Parts {
    pub(super) fn new(from: Uuid, before: Uuid) -> Self {
        Self::until((from.as_u128(), before.as_u128()), Instant::now() + SEARCH_MAX)
    }

    fn until(range: Range, until: Instant) -> Self {
        let (work, failed) = (vec![range], BTreeSet::new());
        Self { range, work, failures: 0, until, failed, error: None }
    }

    pub(super) fn next(&mut self) -> Option<Range> {
        loop {
            let (from, before) = self.work.pop()?;
            if from < before {
                return Some((from, before));
            }
        }
    }

    /// Takes a part that cannot be read as a whole. It is cut where a millisecond begins, so that each search comes to
    /// the same places.
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
        let (first, last) = (from / MS, (before - 1) / MS);
        if first < last {
            let middle = (first + last).div_ceil(2) * MS;
            self.work.extend([(from, middle), (middle, before)]);
        } else {
            self.failed.insert(first);
        }
        self.error = Some(error);
        Ok(())
    }
}

/// Names that are gone through in halves.
#[derive(Debug)]
pub(super) struct Halves {
    work: Vec<Vec<Uuid>>,
    until: Instant,
    /// Those for each of which a statement fails alone, with its error.
    pub(super) unreadable: Vec<(Uuid, sqlx::Error)>,
    /// Those for which it waits for a lock for too long.
    pub(super) held: Vec<Uuid>,
}

impl Halves {
    pub(super) fn new(ids: &[Uuid]) -> Self {
        Self::until(ids, Instant::now() + SEARCH_MAX)
    }

    fn until(ids: &[Uuid], until: Instant) -> Self {
        Self { work: vec![ids.to_vec()], until, unreadable: Vec::new(), held: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Option<Vec<Uuid>> {
        loop {
            let part = self.work.pop()?;
            if !part.is_empty() {
                return Some(part);
            }
        }
    }

    /// Takes a part that cannot be read as a whole.
    ///
    /// # Errors
    /// The part's, once the time is over.
    pub(super) fn failed(
        &mut self,
        part: Vec<Uuid>,
        error: sqlx::Error,
    ) -> Result<(), sqlx::Error> {
        if Instant::now() >= self.until {
            return Err(error);
        }
        match part[..] {
            [id] => self.unreadable.push((id, error)),
            _ => self.halve(part),
        }
        Ok(())
    }

    /// Takes a part whose statement has waited for a lock for too long, and those of it of which that is known. Where it is
    /// known of none, they are found as what cannot be read is.
    ///
    /// # Errors
    /// The part's, once the time is over.
    pub(super) fn waited(
        &mut self,
        mut part: Vec<Uuid>,
        held: &[Uuid],
        error: sqlx::Error,
    ) -> Result<(), sqlx::Error> {
        self.held.extend(held);
        if Instant::now() >= self.until {
            return Err(error);
        }
        if !held.is_empty() {
            part.retain(|id| !held.contains(id));
            self.work.push(part);
        } else if let [id] = part[..] {
            self.held.push(id);
        } else {
            self.halve(part);
        }
        Ok(())
    }

    fn halve(&mut self, mut part: Vec<Uuid>) {
        let second = part.split_off(part.len() / 2);
        self.work.extend([second, part]);
    }
}

/// Result of a statement that was made for as many as it could be.
#[derive(Debug)]
pub(super) struct Halved<T> {
    pub(super) done: Vec<T>,
    /// Those for each of which it fails alone, with its error.
    pub(super) failed: Vec<(Uuid, sqlx::Error)>,
    /// Error of a part at which the time was over: some were not come to.
    pub(super) cut: Option<sqlx::Error>,
}

/// Does a statement for as many of these as can be done, and tells of the others.
///
/// # Errors
/// Those that have nothing to do with damage.
pub(super) async fn in_halves<T>(
    connection: &mut PgConnection,
    ids: &[Uuid],
    statement: impl Fn(&[Uuid]) -> QueryAs<'static, sqlx::Postgres, T, PgArguments>,
) -> Result<Halved<T>, sqlx::Error>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin + 'static,
{
    in_halves_until(connection, ids, Instant::now() + SEARCH_MAX, statement).await
}

/// Does the same as `in_halves` until a time.
pub(super) async fn in_halves_until<T>(
    connection: &mut PgConnection,
    ids: &[Uuid],
    until: Instant,
    statement: impl Fn(&[Uuid]) -> QueryAs<'static, sqlx::Postgres, T, PgArguments>,
) -> Result<Halved<T>, sqlx::Error>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin + 'static,
{
    let (mut done, mut halves) = (Vec::new(), Halves::until(ids, until));
    let mut cut = None;
    while let Some(part) = halves.next() {
        match statement(&part).fetch_all(&mut *connection).await {
            Err(error) if is_corrupt(&error) => {
                if let Err(error) = halves.failed(part, error) {
                    cut = Some(error);
                    break;
                }
            }
            rows => done.extend(rows?),
        }
    }
    Ok(Halved { done, failed: halves.unreadable, cut })
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
        assert_eq!(parts.failed, BTreeSet::from([77]));
        let all: u128 = read.iter().map(|(from, before)| before - from).sum();
        assert_eq!(all + MS, 1_000 * MS);
    }

    #[test]
    fn each_search_cuts_at_the_same_places() {
        let damaged = 77 * MS + 5;
        let has = |(from, before): Range| (from..before).contains(&damaged);
        for (from, before) in
            [(3, 1_000 * MS), (76 * MS + 9, 78 * MS + 1), (77 * MS + 4, 77 * MS + 6)]
        {
            let mut parts = Parts::new(Uuid::from_u128(from), Uuid::from_u128(before));
            let (read, ended) = walk(&mut parts, has);
            assert!(!ended);
            assert_eq!(parts.failed, BTreeSet::from([77]));
            let begins = |at: u128| at.is_multiple_of(MS) || at == from || at == before;
            assert!(read.iter().all(|(from, before)| begins(*from) && begins(*before)), "{read:?}");
        }
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
        let go = |mut halves: Halves| {
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
    fn what_is_held_is_left_and_is_looked_for_where_that_is_not_known() {
        let ids: Vec<Uuid> = (0..100).map(Uuid::from_u128).collect();
        let held = [ids[0], ids[41], ids[42]];
        let go = |mut halves: Halves, is_known: bool| {
            let (mut done, mut waits): (Vec<Uuid>, u32) = (Vec::new(), 0);
            while let Some(part) = halves.next() {
                let found: Vec<Uuid> = held.into_iter().filter(|id| part.contains(id)).collect();
                if found.is_empty() {
                    done.extend(part);
                    continue;
                }
                waits += 1;
                let found = if is_known { found } else { Vec::new() };
                if halves.waited(part, &found, sqlx::Error::RowNotFound).is_err() {
                    break;
                }
            }
            (done, waits, halves.held)
        };
        let others = [&ids[1..41], &ids[43..]].concat();
        assert_eq!(go(Halves::new(&ids), true), (others.clone(), 1, held.to_vec()));
        let (done, waits, left) = go(Halves::new(&ids), false);
        assert_eq!((done, left), (others, held.to_vec()));
        assert!(waits < 25, "{waits}");
        let late = go(Halves::until(&ids, Instant::now()), true);
        assert_eq!(late, (Vec::new(), 1, held.to_vec()));
    }
}
