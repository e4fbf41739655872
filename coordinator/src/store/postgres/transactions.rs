//! Transactions on PostgreSQL: read and adopted.

use async_trait::async_trait;
use sqlx::postgres::{PgConnection, PgRow};
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
use super::Postgres;

/// Times that a transaction is read which seems to be torn. The purge takes each once.
const READS_MAX: usize = 10;

/// A row that somebody holds is left for the next round.
const CLAIM_OF_FENCED: &str = concat!(
    "
WITH ",
    fence!("$3"),
    ", free AS MATERIALIZED (
    SELECT tx_id FROM transactions
    WHERE ended_ms IS NULL AND wake_ms IS NULL AND EXISTS (SELECT 1 FROM fence)
        AND owner IN (SELECT incarnation FROM fences WHERE fenced)
    LIMIT $2
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE transactions AS taken
SET owner = $1, version = version + 1, write_id = gen_random_uuid(), set_aside_by = NULL
FROM free WHERE taken.tx_id = free.tx_id
RETURNING taken.tx_id"
);

/// The soonest first: an index in the order of `wake_ms` is read up to the limit. Whoever is claimed no
/// longer sleeps: it is in memory, or an open transaction like others.
const CLAIM_DUE: &str = concat!(
    "
WITH ",
    fence!("$4"),
    ", due AS MATERIALIZED (
    SELECT tx_id FROM transactions
    WHERE wake_ms <= $2 AND ended_ms IS NULL AND set_aside_by IS DISTINCT FROM $1
        AND EXISTS (SELECT 1 FROM fence)
        AND (owner = $1 OR owner IN (SELECT incarnation FROM fences WHERE fenced))
    ORDER BY wake_ms LIMIT $3
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE transactions AS taken
SET owner = $1, version = version + 1, write_id = gen_random_uuid(), wake_ms = NULL,
    set_aside_by = NULL
FROM due WHERE taken.tx_id = due.tx_id
RETURNING taken.tx_id"
);

/// One that somebody holds is left alone as well: whoever claims it waits for nobody.
const CLAIM_ONE: &str = concat!(
    "
WITH ",
    fence!("$5"),
    ", free AS MATERIALIZED (
    SELECT tx_id FROM transactions
    WHERE tx_id = $2 AND owner = $3 AND version = $4 AND EXISTS (SELECT 1 FROM fence)
        AND (owner = $1 OR owner IN (SELECT incarnation FROM fences WHERE fenced))
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE transactions AS taken
SET owner = $1, version = version + 1, write_id = gen_random_uuid(), wake_ms = NULL,
    set_aside_by = NULL
FROM free WHERE taken.tx_id = free.tx_id
RETURNING taken.tx_id"
);

const SET_ASIDE: &str = concat!(
    "
WITH ",
    fence!("$4"),
    ", free AS MATERIALIZED (
    SELECT tx_id FROM transactions WHERE tx_id = ANY($2) AND EXISTS (SELECT 1 FROM fence)
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE transactions AS aside SET set_aside_by = CASE WHEN $3 THEN $1 END
FROM free WHERE aside.tx_id = free.tx_id"
);

const SELECT_PAGE: &str = select_transactions!(
    "WHERE (cardinality($1::text[]) = 0 OR phase = ANY($1))
   AND (NOT $2 OR attention OR set_aside_by IS NOT NULL)
   AND starts_with(gid, $3)
   AND ($4::text IS NULL OR EXISTS (SELECT 1 FROM branches AS b
        WHERE b.tx_id = t.tx_id AND b.participant = $4))
   AND ($5::int8 IS NULL OR created_ms >= $5)
   AND ($6::int8 IS NULL OR created_ms < $6)
   AND ($7::uuid IS NULL OR tx_id < $7)
   AND ($9::text IS NULL OR initiator = $9)
 ORDER BY tx_id DESC LIMIT $8"
);

#[async_trait]
impl Transactions for Postgres {
    async fn claim(&self, me: Incarnation, claim: Claim) -> Result<Claimed, Error> {
        let nonce = self.nonces.nonce(me);
        let rows = self
            .run("adopt transactions", move |connection| {
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
                    let claimed: Vec<Uuid> = query.bind(nonce).fetch_all(&mut *connection).await?;
                    // These rows are mine now: nobody changes them between the two statements.
                    transactions(connection, claimed).await
                })
            })
            .await?;
        Ok(rows::claimed(rows::assemble(&rows)))
    }

    async fn set_aside(&self, me: Incarnation, tx_ids: &[TxId], aside: bool) -> Result<(), Error> {
        let ids: Vec<Uuid> = tx_ids.iter().map(|tx_id| tx_id.0).collect();
        let nonce = self.nonces.nonce(me);
        self.run("set transactions aside", move |connection| {
            Box::pin(async move {
                let query = sqlx::query(SET_ASIDE).bind(me.0).bind(ids).bind(aside).bind(nonce);
                query.execute(connection).await.map(|_| ())
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
        // Its three tables are read one after the other, and the purge may come in between.
        for _ in 1..READS_MAX {
            let found = self.read_transaction_once(key.clone()).await?;
            if !found.as_ref().is_some_and(Stored::is_torn) {
                return Ok(found);
            }
        }
        match self.read_transaction_once(key.clone()).await? {
            Some(torn) if torn.is_torn() => {
                Err(Error::Unreadable(Box::new(Unreadable::torn(&torn))))
            }
            found => Ok(found),
        }
    }

    async fn events(&self, tx_id: TxId) -> Result<Vec<Event>, Error> {
        let query = sqlx::query(SELECT_EVENTS).bind(tx_id.0);
        let rows = self.told("read a transaction's events", query).await?;
        Ok(rows::events(tx_id, &rows))
    }

    async fn history(&self, tx_id: TxId, after: Version) -> Result<Vec<String>, Error> {
        let query = sqlx::query(SELECT_HISTORY).bind(tx_id.0).bind(after.0);
        let rows = self.told("read a transaction's history", query).await?;
        let entries = rows.iter().map(|row| row.try_get("entry"));
        entries.collect::<Result<_, _>>().map_err(Error::database("read a transaction's history"))
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Found>, Error> {
        let phases: Vec<&str> = filter.phases.iter().copied().map(PhaseName::as_str).collect();
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
        let rows = self.told("list transactions", query).await?;
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

impl Postgres {
    async fn read_transaction_once(&self, key: Key) -> Result<Option<Stored>, Error> {
        let rows = self
            .run("read a transaction", move |connection| {
                Box::pin(async move {
                    let found = match &key {
                        Key::Tx(tx_id) => {
                            sqlx::query(select_transactions!("WHERE tx_id = $1")).bind(tx_id.0)
                        }
                        Key::Gid(gid) => {
                            sqlx::query(select_transactions!("WHERE gid = $1")).bind(gid.as_str())
                        }
                    };
                    let found = found.fetch_all(&mut *connection).await?;
                    details(connection, found).await
                })
            })
            .await?;
        let found = rows::assemble(&rows).pop().transpose();
        found.map_err(|unreadable| Error::Unreadable(Box::new(unreadable)))
    }
}

async fn transactions(
    connection: &mut PgConnection,
    ids: Vec<Uuid>,
) -> Result<Rows<PgRow>, sqlx::Error> {
    let transactions = sqlx::query(select_transactions!("WHERE tx_id = ANY($1)"))
        .bind(&ids)
        .fetch_all(&mut *connection)
        .await?;
    details(connection, transactions).await
}

async fn details(
    connection: &mut PgConnection,
    transactions: Vec<PgRow>,
) -> Result<Rows<PgRow>, sqlx::Error> {
    let ids = transactions.iter().map(|row| row.try_get("tx_id"));
    let ids = ids.collect::<Result<Vec<Uuid>, _>>()?;
    if ids.is_empty() {
        return Ok(Rows::of(transactions));
    }
    let branches = sqlx::query(
        "SELECT tx_id, number, branch_id, participant, action, enlisted_by, payload,
             payload_type, mode, step
         FROM branches WHERE tx_id = ANY($1) ORDER BY tx_id, number",
    )
    .bind(&ids)
    .fetch_all(&mut *connection)
    .await?;
    let outputs = sqlx::query(
        "SELECT tx_id, number, output, output_type FROM outputs WHERE tx_id = ANY($1) ORDER BY tx_id, number",
    )
    .bind(&ids)
    .fetch_all(connection)
    .await?;
    Ok(Rows { transactions, branches, outputs })
}
