//! Where the programs of database servers are: distributions keep them off the path. Also part of
//! `xtask`, which installs what is not there.

use std::path::{Path, PathBuf};

/// Folders with a version of PostgreSQL each, and what follows the version.
const FOLDERS: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr/local/pgsql", "bin"),
    ("/usr", "bin"),
    ("/opt/homebrew/opt", "bin"),
    ("/usr/local/opt", "bin"),
];

/// Folders that may be off the path.
const OFF_THE_PATH: [&str; 5] = [
    "/usr/sbin",
    "/usr/libexec",
    "/usr/local/sbin",
    "/opt/homebrew/opt/mariadb/bin",
    "/usr/local/opt/mariadb/bin",
];

/// The newest version's program, if there is one.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (folder, rest) in FOLDERS {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path().join(rest).join(name);
            if let Some(version) = version(&entry.path())
                && path.is_file()
            {
                found.push((version, path));
            }
        }
    }
    found.sort();
    found.pop().map(|(_, path)| path).or_else(|| on_the_path(name))
}

/// Of `15`, `pgsql-15` and `postgresql@15`: 15.
fn version(folder: &Path) -> Option<u32> {
    let name = folder.file_name()?.to_str()?;
    let number = ["pgsql-", "postgresql@", "postgresql-"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    number.split('.').next()?.parse().ok()
}

fn on_the_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(OFF_THE_PATH.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}
