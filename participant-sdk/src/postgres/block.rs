//! A local transaction with the branch's row in it.

use std::time::SystemTime;

use uuid::Uuid;

use super::at_work::{self, Guard, undone};
use super::driver::{Care, Connection, Error, Parameter as P, Pool, Session};
use super::durable::proven;
use super::error::{self, fault};
use super::statements;
use super::waiting::{Backend, backend, ended_with_its_client};
use crate::barrier::{self, Behind, Block, Blocks, Columns, Inserted, LOOKS_WITHIN, Row, unix_ms};
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::{Fault, RawCall};
use crate::wire::mode_name;

/// The row that is inserted, or nothing if there is one. `clock_timestamp()` moves on while the
/// insert waits for a twin; `now()` would stand still from BEGIN.
const INSERT: &str = concat!(
    "
INSERT INTO unanimo_barrier
    (tx_id, branch_id, cluster_id, participant, gid, action, mode, state, reason, message,
     prepare_until)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, to_timestamp($11::bigint / 1000.0))
ON CONFLICT (tx_id, branch_id) DO NOTHING
RETURNING pg_current_xact_id()::text, coalesce(clock_timestamp() > prepare_until, false), ",
    backend!()
);

/// A branch's row as it is committed.
pub(super) const FIND: &str = "
SELECT state, output, output_type, reason, message FROM unanimo_barrier WHERE tx_id = $1 AND branch_id = $2";

const LOCK: &str = concat!(
    "
SELECT state, output, output_type, reason, message, pg_current_xact_id()::text, ",
    backend!(),
    " FROM unanimo_barrier WHERE tx_id = $1 AND branch_id = $2 FOR UPDATE"
);

/// Only in the transaction that inserted or locked the row: a handler may have ended that one, and
/// then nothing holds the row and its own work together.
const MARK: &str = "
UPDATE unanimo_barrier
SET state = $1, output = $2, output_type = $3, reason = $4, message = $5, changed_at = clock_timestamp()
WHERE tx_id = $6 AND branch_id = $7 AND pg_current_xact_id()::text = $8";

/// Everybody sees it if the handler commits by itself.
const CLAIM: &str =
    "UPDATE unanimo_barrier SET state = 'running' WHERE tx_id = $1 AND branch_id = $2";

/// Writes a row with no content in the write-ahead log: its commit waits for whatever a commit waits for.
const WRITE: &str = "SELECT pg_logical_emit_message(true, 'unanimo', '')::text";

/// Begins local transactions on a pool's connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct PgBlocks<'p, O> {
    pub(super) pool: &'p O,
    /// Pool from which sessions that are given up are ended.
    pub(super) sweep: &'p O,
    pub(super) care: &'p Care,
    /// They begin with the savepoint that phase one sets behind the row.
    pub(super) with_savepoint: bool,
}

#[derive(Debug)]
pub(crate) struct PgBlock<O: Pool> {
    session: O::Session,
    sweep: O,
    isolation: Isolation,
    care: Care,
    /// Name of the savepoint that is set before the handler, which cannot know it. It is there as long as
    /// the transaction is.
    savepoint: String,
    /// The transaction's id, once the row is inserted or locked.
    xid: String,
    /// The session's, known as early.
    backend: Option<Backend>,
    guard: Guard<O>,
    /// A statement was at work that the handler had given up.
    is_given_up: bool,
}

impl<O: Pool> Blocks for PgBlocks<'_, O> {
    type Block = PgBlock<O>;

    async fn begin(&self, isolation: Isolation) -> Result<PgBlock<O>, Fault> {
        let level = level(isolation);
        let savepoint = savepoint();
        let mut statements = format!("BEGIN ISOLATION LEVEL {level} READ WRITE");
        if self.with_savepoint {
            statements = format!("{statements}; SAVEPOINT {savepoint}");
        }
        let session = begun(self.pool, &statements).await?;
        let (sweep, care) = (self.sweep.clone(), self.care.clone());
        let (xid, backend, guard) = (String::new(), None, Guard::new(&sweep));
        let is_given_up = false;
        Ok(PgBlock { session, sweep, isolation, care, savepoint, xid, backend, guard, is_given_up })
    }
}

/// Begins a transaction.
pub(super) async fn begun<O: Pool>(pool: &O, statements: &str) -> Result<O::Session, Fault> {
    let doing = fault("begin a transaction");
    let mut session = pool.acquire().await.map_err(&doing)?;
    session.begin(statements).await.map_err(doing)?;
    Ok(session)
}

/// Commits a write of its own behind what this session has found, outside of a transaction. Another session may lead
/// to another server.
pub(super) async fn affirm<O: Pool>(
    mut session: O::Session,
    blocks: &PgBlocks<'_, O>,
    doing: &'static str,
) -> Result<(), Fault> {
    let backend = waited_for(&mut session, blocks.care).await.map_err(fault(doing))?;
    let affirm = format!("BEGIN READ WRITE; {WRITE}; COMMIT");
    let affirmed = session.connection().run(&affirm);
    ended_with_its_client(backend, blocks.sweep, affirmed).await.map_err(fault(doing))?;
    proven(&mut session, blocks.care).await?;
    session.release();
    Ok(())
}

/// Asks for the server's process of a session if its commit may wait for standbys.
async fn waited_for(session: &mut impl Session, care: &Care) -> Result<Option<Backend>, Error> {
    match care.standbys().are_waited_for() {
        true => Backend::of(session).await.map(Some),
        false => Ok(None),
    }
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

/// Parameters of a branch's key.
pub(super) fn key(call: &RawCall) -> [P<'_>; 2] {
    [P::Uuid(call.branch().tx_id), P::Text(&call.branch().branch_id)]
}

impl<O: Pool> PgBlock<O> {
    pub(super) fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// The session itself, to end its transaction in another way than [`Block::commit`], and the server's process
    /// of it if that may wait for standbys.
    pub(super) fn into_inner(mut self) -> (O::Session, Option<Backend>) {
        self.guard.leave();
        let backend = self.backend();
        (self.session, backend)
    }

    fn backend(&self) -> Option<Backend> {
        let are_waited_for = self.care.standbys().are_waited_for();
        if are_waited_for { self.backend.clone() } else { None }
    }

    fn undo_statement(&self) -> String {
        format!("ROLLBACK TO SAVEPOINT {}", self.savepoint)
    }

    async fn run(&mut self, statements: &str) -> Result<(), Error> {
        self.session.connection().run(statements).await
    }
}

impl<O: Pool> Block for PgBlock<O> {
    type Connection = O::Connection;

    /// A session only reads outside of our transactions. A handler that asks for more can still write.
    const KEEPS_NOTHING: bool = false;

    async fn insert(
        &mut self,
        call: &RawCall,
        row: &Row,
        until: Option<SystemTime>,
    ) -> Result<Inserted, Fault> {
        let branch = call.branch();
        let parameters = [
            P::Uuid(branch.tx_id),
            P::Text(&branch.branch_id),
            P::Text(&branch.cluster_id),
            P::Text(&branch.participant),
            P::Text(&branch.gid),
            P::Text(&call.call.action),
            P::Text(mode_name(call.mode)),
            P::Text(row.state.as_str()),
            P::Text(&row.refusal.reason),
            P::Text(&row.refusal.message),
            P::Int(until.map(unix_ms)),
        ];
        let connection = self.session.connection();
        let inserted = statements::optional(connection, INSERT, &parameters).await;
        let inserted: Option<(String, bool, String)> =
            inserted.map_err(busy_or("insert the branch's barrier row"))?;
        if let Some((xid, late, backend)) = inserted {
            self.xid = xid;
            self.backend = Some(Backend::new(backend));
            return Ok(Inserted::New { late });
        }
        // A statement of its own: the insert's snapshot may be older than the row that it met.
        let connection = self.session.connection();
        let found: Option<Columns> = statements::optional(connection, FIND, &key(call))
            .await
            .map_err(fault("read the branch's barrier row"))?;
        match found {
            Some(columns) => Ok(Inserted::Found(Row::from_columns(columns)?)),
            // It was rolled back or purged in between.
            None => Err(Fault::Busy),
        }
    }

    async fn lock(&mut self, call: &RawCall) -> Result<Option<Row>, Fault> {
        type Found = (String, Vec<u8>, String, String, String, String, String);
        let found = statements::optional(self.session.connection(), LOCK, &key(call)).await;
        let found: Option<Found> = found.map_err(busy_or("lock the branch's barrier row"))?;
        let Some((state, output, output_type, reason, message, xid, backend)) = found else {
            return Ok(None);
        };
        self.xid = xid;
        self.backend = Some(Backend::new(backend));
        Row::from_columns((state, output, output_type, reason, message)).map(Some)
    }

    async fn claim(&mut self, call: &RawCall) -> Result<(), Fault> {
        let done = self.session.connection().execute(CLAIM, &key(call)).await;
        done.map(drop).map_err(busy_or("claim the branch's barrier row"))
    }

    async fn savepoint(&mut self) -> Result<(), Fault> {
        let statement = format!("SAVEPOINT {}", self.savepoint);
        self.run(&statement).await.map_err(fault("set a savepoint"))
    }

    async fn undo(&mut self) -> Result<(), Fault> {
        let statement = self.undo_statement();
        let of = self.backend.as_ref().map(|backend| (backend, self.xid.as_str()));
        let undoing = undone(self.session.connection(), &statement);
        match at_work::behind(&self.sweep, of, &self.savepoint, undoing).await {
            Behind::Nothing(Ok(())) => Ok(()),
            Behind::Nothing(Err(error)) if error::is_gone(&error) => Err(barrier::lost()),
            Behind::Nothing(Err(error)) => Err(fault("go back to the savepoint")(error)),
            given_up => Err(self.given_up(given_up).await),
        }
    }

    fn refusal(&self, error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
        error::of_the_work_among::<O::Connection>(error, self.isolation)
    }

    fn is_spoiled(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        error::spoils::<O::Connection>(error)
    }

    async fn is_lost(&mut self) -> Option<bool> {
        match self.undo().await {
            Err(Fault::Unseen(_)) => None,
            undone => Some(matches!(undone, Err(Fault::Lost(_)))),
        }
    }

    async fn is_lost_at_work(&mut self) -> Option<bool> {
        let statement = self.undo_statement();
        match &self.backend {
            Some(backend) => {
                let of = (backend, self.xid.as_str());
                at_work::is_lost(&mut self.session, &statement, of, &self.sweep).await
            }
            None => self.is_lost().await,
        }
    }

    fn connection(&mut self) -> &mut O::Connection {
        if let Some(backend) = &self.backend {
            self.guard.of(backend);
        }
        self.session.connection()
    }

    async fn check(&mut self) -> Result<Option<Refusal>, Fault> {
        let statements = self.care.reset().end_handler(&self.savepoint);
        let of = self.backend.as_ref().map(|backend| (backend, self.xid.as_str()));
        let ending = self.session.connection().run(&statements);
        let error = match at_work::behind(&self.sweep, of, &self.savepoint, ending).await {
            Behind::Nothing(Ok(())) => return Ok(None),
            Behind::Nothing(Err(error)) => error,
            given_up => return Err(self.given_up(given_up).await),
        };
        match error::of_the_work(&error, self.isolation) {
            Some(refusal) => Ok(Some(refusal)),
            // In a block that has failed every statement fails alike, and it need not be the one that was given.
            None if self.is_lost().await == Some(true) => Err(barrier::lost()),
            None => Err(error::not_released(error)),
        }
    }

    async fn mark(&mut self, call: &RawCall, row: &Row) -> Result<(), Fault> {
        let [tx_id, branch_id] = key(call);
        let parameters = [
            P::Text(row.state.as_str()),
            P::Bytes(&row.output.data),
            P::Text(&row.output.media_type),
            P::Text(&row.refusal.reason),
            P::Text(&row.refusal.message),
            tx_id,
            branch_id,
            P::Text(&self.xid),
        ];
        let done = self.session.connection().execute(MARK, &parameters).await;
        match done.map_err(busy_or("update the branch's barrier row"))? {
            1 => Ok(()),
            _ => Err(barrier::lost()),
        }
    }

    async fn write(&mut self) -> Result<(), Fault> {
        const DOING: &str = "write behind what was found";
        if self.backend.is_none() {
            let backend = waited_for(&mut self.session, &self.care).await;
            self.backend = backend.map_err(fault(DOING))?;
        }
        self.run(WRITE).await.map_err(fault(DOING))
    }

    async fn commit(mut self) -> Result<Option<Refusal>, Fault> {
        self.guard.leave();
        let backend = self.backend();
        match ended_with_its_client(backend, &self.sweep, self.session.commit()).await {
            Ok(()) => {
                proven(&mut self.session, &self.care).await?;
                self.session.release();
                Ok(None)
            }
            Err(error) => match error::of_the_work(&error, self.isolation) {
                Some(refusal) => Ok(Some(refusal)),
                None => Err(fault("commit the local transaction")(error)),
            },
        }
    }

    fn release(mut self) {
        if self.is_given_up {
            return;
        }
        self.guard.leave();
        self.session.release();
    }
}

impl<O: Pool> PgBlock<O> {
    /// Returns the fault of a handler that has left a statement at work, by the answer to one of ours behind it.
    async fn given_up(&mut self, behind: Behind<Result<(), Error>>) -> Fault {
        self.is_given_up = true;
        match behind {
            Behind::Elsewhere => return barrier::lost(),
            Behind::GivenUp(None) => return barrier::gave_up_unseen(),
            Behind::GivenUp(Some(Err(error))) if error::is_gone(&error) => return barrier::lost(),
            Behind::GivenUp(Some(Err(_))) => {}
            Behind::Nothing(_) | Behind::GivenUp(Some(Ok(()))) => return barrier::gave_up(),
        }
        // In a block that has failed every statement fails alike, and it need not be the one that was given.
        let statement = self.undo_statement();
        let undoing = undone(self.session.connection(), &statement);
        match tokio::time::timeout(LOOKS_WITHIN, undoing).await {
            Ok(Err(error)) if error::is_gone(&error) => barrier::lost(),
            Ok(_) => barrier::gave_up(),
            Err(_) => barrier::gave_up_unseen(),
        }
    }
}

/// An error as a fault, where another transaction may have been in the way.
fn busy_or(doing: &'static str) -> impl Fn(Error) -> Fault {
    move |error| if error::is_busy(&error) { Fault::Busy } else { fault(doing)(error) }
}
