//! What must pass.

use std::process::Command;

use anyhow::Result;

use crate::step::{Steps, cargo, has, run};
use crate::{docs, links, msrv, packages, publish, python, tidy};

/// Every test.
pub(crate) fn test(arguments: &[&str]) -> Result<()> {
    packages::ensure(&[packages::POSTGRES, packages::MARIADB, packages::PYTHON])?;
    python::ensure()?;
    cargo(["test", "--workspace"].iter().chain(arguments))
}

/// Everything.
pub(crate) fn ci() -> Result<()> {
    let mut steps = Steps::default();
    steps.step("tidy", || tidy::tidy(&[]))?;
    steps.step("formatting", || cargo(["fmt", "--all", "--check"]))?;
    steps.step("clippy", || {
        cargo(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
    })?;
    steps.step("the SDK with each feature alone", sdk_features)?;
    steps.step("generated gRPC code", docs::check_codegen)?;
    // The reference pages are compared with the program by a test.
    steps.step("tests", || test(&["--quiet"]))?;
    steps.step("packages", || publish::package(&[]))?;
    steps.step("the oldest Rust", msrv::msrv)?;
    steps.step("documentation", || {
        let mut command = Command::new(env!("CARGO"));
        command.args(["doc", "--workspace", "--no-deps", "--quiet"]);
        run(command.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    steps.step("links", links::check)?;
    steps.step("hygiene", hygiene)?;
    steps.summary();
    Ok(())
}

/// A user takes one database, or none: what the workspace builds has all of them.
fn sdk_features() -> Result<()> {
    for features in ["", "mysql", "postgres", "sqlite"] {
        let sdk = ["clippy", "-p", "unanimo-sdk", "--quiet", "--no-default-features", "--features"];
        cargo(sdk.iter().chain(&[features, "--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// Licences, sources, and dependencies that nobody uses.
pub(crate) fn hygiene() -> Result<()> {
    if has("cargo-deny") {
        run(Command::new("cargo-deny").args(["check", "bans", "licenses", "sources"]))?;
    } else {
        eprintln!("    cargo-deny is not installed: skipped (cargo install cargo-deny)");
    }
    if has("cargo-machete") {
        run(&mut Command::new("cargo-machete"))?;
    } else {
        eprintln!("    cargo-machete is not installed: skipped (cargo install cargo-machete)");
    }
    Ok(())
}
