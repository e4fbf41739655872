//! A local transaction with the branch's row in it.

mod behind;

use std::sync::Arc;
use std::time::SystemTime;

use sqlx::{AssertSqlSafe, MySql as Db, MySqlConnection, MySqlPool};
use uuid::Uuid;

pub(super) use self::behind::gone;
use super::at_work::Guard;
use super::branch_lock::{BranchLock, asks};
use super::ends::Ends;
use super::error::{self, DUPLICATE, fault};
use super::statements::{Statements, own};
use super::xid::Xid;
use crate::barrier::{
    self, Behind, Block, Blocks, Columns, Inserted, LOOKS_WITHIN, Row, bind_new_row, bind_outcome,
    unix_ms,
};
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::{Fault, Local, RawCall};

/// A statement of its own, so that its time is one after the insert has waited for a twin. SYSDATE
/// is the clock's even if a handler has set the session's `timestamp`.
const IS_LATE: &str = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', SYSDATE(6)) DIV 1000 > ?";

const FIND_PROOF: &str = "find the savepoint of the transaction";

/// Begins local transactions on a pool's connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct MySqlBlocks<'r> {
    pub(super) pool: &'r MySqlPool,
    /// Pool from which sessions that are given up are ended.
    pub(super) sweep: &'r MySqlPool,
    pub(super) statements: &'r Arc<Statements>,
}

#[derive(Debug)]
pub(crate) struct MySqlBlock {
    transaction: Local<Db>,
    isolation: Isolation,
    statements: Arc<Statements>,
    /// A savepoint set at the transaction's beginning, under a name that nobody else knows. It is
    /// there as long as the transaction is: COMMIT, ROLLBACK, what commits implicitly, and a deadlock
    /// all remove it. No column can prove that: a row that was committed still has its marker, and
    /// one that was only locked looks the same after a rollback.
    proof: String,
    /// Name of the savepoint that is set before the handler, which cannot know it.
    savepoint: String,
    /// Statements that begin or end a transaction, before the handler.
    ends: Option<Ends>,
    /// The branch's transaction and name, once its row is inserted or locked.
    key: Option<(String, String)>,
    /// Name of an XA transaction.
    xid: Option<Xid>,
    guard: Guard,
    /// A statement was at work that the handler had given up.
    is_given_up: bool,
}

impl Blocks for MySqlBlocks<'_> {
    type Block = MySqlBlock;

    /// One round trip: the server goes through the statements until one fails.
    async fn begin(&self, isolation: Isolation) -> Result<MySqlBlock, Fault> {
        // Of this transaction only.
        let level = level(isolation);
        let [proof, savepoint] = [(); 2].map(|()| savepoint());
        let statements = format!(
            "{own}; SET TRANSACTION ISOLATION LEVEL {level}; START TRANSACTION READ WRITE; SAVEPOINT {proof}",
            own = own(1)
        );
        let begun = Local::begin(self.pool, AssertSqlSafe(statements)).await;
        let transaction = begun.map_err(fault("begin a transaction"))?;
        let statements = Arc::clone(self.statements);
        let (ends, key, xid, guard) = (None, None, None, Guard::new(self.sweep));
        Ok(MySqlBlock {
            transaction,
            isolation,
            statements,
            proof,
            savepoint,
            ends,
            key,
            xid,
            guard,
            is_given_up: false,
        })
    }
}

fn key(call: &RawCall) -> (String, String) {
    (call.branch().tx_id.to_string(), call.branch().branch_id.clone())
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

impl MySqlBlock {
    /// Begins an XA transaction on a connection. If the database refuses, the connection can try again.
    pub(super) async fn begin_xa(
        transaction: &mut Local<Db>,
        isolation: Isolation,
        xid: &Xid,
    ) -> sqlx::Result<String> {
        let (level, proof) = (level(isolation), savepoint());
        let statements = format!(
            "{own}; SET TRANSACTION ISOLATION LEVEL {level}, READ WRITE; XA START {xid}; SAVEPOINT {proof}",
            own = own(1)
        );
        transaction.start(AssertSqlSafe(statements)).await.map(|()| proof)
    }

    /// Makes a block of the XA transaction that was begun with this savepoint.
    pub(super) fn of_xa(
        transaction: Local<Db>,
        isolation: Isolation,
        blocks: &MySqlBlocks<'_>,
        proof: String,
        xid: Xid,
    ) -> Self {
        let (statements, savepoint) = (Arc::clone(blocks.statements), savepoint());
        Self {
            transaction,
            isolation,
            statements,
            proof,
            savepoint,
            ends: None,
            key: None,
            xid: Some(xid),
            guard: Guard::new(blocks.sweep),
            is_given_up: false,
        }
    }

    /// The transaction itself, to end it in another way than [`Block::commit`].
    pub(super) fn into_inner(mut self) -> Local<Db> {
        self.guard.leave();
        self.transaction
    }
}

impl Block for MySqlBlock {
    type Connection = MySqlConnection;

    /// A session only reads outside of our transactions. What was committed implicitly has the row with it.
    const KEEPS_NOTHING: bool = false;

    async fn insert(
        &mut self,
        call: &RawCall,
        row: &Row,
        until: Option<SystemTime>,
    ) -> Result<Inserted, Fault> {
        self.key = Some(key(call));
        let insert = sqlx::query(AssertSqlSafe(Arc::clone(&self.statements.insert)));
        let inserted = bind_new_row!(insert, call.branch().tx_id.to_string(), call, row, until)
            .execute(&mut *self.transaction)
            .await;
        match inserted {
            Ok(_) => return self.is_late(until).await.map(|late| Inserted::New { late }),
            Err(error) if error::number(&error) == Some(DUPLICATE) => {}
            Err(error) => return Err(fault("insert the branch's barrier row")(error)),
        }
        match self.read(Arc::clone(&self.statements.find), call).await? {
            Some(row) => Ok(Inserted::Found(row)),
            None => Err(Fault::Busy),
        }
    }

    async fn lock(&mut self, call: &RawCall) -> Result<Option<Row>, Fault> {
        self.key = Some(key(call));
        self.read(Arc::clone(&self.statements.lock), call).await
    }

    async fn claim(&mut self, call: &RawCall) -> Result<(), Fault> {
        let claim = self.statements.claim(call.branch());
        self.before_handler("claim the branch's barrier row", &claim).await
    }

    async fn savepoint(&mut self) -> Result<(), Fault> {
        let savepoint = format!("SAVEPOINT {}", self.savepoint);
        self.before_handler("set a savepoint", &savepoint).await
    }

    /// Fails if the transaction is gone: nothing is left to go back to, and there is no vote.
    async fn undo(&mut self) -> Result<(), Fault> {
        let statement = format!("ROLLBACK TO SAVEPOINT {}", self.savepoint);
        match self.undone("go back to the savepoint", &statement).await {
            Behind::Nothing(Err(fault)) if error::says_gone(&fault) => match self.gone().await {
                lost @ Fault::Lost(_) => Err(lost),
                _ => Err(fault),
            },
            Behind::Nothing(undone) => undone,
            given_up => Err(self.given_up(given_up).await),
        }
    }

    fn refusal(&self, error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
        error::of_the_work_among(error, self.isolation)
    }

    async fn is_lost(&mut self) -> Option<bool> {
        Some(self.proof_is_gone().await? && matches!(self.gone().await, Fault::Lost(_)))
    }

    async fn is_lost_at_work(&mut self) -> Option<bool> {
        let look = async {
            let waits = self.guard.ends_statements();
            let is_gone = self.proof_is_gone().await;
            // What follows is not ended.
            drop(waits);
            Some(is_gone? && matches!(self.gone().await, Fault::Lost(_)))
        };
        tokio::time::timeout(LOOKS_WITHIN, look).await.ok().flatten()
    }

    fn connection(&mut self) -> &mut MySqlConnection {
        &mut self.transaction
    }

    /// InnoDB defers no checks.
    async fn check(&mut self) -> Result<Option<Refusal>, Fault> {
        Ok(None)
    }

    async fn mark(&mut self, call: &RawCall, row: &Row) -> Result<(), Fault> {
        // The row's times are of our time zone, and its update is bounded as it was. The savepoint is looked for before the
        // settings, which would be taken for the handler's, and is set again: where they fail, it still tells that the
        // transaction is there.
        let (settings, proof) = (&self.statements.settings, &self.proof);
        let proven = format!(
            "RELEASE SAVEPOINT {proof}; SAVEPOINT {proof}; {settings}; RELEASE SAVEPOINT {proof}"
        );
        let proven = match &self.xid {
            None => proven,
            // Whoever has come to end it has not waited for its Prepare, and goes first.
            Some(xid) => {
                let take = BranchLock::of(xid).take(&self.statements.lock_secs);
                format!("{proven}; {take}")
            }
        };
        let (transaction, takes) = (&mut self.transaction, self.xid.is_some());
        let proving = async {
            match takes {
                true => asks(transaction, proven.clone()).await,
                false => {
                    let proving = sqlx::raw_sql(AssertSqlSafe(&*proven));
                    proving.execute(&mut **transaction).await.map(|_| true)
                }
            }
        };
        match self.guard.behind(&proven, proving).await.map_err(fault(FIND_PROOF)) {
            Behind::Nothing(Ok(true)) => {}
            Behind::Nothing(Ok(false)) => return Err(Fault::Busy),
            Behind::Nothing(Err(fault)) if error::says_gone(&fault) => {
                return Err(self.gone().await);
            }
            // The error of a statement before, which the handler has dropped, hides what has become of the transaction.
            Behind::Nothing(Err(_)) if self.is_lost().await == Some(true) => {
                return Err(barrier::lost());
            }
            Behind::Nothing(Err(fault)) => return Err(fault),
            given_up => return Err(self.given_up(given_up).await),
        }
        let mark = sqlx::query(AssertSqlSafe(Arc::clone(&self.statements.mark)));
        let done = bind_outcome!(mark, row, call.branch().tx_id.to_string(), call)
            .execute(&mut *self.transaction)
            .await
            .map_err(fault("update the branch's barrier row"))?;
        // Rows that were found, changed or not: sqlx asks the server for these.
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(self.gone().await),
        }
    }

    /// Of a row of nobody, because that of the branch may be locked by several who have found it.
    async fn write(&mut self) -> Result<(), Fault> {
        self.run("write behind what was found", self.statements.nothing()).await
    }

    /// Nothing is checked that late, so no error means for good that it failed.
    async fn commit(mut self) -> Result<Option<Refusal>, Fault> {
        self.guard.leave();
        let doing = "commit the local transaction";
        let committed = match self.xid {
            None => self.transaction.commit().await,
            Some(xid) => commit_xa(self.transaction, &xid).await,
        };
        match committed {
            Ok(()) => Ok(None),
            Err(error) => Err(Fault::Indeterminate { doing, text: error.to_string() }),
        }
    }

    /// A session inside an XA transaction takes no ROLLBACK: it is closed.
    fn release(mut self) {
        if self.is_given_up {
            return;
        }
        self.guard.leave();
        if self.xid.is_none() {
            self.transaction.release();
        }
    }
}

impl MySqlBlock {
    async fn read(&mut self, statement: Arc<str>, call: &RawCall) -> Result<Option<Row>, Fault> {
        let found: Option<Columns> = sqlx::query_as(AssertSqlSafe(statement))
            .bind(call.branch().tx_id.to_string())
            .bind(&call.branch().branch_id)
            .fetch_optional(&mut *self.transaction)
            .await
            .map_err(fault("lock the branch's barrier row"))?;
        found.map(Row::from_columns).transpose()
    }

    async fn is_late(&mut self, until: Option<SystemTime>) -> Result<bool, Fault> {
        let Some(until) = until else { return Ok(false) };
        let late: i64 = sqlx::query_scalar(IS_LATE)
            .bind(unix_ms(until))
            .fetch_one(&mut *self.transaction)
            .await
            .map_err(fault("read the clock"))?;
        Ok(late != 0)
    }

    /// Runs the last statement before the handler.
    async fn before_handler(&mut self, doing: &'static str, statement: &str) -> Result<(), Fault> {
        let counted = Ends::counted(&mut self.transaction, statement).await;
        let counted = counted.map_err(fault(doing))?;
        self.guard.of(counted.session);
        self.ends = Some(counted);
        Ok(())
    }

    async fn run(&mut self, doing: &'static str, statement: String) -> Result<(), Fault> {
        let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *self.transaction).await;
        done.map(drop).map_err(fault(doing))
    }
}

/// Commits without preparing.
async fn commit_xa(mut transaction: Local<Db>, xid: &Xid) -> sqlx::Result<()> {
    let commit = AssertSqlSafe(format!("XA END {xid}; XA COMMIT {xid} ONE PHASE"));
    sqlx::raw_sql(commit).execute(&mut *transaction).await?;
    // sqlx does not know that it is over: there is nothing left to roll back.
    transaction.release();
    Ok(())
}
