//! The audit: acts of operators, calls that were denied, and changes of who may call.
//!
//! An act has two entries: one before it is carried out, and one with its outcome before it is answered. Entries are
//! a chain of hashes, so that one that is changed, removed or moved is found.

mod chain;
mod denials;
mod entry;
mod named;
mod page;
mod trail;

pub use self::chain::{Broken, Link, Purge, Verifier, hash_of, hex, unhex};
pub use self::entry::{Entry, Kind};
pub(crate) use self::named::{Fingerprint, changed, changes, started};
pub(crate) use self::page::page;
#[cfg(test)]
pub(crate) use self::trail::kept;
pub(crate) use self::trail::{ACTS_MAX, Trail, Unwritten};
