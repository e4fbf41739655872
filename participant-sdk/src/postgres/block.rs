//! A local transaction with the branch's row in it.

use std::time::{SystemTime, UNIX_EPOCH};

use sqlx::{PgConnection, PgPool, Postgres as Db, Transaction};

use super::error::{self, LOCK_TIMEOUT, fault};
use crate::barrier::{Block, Blocks, Columns, Inserted, Row};
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::{Fault, RawCall};
use crate::wire::mode_name;

/// The row that is inserted, or nothing if there is one. `clock_timestamp()` moves on while the
/// insert waits for a twin; `now()` would stand still from BEGIN.
const INSERT: &str = "
INSERT INTO unanimo_barrier
    (tx_id, branch_id, participant, gid, action, mode, state, reason, message, cluster_id,
     prepare_until)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, to_timestamp($11::float8 / 1000))
ON CONFLICT (tx_id, branch_id) DO NOTHING
RETURNING pg_current_xact_id()::text, coalesce(clock_timestamp() > prepare_until, false)";

const FIND: &str = "
SELECT state, output, reason, message FROM unanimo_barrier WHERE tx_id = $1 AND branch_id = $2";

const LOCK: &str = "
SELECT state, output, reason, message, pg_current_xact_id()::text FROM unanimo_barrier
WHERE tx_id = $1 AND branch_id = $2 FOR UPDATE";

/// Only in the transaction that inserted or locked the row: a handler may have ended that one, and
/// then nothing holds the row and its own work together.
const MARK: &str = "
UPDATE unanimo_barrier
SET state = $3, output = $4, reason = $5, message = $6, changed_at = clock_timestamp()
WHERE tx_id = $1 AND branch_id = $2 AND pg_current_xact_id()::text = $7";

/// Begins local transactions on a pool's connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct PgBlocks<'p> {
    pub(super) pool: &'p PgPool,
}

#[derive(Debug)]
pub(super) struct PgBlock {
    transaction: Transaction<'static, Db>,
    /// The transaction's id, once the row is inserted or locked.
    xid: String,
}

impl Blocks for PgBlocks<'_> {
    type Block = PgBlock;

    async fn begin(&self, isolation: Isolation) -> Result<PgBlock, Fault> {
        let statement = match isolation {
            Isolation::ReadCommitted => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
            Isolation::RepeatableRead => "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE",
        };
        let begun = self.pool.begin_with(statement).await;
        let transaction = begun.map_err(fault("begin a transaction"))?;
        Ok(PgBlock { transaction, xid: String::new() })
    }
}

impl PgBlock {
    /// The transaction itself, to end it in another way than [`Block::commit`].
    pub(super) fn into_inner(self) -> Transaction<'static, Db> {
        self.transaction
    }
}

impl Block for PgBlock {
    type Connection = PgConnection;

    async fn insert(
        &mut self,
        call: &RawCall,
        row: &Row,
        until: Option<SystemTime>,
    ) -> Result<Inserted, Fault> {
        let branch = call.branch();
        let inserted: Result<Option<(String, bool)>, _> = sqlx::query_as(INSERT)
            .bind(branch.tx_id)
            .bind(&branch.branch_id)
            .bind(&branch.participant)
            .bind(&branch.gid)
            .bind(&call.call.action)
            .bind(mode_name(call.mode))
            .bind(row.state.as_str())
            .bind(&row.refusal.reason)
            .bind(&row.refusal.message)
            .bind(&branch.cluster_id)
            .bind(until.map(unix_ms))
            .fetch_optional(&mut *self.transaction)
            .await;
        match inserted {
            Ok(Some((xid, late))) => {
                self.xid = xid;
                return Ok(Inserted::New { late });
            }
            Ok(None) => {}
            Err(error) if error::code(&error) == Some(LOCK_TIMEOUT) => {
                return Err(Fault::Busy);
            }
            Err(error) => return Err(fault("insert the branch's barrier row")(error)),
        }
        // A statement of its own: the insert's snapshot may be older than the row that it met.
        let found: Option<Columns> = sqlx::query_as(FIND)
            .bind(branch.tx_id)
            .bind(&branch.branch_id)
            .fetch_optional(&mut *self.transaction)
            .await
            .map_err(fault("read the branch's barrier row"))?;
        match found {
            Some(columns) => Ok(Inserted::Found(Row::from_columns(columns)?)),
            None => Err(Fault::Busy),
        }
    }

    async fn lock(&mut self, call: &RawCall) -> Result<Option<Row>, Fault> {
        type Found = (String, Vec<u8>, String, String, String);
        let found: Result<Option<Found>, _> = sqlx::query_as(LOCK)
            .bind(call.branch().tx_id)
            .bind(&call.branch().branch_id)
            .fetch_optional(&mut *self.transaction)
            .await;
        match found {
            Ok(Some((state, output, reason, message, xid))) => {
                self.xid = xid;
                Row::from_columns((state, output, reason, message)).map(Some)
            }
            Ok(None) => Ok(None),
            Err(error) if error::code(&error) == Some(LOCK_TIMEOUT) => Err(Fault::Busy),
            Err(error) => Err(fault("lock the branch's barrier row")(error)),
        }
    }

    async fn savepoint(&mut self) -> Result<(), Fault> {
        self.run("set a savepoint", "SAVEPOINT unanimo").await
    }

    async fn undo(&mut self) -> Result<(), Fault> {
        self.run("go back to the savepoint", "ROLLBACK TO SAVEPOINT unanimo").await
    }

    fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    async fn check(&mut self) -> Result<Option<Refusal>, Fault> {
        let checked = sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE");
        match checked.execute(&mut *self.transaction).await {
            Ok(_) => Ok(None),
            Err(error) => match error::violation(&error) {
                Some(refusal) => Ok(Some(refusal)),
                None => Err(fault("check deferred constraints")(error)),
            },
        }
    }

    async fn mark(&mut self, call: &RawCall, row: &Row) -> Result<(), Fault> {
        let done = sqlx::query(MARK)
            .bind(call.branch().tx_id)
            .bind(&call.branch().branch_id)
            .bind(row.state.as_str())
            .bind(row.output.as_ref())
            .bind(&row.refusal.reason)
            .bind(&row.refusal.message)
            .bind(&self.xid)
            .execute(&mut *self.transaction)
            .await
            .map_err(fault("update the branch's barrier row"))?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(Fault::Wrong("it ended the local transaction that it was given")),
        }
    }

    async fn commit(self) -> Result<Option<Refusal>, Fault> {
        match self.transaction.commit().await {
            Ok(()) => Ok(None),
            Err(error) => match error::violation(&error) {
                Some(refusal) => Ok(Some(refusal)),
                None => Err(fault("commit the local transaction")(error)),
            },
        }
    }
}

impl PgBlock {
    async fn run(&mut self, doing: &'static str, statement: &'static str) -> Result<(), Fault> {
        let done = sqlx::raw_sql(statement).execute(&mut *self.transaction).await;
        done.map(drop).map_err(fault(doing))
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds are exact for 285,000 years")]
fn unix_ms(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_millis() as f64)
}
