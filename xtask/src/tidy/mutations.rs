//! Rule `mutations`: every test that `tests/mutations.md` names is there.

use std::collections::HashSet;

use super::Violation;
use super::tree::Tree;

pub(super) const RULE: &str = "mutations";

const LIST: &str = "tests/mutations.md";

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let Some(list) = tree.files.iter().find(|file| file.path == LIST) else { return Vec::new() };
    let known = known(tree);
    let mut found = Vec::new();
    for (index, line) in list.text.lines().enumerate() {
        let Some((_, tests)) = line.trim_end_matches([' ', '|']).rsplit_once(" | ") else {
            continue;
        };
        // What stands in backticks is every other part.
        let named = tests.split('`').skip(1).step_by(2).flat_map(names);
        for name in named.filter(|name| !known.contains(name.as_str())) {
            found.push(Violation {
                file: LIST.to_owned(),
                line: index + 1,
                rule: RULE,
                item: String::new(),
                measure: 1,
                message: format!("there is no test or module `{name}`"),
            });
        }
    }
    found
}

/// Returns the names of functions and modules of the sources.
fn known(tree: &Tree) -> HashSet<&str> {
    let mut known = HashSet::new();
    for file in tree.files.iter().filter(|file| file.is("rs") || file.is("py")) {
        let stem = file.path.rsplit('/').next().and_then(|name| name.split('.').next());
        known.extend(stem);
        for keyword in ["fn ", "mod ", "def "] {
            known.extend(file.text.split(keyword).skip(1).map(|rest| {
                let end = rest.find(|c: char| !is_of_name(c)).unwrap_or(rest.len());
                &rest[..end]
            }));
        }
    }
    known
}

/// Returns the last names of a path, `a::{b, c}`. What is no path, such as a command or a part of a name, has none.
fn names(path: &str) -> Vec<String> {
    let (head, last) = path.rsplit_once("::").unwrap_or(("", path));
    let (start, several) = match path.split_once('{') {
        Some((start, several)) => {
            (start.rsplit("::").next().unwrap_or(""), several.strip_suffix('}'))
        }
        None => ("", Some(last)),
    };
    let is_path = head.chars().all(|c| is_of_name(c) || ":*{, ".contains(c));
    let Some(several) = several.filter(|_| is_path) else { return Vec::new() };
    let named = several.split(", ").flat_map(|name| name.split(','));
    let named = named.map(|name| format!("{start}{name}"));
    named.filter(|name| name.contains('_') && name.chars().all(is_of_name)).collect()
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_are_not_there_are_found() {
        let row = |tests: &str| format!("| a guarantee | `a_b` is {{0, 1}} | {tests} |\n");
        let source = "fn a_test_that_is_there() {}\nmod a_module {}\nfn told_on_one() {}";
        for (tests, expected) in [
            ("`a_test_that_is_there`, `x::a_test_that_is_there`", 0),
            ("`x::a_module`, `x::in_a_file`, each time", 0),
            ("`x::{a_test_that_is_there, a_module}`, `x::told_on_{one}`", 0),
            ("`cargo xtask chart`, `python::work`, `s1_a_part_*`, `…_on_one`", 0),
            ("`a_test_that_was_there`", 1),
            ("`x::a_test_that_was_there`, `a_module`", 1),
            ("`x::{a_test_that_is_there, no_more}`, `told_on_{one,two}`", 2),
        ] {
            let files = [
                (LIST, row(tests)),
                ("a.rs", source.to_owned()),
                ("b/in_a_file.rs", String::new()),
            ];
            let files = files.each_ref().map(|(path, text)| (*path, text.as_str()));
            assert_eq!(check(&Tree::of(&files)).len(), expected, "{tests}");
        }
    }
}
