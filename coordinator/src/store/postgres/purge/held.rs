//! Transactions of which somebody holds a row locked. A run waits for them once, leaves them, and purges the others. They
//! stay due, and are tried again after a while; until then they are in nobody's way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::QueryAs;
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::error::is_corrupt;
use super::super::damage::Halves;
use super::super::transactions::is_lock_timeout;

/// Time for which one that was held is passed over.
const PAUSE: Duration = Duration::from_secs(60);

/// Most that are passed over: eight runs find as many. Each search is told all of them.
const HELD_MAX: usize = 16_384;

/// Finds those of these of which nobody holds a row, and whether nobody holds the fence. It waits for nobody. What it
/// locks itself is free again with its end. A table that takes no writes, as while an index is built, is waited for, in vain.
const FREE: &str = "
WITH mine AS MATERIALIZED (
    SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $2 FOR SHARE SKIP LOCKED
), names AS MATERIALIZED (
    SELECT gids.epoch, gids.key, gids.tx_id FROM UNNEST($3::uuid[], $4::uuid[]) AS named (tx_id, key)
    CROSS JOIN epochs JOIN gids ON gids.epoch = epochs.epoch AND gids.key = named.key AND gids.tx_id = named.tx_id
), free_log AS MATERIALIZED (
    SELECT tx_id FROM log WHERE tx_id = ANY($3) FOR UPDATE SKIP LOCKED
), free_parked AS MATERIALIZED (
    SELECT tx_id FROM parked WHERE tx_id = ANY($3) FOR UPDATE SKIP LOCKED
), free_locks AS MATERIALIZED (
    SELECT tx_id FROM locks WHERE tx_id = ANY($3) FOR UPDATE SKIP LOCKED
), free_waits AS MATERIALIZED (
    SELECT tx_id FROM waits WHERE tx_id = ANY($3) FOR UPDATE SKIP LOCKED
), free_names AS MATERIALIZED (
    SELECT gids.tx_id FROM names JOIN gids ON gids.epoch = names.epoch AND gids.key = names.key
    FOR UPDATE OF gids SKIP LOCKED
), whole_log AS (DELETE FROM log WHERE false
), whole_parked AS (DELETE FROM parked WHERE false
), whole_locks AS (DELETE FROM locks WHERE false
), whole_waits AS (DELETE FROM waits WHERE false
), whole_names AS (DELETE FROM gids WHERE false
), counted AS (
    SELECT tx_id, sum(count) AS held FROM (
        SELECT tx_id, 1 AS count FROM log WHERE tx_id = ANY($3)
        UNION ALL SELECT tx_id, 1 FROM parked WHERE tx_id = ANY($3)
        UNION ALL SELECT tx_id, 1 FROM locks WHERE tx_id = ANY($3)
        UNION ALL SELECT tx_id, 1 FROM waits WHERE tx_id = ANY($3)
        UNION ALL SELECT tx_id, 1 FROM names
        UNION ALL SELECT tx_id, -1 FROM free_log
        UNION ALL SELECT tx_id, -1 FROM free_parked
        UNION ALL SELECT tx_id, -1 FROM free_locks
        UNION ALL SELECT tx_id, -1 FROM free_waits
        UNION ALL SELECT tx_id, -1 FROM free_names) AS rows
    GROUP BY tx_id
)
SELECT EXISTS (SELECT 1 FROM mine), ARRAY(SELECT tx_id FROM counted WHERE held <> 0)";

/// Those that were held a moment ago, of one process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(Arc<Mutex<HashMap<Uuid, Instant>>>);

impl Held {
    /// Returns those that a search passes over.
    pub(super) fn names(&self) -> Vec<Uuid> {
        // Nothing in here panics half way through a change.
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, at| at.elapsed() < PAUSE);
        held.keys().copied().collect()
    }

    fn take(&self, names: &[Uuid]) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, room) = (Instant::now(), HELD_MAX.saturating_sub(held.len()));
        held.extend(names.iter().take(room).map(|name| (*name, now)));
    }
}

/// Result of a statement that was made for as many as it could be.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) done: Vec<Uuid>,
    /// Those for each of which it fails alone, with its error.
    pub(super) failed: Vec<(Uuid, sqlx::Error)>,
    /// Those that somebody holds.
    pub(super) held: Vec<Uuid>,
    /// Error by which it ended: some were not come to.
    pub(super) cut: Option<sqlx::Error>,
}

/// Does a statement for as many of these as can be done: those of which a row is held or damaged are left. `keys_of` are
/// the keys of names that it deletes, in the order of the transactions.
///
/// # Errors
/// Those that have nothing to do with either.
pub(super) async fn make(
    connection: &mut PgConnection,
    right: (Incarnation, Uuid),
    held: &Held,
    ids: &[Uuid],
    keys_of: impl Fn(&[Uuid]) -> Vec<Uuid>,
    statement: impl Fn(&[Uuid]) -> QueryAs<'static, sqlx::Postgres, (Uuid,), PgArguments>,
) -> Result<Made, sqlx::Error> {
    let (mut done, mut cut, mut halves) = (Vec::new(), None, Halves::new(ids));
    while let Some(part) = halves.next() {
        let left = match statement(&part).fetch_all(&mut *connection).await {
            Err(error) if is_corrupt(&error) => halves.failed(part, error),
            Err(error) if is_lock_timeout(&error) => {
                match held_of(connection, right, &part, keys_of(&part)).await? {
                    Some(found) => halves.waited(part, &found, error),
                    None => Err(error),
                }
            }
            rows => {
                done.extend(rows?.into_iter().map(|(tx_id,)| tx_id));
                Ok(())
            }
        };
        if let Err(error) = left {
            cut = Some(error);
            break;
        }
    }
    held.take(&halves.held);
    if !halves.held.is_empty() {
        tracing::warn!(
            count = halves.held.len(),
            "failed to purge transactions of which another session of the database holds rows locked; the others are \
             purged, and these are tried again in a minute"
        );
    }
    Ok(Made { done, failed: halves.unreadable, held: halves.held, cut })
}

/// Returns those of these of which somebody holds a row; `None` if that is the fence's, or a whole table.
async fn held_of(
    connection: &mut PgConnection,
    (me, nonce): (Incarnation, Uuid),
    part: &[Uuid],
    keys: Vec<Uuid>,
) -> Result<Option<Vec<Uuid>>, sqlx::Error> {
    let free = sqlx::query_as(FREE).bind(me.0).bind(nonce).bind(part.to_vec()).bind(keys);
    match free.fetch_one(connection).await {
        Ok((true, held)) => Ok(Some(held)),
        Ok((false, _)) => Ok(None),
        Err(error) if is_lock_timeout(&error) => Ok(None),
        // The damage is met again where the statement is made for fewer.
        Err(error) if is_corrupt(&error) => Ok(Some(Vec::new())),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_were_held_are_passed_over_for_a_while_and_not_without_end() {
        let held = Held::default();
        let names: Vec<Uuid> = (0..HELD_MAX as u128 + 5).map(Uuid::from_u128).collect();
        held.take(&names);
        assert_eq!(held.names().len(), HELD_MAX);
        let Some(long_ago) = Instant::now().checked_sub(PAUSE) else { return };
        held.0.lock().expect("no panic").values_mut().for_each(|at| *at = long_ago);
        assert!(held.names().is_empty());
        held.take(&names[..1]);
        assert_eq!(held.names(), names[..1]);
    }
}
