//! Rule `places`: no folders of a developer's machine, and no names of a developer's tools.

use super::Violation;
use super::tree::Tree;

pub(super) const RULE: &str = "places";

/// Names in parts, so that this file passes the check.
const FOLDERS: [&str; 4] =
    [concat!("/", "work/"), concat!("/", "root/"), concat!("/", "home/"), concat!("/", "Users/")];

/// Names of tools, in lower case.
const TOOLS: [&str; 6] = [
    concat!("cla", "ude"),
    concat!("anth", "ropic"),
    concat!("chat", "gpt"),
    concat!("co", "pilot"),
    concat!("sub", "agent"),
    concat!("agents", ".md"),
];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in &tree.files {
        for (index, line) in file.text.lines().enumerate() {
            let lower = line.to_lowercase();
            let folder = FOLDERS.iter().find(|folder| has_folder(line, folder));
            let tool = TOOLS.iter().find(|tool| lower.contains(**tool));
            if let Some(word) = folder.or(tool) {
                found.push(Violation {
                    file: file.path.clone(),
                    line: index + 1,
                    rule: RULE,
                    item: String::new(),
                    measure: 1,
                    message: format!("`{word}` belongs to somebody's machine, not to the project"),
                });
            }
        }
    }
    found
}

/// Finds a folder at the root: `src/work/` and `https://host/home/` are others.
fn has_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-~}".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_tools_are_found() {
        for planted in FOLDERS.iter().chain(&TOOLS) {
            let text = format!("fine\nsee {planted}x\n");
            let found = check(&Tree::of(&[("a.md", &text)]));
            assert_eq!((found.len(), found[0].line), (1, 2), "{planted}");
        }
    }

    #[test]
    fn other_folders_pass() {
        assert_eq!(
            check(&Tree::of(&[("a.md", "src/work/a /workspace/b http://h.example/home/")])),
            []
        );
    }
}
