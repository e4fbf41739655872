//! Damaged pages of the file. SQLite finds one when it comes to it, and gives up on the whole statement. So a statement
//! that goes through many transactions is told which rows to pass over: those of the log that are on pages that cannot
//! be read. They are looked for when a statement has met one, by their places in the table (`rowid`); the index of its
//! key has the names of their transactions, and these are set aside.
//!
//! Where nothing is found, it is a page of an index, or of a table that all transactions need: then nothing can be
//! isolated, and whoever asks is told that the file has to be restored.

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

/// Goes through the index of the key, and not to the rows.
const NAMES: &str = "SELECT DISTINCT tx_id FROM log WHERE +rowid BETWEEN $1 AND $2";

/// Damage that is known.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// First and last places of rows that cannot be read, in their order.
    ranges: std::sync::Mutex<Vec<(i64, i64)>>,
    looks: Mutex<Looks>,
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
        // Nothing panics half way through a change.
        self.ranges.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
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

fn sparing(statement: &str, ranges: &[(i64, i64)]) -> String {
    let mut parts = statement.split("/*sound ");
    let mut sparing = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("*/").unwrap_or((part, ""));
        for (first, last) in ranges {
            let _ = write!(sparing, "AND {name}.rowid NOT BETWEEN {first} AND {last} ");
        }
        if !ranges.is_empty() {
            let _ = write!(
                sparing,
                "AND NOT EXISTS (SELECT 1 FROM aside AS damaged WHERE damaged.tx_id = {name}.tx_id) "
            );
        }
        sparing.push_str(rest);
    }
    sparing
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
        looks.names.extend(names.unwrap_or_default());
        *damage.ranges.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = ranges;
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
            "SELECT 1 FROM log AS last WHERE true AND last.rowid NOT BETWEEN 1 AND 2 AND last.rowid NOT \
             BETWEEN 7 AND 7 AND NOT EXISTS (SELECT 1 FROM aside AS damaged WHERE damaged.tx_id = last.tx_id)  \
             LIMIT 1"
        );
    }
}
