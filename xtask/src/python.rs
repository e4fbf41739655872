//! Python environment of the examples: under `target/`, with the packages of their requirements,
//! made once.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::step::run;

/// The packages of both examples, in the same versions.
const REQUIREMENTS: &str = "examples/python-initiator/requirements.txt";

/// Folder of the environment, which tests/suite/python.rs uses.
const ENVIRONMENT: &str = "target/python/venv";

/// File with the requirements with which the environment was made.
const STAMP: &str = "target/python/venv/installed.txt";

/// Makes the environment if it is missing, or if its requirements have changed.
pub(crate) fn ensure() -> Result<()> {
    let wanted = fs::read_to_string(REQUIREMENTS)?;
    let python = format!("{ENVIRONMENT}/bin/python");
    // The environment does not work if its Python was removed since.
    let works =
        || is_quiet(Command::new(&python).args(["-c", "import grpc, grpc_status, grpc_tools"]));
    if fs::read_to_string(STAMP).is_ok_and(|made| made == wanted) && works() {
        return Ok(());
    }
    eprintln!("==> making {ENVIRONMENT} with the packages of {REQUIREMENTS}");
    if Path::new(ENVIRONMENT).exists() {
        fs::remove_dir_all(ENVIRONMENT)?;
    }
    run(Command::new("python3").args(["-m", "venv", ENVIRONMENT]))?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    run(Command::new(&python).args(install).arg(REQUIREMENTS))
        .context("install grpcio from the Python Package Index")?;
    fs::write(STAMP, wanted)?;
    Ok(())
}

fn is_quiet(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
