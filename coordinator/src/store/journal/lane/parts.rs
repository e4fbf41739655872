//! Parts of a batch that met a lock, or took too long: which of them is tried again, and where.

use std::time::Duration;

use super::super::super::{BatchError, Write, in_full};
use super::super::queue::Line;
use super::{Error, Lane};

/// Before a lane other than the fast one tries a locked row again.
pub(super) const LOCKED_PAUSE: Duration = Duration::from_millis(20);

/// Rows of a batch from which on, and below, each goes alone after the batch has timed out in the slow lane: so one that is
/// never written in time costs the others there as few timeouts as it may.
pub(super) const SUSPECTS_MAX: usize = 64;

impl Lane {
    /// Decides what becomes of a batch that was not written, or may have been. Decisions do not wait in the fast lane until it
    /// is known which of the rows that begin something was to blame.
    pub(super) async fn part(
        &mut self,
        batch: Vec<Write>,
        error: BatchError,
        work: &mut Vec<Vec<Write>>,
    ) -> Result<(), Error> {
        match &error {
            BatchError::LockTimeout(_) | BatchError::TimedOut(_) => {
                self.look_for_standstill().await?;
            }
            BatchError::TooMuch(_) | BatchError::Damaged(_) | BatchError::Failed(_)
                if self.line == Line::Fast && self.writer.is_some() && batch.iter().any(begins) =>
            {
                let (said, rows) = (in_full(&error), batch.len());
                if matches!(error, BatchError::Failed(_)) {
                    self.note_trouble(&batch, &said);
                }
                tracing::warn!(
                    error = said,
                    rows,
                    "failed to write a batch, and nothing of it is written; what it begins is sent in smaller ones"
                );
                self.leave_begins(batch, work);
                return Ok(());
            }
            _ => {}
        }
        self.part_by(batch, error, work).await
    }

    /// A batch took too long. The fast lane tries it once only, because all others wait there for as long: the slow lane
    /// finds out which row it is, by parts, and each row of a small one goes alone.
    ///
    /// Takes moves first in the next batch, where the one before had begins as well: those may have held it up.
    pub(super) async fn part_at_timeout(&mut self, batch: Vec<Write>, work: &mut Vec<Vec<Write>>) {
        let rows = batch.len();
        let has_begins = self.line == Line::Fast && batch.iter().any(begins);
        if has_begins {
            self.queue.put_moves_first();
        }
        match self.line {
            Line::Fast if rows > 1 && has_begins => {
                self.budget.shrink();
                self.leave_begins(batch, work);
            }
            Line::Fast if rows > 1 => {
                self.budget.shrink();
                self.put_back(batch);
            }
            // Where as many are to be tried alone already, it is no row's fault, or they come first.
            Line::Slow
                if rows > SUSPECTS_MAX || (rows > 1 && self.queue.untried() >= SUSPECTS_MAX) =>
            {
                self.budget.shrink_to(rows / 16);
                self.put_back(batch);
            }
            Line::Fast | Line::Slow | Line::Alone => {
                self.budget.shrink();
                if let [write] = &batch[..] {
                    self.queue.note_timed_out(write.transition.tx_id);
                }
                for write in batch {
                    self.queue.put_back(write, Line::Alone);
                }
                if self.line == Line::Alone {
                    self.rest().await;
                }
            }
        }
    }

    /// A lock was not had in time. New gids wait for a rival's, other rows for one that follows the same row, which is rare,
    /// and everything for the fence: so new gids go to the slow lane, and then the rest. There the one that waits goes alone.
    pub(super) async fn part_at_lock(&mut self, batch: Vec<Write>, work: &mut Vec<Vec<Write>>) {
        if self.line != Line::Fast {
            if batch.len() > 1 {
                self.budget.halve();
                halve(batch, work);
            } else {
                self.put_back(batch);
                if self.line == Line::Alone {
                    tokio::time::sleep(LOCKED_PAUSE).await;
                }
            }
            return;
        }
        if batch.iter().any(begins) {
            return self.leave_begins(batch, work);
        }
        tokio::time::sleep(LOCKED_PAUSE).await;
        self.put_back(batch);
    }

    /// Leaves what a batch begins to the slow lane; the rest goes again at once.
    fn leave_begins(&mut self, batch: Vec<Write>, work: &mut Vec<Vec<Write>>) {
        let (begins, moves): (Vec<_>, Vec<_>) = batch.into_iter().partition(begins);
        self.put_back(begins);
        if !moves.is_empty() {
            work.push(moves);
        }
    }
}

fn begins(write: &Write) -> bool {
    write.transition.begins.is_some()
}

pub(super) fn halve(mut batch: Vec<Write>, work: &mut Vec<Vec<Write>>) {
    let second = batch.split_off(batch.len() / 2);
    work.push(second);
    work.push(batch);
}
