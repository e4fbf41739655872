//! Rule `length`: files and functions have a limited number of lines.

use super::Violation;
use super::rust::identifiers;
use super::tree::{File, Tree, line_of};

pub(super) const RULE: &str = "length";

/// Largest number of lines.
struct Limits {
    file: usize,
    function: usize,
}

const SOURCE: Limits = Limits { file: 400, function: 70 };
/// Limits of tests. They are larger, because a test is easier to read in one piece.
const TEST: Limits = Limits { file: 700, function: 120 };

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (file, masked) in tree.rust() {
        let limits = if file.is_test() { &TEST } else { &SOURCE };
        let lines = file.text.lines().count();
        if lines > limits.file {
            let message = format!("{lines} lines: a file has {} at most", limits.file);
            found.push(violation(file, 1, "", lines, message));
        }
        let tests = tests_begin(&masked.code);
        for function in functions(&masked.code) {
            let limits = if function.line > tests { &TEST } else { limits };
            if function.lines > limits.function {
                let Function { name, line, lines } = function;
                let limit = limits.function;
                let message = format!("`{name}` has {lines} lines: a function has {limit} at most");
                found.push(violation(file, line, name, lines, message));
            }
        }
    }
    found
}

fn violation(file: &File, line: usize, item: &str, lines: usize, message: String) -> Violation {
    let (file, item) = (file.path.clone(), item.to_owned());
    Violation { file, line, rule: RULE, item, measure: lines, message }
}

/// Returns the first line of a file's own tests.
fn tests_begin(code: &str) -> usize {
    let line = code.lines().position(|line| line.trim() == "#[cfg(test)]");
    line.map_or(usize::MAX, |line| line + 1)
}

#[derive(Debug, PartialEq)]
struct Function<'a> {
    name: &'a str,
    line: usize,
    /// Lines from `fn` to the closing brace.
    lines: usize,
}

/// Finds the functions with a body; `code` is without comments and strings.
fn functions(code: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    let mut words = identifiers(code).peekable();
    while let Some((at, word)) = words.next() {
        if word != "fn" {
            continue;
        }
        // `fn` without a name is the type of a function.
        let Some((name_at, name)) = words.peek().copied() else { continue };
        if !code[at + 2..name_at].trim().is_empty() {
            continue;
        }
        if let Some(end) = end_of_body(&code[name_at..]) {
            let line = line_of(code, at);
            let lines = line_of(code, name_at + end) - line + 1;
            found.push(Function { name, line, lines });
        }
    }
    found
}

/// Returns the offset of the brace that closes a function or a module, in the text from its name
/// on.
pub(super) fn end_of_body(code: &str) -> Option<usize> {
    let (mut braces, mut others) = (0_usize, 0_usize);
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => others += 1,
            b')' | b']' => others = others.checked_sub(1)?,
            // It is a declaration without a body.
            b';' if braces == 0 && others == 0 => return None,
            b'{' => braces += 1,
            b'}' => {
                braces = braces.checked_sub(1)?;
                if braces == 0 && others == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::rust::Masked;

    #[test]
    fn functions_are_measured_from_fn_to_brace() {
        let source = "trait T { fn none(&self) -> [u8; 4]; }\n\
                      fn one() {}\n\
                      async fn five(\n  f: fn(u8) -> u8,\n) -> [u8; 2] {\n  if a { \"}\" } else { b' ' }\n}\n";
        let masked = Masked::new(source);
        let found = functions(&masked.code);
        let expected = [("one", 2, 1), ("five", 3, 5)];
        assert_eq!(found, expected.map(|(name, line, lines)| Function { name, line, lines }));
    }

    #[test]
    fn long_files_and_functions_are_found() {
        let function = |lines: usize| format!("fn f() {{\n{}}}\n", "a();\n".repeat(lines - 2));
        let check = |path: &str, text: &str| check(&Tree::of(&[(path, text)]));
        assert_eq!(check("src/a.rs", &function(70)), []);
        let found = check("src/a.rs", &function(71));
        assert_eq!((found.len(), found[0].line, found[0].measure), (1, 1, 71));
        assert_eq!(check("tests/a.rs", &function(120)), []);
        assert_eq!(check("src/a.rs", &format!("#[cfg(test)]\nmod t {{\n{}}}", function(120))), []);
        assert_eq!(check("tests/a.rs", &function(121)).len(), 1);
        assert_eq!(check("src/a.rs", &"\n".repeat(400)), []);
        assert_eq!(check("src/a.rs", &"\n".repeat(401)).len(), 1);
        assert_eq!(check("tests/a.rs", &"\n".repeat(700)), []);
        assert_eq!(check("a/src/gen/a.rs", &"\n".repeat(9000)), []);
    }
}
