//! The journal's connection: a batch of transitions in one transaction, which is one sync.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Row};
use unanimo_core::{Transition, TxId};

use super::super::batch::unreadable_holder;
use super::super::error::is_full;
use super::super::rows::{
    IdentityColumns, StateColumns, digest_from_columns, enlistment_name, history_to_column,
    ms_to_column, number_to_column, step_to_column,
};
use super::super::{BatchError, BatchWriter, Error, GidHolder, Write, Written};
use super::opened::Opened;
use super::work::{code, roll_back};
use super::{Right, earlier, is_unfenced, log};

const BEGIN_TRANSACTION: &str = "
INSERT INTO transactions (
    owner, tx_id, gid, mode, drive, digest, digest_version, created_ms, deadline_ms, initiator,
    metadata, trace, begun_with, version, write_id, phase, abort_cause, abort_branch, decided_ms,
    ended_ms, heuristic, stalled, forgotten, attention, progress, more, wake_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
    $21, $22, $23, $24, $25, $26, $27)
ON CONFLICT DO NOTHING";

const MOVE_TRANSACTION: &str = "
UPDATE transactions
SET version = $4, write_id = $5, phase = $6, abort_cause = $7, abort_branch = $8, decided_ms = $9,
    ended_ms = $10, heuristic = $11, stalled = $12, forgotten = $13, attention = $14, progress = $15,
    more = $16, wake_ms = $17, owner = $18
WHERE tx_id = $1 AND owner = $2 AND version = $3";

/// The connection.
#[derive(Debug)]
pub(super) struct Writer {
    connection: SqliteConnection,
    opened: Arc<Opened>,
    right: Right,
    /// Pages of the log after which its commits copy it.
    pages: u32,
}

impl Writer {
    pub(super) async fn connect(
        options: &SqliteConnectOptions,
        opened: Arc<Opened>,
        right: Right,
    ) -> Result<Self, Error> {
        opened.check().await?;
        let connected = Self::connect_once(options, right).await;
        // It has the file that was opened, and no other one that was put there meanwhile.
        opened.check().await?;
        match connected.map_err(Error::database("open the journal's connection"))? {
            Some(connection) => Ok(Self { connection, opened, right, pages: log::PAGES }),
            None => Err(Error::Fenced(right.me)),
        }
    }

    /// Connects; `None` if the incarnation is fenced.
    async fn connect_once(
        options: &SqliteConnectOptions,
        right: Right,
    ) -> Result<Option<SqliteConnection>, sqlx::Error> {
        let mut connection = SqliteConnection::connect_with(options).await?;
        let made = sqlx::query(
            "INSERT INTO journals (incarnation)
             SELECT $1 WHERE EXISTS (
                 SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $2 AND NOT fenced)
             ON CONFLICT (incarnation) DO UPDATE SET connections = journals.connections + 1",
        )
        .bind(right.me.0)
        .bind(right.nonce)
        .execute(&mut connection)
        .await?;
        Ok((made.rows_affected() == 1).then_some(connection))
    }

    /// Writes a batch in one transaction. After an error it is rolled back, or the error is fatal.
    async fn write_once(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        let result = self.transact(batch).await;
        match result {
            Err(error) if !roll_back(&mut self.connection).await => Err(match error {
                BatchError::Fatal(_) => error,
                error => BatchError::Fatal(error.into()),
            }),
            result => result,
        }
    }

    async fn transact(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        let pages = self.opened.log.pages();
        if pages != self.pages {
            log::set_pages(&mut self.connection, pages).await.map_err(classify)?;
            self.pages = pages;
        }
        sqlx::query("BEGIN IMMEDIATE").execute(&mut self.connection).await.map_err(classify)?;
        if !is_unfenced(&mut self.connection, self.right).await.map_err(classify)? {
            return Err(BatchError::Fenced(self.right.me));
        }
        let mut written = Vec::with_capacity(batch.len());
        for write in batch {
            written.push(self.write_one(write).await?);
        }
        self.commit().await?;
        Ok(written)
    }

    async fn commit(&mut self) -> Result<(), BatchError> {
        match sqlx::query("COMMIT").execute(&mut self.connection).await {
            Ok(_) => Ok(()),
            // BUSY, or no space: this process sees nothing of it, and it can be rolled back. Should the
            // process die before it is written again, what the log has of it may count: that is no harm, for
            // nobody was told anything.
            Err(error) if code(&error).is_some_and(|code| code & 0xff == 5 || is_full(code)) => {
                Err(BatchError::Failed(error.into()))
            }
            Err(error) => Err(BatchError::Fatal(error.into())),
        }
    }

    async fn write_one(&mut self, write: &Write) -> Result<Written, BatchError> {
        let Write { write_id, base, former, transition, .. } = write;
        let tx_id = transition.tx_id.0;
        let state = StateColumns::of(&transition.state);
        let query = match &transition.begins {
            Some(identity) => {
                let identity = IdentityColumns::of(identity);
                sqlx::query(BEGIN_TRANSACTION)
                    .bind(self.right.me.0)
                    .bind(tx_id)
                    .bind(identity.gid)
                    .bind(identity.mode)
                    .bind(identity.drive)
                    .bind(identity.digest)
                    .bind(identity.digest_version)
                    .bind(identity.created_ms)
                    .bind(identity.deadline_ms)
                    .bind(identity.initiator)
                    .bind(identity.metadata)
                    .bind(identity.trace)
                    .bind(identity.begun_with)
            }
            None => {
                let owner = former.unwrap_or(self.right.me);
                sqlx::query(MOVE_TRANSACTION).bind(tx_id).bind(owner.0).bind(base.0)
            }
        };
        let mut query = query
            .bind(transition.version.0)
            .bind(*write_id)
            .bind(state.phase)
            .bind(state.abort_cause)
            .bind(state.abort_branch)
            .bind(state.decided_ms)
            .bind(state.ended_ms)
            .bind(state.heuristic)
            .bind(state.stalled)
            .bind(state.forgotten)
            .bind(state.attention)
            .bind(state.progress)
            .bind(state.more)
            .bind(state.wake_ms);
        if transition.begins.is_none() {
            query = query.bind(self.right.me.0);
        }
        let done = query.execute(&mut self.connection).await.map_err(classify)?;
        if done.rows_affected() == 0 {
            return self.explain(write).await;
        }
        self.write_details(transition).await.map_err(classify)?;
        Ok(Written::Applied)
    }

    async fn write_details(&mut self, transition: &Transition) -> Result<(), sqlx::Error> {
        let tx_id = transition.tx_id.0;
        for (number, enlistment, spec) in &transition.enlisted {
            sqlx::query(
                "INSERT INTO branches
                     (tx_id, number, branch_id, participant, action, enlisted_by, payload,
                      payload_type, mode, step)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            )
            .bind(tx_id)
            .bind(number_to_column(*number))
            .bind(spec.branch_id.as_str())
            .bind(spec.participant.as_str())
            .bind(spec.action.as_str())
            .bind(enlistment_name(*enlistment))
            .bind(spec.payload.data.as_ref())
            .bind(spec.payload.media_type.as_str())
            .bind(spec.mode.name())
            .bind(step_to_column(&spec.step))
            .execute(&mut self.connection)
            .await?;
        }
        for (number, output) in &transition.outputs {
            sqlx::query(
                "INSERT INTO outputs (tx_id, number, output, output_type) VALUES ($1, $2, $3, $4)",
            )
            .bind(tx_id)
            .bind(number_to_column(*number))
            .bind(output.data.as_ref())
            .bind(output.media_type.as_str())
            .execute(&mut self.connection)
            .await?;
        }
        for (ordinal, event) in (0_i16..).zip(&transition.events) {
            sqlx::query(
                "INSERT INTO events (tx_id, version, ordinal, at_ms, kind, branch, detail, audit)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(tx_id)
            .bind(transition.version.0)
            .bind(ordinal)
            .bind(ms_to_column(event.at))
            .bind(event.kind.as_str())
            .bind(event.number.map(number_to_column))
            .bind(event.detail.as_str())
            .bind(event.kind.is_audit())
            .execute(&mut self.connection)
            .await?;
        }
        for entry in &transition.history {
            sqlx::query("INSERT INTO history (tx_id, version, entry) VALUES ($1, $2, $3)")
                .bind(tx_id)
                .bind(entry.version.0)
                .bind(history_to_column(entry))
                .execute(&mut self.connection)
                .await?;
        }
        if transition.releases_locks {
            sqlx::query("DELETE FROM locks WHERE tx_id = $1")
                .bind(tx_id)
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }

    /// Finds what stands in the way of a write that touched no row.
    async fn explain(&mut self, write: &Write) -> Result<Written, BatchError> {
        let tx_id = write.transition.tx_id.0;
        let written = sqlx::query("SELECT write_id FROM transactions WHERE tx_id = $1")
            .bind(tx_id)
            .fetch_optional(&mut self.connection)
            .await
            .map_err(classify)?;
        // What cannot be read is not what this writer wrote.
        if written.is_some_and(|row| row.try_get("write_id").ok() == Some(write.write_id)) {
            return Ok(Written::Applied);
        }
        let Some(identity) = &write.transition.begins else {
            let earlier = earlier::find(&mut self.connection, self.right.me, write).await;
            return Ok(earlier.map_err(classify)?.map_or(Written::Lost, Written::WentBack));
        };
        let holder =
            sqlx::query("SELECT tx_id, digest, digest_version FROM transactions WHERE gid = $1")
                .bind(identity.gid.as_str())
                .fetch_optional(&mut self.connection)
                .await
                .map_err(classify)?;
        // The conflict was about the gid or the tx_id, and a tx_id is never made twice.
        let Some(holder) = holder else {
            return Ok(Written::Lost);
        };
        let tx_id = TxId(holder.try_get("tx_id").unwrap_or_default());
        let digest = Ok(()).and_then(|()| {
            let hash: Vec<u8> = holder.try_get("digest")?;
            Ok((holder.try_get("digest_version")?, hash))
        });
        let digest = digest.map_err(Error::database("read its digest"));
        Ok(match digest.and_then(|(version, hash)| digest_from_columns(version, &hash)) {
            Ok(digest) => Written::GidHeld(GidHolder { tx_id, digest }),
            // That one is to blame, and no other of this batch.
            Err(error) => Written::Refused(unreadable_holder(tx_id, &error)),
        })
    }
}

#[async_trait]
impl BatchWriter for Writer {
    async fn write(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        let elsewhere = |error: Error| BatchError::Elsewhere(error.into());
        self.opened.check().await.map_err(elsewhere)?;
        let written = self.write_once(batch).await;
        // After the commit: whoever is told of it finds it in the file.
        self.opened.check().await.map_err(elsewhere)?;
        if written.is_ok() {
            log::look_after(&self.opened, &mut self.connection).await;
        }
        written
    }
}

/// Before COMMIT nothing is written, whatever fails.
fn classify(error: sqlx::Error) -> BatchError {
    match code(&error) {
        Some(code) if is_full(code) => BatchError::Failed(error.into()),
        Some(code) => match code & 0xff {
            // BUSY, LOCKED
            5 | 6 => BatchError::LockTimeout(error.into()),
            // TOOBIG, CONSTRAINT, MISMATCH, RANGE
            18 | 19 | 20 | 25 => BatchError::Refused(error.into()),
            // IOERR, CORRUPT, NOTADB: the file cannot be trusted any more.
            10 | 11 | 26 => BatchError::Fatal(error.into()),
            _ => BatchError::Failed(error.into()),
        },
        None => BatchError::Failed(error.into()),
    }
}
