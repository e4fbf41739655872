//! Queries that change nothing.

use sqlx::postgres::PgConnection;
use unanimo_core::{Event, Timestamp, TxId};
use uuid::Uuid;

use super::super::rows::{BranchRow, EventRow, OutputRow, TransactionRow, ms_to_column};
use super::super::{AttentionCount, Error, Filter, Key, PhaseName, Stored, rows};
use super::Postgres;

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

/// How often a transaction is read that seems to be torn. The purge takes each once.
const READS_MAX: usize = 10;

/// Transactions, and the branches and outputs of all of them.
pub(super) type Rows = (Vec<TransactionRow>, Vec<BranchRow>, Vec<OutputRow>);

pub(super) async fn transactions(
    connection: &mut PgConnection,
    ids: Vec<Uuid>,
) -> Result<Rows, sqlx::Error> {
    let transactions = sqlx::query_as(select_transactions!("WHERE tx_id = ANY($1)"))
        .bind(&ids)
        .fetch_all(&mut *connection)
        .await?;
    details(connection, transactions).await
}

async fn details(
    connection: &mut PgConnection,
    transactions: Vec<TransactionRow>,
) -> Result<Rows, sqlx::Error> {
    let ids: Vec<Uuid> = transactions.iter().map(TransactionRow::tx_id).collect();
    if ids.is_empty() {
        return Ok((transactions, Vec::new(), Vec::new()));
    }
    let branches = sqlx::query_as(
        "SELECT tx_id, number, branch_id, participant, action, enlisted_by, payload
         FROM branches WHERE tx_id = ANY($1) ORDER BY tx_id, number",
    )
    .bind(&ids)
    .fetch_all(&mut *connection)
    .await?;
    let outputs = sqlx::query_as(
        "SELECT tx_id, number, output FROM outputs WHERE tx_id = ANY($1) ORDER BY tx_id, number",
    )
    .bind(&ids)
    .fetch_all(connection)
    .await?;
    Ok((transactions, branches, outputs))
}

pub(super) fn assemble((transactions, branches, outputs): Rows) -> Result<Vec<Stored>, Error> {
    rows::assemble(transactions, branches, outputs)
}

impl Postgres {
    pub(super) async fn read_transaction(&self, key: Key) -> Result<Option<Stored>, Error> {
        // Its three tables are read one after the other, and the purge may come in between.
        for _ in 0..READS_MAX {
            let found = self.read_transaction_once(key.clone()).await?;
            if !found.as_ref().is_some_and(Stored::is_torn) {
                return Ok(found);
            }
        }
        let value = format!("{key:?}");
        Err(Error::Corrupt { what: "branches of a transaction, which are not all there", value })
    }

    async fn read_transaction_once(&self, key: Key) -> Result<Option<Stored>, Error> {
        let rows = self
            .run("read a transaction", move |connection| {
                Box::pin(async move {
                    let found = match &key {
                        Key::Tx(tx_id) => {
                            sqlx::query_as(select_transactions!("WHERE tx_id = $1")).bind(tx_id.0)
                        }
                        Key::Gid(gid) => sqlx::query_as(select_transactions!("WHERE gid = $1"))
                            .bind(gid.as_str()),
                    };
                    let found = found.fetch_all(&mut *connection).await?;
                    details(connection, found).await
                })
            })
            .await?;
        Ok(assemble(rows)?.pop())
    }

    pub(super) async fn read_events(&self, tx_id: TxId) -> Result<Vec<Event>, Error> {
        let rows: Vec<EventRow> = self
            .run("read a transaction's events", move |connection| {
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
        let rows: Vec<TransactionRow> = self
            .run("list transactions", move |connection| {
                Box::pin(async move {
                    let phases: Vec<&str> =
                        filter.phases.iter().copied().map(PhaseName::as_str).collect();
                    sqlx::query_as(select_transactions!(
                        "WHERE (cardinality($1::text[]) = 0 OR phase = ANY($1))
                           AND (NOT $2 OR attention)
                           AND starts_with(gid, $3)
                           AND ($4::text IS NULL OR EXISTS (SELECT 1 FROM branches AS b
                                WHERE b.tx_id = t.tx_id AND b.participant = $4))
                           AND ($5::int8 IS NULL OR created_ms >= $5)
                           AND ($6::int8 IS NULL OR created_ms < $6)
                           AND ($7::uuid IS NULL OR tx_id < $7)
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
            .run("count transactions that need a person", |connection| {
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
            .run("read the purge watermark", |connection| {
                Box::pin(
                    sqlx::query_scalar("SELECT purge_watermark_ms FROM cluster")
                        .fetch_one(connection),
                )
            })
            .await?;
        Ok(Timestamp(u64::try_from(ms).unwrap_or(0)))
    }
}
