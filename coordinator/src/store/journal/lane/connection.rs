//! Connection of a lane. The two that are needed seldom have theirs from the start, and make a new one once it is lost: when
//! some row needs it, there may be none to be had.

use std::sync::Arc;
use std::time::{Duration, Instant};

use unanimo_core::Incarnation;

use super::super::super::error::Error as StoreError;
use super::super::super::{BatchError, BatchWriter, Store, Write, Written, in_full};
use super::super::queue::Line;
use super::parts::LOCKED_PAUSE;
use super::{Error, Lane, PAUSE_MAX, PAUSE_MIN, going_on};

/// After so long without work a lane looks whether its connection still answers. Shorter than the time for which firewalls
/// remember a connection, most of which do for five minutes or more.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Time after which a lane without work looks again whether the fast one has a connection.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// The same while the fast lane has none, and this one makes room for it.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// Longest wait of rows for a connection that is being made.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

type Opened = Result<Box<dyn BatchWriter>, StoreError>;

impl Lane {
    /// Takes the next batch; `None` once nothing can come any more. A lane other than the fast one has a connection by then:
    /// what comes for it while it can have none is left to the fast lane.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Write>>, Error> {
        let mut idle_since = Instant::now();
        loop {
            if self.queue.makes_room(self.line) {
                if self.queue.is_drained() {
                    return Ok(None);
                }
                self.writer = None;
                tokio::time::sleep(ROOM_PAUSE).await;
                continue;
            }
            if self.line != Line::Fast && !self.stay_connected().await? {
                return Ok(None);
            }
            if self.line != Line::Fast && self.writer.is_none() {
                continue;
            }
            let next = self.queue.next(self.line, self.budget.rows, self.budget.bytes);
            match tokio::time::timeout(LOOK_PAUSE, next).await {
                Ok(batch) => return Ok(batch),
                Err(_) if self.line != Line::Fast && idle_since.elapsed() >= IDLE_MAX => {
                    self.look_at_connection().await?;
                    idle_since = Instant::now();
                }
                Err(_) => {}
            }
        }
    }

    /// Connects at the start. The fast lane tries again with its first batch.
    pub(super) async fn connect_first(&mut self) -> Result<(), Error> {
        let opened = open(&*self.store, self.me, self.line).await;
        self.note_opened(opened)
    }

    /// Connects if there is no connection. `false` once nothing can come any more.
    async fn stay_connected(&mut self) -> Result<bool, Error> {
        // Not the lane's own: a row that ends each connection waits longer and longer, however well those are opened.
        let mut pause = PAUSE_MIN;
        while self.writer.is_none() && !self.queue.makes_room(self.line) {
            let (store, queue) = (Arc::clone(&self.store), Arc::clone(&self.queue));
            let (me, line, was_refused) = (self.me, self.line, self.queue.is_cut_off(self.line));
            let before = if was_refused { pause } else { Duration::ZERO };
            let connecting = async {
                tokio::time::sleep(before).await;
                open(&*store, me, line).await
            };
            tokio::pin!(connecting);
            let patience = if was_refused { Duration::ZERO } else { CONNECT_PATIENCE };
            let leaving = async {
                tokio::time::sleep(patience).await;
                while queue.leave_to_fast(line).await {
                    // What comes back at once has met its lock again.
                    tokio::time::sleep(LOCKED_PAUSE).await;
                }
            };
            let opened = tokio::select! {
                opened = &mut connecting => opened,
                () = leaving => return Ok(false),
            };
            self.note_opened(opened)?;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Ok(true)
    }

    /// Keeps a connection that was opened, or tells why it was not.
    fn note_opened(&mut self, opened: Opened) -> Result<(), Error> {
        match opened.map_err(of_opening) {
            Ok(writer) => {
                self.writer = Some(writer);
                self.queue.note_cut_off(self.line, None);
                if self.line == Line::Slow {
                    self.queue.take_back();
                }
                self.tell_connected(true);
            }
            Err(error) => {
                let error = in_full(&going_on(error)?);
                self.tell_connected(false);
                if self.queue.note_cut_off(self.line, Some(error.clone())) {
                    let lane = self.line.name();
                    tracing::warn!(
                        error,
                        lane,
                        "a lane of the journal has no connection; it is tried again"
                    );
                }
            }
        }
        Ok(())
    }

    /// Gives up a connection that does not answer any more. One with a file always does.
    async fn look_at_connection(&mut self) -> Result<(), Error> {
        if self.store.generation().is_none() {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        if let Err(error) = writer.write_own().await {
            let error = in_full(&going_on(error)?);
            tracing::info!(error, "an idle connection of the journal is made anew");
            self.disconnect();
        }
        Ok(())
    }

    pub(super) async fn write(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => match open(&*self.store, self.me, self.line).await.map_err(of_opening) {
                Ok(writer) => {
                    self.queue.note_cut_off(self.line, None);
                    self.tell_connected(true);
                    self.writer.insert(writer)
                }
                Err(error) => {
                    // Told with the batch.
                    self.queue.note_cut_off(self.line, Some(in_full(&error)));
                    self.tell_connected(false);
                    return Err(error);
                }
            },
        };
        self.generation = self.store.generation();
        writer.write(batch).await
    }

    /// Tells about the fast lane alone: all else waits for something of its own.
    fn tell_connected(&self, connected: bool) {
        if self.line == Line::Fast {
            self.observer.connected(connected);
        }
    }

    pub(super) fn disconnect(&mut self) {
        self.writer = None;
        self.tell_connected(false);
    }
}

/// Opens the connection of a lane. Where one row goes alone it is waited for its locks for longer: nobody else waits with it.
async fn open(store: &dyn Store, me: Incarnation, line: Line) -> Opened {
    match line {
        Line::Fast | Line::Slow => store.hasty_batch_writer(me).await,
        Line::Alone => store.batch_writer(me).await,
    }
}

/// Returns the error of an opening as that of a batch, of which nothing is written.
fn of_opening(error: StoreError) -> BatchError {
    match error {
        StoreError::Fenced(me) => BatchError::Fenced(me),
        error if error.is_elsewhere() => BatchError::Elsewhere(error.into()),
        error => BatchError::Failed(error.into()),
    }
}
