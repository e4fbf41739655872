//! Rule `toolchain`: the oldest Rust that builds the workspace is the same everywhere.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Violation;
use super::manifests::{manifests, workspace_field};
use super::tree::Tree;

pub(super) const RULE: &str = "toolchain";

/// Pages that name the version.
const PAGES: [&str; 2] = ["README.md", "CONTRIBUTING.md"];

/// Release: major, minor, patch.
type Release = [u32; 3];

fn release(text: &str) -> Option<Release> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    let release =
        [parts.next()??, parts.next().unwrap_or(Some(0))?, parts.next().unwrap_or(Some(0))?];
    parts.next().is_none().then_some(release)
}

fn violation(file: &str, line: usize, message: String) -> Violation {
    Violation { file: file.to_owned(), line, rule: RULE, item: String::new(), measure: 1, message }
}

/// Checks that the pages name the workspace's version, and no other.
pub(super) fn check_pages(tree: &Tree) -> Vec<Violation> {
    let ours =
        tree.file("Cargo.toml").and_then(|file| workspace_field(&file.text, "rust-version").ok());
    let Some(ours) = ours else { return Vec::new() };
    let mut found = Vec::new();
    for page in PAGES.into_iter().filter_map(|page| tree.file(page)) {
        let named = named(&page.text);
        if named.is_empty() {
            found.push(violation(&page.path, 1, format!("does not say \"Rust {ours}\"")));
        }
        let others = named.into_iter().filter(|(_, version)| *version != ours);
        let message = |version| format!("says Rust {version}: `rust-version` is {ours}");
        found.extend(others.map(|(line, version)| violation(&page.path, line, message(version))));
    }
    found
}

/// Finds the versions after the word "Rust", with their lines.
fn named(text: &str) -> Vec<(usize, &str)> {
    let mut named = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for part in line.split("Rust ").skip(1) {
            let end = part.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(part.len());
            let version = part[..end].trim_end_matches('.');
            if version.contains('.') {
                named.push((index + 1, version));
            }
        }
    }
    named
}

/// Checks that no dependency needs a newer Rust than the workspace names.
pub(super) fn check_dependencies(tree: &Tree) -> Result<Vec<Violation>> {
    let root = tree.file("Cargo.toml").context("there is no Cargo.toml")?;
    let mut command = Command::new(env!("CARGO"));
    let output = command.args(["metadata", "--format-version", "1", "--locked"]).output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata = serde_json::from_slice(&output.stdout)?;
    let ours = manifests(tree).into_iter().map(|manifest| manifest.name).collect::<Vec<_>>();
    Ok(newer(&metadata, &workspace_field(&root.text, "rust-version")?, &ours))
}

fn newer(metadata: &Value, ours: &str, crates: &[String]) -> Vec<Violation> {
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let (name, version) = (&package["name"], &package["version"]);
        let Some(needs) = package["rust_version"].as_str() else { continue };
        let is_ours = crates.iter().any(|ours| name.as_str() == Some(ours));
        if !is_ours && release(needs) > release(ours) {
            let message = format!("{name} {version} needs Rust {needs}: `rust-version` is {ours}");
            found.push(violation("Cargo.lock", 1, message));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: (&str, &str) = ("Cargo.toml", "[workspace.package]\nrust-version = \"1.94\"\n");

    #[test]
    fn pages_name_our_version() {
        let check = |text| check_pages(&Tree::of(&[ROOT, ("README.md", text)])).len();
        assert_eq!(check("Rust, and\nRust 1.94.\n"), 0);
        assert_eq!(check("Rust 1.95 or later"), 1);
        assert_eq!(check("Rust is needed"), 1);
    }

    #[test]
    fn newer_dependencies_are_found() {
        let package =
            |needs: Value| serde_json::json!({"name": "a", "version": "1", "rust_version": needs});
        let check =
            |needs: Value| newer(&serde_json::json!({"packages": [package(needs)]}), "1.94", &[]);
        assert_eq!(check("1.94.0".into()), []);
        assert_eq!(check(Value::Null), []);
        assert_eq!(check("1.94.1".into()).len(), 1);
        assert_eq!(check("1.100".into()).len(), 1);
    }
}
