//! Search for news, also where pages of the log are damaged: what can be read is found.

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
        match sqlx::query_as(ALONE).bind(write).fetch_all(connection).await {
            Err(error) if is_corrupt(&error) => self.unreadable.push(write),
            rows => self.found.extend(rows?),
        }
        Ok(())
    }
}

/// Finds rows in a range of writes. Where the database gives up on what it reads, the range is halved, down to a write.
pub(super) async fn in_range(
    connection: &mut PgConnection,
    (from, until): (Uuid, Uuid),
    limit: usize,
) -> Result<Rows, sqlx::Error> {
    let over = Instant::now() + SEARCH_MAX;
    let mut rows = Rows::new(until);
    let mut work = vec![(from.as_u128(), until.as_u128())];
    while let Some((first, end)) = work.pop() {
        let is_over = Instant::now() >= over && first > from.as_u128();
        if rows.found.len() >= limit || is_over {
            rows.reached = Uuid::from_u128(first);
            break;
        }
        let (left, to) = (limit - rows.found.len(), Uuid::from_u128(end));
        let query = sqlx::query_as(OF_RANGE).bind(Uuid::from_u128(first)).bind(to);
        match query.bind(count(left)).fetch_all(&mut *connection).await {
            Err(error) if is_corrupt(&error) && end - first > 1 => {
                let middle = first + (end - first) / 2;
                work.extend([(middle, end), (first, middle)]);
            }
            Err(error) if is_corrupt(&error) => {
                rows.take_alone(connection, Uuid::from_u128(first)).await?;
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
    for (write, _) in halved.failed {
        rows.take_alone(connection, write).await?;
    }
    Ok(rows)
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
