//! A journal's connection: a batch of transitions in one statement, which is one round trip and one
//! commit.

mod connections;
mod earlier;
mod obstacles;
mod statement;
mod turned;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use unanimo_core::{Incarnation, TxId};
use uuid::Uuid;

pub(super) use self::connections::{Connections, Waits};
use self::connections::{commit_own, is_locked};
use self::obstacles::{Last, Obstacles};
use self::statement::{Columns, Look, Row};
use super::super::batch::unreadable_holder;
use super::super::{BatchError, BatchWriter, GidHolder, Write, Written};
use super::names::{Known, Names};
use super::session::{Connector, Session, SessionError, is_wrong_server};
use super::{no_answer, proof};

/// The connection. It is never pooled; after an indeterminate write it is dropped, not closed in
/// good order, because its server may never answer again.
#[derive(Debug)]
pub(super) struct Writer {
    session: Session,
    me: Incarnation,
    nonce: Uuid,
    connector: Connector,
    answer_timeout: Duration,
    /// A batch that is committed, and that the standbys do not have yet.
    unproven: Option<Committed>,
    /// Transactions whose gid was held, and that were left for later by the last batch.
    deferred: HashSet<Uuid>,
    /// Batches in which clients' names are looked for before they are inserted.
    looks_for_names: u32,
    names: Names,
}

/// Batches in which clients' names are looked for after one was there already. Whoever sends again what was begun does so
/// often, and each name that is there costs one batch, which is sent twice; each look a fifteenth of what a transaction takes.
const LOOKS_FOR_NAMES: u32 = 256;

/// Reason for which a transaction cannot have a gid of which the server cannot tell whether another one has it.
const UNREADABLE_NAME: &str =
    "the database cannot read the place of its names where this gid would be";

/// A batch that the server has committed, and what is known of it so far.
#[derive(Debug, Default)]
struct Committed {
    write_ids: Vec<Uuid>,
    rows: Vec<Row>,
    wanted: proof::Wanted,
    is_proven: bool,
    /// Rows that stood in its way, once they were read.
    obstacles: Option<Obstacles>,
    /// Position of the write that affirms them, once that is made.
    affirmed: Option<proof::Wanted>,
}

impl Committed {
    /// Number of the transactions that were written; `None` without a fence.
    fn count(&self) -> Option<usize> {
        let count = self.rows.iter().find_map(|row| row.count)?;
        usize::try_from(count).ok()
    }
}

impl Writer {
    fn new(
        session: Session,
        me: Incarnation,
        nonce: Uuid,
        connector: Connector,
        answer_timeout: Duration,
        names: Names,
    ) -> Self {
        let (unproven, deferred, looks_for_names) = (None, HashSet::new(), 0);
        Self {
            session,
            me,
            nonce,
            connector,
            answer_timeout,
            unproven,
            deferred,
            looks_for_names,
            names,
        }
    }

    /// Sends a batch, unless it is the one that was committed before and is not proven yet. Then it is
    /// proven on. Another one is later, and is proven for itself.
    async fn committed(&mut self, batch: &[Write]) -> Result<Committed, BatchError> {
        if let Some(committed) = self.unproven.take()
            && batch.iter().map(|write| write.write_id).eq(committed.write_ids.iter().copied())
        {
            return Ok(committed);
        }
        let columns = Columns::of(batch);
        let epochs = match columns.has_begins() {
            true => Some(self.epochs().await?),
            false => None,
        };
        let epochs = epochs.as_deref();
        let look = if self.looks_for_names > 0 { Look::Names } else { Look::Nothing };
        self.looks_for_names = self.looks_for_names.saturating_sub(1);
        let rows = match self.send(&columns, look, epochs).await {
            // Nothing of it is written. Some row of it is there already: of a lost answer, or somebody else's.
            Err(error) if is_there(&error) => {
                if is_name(&error) {
                    self.looks_for_names = LOOKS_FOR_NAMES;
                }
                self.send(&columns, Look::All, epochs).await
            }
            sent => sent,
        };
        let mut rows = rows.map_err(classify)?;
        if epochs.is_some() && !self.note_names(batch, &rows) {
            self.begin_again(batch, &mut rows).await?;
        }
        let write_ids = batch.iter().map(|write| write.write_id).collect();
        Ok(Committed { write_ids, rows, ..Committed::default() })
    }

    /// Returns the error of a session with the server before a promoted one.
    fn former(&self) -> Option<SessionError> {
        let server = || self.session.server().to_owned();
        let is_current = self.connector.progress.is_current(&self.session);
        (!is_current).then(|| SessionError::Former { server: server() })
    }

    /// Returns the epochs of names, and reads them if they are not known.
    async fn epochs(&mut self) -> Result<Arc<Known>, BatchError> {
        if let Some(known) = self.names.known() {
            return Ok(known);
        }
        let reading = self.names.read(&mut self.session.connection);
        let read = tokio::time::timeout(self.answer_timeout, reading).await;
        read.unwrap_or_else(|_| Err(no_answer())).map_err(classify)
    }

    /// Counts the names of a batch. If their epoch was not the last one, none of them is there, and the answer is no: which
    /// one is the last has to be read.
    fn note_names(&self, batch: &[Write], rows: &[Row]) -> bool {
        let is_of_epoch = rows.iter().find_map(|row| row.is_of_epoch);
        match is_of_epoch {
            Some(true) => {
                let begins = batch.iter().filter(|write| write.transition.begins.is_some());
                self.names.inserted(begins.count());
            }
            Some(false) => self.names.forget(),
            None => {}
        }
        is_of_epoch != Some(false)
    }

    async fn send(
        &mut self,
        columns: &Columns<'_>,
        look: Look,
        epochs: Option<&Known>,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let query = columns.query(self.me, self.connector.tables(), self.nonce, look, epochs);
        let query = query.fetch_all(&mut self.session.connection);
        let answered = tokio::time::timeout(self.answer_timeout, query).await;
        answered.unwrap_or_else(|_| Err(no_answer()))
    }

    async fn write_batch(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        if let Some(former) = self.former() {
            return Err(BatchError::Former(former.into()));
        }
        let mut committed = self.committed(batch).await?;
        let told = self.tell(batch, &mut committed).await;
        // What the server before a promoted one acknowledges is lost.
        if let Some(former) = self.former() {
            return Err(indeterminate(former));
        }
        if matches!(told, Err(BatchError::Unproven(_) | BatchError::Unaffirmed(_))) {
            self.unproven = Some(committed);
        }
        told
    }

    /// Tells what became of a committed batch, once that is durable. After [`BatchError::Unproven`] and
    /// [`BatchError::Unaffirmed`] it goes on where it was.
    async fn tell(
        &mut self,
        batch: &[Write],
        committed: &mut Committed,
    ) -> Result<Vec<Written>, BatchError> {
        if !committed.is_proven {
            self.prove(committed).await?;
            committed.is_proven = true;
        }
        if committed.count() == Some(batch.len()) {
            return Ok(vec![Written::Applied; batch.len()]);
        }
        let applied: HashSet<Uuid> = committed.rows.iter().filter_map(|row| row.tx_id).collect();
        let is_missed = |write: &&Write| !applied.contains(&write.transition.tx_id.0);
        let missed: Vec<&Write> = batch.iter().filter(is_missed).collect();
        let obstacles = match committed.obstacles.take() {
            Some(obstacles) => obstacles,
            None => self.obstacles(&missed).await?,
        };
        self.set_aside(&obstacles).await?;
        let (own, held): (Vec<&Write>, Vec<&Write>) = missed
            .iter()
            .filter(|write| obstacles.has_found(write))
            .partition(|write| obstacles.own.contains(&write.write_id));
        let held: HashSet<Uuid> = held.iter().map(|write| write.transition.tx_id.0).collect();
        // What was applied does not wait for one more commit because somebody has used a gid again.
        let defers = own.is_empty() && !applied.is_empty() && held.is_disjoint(&self.deferred);
        let is_any_found = !own.is_empty() || !held.is_empty();
        if is_any_found && !defers {
            let affirmed = self.affirm(&mut committed.affirmed).await;
            if let Err(error) = affirmed {
                committed.obstacles = Some(obstacles);
                return Err(error);
            }
        }
        let earlier = self.earlier(&missed, &obstacles).await?;
        let fates = batch.iter().map(|write| match write.transition.tx_id.0 {
            tx_id if applied.contains(&tx_id) => Written::Applied,
            tx_id if defers && held.contains(&tx_id) => Written::Busy,
            tx_id if earlier.contains_key(&tx_id) => Written::WentBack(earlier[&tx_id].clone()),
            _ => self.explain(write, &obstacles),
        });
        let fates = fates.collect();
        self.deferred = if defers { held } else { HashSet::new() };
        Ok(fates)
    }

    /// Takes the batch as durable only if it was made with the settings that were read back, and is
    /// where the standbys have it.
    async fn prove(&mut self, committed: &mut Committed) -> Result<(), BatchError> {
        let Some(end) = committed.rows.iter().find(|row| row.tx_id.is_none()) else {
            return Err(self.has_no_right().await);
        };
        let settings = end.settings.as_deref().unwrap_or_default();
        self.session.compare(settings).map_err(indeterminate)?;
        self.session.synchronous = end.synchronous == Some(true);
        let number = end.number.unwrap_or_default();
        self.prove_on(&mut committed.wanted).await?;
        self.connector.progress.note(&self.session, number);
        Ok(())
    }

    /// Returns the reason for which this incarnation could not write. Without an answer the connection is
    /// given up, and the next one asks again.
    async fn has_no_right(&mut self) -> BatchError {
        let Self { session, me, nonce, connector, answer_timeout, .. } = self;
        let looking = connector.look_for_fence(session, *me, *nonce);
        let looked = tokio::time::timeout(*answer_timeout, looking).await;
        match looked.unwrap_or_else(|_| Err(no_answer().into())) {
            Ok(()) => BatchError::Fenced(*me),
            Err(error) if error.is_elsewhere() => BatchError::Elsewhere(error.into()),
            Err(error) => indeterminate(error),
        }
    }

    async fn prove_on(&mut self, wanted: &mut proof::Wanted) -> Result<(), BatchError> {
        if !self.session.synchronous {
            return Ok(());
        }
        match proof::prove_on(&mut self.session, wanted, self.answer_timeout).await {
            Err(error @ SessionError::Unproven) => Err(BatchError::Unproven(error.into())),
            proven => proven.map_err(indeterminate),
        }
    }

    /// Makes a write of its own after a row was found: what waits for a standby can be seen before it is
    /// there, and is as durable as whatever is committed later. One that was made is proven on.
    async fn affirm(&mut self, affirmed: &mut Option<proof::Wanted>) -> Result<(), BatchError> {
        if affirmed.is_none() {
            let tables = self.connector.tables();
            let committing = commit_own(&mut self.session, self.me, tables, self.nonce);
            let committed = tokio::time::timeout(self.answer_timeout, committing).await;
            match committed.unwrap_or_else(|_| Err(no_answer())) {
                Ok(Some(_)) => {}
                Ok(None) => return Err(self.has_no_right().await),
                // The session is as it was, and so is what it has committed.
                Err(error) if is_locked(&error) => {
                    return Err(BatchError::Unaffirmed(error.into()));
                }
                Err(error) => return Err(BatchError::Indeterminate(error.into())),
            }
        }
        self.prove_on(affirmed.get_or_insert_default()).await
    }

    fn explain(&self, write: &Write, obstacles: &Obstacles) -> Written {
        if obstacles.own.contains(&write.write_id) {
            return Written::Applied;
        }
        let tx_id = write.transition.tx_id.0;
        let Some(identity) = &write.transition.begins else {
            let former = write.former.unwrap_or(self.me).0;
            let unchanged = |row: &Last| row.owner == former && row.version == write.base.0;
            let is_unchanged = obstacles.last_of(tx_id).is_some_and(unchanged);
            return if is_unchanged { Written::Busy } else { Written::Lost };
        };
        match obstacles.holder_of(identity) {
            _ if obstacles.is_unreadable(identity) => Written::Refused(UNREADABLE_NAME.to_owned()),
            Some(holder) => match holder.digest() {
                Ok(digest) => Written::GidHeld(GidHolder { tx_id: TxId(holder.tx_id), digest }),
                // That one is to blame, and no other of this batch.
                Err(unreadable) => Written::Refused(unreadable_holder(&unreadable)),
            },
            // Whoever was in the way has rolled back.
            None => Written::Busy,
        }
    }
}

/// Returns an error of what was sent after something else was committed.
fn indeterminate_of(error: BatchError) -> BatchError {
    match error {
        error @ (BatchError::Fenced(_) | BatchError::Fatal(_) | BatchError::Elsewhere(_)) => error,
        error => BatchError::Indeterminate(error.into()),
    }
}

fn indeterminate(error: SessionError) -> BatchError {
    BatchError::Indeterminate(error.into())
}

/// Tells whether the server refused a statement because of a row that is there already.
fn is_there(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.is_unique_violation()
}

/// Tells whether that row is a client's name.
fn is_name(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.constraint() == Some("gids_pkey")
}

#[async_trait]
impl BatchWriter for Writer {
    async fn write(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        self.write_batch(batch).await
    }

    async fn write_own(&mut self) -> Result<(), BatchError> {
        if let Some(former) = self.former() {
            return Err(BatchError::Former(former.into()));
        }
        self.affirm(&mut None).await
    }

    async fn can_read(&mut self, write: &Write) -> Result<bool, BatchError> {
        self.can_read_for(write).await
    }
}

/// A write definitely failed only if the server answered it with severity ERROR. FATAL and PANIC
/// are the server's end, not the statement's.
fn classify(error: sqlx::Error) -> BatchError {
    let server = match &error {
        sqlx::Error::Database(e) => e.try_downcast_ref::<PgDatabaseError>(),
        // The driver refused to send it.
        sqlx::Error::Encode(_) => return BatchError::Refused(error.into()),
        _ => None,
    };
    let Some(server) = server.filter(|e| e.severity() == PgSeverity::Error) else {
        return BatchError::Indeterminate(error.into());
    };
    match server.code() {
        "55P03" => BatchError::LockTimeout(error.into()),
        // The statement's own time limit, or somebody's cancel.
        "57014" => BatchError::TimedOut(error.into()),
        // From a pooler that has lost its server, or from one that ends: the commit may be under way.
        code if code.starts_with("08") || code.starts_with("57P") => {
            BatchError::Indeterminate(error.into())
        }
        code if is_wrong_server(code) => BatchError::WrongServer(error.into()),
        // Data or index corrupted: in what some row needs, or in what all do.
        "XX001" | "XX002" => BatchError::Damaged(error.into()),
        // Program limit exceeded: of the row, or of a server that protects itself.
        code if code.starts_with("54") => BatchError::TooMuch(error.into()),
        // Data exception, integrity constraint violation: they depend on the row alone, and so they would
        // refuse an earlier attempt at it, too.
        code if ["22", "23"].iter().any(|class| code.starts_with(class)) => {
            BatchError::Refused(error.into())
        }
        _ => BatchError::Failed(error.into()),
    }
}
