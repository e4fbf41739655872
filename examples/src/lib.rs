//! Two banks, each with a database of its own, and money that moves between them.
//!
//! [`tcc`] and [`two_phase`] hold the same bank in either mode; the binaries `tcc-bank` and
//! `two-phase-bank` serve them, and `transfer` starts a transaction over two of them. [`sagas`] holds three
//! sagas, which the binary `saga` runs.

pub mod accounts;
#[path = "../sagas/sagas.rs"]
pub mod sagas;
pub mod serving;
pub mod tcc;
pub mod two_phase;

pub use accounts::Posting;

/// The code in a guide, which compiles.
#[cfg(doctest)]
#[doc = include_str!("../../docs/initiator-guide.md")]
struct InitiatorGuide;

/// The code in a guide, which compiles.
#[cfg(doctest)]
#[doc = include_str!("../../docs/own-service.md")]
struct OwnService;

/// The code in a guide, which compiles.
#[cfg(doctest)]
#[doc = include_str!("../../docs/own-database.md")]
struct OwnDatabase;
