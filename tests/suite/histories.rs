//! Recorded histories of every version, replayed: what they meant, they mean.

mod run;
mod scripts;

use std::path::{Path, PathBuf};

use unanimo_core::history::{self, Document};

use self::scripts::SCRIPTS;

/// Folder of the histories; one of each version is in it.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("histories")
}

fn of_this_version() -> PathBuf {
    folder().join(env!("CARGO_PKG_VERSION"))
}

/// Every history of every version.
fn recorded() -> Vec<(PathBuf, Document)> {
    let mut found = Vec::new();
    for version in std::fs::read_dir(folder()).unwrap() {
        for file in std::fs::read_dir(version.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let document = serde_json::from_str(&text).unwrap_or_else(|error| {
                panic!("{}: {error}", path.display());
            });
            found.push((path, document));
        }
    }
    found
}

#[test]
fn s4_recorded_histories_of_every_version_mean_the_same() {
    let recorded = recorded();
    assert!(recorded.len() >= SCRIPTS.len(), "{} histories are there", recorded.len());
    let differ: Vec<String> = recorded
        .iter()
        .filter_map(|(path, document)| {
            let error = history::replay(document).err()?;
            Some(format!("{}\n{error}", path.display()))
        })
        .collect();
    let count = differ.len();
    assert_eq!(count, 0, "running transactions would change their meaning:\n{}", differ.join("\n"));
}

/// A script that is new, or a new version: `cargo xtask histories` adds what is missing.
#[test]
fn every_script_is_recorded() {
    for (name, _) in SCRIPTS {
        let path = of_this_version().join(format!("{name}.json"));
        assert!(path.exists(), "{} is missing: run `cargo xtask histories`", path.display());
    }
}

#[test]
#[ignore = "adds files to the repository: `cargo xtask histories`"]
fn add_what_is_missing() {
    std::fs::create_dir_all(of_this_version()).unwrap();
    for (name, script) in SCRIPTS {
        let path = of_this_version().join(format!("{name}.json"));
        let document = run::record(name, script);
        history::replay(&document).unwrap_or_else(|error| panic!("{name}: {error}"));
        // One that is there is never written again: it is what a version did.
        if !path.exists() {
            let text = serde_json::to_string_pretty(&document).unwrap();
            std::fs::write(&path, text + "\n").unwrap();
            eprintln!("added {}", path.display());
        }
    }
}
