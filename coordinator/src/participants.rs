//! Participants: who they are, where they answer, and the calls to them.
//!
//! The [`directory`] knows names, and the endpoints and instances of each. The [`caller`] sends one call
//! and tells how it ended; `wire` turns the core's types into messages and answers into the core's types.
//! A [`breaker`] for each participant says whether calls are sent at all. A participant inside this
//! process is called through the same trait that generated servers implement, and `transport` knows gRPC and JSON over
//! HTTP, so all ways are one above it. One participant is the coordinator itself: [`own`].

pub mod allow;
pub mod breaker;
pub mod caller;
pub mod databases;
pub mod directory;
mod failure;
pub(crate) mod load;
pub mod own;
pub mod tokens;
mod transport;
mod wire;

pub use unanimo_proto::v1::participant_service_server::ParticipantService;
