//! The soak: a long time with everything that goes wrong at once; and before it whatever else compares times.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::step::run;

/// Runs it for some minutes; one, if nothing is said.
pub(crate) fn soak(arguments: &[&str]) -> Result<()> {
    let minutes: f64 = match arguments {
        [] => 1.0,
        ["--minutes", minutes] => {
            minutes.parse().with_context(|| format!("--minutes {minutes}: not a number"))?
        }
        _ => bail!("soak [--minutes N], not {}", arguments.join(" ")),
    };
    if !(0.5..=10_000.0).contains(&minutes) {
        bail!("--minutes {minutes}: from 0.5 to 10000");
    }
    packages::ensure(&[packages::POSTGRES, packages::FAKETIME])?;
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--quiet", "--workspace", "--test", "suite", "--"]);
    // One after the other: each compares times.
    command.args(["chaos::soak", "security::greedy", "--ignored", "--nocapture"]);
    command.args(["--test-threads", "1"]);
    run(command.env("SOAK_SECONDS", format!("{:.0}", minutes * 60.0)))
}
