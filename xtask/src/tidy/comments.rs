//! Rule `comments`: a doc comment begins with a verb or a noun.

use super::Violation;
use super::tree::{File, Tree};

pub(super) const RULE: &str = "comments";

/// Words that begin a question or a riddle instead of a statement.
const QUESTIONS: [&str; 5] = ["What", "How", "Why", "Whether", "Which"];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (file, masked) in tree.rust() {
        found.extend(openings(file, &masked.comments, &["///", "//!"]));
    }
    for file in tree.files.iter().filter(|file| file.is("proto")) {
        found.extend(openings(file, &file.text, &["//"]));
    }
    found
}

/// Finds the first lines of comments that begin with one of `markers`.
fn openings(file: &File, text: &str, markers: &[&str]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut before = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let marker = markers.iter().find(|marker| line.starts_with(**marker));
        if let Some(marker) = marker.filter(|_| marker != before) {
            let first =
                line[marker.len()..].split(|c: char| !c.is_alphabetic()).find(|w| !w.is_empty());
            if let Some(word) = first.filter(|word| QUESTIONS.contains(word)) {
                found.push(Violation {
                    file: file.path.clone(),
                    line: index + 1,
                    rule: RULE,
                    item: String::new(),
                    measure: 1,
                    message: format!("begins with \"{word}\": begin with a verb or a noun"),
                });
            }
        }
        before = marker;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Tree::of(&[(path, text)])).into_iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn questions_are_found() {
        assert_eq!(lines("a.rs", "//! What it is.\n\n/// Why.\nfn f() {}\n"), [1, 3]);
        assert_eq!(lines("a.proto", "  // Which one.\n  string a = 1;\n  // `How`\n"), [1, 3]);
    }

    #[test]
    fn only_the_first_word_counts() {
        assert_eq!(lines("a.rs", "/// Tells\n/// What\nfn f() {} // Why\n// How\n"), [0; 0]);
        assert_eq!(lines("a.rs", "/// Whatever.\nlet a = \"/// What\";\n"), [0; 0]);
    }
}
