//! Queries that change nothing.

use sqlx::sqlite::SqliteConnection;
use unanimo_core::{Event, Timestamp, TxId};
use uuid::Uuid;

use super::super::rows::{self, BranchRow, EventRow, OutputRow, TransactionRow, ms_to_column};
use super::super::{AttentionCount, Error, Filter, Key, PhaseName, Stored};
use super::Sqlite;

macro_rules! select_transactions {
    ($rest:literal) => {
        concat!(
            "SELECT tx_id, gid, owner, version, mode, drive, digest, digest_version, created_ms, \
             deadline_ms, phase, abort_cause, abort_branch, decided_ms, ended_ms, heuristic, \
             stalled, forgotten, stripped, initiator, metadata, trace, progress \
             FROM transactions AS t ",
            $rest
        )
    };
}

/// Transactions, and the branches and outputs of all of them.
pub(super) type Rows = (Vec<TransactionRow>, Vec<BranchRow>, Vec<OutputRow>);

pub(super) async fn transactions(
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
                "SELECT tx_id, number, branch_id, participant, action, enlisted_by, payload
                 FROM branches WHERE tx_id = $1 ORDER BY number",
            )
            .bind(transaction.tx_id())
            .fetch_all(&mut *connection)
            .await?,
        );
        outputs.extend(
            sqlx::query_as::<_, OutputRow>(
                "SELECT tx_id, number, output FROM outputs WHERE tx_id = $1 ORDER BY number",
            )
            .bind(transaction.tx_id())
            .fetch_all(&mut *connection)
            .await?,
        );
    }
    Ok((transactions, branches, outputs))
}

impl Sqlite {
    pub(super) async fn read_transaction(&self, key: Key) -> Result<Option<Stored>, Error> {
        let (transactions, branches, outputs) = self
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
        Ok(rows::assemble(transactions, branches, outputs)?.pop())
    }

    pub(super) async fn read_events(&self, tx_id: TxId) -> Result<Vec<Event>, Error> {
        let rows: Vec<EventRow> = self
            .read("read a transaction's events", move |connection| {
                Box::pin(
                    sqlx::query_as(
                        "SELECT at_ms, kind, branch, detail FROM events WHERE tx_id = $1
                         ORDER BY version, ordinal",
                    )
                    .bind(tx_id.0)
                    .fetch_all(connection),
                )
            })
            .await?;
        rows.into_iter().map(EventRow::into_event).collect()
    }

    pub(super) async fn read_page(&self, filter: Filter) -> Result<Vec<Stored>, Error> {
        let phases: Vec<&str> = filter.phases.iter().copied().map(PhaseName::as_str).collect();
        let phases = serde_json::to_string(&phases).expect("a list of words");
        let rows: Vec<TransactionRow> = self
            .read("list transactions", move |connection| {
                Box::pin(async move {
                    sqlx::query_as(select_transactions!(
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
                    ))
                    .bind(phases)
                    .bind(filter.attention)
                    .bind(&filter.gid_prefix)
                    .bind(filter.participant.as_ref().map(|name| name.as_str()))
                    .bind(filter.created_from.map(ms_to_column))
                    .bind(filter.created_until.map(ms_to_column))
                    .bind(filter.before.map(|tx_id| tx_id.0))
                    .bind(i64::from(filter.limit))
                    .fetch_all(connection)
                    .await
                })
            })
            .await?;
        rows.into_iter().map(|row| row.into_stored(Vec::new(), Vec::new())).collect()
    }

    pub(super) async fn read_attention(&self) -> Result<AttentionCount, Error> {
        let (stalled, heuristic) = self
            .read("count transactions that need a person", |connection| {
                Box::pin(
                    sqlx::query_as(
                        "SELECT count(*) FILTER (WHERE stalled AND ended_ms IS NULL),
                                count(*) FILTER (WHERE heuristic <> 'none')
                         FROM transactions WHERE attention",
                    )
                    .fetch_one(connection),
                )
            })
            .await?;
        Ok(AttentionCount { stalled, heuristic })
    }

    pub(super) async fn read_watermark(&self) -> Result<Timestamp, Error> {
        let ms: i64 = self
            .read("read the purge watermark", |connection| {
                Box::pin(
                    sqlx::query_scalar("SELECT purge_watermark_ms FROM cluster")
                        .fetch_one(connection),
                )
            })
            .await?;
        Ok(Timestamp(u64::try_from(ms).unwrap_or(0)))
    }
}
