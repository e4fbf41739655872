//! The bill of materials: the crates that the lock file may put into the program, as CycloneDX 1.5 in JSON. Features count as
//! the whole workspace turns them on, and so do procedural macros, which run in the compiler alone: a crate that is not on the
//! list is not in the program, and one that is there may not be.
//!
//! Written here, because the document is a list with a hash: the crate of CycloneDX would bring several times as much code.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Package of the program.
const PROGRAM: &str = "unanimo";

/// Makes the bill of materials of the program, with this time.
pub(super) fn bom(epoch: u64) -> Result<Vec<u8>> {
    let mut command = Command::new(env!("CARGO"));
    // For this platform alone, as the program is built.
    command.args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform",
        &super::target()?,
    ]);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    let metadata = serde_json::from_slice(&output.stdout)?;
    let lock: toml::Table = std::fs::read_to_string("Cargo.lock")?.parse()?;
    let bom = of_metadata(&metadata, &lock, epoch)?;
    Ok(format!("{bom:#}\n").into_bytes())
}

fn of_metadata(metadata: &Value, lock: &toml::Table, epoch: u64) -> Result<Value> {
    let packages = list(metadata, "packages");
    let packages: BTreeMap<&str, &Value> =
        packages.iter().map(|package| (text(package, "id"), package)).collect();
    let root = packages.iter().find(|(_, package)| text(package, "name") == PROGRAM);
    let root = *root.context("the package of the program")?.0;
    let edges: BTreeMap<&str, Vec<&str>> = list(&metadata["resolve"], "nodes")
        .iter()
        .map(|node| {
            (
                text(node, "id"),
                list(node, "deps")
                    .iter()
                    .filter(|dep| is_built_in(dep))
                    .map(|dep| text(dep, "pkg"))
                    .collect(),
            )
        })
        .collect();
    let (mut found, mut open) = (BTreeSet::new(), vec![root]);
    while let Some(id) = open.pop() {
        if found.insert(id) {
            open.extend(edges.get(id).into_iter().flatten());
        }
    }
    let hashes = hashes(lock);
    let purls: BTreeMap<&str, String> = found.iter().map(|id| (*id, purl(packages[id]))).collect();
    let others = found.iter().filter(|id| **id != root);
    let components: Vec<Value> = others.map(|id| component(packages[id], &hashes)).collect();
    let dependencies: Vec<Value> = found
        .iter()
        .map(|id| {
            let on: BTreeSet<_> =
                edges.get(id).into_iter().flatten().map(|on| &purls[on]).collect();
            json!({ "ref": purls[id], "dependsOn": on })
        })
        .collect();
    let program = component(packages[root], &hashes);
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "timestamp": timestamp(epoch), "component": with(program, "type", "application") },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// Tells whether a dependency may be in the program, and is not only in build scripts and tests.
fn is_built_in(dependency: &Value) -> bool {
    list(dependency, "dep_kinds").iter().any(|kind| kind["kind"].is_null())
}

fn component(package: &Value, hashes: &BTreeMap<(String, String), String>) -> Value {
    let (name, version) = (text(package, "name"), text(package, "version"));
    let mut component = json!({
        "type": "library",
        "bom-ref": purl(package),
        "purl": purl(package),
        "name": name,
        "version": version,
    });
    if let Some(hash) = hashes.get(&(name.to_owned(), version.to_owned())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": hash }]);
    }
    if let Some(license) = package["license"].as_str() {
        // An expression of SPDX; some crates write `/` for OR, as was allowed once.
        let license: Vec<&str> = license.split('/').map(str::trim).collect();
        component["licenses"] = json!([{ "expression": license.join(" OR ") }]);
    }
    component
}

fn purl(package: &Value) -> String {
    format!("pkg:cargo/{}@{}", text(package, "name"), text(package, "version"))
}

/// Checksums of the registry, by name and version.
fn hashes(lock: &toml::Table) -> BTreeMap<(String, String), String> {
    let packages = lock.get("package").and_then(toml::Value::as_array).into_iter().flatten();
    let hash = |package: &toml::Value| {
        let of = |key: &str| package.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        Some(((of("name")?, of("version")?), of("checksum")?))
    };
    packages.filter_map(hash).collect()
}

fn with(mut object: Value, key: &str, text: &str) -> Value {
    object[key] = json!(text);
    object
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

/// Writes seconds since 1970 as RFC 3339.
fn timestamp(epoch: u64) -> String {
    let at = jiff::Timestamp::from_second(i64::try_from(epoch).unwrap_or_default());
    at.map(|at| at.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_lists_what_is_in_the_program_and_nothing_else() {
        let package = |name: &str| json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0" });
        let dep = |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": (["unanimo", "direct", "deep", "of-tests", "alone"].map(package)),
            "resolve": { "nodes": [
                { "id": "unanimo", "deps": [dep("direct", Value::Null), dep("of-tests", json!("dev"))] },
                { "id": "direct", "deps": [dep("deep", Value::Null)] },
                { "id": "deep", "deps": [] },
                { "id": "alone", "deps": [] },
            ]},
        });
        let lock = "[[package]]\nname = 'deep'\nversion = '1.0.0'\nchecksum = 'abc'"
            .parse()
            .expect("a lock");
        let bom = of_metadata(&metadata, &lock, 0).expect("a bill");
        let names: Vec<_> =
            list(&bom, "components").iter().map(|found| text(found, "name")).collect();
        assert_eq!(names, ["deep", "direct"]);
        assert_eq!(bom["components"][0]["hashes"][0]["content"], "abc");
        assert_eq!(bom["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bom["metadata"]["timestamp"], "1970-01-01T00:00:00Z");
        let on = &bom["dependencies"][2];
        assert_eq!(on["dependsOn"], json!(["pkg:cargo/direct@1.0.0"]), "{bom:#}");
    }
}
