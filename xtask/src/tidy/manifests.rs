//! Rule `manifests`: versions, lints and common fields of packages are in the workspace's manifest.

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::Violation;
use super::tree::Tree;

pub(super) const RULE: &str = "manifests";

/// Fields of a package that it inherits from the workspace.
const INHERITED: [&str; 5] = ["version", "edition", "rust-version", "license", "repository"];

/// Fields that a package needs on a registry.
const PUBLISHED: [&str; 5] = ["description", "documentation", "readme", "keywords", "categories"];

const TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Manifest of a crate: its `Cargo.toml`.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) path: String,
    /// Folder of the crate, with a `/` at the end; empty for the workspace's.
    pub(super) folder: String,
    pub(super) name: String,
    text: String,
    table: Table,
}

impl Manifest {
    /// Returns the names of the packages in the table `kind`, of every target.
    pub(super) fn dependencies<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        self.entries(kind).map(|(name, _)| name)
    }

    fn entries<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let targets = self.table.get("target").and_then(Value::as_table).into_iter();
        let targets = targets.flat_map(Table::values).filter_map(Value::as_table);
        let tables = std::iter::once(&self.table).chain(targets);
        let found = tables.filter_map(move |table| table.get(kind)?.as_table());
        found.flatten().map(|(name, value)| (name.as_str(), value))
    }

    /// Returns the line of a key.
    pub(super) fn line_of(&self, key: &str) -> usize {
        let is_it = |line: &str| line.trim_start_matches(['"', '[']).starts_with(key);
        self.text.lines().position(is_it).map_or(1, |line| line + 1)
    }

    fn package(&self, field: &str) -> Option<&Value> {
        self.table.get("package")?.get(field)
    }

    fn violation(&self, key: &str, message: String) -> Violation {
        let (file, item) = (self.path.clone(), key.to_owned());
        Violation { file, line: self.line_of(key), rule: RULE, item, measure: 1, message }
    }
}

/// Returns every manifest that can be read; `check` reports the others.
pub(super) fn manifests(tree: &Tree) -> Vec<Manifest> {
    let files = tree.files.iter().filter(|file| file.path.rsplit('/').next() == Some("Cargo.toml"));
    let parsed = files.filter_map(|file| {
        let table: Table = file.text.parse().ok()?;
        let name = table.get("package")?.get("name")?.as_str()?.to_owned();
        let folder = file.path.strip_suffix("Cargo.toml")?.to_owned();
        Some(Manifest { path: file.path.clone(), folder, name, text: file.text.clone(), table })
    });
    parsed.collect()
}

/// Returns a field of `[workspace.package]` from the workspace's manifest.
pub(crate) fn workspace_field(manifest: &str, field: &str) -> Result<String> {
    let table: Table = manifest.parse().context("read Cargo.toml")?;
    let package = table.get("workspace").and_then(|workspace| workspace.get("package"));
    let value = package.and_then(|package| package.get(field)).and_then(Value::as_str);
    let value = value.with_context(|| format!("Cargo.toml has no workspace.package.{field}"))?;
    Ok(value.to_owned())
}

/// Returns the workspace's `[profile]` as a manifest.
pub(crate) fn profile(manifest: &str) -> Result<String> {
    let table: Table = manifest.parse().context("read Cargo.toml")?;
    let kept = table.into_iter().filter(|(name, _)| name == "profile").collect::<Table>();
    Ok(toml::to_string(&kept)?)
}

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let Some(root) = tree.file("Cargo.toml") else { return Vec::new() };
    let table: Table = match root.text.parse() {
        Ok(table) => table,
        Err(error) => {
            let (file, message) = (root.path.clone(), error.to_string());
            return vec![Violation {
                file,
                line: 1,
                rule: RULE,
                item: String::new(),
                measure: 1,
                message,
            }];
        }
    };
    let (path, text) = (root.path.clone(), root.text.clone());
    let workspace = Manifest { path, folder: String::new(), name: String::new(), text, table };
    let crates = manifests(tree);
    let mut found = check_workspace(&workspace, &crates);
    for manifest in &crates {
        found.extend(check_inheritance(manifest));
        found.extend(check_published(manifest, &crates));
    }
    found
}

/// Checks the members and dependencies of the workspace.
fn check_workspace(root: &Manifest, crates: &[Manifest]) -> Vec<Violation> {
    let Some(workspace) = root.table.get("workspace") else { return Vec::new() };
    let mut found = Vec::new();
    let members = workspace.get("members").and_then(Value::as_array).into_iter().flatten();
    let members: Vec<_> = members.filter_map(Value::as_str).collect();
    for manifest in crates {
        if !members.contains(&manifest.folder.trim_end_matches('/')) {
            found.push(manifest.violation("name", "is no member of the workspace".to_owned()));
        }
    }
    let version = workspace.get("package").and_then(|package| package.get("version"));
    let dependencies = workspace.get("dependencies").and_then(Value::as_table);
    for (name, dependency) in dependencies.into_iter().flatten() {
        let uses = |manifest: &Manifest| {
            TABLES.iter().any(|kind| manifest.dependencies(kind).any(|used| used == name))
        };
        if !crates.iter().any(uses) {
            found.push(root.violation(name, format!("no crate uses `{name}`")));
        }
        let ours = crates.iter().find(|manifest| manifest.name == *name);
        if ours.is_some_and(is_published) && dependency.get("version") != version {
            let message = format!("`{name}` needs the workspace's `version` beside its `path`");
            found.push(root.violation(name, message));
        }
    }
    found
}

/// Checks that a crate inherits all that the workspace defines.
fn check_inheritance(manifest: &Manifest) -> Vec<Violation> {
    let is_inherited = |value: Option<&Value>| {
        value.and_then(|value| value.get("workspace")).and_then(Value::as_bool) == Some(true)
    };
    let mut found = Vec::new();
    for field in INHERITED {
        if !is_inherited(manifest.package(field)) {
            let message = format!("`{field}` is the workspace's: `{field}.workspace = true`");
            found.push(manifest.violation(field, message));
        }
    }
    if !is_inherited(manifest.table.get("lints")) {
        let message = "lints are the workspace's: `[lints] workspace = true`".to_owned();
        found.push(manifest.violation("lints", message));
    }
    for kind in TABLES {
        let own = manifest.entries(kind).filter(|(_, value)| !is_inherited(Some(value)));
        found.extend(own.map(|(name, _)| {
            let message =
                format!("`{name}` is declared in the workspace: `{name}.workspace = true`");
            manifest.violation(name, message)
        }));
    }
    found
}

/// Tells whether a crate goes to a registry, which its manifest must say; the workspace says *no*.
pub(super) fn is_published(manifest: &Manifest) -> bool {
    manifest.package("publish") == Some(&Value::Boolean(true))
}

/// Checks the fields that a registry shows, and the page of documentation.
fn check_published(manifest: &Manifest, crates: &[Manifest]) -> Vec<Violation> {
    if manifest.package("publish").is_none() {
        let message = "says whether it goes to a registry: `publish = true` or `false`".to_owned();
        return vec![manifest.violation("name", message)];
    }
    if !is_published(manifest) {
        return Vec::new();
    }
    let mut missing: Vec<_> =
        PUBLISHED.into_iter().filter(|field| manifest.package(field).is_none()).collect();
    let docs = manifest.package("metadata").and_then(|metadata| metadata.get("docs"));
    if docs.and_then(|docs| docs.get("rs")).is_none() {
        missing.push("metadata.docs.rs");
    }
    let message = |field| format!("`{field}` is missing: the crate is published");
    let missing = missing.into_iter().map(|field| manifest.violation(field, message(field)));
    let is_private = |name: &&str| {
        crates.iter().any(|manifest| manifest.name == **name && !is_published(manifest))
    };
    let private = manifest.dependencies("dependencies").filter(is_private);
    let message = |name| format!("is published, and needs `{name}`, which is not");
    missing.chain(private.map(|name| manifest.violation(name, message(name)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "[workspace]\nmembers = [\"a\"]\n[workspace.package]\nversion = \"0.1.0\"\n\
                        [workspace.dependencies]\na = { path = \"a\", version = \"0.1.0\" }\nserde = \"1\"\n";

    const A: &str = "[package]\nname = \"a\"\nversion.workspace = true\nedition.workspace = true\n\
                     rust-version.workspace = true\nlicense.workspace = true\nrepository.workspace = true\n\
                     publish = true\ndescription = \"d\"\ndocumentation = \"d\"\nreadme = \"r\"\n\
                     keywords = []\ncategories = []\n[package.metadata.docs.rs]\nall-features = true\n\
                     [dependencies]\nserde.workspace = true\n[dev-dependencies]\na.workspace = true\n\
                     [lints]\nworkspace = true\n";

    fn messages(root: &str, a: &str) -> Vec<String> {
        let found = check(&Tree::of(&[("Cargo.toml", root), ("a/Cargo.toml", a)]));
        found.iter().map(ToString::to_string).collect()
    }

    #[track_caller]
    fn finds(root: &str, a: &str, part: &str) {
        let found = messages(root, a);
        assert!(found.len() == 1 && found[0].contains(part), "{found:?}");
    }

    #[test]
    fn what_is_inherited_passes() {
        assert_eq!(messages(ROOT, A), [""; 0]);
    }

    #[test]
    fn what_is_not_inherited_is_found() {
        finds(ROOT, &A.replace("edition.workspace = true", "edition = \"2024\""), "`edition` is");
        finds(ROOT, &A.replace("[lints]", "[other]"), "lints are");
        finds(ROOT, &A.replace("serde.workspace = true", "serde = \"1\""), "`serde` is declared");
        let target =
            A.replace("[dependencies]\n", "[target.'cfg(unix)'.dependencies]\nb = \"1\"\n");
        finds(ROOT, &target, "`b` is declared");
    }

    #[test]
    fn the_workspace_is_complete() {
        finds(&ROOT.replace("\"a\"]", "]"), A, "no member");
        finds(&ROOT.replace(", version = \"0.1.0\"", ""), A, "`version` beside");
        finds(ROOT, &A.replace("serde.workspace = true\n", ""), "no crate uses `serde`");
    }

    #[test]
    fn a_published_crate_needs_published_ones() {
        let a = A.replace("[dependencies]", "[dependencies]\nb.workspace = true");
        let b = A.replace("publish = true", "publish = false").replace("\"a\"", "\"b\"");
        let root = ROOT.replace("[\"a\"]", "[\"a\", \"b\"]");
        let files = [("Cargo.toml", root.as_str()), ("a/Cargo.toml", &a), ("b/Cargo.toml", &b)];
        let found = check(&Tree::of(&files));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.contains("needs `b`"), "{found:?}");
    }

    #[test]
    fn a_published_crate_tells_of_itself() {
        finds(ROOT, &A.replace("keywords = []\n", ""), "`keywords` is missing");
        finds(ROOT, &A.replace("metadata.docs.rs", "metadata.x"), "`metadata.docs.rs` is");
        assert_eq!(
            messages(ROOT, &A.replace("publish = true", "publish.workspace = true")).len(),
            0
        );
        finds(ROOT, &A.replace("publish = true\n", ""), "`publish = true` or `false`");
    }
}
