//! A local transaction with the branch's row in it.

use std::time::SystemTime;

use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres as Db};
use uuid::Uuid;

use super::Reset;
use super::error::{self, NO_SUCH_STATEMENT, fault};
use crate::barrier::{self, Block, Blocks, Columns, Inserted, Row, bind_new_row, bind_outcome};
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::{Fault, Local, RawCall};

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

/// Everybody sees it if the handler commits by itself.
const CLAIM: &str =
    "UPDATE unanimo_barrier SET state = 'running' WHERE tx_id = $1 AND branch_id = $2";

/// A row with no content in the write-ahead log: its commit waits for whatever a commit waits for.
const AFFIRM: &str =
    "BEGIN READ WRITE; SELECT pg_logical_emit_message(true, 'unanimo', '')::text; COMMIT";

/// Begins local transactions on a pool's connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct PgBlocks<'p> {
    pub(super) pool: &'p PgPool,
    pub(super) reset: &'p Reset,
    /// They begin with the savepoint that phase one sets behind the row.
    pub(super) with_savepoint: bool,
}

#[derive(Debug)]
pub(crate) struct PgBlock {
    transaction: Local<Db>,
    isolation: Isolation,
    reset: Reset,
    /// Name of the savepoint that is set before the handler, which cannot know it. It is there as long as
    /// the transaction is.
    savepoint: String,
    /// The transaction's id, once the row is inserted or locked.
    xid: String,
}

impl Blocks for PgBlocks<'_> {
    type Block = PgBlock;

    async fn begin(&self, isolation: Isolation) -> Result<PgBlock, Fault> {
        let level = level(isolation);
        let savepoint = savepoint();
        let mut statement = format!("BEGIN ISOLATION LEVEL {level} READ WRITE");
        if self.with_savepoint {
            statement = format!("{statement}; SAVEPOINT {savepoint}");
        }
        let begun = Local::begin(self.pool, AssertSqlSafe(statement)).await;
        let transaction = begun.map_err(fault("begin a transaction"))?;
        let reset = Reset::clone(self.reset);
        Ok(PgBlock { transaction, isolation, reset, savepoint, xid: String::new() })
    }

    async fn affirm(&self, _: &RawCall) -> Result<(), Fault> {
        affirm(self.pool).await
    }
}

/// Commits a write of its own.
pub(super) async fn affirm(pool: &PgPool) -> Result<(), Fault> {
    let done = sqlx::raw_sql(AFFIRM).execute(pool).await;
    done.map(drop).map_err(fault("commit behind what was found"))
}

/// Returns the words of SQL for an isolation.
pub(super) fn level(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadCommitted => "READ COMMITTED",
        Isolation::RepeatableRead => "REPEATABLE READ",
    }
}

/// Returns a name for a savepoint, which no handler can know.
pub(super) fn savepoint() -> String {
    format!("unanimo_{}", Uuid::now_v7().simple())
}

impl PgBlock {
    pub(super) fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// The transaction itself, to end it in another way than [`Block::commit`].
    pub(super) fn into_inner(self) -> Local<Db> {
        self.transaction
    }
}

impl Block for PgBlock {
    type Connection = PgConnection;

    /// A session only reads outside of our transactions. A handler that asks for more can still write.
    const KEEPS_NOTHING: bool = false;

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

    async fn claim(&mut self, call: &RawCall) -> Result<(), Fault> {
        let done = sqlx::query(CLAIM)
            .bind(call.branch().tx_id)
            .bind(&call.branch().branch_id)
            .execute(&mut *self.transaction)
            .await;
        match done {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed("claim the branch's barrier row", error).await),
        }
    }

    async fn savepoint(&mut self) -> Result<(), Fault> {
        let statement = format!("SAVEPOINT {}", self.savepoint);
        self.run(statement).await.map_err(fault("set a savepoint"))
    }

    async fn undo(&mut self) -> Result<(), Fault> {
        let statement = format!("ROLLBACK TO SAVEPOINT {}", self.savepoint);
        self.run(statement).await.map_err(|error| match error::is_gone(&error) {
            true => barrier::lost(),
            false => fault("go back to the savepoint")(error),
        })
    }

    fn refusal(&self, error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
        error::of_the_work_among(error, self.isolation)
    }

    async fn is_lost(&mut self) -> bool {
        matches!(self.undo().await, Err(Fault::Lost(_)))
    }

    fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    async fn check(&mut self) -> Result<Option<Refusal>, Fault> {
        let statement = self.reset.end_handler(&self.savepoint);
        match self.run(statement).await {
            Ok(()) => Ok(None),
            Err(error) => match error::of_the_work(&error, self.isolation) {
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
            _ => Err(barrier::lost()),
        }
    }

    async fn commit(self) -> Result<Option<Refusal>, Fault> {
        let fault = fault("commit the local transaction");
        let isolation = self.isolation;
        let of_the_work = |error: &sqlx::Error| error::of_the_work(error, isolation);
        barrier::commit(self.transaction, of_the_work, fault).await
    }

    fn release(self) {
        self.transaction.release();
    }
}

impl PgBlock {
    async fn run(&mut self, statement: String) -> sqlx::Result<()> {
        let statement = sqlx::raw_sql(AssertSqlSafe(statement));
        statement.execute(&mut *self.transaction).await.map(drop)
    }

    async fn failed(&mut self, doing: &'static str, error: sqlx::Error) -> Fault {
        if error::is_busy(&error) {
            return Fault::Busy;
        }
        // A handler has deallocated them, and sqlx believes that they are there.
        if error::code(&error) == Some(NO_SUCH_STATEMENT) {
            // If this fails, so will the connection's return to its pool.
            let _ = sqlx::Connection::clear_cached_statements(&mut *self.transaction).await;
        }
        fault(doing)(error)
    }
}
