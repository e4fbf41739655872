//! Parts of a batch that met a lock, or took too long: which of them is tried again, and where.

use std::time::Duration;

use super::super::super::Write;
use super::super::queue::Line;
use super::Lane;

/// Before a lane other than the fast one tries a locked row again.
pub(super) const LOCKED_PAUSE: Duration = Duration::from_millis(20);

/// Rows of a batch from which on, and below, each goes alone after the batch has timed out in the slow lane: so one that is
/// never written in time costs the others there as few timeouts as it may.
const SUSPECTS_MAX: usize = 64;

impl Lane {
    /// A batch took too long. The fast lane tries it once only, because all others wait there for as long: the slow lane
    /// finds out which row it is, by parts, and each row of a small one goes alone.
    pub(super) async fn part_at_timeout(&mut self, batch: Vec<Write>) {
        let rows = batch.len();
        match self.line {
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
                self.rest().await;
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
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
            return;
        }
        let (begins, moves): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|write| write.transition.begins.is_some());
        if begins.is_empty() {
            tokio::time::sleep(LOCKED_PAUSE).await;
            return self.put_back(moves);
        }
        self.put_back(begins);
        if !moves.is_empty() {
            work.push(moves);
        }
    }
}

pub(super) fn halve(mut batch: Vec<Write>, work: &mut Vec<Vec<Write>>) {
    let second = batch.split_off(batch.len() / 2);
    work.push(second);
    work.push(batch);
}
