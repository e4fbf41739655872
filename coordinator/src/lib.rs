//! The Unanimo coordinator.

#[macro_use]
pub mod crash;
mod admin;
pub mod alarm;
pub mod api;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod conformance;
pub mod coordinator;
pub mod engine;
pub mod env;
pub mod metrics;
pub mod participants;
pub mod store;
mod wire;

pub use config::Config;
pub use coordinator::{Builder, Running};
