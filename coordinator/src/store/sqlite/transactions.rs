//! Transactions on SQLite: read and adopted.

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use unanimo_core::{Event, Incarnation, Record, Timestamp, TxId, Version};
use uuid::Uuid;

use super::super::rows::{
    self, BranchRow, COUNT_ATTENTION, COUNT_PHASES, EventRow, OutputRow, Rows, SELECT_EVENTS,
    SELECT_HISTORY, SELECT_OPEN, TransactionRow, ms_to_column, select_transactions,
};
use super::super::{
    AttentionCount, COUNT_MAX, Claim, Error, Filter, Key, PhaseCount, PhaseName, Stored,
    Transactions,
};
use super::Sqlite;

const CLAIM_OF_FENCED: &str = "
UPDATE transactions
SET owner = $1, version = version + 1, write_id = randomblob(16)
WHERE tx_id IN (
    SELECT tx_id FROM transactions
    WHERE ended_ms IS NULL AND wake_ms IS NULL
        AND owner IN (SELECT incarnation FROM fences WHERE fenced)
    LIMIT $2)
RETURNING tx_id";

const CLAIM_DUE: &str = "
UPDATE transactions
SET owner = $1, version = version + 1, write_id = randomblob(16), wake_ms = NULL
WHERE tx_id IN (
    SELECT tx_id FROM transactions
    WHERE wake_ms <= $2 AND ended_ms IS NULL
        AND (owner = $1 OR owner IN (SELECT incarnation FROM fences WHERE fenced))
    ORDER BY wake_ms LIMIT $3)
RETURNING tx_id";

const CLAIM_ONE: &str = "
UPDATE transactions
SET owner = $1, version = version + 1, write_id = randomblob(16), wake_ms = NULL
WHERE tx_id = $2 AND owner = $3 AND version = $4
    AND (owner = $1 OR owner IN (SELECT incarnation FROM fences WHERE fenced))
RETURNING tx_id";

const SELECT_PAGE: &str = select_transactions!(
    "WHERE (json_array_length($1) = 0
        OR phase IN (SELECT value FROM json_each($1)))
   AND (NOT $2 OR attention)
   AND substr(gid, 1, length($3)) = $3
   AND ($4 IS NULL OR EXISTS (SELECT 1 FROM branches AS b
        WHERE b.tx_id = t.tx_id AND b.participant = $4))
   AND ($5 IS NULL OR created_ms >= $5)
   AND ($6 IS NULL OR created_ms < $6)
   AND ($7 IS NULL OR tx_id < $7)
 ORDER BY tx_id DESC LIMIT $8"
);

#[async_trait]
impl Transactions for Sqlite {
    async fn claim(&self, me: Incarnation, claim: Claim) -> Result<Vec<Record>, Error> {
        let stored = self
            .write("adopt transactions", Some(me), move |connection| {
                Box::pin(async move {
                    let query = match claim {
                        Claim::OfFenced(limit) => {
                            sqlx::query_scalar(CLAIM_OF_FENCED).bind(me.0).bind(i64::from(limit))
                        }
                        Claim::Due { until, limit } => sqlx::query_scalar(CLAIM_DUE)
                            .bind(me.0)
                            .bind(ms_to_column(until))
                            .bind(i64::from(limit)),
                        Claim::One(tx_id, owner, version) => sqlx::query_scalar(CLAIM_ONE)
                            .bind(me.0)
                            .bind(tx_id.0)
                            .bind(owner.0)
                            .bind(version.0),
                    };
                    let claimed: Vec<Uuid> = query.fetch_all(&mut *connection).await?;
                    transactions(connection, &claimed).await
                })
            })
            .await?;
        let records = rows::assemble(stored)?.into_iter().map(|stored| stored.record);
        Ok(records.collect())
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
                            sqlx::query_as(select_transactions!("WHERE tx_id = $1")).bind(tx_id.0)
                        }
                        Key::Gid(gid) => sqlx::query_as(select_transactions!("WHERE gid = $1"))
                            .bind(gid.as_str()),
                    };
                    let found = found.fetch_all(&mut *snapshot).await?;
                    details(&mut snapshot, found).await
                })
            })
            .await?;
        Ok(rows::assemble(rows)?.pop())
    }

    async fn events(&self, tx_id: TxId) -> Result<Vec<Event>, Error> {
        let query = sqlx::query_as(SELECT_EVENTS).bind(tx_id.0);
        let rows: Vec<EventRow> = self.rows("read a transaction's events", query).await?;
        rows.into_iter().map(EventRow::into_event).collect()
    }

    async fn history(&self, tx_id: TxId) -> Result<Vec<String>, Error> {
        let query = sqlx::query_as(SELECT_HISTORY).bind(tx_id.0);
        let rows: Vec<(String,)> = self.rows("read a transaction's history", query).await?;
        Ok(rows.into_iter().map(|(entry,)| entry).collect())
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Stored>, Error> {
        let phases: Vec<&str> = filter.phases.iter().copied().map(PhaseName::as_str).collect();
        let phases = serde_json::to_string(&phases).expect("a list of words");
        let query = sqlx::query_as(SELECT_PAGE)
            .bind(phases)
            .bind(filter.attention)
            .bind(filter.gid_prefix.clone())
            .bind(filter.participant.clone().map(String::from))
            .bind(filter.created_from.map(ms_to_column))
            .bind(filter.created_until.map(ms_to_column))
            .bind(filter.before.map(|tx_id| tx_id.0))
            .bind(i64::from(filter.limit));
        let rows: Vec<TransactionRow> = self.rows("list transactions", query).await?;
        rows.into_iter().map(|row| row.into_stored(Vec::new(), Vec::new())).collect()
    }

    async fn count(&self, ended_from: Timestamp) -> Result<Vec<PhaseCount>, Error> {
        let query = sqlx::query_as(COUNT_PHASES).bind(COUNT_MAX).bind(ms_to_column(ended_from));
        let rows: Vec<(String, String, i64)> = self.rows("count transactions", query).await?;
        Ok(PhaseCount::of_rows(&rows))
    }

    async fn attention(&self) -> Result<AttentionCount, Error> {
        let query = sqlx::query_as(COUNT_ATTENTION);
        let (stalled, heuristic) = self.row("count transactions that need a person", query).await?;
        Ok(AttentionCount { stalled, heuristic })
    }
}

async fn transactions(
    connection: &mut SqliteConnection,
    ids: &[Uuid],
) -> Result<Rows, sqlx::Error> {
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let row = sqlx::query_as(select_transactions!("WHERE tx_id = $1"))
            .bind(*id)
            .fetch_optional(&mut *connection)
            .await?;
        found.extend(row);
    }
    details(connection, found).await
}

async fn details(
    connection: &mut SqliteConnection,
    transactions: Vec<TransactionRow>,
) -> Result<Rows, sqlx::Error> {
    let (mut branches, mut outputs) = (Vec::new(), Vec::new());
    for transaction in &transactions {
        branches.extend(
            sqlx::query_as::<_, BranchRow>(
                "SELECT tx_id, number, branch_id, participant, action, enlisted_by, payload,
                 payload_type, mode, step
                 FROM branches WHERE tx_id = $1 ORDER BY number",
            )
            .bind(transaction.tx_id)
            .fetch_all(&mut *connection)
            .await?,
        );
        outputs.extend(
            sqlx::query_as::<_, OutputRow>(
                "SELECT tx_id, number, output, output_type FROM outputs WHERE tx_id = $1 ORDER BY number",
            )
            .bind(transaction.tx_id)
            .fetch_all(&mut *connection)
            .await?,
        );
    }
    Ok((transactions, branches, outputs))
}
