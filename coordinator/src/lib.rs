//! The Unanimo coordinator.

#[macro_use]
pub mod crash;
pub mod store;
