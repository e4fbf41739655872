//! A connection that writes batches, and what it does when that does not go well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use unanimo_core::Incarnation;

use super::super::{BatchError, BatchWriter, Store, Write, Written, in_full};
use super::queue::Queue;
use super::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, Completion, Ended, Error, Observer};
use crate::alarm::WRITE_REFUSED;

/// Between attempts to connect, and to write after a failure that no row is to blame for.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Before the slow lane tries a locked row again.
const LOCKED_PAUSE: Duration = Duration::from_millis(20);

/// One of the journal's two.
#[derive(Debug)]
pub(super) struct Lane {
    store: Arc<dyn Store>,
    queue: Arc<Queue>,
    me: Incarnation,
    slow: bool,
    completed: mpsc::UnboundedSender<Vec<Completion>>,
    observer: Arc<dyn Observer>,
    /// None before the first batch, and after a connection was given up.
    writer: Option<Box<dyn BatchWriter>>,
    pause: Duration,
}

/// A batch on its way. One that may have been written before is resent exactly as it was.
struct Chunk {
    writes: Vec<Write>,
    maybe_written: bool,
}

impl Lane {
    pub(super) fn new(
        store: Arc<dyn Store>,
        queue: Arc<Queue>,
        me: Incarnation,
        slow: bool,
        completed: mpsc::UnboundedSender<Vec<Completion>>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self { store, queue, me, slow, completed, observer, writer: None, pause: PAUSE_MIN }
    }

    pub(super) async fn run(mut self) -> Result<(), Error> {
        let rows = if self.slow { 1 } else { BATCH_ROWS_MAX };
        while let Some(writes) = self.queue.next(self.slow, rows, BATCH_BYTES_MAX).await {
            self.write_all(Chunk { writes, maybe_written: false }).await?;
            if !self.slow {
                // Whoever was told of the last batch has its next transition ready by then: one
                // larger batch instead of two.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Writes a batch, in parts where some row is refused, until each of its writes is completed.
    async fn write_all(&mut self, chunk: Chunk) -> Result<(), Error> {
        let mut work = vec![chunk];
        while let Some(mut chunk) = work.pop() {
            crash_point!("journal-before-write");
            let started = Instant::now();
            match self.write(&chunk.writes).await {
                Ok(written) => {
                    crash_point!("journal-after-write");
                    self.pause = PAUSE_MIN;
                    self.observer.flushed(chunk.writes.len(), started.elapsed());
                    work.extend(self.complete(chunk, written).await);
                }
                Err(BatchError::Fenced(me)) => return Err(Error::Fenced(me)),
                Err(error @ BatchError::Fatal(_)) => return Err(Error::Fatal(in_full(&error))),
                Err(BatchError::Elsewhere(error)) => {
                    return Err(Error::Elsewhere(in_full(&*error)));
                }
                Err(BatchError::Refused(error)) => match chunk.writes.len() {
                    0 | 1 => self.refuse(chunk, &*error),
                    rows => {
                        let second = chunk.writes.split_off(rows / 2);
                        let maybe_written = chunk.maybe_written;
                        work.push(Chunk { writes: second, maybe_written });
                        work.push(chunk);
                    }
                },
                Err(BatchError::LockTimeout(error)) => {
                    let rows = chunk.writes.len();
                    let error = in_full(&*error);
                    tracing::debug!(error, rows, "a batch waited for a lock for too long");
                    work.extend(self.part_at_lock(chunk).await);
                }
                Err(error) => {
                    self.endure(&error, &mut chunk).await;
                    work.push(chunk);
                }
            }
        }
        Ok(())
    }

    /// Waits after a failure that no row is to blame for. The same is tried again then.
    async fn endure(&mut self, error: &BatchError, chunk: &mut Chunk) {
        let (rows, full) = (chunk.writes.len(), in_full(error));
        match error {
            // The writer itself has waited for a while, and goes on with that.
            BatchError::Unproven(_) => {
                tracing::warn!(
                    error = full,
                    rows,
                    "a batch is written, and the synchronous standbys do not have it; it is not sent \
                     again, and counts once they have it"
                );
                chunk.maybe_written = true;
                return;
            }
            BatchError::Indeterminate(_) => {
                tracing::warn!(
                    error = full,
                    rows,
                    "the acknowledgement of a batch was lost; it is sent again"
                );
                chunk.maybe_written = true;
                self.writer = None;
                self.observer.connected(false);
            }
            BatchError::WrongServer(_) => {
                tracing::warn!(
                    error = full,
                    "nothing of a batch is written; it is sent again on another connection"
                );
                self.writer = None;
                self.observer.connected(false);
            }
            _ => tracing::warn!(
                error = full,
                "failed to write a batch, and nothing of it is written; it is tried again"
            ),
        }
        self.rest().await;
    }

    /// Completes each write, and answers with those that may have been written and are
    /// to be sent once more as they were.
    async fn complete(&mut self, chunk: Chunk, written: Vec<Written>) -> Option<Chunk> {
        let mut results = Vec::with_capacity(chunk.writes.len());
        let mut frozen = Vec::new();
        let mut busy = false;
        for (write, became) in chunk.writes.into_iter().zip(written) {
            let ended = match became {
                Written::Busy if chunk.maybe_written => {
                    frozen.push(write);
                    continue;
                }
                Written::Busy => {
                    busy = true;
                    self.queue.put_back(write);
                    continue;
                }
                Written::Applied => Ended::Durable(write.transition.version),
                Written::GidHeld(holder) => Ended::GidHeld(holder),
                Written::Lost => Ended::Lost,
                Written::Refused(why) => self.refused(&write, why),
            };
            results.push(self.complete_one(&write, ended));
        }
        self.tell(results);
        if (busy && self.slow) || !frozen.is_empty() {
            tokio::time::sleep(LOCKED_PAUSE).await;
        }
        (!frozen.is_empty()).then_some(Chunk { writes: frozen, maybe_written: true })
    }

    /// A lock was not had in time. Only new gids wait for a row, and everything waits for the fence:
    /// so new gids go to the slow lane, and the rest is tried again. What may have been written
    /// stays here, as it was.
    async fn part_at_lock(&mut self, chunk: Chunk) -> Option<Chunk> {
        if chunk.maybe_written {
            self.rest().await;
            return Some(chunk);
        }
        let (begins, moves): (Vec<_>, Vec<_>) =
            chunk.writes.into_iter().partition(|write| write.transition.begins.is_some());
        let only_moves = begins.is_empty();
        for write in begins {
            self.queue.put_back(write);
        }
        if self.slow || only_moves {
            tokio::time::sleep(LOCKED_PAUSE).await;
        }
        (!moves.is_empty()).then_some(Chunk { writes: moves, maybe_written: false })
    }

    fn refuse(&self, chunk: Chunk, error: &(dyn std::error::Error + 'static)) {
        let error = in_full(error);
        for write in chunk.writes {
            let ended = self.refused(&write, error.clone());
            self.tell(vec![self.complete_one(&write, ended)]);
        }
    }

    fn refused(&self, write: &Write, error: String) -> Ended {
        let tx_id = write.transition.tx_id;
        tracing::error!(%tx_id, error, alarm = WRITE_REFUSED, "the database refuses a row");
        Ended::Refused(error)
    }

    fn complete_one(&self, write: &Write, ended: Ended) -> Completion {
        let (tx_id, life) = (write.transition.tx_id, write.life);
        match ended {
            Ended::Durable(_) => self.queue.done(tx_id),
            Ended::GidHeld(_) | Ended::Lost | Ended::Refused(_) => self.queue.drop_all(tx_id, life),
        }
        Completion { tx_id, life, ended }
    }

    fn tell(&self, results: Vec<Completion>) {
        if !results.is_empty() {
            // Nobody listens any more: the process is ending.
            let _ = self.completed.send(results);
        }
    }

    async fn write(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => match self.store.batch_writer(self.me).await {
                Ok(writer) => {
                    self.observer.connected(true);
                    self.writer.insert(writer)
                }
                Err(super::super::Error::Fenced(me)) => return Err(BatchError::Fenced(me)),
                Err(error) if error.is_elsewhere() => {
                    return Err(BatchError::Elsewhere(error.into()));
                }
                Err(error) => {
                    self.observer.connected(false);
                    return Err(BatchError::Failed(error.into()));
                }
            },
        };
        writer.write(batch).await
    }

    async fn rest(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}
