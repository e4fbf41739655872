//! A local transaction with the branch's row in it.

use std::time::SystemTime;

use sqlx::{Connection, PgConnection, PgPool, Postgres as Db, Transaction};

use super::error::{self, NO_SUCH_STATEMENT, fault};
use crate::barrier::{self, Block, Blocks, Columns, Inserted, Row, bind_new_row, bind_outcome};
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::{Fault, RawCall};

/// The row that is inserted, or nothing if there is one. `clock_timestamp()` moves on while the
/// insert waits for a twin; `now()` would stand still from BEGIN.
const INSERT: &str = "
INSERT INTO unanimo_barrier
    (tx_id, branch_id, cluster_id, participant, gid, action, mode, state, reason, message,
     prepare_until)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, to_timestamp($11::bigint / 1000.0))
ON CONFLICT (tx_id, branch_id) DO NOTHING
RETURNING pg_current_xact_id()::text, coalesce(clock_timestamp() > prepare_until, false)";

const FIND: &str = "
SELECT state, output, output_type, reason, message FROM unanimo_barrier WHERE tx_id = $1 AND branch_id = $2";

const LOCK: &str = "
SELECT state, output, output_type, reason, message, pg_current_xact_id()::text FROM unanimo_barrier
WHERE tx_id = $1 AND branch_id = $2 FOR UPDATE";

/// Only in the transaction that inserted or locked the row: a handler may have ended that one, and
/// then nothing holds the row and its own work together.
const MARK: &str = "
UPDATE unanimo_barrier
SET state = $1, output = $2, output_type = $3, reason = $4, message = $5, changed_at = clock_timestamp()
WHERE tx_id = $6 AND branch_id = $7 AND pg_current_xact_id()::text = $8";

/// The handler's settings must not be those of the row's update and of the commit: they could make it
/// asynchronous, look for the row elsewhere, or leave a prepared transaction that another role owns.
/// RESET undoes what was set for the transaction, too, and is itself undone with it.
///
/// The savepoint's end proves that the block is still the one that the handler was given, and it takes
/// with it what the handler may have left open inside.
const END_HANDLER: &str = "SET CONSTRAINTS ALL IMMEDIATE; RELEASE SAVEPOINT unanimo_barrier; \
                         RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL";

/// Begins local transactions on a pool's connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct PgBlocks<'p> {
    pub(super) pool: &'p PgPool,
    /// They begin with the savepoint that phase one sets behind the row.
    pub(super) with_savepoint: bool,
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
        let statement = match (isolation, self.with_savepoint) {
            (Isolation::ReadCommitted, false) => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
            (Isolation::ReadCommitted, true) => {
                "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SAVEPOINT unanimo_barrier"
            }
            (Isolation::RepeatableRead, false) => {
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE"
            }
            (Isolation::RepeatableRead, true) => {
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE; SAVEPOINT unanimo_barrier"
            }
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
        let inserted: Result<Option<(String, bool)>, _> =
            bind_new_row!(sqlx::query_as(INSERT), branch.tx_id, call, row, until)
                .fetch_optional(&mut *self.transaction)
                .await;
        match inserted {
            Ok(Some((xid, late))) => {
                self.xid = xid;
                return Ok(Inserted::New { late });
            }
            Ok(None) => {}
            Err(error) => return Err(self.failed("insert the branch's barrier row", error).await),
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
            // It was rolled back or purged in between.
            None => Err(Fault::Busy),
        }
    }

    async fn lock(&mut self, call: &RawCall) -> Result<Option<Row>, Fault> {
        type Found = (String, Vec<u8>, String, String, String, String);
        let found: Result<Option<Found>, _> = sqlx::query_as(LOCK)
            .bind(call.branch().tx_id)
            .bind(&call.branch().branch_id)
            .fetch_optional(&mut *self.transaction)
            .await;
        match found {
            Ok(Some((state, output, output_type, reason, message, xid))) => {
                self.xid = xid;
                Row::from_columns((state, output, output_type, reason, message)).map(Some)
            }
            Ok(None) => Ok(None),
            Err(error) => Err(self.failed("lock the branch's barrier row", error).await),
        }
    }

    async fn savepoint(&mut self) -> Result<(), Fault> {
        self.run("set a savepoint", "SAVEPOINT unanimo_barrier").await
    }

    async fn undo(&mut self) -> Result<(), Fault> {
        self.run("go back to the savepoint", "ROLLBACK TO SAVEPOINT unanimo_barrier").await
    }

    fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    async fn check(&mut self) -> Result<Option<Refusal>, Fault> {
        match sqlx::raw_sql(END_HANDLER).execute(&mut *self.transaction).await {
            Ok(_) => Ok(None),
            Err(error) => match error::violation(&error) {
                Some(refusal) => Ok(Some(refusal)),
                None => Err(error::not_released(error)),
            },
        }
    }

    async fn mark(&mut self, call: &RawCall, row: &Row) -> Result<(), Fault> {
        let done = bind_outcome!(sqlx::query(MARK), row, call.branch().tx_id, call)
            .bind(&self.xid)
            .execute(&mut *self.transaction)
            .await;
        let done = match done {
            Ok(done) => done,
            Err(error) => return Err(self.failed("update the branch's barrier row", error).await),
        };
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(Fault::Wrong("it ended the local transaction that it was given")),
        }
    }

    async fn commit(self) -> Result<Option<Refusal>, Fault> {
        let fault = fault("commit the local transaction");
        barrier::commit(self.transaction, error::violation, fault).await
    }
}

impl PgBlock {
    async fn run(&mut self, doing: &'static str, statement: &'static str) -> Result<(), Fault> {
        let done = sqlx::raw_sql(statement).execute(&mut *self.transaction).await;
        done.map(drop).map_err(fault(doing))
    }

    async fn failed(&mut self, doing: &'static str, error: sqlx::Error) -> Fault {
        if error::is_busy(&error) {
            return Fault::Busy;
        }
        // A handler has deallocated them, and sqlx believes that they are there.
        if error::code(&error) == Some(NO_SUCH_STATEMENT) {
            // If this fails, so will the connection's return to its pool.
            let _ = self.transaction.clear_cached_statements().await;
        }
        fault(doing)(error)
    }
}
