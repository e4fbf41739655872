//! Checks of an archive: that packing the same program again gives the same bytes, and that the bill of materials names every
//! crate that is in the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{DIST, output, packed, sbom, target};
use crate::step::run;

/// Folder below which Cargo unpacks the crates of a registry; then come the registry's name, and the crate's with its version.
const SOURCES: &str = "/registry/src/";

/// Fewest crates of which a program has a path: of each that may panic. Fewer would mean that paths look otherwise.
const FOUND_MIN: usize = 30;

/// Packs a program twice, and compares.
pub(super) fn check(program: &Path, name: &str, epoch: u64) -> Result<()> {
    let place = |of: &str| Path::new(DIST).join("check").join(of);
    fs::create_dir_all(place("copy"))?;
    // What debuggers need takes most of the bytes, and of the time.
    let small = place("small");
    run(Command::new("strip").args(["--strip-debug", "-o"]).args([&small, program]))?;
    let one = packed(&small, &place("one"), name, epoch)?;
    // A copy has another path and another time.
    let copy = place("copy").join("unanimo-copy");
    fs::copy(&small, &copy).with_context(|| format!("copy {}", small.display()))?;
    ensure!(
        one == packed(&copy, &place("other"), name, epoch)?,
        "two archives of one program differ"
    );
    let bom = sbom::bom(epoch)?;
    ensure!(bom == sbom::bom(epoch)?, "two bills of materials of one lock file differ");
    let bom = serde_json::from_slice(&bom)?;
    let in_program = in_program(&fs::read(program)?);
    let found = in_program.len();
    ensure!(found >= FOUND_MIN, "{} names {found} crates by their paths", program.display());
    let lacking: BTreeSet<String> =
        lacking(&bom, in_program.into_iter().chain(in_tree()?)).collect();
    ensure!(
        lacking.is_empty(),
        "the bill of materials lacks {lacking:?}, which are in the program"
    );
    fs::remove_dir_all(Path::new(DIST).join("check"))?;
    eprintln!(
        "two archives are the same {} bytes; {found} crates named in the program are on the bill",
        one.len()
    );
    Ok(())
}

/// Returns those that the bill of materials does not name, as `NAME-VERSION`.
fn lacking(bom: &Value, crates: impl IntoIterator<Item = String>) -> impl Iterator<Item = String> {
    let named = |component: &Value| {
        Some(format!("{}-{}", component["name"].as_str()?, component["version"].as_str()?))
    };
    let components = bom["components"].as_array().into_iter().flatten();
    let components = components.chain([&bom["metadata"]["component"]]);
    let listed: BTreeSet<String> = components.filter_map(named).collect();
    crates.into_iter().filter(move |of| !listed.contains(of))
}

/// Takes the crates out of the paths of sources that a program has, for its panics and for debuggers.
fn in_program(program: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(program);
    let of = text.split(SOURCES).skip(1).filter_map(|path| {
        let mut parts = path.split('/');
        let (_registry, name, _file) = (parts.next()?, parts.next()?, parts.next()?);
        let is_word =
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte));
        (is_word && name.contains('-') && name.contains('.')).then(|| name.to_owned())
    });
    of.collect()
}

/// Asks Cargo which crates the program is linked of, with the features of the program alone.
fn in_tree() -> Result<BTreeSet<String>> {
    let target = target()?;
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "--locked", "-p", "unanimo", "-e", "normal", "--target", &target]);
    let told = output(command.args(["--prefix", "none", "--format", "{p}"]))?;
    let named = told.lines().filter(|line| !line.is_empty()).map(|line| {
        let mut words = line.split(' ');
        let (Some(name), Some(version)) = (words.next(), words.next()) else {
            bail!("cargo tree says {line:?}");
        };
        Ok(format!("{name}-{}", version.trim_start_matches('v')))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_crate_that_is_in_the_program_and_not_on_the_bill_is_found() {
        let program = b"\0/cargo/registry/src/index.x-1a2b/tokio-util-0.7.1/src/a.rs\0/c/registry/src/i/ring-0.17.0/x\0\
                        /registry/src/index/\xff/\0/registry/src/i/none/x";
        let found = in_program(program);
        assert_eq!(
            found.iter().map(String::as_str).collect::<Vec<_>>(),
            ["ring-0.17.0", "tokio-util-0.7.1"]
        );
        let component = |name: &str, version: &str| json!({ "name": name, "version": version });
        let bom = json!({
            "metadata": { "component": component("unanimo", "0.1.0") },
            "components": [component("tokio-util", "0.7.1"), component("ring", "0.16.0")],
        });
        let all = found.into_iter().chain(["unanimo-0.1.0".to_owned()]);
        assert_eq!(lacking(&bom, all).collect::<Vec<_>>(), ["ring-0.17.0"], "another version");
    }
}
