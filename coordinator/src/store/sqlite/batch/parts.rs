//! Batches that meet damaged pages: they are written in parts, and what is refused is told from a file in which nothing
//! can be written.

use std::sync::Arc;

use uuid::Uuid;

use super::super::super::{BatchError, Cause, Write, Written, in_full};
use super::super::is_unfenced;
use super::super::transactions::marks;
use super::{NAME, PARK, PLAIN, RELEASE, UNPARK, Writer, classify};

/// Keys that the probe draws.
const PROBE_KEYS: usize = 8;

const PROBE: &str = "
INSERT INTO log (tx_id, follows, version, owner, write_id, kind, created_ms, body)
VALUES ($1, 0, 1, $2, $1, 1, 0, x'')";

const PROBE_END: &str = "
INSERT INTO log (tx_id, follows, version, owner, write_id, kind, ended_ms, body)
VALUES ($1, 1, 2, $2, $1, 5, CAST(unixepoch('subsec') * 1000 AS integer), x'')";

/// Reason for which one write is refused.
const DAMAGED: &str =
    "a page of the database file that it needs is damaged; restore a backup of the file";

impl Writer {
    /// Writes a batch in parts, each in a transaction of its own. Once one of them is committed, what fails for another
    /// reason than damage is not an error of the batch: its caller would take nothing for written.
    pub(super) async fn write_parts(
        &mut self,
        batch: &[Write],
        cause: Cause,
    ) -> Result<Vec<Written>, BatchError> {
        let (mut written, mut work, mut last) = (Vec::new(), vec![batch], cause);
        let (mut damaged, mut is_any_committed) = (Vec::new(), false);
        while let Some(part) = work.pop() {
            match self.transact_or_roll_back(part).await {
                Ok(part) => {
                    is_any_committed = true;
                    written.extend(part);
                }
                Err(BatchError::Damaged(_)) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    work.extend([second, first]);
                }
                Err(BatchError::Damaged(cause)) => {
                    damaged.push(written.len());
                    written.push(Written::Refused(format!("{DAMAGED}: {}", in_full(&*cause))));
                    last = cause;
                }
                Err(error) if is_any_committed && is_for_later(&error) => {
                    tracing::debug!(error = in_full(&error), "a part of a batch is left for later");
                    written.resize(batch.len(), Written::Busy);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if damaged.is_empty() {
            return Ok(written);
        }
        // It may be the file, and no row.
        match self.probe_or_roll_back().await {
            Err(BatchError::Damaged(_)) => return Err(BatchError::Fatal(ruined(last))),
            // Nobody is to blame before that is known.
            Err(error) if is_any_committed && is_for_later(&error) => {
                damaged.into_iter().for_each(|place| written[place] = Written::Busy);
            }
            probed => probed?,
        }
        Ok(written)
    }

    /// Writes names as every transaction does, and takes them back. Keys are hashes, and one leaf of them is not what all
    /// need: it is damage only if each of several keys meets it.
    async fn probe_names(&mut self) -> Result<(), BatchError> {
        let mut drawn = 1;
        loop {
            let named = self.probe_name(Uuid::new_v4()).await;
            match self.rolled_back(named).await {
                Err(BatchError::Damaged(_)) if drawn < PROBE_KEYS => drawn += 1,
                named => return named,
            }
        }
    }

    async fn probe_name(&mut self, key: Uuid) -> Result<(), BatchError> {
        self.run("BEGIN IMMEDIATE").await?;
        let name = sqlx::query(NAME).bind(key.as_bytes().as_slice()).bind(key);
        name.execute(&mut *self.connection).await.map_err(classify)?;
        self.run("ROLLBACK").await
    }

    pub(super) async fn probe_or_roll_back(&mut self) -> Result<(), BatchError> {
        let opened = Arc::clone(&self.opened);
        let _turn = opened.turn.lock().await;
        let probed = self.probe().await;
        self.rolled_back(probed).await
    }

    /// Writes what every transaction writes until it has ended, and takes it back.
    async fn probe(&mut self) -> Result<(), BatchError> {
        self.probe_names().await?;
        let (now, _) = marks(&mut self.connection).await.map_err(classify)?;
        let tx_id = Uuid::from_u128(now.as_u128() | Uuid::new_v4().as_u128() >> 48);
        self.run("BEGIN IMMEDIATE").await?;
        if !is_unfenced(&mut self.connection, self.right).await.map_err(classify)? {
            return Err(BatchError::Fenced(self.right.me));
        }
        let me = self.right.me.0;
        for probe in [
            sqlx::query(PROBE).bind(tx_id).bind(me),
            sqlx::query(PARK)
                .bind(tx_id)
                .bind(me)
                .bind(None::<i64>)
                .bind(0)
                .bind(None::<String>)
                .bind(None::<i64>),
            sqlx::query(PROBE_END).bind(tx_id).bind(me),
            sqlx::query(PLAIN).bind(tx_id),
            sqlx::query(UNPARK).bind(tx_id),
            sqlx::query(RELEASE).bind(tx_id),
        ] {
            probe.execute(&mut *self.connection).await.map_err(classify)?;
        }
        self.run("ROLLBACK").await
    }
}

/// Tells whether nothing of what failed so is written, and the same may be written later.
fn is_for_later(error: &BatchError) -> bool {
    !matches!(
        error,
        BatchError::Fenced(_)
            | BatchError::Elsewhere(_)
            | BatchError::Indeterminate(_)
            | BatchError::Fatal(_)
    )
}

/// Error about damage that no write is to blame for.
#[derive(Debug, thiserror::Error)]
#[error(
    "a page of the database file is damaged, and it is one that all transactions need, so that none can be set aside \
     for it; a restart does not help: restore a backup of the file"
)]
struct Ruined(#[source] Cause);

fn ruined(cause: Cause) -> Cause {
    Ruined(cause).into()
}
