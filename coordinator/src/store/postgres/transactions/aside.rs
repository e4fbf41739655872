//! Transactions of which a statement fails. It may have met a damaged page where it writes, which is nothing to do with
//! them: so each is read, and set aside only if that fails, too.

use sqlx::postgres::PgConnection;
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::error::is_of_data;
use super::SET_ASIDE;

/// Transactions that can be read and for which a statement fails, after which no more are tried: it is about all.
const REFUSED_MAX: usize = 16;

/// Reads all that is stored of a transaction, large values as well.
const READ: &str = "
SELECT (SELECT count(follows + version + owner + kind) + count(body > '') + count(data > '') + count(history > '')
        FROM log WHERE tx_id = $1)
    + (SELECT count(owner + reasons) FROM parked WHERE tx_id = $1)";

/// Transactions for which a statement fails, with its errors.
#[derive(Debug, Default)]
pub(in crate::store::postgres) struct Aside {
    /// Those that cannot be read, and are set aside.
    pub(in crate::store::postgres) unreadable: Vec<(Uuid, sqlx::Error)>,
    /// Those that can be read. They are left as they are.
    pub(in crate::store::postgres) refused: Vec<(Uuid, sqlx::Error)>,
}

impl Aside {
    /// Tells whether the database fails, and not some transactions.
    pub(in crate::store::postgres) fn is_too_much(&self) -> bool {
        self.refused.len() >= REFUSED_MAX
    }
}

/// Sets aside those of these that cannot be read.
pub(in crate::store::postgres) async fn set_failed_aside(
    connection: &mut PgConnection,
    (me, nonce): (Incarnation, Uuid),
    failed: Vec<(Uuid, sqlx::Error)>,
    aside: &mut Aside,
) -> Result<(), sqlx::Error> {
    let mut ids = Vec::new();
    for (tx_id, error) in failed {
        // The others are no more than those of one statement.
        if aside.is_too_much() || can_read(connection, tx_id).await? {
            aside.refused.push((tx_id, error));
        } else {
            ids.push(tx_id);
            aside.unreadable.push((tx_id, error));
        }
    }
    if ids.is_empty() {
        return Ok(());
    }
    let setting = sqlx::query(SET_ASIDE).bind(me.0).bind(ids).bind(nonce);
    setting.execute(connection).await.map(drop)
}

/// Tells whether there is nothing of a transaction that the database gives up on.
async fn can_read(connection: &mut PgConnection, tx_id: Uuid) -> Result<bool, sqlx::Error> {
    match sqlx::query_scalar::<_, i64>(READ).bind(tx_id).fetch_one(connection).await {
        Err(error) if is_of_data(&error) => Ok(false),
        // It did not say.
        Ok(_) | Err(sqlx::Error::Database(_)) => Ok(true),
        Err(error) => Err(error),
    }
}
