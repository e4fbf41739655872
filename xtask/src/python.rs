//! Python for the example participant: an environment under `target/` with the packages that it
//! names, made once.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::postgres::{Manager, privilege, privileged};
use crate::step::{has, run};

const MANAGERS: [Manager; 6] = [
    Manager {
        program: "apt-get",
        update: &["update", "--quiet"],
        install: &[
            "install",
            "--yes",
            "--quiet",
            "--no-install-recommends",
            "python3",
            "python3-venv",
        ],
    },
    Manager { program: "dnf", update: &[], install: &["install", "-y", "python3"] },
    Manager { program: "zypper", update: &[], install: &["-n", "install", "python3"] },
    Manager { program: "pacman", update: &[], install: &["-Sy", "--noconfirm", "python"] },
    Manager { program: "apk", update: &[], install: &["add", "python3"] },
    Manager { program: "brew", update: &[], install: &["install", "python3"] },
];

/// Whether Python has what an environment and the example need. Debian keeps `ensurepip` apart.
const PROBE: &str = "import sys, venv, ensurepip, sqlite3; sys.exit(sys.version_info < (3, 10))";

const REQUIREMENTS: &str = "examples/python-participant/requirements.txt";

/// Where tests/suite/python.rs looks for it.
const ENVIRONMENT: &str = "target/python/venv";

/// Holds the requirements that the environment was made with.
const STAMP: &str = "target/python/venv/installed.txt";

/// Makes the environment if it is not there, or is another one.
pub(crate) fn ensure() -> Result<()> {
    let wanted = fs::read_to_string(REQUIREMENTS)?;
    let python = format!("{ENVIRONMENT}/bin/python");
    // An environment whose Python was removed since is none.
    let works = || is_quiet(Command::new(&python).args(["-c", "import grpc, grpc_tools"]));
    if fs::read_to_string(STAMP).is_ok_and(|made| made == wanted) && works() {
        return Ok(());
    }
    ensure_python()?;
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

fn is_installed() -> bool {
    is_quiet(Command::new("python3").args(["-c", PROBE]))
}

fn ensure_python() -> Result<()> {
    if is_installed() {
        return Ok(());
    }
    let needs =
        "the test of the example in Python needs Python 3.10 or later with venv and sqlite3";
    let Some(manager) = MANAGERS.iter().find(|manager| has(manager.program)) else {
        bail!("{needs}: install it");
    };
    let line = format!("{} {}", manager.program, manager.install.join(" "));
    let Some(prefix) = privilege(manager) else { bail!("{needs}; run as root: {line}") };
    eprintln!("==> installing Python: {line}");
    for arguments in [manager.update, manager.install] {
        if !arguments.is_empty() {
            privileged(prefix, manager.program, arguments)?;
        }
    }
    if !is_installed() {
        bail!("{line} went well, and yet: {needs}");
    }
    Ok(())
}
