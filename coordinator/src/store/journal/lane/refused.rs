//! Writes that the database refuses, through a fault of a row or of its own.

use super::super::super::{BatchError, Write, in_full};
use super::super::queue::{Blame, Line};
use super::parts::SUSPECTS_MAX;
use super::{Error, Lane, going_on, halve};
use crate::alarm::WRITE_REFUSED;

/// Fault that a server names when it does not write a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is more than it takes.
    TooMuch,
    /// A page is damaged.
    Damage,
    /// Another one, of which nobody knows whether it is a row's.
    Unknown,
    /// It has not what a write needs: space, memory, a disk that works. A small write may find some.
    Want,
}

impl Lane {
    /// The server refuses a batch, or fails to write it: through a fault of some row, or of nothing that is in it.
    pub(super) async fn refuse_or_wait(
        &mut self,
        batch: Vec<Write>,
        (said, error): (&str, &str),
        fault: Fault,
        work: &mut Vec<Vec<Write>>,
    ) -> Result<(), Error> {
        let blame = self.queue.note_refused(&batch);
        if batch.len() > 1 {
            halve(batch, work);
            return Ok(());
        }
        let mut is_held = blame == Blame::Held;
        match blame {
            // What the server may do the next time is not refused.
            Blame::Row if matches!(fault, Fault::Unknown | Fault::Want) => is_held = true,
            // A limit that comes and goes is the server's, and nothing that goes on is given up for it.
            Blame::Row if fault == Fault::TooMuch && batch[0].transition.begins.is_none() => {
                is_held = true;
            }
            // A new row may be given a page that no other row needs: it goes to another one later.
            Blame::Row if fault == Fault::Damage && self.can_read(&batch).await? => is_held = true,
            Blame::Row => {
                self.refuse(batch, error);
                return Ok(());
            }
            Blame::Open | Blame::Held => {}
            // Nobody else writes: the server is asked for a write of another kind.
            Blame::Alone if fault != Fault::Want && self.is_server_well().await? => {
                is_held = fault == Fault::Unknown;
                self.queue.note_trouble(None);
            }
            Blame::Alone | Blame::Nobody => self.queue.note_trouble(Some(said.to_owned())),
        }
        for write in batch {
            let tx_id = write.transition.tx_id;
            if is_held && self.queue.note_held(tx_id) {
                tracing::error!(
                    %tx_id,
                    error,
                    alarm = WRITE_REFUSED,
                    "the database does not take a row while it takes others, and it is not known whether that is the \
                     row's own fault, or whether it was taken before; it is sent again"
                );
            } else {
                tracing::warn!(%tx_id, error, "the database does not take a row; it is sent again");
            }
            self.queue.put_back(write, Line::Alone);
        }
        // It is in nobody's way from now on. Where as many are tried alone, it is the server.
        if self.line == Line::Alone
            || (self.line == Line::Slow && self.queue.untried() >= SUSPECTS_MAX)
        {
            self.rest().await;
        }
        Ok(())
    }

    /// Tells whether the database takes a write that has nothing to do with a transaction.
    async fn is_server_well(&mut self) -> Result<bool, Error> {
        let Some(writer) = &mut self.writer else { return Ok(false) };
        match writer.write_own().await {
            Ok(()) => Ok(true),
            Err(error) => self.failed(error).map(|()| false),
        }
    }

    /// Tells whether all can be read that these writes need. What is not known is not the rows' fault.
    async fn can_read(&mut self, batch: &[Write]) -> Result<bool, Error> {
        let Some(writer) = &mut self.writer else { return Ok(true) };
        for write in batch {
            match writer.can_read(write).await {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => return self.failed(error).map(|()| true),
            }
        }
        Ok(true)
    }

    fn failed(&mut self, error: BatchError) -> Result<(), Error> {
        let error = going_on(error)?;
        tracing::warn!(error = in_full(&error), "failed to find out why a row is refused");
        self.disconnect();
        Ok(())
    }
}
