//! Rules that a program can see: sizes, layers, words, manifests.
//!
//! Each rule is a module with a `check` that returns violations. `exceptions.rs` lists the
//! tolerated ones; an exception that is no longer needed is an error.

mod comments;
mod exceptions;
mod glossary;
mod layers;
mod length;
mod manifests;
mod mutations;
mod places;
mod rust;
mod toolchain;
mod tree;
mod words;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};

use self::exceptions::EXCEPTIONS;
pub(crate) use self::manifests::{profile, workspace_field};
use self::tree::Tree;

/// Number of tolerated violations of the rules about words (`comments`, `words`). Zero makes them
/// as strict as the others.
const WORDING_TOLERATED: usize = 0;

/// Rules to which [`WORDING_TOLERATED`] applies.
const WORDING: [&str; 2] = [comments::RULE, words::RULE];

/// Violation of a rule, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Violation {
    /// Path of the file from the workspace's folder.
    file: String,
    line: usize,
    rule: &'static str,
    /// Name of the function or dependency, if a file can have several; otherwise empty.
    item: String,
    /// Size of a part that is too large; 1 for every other rule.
    measure: usize,
    message: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.file, self.line, self.rule, self.message)
    }
}

/// Checks every rule; `--report` only counts.
pub(crate) fn tidy(arguments: &[&str]) -> Result<()> {
    let tree = Tree::read(Path::new("."))?;
    match arguments {
        [] => {
            let mut found = check(&tree);
            found.extend(toolchain::check_dependencies(&tree)?);
            judge(found, WORDING_TOLERATED)
        }
        ["--report"] => {
            report(&check(&tree));
            Ok(())
        }
        _ => bail!("`cargo xtask tidy` takes `--report` or nothing"),
    }
}

/// Returns the names of the crates that go to a registry.
pub(crate) fn published() -> Result<Vec<String>> {
    let crates = manifests::manifests(&Tree::read(Path::new("."))?);
    let published = crates.into_iter().filter(manifests::is_published);
    Ok(published.map(|manifest| manifest.name).collect())
}

/// Returns every violation, without those that an exception covers.
fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    found.extend(length::check(tree));
    found.extend(layers::check(tree));
    found.extend(comments::check(tree));
    found.extend(words::check(tree));
    found.extend(glossary::check(tree));
    found.extend(places::check(tree));
    found.extend(mutations::check(tree));
    found.extend(manifests::check(tree));
    found.extend(toolchain::check_pages(tree));
    let mut found = exceptions::apply(found, EXCEPTIONS);
    found.sort_by(|a, b| (&a.file, a.line, a.rule).cmp(&(&b.file, b.line, b.rule)));
    found
}

fn judge(found: Vec<Violation>, tolerated: usize) -> Result<()> {
    let (wording, mut fatal): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|violation| WORDING.contains(&violation.rule));
    if wording.len() > tolerated {
        fatal.extend(wording);
    } else if !wording.is_empty() {
        let count = wording.len();
        eprintln!(
            "    {count} violations of rules about words are tolerated: `--report` counts them"
        );
    }
    if fatal.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = fatal.iter().map(|violation| format!("\n  {violation}")).collect();
    bail!("{} violations (rules: CONTRIBUTING.md, \"Tidy\"):{}", fatal.len(), lines.concat())
}

/// Prints every violation, and the number in each folder.
fn report(found: &[Violation]) {
    let mut counts = BTreeMap::new();
    for violation in found {
        eprintln!("{violation}");
        *counts.entry((folder(&violation.file), violation.rule)).or_insert(0_usize) += 1;
    }
    for ((folder, rule), count) in counts {
        eprintln!("{count:>5}  {rule:<12} {folder}");
    }
    eprintln!("{:>5}  in all", found.len());
}

/// Returns up to three levels of a file's folder: `coordinator/src/engine`.
fn folder(file: &str) -> String {
    let parts: Vec<_> = file.split('/').collect();
    parts[..(parts.len() - 1).min(3)].join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violation(rule: &'static str) -> Violation {
        let (file, message) = ("a/b.rs".to_owned(), "is bad".to_owned());
        Violation { file, line: 7, rule, item: String::new(), measure: 1, message }
    }

    #[test]
    fn messages_name_file_line_and_rule() {
        let error = judge(vec![violation("places")], 0).expect_err("a violation");
        assert!(error.to_string().contains("a/b.rs:7: [places] is bad"), "{error}");
    }

    #[test]
    fn only_wording_is_tolerated_and_only_up_to_a_number() {
        assert!(judge(vec![violation(words::RULE); 2], 2).is_ok());
        assert!(judge(vec![violation(words::RULE); 3], 2).is_err());
        assert!(judge(vec![violation(layers::RULE)], 2).is_err());
    }
}
