//! Two-phase commit on `PREPARE TRANSACTION`.

use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres as Db};

use super::Postgres;
use super::block::{PgBlock, affirm, level, savepoint};
use super::error::{
    self, DUPLICATE_OBJECT, LOCK_TIMEOUT, NOT_IN_STATE, NOT_PERMITTED, NOT_SUPPORTED,
    OUT_OF_MEMORY, UNDEFINED_OBJECT, fault,
};
use super::name::name;
use crate::barrier::{self, Blocks, Columns, Row};
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::{Fault, Local, PhaseTwoOperation, RawCall};
use crate::two_phase::{End, Phase, Prepares, Reading};

impl Prepares for Postgres {
    type Block = PgBlock;
    type Reading = PgReading;

    fn blocks(&self, phase: Phase) -> impl Blocks<Block = PgBlock> {
        match phase {
            Phase::One => self.for_prepare(),
            Phase::Two => self.for_phase_two(),
        }
    }

    async fn begin(&self, call: &RawCall, isolation: Isolation) -> Result<Option<PgBlock>, Fault> {
        if self.is_prepared(call).await? {
            return Ok(None);
        }
        self.for_prepare().begin(isolation).await.map(Some)
    }

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

    async fn prepare(&self, block: PgBlock, call: &RawCall) -> Result<Option<Refusal>, Fault> {
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

    async fn end(&self, operation: PhaseTwoOperation, call: &RawCall) -> Result<End, Fault> {
        let (doing, operation) = match operation {
            PhaseTwoOperation::Commit => ("commit the prepared transaction", "COMMIT PREPARED"),
            PhaseTwoOperation::Cancel => {
                ("roll the prepared transaction back", "ROLLBACK PREPARED")
            }
        };
        let name = name(call.branch());
        let statement = format!("{operation} '{name}'");
        // The name is of an alphabet that needs no quoting.
        let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&self.phase_two).await;
        let Err(error) = done else { return Ok(End::Done) };
        match error::code(&error) {
            Some(UNDEFINED_OBJECT) => Ok(End::Missing),
            Some(NOT_IN_STATE | LOCK_TIMEOUT) => Ok(End::Busy),
            Some(NOT_PERMITTED) => Err(self.not_permitted(doing, &error, name).await),
            Some(NOT_SUPPORTED) => {
                Err(set_up(doing, &error, "all processes of a participant must use one database"))
            }
            _ => Err(fault(doing)(error)),
        }
    }

    async fn find(&self, phase: Phase, call: &RawCall) -> Result<Option<Row>, Fault> {
        let found: Option<Columns> = sqlx::query_as(
            "SELECT state, output, output_type, reason, message FROM unanimo_barrier
             WHERE tx_id = $1 AND branch_id = $2",
        )
        .bind(call.branch().tx_id)
        .bind(&call.branch().branch_id)
        .fetch_optional(self.pool(phase))
        .await
        .map_err(fault("read the branch's barrier row"))?;
        found.map(Row::from_columns).transpose()
    }

    async fn begin_reading(&self, isolation: Isolation) -> Result<PgReading, Fault> {
        let (level, savepoint) = (level(isolation), savepoint());
        let statement = format!("BEGIN ISOLATION LEVEL {level} READ ONLY; SAVEPOINT {savepoint}");
        let begun = Local::begin(&self.prepare, AssertSqlSafe(statement)).await;
        let transaction = begun.map_err(fault("begin a transaction"))?;
        Ok(PgReading { transaction, isolation, savepoint })
    }
}

impl Postgres {
    fn pool(&self, phase: Phase) -> &PgPool {
        match phase {
            Phase::One => &self.prepare,
            Phase::Two => &self.phase_two,
        }
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
}

/// A read-only transaction with its savepoint.
#[derive(Debug)]
pub(crate) struct PgReading {
    transaction: Local<Db>,
    isolation: Isolation,
    savepoint: String,
}

impl Reading for PgReading {
    type Connection = PgConnection;

    fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    async fn is_intact(&mut self) -> Result<(), Fault> {
        let release = AssertSqlSafe(format!("RELEASE SAVEPOINT {}", self.savepoint));
        let released = sqlx::raw_sql(release).execute(&mut *self.transaction).await;
        released.map(drop).map_err(|error| nothing_kept(error::not_released(error)))
    }

    async fn is_there(&mut self) -> Result<(), Fault> {
        let undo = AssertSqlSafe(format!("ROLLBACK TO SAVEPOINT {}", self.savepoint));
        match sqlx::raw_sql(undo).execute(&mut *self.transaction).await {
            Err(error) if error::is_gone(&error) => Err(nothing_kept(barrier::lost())),
            // Whatever else it is, the handler's error tells more.
            _ => Ok(()),
        }
    }

    fn refusal(&self, error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
        error::wrote(error).or_else(|| error::of_the_work_among(error, self.isolation))
    }

    fn release(self) {
        self.transaction.release();
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
