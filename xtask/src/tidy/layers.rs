//! Rule `layers`: modules and crates depend on lower layers only.

use std::ops::Range;

use super::manifests::{Manifest, manifests};
use super::rust::{identifiers, is_word};
use super::tree::{File, Tree, line_of};
use super::{Violation, length};

pub(super) const RULE: &str = "layers";

/// Modules of a crate that may not use other modules of it.
struct Modules {
    krate: &'static str,
    modules: &'static [&'static str],
    may_not_use: &'static [&'static str],
}

const MODULES: &[Modules] = &[
    Modules {
        krate: "unanimo-coordinator",
        modules: &["audit", "feed", "store", "participants", "cluster", "webhook"],
        may_not_use: &["engine", "api", "admin", "coordinator", "cli"],
    },
    Modules {
        krate: "unanimo-coordinator",
        modules: &["engine"],
        may_not_use: &["api", "admin", "coordinator", "cli"],
    },
    Modules {
        krate: "unanimo-coordinator",
        modules: &["api"],
        may_not_use: &["admin", "coordinator", "cli"],
    },
    // The lowest layer.
    Modules {
        krate: "unanimo-coordinator",
        modules: &[
            "advice",
            "alarm",
            "crash",
            "entries",
            "env",
            "identity",
            "lines",
            "suspension",
            "wire",
        ],
        may_not_use: &[
            "admin",
            "api",
            "cli",
            "cluster",
            "config",
            "coordinator",
            "engine",
            "metrics",
            "participants",
            "store",
        ],
    },
];

/// Names that only some modules of a crate may use. No module means that none may.
struct Names {
    krate: &'static str,
    names: &'static [&'static str],
    only_in: &'static [&'static str],
}

const NAMES: &[Names] = &[
    Names {
        krate: "unanimo-coordinator",
        names: &["unanimo_proto", "v1"],
        only_in: &["api", "participants", "wire"],
    },
    Names { krate: "unanimo-coordinator", names: &["sqlx"], only_in: &["store"] },
    Names {
        krate: "unanimo-core",
        names: &["tokio", "tonic", "sqlx", "SystemTime", "Instant", "rand", "fastrand", "reqwest"],
        only_in: &[],
    },
];

/// Crates of the workspace on which a crate may depend. Its tests may use any.
struct Crates {
    krate: &'static str,
    may_use: &'static [&'static str],
}

const CRATES: &[Crates] = &[
    Crates { krate: "unanimo-proto", may_use: &[] },
    Crates { krate: "unanimo-migrations", may_use: &[] },
    Crates { krate: "unanimo-tls", may_use: &[] },
    Crates { krate: "unanimo-core", may_use: &[] },
    Crates {
        krate: "unanimo-coordinator",
        may_use: &[
            "unanimo-core",
            "unanimo-migrations",
            "unanimo-proto",
            "unanimo-saga",
            "unanimo-tls",
        ],
    },
    Crates { krate: "unanimo-saga", may_use: &["unanimo-core", "unanimo-proto"] },
    Crates {
        krate: "unanimo-sdk",
        may_use: &["unanimo-migrations", "unanimo-proto", "unanimo-tls"],
    },
    Crates { krate: "unanimo-conformance", may_use: &["unanimo-proto"] },
];

/// Crates that the core may not use, because they do input and output.
const IMPURE: &[&str] = &["tokio", "tonic", "sqlx", "rand", "fastrand", "getrandom"];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    let manifests = manifests(tree);
    for manifest in &manifests {
        found.extend(check_manifest(manifest, &manifests));
        let source = format!("{}src/", manifest.folder);
        for (file, masked) in tree.rust() {
            if let Some(path) = file.path.strip_prefix(&source) {
                found.extend(check_modules(&manifest.name, path, file, &masked.code));
                found.extend(check_names(&manifest.name, path, file, &masked.code));
            }
        }
    }
    found
}

fn violation(file: &str, line: usize, item: &str, message: String) -> Violation {
    let (file, item) = (file.to_owned(), item.to_owned());
    Violation { file, line, rule: RULE, item, measure: 1, message }
}

fn check_manifest(manifest: &Manifest, all: &[Manifest]) -> Vec<Violation> {
    let rule = CRATES.iter().find(|rule| rule.krate == manifest.name);
    let is_ours = |name: &str| all.iter().any(|manifest| manifest.name == name);
    let is_bad = |name: &str| {
        let upward = rule.is_some_and(|rule| is_ours(name) && !rule.may_use.contains(&name));
        upward || (manifest.name == "unanimo-core" && IMPURE.contains(&name))
    };
    let bad = manifest.dependencies("dependencies").filter(|name| is_bad(name));
    let message = |name: &str| format!("`{}` may not depend on `{name}`", manifest.name);
    bad.map(|name| violation(&manifest.path, manifest.line_of(name), name, message(name))).collect()
}

fn check_modules(krate: &str, path: &str, file: &File, code: &str) -> Vec<Violation> {
    let module = module(path);
    let is_about = |rule: &&Modules| rule.krate == krate && rule.modules.contains(&module);
    let mut found = Vec::new();
    for rule in MODULES.iter().filter(is_about) {
        for (at, used) in uses(path, code) {
            if rule.may_not_use.contains(&used) {
                let message = format!("`{module}` may not use `{used}`");
                found.push(violation(&file.path, line_of(code, at), "", message));
            }
        }
    }
    found
}

fn check_names(krate: &str, path: &str, file: &File, code: &str) -> Vec<Violation> {
    let module = module(path);
    let mut found = Vec::new();
    for rule in NAMES.iter().filter(|rule| rule.krate == krate && !rule.only_in.contains(&module)) {
        for (at, name) in identifiers(code).filter(|(_, word)| rule.names.contains(word)) {
            let message = match rule.only_in {
                [] => format!("`{krate}` may not use `{name}`"),
                modules => format!("`{name}` may be used in {} only", modules.join(", ")),
            };
            // A field or a method may have this name, the first part of a path may not.
            let rest = code[at + name.len()..].trim_start();
            let is_path =
                rest.starts_with("::") || rest.starts_with(';') || rest.starts_with(" as ");
            let is_type = name.starts_with(|c: char| c.is_ascii_uppercase());
            if is_type || (is_path && !code[..at].ends_with('.')) {
                found.push(violation(&file.path, line_of(code, at), "", message));
            }
        }
    }
    found
}

/// Returns the module at the crate's root to which a file belongs.
fn module(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or(path);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Returns the modules at the crate's root that a file names, by `crate::` or by enough `super::`.
fn uses<'a>(path: &str, code: &'a str) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    let depth = path.strip_suffix("/mod.rs").unwrap_or(path).split('/').count();
    let inner = inline_modules(code);
    for (at, word) in identifiers(code) {
        let before = code[..at].trim_end();
        let rest = &code[at + word.len()..];
        if word == "crate" && rest.starts_with("::") {
            found.extend(first_names(code, at + "crate::".len()));
        } else if word == "super" && !before.ends_with("::") {
            let depth = depth + inner.iter().filter(|range| range.contains(&at)).count();
            let supers = code[at..].split("::").take_while(|part| *part == "super").count();
            if supers >= depth {
                found.extend(first_names(code, at + supers * "super::".len()));
            }
        }
    }
    found
}

/// Returns the bodies of modules inside a file.
fn inline_modules(code: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, _) in identifiers(code).filter(|(_, word)| *word == "mod") {
        let end = length::end_of_body(&code[at..]);
        found.extend(end.map(|end| at..at + end));
    }
    found
}

/// Returns the first name of a path, or of each path in the braces.
fn first_names(code: &str, at: usize) -> Vec<(usize, &str)> {
    let name = |at: usize| {
        let start = at + code[at..].len() - code[at..].trim_start().len();
        let length = code[start..].bytes().take_while(|byte| is_word(*byte)).count();
        (start, &code[start..start + length])
    };
    if !code[at..].starts_with('{') {
        return vec![name(at)];
    }
    let mut names = vec![name(at + 1)];
    let mut depth = 0;
    for (offset, byte) in code[at..].bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => break,
            b'}' => depth -= 1,
            b',' if depth == 1 => names.push(name(at + offset + 1)),
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const COORDINATOR: (&str, &str) =
        ("c/Cargo.toml", "[package]\nname = \"unanimo-coordinator\"\n");

    fn check_one(path: &str, code: &str) -> Vec<String> {
        let found = check(&Tree::of(&[COORDINATOR, (path, code)]));
        found
            .into_iter()
            .map(|violation| format!("{}: {}", violation.line, violation.message))
            .collect()
    }

    #[test]
    fn uses_of_what_stands_above_are_found() {
        let text = "\nuse crate::{metrics::{a, b}, engine::Engine};\nfn f() { crate::api::g() }\n";
        let expected = ["2: `store` may not use `engine`", "3: `store` may not use `api`"];
        assert_eq!(check_one("c/src/store/journal.rs", text), expected);
        assert_eq!(check_one("c/src/store.rs", "use super::engine;\n").len(), 1);
        assert_eq!(check_one("c/src/store/a.rs", "use super::super::engine;\n").len(), 1);
        assert_eq!(check_one("c/src/engine.rs", "use crate::coordinator::Builder;\n").len(), 1);
    }

    #[test]
    fn uses_of_what_stands_below_pass() {
        let text =
            "use crate::store::Store; // crate::api\nuse self::api;\nlet a = \"crate::api\";\n";
        assert_eq!(check_one("c/src/engine/live.rs", text), [""; 0]);
        assert_eq!(check_one("c/src/store/a.rs", "use super::engine;\n"), [""; 0]);
        let inner = "mod tests {\n    use super::engine;\n    use super::super::api;\n}\n";
        assert_eq!(check_one("c/src/store.rs", inner), ["3: `store` may not use `api`"]);
    }

    #[test]
    fn names_stay_in_their_modules() {
        assert_eq!(
            check_one("c/src/engine.rs", "use sqlx::Row;\nlet v1 = a.v1;\nv1::Mode;").len(),
            2
        );
        assert_eq!(check_one("c/src/store/a.rs", "use sqlx::Row;"), [""; 0]);
        assert_eq!(check_one("c/src/api.rs", "use unanimo_proto::v1;"), [""; 0]);
    }

    #[test]
    fn the_core_is_pure() {
        let core =
            ("o/Cargo.toml", "[package]\nname = \"unanimo-core\"\n[dependencies]\ntokio = \"1\"\n");
        let code = ("o/src/a.rs", "use std::time::{Duration, SystemTime};\n");
        let found = check(&Tree::of(&[core, code]));
        assert_eq!(found.iter().map(|violation| violation.line).collect::<Vec<_>>(), [4, 1]);
    }

    #[test]
    fn crates_depend_on_what_stands_below() {
        let sdk = "[package]\nname = \"unanimo-sdk\"\n[dependencies]\nunanimo-coordinator.workspace = true\n";
        let found = check(&Tree::of(&[COORDINATOR, ("s/Cargo.toml", sdk)]));
        assert_eq!((found.len(), found[0].line), (1, 4));
        let tests = sdk.replace("[dependencies]", "[dev-dependencies]");
        assert_eq!(check(&Tree::of(&[COORDINATOR, ("s/Cargo.toml", &tests)])), []);
    }
}
