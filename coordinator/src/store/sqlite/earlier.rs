//! Rows of an earlier time: the file has lost what was written since.

use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use unanimo_core::{BranchNumber, Incarnation, Version};

use super::super::{Earlier, Write};

/// Reads the owner and the version of a transaction, and whether nobody but the writer may have it.
const ROW: &str = "
SELECT owner, version, owner = $2 OR EXISTS (
    SELECT 1 FROM fences WHERE incarnation = transactions.owner AND fenced)
FROM transactions WHERE tx_id = $1";

/// Finds what is stored of a transaction that is as it was before it was written last; `None` if it is not. What
/// cannot be read is not of an earlier time.
pub(super) async fn find(
    connection: &mut SqliteConnection,
    me: Incarnation,
    write: &Write,
) -> Result<Option<Earlier>, sqlx::Error> {
    let tx_id = write.transition.tx_id.0;
    let found = sqlx::query(ROW).bind(tx_id).bind(me.0).fetch_optional(&mut *connection).await?;
    let Some(row) = found else { return Ok(Some(Earlier::default())) };
    let columns =
        |row: &SqliteRow| Ok((row.try_get(0)?, row.try_get::<i64, _>(1)?, row.try_get(2)?));
    let (owner, version) = match columns(&row) {
        Ok((owner, version, true)) if version < write.known_from().0 => (owner, version),
        Ok::<(i64, i64, bool), sqlx::Error>(_) | Err(_) => return Ok(None),
    };
    let branches: i64 = sqlx::query_scalar("SELECT count(*) FROM branches WHERE tx_id = $1")
        .bind(tx_id)
        .fetch_one(&mut *connection)
        .await?;
    let outputs: Vec<i64> = sqlx::query_scalar("SELECT number FROM outputs WHERE tx_id = $1")
        .bind(tx_id)
        .fetch_all(&mut *connection)
        .await?;
    let number = |number: i64| u16::try_from(number).ok().and_then(BranchNumber::new);
    Ok(Some(Earlier {
        row: Some((Incarnation(owner), Version(version))),
        branches: usize::try_from(branches).unwrap_or(0),
        outputs: outputs.into_iter().filter_map(number).collect(),
    }))
}
