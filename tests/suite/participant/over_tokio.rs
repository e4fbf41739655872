//! Tests on PostgreSQL once more, over `tokio-postgres`: their modules ask for their database by [`over`].

mod connections;
mod over;

#[path = "affirmed.rs"]
mod affirmed;
#[path = "overtime.rs"]
mod overtime;
#[path = "standby.rs"]
mod standby;
#[path = "sweeper.rs"]
mod sweeper;
#[path = "two_phase.rs"]
pub(super) mod two_phase;

// What these modules expect beside them.
use super::{calls, databases, deaf, direct, handler, prepared};
