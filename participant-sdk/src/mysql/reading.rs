//! Transactions of actions that only read.

use sqlx::{AssertSqlSafe, MySql as Db, MySqlConnection};

use super::at_work::Guard;
use super::block::{MySqlBlocks, gone, level, savepoint};
use super::ends::Ends;
use super::error::{self, fault};
use super::statements::own;
use crate::barrier::{self, LOOKS_WITHIN};
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::{Fault, Local};
use crate::two_phase::Reading;

/// A read-only transaction with its savepoint.
#[derive(Debug)]
pub(crate) struct MySqlReading {
    transaction: Local<Db>,
    isolation: Isolation,
    savepoint: String,
    /// Statements that begin or end a transaction, before the handler.
    ends: Ends,
    guard: Guard,
}

impl MySqlReading {
    pub(super) async fn begin(
        blocks: &MySqlBlocks<'_>,
        isolation: Isolation,
    ) -> Result<Self, Fault> {
        let (level, savepoint) = (level(isolation), savepoint());
        let statements = format!(
            "{own}; SET TRANSACTION ISOLATION LEVEL {level}; START TRANSACTION READ ONLY",
            own = own(1)
        );
        let doing = fault("begin a transaction");
        let begun = Local::begin(blocks.pool, AssertSqlSafe(statements)).await;
        let mut transaction = begun.map_err(&doing)?;
        let ends = Ends::counted(&mut transaction, &format!("SAVEPOINT {savepoint}")).await;
        let ends = ends.map_err(doing)?;
        let mut guard = Guard::new(blocks.sweep);
        guard.of(ends.session);
        Ok(Self { transaction, isolation, savepoint, ends, guard })
    }

    /// Goes back to the savepoint. The first answers may be errors of statements before, whose futures the handler has
    /// dropped.
    async fn savepoint_is_gone(&mut self) -> bool {
        let undo = format!("ROLLBACK TO SAVEPOINT {}", self.savepoint);
        for _ in 0..ATTEMPTS_MAX {
            let undone = sqlx::raw_sql(AssertSqlSafe(&*undo)).execute(&mut *self.transaction).await;
            let Err(error) = undone else { return false };
            let Some(number) = error::number(&error) else { return false };
            if error::is_gone(number) {
                return true;
            }
        }
        false
    }

    async fn is_lost(&mut self) -> bool {
        self.savepoint_is_gone().await && self.has_kept().await
    }

    async fn has_kept(&mut self) -> bool {
        matches!(gone(&mut self.transaction, Some(self.ends)).await, Fault::Lost(_))
    }
}

/// Attempts to go back to the savepoint.
const ATTEMPTS_MAX: usize = 10;

impl Reading for MySqlReading {
    type Connection = MySqlConnection;

    fn connection(&mut self) -> &mut MySqlConnection {
        &mut self.transaction
    }

    async fn is_intact(&mut self) -> Result<(), Fault> {
        let release = AssertSqlSafe(format!("RELEASE SAVEPOINT {}", self.savepoint));
        match sqlx::raw_sql(release).execute(&mut *self.transaction).await {
            Ok(_) => Ok(()),
            Err(error) if error::number(&error).is_some_and(error::is_gone) => {
                Err(gone(&mut self.transaction, Some(self.ends)).await)
            }
            Err(_) if self.is_lost().await => Err(barrier::lost()),
            Err(error) => Err(fault("end the savepoint that the handler was given")(error)),
        }
    }

    /// Where the server has ended it, the handler's error tells more.
    async fn is_there(&mut self) -> Result<(), Fault> {
        if self.is_lost().await { Err(barrier::lost()) } else { Ok(()) }
    }

    async fn is_lost_at_work(&mut self) -> Option<bool> {
        let look = async {
            let waits = self.guard.ends_statements();
            let is_gone = self.savepoint_is_gone().await;
            // What follows is not ended.
            drop(waits);
            is_gone && self.has_kept().await
        };
        tokio::time::timeout(LOOKS_WITHIN, look).await.ok()
    }

    fn refusal(&self, error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
        error::wrote(error).or_else(|| error::of_the_work_among(error, self.isolation))
    }

    fn release(mut self) {
        self.guard.leave();
        self.transaction.release();
    }
}
