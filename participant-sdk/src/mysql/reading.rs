//! Transactions of actions that only read.

use sqlx::{AssertSqlSafe, MySql as Db, MySqlConnection, MySqlPool};

use super::block::{gone, level, savepoint};
use super::ends::Ends;
use super::error::{self, fault};
use super::statements::own;
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
}

impl MySqlReading {
    pub(super) async fn begin(pool: &MySqlPool, isolation: Isolation) -> Result<Self, Fault> {
        let (level, savepoint) = (level(isolation), savepoint());
        let statements = format!(
            "{own}; SET TRANSACTION ISOLATION LEVEL {level}; START TRANSACTION READ ONLY",
            own = own(1)
        );
        let doing = fault("begin a transaction");
        let begun = Local::begin(pool, AssertSqlSafe(statements)).await;
        let mut transaction = begun.map_err(&doing)?;
        let ends = Ends::counted(&mut transaction, &format!("SAVEPOINT {savepoint}")).await;
        let ends = ends.map_err(doing)?;
        Ok(Self { transaction, isolation, savepoint, ends })
    }
}

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
            Err(error) => Err(fault("end the savepoint that the handler was given")(error)),
        }
    }

    /// Where the server has ended it, the handler's error tells more.
    async fn is_there(&mut self) -> Result<(), Fault> {
        let undo = AssertSqlSafe(format!("ROLLBACK TO SAVEPOINT {}", self.savepoint));
        let Err(error) = sqlx::raw_sql(undo).execute(&mut *self.transaction).await else {
            return Ok(());
        };
        if !error::number(&error).is_some_and(error::is_gone) {
            return Ok(());
        }
        match gone(&mut self.transaction, Some(self.ends)).await {
            lost @ Fault::Lost(_) => Err(lost),
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
