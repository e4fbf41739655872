//! Running of programs, and timing of steps.

use std::ffi::OsStr;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Runs cargo.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<()> {
    run(Command::new(env!("CARGO")).args(arguments))
}

/// Runs a program. It is an error if the program fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// Tells whether a program is on the path.
pub(crate) fn has(program: &str) -> bool {
    let quiet = std::process::Stdio::null;
    let mut command = Command::new(program);
    command.arg("--version").stdout(quiet()).stderr(quiet()).status().is_ok()
}

/// Runs one step after the other, and prints the time of each.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(&'static str, u64)>,
}

impl Steps {
    pub(crate) fn step(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        eprintln!("==> {name}");
        let started = Instant::now();
        let result = work().with_context(|| format!("{name} failed"));
        self.done.push((name, started.elapsed().as_secs()));
        if result.is_err() {
            self.summary(&format!("{name} failed"));
        }
        result
    }

    /// Prints the seconds of each step, and of all of them.
    pub(crate) fn summary(&self, title: &str) {
        eprintln!("==> {title}");
        for (name, secs) in &self.done {
            eprintln!("{secs:>5} s  {name}");
        }
        let all: u64 = self.done.iter().map(|(_, secs)| secs).sum();
        eprintln!("{all:>5} s  in all");
    }
}
