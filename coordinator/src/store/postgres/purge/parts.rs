//! Search for what is due to be purged, in parts: where the database gives up on what it reads, the others go.

use std::collections::HashSet;
use std::time::Instant;

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::QueryAs;
use uuid::Uuid;

use super::super::super::error::is_corrupt;
use super::super::damage::{Damage, SEARCH_MAX, Step, in_halves_until};
use super::reached::{Found, Reached};

/// Time of the oldest.
pub(super) const OLDEST: i64 = 0;

/// Names that are asked for at once.
const CHUNK: usize = 256;

const ASIDE: &str = "SELECT tx_id FROM aside";

/// One that is due: its name, the bytes of its rows, and when it ended.
type Row = (Uuid, i64, i64);
type Query = QueryAs<'static, sqlx::Postgres, Row, PgArguments>;

/// Transactions that are due, and those of which that cannot be read, with the errors.
pub(super) type Due = (Vec<(Uuid, i64)>, Vec<(Uuid, sqlx::Error)>);

/// Looks for what is due in a range of ends, and among names. Once its time is over, what it has found is purged. It goes
/// on where the last search was, and looks at all that is older from time to time. It takes as many as a run may take.
pub(super) async fn due(
    connection: &mut PgConnection,
    (damage, reached): &(Damage, Reached),
    (step, before): (Step, i64),
    in_range: impl Fn(i64, i64, i64) -> Query,
    of_names: impl Fn(&[Uuid]) -> Query,
) -> Result<Due, sqlx::Error> {
    let ((from, limit), began) = (reached.from(step), Instant::now());
    let found = in_range(from, before, limit).fetch_all(&mut *connection).await;
    let told = match &found {
        Ok(rows) => rows.first().map_or(Found::Nothing, |(.., ended_ms)| Found::First(*ended_ms)),
        Err(error) if is_timeout(error) => Found::TooMuch,
        Err(_) => Found::Nothing,
    };
    reached.note(step, (from, before), began, told);
    match found {
        Err(error) if is_corrupt(&error) => {}
        due => return Ok((due?.into_iter().map(sized).collect(), Vec::new())),
    }
    let is_enough = |due: &Vec<_>| i64::try_from(due.len()).is_ok_and(|len| len >= limit);
    let (mut due, mut failed) = (Vec::new(), Vec::new());
    let mut work = damage.readable_ends(step, before);
    let until = Instant::now() + SEARCH_MAX / 2;
    while let Some(part) = work.pop() {
        if is_enough(&due) || Instant::now() >= until {
            break;
        }
        let (from, to) = part.into_inner();
        match in_range(from, to + 1, limit).fetch_all(&mut *connection).await {
            Err(error) if is_corrupt(&error) => {
                if from == to {
                    failed.push(from);
                    continue;
                }
                let middle = from + (to - from) / 2;
                work.extend([middle + 1..=to, from..=middle]);
            }
            rows => due.extend(rows?.into_iter().map(sized)),
        }
    }
    let mut unreadable = Vec::new();
    let mut names = damage.ended_about(connection, step, &failed).await?;
    if !names.is_empty() {
        let aside: Vec<Uuid> = sqlx::query_scalar(ASIDE).fetch_all(&mut *connection).await?;
        let aside: HashSet<Uuid> = aside.into_iter().collect();
        names.retain(|name| !aside.contains(name));
    }
    let until = Instant::now() + SEARCH_MAX / 2;
    for part in names.chunks(CHUNK) {
        if is_enough(&due) || Instant::now() >= until {
            break;
        }
        let found = in_halves_until(connection, part, until, &of_names).await?;
        due.extend(found.done.into_iter().map(sized));
        unreadable.extend(found.failed);
    }
    due.sort_unstable();
    due.dedup_by_key(|(tx_id, _)| *tx_id);
    due.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok((due, unreadable))
}

/// Tells whether a statement took too long: for the server, or for us, who wait a little longer.
pub(super) fn is_timeout(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code == "57014"),
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::TimedOut,
        _ => false,
    }
}

fn sized((tx_id, bytes, _): Row) -> (Uuid, i64) {
    (tx_id, bytes)
}
