//! Commit on databases that check some constraints no earlier.

use sqlx::Database;

use crate::refusal::Refusal;
use crate::resource::{Fault, Local};

/// Commits. `Some` is what the database says of the work, and no earlier.
pub(crate) async fn commit<D: Database>(
    transaction: Local<D>,
    of_the_work: impl Fn(&sqlx::Error) -> Option<Refusal>,
    fault: impl FnOnce(sqlx::Error) -> Fault,
) -> Result<Option<Refusal>, Fault> {
    match transaction.commit().await {
        Ok(()) => Ok(None),
        Err(error) => match of_the_work(&error) {
            Some(refusal) => Ok(Some(refusal)),
            None => Err(fault(error)),
        },
    }
}
