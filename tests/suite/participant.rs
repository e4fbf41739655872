//! Participants of the SDK, on real databases.

mod deaf;
mod direct;
mod retention;
mod sweeper;
mod two_phase;
