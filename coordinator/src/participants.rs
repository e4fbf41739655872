//! Participants: who they are, where they answer, and the calls to them.
//!
//! The [`directory`] knows names and endpoints. The [`caller`] sends one call and tells how it ended;
//! `wire` turns the core's types into messages and answers into the core's types. A participant
//! inside this process is called through the same trait that generated servers implement, so both
//! ways are one above the transport. One participant is the coordinator itself: [`own`].

pub mod allow;
pub mod caller;
pub mod databases;
pub mod directory;
pub mod own;
mod wire;

pub use unanimo_proto::v1::participant_service_server::ParticipantService;
