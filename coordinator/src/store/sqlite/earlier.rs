//! Rows of an earlier time: the file has lost what was written since.

use sqlx::sqlite::SqliteConnection;
use unanimo_core::Incarnation;

use super::super::{Earlier, Write};
use super::transactions;

/// Tells whether nobody but the writer may have what this owner has.
const IS_FREE: &str = "
SELECT $1 = $2 OR EXISTS (SELECT 1 FROM fences WHERE incarnation = $1 AND fenced)";

/// Finds what is stored of a transaction that is as it was before it was written last; `None` if it is not. What
/// cannot be read is not of an earlier time.
pub(super) async fn find(
    connection: &mut SqliteConnection,
    me: Incarnation,
    write: &Write,
) -> Result<Option<Earlier>, sqlx::Error> {
    let tx_id = write.transition.tx_id.0;
    let Some(found) = transactions::of_ids(connection, &[tx_id]).await?.pop() else {
        return Ok(Some(Earlier::default()));
    };
    let Some(earlier) = found.earlier() else { return Ok(None) };
    let Some((owner, version)) = earlier.row else { return Ok(None) };
    let is_free: bool =
        sqlx::query_scalar(IS_FREE).bind(owner.0).bind(me.0).fetch_one(connection).await?;
    Ok((is_free && version < write.known_from()).then_some(earlier))
}
