//! Two-phase commit on `PREPARE TRANSACTION`.
//!
//! The branch's barrier row is inside the prepared transaction. It says `committed`, and nobody sees
//! it before that is so: it is the proof where COMMIT PREPARED finds nothing to commit. While the
//! transaction is prepared its row locks out every duplicate, and the tombstone of a Cancel.

use std::time::SystemTime;

use sqlx::{AssertSqlSafe, PgConnection};

use super::Postgres;
use super::block::{PgBlock, affirm, level, savepoint};
use super::error::{
    self, DUPLICATE_OBJECT, LOCK_TIMEOUT, NOT_IN_STATE, NOT_PERMITTED, NOT_SUPPORTED,
    OUT_OF_MEMORY, UNDEFINED_OBJECT, fault,
};
use super::name::name;
use crate::action::Registered;
use crate::barrier::{self, Block, Blocks, Columns, Row, State, Worked};
use crate::handler::PrepareError;
use crate::payload::Payload;
use crate::refusal::Refusal;
use crate::resource::{Fault, Local, PhaseTwoAnswer, PhaseTwoOperation, RawCall, Voted};
use crate::wire::presentable;

/// Times that Cancel takes turns between rolling back and leaving its tombstone: a Prepare that is
/// under way can get in between once.
const TURNS_MAX: usize = 4;

impl Postgres {
    /// Phase one: works, and prepares the transaction.
    pub(super) async fn prepare_transaction(
        &self,
        call: &RawCall,
        until: Option<SystemTime>,
        action: &Registered<PgConnection>,
    ) -> Result<Voted, Fault> {
        if self.is_prepared(call).await? {
            return Ok(Voted::Prepared(Payload::default()));
        }
        let blocks = self.for_prepare();
        let block = blocks.begin(action.isolation).await?;
        let mut block = match barrier::work(block, call, until, action).await {
            Ok(Worked::Answered(voted)) => return Ok(voted),
            Ok(Worked::Found(voted)) => return blocks.affirm(call).await.map(|()| voted),
            Ok(Worked::Gone(refusal)) => return barrier::refuse(&blocks, call, refusal).await,
            Ok(Worked::Done(block, _)) => block,
            // By a twin at work, or by one that has prepared meanwhile.
            Err(Fault::Busy) if self.is_prepared(call).await? => {
                return Ok(Voted::Prepared(Payload::default()));
            }
            Err(fault) => return Err(fault),
        };
        // The last statement before PREPARE, which answers success in a block that has failed.
        block.mark(call, &Row::new(State::Committed)).await?;
        crash_point!("participant-before-prepare-transaction");
        match prepare(block, call).await? {
            None => {
                crash_point!("participant-after-prepare-transaction");
                Ok(Voted::Prepared(Payload::default()))
            }
            // Transaction and row are gone: the no needs a row of its own.
            Some(refusal) => barrier::refuse(&blocks, call, refusal).await,
        }
    }

    /// Phase one of an action that only reads.
    pub(super) async fn read(
        &self,
        call: &RawCall,
        until: Option<SystemTime>,
        action: &Registered<PgConnection>,
    ) -> Result<Voted, Fault> {
        if let Some(row) = self.find(&self.prepare, call).await? {
            affirm(&self.prepare).await?;
            return row.vote();
        }
        // Inside a savepoint nothing makes a read-only transaction another one.
        let (level, savepoint) = (level(action.isolation), savepoint());
        let statement = format!("BEGIN ISOLATION LEVEL {level} READ ONLY; SAVEPOINT {savepoint}");
        let begun = Local::begin(&self.prepare, AssertSqlSafe(statement)).await;
        let mut transaction = begun.map_err(fault("begin a transaction"))?;
        let row = match action.action.prepare(&mut transaction, &call.call).await {
            Ok(_) => {
                still_reading(&mut transaction, &savepoint).await?;
                Row::new(State::ReadOnly)
            }
            Err(PrepareError::Refused(refusal)) => Row::refused(presentable(refusal)),
            Err(PrepareError::Working(pause)) => {
                transaction.release();
                return Ok(Voted::Working(pause));
            }
            Err(PrepareError::Failed(failed)) => {
                back_to_the_beginning(&mut transaction, &savepoint).await?;
                let error = failed.as_ref();
                let of_the_work = || error::of_the_work_among(error, action.isolation);
                match error::wrote(error).or_else(of_the_work) {
                    Some(refusal) => Row::refused(presentable(refusal)),
                    None => {
                        transaction.release();
                        return Err(Fault::Handler(failed));
                    }
                }
            }
        };
        // There is nothing to lose: it only read.
        transaction.release();
        let found = barrier::leave(&self.for_prepare(), call, &row, until).await?;
        found.unwrap_or(row).vote()
    }

    /// Phase two after COMMIT.
    pub(super) async fn commit_prepared(&self, call: &RawCall) -> Result<PhaseTwoAnswer, Fault> {
        match self.end_prepared("commit the prepared transaction", "COMMIT PREPARED", call).await? {
            End::Done => Ok(PhaseTwoAnswer::Done),
            End::Busy => Err(Fault::Busy),
            // Committed before, or lost: the row tells.
            End::Missing => match self.find(&self.phase_two, call).await? {
                Some(row) => {
                    affirm(&self.phase_two).await?;
                    Ok(row.end(PhaseTwoOperation::Commit).unwrap_or(PhaseTwoAnswer::Done))
                }
                None => barrier::nothing_to_commit(&self.for_phase_two(), call).await,
            },
        }
    }

    /// Phase two after ABORT: nothing is prepared, and nothing ever will be.
    pub(super) async fn rollback_prepared(&self, call: &RawCall) -> Result<PhaseTwoAnswer, Fault> {
        for _ in 0..TURNS_MAX {
            let doing = "roll the prepared transaction back";
            match self.end_prepared(doing, "ROLLBACK PREPARED", call).await? {
                End::Done | End::Missing => {}
                End::Busy => return Err(Fault::Busy),
            }
            // By a Prepare at work, or one that has prepared meanwhile: from the beginning.
            match barrier::leave_tombstone(&self.for_phase_two(), call).await {
                Err(Fault::Busy) | Ok(None) => {}
                Ok(Some(answered)) => return Ok(answered),
                Err(fault) => return Err(fault),
            }
        }
        Err(Fault::Busy)
    }

    /// Tells whether the branch's transaction is prepared, durably.
    async fn is_prepared(&self, call: &RawCall) -> Result<bool, Fault> {
        const DOING: &str = "look for the prepared transaction";
        let found = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM pg_prepared_xacts
                            WHERE gid = $1 AND database = current_database())",
        );
        let found = found.bind(name(call.branch())).fetch_one(&self.prepare).await;
        let found: bool = found.map_err(fault(DOING))?;
        if found {
            // It is shown before it has reached a synchronous standby. What is committed behind it
            // waits for that.
            affirm(&self.prepare).await?;
        }
        Ok(found)
    }

    async fn find(&self, pool: &sqlx::PgPool, call: &RawCall) -> Result<Option<Row>, Fault> {
        let found: Option<Columns> = sqlx::query_as(
            "SELECT state, output, output_type, reason, message FROM unanimo_barrier
             WHERE tx_id = $1 AND branch_id = $2",
        )
        .bind(call.branch().tx_id)
        .bind(&call.branch().branch_id)
        .fetch_optional(pool)
        .await
        .map_err(fault("read the branch's barrier row"))?;
        found.map(Row::from_columns).transpose()
    }

    /// Names the role that prepared the transaction, and the way out.
    async fn not_permitted(&self, doing: &str, error: &sqlx::Error, name: String) -> Fault {
        let roles = "SELECT owner || ', and this session is ' || current_user
                     FROM pg_prepared_xacts WHERE gid = $1";
        let roles = sqlx::query_scalar(roles).bind(name).fetch_optional(&self.phase_two).await;
        let roles: String = roles.ok().flatten().unwrap_or_else(|| "another role".to_owned());
        let hint = format!(
            "only the role that prepared it, or a superuser, can: that is {roles}. Let every role that this \
             participant logs in with work as one: ALTER ROLE … SET role = '…'"
        );
        set_up(doing, error, &hint)
    }

    /// Ends the prepared transaction by this operation of the database.
    async fn end_prepared(
        &self,
        doing: &'static str,
        operation: &'static str,
        call: &RawCall,
    ) -> Result<End, Fault> {
        crash_point!("participant-before-end-prepared");
        let name = name(call.branch());
        let statement = format!("{operation} '{name}'");
        // The name is of an alphabet that needs no quoting.
        let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&self.phase_two).await;
        match done {
            Ok(_) => {
                crash_point!("participant-after-end-prepared");
                Ok(End::Done)
            }
            Err(error) => match error::code(&error) {
                Some(UNDEFINED_OBJECT) => Ok(End::Missing),
                Some(NOT_IN_STATE | LOCK_TIMEOUT) => Ok(End::Busy),
                Some(NOT_PERMITTED) => Err(self.not_permitted(doing, &error, name).await),
                Some(NOT_SUPPORTED) => Err(set_up(
                    doing,
                    &error,
                    "all processes of a participant must use one database",
                )),
                _ => Err(fault(doing)(error)),
            },
        }
    }
}

/// Result of an attempt to end a prepared transaction.
enum End {
    Done,
    Missing,
    Busy,
}

/// Prepares the block's transaction. `Some` says that this failed for good, and why.
async fn prepare(block: PgBlock, call: &RawCall) -> Result<Option<Refusal>, Fault> {
    let isolation = block.isolation();
    let mut transaction = block.into_inner();
    // sqlx does not know that PREPARE ends the transaction: it is given another one to roll back.
    let statement = format!("PREPARE TRANSACTION '{}'; BEGIN", name(call.branch()));
    let Err(error) = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *transaction).await
    else {
        transaction.release();
        return Ok(None);
    };
    if error::code(&error).is_some() {
        // The server has rolled back.
        transaction.release();
    }
    // Not by a twin, which holds the row: and so it may well have voted yes.
    if error::code(&error) == Some(DUPLICATE_OBJECT) {
        return Err(set_up(
            "prepare the transaction",
            &error,
            "it is prepared in another database of the server, and all processes of a participant \
             must use one",
        ));
    }
    match impossible(&error).or_else(|| error::of_the_work(&error, isolation)) {
        Some(refusal) => Ok(Some(refusal)),
        None => Err(fault("prepare the transaction")(error)),
    }
}

/// Fails if the handler's read-only transaction is not what it was: it has failed, or the handler has
/// ended it.
async fn still_reading(connection: &mut PgConnection, savepoint: &str) -> Result<(), Fault> {
    let release = AssertSqlSafe(format!("RELEASE SAVEPOINT {savepoint}"));
    let released = sqlx::raw_sql(release).execute(connection).await;
    released.map(drop).map_err(|error| nothing_kept(error::not_released(error)))
}

/// Fails if a handler that has failed has ended its read-only transaction besides.
async fn back_to_the_beginning(
    connection: &mut PgConnection,
    savepoint: &str,
) -> Result<(), Fault> {
    let undo = AssertSqlSafe(format!("ROLLBACK TO SAVEPOINT {savepoint}"));
    match sqlx::raw_sql(undo).execute(connection).await {
        Err(error) if error::is_gone(&error) => Err(nothing_kept(barrier::lost())),
        // Whatever else it is, the handler's error tells more.
        _ => Ok(()),
    }
}

/// A session that only reads keeps nothing of a handler that has lost its transaction.
fn nothing_kept(fault: Fault) -> Fault {
    match fault {
        Fault::Lost(text) => Fault::Wrong(text),
        other => other,
    }
}

/// A refusal of the database that lasts until somebody mends the set-up.
fn set_up(doing: &str, error: &sqlx::Error, hint: &str) -> Fault {
    Fault::SetUp(format!("the database refused to {doing}: {error}; {hint}"))
}

/// Returns the vote no for an error that would come again.
fn impossible(error: &sqlx::Error) -> Option<Refusal> {
    let reason = match error::code(error)? {
        OUT_OF_MEMORY if error::raised_by(error, "MarkAsPreparing") => "PREPARED_TRANSACTIONS_FULL",
        NOT_IN_STATE => "PREPARED_TRANSACTIONS_DISABLED",
        NOT_SUPPORTED => "CANNOT_BE_PREPARED",
        _ => return None,
    };
    let hint = match reason {
        "CANNOT_BE_PREPARED" => "",
        _ => "; max_prepared_transactions of PostgreSQL limits them, and is 0 by default",
    };
    Some(Refusal::new(reason, format!("{error}{hint}")))
}
