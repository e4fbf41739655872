//! Cross-crate tests. A test of a promise has its name: `s5_…`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::allow_attributes, missing_docs, reason = "a test's name tells")]
#![allow(
    clippy::duplicate_mod,
    reason = "some modules run over two drivers: participant/over_tokio.rs"
)]

mod browser;
mod chaos;
mod cli;
mod clients;
mod conformance;
mod coordinator;
mod fixtures;
mod histories;
mod node;
mod participant;
mod python;
mod saga_samples;
mod sagas_examples;
mod security;
mod store;
mod testing;
