//! The archive of a release: the program, its manual and completions, files of `deploy/`, and what it is made of.
//!
//! Two runs of one commit with one toolchain give the same bytes: no path of this machine is in the program, and the
//! archive has the commit's time, one owner, fixed modes and sorted names. `--check` proves it of the packing.

mod archive;
mod check;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::step::run;

/// Folder of what is made.
const DIST: &str = "target/dist";

/// Files of the repository that are in the archive, by their paths there.
const FILES: [(&str, &str); 7] = [
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("README.md", "README.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("deploy/systemd/unanimo.service", "lib/systemd/system/unanimo.service"),
    ("deploy/prometheus/rules.yaml", "share/unanimo/prometheus/rules.yaml"),
    ("deploy/grafana/unanimo.json", "share/unanimo/grafana/unanimo.json"),
];

/// Shells, and the file that each looks for.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/unanimo"),
    ("zsh", "share/zsh/site-functions/_unanimo"),
    ("fish", "share/fish/vendor_completions.d/unanimo.fish"),
];

/// Makes the archive; `--program FILE` takes a program that is there instead of building one, and `--check` before it makes
/// nothing, but compares two archives of that program.
pub(crate) fn dist(arguments: &[&str]) -> Result<()> {
    let epoch = epoch()?;
    let name = format!("unanimo-{}-{}", version()?, target()?);
    let program = match arguments {
        [] => build(epoch)?,
        ["--program", file] => PathBuf::from(file),
        ["--check", "--program", file] => return check::check(Path::new(file), &name, epoch),
        _ => {
            bail!("`cargo xtask dist` takes `--program FILE`, `--check --program FILE` or nothing")
        }
    };
    let archive = format!("{name}.tar.gz");
    let beside = [
        (archive.clone(), packed(&program, &Path::new(DIST).join(&name), &name, epoch)?),
        (format!("{name}.cdx.json"), sbom::bom(epoch)?),
    ];
    let mut sums = String::new();
    for (file, bytes) in beside {
        sums += &format!("{}  {file}\n", hex(&Sha256::digest(&bytes)));
        fs::write(Path::new(DIST).join(file), bytes)?;
    }
    fs::write(Path::new(DIST).join("SHA256SUMS"), &sums)?;
    eprintln!("{DIST}/{archive}\n{sums}");
    Ok(())
}

/// Puts together what the archive holds, in this folder, and packs it.
fn packed(program: &Path, folder: &Path, name: &str, epoch: u64) -> Result<Vec<u8>> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    stage(program, folder)?;
    archive::pack(folder, name, epoch)
}

/// Seconds since 1970 of everything in the archive: `SOURCE_DATE_EPOCH`, or the commit's.
fn epoch() -> Result<u64> {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => seconds,
        Err(_) => output(Command::new("git").args(["log", "-1", "--format=%ct"]))?,
    };
    seconds.trim().parse().context("read the time of the commit")
}

/// Builds the program without symbols, and without paths of this machine.
fn build(epoch: u64) -> Result<PathBuf> {
    let here = fs::canonicalize(".")?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")))
        .context("find Cargo's folder")?;
    let places = [(here.as_path(), "/unanimo"), (home.as_path(), "/cargo")];
    // Encoded, so that a path may have spaces.
    let flags = places.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    let of_c = places.map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()));
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "build",
        "--release",
        "--locked",
        "-p",
        "unanimo",
        "--target-dir",
        "target/dist-build",
    ]);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    command.env("CARGO_PROFILE_RELEASE_STRIP", "symbols").env("CFLAGS", of_c.join(" "));
    run(command.env("SOURCE_DATE_EPOCH", epoch.to_string()))?;
    Ok("target/dist-build/release/unanimo".into())
}

/// Puts together what the archive holds.
fn stage(program: &Path, folder: &Path) -> Result<()> {
    let place = |path: &str| -> Result<PathBuf> {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().context("a file in a folder")?)?;
        Ok(path)
    };
    fs::copy(program, place("bin/unanimo")?)
        .with_context(|| format!("copy {}", program.display()))?;
    for (from, to) in FILES {
        fs::copy(from, place(to)?).with_context(|| format!("copy {from}"))?;
    }
    for (shell, to) in SHELLS {
        fs::write(place(to)?, output(Command::new(program).args(["completions", shell]))?)?;
    }
    output(Command::new(program).arg("man").arg(folder.join("share/man/man1")))?;
    Ok(())
}

fn version() -> Result<String> {
    let manifest: toml::Table = fs::read_to_string("Cargo.toml")?.parse()?;
    let version = manifest["workspace"]["package"]["version"].as_str();
    Ok(version.context("the version of the workspace")?.to_owned())
}

/// Triple of the machine for which Rust builds here.
fn target() -> Result<String> {
    let told = output(Command::new("rustc").arg("-vV"))?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

/// Returns the standard output of a program.
fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
