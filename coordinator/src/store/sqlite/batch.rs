//! The journal's connection: a batch of transitions in one transaction, which is one sync.

mod parts;

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteConnectOptions;
use unanimo_core::{Transition, TxId};
use uuid::Uuid;

use super::super::batch::unreadable_holder;
use super::super::error::is_full;
use super::super::rows::{Encoded, NOBODY, ms_to_column, number_to_column};
use super::super::{BatchError, BatchWriter, Error, GidHolder, Write, Written};
use super::opened::Opened;
use super::transactions::{SET_ASIDE, of_holder};
use super::work::{self, code, roll_back};
use super::writers::Connection;
use super::{Right, earlier, is_unfenced, log};

const NAME: &str = "INSERT INTO gids (key, tx_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";

const BEGIN: &str = "
INSERT INTO log (tx_id, follows, version, owner, write_id, kind, ended_ms, body, data, history, stripped_ms,
    created_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT DO NOTHING";

/// A move goes only after the row that it follows, which must be this incarnation's.
pub(super) const MOVE: &str = "
INSERT INTO log (tx_id, follows, version, owner, write_id, kind, ended_ms, body, data, history, stripped_ms)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
WHERE EXISTS (
    SELECT 1 FROM log WHERE tx_id = $1 AND follows < $2 AND version = $2 AND owner = $12)
ON CONFLICT DO NOTHING";

/// Parks a transaction that begins under an identifier outside the marks: nobody looks for it elsewhere.
const PARK_OLD: &str = "
INSERT INTO parked (tx_id, owner)
SELECT $1, $2 FROM fences WHERE incarnation = $2 AND (parks_before > $1 OR parks_from <= $1)
ON CONFLICT DO NOTHING";

const PARK: &str = "
INSERT INTO parked (tx_id, owner, wake_ms, reasons, initiator, bytes) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (tx_id) DO UPDATE
SET owner = excluded.owner, wake_ms = excluded.wake_ms, reasons = excluded.reasons,
    initiator = excluded.initiator, bytes = excluded.bytes";

const PLAIN: &str = "
UPDATE parked SET wake_ms = NULL, reasons = 0
WHERE tx_id = $1 AND (wake_ms IS NOT NULL OR reasons <> 0)";

const UNPARK: &str = "DELETE FROM parked WHERE tx_id = $1";

const RELEASE: &str = "DELETE FROM locks WHERE tx_id = $1";

/// SQLite's result code for a damaged page.
const CORRUPT: i32 = 11;

/// The connection.
#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
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
        let connected = Self::connect_once(options, &opened, right).await;
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
        opened: &Opened,
        right: Right,
    ) -> Result<Option<Connection>, sqlx::Error> {
        let mut connection = opened.writers.connect(options).await?;
        let _turn = opened.turn.lock().await;
        let made = sqlx::query(
            "INSERT INTO journals (incarnation)
             SELECT $1 WHERE EXISTS (
                 SELECT 1 FROM fences WHERE incarnation = $1 AND nonce = $2 AND NOT fenced)
             ON CONFLICT (incarnation) DO UPDATE SET connections = journals.connections + 1",
        )
        .bind(right.me.0)
        .bind(right.nonce)
        .execute(&mut *connection)
        .await?;
        Ok((made.rows_affected() == 1).then_some(connection))
    }

    /// Writes a batch in one transaction. After an error it is rolled back, or the error is fatal. Where it meets a
    /// damaged page it is halved, until the write that needs the page is alone: nothing else can be written in the same
    /// transaction once SQLite has met one.
    async fn write_once(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        let cause = match self.transact_or_roll_back(batch).await {
            Err(BatchError::Damaged(cause)) => cause,
            result => return result,
        };
        self.write_parts(batch, cause).await
    }

    async fn transact_or_roll_back(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        let opened = Arc::clone(&self.opened);
        let _turn = opened.turn.lock().await;
        let result = self.transact(batch).await;
        self.rolled_back(result).await
    }

    async fn rolled_back<T>(&mut self, result: Result<T, BatchError>) -> Result<T, BatchError> {
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
        self.run("BEGIN IMMEDIATE").await?;
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

    async fn run(&mut self, statement: &'static str) -> Result<(), BatchError> {
        sqlx::query(statement).execute(&mut *self.connection).await.map(drop).map_err(classify)
    }

    async fn commit(&mut self) -> Result<(), BatchError> {
        match sqlx::query("COMMIT").execute(&mut *self.connection).await {
            Ok(_) => Ok(()),
            // BUSY, or no space: this process sees nothing of it, and it can be rolled back. Should the
            // process die before it is written again, what the log has of it may count: that is no harm, for
            // nobody was told anything.
            Err(error) if code(&error).is_some_and(|code| code & 0xff == 5 || is_full(code)) => {
                Err(BatchError::Failed(error.into()))
            }
            // A statement before it met a damaged page, and was not told to fail for that. SQLite then commits
            // nothing, and has rolled back.
            Err(error) if code(&error) == Some(CORRUPT) => Err(BatchError::Damaged(error.into())),
            Err(error) => Err(BatchError::Fatal(error.into())),
        }
    }

    async fn write_one(&mut self, write: &Write) -> Result<Written, BatchError> {
        let Write { write_id, base, former, transition, .. } = write;
        let tx_id = transition.tx_id.0;
        let row = Encoded::of(transition);
        let mut follows = base.0;
        if let Some(key) = row.gid_key {
            follows = 0;
            let name = sqlx::query(NAME).bind(key).bind(tx_id);
            let named = name.execute(&mut *self.connection).await.map_err(classify)?;
            if named.rows_affected() == 0 {
                return self.explain(write).await;
            }
        }
        let query = sqlx::query(if row.gid_key.is_some() { BEGIN } else { MOVE })
            .bind(tx_id)
            .bind(follows)
            .bind(transition.version.0)
            .bind(self.right.me.0)
            .bind(*write_id)
            .bind(row.kind)
            .bind(row.ended_ms)
            .bind(row.body.as_slice())
            .bind(row.data.as_deref())
            .bind(row.history.as_deref())
            .bind(row.stripped_ms);
        let former = former.unwrap_or(self.right.me);
        let query = match row.gid_key.is_some() {
            true => query.bind(row.created_ms),
            false => query.bind(former.0),
        };
        let done = query.execute(&mut *self.connection).await.map_err(classify)?;
        if done.rows_affected() == 0 {
            return self.explain(write).await;
        }
        // The owner of one that is not its writer's, or was lost, may not have parked it.
        let parks = write.former.is_some() && row.ended_ms.is_none();
        self.park(tx_id, &row, parks).await.map_err(classify)?;
        self.write_details(transition).await.map_err(classify)?;
        Ok(Written::Applied)
    }

    async fn park(&mut self, tx_id: Uuid, row: &Encoded, parks: bool) -> Result<(), sqlx::Error> {
        let me = self.right.me.0;
        let query = if parks || row.reasons != 0 || row.wake_ms.is_some() {
            let (initiator, bytes) = row.sleeper.as_ref().map(|(of, n)| (of.as_str(), *n)).unzip();
            let owner = if row.ended_ms.is_some() { NOBODY } else { me };
            let park =
                sqlx::query(PARK).bind(tx_id).bind(owner).bind(row.wake_ms).bind(row.reasons);
            park.bind(initiator).bind(bytes)
        } else if row.ended_ms.is_some() {
            sqlx::query(UNPARK).bind(tx_id)
        } else if row.gid_key.is_some() {
            sqlx::query(PARK_OLD).bind(tx_id).bind(me)
        } else {
            sqlx::query(PLAIN).bind(tx_id)
        };
        query.execute(&mut *self.connection).await.map(drop)
    }

    async fn write_details(&mut self, transition: &Transition) -> Result<(), sqlx::Error> {
        let tx_id = transition.tx_id.0;
        let acts = (0_i16..).zip(&transition.events).filter(|(_, event)| event.kind.is_audit());
        for (ordinal, event) in acts {
            sqlx::query(
                "INSERT INTO events (tx_id, version, ordinal, at_ms, kind, branch, detail, audit)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, true)",
            )
            .bind(tx_id)
            .bind(transition.version.0)
            .bind(ordinal)
            .bind(ms_to_column(event.at))
            .bind(event.kind.as_str())
            .bind(event.number.map(number_to_column))
            .bind(event.detail.as_str())
            .execute(&mut *self.connection)
            .await?;
        }
        if transition.releases_locks {
            sqlx::query(RELEASE).bind(tx_id).execute(&mut *self.connection).await?;
        }
        Ok(())
    }

    /// Finds what stands in the way of a write that inserted no row.
    async fn explain(&mut self, write: &Write) -> Result<Written, BatchError> {
        let tx_id = write.transition.tx_id.0;
        let written = sqlx::query("SELECT write_id FROM log WHERE tx_id = $1 AND follows = $2")
            .bind(tx_id)
            .bind(if write.transition.begins.is_some() { 0 } else { write.base.0 })
            .fetch_optional(&mut *self.connection)
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
        let holder = of_holder(&mut self.connection, identity.gid.as_str()).await;
        // The conflict was about the gid or the tx_id, and a tx_id is never made twice.
        let Some(holder) = holder.map_err(classify)? else { return Ok(Written::Lost) };
        match holder.digest() {
            Ok(digest) => Ok(Written::GidHeld(GidHolder { tx_id: TxId(holder.tx_id), digest })),
            // That one is to blame, and no other of this batch. A person has to look at it.
            Err(unreadable) => {
                let aside = sqlx::query(SET_ASIDE).bind(holder.tx_id).bind(self.right.me.0);
                aside.execute(&mut *self.connection).await.map_err(classify)?;
                Ok(Written::Refused(unreadable_holder(&unreadable)))
            }
        }
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
        match &written {
            Ok(_) => log::look_after(&self.opened, &mut self.connection).await,
            // Rolled back: otherwise it is fatal.
            Err(BatchError::Failed(cause)) if cause.downcast_ref().is_some_and(work::is_full) => {
                log::make_space(&self.opened, &mut self.connection).await;
            }
            Err(_) => {}
        }
        written
    }

    async fn write_own(&mut self) -> Result<(), BatchError> {
        self.probe_or_roll_back().await
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
            CORRUPT => BatchError::Damaged(error.into()),
            // IOERR, NOTADB: the file cannot be trusted any more.
            10 | 26 => BatchError::Fatal(error.into()),
            _ => BatchError::Failed(error.into()),
        },
        None => BatchError::Failed(error.into()),
    }
}
