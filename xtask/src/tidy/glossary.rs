//! Rule `glossary`: words that the glossary shows as code are in the code.

use std::collections::HashSet;

use super::Violation;
use super::rust::identifiers;
use super::tree::Tree;

pub(super) const RULE: &str = "glossary";

const PAGE: &str = "ARCHITECTURE.md";

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let Some(page) = tree.file(PAGE) else {
        return vec![violation(1, "there is no such page".into())];
    };
    let words = words(&page.text);
    if words.is_empty() {
        return vec![violation(1, "it has no table under `## Glossary`".to_owned())];
    }
    let mut known = HashSet::new();
    for file in &tree.files {
        let code = match &file.rust {
            Some(rust) => &rust.code,
            None if file.is("proto") || file.is("sql") => &file.text,
            None => continue,
        };
        known.extend(identifiers(code).map(|(_, word)| plain(word)));
    }
    let is_known = |word: &str| identifiers(word).all(|(_, part)| known.contains(&plain(part)));
    let unknown = words.into_iter().filter(|(_, word)| !is_known(word));
    unknown
        .map(|(line, word)| violation(line, format!("`{word}` is nowhere in the code")))
        .collect()
}

fn violation(line: usize, message: String) -> Violation {
    Violation { file: PAGE.to_owned(), line, rule: RULE, item: String::new(), measure: 1, message }
}

/// Removes the differences of case: the glossary's `gid_holder` is the code's `GidHolder`.
fn plain(word: &str) -> String {
    word.replace('_', "").to_lowercase()
}

/// Returns the words in backticks in the first column of the glossary's table, with their lines.
fn words(page: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut is_inside = false;
    for (index, line) in page.lines().enumerate() {
        if line.starts_with('#') {
            is_inside = line.trim_start_matches('#').trim() == "Glossary";
        }
        if let Some(row) = line.strip_prefix('|').filter(|_| is_inside) {
            let column = row.split('|').next().unwrap_or_default();
            let marked = column.split('`').skip(1).step_by(2).filter(|word| !word.is_empty());
            words.extend(marked.map(|word| (index + 1, word)));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLOSSARY: &str = "# A\n\n## Glossary\n\n| ours | theirs |\n| --- | --- |\n\
                            | branch, `BranchId` | `Nothing` |\n| `Kind::Saga` | |\n\n## B\n| `C` |\n";

    #[test]
    fn words_that_are_nowhere_are_found() {
        let check = |code| check(&Tree::of(&[(PAGE, GLOSSARY), ("a.rs", code)]));
        assert_eq!(check("struct BranchId; enum Kind { Saga }"), []);
        assert_eq!(check("let branch_id = KIND_SAGA; const KIND: SAGA;"), []);
        let found = check("enum Kind { Saga } // BranchId");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].line, found[0].message.contains("BranchId")), (7, true));
    }

    #[test]
    fn a_page_without_a_glossary_is_found() {
        assert_eq!(check(&Tree::of(&[(PAGE, "# A\n")])).len(), 1);
    }
}
