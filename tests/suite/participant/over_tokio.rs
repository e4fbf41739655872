//! Tests on PostgreSQL once more, over `tokio-postgres`: their modules ask for their database by [`over`].

mod connections;
mod over;

#[path = "affirmed.rs"]
mod affirmed;
#[path = "alarms.rs"]
mod alarms;
#[path = "found.rs"]
mod found;
#[path = "installed.rs"]
mod installed;
#[path = "overtime.rs"]
mod overtime;
#[path = "promoted.rs"]
mod promoted;
#[path = "promoted_back.rs"]
mod promoted_back;
#[path = "promoted_losses.rs"]
mod promoted_losses;
#[path = "retention.rs"]
mod retention;
#[path = "rolling.rs"]
mod rolling;
#[path = "set_up.rs"]
mod set_up;
#[path = "spoiled.rs"]
mod spoiled;
#[path = "standby.rs"]
mod standby;
#[path = "sweeper.rs"]
mod sweeper;
#[path = "two_phase.rs"]
pub(super) mod two_phase;
#[path = "waiting.rs"]
mod waiting;

// What these modules expect beside them.
use super::{
    calls, databases, deaf, direct, handler, inquired, own_intercepted, prepared, registration,
};
