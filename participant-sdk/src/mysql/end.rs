//! End of a prepared XA transaction, which is believed only if the branch's row proves it.
//!
//! A server may answer that it is done and have ended nothing: see [branch lock](super::branch_lock). The
//! transaction is then still there with its locks, under a name that the server's list has lost. Another
//! transaction of that name, which does nothing, brings the name back, and XA COMMIT and XA ROLLBACK find the
//! first one again. A restart of the server brings it back, too.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use super::MySql;
use super::branch_lock::{BranchLock, asks};
use super::error::{self, ALREADY_STARTED, ROLLED_BACK, UNKNOWN, fault};
use super::held::Held;
use super::statements::{VANISHES_SOON, own};
use super::two_phase::listed;
use super::xid::Xid;
use crate::barrier::State;
use crate::resource::{Fault, PhaseTwoOperation, RawCall};
use crate::two_phase::End;

/// Traces of a branch's transaction.
enum Trace {
    /// Its row, in this state, which everybody sees.
    Row(String),
    /// The row says that it is committed, and is not: the transaction is still prepared.
    Prepared,
    Nothing,
}

/// The end of one branch's transaction, in one session, which holds the branch's lock.
struct Ending<'e> {
    database: &'e MySql,
    call: &'e RawCall,
    connection: &'e mut MySqlConnection,
    xid: Xid,
    operation: PhaseTwoOperation,
    held: Held,
}

impl MySql {
    /// Ends a branch's prepared transaction.
    pub(super) async fn end_prepared(
        &self,
        operation: PhaseTwoOperation,
        call: &RawCall,
    ) -> Result<End, Fault> {
        let (doing, xid) = (doing(operation), Xid::of(call.branch()));
        let mut connection = self.phase_two.acquire().await.map_err(fault(doing))?;
        // Given back when the session is cleaned. Without autocommit the server would take what follows for a
        // statement inside another transaction. It is off again before the session's next use.
        let take = BranchLock::of(&xid).take(&self.statements.lock_secs);
        let take = asks(
            &mut connection,
            format!("{}; SET autocommit = 1, {VANISHES_SOON}; {take}", own(1)),
        );
        if !take.await.map_err(fault("wait for those who prepare the transaction"))? {
            return Ok(End::Busy);
        }
        self.detach.is_over().await;
        let held = Held::new(self.lock_timeout);
        let connection = &mut *connection;
        Ending { database: self, call, connection, xid, operation, held }.run().await
    }
}

impl Ending<'_> {
    async fn run(mut self) -> Result<End, Fault> {
        let is_commit = self.operation == PhaseTwoOperation::Commit;
        let mut is_named_again = false;
        loop {
            let end = self.end(self.operation).await?;
            if end == End::Busy {
                return Ok(end);
            }
            match self.trace().await? {
                Trace::Prepared => {}
                Trace::Row(state) if is_commit && state == State::Committed.as_str() => {
                    if is_named_again {
                        self.forget_the_other().await?;
                    }
                    return Ok(end);
                }
                Trace::Nothing if !is_commit => return Ok(end),
                // Whatever the server has answered.
                Trace::Row(_) | Trace::Nothing => return Ok(End::Missing),
            }
            if !self.held.pause().await {
                return if is_named_again { Err(self.is_lost()) } else { Ok(End::Busy) };
            }
            is_named_again |= self.name_again(is_commit).await?;
        }
    }

    /// Asks the server to end it, and again while another session holds it.
    async fn end(&mut self, operation: PhaseTwoOperation) -> Result<End, Fault> {
        let statement = match operation {
            PhaseTwoOperation::Commit => "XA COMMIT",
            PhaseTwoOperation::Cancel => "XA ROLLBACK",
        };
        loop {
            let statement = AssertSqlSafe(format!("{statement} {}", self.xid));
            let ended = sqlx::raw_sql(statement).execute(&mut *self.connection).await;
            let Err(error) = ended else { return Ok(End::Done) };
            match error::number(&error) {
                // Ended, never there, or still held by its session: then it is listed.
                Some(UNKNOWN) => {}
                // The server has given it up, and says so once.
                Some(number) if ROLLED_BACK.contains(&number) => return Ok(End::Missing),
                _ => return Err(fault(doing(operation))(error)),
            }
            if !listed(&mut *self.connection).await?.contains(&self.xid) {
                return Ok(End::Missing);
            }
            if !self.held.pause().await {
                return Ok(End::Busy);
            }
        }
    }

    /// Looks for the branch's row. Nobody prepares meanwhile, and the row says that it is committed only in a
    /// transaction that is prepared.
    async fn trace(&mut self) -> Result<Trace, Fault> {
        let committed: Option<String> =
            sqlx::query_scalar(AssertSqlSafe(Arc::clone(&self.database.statements.state)))
                .bind(self.call.branch().tx_id.to_string())
                .bind(&self.call.branch().branch_id)
                .fetch_optional(&mut *self.connection)
                .await
                .map_err(fault("read the branch's barrier row"))?;
        if let Some(state) = committed {
            return Ok(Trace::Row(state));
        }
        let state = self.database.state(&mut *self.connection, self.call).await?;
        let is_prepared = state.as_deref() == Some(State::Committed.as_str());
        Ok(if is_prepared { Trace::Prepared } else { Trace::Nothing })
    }

    /// Prepares a transaction of the same name, which does nothing. The server would roll back one that has
    /// written nothing, so one that is to be committed writes a row and deletes it. Answers false if another
    /// session has the name.
    async fn name_again(&mut self, writes: bool) -> Result<bool, Fault> {
        const DOING: &str = "prepare another transaction of a name that the server has lost";
        let session = self.database.set_up.open().await;
        let mut session = session.map_err(fault(DOING))?;
        let work = if writes { self.database.statements.nothing() } else { "DO 0".to_owned() };
        let start = AssertSqlSafe(format!("XA START {}; {work}", self.xid));
        match sqlx::raw_sql(start).execute(&mut session).await {
            Ok(_) => {}
            Err(error) if error::number(&error) == Some(ALREADY_STARTED) => return Ok(false),
            Err(error) => return Err(fault(DOING)(error)),
        }
        tracing::warn!(
            xid = %self.xid, operation = ?self.operation,
            "the server has lost the name of a prepared transaction, which is named again to end it"
        );
        let prepared = self.database.detach.prepare(&mut session, &self.xid).await;
        prepared.map_err(fault(DOING))?;
        // Nothing depends on how it ends.
        let _ = session.close().await;
        self.database.detach.is_over().await;
        Ok(true)
    }

    /// Ends what is left under the name once the branch's own transaction is committed.
    async fn forget_the_other(&mut self) -> Result<(), Fault> {
        if self.name_again(false).await? {
            self.end(PhaseTwoOperation::Cancel).await?;
        }
        Ok(())
    }

    fn is_lost(&self) -> Fault {
        let (doing, xid) = (doing(self.operation), self.xid.to_string());
        tracing::error!(
            alarm = "prepared_name_lost",
            xid,
            "the server keeps a prepared transaction, and has lost its name: it needs a restart"
        );
        let text = format!(
            "it has answered that this is done, and has not done it: the transaction keeps its locks, and the \
             server has lost its name {xid}; it lists the transaction again after a restart of the server"
        );
        Fault::Definite { doing, code: UNKNOWN.to_string(), text }
    }
}

fn doing(operation: PhaseTwoOperation) -> &'static str {
    match operation {
        PhaseTwoOperation::Commit => "commit the prepared transaction",
        PhaseTwoOperation::Cancel => "roll the prepared transaction back",
    }
}
