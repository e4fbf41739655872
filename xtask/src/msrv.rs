//! Build with the oldest Rust that the workspace supports.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::step::run;
use crate::tidy;

/// Builds the workspace with the release that `rust-version` names, if rustup has it.
pub(crate) fn msrv() -> Result<()> {
    let version = tidy::workspace_field(&fs::read_to_string("Cargo.toml")?, "rust-version")?;
    let output = Command::new("rustup").args(["toolchain", "list"]).output();
    let installed = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let Some(toolchain) = toolchain(&installed.unwrap_or_default(), &version) else {
        eprintln!(
            "    Rust {version} is not installed: skipped (rustup toolchain install {version})"
        );
        return Ok(());
    };
    let mut command = Command::new("rustup");
    command.args(["run", &toolchain, "cargo", "check", "--workspace", "--all-targets", "--quiet"]);
    // A folder of its own, so that the artifacts of both compilers stay.
    run(command.args(["--locked", "--target-dir", "target/msrv"]))
}

/// Finds the installed toolchain of a release: `1.94` is `1.94-…` or `1.94.0-…`.
fn toolchain(installed: &str, version: &str) -> Option<String> {
    let names = installed.lines().filter_map(|line| line.split_whitespace().next());
    let is_it = |name: &&str| {
        let rest = name.strip_prefix(version).map(|rest| rest.strip_prefix(".0").unwrap_or(rest));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    names.into_iter().find(is_it).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_itself_is_taken() {
        let installed = "stable-x86_64 (active)\n1.94.1-x86_64\n1.94.0-x86_64\n";
        assert_eq!(toolchain(installed, "1.94"), Some("1.94.0-x86_64".to_owned()));
        assert_eq!(toolchain("1.94-x86_64\n", "1.94"), Some("1.94-x86_64".to_owned()));
        assert_eq!(toolchain("1.941-x86_64\nstable\n", "1.94"), None);
    }
}
