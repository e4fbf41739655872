//! Columns of the sweeper's questions: times as milliseconds, and the transaction as the database's
//! own type or as text.

use std::time::Duration;

use uuid::Uuid;

use super::{BranchName, Committed, Count, Doubt, Named, Open};
use crate::resource::Fault;

/// Cluster, transaction, branch, and an age or a time.
pub(crate) type Row<T> = (String, T, String, i64);

/// The same, and the mode.
pub(crate) type DoubtRow<T> = (String, T, String, i64, String);

/// Transaction, branch, action and mode.
pub(crate) type OpenRow<T> = (T, String, String, String);

/// Participant, cluster, number and age of the oldest.
pub(crate) type NamedRow = (String, String, i64, i64);

/// A column that holds a transaction's id.
pub(crate) trait TxIdColumn {
    fn read(self) -> Result<Uuid, Fault>;
}

impl TxIdColumn for Uuid {
    fn read(self) -> Result<Uuid, Fault> {
        Ok(self)
    }
}

impl TxIdColumn for String {
    fn read(self) -> Result<Uuid, Fault> {
        let tx_id = Uuid::try_parse(&self);
        tx_id.map_err(|_| Fault::SetUp(format!("unanimo_barrier has the unreadable tx_id {self}")))
    }
}

pub(crate) fn count((count, oldest_ms, steps): (i64, i64, i64)) -> Count {
    let (count, steps) = (count.unsigned_abs(), steps.unsigned_abs());
    Count { count, oldest: age(oldest_ms), steps }
}

pub(crate) fn doubt<T: TxIdColumn>(
    (cluster_id, tx_id, branch_id, age_ms, mode): DoubtRow<T>,
) -> Result<Doubt, Fault> {
    let (tx_id, branch, is_step) = (tx_id.read()?, BranchName::Id(branch_id), mode == "saga");
    Ok(Doubt { cluster_id, tx_id, branch, age: age(age_ms), is_step, is_ahead: is_ahead(age_ms) })
}

pub(crate) fn committed<T: TxIdColumn>(
    (cluster_id, tx_id, branch_id, prepare_until): Row<T>,
) -> Result<Committed, Fault> {
    Ok(Committed { cluster_id, key: (tx_id.read()?, branch_id), prepare_until })
}

pub(crate) fn open<T: TxIdColumn>(
    (tx_id, branch_id, action, mode): OpenRow<T>,
) -> Result<Open, Fault> {
    Ok(Open { key: (tx_id.read()?, branch_id), action, mode })
}

pub(crate) fn named((participant, cluster_id, count, oldest_ms): NamedRow) -> Named {
    Named { participant, cluster_id, count: count.unsigned_abs(), oldest: age(oldest_ms) }
}

/// A clock that was set back makes nothing older than it is.
pub(crate) fn age(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// Tells whether it is of a time to come, by more than clocks are slewed. Statements have the same bound.
pub(crate) fn is_ahead(age_ms: i64) -> bool {
    age_ms < -60_000
}

/// Far below what would overflow once it is taken off a time.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 2)
}

pub(crate) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
