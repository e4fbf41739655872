//! Packages in the form in which a registry gets them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::step::{cargo, run};
use crate::tidy;

/// Folder of the workspace into which the packages are unpacked.
const FOLDER: &str = "target/package/unpacked";

/// Name of the package with the program.
const PROGRAM: &str = "unanimo";

/// Packs every published crate, and builds the packages: a file outside a crate's folder, or a
/// dependency without a version, is missing there.
pub(crate) fn package(arguments: &[&str]) -> Result<()> {
    let names = tidy::published()?;
    let packages = names.iter().flat_map(|name| ["-p", name]);
    // This folder, whatever CARGO_TARGET_DIR says: the packages are read from it below.
    let pack = ["package", "--quiet", "--allow-dirty", "--target-dir", "target"]
        .into_iter()
        .chain(packages);
    match arguments {
        [] => {
            cargo(pack.chain(["--no-verify"]))?;
            build(&unpack(&names)?)
        }
        ["--each"] => {
            cargo(pack)?;
            install(&unpack(&names)?)
        }
        _ => bail!("`cargo xtask package` takes `--each` or nothing"),
    }
}

/// Makes a workspace of the packages, in which they depend on each other and not on a registry's.
fn unpack(names: &[String]) -> Result<PathBuf> {
    let folder = std::env::current_dir()?.join(FOLDER);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let manifest = fs::read_to_string("Cargo.toml")?;
    let version = tidy::workspace_field(&manifest, "version")?;
    let folders: Vec<_> = names.iter().map(|name| format!("{name}-{version}")).collect();
    for package in &folders {
        let file = format!("target/package/{package}.crate");
        // `-m` gives the files the present time. Packages have a constant time, and Cargo would
        // take changed files for those that it has built before.
        run(Command::new("tar").args(["-xzmf", &file, "-C", FOLDER]))?;
    }
    // The repository's lock file and target folder, so that built dependencies are used again.
    let profile = tidy::profile(&manifest)?;
    fs::write(folder.join("Cargo.toml"), workspace(names, &folders, &profile))?;
    fs::copy("Cargo.lock", folder.join("Cargo.lock"))?;
    Ok(folder)
}

fn workspace(names: &[String], folders: &[String], profile: &str) -> String {
    let patches = names.iter().zip(folders);
    let patches = patches.map(|(name, folder)| format!("{name} = {{ path = \"{folder}\" }}\n"));
    let patches: String = patches.collect();
    let members = folders.join("\", \"");
    format!(
        "[workspace]\nresolver = \"3\"\nmembers = [\"{members}\"]\n\n\
         [patch.crates-io]\n{patches}\n{profile}"
    )
}

fn build(folder: &Path) -> Result<()> {
    let target = std::env::current_dir()?.join("target");
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--workspace", "--quiet", "--target-dir"]).arg(&target);
    run(command.current_dir(folder))?;
    answers(&target.join("debug").join(PROGRAM))
}

/// Installs the program from its package as a user does, but without optimizing.
fn install(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_program = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let rest = name.strip_prefix(PROGRAM).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let program = entries.into_iter().find(is_program).context("a package with the program")?;
    let target = std::env::current_dir()?.join("target");
    let root = target.join("package/installed");
    let mut command = Command::new(env!("CARGO"));
    command.args(["install", "--quiet", "--debug", "--force", "--path"]).arg(program);
    command.arg("--root").arg(&root).arg("--target-dir").arg(&target);
    run(command.current_dir(folder))?;
    answers(&root.join("bin").join(PROGRAM))
}

fn answers(program: &Path) -> Result<()> {
    run(Command::new(program).arg("--version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_find_each_other() {
        let (names, folders) = (["a".to_owned()], ["a-0.1.0".to_owned()]);
        let manifest = workspace(&names, &folders, "[profile.dev]\ndebug = 1\n");
        let table: toml::Table = manifest.parse().expect("a manifest");
        let patch = table["patch"]["crates-io"]["a"]["path"].as_str();
        assert_eq!(patch, Some("a-0.1.0"));
        assert_eq!(table["workspace"]["members"][0].as_str(), Some("a-0.1.0"));
        assert_eq!(table["profile"]["dev"]["debug"].as_integer(), Some(1));
    }
}
