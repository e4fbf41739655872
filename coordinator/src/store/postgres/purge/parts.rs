//! Search for what is due to be purged, in parts: where the database gives up on what it reads, the others go.

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::QueryAs;
use uuid::Uuid;

use super::super::super::error::is_corrupt;
use super::super::super::purge::PURGE_ROWS_MAX;
use super::super::damage::{Damage, in_halves};

/// Time of the oldest.
const OLDEST: i64 = 0;

/// Names that are asked for at once.
const CHUNK: usize = 256;

type Query = QueryAs<'static, sqlx::Postgres, (Uuid, i64), PgArguments>;

/// Transactions that are due, and those of which that cannot be read.
pub(super) type Due = (Vec<(Uuid, i64)>, Vec<Uuid>);

/// Looks for what is due in a range of ends, and among names.
pub(super) async fn due(
    connection: &mut PgConnection,
    damage: &Damage,
    before: i64,
    in_range: impl Fn(i64, i64) -> Query,
    of_names: impl Fn(&[Uuid]) -> Query,
) -> Result<Due, sqlx::Error> {
    match in_range(OLDEST, before).fetch_all(&mut *connection).await {
        Err(error) if is_corrupt(&error) => {}
        due => return Ok((due?, Vec::new())),
    }
    let is_enough = |due: &Vec<_>| i64::try_from(due.len()).is_ok_and(|len| len >= PURGE_ROWS_MAX);
    let (mut due, mut failed) = (Vec::new(), Vec::new());
    let mut work = damage.readable_ends(before);
    while let Some(part) = work.pop() {
        if is_enough(&due) {
            break;
        }
        let (from, to) = part.into_inner();
        match in_range(from, to + 1).fetch_all(&mut *connection).await {
            Err(error) if is_corrupt(&error) => {
                if from == to {
                    failed.push(from);
                    continue;
                }
                let middle = from + (to - from) / 2;
                work.extend([middle + 1..=to, from..=middle]);
            }
            rows => due.extend(rows?),
        }
    }
    let mut unreadable = Vec::new();
    let names = damage.ended_about(connection, &failed).await?;
    for part in names.chunks(CHUNK) {
        let (found, failed) = in_halves(connection, part, &of_names).await?;
        due.extend(found);
        unreadable.extend(failed.into_iter().map(|(tx_id, _)| tx_id));
    }
    due.sort_unstable();
    due.dedup_by_key(|(tx_id, _)| *tx_id);
    due.truncate(usize::try_from(PURGE_ROWS_MAX).unwrap_or(usize::MAX));
    Ok((due, unreadable))
}
