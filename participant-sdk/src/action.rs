//! Actions: handlers of any type, behind one face.
//!
//! A handler is a type with one of the traits of [`crate::handler`], or closures. Either becomes a [`Work`], which
//! says what each operation calls of it: `handlers` and `closures` hold that, a few lines for each kind. A `Work`
//! also reads payloads and writes outputs. The rest of the crate knows an [`Action`] and no type of a handler.

mod closures;
mod handlers;
mod interrupted;
mod panics;
mod payloads;
mod work;

use std::fmt;
use std::pin::Pin;

use unanimo_proto::v1::Mode;

pub(crate) use self::closures::{First, Second};
pub use self::interrupted::Interrupt;
use self::interrupted::Interrupted;
pub(crate) use self::panics::{Broken, bounded, caught};
pub(crate) use self::payloads::Unreadable;
use self::work::Work;
use crate::handler::{Call, Isolation, PhaseTwoError, PrepareError};
use crate::payload::{Decode, Encode, Payload};
use crate::resource::PhaseTwoOperation;

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A handler whose payloads are not read yet.
pub(crate) trait Action<C>: Send + Sync {
    /// Phase one; answers with the output.
    fn prepare<'a>(
        &'a self,
        db: &'a mut C,
        call: &'a Call<Payload>,
    ) -> BoxFuture<'a, Result<Payload, PrepareError>>;

    /// Phase two of what was prepared, with its output. Without one it is the Cancel of what left no trace.
    fn phase_two<'a>(
        &'a self,
        operation: PhaseTwoOperation,
        db: &'a mut C,
        call: &'a Call<Payload>,
        output: Option<Payload>,
    ) -> BoxFuture<'a, Result<(), PhaseTwoError>>;

    /// Reads the output of an earlier phase one, as phase two will have to.
    ///
    /// # Errors
    /// It cannot be read.
    fn read_output(&self, output: &Payload) -> Result<(), Unreadable>;

    /// Reads the payload of a branch, as phase two will have to.
    ///
    /// # Errors
    /// It cannot be read.
    fn read_payload(&self, payload: &Payload) -> Result<(), Unreadable>;
}

/// A handler, and how it is to be run.
#[doc(hidden)]
pub struct Registered<C> {
    pub(crate) mode: Mode,
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(crate) read_only: bool,
    /// Its Cancel calls the handler also where phase one left no trace.
    pub(crate) outside: bool,
    pub(crate) isolation: Isolation,
    pub(crate) action: Box<dyn Action<C>>,
}

impl<C> fmt::Debug for Registered<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl<C: Send + 'static> Registered<C> {
    fn new<H, P, O>(mode: Mode, isolation: Isolation, work: Work<C, H, P, O>) -> Self
    where
        H: Send + Sync + 'static,
        P: Decode + Send + Sync + 'static,
        O: Encode + Decode + Send + Sync + 'static,
    {
        Self {
            mode,
            #[cfg(any(feature = "mysql", feature = "postgres"))]
            read_only: false,
            outside: work.is_outside(),
            isolation,
            action: Box::new(work),
        }
    }

    /// The same, interrupted where it is said so.
    pub(crate) fn interrupted(self, interrupt: Interrupt) -> Self {
        Self { action: Box::new(Interrupted { action: self.action, interrupt }), ..self }
    }
}
