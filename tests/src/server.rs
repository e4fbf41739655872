//! Functions for all database servers of the tests.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::installed;
use crate::reaper::{NOBODY, is_root, run_folder};

/// Makes a folder in the run's folder, for the user of the servers.
pub(crate) fn new_folder(kind: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = run_folder().join(format!("{kind}{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&folder).expect("a folder");
    give_away(&folder);
    folder
}

/// Gives a file or a folder to the user of the servers.
fn give_away(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("give it away");
    }
}

/// Writes a file of the user of the servers.
pub(crate) fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    give_away(path);
}

/// Returns a new name for a database, unique in this process.
pub(crate) fn new_database() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Copies a data folder, which takes a tenth of the time to make a new one.
pub(crate) fn copy(template: &Path, to: &Path) {
    run(as_server_user("cp").arg("-a").arg(template).arg(to));
}

/// Runs a command, and panics if it fails.
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

/// Makes a command that runs as the user of the servers.
pub(crate) fn as_server_user(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C");
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Returns the path of a server's program.
pub(crate) fn program(name: &str) -> PathBuf {
    let found = installed::program(name);
    found.unwrap_or_else(|| panic!("{name} is not installed: cargo xtask test does it"))
}
