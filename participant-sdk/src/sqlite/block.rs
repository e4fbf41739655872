//! A local transaction with the branch's row in it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteError;
use sqlx::{AssertSqlSafe, Sqlite as Db, SqliteConnection, SqlitePool};
use uuid::Uuid;

use crate::barrier::{
    self, Block, Blocks, Columns, Inserted, PATIENCE, Row, bind_new_row, bind_outcome,
};
use crate::causes;
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::{Fault, Local, RawCall};

const INSERT: &str = "
INSERT INTO unanimo_barrier
    (tx_id, branch_id, cluster_id, participant, gid, action, mode, state, reason, message,
     prepare_until_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (tx_id, branch_id) DO NOTHING
RETURNING coalesce(CAST(unixepoch('subsec') * 1000 AS integer) > prepare_until_ms, 0)";

const FIND: &str = "
SELECT state, output, output_type, reason, message FROM unanimo_barrier WHERE tx_id = $1 AND branch_id = $2";

const MARK: &str = "
UPDATE unanimo_barrier
SET state = $1, output = $2, output_type = $3, reason = $4, message = $5,
    changed_ms = CAST(unixepoch('subsec') * 1000 AS integer)
WHERE tx_id = $6 AND branch_id = $7";

/// Begins local transactions on a pool's connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct SqliteBlocks<'p> {
    pub(super) pool: &'p SqlitePool,
}

/// A transaction that holds the file's write lock from its beginning: no other one is at work.
#[derive(Debug)]
pub(super) struct SqliteBlock {
    transaction: Local<Db>,
    /// The connection may commit. Before that every commit is turned into a rollback: that of a handler
    /// that ends its transaction, and that of each statement after one that was lost.
    may_commit: Arc<AtomicBool>,
    /// Interrupts whatever runs when the block is dropped, or when a statement of ours waits behind one that the handler
    /// has given up.
    ends_with_it: Interrupt,
    /// A handler has had the connection.
    is_handled: bool,
    /// Names of two savepoints, which no handler can know: one at the transaction's beginning, which is
    /// there as long as the transaction is, and one behind the row.
    proof: String,
    savepoint: String,
}

/// Steps of SQLite's virtual machine, of which a processor does some millions a second, between two looks at whether
/// anybody still waits.
const STEPS: i32 = 10_000;

/// Ends a statement with the operation that runs it. The thread of a connection works on for as long as the statement
/// takes, and holds the file's write lock: a connection that is closed waits for it.
#[derive(Debug, Default)]
struct Interrupt {
    is_asked: Arc<AtomicBool>,
    /// It has met a statement.
    is_done: Arc<AtomicBool>,
}

impl Interrupt {
    /// Interrupts nothing: the transaction has ended, and the connection may be used again.
    fn disarm(mut self) {
        self.is_asked = Arc::default();
    }

    /// Returns what tells whether a statement goes on.
    fn goes_on(&self) -> impl Fn() -> bool + Send + 'static {
        let (is_asked, is_done) = (Arc::clone(&self.is_asked), Arc::clone(&self.is_done));
        move || {
            let interrupts = is_asked.load(Ordering::SeqCst);
            is_done.fetch_or(interrupts, Ordering::SeqCst);
            !interrupts
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.is_asked.store(true, Ordering::SeqCst);
    }
}

impl Blocks for SqliteBlocks<'_> {
    type Block = SqliteBlock;

    async fn begin(&self, _: Isolation) -> Result<SqliteBlock, Fault> {
        let doing = fault("begin a transaction");
        let mut transaction = Local::begin(self.pool, "BEGIN IMMEDIATE").await.map_err(&doing)?;
        let [proof, savepoint] = [(); 2].map(|()| format!("unanimo_{}", Uuid::now_v7().simple()));
        let marker = AssertSqlSafe(format!("SAVEPOINT {proof}"));
        sqlx::raw_sql(marker).execute(&mut *transaction).await.map_err(&doing)?;
        let may_commit = Arc::new(AtomicBool::new(false));
        let may = Arc::clone(&may_commit);
        let mut handle = transaction.lock_handle().await.map_err(&doing)?;
        handle.set_commit_hook(move || may.load(Ordering::SeqCst));
        let ends_with_it = Interrupt::default();
        handle.set_progress_handler(STEPS, ends_with_it.goes_on());
        drop(handle);
        let is_handled = false;
        Ok(SqliteBlock { transaction, may_commit, ends_with_it, is_handled, proof, savepoint })
    }
}

impl Block for SqliteBlock {
    type Connection = SqliteConnection;

    /// Nothing commits on the connection before [`Self::commit`].
    const KEEPS_NOTHING: bool = true;

    async fn insert(
        &mut self,
        call: &RawCall,
        row: &Row,
        until: Option<SystemTime>,
    ) -> Result<Inserted, Fault> {
        let inserted: Option<bool> = bind_new_row!(
            sqlx::query_scalar(INSERT),
            call.branch().tx_id.to_string(),
            call,
            row,
            until
        )
        .fetch_optional(&mut *self.transaction)
        .await
        .map_err(fault("insert the branch's barrier row"))?;
        if let Some(late) = inserted {
            return Ok(Inserted::New { late });
        }
        match self.lock(call).await? {
            Some(row) => Ok(Inserted::Found(row)),
            None => Err(Fault::Busy),
        }
    }

    /// Reading it is enough: who does so here is the only writer.
    async fn lock(&mut self, call: &RawCall) -> Result<Option<Row>, Fault> {
        let found: Option<Columns> = sqlx::query_as(FIND)
            .bind(call.branch().tx_id.to_string())
            .bind(&call.branch().branch_id)
            .fetch_optional(&mut *self.transaction)
            .await
            .map_err(fault("read the branch's barrier row"))?;
        found.map(Row::from_columns).transpose()
    }

    /// Nobody but us can commit, so that nobody would see it.
    async fn claim(&mut self, _: &RawCall) -> Result<(), Fault> {
        Ok(())
    }

    async fn savepoint(&mut self) -> Result<(), Fault> {
        let statement = format!("SAVEPOINT {}", self.savepoint);
        self.run(statement).await.map_err(fault("set a savepoint"))
    }

    async fn undo(&mut self) -> Result<(), Fault> {
        let statement = format!("ROLLBACK TO {}", self.savepoint);
        self.behind(statement).await?.map_err(|error| match primary_code_of(&error) {
            // There is no such savepoint.
            Some(GENERIC) => barrier::lost(),
            _ => fault("go back to the savepoint")(error),
        })
    }

    fn refusal(&self, error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
        let mut causes = std::iter::successors(Some(error), |error| error.source());
        causes.find_map(of_the_work)
    }

    async fn is_lost(&mut self) -> Option<bool> {
        Some(matches!(self.undo().await, Err(Fault::Lost(_))))
    }

    fn connection(&mut self) -> &mut SqliteConnection {
        self.is_handled = true;
        &mut self.transaction
    }

    /// SQLite checks deferred foreign keys when it commits, and knows no statement that checks them
    /// before: so the commit tells.
    async fn check(&mut self) -> Result<Option<Refusal>, Fault> {
        Ok(None)
    }

    async fn mark(&mut self, call: &RawCall, row: &Row) -> Result<(), Fault> {
        // A handler may have made the connection read-only. The marker is gone if it has lost the
        // transaction: then nothing holds the row and its work together.
        let marked = self.behind(format!("PRAGMA query_only = 0; RELEASE {}", self.proof)).await?;
        if marked.is_err() {
            return Err(barrier::lost());
        }
        bind_outcome!(sqlx::query(MARK), row, call.branch().tx_id.to_string(), call)
            .execute(&mut *self.transaction)
            .await
            .map_err(fault("update the branch's barrier row"))?;
        Ok(())
    }

    /// A row can be seen once it is in the log on the disk, and there is no standby.
    async fn write(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    async fn commit(self) -> Result<Option<Refusal>, Fault> {
        self.may_commit.store(true, Ordering::SeqCst);
        let no = |error: &sqlx::Error| of_the_work(error);
        let ended =
            barrier::commit(self.transaction, no, fault("commit the local transaction")).await;
        self.ends_with_it.disarm();
        ended
    }

    /// The rollback waits for a statement that a handler has given up, and that is interrupted: its connection is used once.
    fn release(self) {
        self.transaction.release();
        if !self.is_handled {
            self.ends_with_it.disarm();
        }
    }
}

impl SqliteBlock {
    async fn run(&mut self, statement: String) -> sqlx::Result<()> {
        let statement = sqlx::raw_sql(AssertSqlSafe(statement));
        statement.execute(&mut *self.transaction).await.map(drop)
    }

    /// Runs a statement behind a handler. One of the handler's that is in its way, whose future the handler has dropped, is
    /// interrupted: ours is far too short to be.
    async fn behind(&mut self, statement: String) -> Result<sqlx::Result<()>, Fault> {
        let statement = sqlx::raw_sql(AssertSqlSafe(statement));
        let mut running = pin!(statement.execute(&mut *self.transaction));
        let done = match tokio::time::timeout(PATIENCE, &mut running).await {
            Ok(done) => done,
            Err(_) => {
                self.ends_with_it.is_asked.store(true, Ordering::SeqCst);
                let done = running.await;
                if self.ends_with_it.is_done.load(Ordering::SeqCst) {
                    // What it was a part of may be rolled back with it.
                    return Err(barrier::gave_up());
                }
                self.ends_with_it.is_asked.store(false, Ordering::SeqCst);
                done
            }
        };
        Ok(done.map(drop))
    }
}

/// An error of SQLite as a fault. After an I/O error the statement is indeterminate.
pub(super) fn fault(doing: &'static str) -> impl Fn(sqlx::Error) -> Fault {
    move |error| match error.as_database_error() {
        Some(answer) if primary_code(answer) == Some(BUSY) => Fault::Busy,
        Some(answer) if primary_code(answer) != Some(IO_ERROR) => Fault::Definite {
            doing,
            code: answer.code().unwrap_or_default().into_owned(),
            text: answer.message().to_owned(),
        },
        _ => Fault::Indeterminate { doing, text: error.to_string() },
    }
}

/// Tells whether a statement has named a table that is not there.
pub(super) fn is_unknown_table(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|answer| answer.message().starts_with("no such table"))
}

/// Tells whether an error, or what caused it, is a wait for another transaction that has ended without it.
pub(super) fn is_locked_out(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| answer_of(cause).and_then(primary_code) == Some(BUSY))
}

/// `SQLITE_ERROR`.
const GENERIC: i64 = 1;

/// `SQLITE_BUSY`: another transaction is at work; the statement did not run.
const BUSY: i64 = 5;

/// `SQLITE_IOERR`.
const IO_ERROR: i64 = 10;

/// Errors that speak of the work and would be raised again: they are a vote no. All others are no vote, such
/// as `SQLITE_ERROR`, which is a column or a table that is not there, and `SQLITE_FULL`. `SQLITE_ERROR` is an
/// overflow of integers, too: nothing but its text tells that apart.
const OF_THE_WORK: [i64; 11] = [
    18, // SQLITE_TOOBIG
    CONSTRAINT, 20,   // SQLITE_MISMATCH
    275,  // SQLITE_CONSTRAINT_CHECK
    787,  // SQLITE_CONSTRAINT_FOREIGNKEY
    1299, // SQLITE_CONSTRAINT_NOTNULL
    1555, // SQLITE_CONSTRAINT_PRIMARYKEY
    1811, // SQLITE_CONSTRAINT_TRIGGER: what a trigger raises
    2067, // SQLITE_CONSTRAINT_UNIQUE: there is one writer at a time, so it saw the row in its way
    2579, // SQLITE_CONSTRAINT_ROWID
    3091, // SQLITE_CONSTRAINT_DATATYPE
];

const CONSTRAINT: i64 = 19;

/// The lowest byte of an extended code.
fn primary_code(answer: &dyn sqlx::error::DatabaseError) -> Option<i64> {
    Some(extended_code(answer)? & 0xff)
}

fn primary_code_of(error: &sqlx::Error) -> Option<i64> {
    primary_code(error.as_database_error()?)
}

fn extended_code(answer: &dyn sqlx::error::DatabaseError) -> Option<i64> {
    answer.code()?.parse().ok()
}

fn answer_of<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e (dyn DatabaseError + 'static)> {
    let unpacked =
        || error.downcast_ref::<SqliteError>().map(|answer| answer as &dyn DatabaseError);
    causes::answer(error).or_else(unpacked)
}

/// Returns the vote no for an error that speaks of the work.
fn of_the_work(error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
    let answer = answer_of(error)?;
    let code = extended_code(answer).filter(|code| OF_THE_WORK.contains(code))?;
    let is_constraint = code & 0xff == CONSTRAINT;
    let reason = if is_constraint { "CONSTRAINT_VIOLATED" } else { "DATABASE_REFUSED" };
    Some(Refusal::new(reason, answer.message()))
}
