//! Two-phase commit on `PREPARE TRANSACTION`.

use super::Postgres;
use super::at_work::{self, Guard, undone};
use super::block::{FIND, PgBlock, affirm, begun, key, level, savepoint};
use super::driver::{Connection, Driver, Error, Parameter, Pool, Session};
use super::durable::proven;
use super::error::{
    self, DUPLICATE_OBJECT, LOCK_TIMEOUT, NOT_IN_STATE, NOT_PERMITTED, NOT_SUPPORTED,
    OUT_OF_MEMORY, UNDEFINED_OBJECT, fault,
};
use super::name::name;
use super::statements;
use super::waiting::{Backend, ended_with_its_client};
use crate::barrier::{self, Behind, Blocks, Columns, Row};
use crate::handler::Isolation;
use crate::refusal::Refusal;
use crate::resource::{Fault, PhaseTwoOperation, RawCall};
use crate::two_phase::{End, Phase, Prepares, Reading};

impl<D: Driver> Prepares for Postgres<D> {
    type Block = PgBlock<D::Pool>;
    type Reading = PgReading<D::Pool>;

    fn blocks(&self, phase: Phase) -> impl Blocks<Block = Self::Block> {
        match phase {
            Phase::One => self.for_prepare(),
            Phase::Two => self.for_phase_two(),
        }
    }

    async fn begin(
        &self,
        call: &RawCall,
        isolation: Isolation,
    ) -> Result<Option<Self::Block>, Fault> {
        if self.is_prepared(call).await? {
            return Ok(None);
        }
        self.for_prepare().begin(isolation).await.map(Some)
    }

    async fn is_prepared(&self, call: &RawCall) -> Result<bool, Fault> {
        const DOING: &str = "look for the prepared transaction";
        const FOUND: &str = "SELECT EXISTS (SELECT 1 FROM pg_prepared_xacts
                                            WHERE gid = $1 AND database = current_database())";
        let name = name(call.branch());
        let mut session = self.prepare.acquire().await.map_err(fault(DOING))?;
        let found = statements::one(session.connection(), FOUND, &[Parameter::Text(&name)]).await;
        match found {
            // It is shown before it has reached a synchronous standby. What is committed behind it
            // waits for that.
            Ok((true,)) => affirm(session, &self.for_prepare(), DOING).await.map(|()| true),
            found => {
                let found: Result<(bool,), Error> = statements::given_back(session, found);
                found.map(|(found,)| found).map_err(fault(DOING))
            }
        }
    }

    async fn prepare(&self, block: Self::Block, call: &RawCall) -> Result<Option<Refusal>, Fault> {
        let isolation = block.isolation();
        let (mut session, backend) = block.into_inner();
        // A driver need not know that PREPARE ends the transaction: it is given another one to roll back. Standbys
        // are asked outside of one, where each look is a new one.
        let is_waited_for = backend.is_some();
        let again = if is_waited_for { "" } else { "; BEGIN" };
        let statements = format!("PREPARE TRANSACTION '{}'{again}", name(call.branch()));
        let prepared = session.connection().run(&statements);
        let Err(error) = ended_with_its_client(backend, &self.sweep, prepared).await else {
            if is_waited_for {
                proven(&mut session, &self.set_up.care).await?;
                if session.connection().run("BEGIN").await.is_err() {
                    return Ok(None);
                }
            }
            session.release();
            return Ok(None);
        };
        if error::code(&error).is_some() {
            // The server has rolled back.
            session.release();
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
        let is_commit = operation == PhaseTwoOperation::Commit;
        let (doing, operation) = match operation {
            PhaseTwoOperation::Commit => ("commit the prepared transaction", "COMMIT PREPARED"),
            PhaseTwoOperation::Cancel => {
                ("roll the prepared transaction back", "ROLLBACK PREPARED")
            }
        };
        let name = name(call.branch());
        // The name is of an alphabet that needs no quoting.
        let statement = format!("{operation} '{name}'");
        let error = match self.run_end(&statement).await {
            Ok(mut session) => {
                // A rollback has the tombstone's commit behind it.
                if is_commit {
                    proven(&mut session, &self.set_up.care).await?;
                }
                session.release();
                return Ok(End::Done);
            }
            Err(error) => error,
        };
        match error::code(&error) {
            Some(UNDEFINED_OBJECT) => Ok(End::Missing),
            Some(NOT_IN_STATE | LOCK_TIMEOUT) => Ok(End::Busy),
            Some(NOT_PERMITTED) => Err(self.not_permitted(doing, &error, &name).await),
            Some(NOT_SUPPORTED) => {
                Err(set_up(doing, &error, "all processes of a participant must use one database"))
            }
            _ => Err(fault(doing)(error)),
        }
    }

    async fn find(&self, phase: Phase, call: &RawCall) -> Result<Option<Row>, Fault> {
        const DOING: &str = "read the branch's barrier row";
        let blocks = match phase {
            Phase::One => self.for_prepare(),
            Phase::Two => self.for_phase_two(),
        };
        let mut session = blocks.pool.acquire().await.map_err(fault(DOING))?;
        let found = statements::optional(session.connection(), FIND, &key(call)).await;
        match found {
            Ok(Some(columns)) => {
                let columns: Columns = columns;
                affirm(session, &blocks, DOING).await?;
                Row::from_columns(columns).map(Some)
            }
            found => statements::given_back(session, found).map(|_| None).map_err(fault(DOING)),
        }
    }

    async fn begin_reading(&self, isolation: Isolation) -> Result<Self::Reading, Fault> {
        let (level, savepoint) = (level(isolation), savepoint());
        let statements = format!("BEGIN ISOLATION LEVEL {level} READ ONLY; SAVEPOINT {savepoint}");
        let mut session = begun(&self.prepare, &statements).await?;
        let backend = Backend::of(&mut session).await.map_err(fault("begin a transaction"))?;
        let (sweep, mut guard) = (self.sweep.clone(), Guard::new(&self.sweep));
        guard.of(&backend);
        let is_given_up = false;
        Ok(PgReading { session, sweep, backend, isolation, savepoint, guard, is_given_up })
    }
}

impl<D: Driver> Postgres<D> {
    /// Ends a prepared transaction. A statement's longest time would end the wait for a synchronous standby, too,
    /// which is a part of this one and of no other: it has none then.
    async fn run_end(&self, statement: &str) -> Result<super::SessionOf<D>, Error> {
        let mut session = self.phase_two.acquire().await?;
        let backend = match self.set_up.care.standbys().are_waited_for() {
            true => Some(Backend::without_timeout(&mut session).await?),
            false => None,
        };
        let ended = session.connection().run(statement);
        match ended_with_its_client(backend, &self.sweep, ended).await {
            Ok(()) => Ok(session),
            Err(error) => statements::given_back(session, Err(error)),
        }
    }

    /// Names the role that prepared the transaction, and the way out.
    async fn not_permitted(&self, doing: &str, error: &Error, name: &str) -> Fault {
        let roles = "SELECT owner || ', and this session is ' || current_user
                     FROM pg_prepared_xacts WHERE gid = $1";
        let roles = statements::optional_on(&self.phase_two, roles, &[Parameter::Text(name)]).await;
        let roles: Option<(String,)> = roles.ok().flatten();
        let roles = roles.map_or_else(|| "another role".to_owned(), |(roles,)| roles);
        let hint = format!(
            "only the role that prepared it, or a superuser, can: that is {roles}. Let every role that this \
             participant logs in with work as one: ALTER ROLE … SET role = '…'"
        );
        set_up(doing, error, &hint)
    }
}

/// A read-only transaction with its savepoint.
#[derive(Debug)]
pub(crate) struct PgReading<O: Pool> {
    session: O::Session,
    /// Pool from which its statements are ended.
    sweep: O,
    /// The session's.
    backend: Backend,
    isolation: Isolation,
    savepoint: String,
    guard: Guard<O>,
    /// A statement was at work that the handler had given up.
    is_given_up: bool,
}

impl<O: Pool> Reading for PgReading<O> {
    type Connection = O::Connection;

    fn connection(&mut self) -> &mut O::Connection {
        self.session.connection()
    }

    async fn is_intact(&mut self) -> Result<(), Fault> {
        let release = format!("RELEASE SAVEPOINT {}", self.savepoint);
        let releasing = self.session.connection().run(&release);
        let of = Some((&self.backend, ""));
        match at_work::behind(&self.sweep, of, &self.savepoint, releasing).await {
            Behind::Nothing(Ok(())) => Ok(()),
            Behind::Nothing(Err(error)) => {
                // In a block that has failed every statement fails alike, and it need not be the one that was given.
                self.is_there().await?;
                Err(error::not_released(error))
            }
            Behind::GivenUp(Some(released)) => {
                self.is_given_up = true;
                if released.is_err() {
                    self.is_there().await?;
                }
                Err(barrier::gave_up())
            }
            Behind::GivenUp(None) | Behind::Elsewhere => Err(barrier::gave_up_unseen()),
        }
    }

    async fn is_there(&mut self) -> Result<(), Fault> {
        let undo = self.undo();
        let (of, undoing) = (Some((&self.backend, "")), undone(self.session.connection(), &undo));
        let undone = match at_work::behind(&self.sweep, of, &self.savepoint, undoing).await {
            Behind::Nothing(undone) => undone,
            Behind::GivenUp(Some(undone)) => {
                self.is_given_up = true;
                undone
            }
            Behind::GivenUp(None) | Behind::Elsewhere => return Err(barrier::gave_up_unseen()),
        };
        match undone {
            Err(error) if error::is_gone(&error) => Err(barrier::lost()),
            // Whatever else it is, the handler's error tells more.
            _ => Ok(()),
        }
    }

    /// It has no id: its statement is ended.
    async fn is_lost_at_work(&mut self) -> Option<bool> {
        let undo = self.undo();
        at_work::is_lost(&mut self.session, &undo, (&self.backend, ""), &self.sweep).await
    }

    fn refusal(&self, error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
        let of_the_work = || error::of_the_work_among::<O::Connection>(error, self.isolation);
        error::wrote::<O::Connection>(error).or_else(of_the_work)
    }

    fn is_spoiled(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        error::spoils::<O::Connection>(error)
    }

    fn release(mut self) {
        if self.is_given_up {
            return;
        }
        self.guard.leave();
        self.session.release();
    }
}

impl<O: Pool> PgReading<O> {
    fn undo(&self) -> String {
        format!("ROLLBACK TO SAVEPOINT {}", self.savepoint)
    }
}

/// A refusal of the database that lasts until somebody mends the set-up.
fn set_up(doing: &str, error: &Error, hint: &str) -> Fault {
    Fault::SetUp(format!("the database refused to {doing}: {error}; {hint}"))
}

/// Returns the vote no for an error that would come again.
fn impossible(error: &Error) -> Option<Refusal> {
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
