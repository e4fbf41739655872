//! A journal's connection: a batch of transitions in one statement, which is one round trip and one
//! commit.

mod statement;

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use unanimo_core::{Incarnation, TxId};
use uuid::Uuid;

use self::statement::{Columns, Row};
use super::super::batch::unreadable_holder;
use super::super::rows::digest_from_columns;
use super::super::{BatchError, BatchWriter, Error, GidHolder, Write, Written};
use super::session::{Connector, Session, SessionError, is_wrong_server};
use super::{failed, no_answer, proof};

/// Reads the rows that stand in the way of writes that were not applied. A statement of its own:
/// the batch's snapshot is older than what it waited for.
const OBSTACLES: &str = "
SELECT tx_id, gid, owner, version, write_id, digest, digest_version
FROM transactions WHERE tx_id = ANY($1) OR gid = ANY($2)";

#[derive(Debug, sqlx::FromRow)]
struct Obstacle {
    tx_id: Uuid,
    gid: String,
    owner: i64,
    version: i64,
    write_id: Uuid,
    digest: Vec<u8>,
    digest_version: i16,
}

/// The connection. It is never pooled; after an indeterminate write it is dropped, not closed in
/// good order, because its server may never answer again.
#[derive(Debug)]
pub(super) struct Writer {
    session: Session,
    me: Incarnation,
    answer_timeout: Duration,
}

impl Writer {
    /// Connects, and commits a write: what this connection reads from then on is at least as
    /// durable as that, whatever became of the connections before it.
    pub(super) async fn connect(
        connector: &Connector,
        me: Incarnation,
        answer_timeout: Duration,
    ) -> Result<Self, Error> {
        let connecting = async {
            let mut session = connector.open(answer_timeout).await?;
            let unfenced = commit_own(&mut session, me).await?;
            if session.synchronous {
                proof::prove(&mut session).await?;
            }
            Ok((session, unfenced))
        };
        let connected = tokio::time::timeout(answer_timeout, connecting).await;
        let (session, alive) = connected
            .unwrap_or_else(|_| Err(SessionError::Driver(no_answer())))
            .map_err(|error| failed("open a journal's connection", error))?;
        if alive { Ok(Self { session, me, answer_timeout }) } else { Err(Error::Fenced(me)) }
    }

    async fn write_batch(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        let columns = Columns::of(batch);
        let connection = &mut self.session.connection;
        let rows = columns.query(self.me).fetch_all(connection).await.map_err(classify)?;
        let Some(end) = rows.iter().find(|row| row.tx_id.is_none()) else {
            return Err(BatchError::Fenced(self.me));
        };
        self.prove(end).await.map_err(|error| BatchError::Indeterminate(error.into()))?;
        let rows = rows.into_iter().map(|row| row.tx_id);
        let applied: std::collections::HashSet<Uuid> = rows.flatten().collect();
        let missed: Vec<&Write> =
            batch.iter().filter(|w| !applied.contains(&w.transition.tx_id.0)).collect();
        let obstacles =
            if missed.is_empty() { Vec::new() } else { self.obstacles(&missed).await? };
        if missed.iter().any(|write| is_found(write, &obstacles)) {
            self.affirm().await?;
        }
        let fates = batch.iter().map(|write| {
            if applied.contains(&write.transition.tx_id.0) {
                Written::Applied
            } else {
                self.explain(write, &obstacles)
            }
        });
        Ok(fates.collect())
    }

    /// Takes the batch as durable only if it was made with the settings that were read back, and is
    /// where the standbys have it.
    async fn prove(&mut self, end: &Row) -> Result<(), SessionError> {
        self.session.compare(end.settings.as_deref().unwrap_or_default())?;
        if end.synchronous == Some(true) {
            proof::prove(&mut self.session).await?;
        }
        Ok(())
    }

    async fn obstacles(&mut self, missed: &[&Write]) -> Result<Vec<Obstacle>, BatchError> {
        let ids: Vec<Uuid> = missed.iter().map(|write| write.transition.tx_id.0).collect();
        let gids: Vec<&str> = missed
            .iter()
            .filter_map(|write| Some(write.transition.begins.as_ref()?.gid.as_str()))
            .collect();
        // The batch is committed; only what became of these rows is not known.
        let read =
            sqlx::query_as(OBSTACLES).bind(ids).bind(gids).fetch_all(&mut self.session.connection);
        read.await.map_err(|error| BatchError::Indeterminate(error.into()))
    }

    /// Makes a write of its own after a row was found: what waits for a standby can be seen before it is
    /// there, and is as durable as whatever is committed later.
    async fn affirm(&mut self) -> Result<(), BatchError> {
        let affirming = async {
            let unfenced = commit_own(&mut self.session, self.me).await?;
            if self.session.synchronous {
                proof::prove(&mut self.session).await?;
            }
            Ok::<_, SessionError>(unfenced)
        };
        match affirming.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(BatchError::Fenced(self.me)),
            Err(error) => Err(BatchError::Indeterminate(error.into())),
        }
    }

    fn explain(&self, write: &Write, obstacles: &[Obstacle]) -> Written {
        let tx_id = write.transition.tx_id.0;
        let own = obstacles.iter().find(|row| row.tx_id == tx_id);
        if own.is_some_and(|row| row.write_id == write.write_id) {
            return Written::Applied;
        }
        let Some(identity) = &write.transition.begins else {
            let unchanged = |row: &Obstacle| row.owner == self.me.0 && row.version == write.base.0;
            return if own.is_some_and(unchanged) { Written::Busy } else { Written::Lost };
        };
        match obstacles.iter().find(|row| row.gid == identity.gid.as_str()) {
            Some(row) => {
                let tx_id = TxId(row.tx_id);
                match digest_from_columns(row.digest_version, &row.digest) {
                    Ok(digest) => Written::GidHeld(GidHolder { tx_id, digest }),
                    // That one is to blame, and no other of this batch.
                    Err(error) => Written::Refused(unreadable_holder(tx_id, &error)),
                }
            }
            // Whoever was in the way has rolled back.
            None => Written::Busy,
        }
    }
}

/// Commits a write that concerns nobody else. Returns false if the incarnation is fenced.
async fn commit_own(session: &mut Session, me: Incarnation) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "WITH fence AS MATERIALIZED (
             SELECT 1 FROM fences WHERE incarnation = $1 AND NOT fenced FOR SHARE)
         INSERT INTO journals (incarnation) SELECT $1 FROM fence
         ON CONFLICT (incarnation) DO UPDATE SET connections = journals.connections + 1",
    )
    .bind(me.0)
    .execute(&mut session.connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Tells whether the write itself, or the transaction that has its gid, is among the rows that were found.
fn is_found(write: &Write, obstacles: &[Obstacle]) -> bool {
    let gid = write.transition.begins.as_ref().map(|identity| identity.gid.as_str());
    obstacles.iter().any(|row| row.write_id == write.write_id || Some(row.gid.as_str()) == gid)
}

#[async_trait]
impl BatchWriter for Writer {
    async fn write(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        let answer_timeout = self.answer_timeout;
        tokio::time::timeout(answer_timeout, self.write_batch(batch))
            .await
            .unwrap_or_else(|_| Err(BatchError::Indeterminate(no_answer().into())))
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
