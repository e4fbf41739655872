//! Two-phase commit on XA transactions.
//!
//! The servers keep a prepared transaction attached to the session that prepared it, unless they are told
//! otherwise: see [detach](super::detach). Nobody else can end it then, and that session can do nothing else.
//! A session that comes for the transaction before it is free asks again.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Executor, MySql as Db, MySqlConnection, MySqlPool, Row as _};

use super::MySql;
use super::block::MySqlBlock;
use super::error::{self, ALREADY_STARTED, ROLLED_BACK, fault};
use super::held::Held;
use super::reading::MySqlReading;
use super::statements::begin_reading_all;
use super::xid::Xid;
use crate::barrier::{Blocks, Columns, Row, State};
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::{Fault, Local, PhaseTwoOperation, RawCall};
use crate::two_phase::{End, Phase, Prepares};

impl Prepares for MySql {
    type Block = MySqlBlock;
    type Reading = MySqlReading;

    fn blocks(&self, phase: Phase) -> impl Blocks<Block = MySqlBlock> {
        match phase {
            Phase::One => self.for_prepare(),
            Phase::Two => self.for_phase_two(),
        }
    }

    /// Waits for a twin at work for as long as one waits for its row on other databases.
    async fn begin(
        &self,
        call: &RawCall,
        isolation: Isolation,
    ) -> Result<Option<MySqlBlock>, Fault> {
        const DOING: &str = "begin an XA transaction";
        let xid = Xid::of(call.branch());
        let mut transaction = Local::acquire(&self.prepare).await.map_err(fault(DOING))?;
        let mut held = Held::new(self.lock_timeout);
        loop {
            let error = match MySqlBlock::begin_xa(&mut transaction, isolation, &xid).await {
                Ok(proof) => {
                    let blocks = self.for_prepare();
                    let block = MySqlBlock::of_xa(transaction, isolation, &blocks, proof, xid);
                    return Ok(Some(block));
                }
                Err(error) => error,
            };
            if error::number(&error) != Some(ALREADY_STARTED) {
                return Err(fault(DOING)(error));
            }
            if self.is_prepared_here(&mut transaction, call).await? {
                transaction.release();
                return Ok(None);
            }
            if !held.pause().await {
                transaction.release();
                return Err(Fault::Busy);
            }
        }
    }

    async fn is_prepared(&self, call: &RawCall) -> Result<bool, Fault> {
        let connection = self.prepare.acquire().await;
        let mut connection = connection.map_err(fault("look for the prepared transaction"))?;
        self.is_prepared_here(&mut connection, call).await
    }

    async fn prepare(&self, block: MySqlBlock, call: &RawCall) -> Result<Option<Refusal>, Fault> {
        let xid = Xid::of(call.branch());
        let mut transaction = block.into_inner();
        let prepared = self.detach.prepare(&mut transaction, &xid).await;
        // Otherwise the session is closed.
        if matches!(prepared, Ok(true)) {
            transaction.release();
        }
        match prepared {
            Ok(_) => Ok(None),
            // Others were given preference, as in a deadlock.
            Err(error) if error::number(&error).is_some_and(|n| ROLLED_BACK.contains(&n)) => {
                Err(Fault::Busy)
            }
            Err(error) => Err(fault("prepare the transaction")(error)),
        }
    }

    async fn end(&self, operation: PhaseTwoOperation, call: &RawCall) -> Result<End, Fault> {
        self.end_prepared(operation, call).await
    }

    async fn find(&self, phase: Phase, call: &RawCall) -> Result<Option<Row>, Fault> {
        const DOING: &str = "read the branch's barrier row";
        // A proxy sends a transaction that writes to the server that takes writes.
        let begun = Local::begin(self.pool(phase), "START TRANSACTION READ WRITE").await;
        let mut transaction = begun.map_err(fault(DOING))?;
        let found: Option<Columns> =
            sqlx::query_as(AssertSqlSafe(Arc::clone(&self.statements.read)))
                .bind(call.branch().tx_id.to_string())
                .bind(&call.branch().branch_id)
                .fetch_optional(&mut *transaction)
                .await
                .map_err(fault(DOING))?;
        let Some(columns) = found else {
            transaction.release();
            return Ok(None);
        };
        let write = AssertSqlSafe(self.statements.nothing());
        sqlx::raw_sql(write).execute(&mut *transaction).await.map_err(fault(DOING))?;
        transaction.commit().await.map_err(fault(DOING))?;
        Row::from_columns(columns).map(Some)
    }

    async fn begin_reading(&self, isolation: Isolation) -> Result<MySqlReading, Fault> {
        MySqlReading::begin(&self.for_prepare(), isolation).await
    }
}

impl MySql {
    fn pool(&self, phase: Phase) -> &MySqlPool {
        match phase {
            Phase::One => &self.prepare,
            Phase::Two => &self.phase_two,
        }
    }

    /// Tells whether the branch's transaction is prepared, with its yes. It is listed no earlier than it is
    /// durable. Its row tells that it belongs to this database of the server, and that its work was done: a
    /// handler may have prepared it by itself half way.
    async fn is_prepared_here(
        &self,
        connection: &mut MySqlConnection,
        call: &RawCall,
    ) -> Result<bool, Fault> {
        let xid = Xid::of(call.branch());
        if !listed(&mut *connection).await?.contains(&xid) {
            return Ok(false);
        }
        let is_yes = |state: &Option<String>| state.as_deref() == Some(State::Committed.as_str());
        let mut state = self.state(&mut *connection, call).await?;
        if !is_yes(&state) {
            // It was rolled back meanwhile, or is another attempt's by now.
            if !listed(&mut *connection).await?.contains(&xid) {
                return Ok(false);
            }
            state = self.state(&mut *connection, call).await?;
        }
        match state {
            state if is_yes(&state) => self.affirm_prepared(connection).await.map(|()| true),
            // All of it is in there, and the Cancel rolls it back.
            Some(_) => Err(Fault::Wrong("it prepared the XA transaction that it was given")),
            None => Err(Fault::SetUp(
                "the database refused to begin an XA transaction: it is prepared in another database of the \
                 server, and all processes of a participant must use one"
                    .to_owned(),
            )),
        }
    }

    /// Reads the state of the branch's row, committed or not: nobody else sees that of a prepared one.
    pub(super) async fn state(
        &self,
        connection: &mut MySqlConnection,
        call: &RawCall,
    ) -> Result<Option<String>, Fault> {
        const DOING: &str = "read the row of a prepared transaction";
        let begin = sqlx::raw_sql(AssertSqlSafe(begin_reading_all()));
        begin.execute(&mut *connection).await.map_err(fault(DOING))?;
        let state = sqlx::query_scalar(AssertSqlSafe(Arc::clone(&self.statements.state)))
            .bind(call.branch().tx_id.to_string())
            .bind(&call.branch().branch_id)
            .fetch_optional(&mut *connection)
            .await
            .map_err(fault(DOING))?;
        sqlx::raw_sql("ROLLBACK").execute(connection).await.map_err(fault(DOING))?;
        Ok(state)
    }

    /// Commits a write of our own behind a prepared transaction that was found: another session's may not be
    /// as durable as the server makes a commit. The row itself is locked, so it is one that comes and goes.
    async fn affirm_prepared(&self, connection: &mut MySqlConnection) -> Result<(), Fault> {
        let nothing = self.statements.nothing();
        let statements = format!("START TRANSACTION READ WRITE; {nothing}; COMMIT");
        let written = sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection).await;
        written.map(drop).map_err(fault("commit behind the prepared transaction"))
    }
}

/// Returns the names of ours of all prepared transactions of the server.
pub(super) async fn listed<'c>(
    executor: impl Executor<'c, Database = Db>,
) -> Result<Vec<Xid>, Fault> {
    const DOING: &str = "list prepared transactions";
    let rows = sqlx::raw_sql("XA RECOVER").fetch_all(executor).await.map_err(fault(DOING))?;
    let mut names = Vec::new();
    for row in rows {
        let number = |column| row.try_get_unchecked::<i64, _>(column).map_err(fault(DOING));
        let (format_id, lengths) = (number(0)?, (number(1)?, number(2)?));
        let data: Vec<u8> = row.try_get_unchecked(3).map_err(fault(DOING))?;
        names.extend(Xid::parse(format_id, lengths, &data));
    }
    Ok(names)
}
