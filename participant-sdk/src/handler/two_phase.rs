//! Actions of two-phase commits, as a participant writes them.

use super::{Call, Isolation, PrepareError};
use crate::payload::Decode;
use crate::resource::TwoPhaseResource;

/// Defines [`TwoPhase`]. Where PostgreSQL is not built in, every handler names its database.
macro_rules! two_phase {
    ($($default:ty)?) => {
        /// An action of a two-phase commit: ordinary work in a local transaction, which the database
        /// prepares, and commits or rolls back by the coordinator's word.
        ///
        /// `TwoPhase<Postgres>`, or `TwoPhase` for short, uses `PREPARE TRANSACTION`; `TwoPhase<MySql>` uses
        /// XA transactions. There, only what a handler has *changed* stays locked: a server that was restarted
        /// has forgotten the locks of rows that were only read (`FOR UPDATE`), and of gaps between rows. And
        /// there, what commits implicitly (DDL, `LOCK TABLES`) is refused by the server, and is a vote no.
        ///
        /// See [`Tcc`](crate::Tcc#what-a-handler-never-does) for what a handler never does.
        pub trait TwoPhase<R: TwoPhaseResource $(= $default)?>: Send + Sync + 'static {
            /// The action's argument, as in [`Tcc`](crate::Tcc).
            type Payload: Decode + Send + Sync + 'static;

            /// Does the work. Rows that it changes stay locked until the transaction has ended.
            ///
            /// # Errors
            /// As of [`Tcc::try_`](crate::Tcc::try_).
            fn prepare(
                &self,
                db: &mut R::Connection,
                call: &Call<Self::Payload>,
            ) -> impl Future<Output = Result<(), PrepareError>> + Send;

            /// Tells whether it only reads. Its transactions are then read-only, it votes READ_ONLY, and no
            /// phase two is owed to it.
            fn read_only(&self) -> bool {
                false
            }

            /// In which isolation its transactions run.
            fn isolation(&self) -> Isolation {
                Isolation::ReadCommitted
            }
        }
    };
}

#[cfg(feature = "postgres")]
two_phase!(crate::Postgres);
#[cfg(all(feature = "mysql", not(feature = "postgres")))]
two_phase!();
