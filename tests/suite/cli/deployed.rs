//! Files of a deployment: the unit of systemd and the compose files say nothing that systemd, or the program, does not know.

mod compose;
mod unit;
mod yaml;

use std::path::{Path, PathBuf};

/// Path of a file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    let path = file(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Fails if there is a mistake, and shows all.
#[track_caller]
fn none(of: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{of}:\n  {}", wrong.join("\n  "));
}
