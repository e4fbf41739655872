//! Damaged pages of the file. SQLite finds one when it comes to it, and gives up on the whole statement. So a statement
//! that goes through many transactions is told which rows to pass over: those of the log that are on pages that cannot
//! be read. They are looked for when a statement has met one, by their places in the table (`rowid`); the index of its
//! key has the names of their transactions, and these are set aside.
//!
//! Where nothing is found, it is a page of an index, or of a table that all transactions need: then nothing can be
//! isolated, and whoever asks is told that the file has to be restored.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::pin::Pin;
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row};
use tokio::sync::Mutex;
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::Error;
use super::super::error::is_of_data;
use super::Sqlite;
use super::purge::Passed;
use super::transactions::SET_ASIDE;
use crate::alarm::TRANSACTION_UNREADABLE;

/// Stands in statements where rows of the log under this name may be passed over.
macro_rules! sound {
    ($name:literal) => {
        concat!(" /*sound ", $name, "*/")
    };
}
pub(super) use sound;

/// Rows that are read at once while damage is looked for.
const CHUNK: i64 = 4_096;

/// Between two looks of which the first one found nothing new: each reads all of the log.
const LOOK_PAUSE: Duration = Duration::from_secs(60);

/// Names that one line tells.
const TOLD_MAX: usize = 10;

const LAST: &str = "SELECT max(+rowid) FROM log";

/// Reads each column but the recorded history, which is read by who asks for it alone.
macro_rules! read {
    ($rows:literal) => {
        concat!(
            "
SELECT max(tx_id), max(follows), max(version), max(owner), max(kind), max(write_id), max(body), max(data),
    max(created_ms), max(ended_ms), max(stripped_ms)
FROM log NOT INDEXED WHERE rowid ",
            $rows
        )
    };
}

const READ: &str = read!("BETWEEN $1 AND $2");
/// Goes to no other page: whoever reads a range looks for what comes after it.
const READ_ONE: &str = read!("= $1 AND $2 = $1");

/// Beginning of the search for news that are passed over.
const PASSED_NEWS: &str = "
SELECT write_id FROM log AS entry INDEXED BY log_news
WHERE kind & 128 <> 0 AND write_id >= $1 AND write_id < $2 AND length(write_id) = 16 AND CASE WHEN ";

/// Goes through the index of the key, and not to the rows.
const NAMES: &str = "SELECT DISTINCT tx_id FROM log WHERE +rowid BETWEEN $1 AND $2";

/// Damage that is known.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// First and last places of rows that cannot be read, in their order.
    ranges: std::sync::Mutex<Vec<(i64, i64)>>,
    /// Transactions that have rows there, as far as their names are known.
    on_them: std::sync::Mutex<HashSet<Uuid>>,
    looks: Mutex<Looks>,
    pub(super) passed: Passed,
}

#[derive(Debug, Default)]
struct Looks {
    /// When the last one was that found nothing new.
    in_vain: Option<Instant>,
    /// Transactions that are to be set aside.
    names: Vec<Uuid>,
}

impl Damage {
    fn ranges(&self) -> Vec<(i64, i64)> {
        lock(&self.ranges).clone()
    }

    fn keep(&self, ranges: Vec<(i64, i64)>, names: &[Uuid]) {
        *lock(&self.ranges) = ranges;
        *lock(&self.on_them) = names.iter().copied().collect();
    }

    /// Forgets what is known where one of these transactions has a row on it: they could be read, and are not set aside
    /// any more. Whatever is still damaged is met, and looked for, again.
    pub(super) async fn take_back(&self, tx_ids: &[Uuid]) {
        let mut looks = self.looks.lock().await;
        let mut on_them = lock(&self.on_them);
        if tx_ids.iter().any(|tx_id| on_them.contains(tx_id)) {
            on_them.clear();
            lock(&self.ranges).clear();
            looks.in_vain = None;
        }
    }

    /// Returns the number of places whose transactions are not known by name.
    pub(super) fn lost(&self) -> i64 {
        let is_named = !lock(&self.on_them).is_empty();
        if is_named { 0 } else { i64::try_from(self.ranges().len()).unwrap_or(i64::MAX) }
    }

    /// Returns a statement that finds the writes of news that a sparing one passes over. It goes through the index of news:
    /// a row is looked at only where it can be read.
    pub(super) fn passed_news(&self) -> Option<AssertSqlSafe<String>> {
        let ranges = self.ranges();
        if ranges.is_empty() {
            return None;
        }
        let mut statement = PASSED_NEWS.to_owned();
        put_ranges(&mut statement, "entry", &ranges);
        statement.push_str(
            " THEN true ELSE EXISTS (SELECT 1 FROM aside AS damaged WHERE damaged.tx_id = entry.tx_id) END \
             ORDER BY write_id LIMIT $3",
        );
        Some(AssertSqlSafe(statement))
    }

    /// Tells whether there is any.
    pub(super) fn is_known(&self) -> bool {
        !self.ranges().is_empty()
    }

    /// Returns a statement that passes over the rows that cannot be read, and over all of what is set aside: SQLite
    /// commits no transaction in which it has met a damaged page, not even one that only read it.
    pub(super) fn sparing(&self, statement: &'static str) -> AssertSqlSafe<String> {
        AssertSqlSafe(sparing(statement, &self.ranges()))
    }
}

fn lock<T>(known: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics half way through a change.
    known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn sparing(statement: &str, ranges: &[(i64, i64)]) -> String {
    let mut parts = statement.split("/*sound ");
    let mut sparing = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("*/").unwrap_or((part, ""));
        if !ranges.is_empty() {
            sparing.push_str("AND NOT ");
            put_ranges(&mut sparing, name, ranges);
            let _ = write!(
                sparing,
                " AND NOT EXISTS (SELECT 1 FROM aside AS damaged WHERE damaged.tx_id = {name}.tx_id) "
            );
        }
        sparing.push_str(rest);
    }
    sparing
}

/// Tells of a row whether it is in one of these ranges. Halves stand in brackets of their own: SQLite takes no expression
/// that is a thousand deep, and one without them is as deep as it is long.
fn put_ranges(statement: &mut String, name: &str, ranges: &[(i64, i64)]) {
    if let [(first, last)] = ranges {
        let _ = write!(statement, "({name}.rowid BETWEEN {first} AND {last})");
        return;
    }
    let (before, after) = ranges.split_at(ranges.len() / 2);
    statement.push('(');
    put_ranges(statement, name, before);
    statement.push_str(" OR ");
    put_ranges(statement, name, after);
    statement.push(')');
}

/// Work that is done once more where it has met damage.
pub(super) type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

impl Sqlite {
    /// Does work whose statements are [sparing](Damage::sparing); once more, if a page was damaged that they did not
    /// know of. With an incarnation, what is on it is set aside.
    pub(super) async fn spared<'a, T: Send>(
        &'a self,
        me: Option<Incarnation>,
        work: impl Fn() -> Work<'a, T> + Send + Sync,
    ) -> Result<T, Error> {
        self.set_damaged_aside(me).await?;
        match work().await {
            Err(error) if error.is_damage() => {}
            done => return done,
        }
        self.look_for_damage().await.map_err(Error::with_damage)?;
        self.set_damaged_aside(me).await.map_err(Error::with_damage)?;
        work().await.map_err(Error::with_damage)
    }

    async fn set_damaged_aside(&self, me: Option<Incarnation>) -> Result<(), Error> {
        let (Some(me), true) = (me, self.opened.damage.is_known()) else { return Ok(()) };
        let mut looks = self.opened.damage.looks.lock().await;
        let names = looks.names.clone();
        if names.is_empty() {
            return Ok(());
        }
        self.write("set transactions on damaged pages aside", Some(me), move |connection| {
            Box::pin(async move {
                for name in names {
                    let aside = sqlx::query(SET_ASIDE).bind(name).bind(me.0);
                    aside.execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .await?;
        looks.names.clear();
        Ok(())
    }

    /// Looks for rows of the log that cannot be read, and for the names of their transactions.
    async fn look_for_damage(&self) -> Result<(), Error> {
        let damage = &self.opened.damage;
        let mut looks = damage.looks.lock().await;
        if looks.in_vain.is_some_and(|at| at.elapsed() < LOOK_PAUSE) {
            return Ok(());
        }
        let known = damage.ranges();
        let walked = self.read("look for damaged pages", |connection| Box::pin(walk(connection)));
        let (ranges, names) = walked.await?;
        if ranges == known {
            looks.in_vain = Some(Instant::now());
            return Ok(());
        }
        tell(&ranges, names.as_deref());
        let names = names.unwrap_or_default();
        damage.keep(ranges, &names);
        looks.names.extend(names);
        Ok(())
    }
}

fn tell(ranges: &[(i64, i64)], names: Option<&[Uuid]>) {
    let places: Vec<String> =
        ranges.iter().map(|(first, last)| format!("{first} to {last}")).take(TOLD_MAX).collect();
    let places = places.join(", ");
    let Some(names) = names else {
        tracing::error!(
            alarm = TRANSACTION_UNREADABLE,
            places,
            "pages of the database file are damaged, and the names of the transactions on them are lost: these rows \
             of the log cannot be read; stop the coordinator, and restore a backup of the file"
        );
        return;
    };
    let told: Vec<String> = names.iter().take(TOLD_MAX).map(Uuid::to_string).collect();
    tracing::error!(
        alarm = TRANSACTION_UNREADABLE,
        transactions = names.len(),
        first = told.join(", "),
        places,
        "pages of the database file are damaged; the transactions on them are set aside, and all others go on; \
         restore a backup of the file, or what is left of them is lost for good"
    );
}

type Walked = (Vec<(i64, i64)>, Option<Vec<Uuid>>);

/// Reads all rows of the log, and returns the places of those that cannot be read, and the names of their transactions,
/// unless these cannot be read, either.
async fn walk(connection: &mut SqliteConnection) -> Result<Walked, sqlx::Error> {
    let last: Option<i64> = sqlx::query_scalar(LAST).fetch_one(&mut *connection).await?;
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    let mut left: Vec<(i64, i64)> = Vec::new();
    let (mut next, end) = (0, last.unwrap_or_default());
    while next <= end || !left.is_empty() {
        let (from, to) = left.pop().unwrap_or_else(|| {
            let chunk = (next, (next + CHUNK - 1).min(end));
            next = chunk.1 + 1;
            chunk
        });
        let read = if from == to { READ_ONE } else { READ };
        match sqlx::query(read).bind(from).bind(to).fetch_all(&mut *connection).await {
            Err(error) if is_of_data(&error) && from < to => {
                let middle = from + (to - from) / 2;
                left.extend([(middle + 1, to), (from, middle)]);
            }
            Err(error) if is_of_data(&error) => match ranges.last_mut() {
                Some((_, before)) if *before + 1 == from => *before = to,
                _ => ranges.push((from, to)),
            },
            read => drop(read?),
        }
    }
    let mut names = Vec::new();
    for (from, to) in &ranges {
        match sqlx::query(NAMES).bind(from).bind(to).fetch_all(&mut *connection).await {
            Err(error) if is_of_data(&error) => return Ok((ranges, None)),
            rows => names.extend(rows?.iter().filter_map(|row| row.try_get::<Uuid, _>(0).ok())),
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok((ranges, Some(names)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_passes_over_what_cannot_be_read() {
        let statement = concat!("SELECT 1 FROM log AS last WHERE true", sound!("last"), " LIMIT 1");
        assert_eq!(sparing(statement, &[]), "SELECT 1 FROM log AS last WHERE true  LIMIT 1");
        assert_eq!(
            sparing(statement, &[(1, 2), (7, 7)]),
            "SELECT 1 FROM log AS last WHERE true AND NOT ((last.rowid BETWEEN 1 AND 2) OR (last.rowid BETWEEN 7 \
             AND 7)) AND NOT EXISTS (SELECT 1 FROM aside AS damaged WHERE damaged.tx_id = last.tx_id)  LIMIT 1"
        );
    }

    #[tokio::test]
    async fn any_number_of_places_is_passed_over() {
        use sqlx::Connection;
        let mut raw = SqliteConnection::connect("sqlite::memory:").await.expect("it is opened");
        let tables = "CREATE TABLE log (tx_id blob); CREATE TABLE aside (tx_id blob);
            WITH RECURSIVE n AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM n WHERE n < 6000)
            INSERT INTO log (tx_id) SELECT randomblob(16) FROM n";
        sqlx::raw_sql(tables).execute(&mut raw).await.expect("it has tables");
        let damage = Damage::default();
        *damage.ranges.lock().expect("it is free") = (0..2_000).map(|n| (3 * n, 3 * n)).collect();
        let statement =
            damage.sparing(concat!("SELECT count(*) FROM log WHERE true", sound!("log")));
        let count: i64 =
            sqlx::query_scalar(statement).fetch_one(&mut raw).await.expect("it is taken");
        assert_eq!(count, 6_000 - 1_999);
    }

    #[tokio::test]
    async fn a_place_whose_transaction_is_taken_back_is_looked_for_again() {
        let damage = Damage::default();
        let [one, other] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let keep = |ranges: Vec<(i64, i64)>| damage.keep(ranges, &[one]);
        keep(vec![(1, 2)]);
        damage.take_back(&[other]).await;
        assert!(damage.is_known());
        damage.take_back(&[other, one]).await;
        assert!(!damage.is_known(), "its row is passed over though it is not set aside");
        keep(vec![(1, 2)]);
        assert!(damage.is_known());
        assert_eq!(damage.lost(), 0);
    }

    #[test]
    fn places_without_a_name_are_counted() {
        let damage = Damage::default();
        assert_eq!(damage.lost(), 0);
        damage.keep(vec![(1, 2), (7, 7)], &[]);
        assert_eq!(damage.lost(), 2);
    }
}
