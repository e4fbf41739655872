//! Kills at every durable step of the examples of sagas.

use std::process::Command;

use anyhow::{Result, bail};

use crate::packages;
use crate::step::run;

/// Kills the coordinator on PostgreSQL, and each participant, at every visit of every crash point of every example (on SQLite
/// the coordinator's are part of the tests); and then all of them at random moments, by a seed that `TEST_SEED` sets and that is printed.
pub(crate) fn kills(arguments: &[&str]) -> Result<()> {
    if !arguments.is_empty() {
        bail!("kills, and no arguments, not {}", arguments.join(" "));
    }
    packages::ensure(&[packages::POSTGRES])?;
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--workspace", "--test", "suite", "--"]);
    run(command.args(["--ignored", "--nocapture", "sagas_examples::", "chaos::sagas::"]))
}
