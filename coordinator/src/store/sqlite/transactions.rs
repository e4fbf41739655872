//! Transactions on SQLite: read and adopted.

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{FromRow, Row};
use unanimo_core::{Event, Incarnation, Timestamp, TxId, Version};
use uuid::Uuid;

use super::super::rows::{
    self, COUNT_ATTENTION, COUNT_PHASES, Rows, SELECT_EVENTS, SELECT_HISTORY, SELECT_OPEN,
    SELECT_SET_ASIDE, ms_to_column, select_transactions,
};
use super::super::{
    AttentionCount, COUNT_MAX, Claim, Claimed, Error, Filter, Found, Key, PhaseCount, PhaseName,
    Stored, Transactions, Unreadable,
};
use super::Sqlite;

const CLAIM_OF_FENCED: &str = "
UPDATE transactions
SET owner = $1, version = version + 1, write_id = randomblob(16), set_aside_by = NULL
WHERE tx_id IN (
    SELECT tx_id FROM transactions
    WHERE ended_ms IS NULL AND wake_ms IS NULL
        AND owner IN (SELECT incarnation FROM fences WHERE fenced)
    LIMIT $2)
RETURNING tx_id";

const CLAIM_DUE: &str = "
UPDATE transactions
SET owner = $1, version = version + 1, write_id = randomblob(16), wake_ms = NULL,
    set_aside_by = NULL
WHERE tx_id IN (
    SELECT tx_id FROM transactions
    WHERE wake_ms <= $2 AND ended_ms IS NULL AND set_aside_by IS NOT $1
        AND (owner = $1 OR owner IN (SELECT incarnation FROM fences WHERE fenced))
    ORDER BY wake_ms LIMIT $3)
RETURNING tx_id";

const CLAIM_ONE: &str = "
UPDATE transactions
SET owner = $1, version = version + 1, write_id = randomblob(16), wake_ms = NULL,
    set_aside_by = NULL
WHERE tx_id = $2 AND owner = $3 AND version = $4
    AND (owner = $1 OR owner IN (SELECT incarnation FROM fences WHERE fenced))
RETURNING tx_id";

const SELECT_PAGE: &str = select_transactions!(
    "WHERE (json_array_length($1) = 0
        OR phase IN (SELECT value FROM json_each($1)))
   AND (NOT $2 OR attention OR set_aside_by IS NOT NULL)
   AND substr(gid, 1, length($3)) = $3
   AND ($4 IS NULL OR EXISTS (SELECT 1 FROM branches AS b
        WHERE b.tx_id = t.tx_id AND b.participant = $4))
   AND ($5 IS NULL OR created_ms >= $5)
   AND ($6 IS NULL OR created_ms < $6)
   AND ($7 IS NULL OR tx_id < $7)
   AND ($9 IS NULL OR initiator = $9)
 ORDER BY tx_id DESC LIMIT $8"
);

#[async_trait]
impl Transactions for Sqlite {
    async fn claim(&self, me: Incarnation, claim: Claim) -> Result<Claimed, Error> {
        let rows = self
            .write("adopt transactions", Some(me), move |connection| {
                Box::pin(async move {
                    let query = match claim {
                        Claim::OfFenced(limit) => {
                            sqlx::query(CLAIM_OF_FENCED).bind(me.0).bind(i64::from(limit))
                        }
                        Claim::Due { until, limit } => sqlx::query(CLAIM_DUE)
                            .bind(me.0)
                            .bind(ms_to_column(until))
                            .bind(i64::from(limit)),
                        Claim::One(tx_id, owner, version) => sqlx::query(CLAIM_ONE)
                            .bind(me.0)
                            .bind(tx_id.0)
                            .bind(owner.0)
                            .bind(version.0),
                    };
                    let claimed = query.fetch_all(&mut *connection).await?;
                    transactions(connection, &claimed).await
                })
            })
            .await?;
        Ok(rows::claimed(rows::assemble(&rows)))
    }

    async fn set_aside(&self, me: Incarnation, tx_ids: &[TxId], aside: bool) -> Result<(), Error> {
        let ids: Vec<Uuid> = tx_ids.iter().map(|tx_id| tx_id.0).collect();
        self.write("set transactions aside", Some(me), move |connection| {
            Box::pin(async move {
                for id in ids {
                    sqlx::query("UPDATE transactions SET set_aside_by = $2 WHERE tx_id = $1")
                        .bind(id)
                        .bind(aside.then_some(me.0))
                        .execute(&mut *connection)
                        .await?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn all_set_aside(&self, after: Option<TxId>, limit: u32) -> Result<Vec<TxId>, Error> {
        let query = sqlx::query_as(SELECT_SET_ASIDE)
            .bind(after.map_or(Uuid::nil(), |tx_id| tx_id.0))
            .bind(i64::from(limit));
        let rows: Vec<(Uuid,)> = self.rows("list what is set aside", query).await?;
        Ok(rows.into_iter().map(|(tx_id,)| TxId(tx_id)).collect())
    }

    async fn open_of(&self, owner: Incarnation) -> Result<Vec<(TxId, Version)>, Error> {
        let query = sqlx::query_as(SELECT_OPEN).bind(owner.0);
        let rows: Vec<(Uuid, i64)> = self.rows("list open transactions", query).await?;
        Ok(rows.into_iter().map(|(tx_id, version)| (TxId(tx_id), Version(version))).collect())
    }

    async fn find(&self, key: &Key) -> Result<Option<Stored>, Error> {
        let key = key.clone();
        let rows = self
            .read("read a transaction", move |connection| {
                Box::pin(async move {
                    // One snapshot for its three tables: the purge must not come in between.
                    let mut snapshot = sqlx::Connection::begin(connection).await?;
                    let found = match &key {
                        Key::Tx(tx_id) => {
                            sqlx::query(select_transactions!("WHERE tx_id = $1")).bind(tx_id.0)
                        }
                        Key::Gid(gid) => {
                            sqlx::query(select_transactions!("WHERE gid = $1")).bind(gid.as_str())
                        }
                    };
                    let found = found.fetch_all(&mut *snapshot).await?;
                    details(&mut snapshot, found).await
                })
            })
            .await?;
        let unreadable = |unreadable| Error::Unreadable(Box::new(unreadable));
        match rows::assemble(&rows).pop().transpose().map_err(unreadable)? {
            Some(torn) if torn.is_torn() => Err(unreadable(Unreadable::torn(&torn))),
            found => Ok(found),
        }
    }

    async fn events(&self, tx_id: TxId) -> Result<Vec<Event>, Error> {
        let query = sqlx::query(SELECT_EVENTS).bind(tx_id.0);
        let rows = self.look("read a transaction's events", query).await?;
        Ok(rows::events(tx_id, &rows))
    }

    async fn history(&self, tx_id: TxId, after: Version) -> Result<Vec<String>, Error> {
        let query = sqlx::query(SELECT_HISTORY).bind(tx_id.0).bind(after.0);
        let rows = self.look("read a transaction's history", query).await?;
        let entries = rows.iter().map(|row| row.try_get("entry"));
        entries.collect::<Result<_, _>>().map_err(Error::database("read a transaction's history"))
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Found>, Error> {
        let phases: Vec<&str> = filter.phases.iter().copied().map(PhaseName::as_str).collect();
        let phases = serde_json::to_string(&phases).expect("a list of words");
        let query = sqlx::query(SELECT_PAGE)
            .bind(phases)
            .bind(filter.attention)
            .bind(filter.gid_prefix.clone())
            .bind(filter.participant.clone().map(String::from))
            .bind(filter.created_from.map(ms_to_column))
            .bind(filter.created_until.map(ms_to_column))
            .bind(filter.before.map(|tx_id| tx_id.0))
            .bind(i64::from(filter.limit))
            .bind(filter.initiator.clone());
        let rows = self.look("list transactions", query).await?;
        Ok(rows::assemble(&Rows::of(rows)))
    }

    async fn count(&self, ended_from: Timestamp) -> Result<Vec<PhaseCount>, Error> {
        let query = sqlx::query_as(COUNT_PHASES).bind(COUNT_MAX).bind(ms_to_column(ended_from));
        let rows: Vec<(String, String, i64)> = self.rows("count transactions", query).await?;
        Ok(PhaseCount::of_rows(&rows))
    }

    async fn attention(&self) -> Result<AttentionCount, Error> {
        const DOING: &str = "count transactions that need a person";
        let rows = self.look(DOING, sqlx::query(COUNT_ATTENTION)).await?;
        let count = rows.first().map(AttentionCount::from_row).transpose();
        Ok(count.map_err(Error::database(DOING))?.unwrap_or_default())
    }
}

async fn transactions(
    connection: &mut SqliteConnection,
    claimed: &[SqliteRow],
) -> Result<Rows<SqliteRow>, sqlx::Error> {
    let mut found = Vec::with_capacity(claimed.len());
    // A name that is none stands for a row that cannot be read at all.
    for id in claimed.iter().filter_map(|row| row.try_get::<Uuid, _>("tx_id").ok()) {
        let row = sqlx::query(select_transactions!("WHERE tx_id = $1"))
            .bind(id)
            .fetch_optional(&mut *connection)
            .await?;
        found.extend(row);
    }
    details(connection, found).await
}

async fn details(
    connection: &mut SqliteConnection,
    transactions: Vec<SqliteRow>,
) -> Result<Rows<SqliteRow>, sqlx::Error> {
    let mut rows = Rows::of(transactions);
    for transaction in &rows.transactions {
        let Ok(tx_id) = transaction.try_get::<Uuid, _>("tx_id") else { continue };
        rows.branches.extend(
            sqlx::query(
                "SELECT tx_id, number, branch_id, participant, action, enlisted_by, payload,
                 payload_type, mode, step
                 FROM branches WHERE tx_id = $1 ORDER BY number",
            )
            .bind(tx_id)
            .fetch_all(&mut *connection)
            .await?,
        );
        rows.outputs.extend(
            sqlx::query(
                "SELECT tx_id, number, output, output_type FROM outputs WHERE tx_id = $1 ORDER BY number",
            )
            .bind(tx_id)
            .fetch_all(&mut *connection)
            .await?,
        );
    }
    Ok(rows)
}
