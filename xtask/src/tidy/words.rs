//! Rule `words`: one word for one thing. Words that were replaced are not used again.

mod list;

use self::list::{Banned, LIST, Sequence};
use super::Violation;
use super::rust::{identifiers, is_word};
use super::tree::{File, Tree, is_under, line_of};

pub(super) const RULE: &str = "words";

/// Path of the list, which is the only file that may hold the words.
const OWN: &str = "xtask/src/tidy/words";

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let files = tree.files.iter().filter(|file| {
        !file.is_generated() && !file.is_under(OWN) && !is_released_migration(&file.path)
    });
    files.flat_map(|file| check_file(file, LIST)).collect()
}

/// Tells whether it is a migration that was released. Databases hold its checksum: not even a comment
/// of it can change.
fn is_released_migration(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    is_under(path, "migrations") && name.starts_with("0001_")
}

fn check_file(file: &File, list: &[Banned]) -> Vec<Violation> {
    let applies = |banned: &&Banned| {
        let is_in = |paths: &[&str]| paths.iter().any(|path| is_under(&file.path, path));
        (banned.within.is_empty() || is_in(banned.within)) && !is_in(banned.except)
    };
    let list: Vec<_> = list.iter().filter(applies).collect();
    let mut found = Vec::new();
    for (text, is_code) in channels(file) {
        let tokens = tokens(&text, is_code);
        for banned in &list {
            let hits = match banned.what {
                Sequence::Name(words) if is_code => sequences(&tokens, words),
                Sequence::Prose(words) if !is_code => sequences(&tokens, words),
                Sequence::Word(words) => sequences(&tokens, words),
                Sequence::Code(code) if is_code => occurrences(&text, code),
                Sequence::Name(_) | Sequence::Prose(_) | Sequence::Code(_) => Vec::new(),
            };
            found.extend(hits.into_iter().map(|at| violation(file, line_of(&text, at), banned)));
        }
    }
    found
}

fn violation(file: &File, line: usize, banned: &Banned) -> Violation {
    let message = format!("{}: write {}", banned.what, banned.instead);
    Violation {
        file: file.path.clone(),
        line,
        rule: RULE,
        item: String::new(),
        measure: 1,
        message,
    }
}

/// Returns a file's code and its prose.
fn channels(file: &File) -> Vec<(String, bool)> {
    if let Some(rust) = &file.rust {
        let prose = [&rust.comments, &rust.strings].map(|text| (text.clone(), false));
        return [vec![(rust.code.clone(), true)], prose.into()].concat();
    }
    let marker = match file.path.rsplit(['.', '/']).next() {
        Some("proto") => "//",
        Some("sql") => "--",
        Some("py" | "toml" | "yaml") => "#",
        _ => return vec![(file.text.clone(), false)],
    };
    // A marker inside a string is rare in these, and the text is checked all the same.
    let (mut code, mut comments) = (String::new(), String::new());
    for line in file.text.lines() {
        let at = line.find(marker).unwrap_or(line.len());
        code += &format!("{}\n", &line[..at]);
        comments += &format!("{}{}\n", " ".repeat(at), &line[at..]);
    }
    vec![(code, true), (comments, false)]
}

/// Word of an identifier or of a sentence.
#[derive(Debug)]
struct Token {
    word: String,
    at: usize,
    /// Tells that no end of a name or a sentence is between this word and the one before.
    is_joined: bool,
}

fn tokens(text: &str, is_code: bool) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut end = 0;
    for (at, identifier) in identifiers(text) {
        let between = &text[end..at];
        let mut is_joined =
            !is_code && between.chars().all(|c| c.is_whitespace() || "/!*#-".contains(c));
        for (offset, word) in split(identifier) {
            tokens.push(Token { word: word.to_lowercase(), at: at + offset, is_joined });
            is_joined = true;
        }
        end = at + identifier.len();
    }
    tokens
}

/// Splits an identifier into words: `GidHolder`, `gid_holder` and `GID_HOLDER` have two.
fn split(identifier: &str) -> Vec<(usize, &str)> {
    let bytes = identifier.as_bytes();
    let mut words = Vec::new();
    let mut start = 0;
    for at in 0..=bytes.len() {
        let ends = at == bytes.len() || bytes[at] == b'_' || {
            let lower_before = at > 0 && !bytes[at - 1].is_ascii_uppercase();
            let lower_after = bytes.get(at + 1).is_some_and(u8::is_ascii_lowercase);
            bytes[at].is_ascii_uppercase() && (lower_before || lower_after)
        };
        if ends {
            if start < at {
                words.push((start, &identifier[start..at]));
            }
            start = if bytes.get(at) == Some(&b'_') { at + 1 } else { at };
        }
    }
    words
}

fn sequences(tokens: &[Token], words: &[&str]) -> Vec<usize> {
    let matches = |window: &&[Token]| {
        let equal = window.iter().zip(words).all(|(token, word)| token.word == *word);
        equal && window[1..].iter().all(|token| token.is_joined)
    };
    tokens.windows(words.len()).filter(matches).map(|window| window[0].at).collect()
}

/// Returns the offsets at which `code` stands as whole words.
fn occurrences(text: &str, code: &str) -> Vec<usize> {
    let is_whole = |at: &usize| {
        let before = at.checked_sub(1).map(|before| text.as_bytes()[before]);
        let after = text.as_bytes().get(at + code.len()).copied();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    };
    text.match_indices(code).map(|(at, _)| at).filter(is_whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &[&str] = &[];

    fn lines(what: Sequence, path: &str, text: &str) -> Vec<usize> {
        let list = [Banned { what, instead: "another", within: NONE, except: &["a/cli"] }];
        let found = check_file(&File::new(path, text), &list);
        found.into_iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn words_are_found_in_names_and_prose() {
        let word = || Sequence::Word(&["take", "over"]);
        let source = "fn take_over() {}\nstruct TakeOver;\n// to take\n// over\n\"take over\"; take; over();";
        assert_eq!(lines(word(), "a.rs", source), [1, 2, 3, 5]);
        assert_eq!(lines(word(), "a.md", "Take over. Then take. Over it."), [1]);
        assert_eq!(lines(word(), "a/cli/b.rs", source), [0; 0]);
    }

    #[test]
    fn names_prose_and_code_are_told_apart() {
        let source = "let living = 1; // living\nlet x = A::Living;\nA::LivingRoom;";
        assert_eq!(lines(Sequence::Name(&["living"]), "a.rs", source), [1, 2, 3]);
        assert_eq!(lines(Sequence::Prose(&["living"]), "a.rs", source), [1]);
        assert_eq!(lines(Sequence::Code("A::Living"), "a.rs", source), [2]);
    }

    #[test]
    fn contracts_and_schemas_have_comments_too() {
        assert_eq!(lines(Sequence::Prose(&["dear"]), "a.proto", "string dear = 1; // dear\n"), [1]);
        assert_eq!(lines(Sequence::Name(&["dear"]), "a.sql", "-- dear\nselect dear;\n"), [2]);
    }

    #[test]
    fn a_released_migration_keeps_its_words() {
        assert!(is_released_migration("migrations/coordinator/sqlite/0001_foundation.sql"));
        assert!(!is_released_migration("migrations/coordinator/sqlite/0002_payload_types.sql"));
        assert!(!is_released_migration("docs/0001_notes.md"));
    }

    #[test]
    fn identifiers_are_split() {
        let words = |name| split(name).into_iter().map(|(_, word)| word).collect::<Vec<_>>();
        assert_eq!(words("HTTPServer_is2Up"), ["HTTP", "Server", "is2", "Up"]);
        assert_eq!(words("__WAIT_FOR__"), ["WAIT", "FOR"]);
    }
}
