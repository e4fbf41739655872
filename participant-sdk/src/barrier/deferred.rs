//! Commit on databases that check some constraints no earlier.

use sqlx::{Database, Transaction};

use crate::refusal::Refusal;
use crate::resource::Fault;

/// Commits. `Some` is a broken constraint that the database checks no earlier.
pub(crate) async fn commit<D: Database>(
    transaction: Transaction<'static, D>,
    violation: fn(&sqlx::Error) -> Option<Refusal>,
    fault: impl FnOnce(sqlx::Error) -> Fault,
) -> Result<Option<Refusal>, Fault> {
    match transaction.commit().await {
        Ok(()) => Ok(None),
        Err(error) => match violation(&error) {
            Some(refusal) => Ok(Some(refusal)),
            None => Err(fault(error)),
        },
    }
}
