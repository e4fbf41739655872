//! Transactions of actions that only read.

use sqlx::{AssertSqlSafe, MySql as Db, MySqlConnection};

use super::at_work::Guard;
use super::block::{MySqlBlocks, gone, level, savepoint};
use super::ends::Ends;
use super::error::{self, fault};
use super::statements::own;
use crate::barrier::{self, Behind, LOOKS_WITHIN};
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
    /// A statement was at work that the handler had given up.
    is_given_up: bool,
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
        Ok(Self { transaction, isolation, savepoint, ends, guard, is_given_up: false })
    }

    /// Goes back to the savepoint. `None` tells that a statement which the handler has given up is in the way.
    async fn savepoint_is_gone(&mut self) -> Option<bool> {
        let undo = format!("ROLLBACK TO SAVEPOINT {}", self.savepoint);
        match self.guard.behind(&undo, is_gone(&mut self.transaction, &undo)).await {
            Behind::Nothing(is_gone) => Some(is_gone),
            Behind::GivenUp(is_gone) => {
                self.is_given_up = true;
                is_gone
            }
            Behind::Elsewhere => None,
        }
    }

    async fn is_lost(&mut self) -> Option<bool> {
        Some(self.savepoint_is_gone().await? && self.has_kept().await)
    }

    async fn has_kept(&mut self) -> bool {
        matches!(gone(&mut self.transaction, Some(self.ends)).await, Fault::Lost(_))
    }
}

/// Attempts to go back to the savepoint.
const ATTEMPTS_MAX: usize = 10;

/// Goes back to a savepoint, and tells whether it is gone. The first answers may be errors of statements before, whose
/// futures the handler has dropped.
async fn is_gone(transaction: &mut Local<Db>, undo: &str) -> bool {
    for _ in 0..ATTEMPTS_MAX {
        let undone = sqlx::raw_sql(AssertSqlSafe(undo)).execute(&mut **transaction).await;
        let Err(error) = undone else { return false };
        let Some(number) = error::number(&error) else { return false };
        if error::is_gone(number) {
            return true;
        }
    }
    false
}

impl Reading for MySqlReading {
    type Connection = MySqlConnection;

    fn connection(&mut self) -> &mut MySqlConnection {
        &mut self.transaction
    }

    async fn is_intact(&mut self) -> Result<(), Fault> {
        let release = format!("RELEASE SAVEPOINT {}", self.savepoint);
        let releasing = sqlx::raw_sql(AssertSqlSafe(&*release)).execute(&mut *self.transaction);
        let released = match self.guard.behind(&release, releasing).await {
            Behind::Nothing(released) => released,
            Behind::GivenUp(Some(released)) => {
                self.is_given_up = true;
                released
            }
            Behind::GivenUp(None) | Behind::Elsewhere => return Err(barrier::gave_up_unseen()),
        };
        match released {
            Ok(_) if self.is_given_up => Err(barrier::gave_up()),
            Ok(_) => Ok(()),
            Err(error) if error::number(&error).is_some_and(error::is_gone) => {
                Err(gone(&mut self.transaction, Some(self.ends)).await)
            }
            Err(error) => match self.is_lost().await {
                Some(true) => Err(barrier::lost()),
                Some(false) if self.is_given_up => Err(barrier::gave_up()),
                Some(false) => Err(fault("end the savepoint that the handler was given")(error)),
                None => Err(barrier::gave_up_unseen()),
            },
        }
    }

    /// Where the server has ended it, the handler's error tells more.
    async fn is_there(&mut self) -> Result<(), Fault> {
        match self.is_lost().await {
            Some(true) => Err(barrier::lost()),
            Some(false) => Ok(()),
            None => Err(barrier::gave_up_unseen()),
        }
    }

    async fn is_lost_at_work(&mut self) -> Option<bool> {
        let look = async {
            let waits = self.guard.ends_statements();
            let is_gone = self.savepoint_is_gone().await;
            // What follows is not ended.
            drop(waits);
            Some(is_gone? && self.has_kept().await)
        };
        tokio::time::timeout(LOOKS_WITHIN, look).await.ok().flatten()
    }

    fn refusal(&self, error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
        error::wrote(error).or_else(|| error::of_the_work_among(error, self.isolation))
    }

    fn release(mut self) {
        if self.is_given_up {
            return;
        }
        self.guard.leave();
        self.transaction.release();
    }
}
