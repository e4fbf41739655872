//! Two-phase commit on XA transactions.
//!
//! The servers keep a prepared transaction attached to the session that prepared it (MariaDB always, MySQL
//! if it is told to): nobody else can end it, and that session can do nothing else. So the session is
//! closed once it has prepared, and whoever comes for the transaction before the server has noticed asks
//! again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor, MySql as Db, MySqlConnection, MySqlPool, Row as _};
use uuid::Uuid;

use super::MySql;
use super::block::{MySqlBlock, level, savepoint};
use super::error::{self, ALREADY_STARTED, ROLLED_BACK, UNKNOWN, fault};
use super::xid::Xid;
use crate::barrier::{Blocks, Columns, Row, State};
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::{Fault, Local, PhaseTwoOperation, RawCall};
use crate::two_phase::{End, Phase, Prepares, Reading};

/// First pause before a transaction is asked for again that its session still holds, and the longest one.
const HELD_PAUSE: Duration = Duration::from_millis(1);
const HELD_PAUSE_MAX: Duration = Duration::from_millis(50);

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
        let xid = Xid::of(call.branch()).to_string();
        let mut transaction = Local::acquire(&self.prepare).await.map_err(fault(DOING))?;
        let mut held = Held::new(self.lock_timeout);
        loop {
            let error = match MySqlBlock::begin_xa(&mut transaction, isolation, &xid).await {
                Ok(proof) => {
                    let block =
                        MySqlBlock::of_xa(transaction, isolation, &self.statements, proof, xid);
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
        let statement = format!("XA END {xid}; XA PREPARE {xid}");
        let prepared = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *transaction).await;
        // The session is closed either way: only that makes the server let go of the transaction.
        drop(transaction);
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
        let (doing, operation) = match operation {
            PhaseTwoOperation::Commit => ("commit the prepared transaction", "XA COMMIT"),
            PhaseTwoOperation::Cancel => ("roll the prepared transaction back", "XA ROLLBACK"),
        };
        let xid = Xid::of(call.branch());
        // Without autocommit the server would take it for a statement inside another transaction. It is
        // off again before the session's next use.
        let statement: Arc<str> = format!("SET autocommit = 1; {operation} {xid}").into();
        let mut held = Held::new(self.lock_timeout);
        loop {
            let end = sqlx::raw_sql(AssertSqlSafe(Arc::clone(&statement)));
            let Err(error) = end.execute(&self.phase_two).await else { return Ok(End::Done) };
            match error::number(&error) {
                // Ended, never there, or still held by its session: then it is listed.
                Some(UNKNOWN) => {}
                // The server has given it up, and says so once.
                Some(number) if ROLLED_BACK.contains(&number) => return Ok(End::Missing),
                _ => return Err(fault(doing)(error)),
            }
            if !listed(&self.phase_two).await?.contains(&xid) {
                return Ok(End::Missing);
            }
            if !held.pause().await {
                return Ok(End::Busy);
            }
        }
    }

    async fn find(&self, phase: Phase, call: &RawCall) -> Result<Option<Row>, Fault> {
        const DOING: &str = "read the branch's barrier row";
        let begun = Local::begin(self.pool(phase), "START TRANSACTION READ ONLY").await;
        let mut transaction = begun.map_err(fault(DOING))?;
        let found: Option<Columns> =
            sqlx::query_as(AssertSqlSafe(Arc::clone(&self.statements.read)))
                .bind(call.branch().tx_id.to_string())
                .bind(&call.branch().branch_id)
                .fetch_optional(&mut *transaction)
                .await
                .map_err(fault(DOING))?;
        transaction.release();
        found.map(Row::from_columns).transpose()
    }

    async fn begin_reading(&self, isolation: Isolation) -> Result<MySqlReading, Fault> {
        let (level, savepoint) = (level(isolation), savepoint());
        let statements = format!(
            "SET TRANSACTION ISOLATION LEVEL {level}; START TRANSACTION READ ONLY; SAVEPOINT {savepoint}"
        );
        let begun = Local::begin(&self.prepare, AssertSqlSafe(statements)).await;
        let transaction = begun.map_err(fault("begin a transaction"))?;
        Ok(MySqlReading { transaction, isolation, savepoint })
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
            Some(_) => Err(Fault::Lost("it prepared the XA transaction that it was given")),
            None => Err(Fault::SetUp(
                "the database refused to begin an XA transaction: it is prepared in another database of the \
                 server, and all processes of a participant must use one"
                    .to_owned(),
            )),
        }
    }

    /// Reads the state of the branch's row, committed or not: nobody else sees that of a prepared one.
    async fn state(
        &self,
        connection: &mut MySqlConnection,
        call: &RawCall,
    ) -> Result<Option<String>, Fault> {
        const DOING: &str = "read the row of a prepared transaction";
        let begin = sqlx::raw_sql(
            "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED; START TRANSACTION READ ONLY",
        );
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
        let tx_id = Uuid::now_v7().to_string();
        let statements = self.statements.affirm_prepared.replace("{tx_id}", &tx_id);
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

/// Waiting for a transaction that another session holds.
struct Held {
    since: Instant,
    at_most: Duration,
    pause: Duration,
}

impl Held {
    fn new(at_most: Duration) -> Self {
        Self { since: Instant::now(), at_most, pause: HELD_PAUSE }
    }

    /// Waits a little, longer each time; answers whether to go on.
    async fn pause(&mut self) -> bool {
        if self.since.elapsed() >= self.at_most {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(HELD_PAUSE_MAX);
        true
    }
}

/// A read-only transaction with its savepoint.
#[derive(Debug)]
pub(crate) struct MySqlReading {
    transaction: Local<Db>,
    isolation: Isolation,
    savepoint: String,
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
            Err(error) if error::number(&error).is_some() => Err(super::block::ended()),
            Err(error) => Err(fault("end the savepoint that the handler was given")(error)),
        }
    }

    /// A deadlock looks the same, and the handler's error tells more.
    async fn is_there(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn refusal(&self, error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
        error::wrote(error).or_else(|| error::of_the_work_among(error, self.isolation))
    }

    fn release(self) {
        self.transaction.release();
    }
}
