//! A local transaction with the branch's row in it.

use std::time::SystemTime;

use sqlx::{Sqlite as Db, SqliteConnection, SqlitePool, Transaction};

use crate::barrier::{self, Block, Blocks, Columns, Inserted, Row, bind_new_row, bind_outcome};
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::{Fault, RawCall};

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
    transaction: Transaction<'static, Db>,
}

impl Blocks for SqliteBlocks<'_> {
    type Block = SqliteBlock;

    async fn begin(&self, _: Isolation) -> Result<SqliteBlock, Fault> {
        let begun = self.pool.begin_with("BEGIN IMMEDIATE").await;
        let mut transaction = begun.map_err(fault("begin a transaction"))?;
        let marker = sqlx::raw_sql("SAVEPOINT unanimo_block").execute(&mut *transaction).await;
        marker.map_err(fault("begin a transaction"))?;
        Ok(SqliteBlock { transaction })
    }
}

impl Block for SqliteBlock {
    type Connection = SqliteConnection;

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

    /// Whoever reads it here has it locked: there is no other writer.
    async fn lock(&mut self, call: &RawCall) -> Result<Option<Row>, Fault> {
        let found: Option<Columns> = sqlx::query_as(FIND)
            .bind(call.branch().tx_id.to_string())
            .bind(&call.branch().branch_id)
            .fetch_optional(&mut *self.transaction)
            .await
            .map_err(fault("read the branch's barrier row"))?;
        found.map(Row::from_columns).transpose()
    }

    async fn savepoint(&mut self) -> Result<(), Fault> {
        self.run("set a savepoint", "SAVEPOINT unanimo").await
    }

    async fn undo(&mut self) -> Result<(), Fault> {
        self.run("go back to the savepoint", "ROLLBACK TO unanimo").await
    }

    fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.transaction
    }

    /// SQLite checks deferred foreign keys when it commits, and knows no statement that checks them
    /// before: so the commit tells.
    async fn check(&mut self) -> Result<Option<Refusal>, Fault> {
        Ok(None)
    }

    async fn mark(&mut self, call: &RawCall, row: &Row) -> Result<(), Fault> {
        // The marker is gone if the handler ended the transaction: then nothing holds the row and
        // its work together.
        let marked = sqlx::raw_sql("RELEASE unanimo_block").execute(&mut *self.transaction).await;
        if marked.is_err() {
            return Err(Fault::Wrong("it ended the local transaction that it was given"));
        }
        bind_outcome!(sqlx::query(MARK), row, call.branch().tx_id.to_string(), call)
            .execute(&mut *self.transaction)
            .await
            .map_err(fault("update the branch's barrier row"))?;
        Ok(())
    }

    async fn commit(self) -> Result<Option<Refusal>, Fault> {
        barrier::commit(self.transaction, violation, fault("commit the local transaction")).await
    }
}

impl SqliteBlock {
    async fn run(&mut self, doing: &'static str, statement: &'static str) -> Result<(), Fault> {
        let done = sqlx::raw_sql(statement).execute(&mut *self.transaction).await;
        done.map(drop).map_err(fault(doing))
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

/// `SQLITE_BUSY`: another transaction is at work; the statement did not run.
const BUSY: i64 = 5;

/// `SQLITE_IOERR`.
const IO_ERROR: i64 = 10;

/// The lowest byte of an extended code.
fn primary_code(answer: &dyn sqlx::error::DatabaseError) -> Option<i64> {
    answer.code()?.parse::<i64>().ok().map(|code| code & 0xff)
}

/// A broken constraint is the vote no: it would be broken again.
fn violation(error: &sqlx::Error) -> Option<Refusal> {
    let answer = error.as_database_error()?;
    let broken = matches!(
        answer.kind(),
        sqlx::error::ErrorKind::ForeignKeyViolation
            | sqlx::error::ErrorKind::UniqueViolation
            | sqlx::error::ErrorKind::NotNullViolation
            | sqlx::error::ErrorKind::CheckViolation
    );
    broken.then(|| Refusal::new("CONSTRAINT_VIOLATED", answer.message()))
}
