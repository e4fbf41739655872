//! Rows that stand in the way of writes that were not applied.
//!
//! They are read in statements of their own: the batch's snapshot is older than what it waited for.

use std::collections::{HashMap, HashSet};

use sqlx::postgres::PgConnection;
use unanimo_core::Identity;
use uuid::Uuid;

use super::super::super::error::is_of_data;
use super::super::super::rows::{self, Read, gid_key, select_log};
use super::super::super::{BatchError, Write};
use super::super::{no_answer, transactions};
use super::Writer;

/// Reads the last rows of transactions.
const LAST: &str = "
SELECT DISTINCT ON (tx_id) tx_id, owner, version
FROM log WHERE tx_id = ANY($1) ORDER BY tx_id, follows DESC";

const OWN_WRITES: &str = "
SELECT write_id FROM UNNEST($1::uuid[], $2::int8[], $3::uuid[]) AS own (tx_id, follows, id)
JOIN log USING (tx_id, follows) WHERE write_id = own.id";

/// Reads what a write goes by: its transaction's rows, and its gid.
const NEEDED: &str = "
SELECT (SELECT count(owner + version + kind) FROM log WHERE tx_id = $1)
    + (SELECT count(owner + reasons) FROM parked WHERE tx_id = $1)
    + (SELECT count(tx_id) FROM epochs JOIN gids USING (epoch) WHERE key = $2)";

const NAMES: &str = "SELECT key, tx_id FROM epochs JOIN gids USING (epoch) WHERE key = ANY($1)";

/// Reads the transactions that have these gids. A gid without one answers with a row, too: both are written in
/// one statement, and so a gid alone is damage.
const HOLDERS: &str = select_log!(
    "RIGHT JOIN (
    SELECT tx_id FROM epochs JOIN gids USING (epoch) WHERE key = ANY($1)) AS named USING (tx_id)
ORDER BY tx_id, follows"
);

/// Last row of a transaction.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Last {
    tx_id: Uuid,
    pub(super) owner: i64,
    pub(super) version: i64,
}

/// Rows that stand in the way of writes.
#[derive(Debug, Default)]
pub(super) struct Obstacles {
    /// Writes that are there.
    pub(super) own: HashSet<Uuid>,
    last: Vec<Last>,
    /// Transactions that have the gids, by the key of each.
    holders: HashMap<Uuid, Read>,
    /// Keys of gids of which the server cannot read whether somebody has them.
    unreadable: HashSet<Uuid>,
}

impl Obstacles {
    pub(super) fn last_of(&self, tx_id: Uuid) -> Option<&Last> {
        self.last.iter().find(|row| row.tx_id == tx_id)
    }

    /// Returns the transaction that has the gid of this one.
    pub(super) fn holder_of(&self, identity: &Identity) -> Option<&Read> {
        self.holders.get(&gid_key(identity.gid.as_str()))
    }

    /// Tells whether nobody knows if a transaction has the gid of this one.
    pub(super) fn is_unreadable(&self, identity: &Identity) -> bool {
        self.unreadable.contains(&gid_key(identity.gid.as_str()))
    }

    /// Tells whether the write itself, or the transaction that has its gid, is among them.
    pub(super) fn has_found(&self, write: &Write) -> bool {
        match &write.transition.begins {
            Some(identity) => self.holder_of(identity).is_some(),
            None => self.own.contains(&write.write_id),
        }
    }

    async fn read(connection: &mut PgConnection, missed: &[&Write]) -> Result<Self, sqlx::Error> {
        let ids: Vec<Uuid> = missed.iter().map(|write| write.transition.tx_id.0).collect();
        let follows: Vec<i64> = missed.iter().map(|write| follows(write)).collect();
        let write_ids: Vec<Uuid> = missed.iter().map(|write| write.write_id).collect();
        let keys = missed.iter().filter_map(|write| {
            let identity = write.transition.begins.as_ref()?;
            Some(gid_key(identity.gid.as_str()))
        });
        let keys: Vec<Uuid> = keys.collect();
        let last = sqlx::query_as(LAST).bind(&ids).fetch_all(&mut *connection).await?;
        let own: Vec<Uuid> = sqlx::query_scalar(OWN_WRITES)
            .bind(&ids)
            .bind(follows)
            .bind(write_ids)
            .fetch_all(&mut *connection)
            .await?;
        let (holders, unreadable) = match keys.is_empty() {
            true => Default::default(),
            false => holders(connection, keys).await?,
        };
        Ok(Self { own: own.into_iter().collect(), last, holders, unreadable })
    }
}

type Name = (Uuid, Uuid);

/// Reads the transactions that have the gids of these keys; and the keys whose names cannot be read.
async fn holders(
    connection: &mut PgConnection,
    mut keys: Vec<Uuid>,
) -> Result<(HashMap<Uuid, Read>, HashSet<Uuid>), sqlx::Error> {
    let mut unreadable = HashSet::new();
    let names: Vec<Name> = match sqlx::query_as(NAMES).bind(&keys).fetch_all(&mut *connection).await
    {
        Err(error) if is_of_data(&error) => {
            let names = names_one_by_one(connection, &keys, &mut unreadable).await?;
            keys.retain(|key| !unreadable.contains(key));
            names
        }
        names => names?,
    };
    let mut found = match sqlx::query(HOLDERS).bind(&keys).fetch_all(&mut *connection).await {
        Err(error) if is_of_data(&error) => one_by_one(connection, &names).await?,
        rows => rows::read(&rows?),
    };
    let holders = names.into_iter().filter_map(|(key, tx_id)| {
        let place = found.iter().position(|read| read.tx_id == tx_id)?;
        Some((key, found.swap_remove(place)))
    });
    Ok((holders.collect(), unreadable))
}

/// Reads them so that one on which the database gives up harms itself alone.
async fn names_one_by_one(
    connection: &mut PgConnection,
    keys: &[Uuid],
    unreadable: &mut HashSet<Uuid>,
) -> Result<Vec<Name>, sqlx::Error> {
    let mut names = Vec::new();
    for key in keys {
        let query = sqlx::query_as::<_, Name>(NAMES).bind(std::slice::from_ref(key));
        match query.fetch_all(&mut *connection).await {
            Err(error) if is_of_data(&error) => {
                unreadable.insert(*key);
            }
            found => names.extend(found?),
        }
    }
    Ok(names)
}

/// Reads them so that one on which the database gives up harms itself alone.
async fn one_by_one(
    connection: &mut PgConnection,
    names: &[Name],
) -> Result<Vec<Read>, sqlx::Error> {
    let mut found = Vec::with_capacity(names.len());
    for (key, tx_id) in names {
        let query = sqlx::query(HOLDERS).bind(std::slice::from_ref(key));
        match query.fetch_all(&mut *connection).await {
            Err(error) if is_of_data(&error) => found.push(Read::failed(*tx_id, error)),
            rows => found.extend(rows::read(&rows?)),
        }
    }
    Ok(found)
}

impl Writer {
    pub(super) async fn obstacles(&mut self, missed: &[&Write]) -> Result<Obstacles, BatchError> {
        // The batch is committed; only what became of these rows is not known.
        let reading = Obstacles::read(&mut self.session.connection, missed);
        let read = tokio::time::timeout(self.answer_timeout, reading).await;
        read.unwrap_or_else(|_| Err(no_answer()))
            .map_err(|error| BatchError::Indeterminate(error.into()))
    }

    /// Tells whether the server can read what a write needs.
    pub(super) async fn can_read_for(&mut self, write: &Write) -> Result<bool, BatchError> {
        let identity = write.transition.begins.as_ref();
        let key = identity.map(|identity| gid_key(identity.gid.as_str()));
        let query = sqlx::query_scalar::<_, i64>(NEEDED).bind(write.transition.tx_id.0).bind(key);
        let reading = query.fetch_one(&mut self.session.connection);
        let read = tokio::time::timeout(self.answer_timeout, reading).await;
        match read.unwrap_or_else(|_| Err(no_answer())) {
            Ok(_) => Ok(true),
            Err(error) if is_of_data(&error) => Ok(false),
            Err(error) => Err(BatchError::Indeterminate(error.into())),
        }
    }

    /// Sets holders of gids aside that cannot be read: whoever began under such a gid is refused, and a person has
    /// to look at its holder. If the server refuses that, the next begin tries again.
    pub(super) async fn set_aside(&mut self, obstacles: &Obstacles) -> Result<(), BatchError> {
        let unreadable = obstacles.holders.values().filter(|holder| holder.digest().is_err());
        let ids: Vec<Uuid> = unreadable.map(|holder| holder.tx_id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let setting = sqlx::query(transactions::SET_ASIDE).bind(self.me.0).bind(ids);
        let setting = setting.bind(self.nonce).execute(&mut self.session.connection);
        let set = tokio::time::timeout(self.answer_timeout, setting).await;
        match set.unwrap_or_else(|_| Err(no_answer())) {
            Ok(_) => Ok(()),
            Err(error @ sqlx::Error::Database(_)) => {
                tracing::debug!(%error, "failed to set the holder of a gid aside");
                Ok(())
            }
            Err(error) => Err(BatchError::Indeterminate(error.into())),
        }
    }
}

/// Returns the version that a write follows.
fn follows(write: &Write) -> i64 {
    if write.transition.begins.is_some() { 0 } else { write.base.0 }
}
