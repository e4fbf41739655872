//! Paths of the programs of database servers, which some distributions keep off the path. The file
//! is also part of `xtask`, which installs missing programs.

use std::path::{Path, PathBuf};

/// Folders that have a folder for each version of PostgreSQL: the path before the version, and the
/// path after it.
const FOLDERS: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr/local/pgsql", "bin"),
    ("/usr", "bin"),
    ("/opt/homebrew/opt", "bin"),
    ("/usr/local/opt", "bin"),
];

/// Folders with programs that may be off the path.
const OFF_THE_PATH: [&str; 5] = [
    "/usr/sbin",
    "/usr/libexec",
    "/usr/local/sbin",
    "/opt/homebrew/opt/mariadb/bin",
    "/usr/local/opt/mariadb/bin",
];

/// Places of libfaketime, by distribution.
const FAKETIME: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
    "/usr/lib64/libfaketime.so.1",
    "/usr/lib/libfaketime.so.1",
];

/// Names of Chromium, by distribution.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// Variable with the folder of the programs of PostgreSQL to be used before all others. What is not there is taken from
/// the usual places.
pub const POSTGRES_PROGRAMS: &str = "POSTGRES_PROGRAMS";

/// Returns the path of the newest version's program; `None` if it is not installed.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let wanted = std::env::var_os(POSTGRES_PROGRAMS).map(|folder| Path::new(&folder).join(name));
    if let Some(wanted) = wanted.filter(|path| path.is_file()) {
        return Some(wanted);
    }
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

/// Returns the version in a folder's name: 15 for `15`, `pgsql-15` and `postgresql@15`.
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

/// Returns the path of libfaketime; `None` if it is not installed.
#[must_use]
pub fn libfaketime() -> Option<&'static Path> {
    FAKETIME.iter().map(Path::new).find(|path| path.is_file())
}

/// Returns the path of Chromium, or of a browser that is built of it; `None` if there is none.
#[must_use]
pub fn browser() -> Option<PathBuf> {
    BROWSERS.iter().find_map(|name| on_the_path(name))
}
