//! Search for news, also where pages of the log are damaged: what can be read is found.

use std::collections::HashMap;
use std::time::Instant;

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::QueryAs;
use uuid::Uuid;

use super::super::super::error::is_corrupt;
use super::super::super::feed::{NewsRow, reached, select_news};
use super::super::damage::{SEARCH_MAX, in_halves};

const OF_RANGE: &str =
    select_news!(" AND write_id >= $1 AND write_id < $2 ORDER BY write_id LIMIT $3");

const OF_WRITES: &str = select_news!(" AND write_id = ANY($1) ORDER BY write_id LIMIT $2");

/// A row alone: what was before it may be on a page that cannot be read.
const ALONE: &str = "
SELECT write_id, tx_id, version, CAST(kind & 255 AS smallint) AS kind, ended_ms,
    NULL::smallint AS before, NULL::int8 AS forgotten_ms
FROM log WHERE kind & 128 <> 0 AND write_id = $1";

/// Bytes of transactions. What is stored apart is not read for it.
const BYTES_OF: &str = "
SELECT tx_id, sum(length(body))::int8 FROM log WHERE tx_id = ANY($1) GROUP BY tx_id";

/// Files of the index that the search goes through, and of the table: messages about damage name them.
const FILES: &str = "SELECT pg_relation_filepath('log_news'), pg_relation_filepath('log')";

/// Failures after which a search ends: a damaged page of the table costs some hundred.
const FAILURES_MAX: u32 = 4_096;

/// Rows that were found.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) found: Vec<NewsRow>,
    /// The first write that was not looked at.
    pub(super) reached: Uuid,
    /// Writes of which the rows cannot be read.
    pub(super) unreadable: Vec<Uuid>,
}

impl Rows {
    fn new(reached: Uuid) -> Self {
        Self { found: Vec::new(), reached, unreadable: Vec::new() }
    }

    /// Takes what can be read of a write with which the search has failed.
    async fn take_alone(
        &mut self,
        connection: &mut PgConnection,
        write: Uuid,
    ) -> Result<(), sqlx::Error> {
        match sqlx::query_as(ALONE).bind(write).fetch_all(&mut *connection).await {
            Err(error) if is_corrupt(&error) => {
                let error = Damaged::of(connection, error).await?.error;
                tracing::debug!(%error, %write, "a row of the log cannot be read");
                self.unreadable.push(write);
            }
            rows => self.found.extend(rows?),
        }
        Ok(())
    }

    /// Returns the transactions, each once.
    pub(super) fn transactions(&self) -> Vec<Uuid> {
        let mut ids: Vec<Uuid> = self.found.iter().map(|row| row.tx_id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Returns the bytes of the transactions. Those of which some cannot be read are left out.
    pub(super) async fn bytes(
        &self,
        connection: &mut PgConnection,
    ) -> Result<HashMap<Uuid, i64>, sqlx::Error> {
        let ids = self.transactions();
        let statement = |part: &[Uuid]| sqlx::query_as(BYTES_OF).bind(part.to_vec());
        let halved = in_halves(connection, &ids, statement).await?;
        match halved.cut {
            Some(error) => Err(error),
            None => Ok(halved.done.into_iter().collect()),
        }
    }

    /// Ends a range before these, which are looked for again.
    pub(super) fn end_before(&mut self, left: &[Uuid]) {
        if let Some(first) = left.iter().min() {
            self.reached = *first;
            self.unreadable.retain(|write| write < first);
        }
    }
}

/// Failure of a search that is not one of its index.
struct Damaged {
    error: sqlx::Error,
    /// It is of the table itself.
    is_of_table: bool,
}

impl Damaged {
    /// Takes a failure, if it is not one of the index that the search goes through: without that one nobody knows what is
    /// there, and the rows themselves may be sound.
    ///
    /// # Errors
    /// The failure, if it is.
    async fn of(connection: &mut PgConnection, error: sqlx::Error) -> Result<Self, sqlx::Error> {
        let files = sqlx::query_as(FILES).fetch_one(connection).await?;
        let (index, table): (Option<String>, Option<String>) = files;
        let message = error.to_string();
        let is_of = |file: Option<String>| file.is_some_and(|file| names(&message, &file));
        if is_of(index) || names(&message, "log_news") {
            return Err(error);
        }
        Ok(Self { is_of_table: is_of(table), error })
    }
}

/// Tells whether a message names a file, and not one with a longer number.
fn names(message: &str, file: &str) -> bool {
    message.match_indices(file).any(|(at, _)| {
        let next = message[at + file.len()..].chars().next();
        !next.is_some_and(|next| next.is_ascii_alphanumeric())
    })
}

/// Finds rows in a range of writes. Where the database gives up on what it reads, the range is halved, down to a write.
pub(super) async fn in_range(
    connection: &mut PgConnection,
    (from, until): (Uuid, Uuid),
    limit: usize,
) -> Result<Rows, sqlx::Error> {
    let over = Instant::now() + SEARCH_MAX;
    let mut rows = Rows::new(until);
    let (mut failures, mut is_of_table) = (0, true);
    let mut work = vec![(from.as_u128(), until.as_u128())];
    while let Some((first, end)) = work.pop() {
        let is_over =
            (failures >= FAILURES_MAX || Instant::now() >= over) && first > from.as_u128();
        if rows.found.len() >= limit || is_over {
            rows.reached = Uuid::from_u128(first);
            break;
        }
        let (left, to) = (limit - rows.found.len(), Uuid::from_u128(end));
        let query = sqlx::query_as(OF_RANGE).bind(Uuid::from_u128(first)).bind(to);
        match query.bind(count(left)).fetch_all(&mut *connection).await {
            Err(error) if is_corrupt(&error) => {
                failures += 1;
                let failed = Damaged::of(connection, error).await?;
                is_of_table &= failed.is_of_table;
                if failures >= FAILURES_MAX && rows.found.is_empty() && !is_of_table {
                    // Whatever it is, nothing can be told of what is there.
                    return Err(failed.error);
                }
                if end - first > 1 {
                    let middle = first + (end - first) / 2;
                    work.extend([(middle, end), (first, middle)]);
                } else {
                    rows.take_alone(connection, Uuid::from_u128(first)).await?;
                }
            }
            found => {
                let found: Vec<NewsRow> = found?;
                let to_here = reached(&found, left, to);
                rows.found.extend(found);
                if to_here < to {
                    rows.reached = to_here;
                    break;
                }
            }
        }
    }
    Ok(rows)
}

/// Finds the rows of writes.
pub(super) async fn of_writes(
    connection: &mut PgConnection,
    ids: &[Uuid],
    limit: usize,
) -> Result<Rows, sqlx::Error> {
    let statement = |part: &[Uuid]| -> QueryAs<'static, _, NewsRow, PgArguments> {
        sqlx::query_as(OF_WRITES).bind(part.to_vec()).bind(count(limit))
    };
    let halved = in_halves(connection, ids, statement).await?;
    // What was not come to is looked for once more.
    if let Some(error) = halved.cut {
        return Err(error);
    }
    let mut rows = Rows { found: halved.done, ..Rows::new(Uuid::nil()) };
    for (write, error) in halved.failed {
        Damaged::of(connection, error).await?;
        rows.take_alone(connection, write).await?;
    }
    Ok(rows)
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_message_names_a_file_and_not_one_with_a_longer_number() {
        for (message, expected) in [
            ("invalid page in block 1 of relation base/5/164", true),
            ("invalid page in block 1 of relation \"base/5/164\"", true),
            ("could not read blocks 1..1 in file \"base/5/164.1\": read only 0", true),
            ("invalid page in block 1 of relation base/5/1644", false),
            ("could not read base/5/1644, nor base/5/164", true),
            ("", false),
        ] {
            assert_eq!(names(message, "base/5/164"), expected, "{message}");
        }
    }
}
