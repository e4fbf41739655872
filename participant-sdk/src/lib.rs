//! SDK
#![allow(missing_docs)]
pub mod client;
mod payload;
mod refusal;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod action;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod barrier;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod handler;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub mod participant;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod resource;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod schema;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod wire;

pub use client::{Client, Outcome};
#[cfg(feature = "postgres")]
pub use handler::TwoPhase;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use handler::{BoxError, Branch, Call, FinishError, Isolation, PrepareError, Tcc, refuse};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use participant::{Participant, Serve, Service, Serving};
pub use payload::{Decode, Encode, Error as PayloadError, Json, Prost};
#[cfg(feature = "postgres")]
pub use postgres::{Postgres, PostgresOptions};
pub use refusal::Refusal;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use resource::Resource;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use schema::Error as DatabaseError;
#[cfg(feature = "sqlite")]
pub use sqlite::Sqlite;
pub use unanimo_proto as proto;
