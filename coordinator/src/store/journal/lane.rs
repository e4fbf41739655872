//! A connection that writes batches, and what it does when that does not go well.

mod budget;
mod connection;
mod parts;
mod refused;
mod standstill;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use unanimo_core::Incarnation;

use self::budget::Budget;
use self::parts::{LOCKED_PAUSE, halve};
use self::refused::Fault;
use super::super::error::is_for_want;
use super::super::{BatchError, BatchWriter, Store, Write, Written, in_full};
use super::queue::{Line, Queue};
use super::{Completion, Ended, Error, Flush, Observer};
use crate::alarm::WRITE_REFUSED;

/// Between attempts to connect, and to write after a failure that no row is to blame for.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Failures in a row, through no fault of a row, after which a batch is sent in smaller ones: it may be
/// more than the server has memory for.
const FAILURES_MAX: u32 = 2;

/// Attempts in a row, each on a connection of its own that takes writes as it is opened, after which the row is to blame
/// that the server calls itself one that takes none.
const WRONG_SERVERS_MAX: u32 = 2;

/// One of the journal's three.
#[derive(Debug)]
pub(super) struct Lane {
    store: Arc<dyn Store>,
    queue: Arc<Queue>,
    me: Incarnation,
    line: Line,
    completed: mpsc::UnboundedSender<Vec<Completion>>,
    observer: Arc<dyn Observer>,
    /// None before the first one, and after a connection was given up.
    writer: Option<Box<dyn BatchWriter>>,
    pause: Duration,
    budget: Budget,
    /// Batches in a row that the server did not do.
    failures: u32,
    /// Batches in a row at which the server said that it takes no writes.
    wrong_servers: u32,
    /// When it was asked last why nothing is written.
    asked_at: Option<Instant>,
    /// Generation of the server that the last batch was sent to: known before it was sent, so no later one.
    generation: Option<u64>,
    /// Flushes so far, and the last one.
    flushes: u64,
    flush: Option<Flush>,
}

impl Lane {
    pub(super) fn new(
        store: Arc<dyn Store>,
        queue: Arc<Queue>,
        me: Incarnation,
        line: Line,
        completed: mpsc::UnboundedSender<Vec<Completion>>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        // What comes to the slow lane has met something: one row first.
        let budget = if line == Line::Fast { Budget::MAX } else { Budget::ONE_ROW };
        let (writer, pause, generation) = (None, PAUSE_MIN, None);
        Self {
            store,
            queue,
            me,
            line,
            completed,
            observer,
            writer,
            pause,
            budget,
            failures: 0,
            wrong_servers: 0,
            asked_at: None,
            generation,
            flushes: 0,
            flush: None,
        }
    }

    pub(super) async fn run(mut self) -> Result<(), Error> {
        if self.line == Line::Fast {
            self.connect_first().await?;
        }
        loop {
            let Some(batch) = self.next().await? else { return Ok(()) };
            self.write_all(batch).await?;
            if self.line == Line::Fast {
                // Whoever was told of the last batch has its next transition ready by then: one
                // larger batch instead of two.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Writes a batch, in parts where some row is refused, until each of its writes is completed or waits
    /// for another lane.
    async fn write_all(&mut self, batch: Vec<Write>) -> Result<(), Error> {
        let mut work = vec![batch];
        while let Some(batch) = work.pop() {
            if self.line != Line::Fast && self.writer.is_none() {
                // It goes where there is a connection, here or in the fast lane.
                batch.into_iter().for_each(|write| self.queue.put_back(write, self.line));
                continue;
            }
            crash_point!("journal-before-write");
            let started = Instant::now();
            match self.write(&batch).await {
                Ok(written) => {
                    crash_point!("journal-after-write");
                    (self.pause, self.failures, self.wrong_servers) = (PAUSE_MIN, 0, 0);
                    self.queue.note_trouble(None);
                    let took = started.elapsed();
                    self.observer.flushed(batch.len(), took);
                    self.note_flush(batch.len(), started, took);
                    self.complete(batch, written).await;
                }
                Err(error) => self.part(batch, going_on(error)?, &mut work).await?,
            }
        }
        Ok(())
    }

    /// Notes a flush, under a number that no other lane has for one.
    fn note_flush(&mut self, rows: usize, started: Instant, took: Duration) {
        self.flushes += 1;
        let number = 3 * self.flushes + self.line as u64;
        self.flush = Some(Flush { number, rows, started, took });
    }

    /// Decides what becomes of a batch that was not written, or may have been, by what the server says.
    async fn part_by(
        &mut self,
        batch: Vec<Write>,
        error: BatchError,
        work: &mut Vec<Vec<Write>>,
    ) -> Result<(), Error> {
        let rows = batch.len();
        let said = in_full(&error);
        match error {
            BatchError::Refused(_) if rows > 1 => halve(batch, work),
            BatchError::Refused(error) => self.refuse(batch, &in_full(&*error)),
            BatchError::TooMuch(error) => {
                let cause = in_full(&*error);
                self.refuse_or_wait(batch, (&said, &cause), Fault::TooMuch, work).await?;
            }
            BatchError::Damaged(error) => {
                let cause = in_full(&*error);
                self.refuse_or_wait(batch, (&said, &cause), Fault::Damage, work).await?;
            }
            BatchError::LockTimeout(_) => {
                tracing::debug!(error = said, rows, "a batch waited for a lock for too long");
                self.part_at_lock(batch, work).await;
            }
            BatchError::TimedOut(_) => {
                tracing::warn!(
                    error = said,
                    rows,
                    "a batch took too long, and nothing of it is written; it is sent in smaller ones"
                );
                self.part_at_timeout(batch, work).await;
            }
            BatchError::Failed(error) => {
                let fault = if is_for_want(&*error) { Fault::Want } else { Fault::Unknown };
                self.send_again(batch, (&said, &in_full(&*error)), fault, work).await?;
            }
            BatchError::WrongServer(_) if self.is_blamed() && self.line == Line::Fast => {
                self.leave_wrong_server(batch, &said);
            }
            BatchError::WrongServer(error) if self.is_blamed() => {
                let cause = in_full(&*error);
                self.send_again(batch, (&said, &cause), Fault::Unknown, work).await?;
                self.disconnect();
            }
            BatchError::WrongServer(_) | BatchError::Former(_) => {
                tracing::warn!(
                    error = said,
                    "nothing of a batch is written; it is sent again on another connection"
                );
                self.wrong_servers += u32::from(matches!(error, BatchError::WrongServer(_)));
                self.disconnect();
                work.push(batch);
                self.rest().await;
            }
            BatchError::Indeterminate(_) => self.send_lost_again(batch, &said).await,
            // The writer itself has waited for a while, and goes on with that.
            BatchError::Unproven(_) | BatchError::Unaffirmed(_) => {
                warn_unproven(&said, rows);
                if matches!(error, BatchError::Unaffirmed(_)) {
                    self.note_standstill(&said);
                }
                self.queue.note_sent(&batch);
                work.push(batch);
            }
            BatchError::Fenced(_) | BatchError::Fatal(_) | BatchError::Elsewhere(_) => {
                unreachable!("they end the journal")
            }
        }
        Ok(())
    }

    /// Tells whether a batch is to blame: connections that take writes as they are opened, one after the other, were wrong
    /// only for it.
    fn is_blamed(&self) -> bool {
        self.wrong_servers == WRONG_SERVERS_MAX
    }

    /// Leaves such a batch to the slow lane, which finds out which row it is.
    fn leave_wrong_server(&mut self, batch: Vec<Write>, error: &str) {
        let rows = batch.len();
        tracing::warn!(
            error,
            rows,
            "nothing of a batch is written, on one connection after the other that takes writes; it is sent in smaller ones"
        );
        self.wrong_servers = 0;
        self.disconnect();
        self.budget.shrink();
        self.put_back(batch);
    }

    async fn send_lost_again(&mut self, batch: Vec<Write>, error: &str) {
        let rows = batch.len();
        tracing::warn!(error, rows, "the acknowledgement of a batch was lost; it is sent again");
        self.disconnect();
        if rows > 1 {
            self.budget.shrink();
        }
        self.queue.note_sent(&batch);
        self.put_back(batch);
        self.rest().await;
    }

    /// Completes each write, or leaves it to the slow lane where somebody else has its row.
    async fn complete(&mut self, batch: Vec<Write>, written: Vec<Written>) {
        let mut results = Vec::with_capacity(batch.len());
        let mut busy = false;
        for (write, became) in batch.into_iter().zip(written) {
            let ended = match became {
                Written::Busy => {
                    busy = true;
                    self.queue.put_back(write, Line::Slow);
                    continue;
                }
                Written::Applied => Ended::Durable(write.transition.version),
                Written::GidHeld(holder) => Ended::GidHeld(holder),
                Written::Lost => Ended::Lost,
                Written::WentBack(earlier) => Ended::WentBack(earlier),
                Written::Refused(why) => self.refused(&write, why),
            };
            results.push(self.complete_one(&write, ended));
        }
        if !results.is_empty() {
            self.budget.grow();
            self.tell(results);
        }
        if busy && self.line != Line::Fast {
            tokio::time::sleep(LOCKED_PAUSE).await;
        }
    }

    /// Sends a batch again that the server did not do; in smaller ones if it was not the first. One row that fails alone
    /// is in nobody's way from then on: the failure may be its own, whatever the server calls it.
    async fn send_again(
        &mut self,
        batch: Vec<Write>,
        (said, error): (&str, &str),
        fault: Fault,
        work: &mut Vec<Vec<Write>>,
    ) -> Result<(), Error> {
        let (rows, is_sent) = (batch.len(), self.writer.is_some());
        // Without a connection it was not sent.
        self.failures += u32::from(is_sent);
        let was_alone = is_sent && self.queue.was_refused_alone(&batch);
        if !was_alone {
            self.note_trouble(&batch, said);
        }
        tracing::warn!(
            error = said,
            rows,
            "failed to write a batch, and nothing of it is written; it is tried again"
        );
        if is_sent && (was_alone || self.failures >= FAILURES_MAX) {
            if rows > 1 {
                self.budget.shrink();
            }
            return self.refuse_or_wait(batch, (said, error), fault, work).await;
        }
        self.rest().await;
        work.push(batch);
        Ok(())
    }

    /// Leaves a batch to the slow lane; one that is there already goes alone from now on.
    fn put_back(&self, batch: Vec<Write>) {
        let goes_alone = self.line != Line::Fast && batch.len() == 1;
        let line = if goes_alone { Line::Alone } else { Line::Slow };
        for write in batch {
            self.queue.put_back(write, line);
        }
    }

    fn refuse(&self, batch: Vec<Write>, error: &str) {
        for write in batch {
            let ended = self.refused(&write, error.to_owned());
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
            Ended::Durable(_) => self.queue.done(tx_id, write.write_id),
            Ended::GidHeld(_) | Ended::Lost | Ended::WentBack(_) | Ended::Refused(_) => {
                self.queue.drop_all(tx_id, write.write_id, life);
            }
        }
        let flush = self.flush.filter(|_| matches!(ended, Ended::Durable(_)));
        Completion { tx_id, life, ended, generation: self.generation, flush }
    }

    fn tell(&self, results: Vec<Completion>) {
        if !results.is_empty() {
            // Nobody listens any more: the process is ending.
            let _ = self.completed.send(results);
        }
    }

    /// Notes why nothing of a batch is written, unless others were written since it was first tried.
    fn note_trouble(&self, batch: &[Write], said: &str) {
        if !self.queue.were_others_written(batch) {
            self.queue.note_trouble(Some(said.to_owned()));
        }
    }

    async fn rest(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

/// Returns an error after which the journal goes on; those that end it, as that.
fn going_on(error: BatchError) -> Result<BatchError, Error> {
    match error {
        BatchError::Fenced(me) => Err(Error::Fenced(me)),
        BatchError::Fatal(_) => Err(Error::Fatal(in_full(&error))),
        BatchError::Elsewhere(error) => Err(Error::Elsewhere(in_full(&*error))),
        error => Ok(error),
    }
}

fn warn_unproven(error: &str, rows: usize) {
    tracing::warn!(
        error,
        rows,
        "a batch is written, and it is not proven yet that it is durable; it is not sent again, and counts once it is"
    );
}
