//! Handlers that a test interrupts.

use std::sync::Arc;

use bytes::Bytes;

use super::{Action, BoxFuture, Unreadable};
use crate::handler::{Call, PhaseTwoError, PrepareError};
use crate::payload::Payload;
use crate::resource::PhaseTwoOperation;

/// Told which operation's handler has succeeded, with which output; says whether its work is to be
/// rolled back, as if the process had died before the commit.
#[doc(hidden)]
pub type Interrupt = Arc<dyn Fn(&'static str, &Bytes) -> bool + Send + Sync>;

/// A handler between whose success and commit a test can come.
pub(super) struct Interrupted<C> {
    pub(super) action: Box<dyn Action<C>>,
    pub(super) interrupt: Interrupt,
}

const INTERRUPTED: &str = "interrupted by a test";

impl<C: Send> Action<C> for Interrupted<C> {
    fn prepare<'a>(
        &'a self,
        db: &'a mut C,
        call: &'a Call<Payload>,
    ) -> BoxFuture<'a, Result<Payload, PrepareError>> {
        Box::pin(async move {
            let output = self.action.prepare(db, call).await?;
            match (self.interrupt)("prepare", &output.data) {
                true => Err(PrepareError::Failed(INTERRUPTED.into())),
                false => Ok(output),
            }
        })
    }

    fn phase_two<'a>(
        &'a self,
        operation: PhaseTwoOperation,
        db: &'a mut C,
        call: &'a Call<Payload>,
        output: Option<Payload>,
    ) -> BoxFuture<'a, Result<(), PhaseTwoError>> {
        Box::pin(async move {
            self.action.phase_two(operation, db, call, output).await?;
            let name = match operation {
                PhaseTwoOperation::Commit => "commit",
                PhaseTwoOperation::Cancel => "cancel",
            };
            match (self.interrupt)(name, &Bytes::new()) {
                true => Err(PhaseTwoError::Failed(INTERRUPTED.into())),
                false => Ok(()),
            }
        })
    }

    fn read_output(&self, output: &Payload) -> Result<(), Unreadable> {
        self.action.read_output(output)
    }

    fn read_payload(&self, payload: &Payload) -> Result<(), Unreadable> {
        self.action.read_payload(payload)
    }
}
