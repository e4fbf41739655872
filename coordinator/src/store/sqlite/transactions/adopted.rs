//! Change of a transaction's owner.

use sqlx::sqlite::SqliteConnection;
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::rows::Read;
use super::super::waits::forget;
use super::{ADOPT, OWN, of_ids};

/// Makes transactions this incarnation's own, and reads them.
pub(in crate::store::sqlite) async fn adopt(
    connection: &mut SqliteConnection,
    me: Incarnation,
    ids: &[Uuid],
) -> Result<Vec<Read>, sqlx::Error> {
    for id in ids {
        for statement in [ADOPT, OWN] {
            sqlx::query(statement).bind(*id).bind(me.0).execute(&mut *connection).await?;
        }
        let back = sqlx::query("DELETE FROM aside WHERE tx_id = $1").bind(*id);
        back.execute(&mut *connection).await?;
        forget(connection, *id).await?;
    }
    of_ids(connection, ids).await
}
