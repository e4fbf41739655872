//! Phase two of everything that people copy: in the examples, the pages and the crates' documentation no confirm, cancel
//! or compensation passes over the number of rows that it has changed.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders and files with code that people copy, from the root.
const COPIED: &[&str] = &[
    "README.md",
    "coordinator/cli/src/demo",
    "docs",
    "examples",
    "participant-sdk/README.md",
    "participant-sdk/conformance/src",
    "participant-sdk/src",
    "participant-sdk/testing",
];

/// Beginnings of closures of phase two.
const CLOSURES: &[&str] = &[".confirm(async", ".cancel(async", ".compensate(async"];

/// Calls whose result says nothing, or that look at the number of rows by themselves. They return phase two's error,
/// so that they are looked at, too.
const HELPERS: &[&str] = &["finish(", "logbook::", "one_row(", "take_down("];

/// Words of which one is in a body that changes rows.
const LOOKS: &[&str] = &["rows_affected", "one_row(", "finish("];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the files of these names, and of the folders of these names, that end so.
fn files(extensions: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut next: Vec<_> = COPIED.iter().map(|path| root().join(path)).collect();
    while let Some(path) = next.pop() {
        if path.is_dir() {
            next.extend(fs::read_dir(&path).expect("a folder").map(|e| e.expect("a file").path()));
        } else if path.extension().is_some_and(|end| extensions.iter().any(|of| end == *of)) {
            files.push(path);
        }
    }
    files
}

/// Returns the code of a file, and that of its documentation apart.
fn codes(path: &Path) -> [String; 2] {
    let text = fs::read_to_string(path).expect("a text");
    let mut codes = [String::new(), String::new()];
    for line in text.lines() {
        let trimmed = line.trim_start();
        let documents = trimmed.strip_prefix("///").or_else(|| trimmed.strip_prefix("//!"));
        match documents {
            Some(line) => codes[1] += line,
            // A comment may hold anything.
            None => codes[0] += line.split(" //").next().unwrap_or_default(),
        }
        codes.iter_mut().for_each(|code| code.push('\n'));
    }
    codes
}

/// Returns the text from a bracket to the one that closes it, without the insides of texts.
fn enclosed(code: &str) -> String {
    let (mut depth, mut in_text, mut enclosed) = (0, false, String::new());
    let mut characters = code.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_text => drop(characters.next()),
            '"' => in_text = !in_text,
            _ if in_text => {}
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' => depth -= 1,
            _ => {}
        }
        if !in_text {
            enclosed.push(character);
        }
        if depth == 0 {
            break;
        }
    }
    enclosed
}

/// Returns the bodies of phase two: closures, and functions that return its error.
fn bodies(code: &str) -> Vec<String> {
    let mut bodies = Vec::new();
    for begin in CLOSURES {
        for (at, _) in code.match_indices(begin) {
            let bracket = code[at..].find('(').expect("a bracket");
            bodies.push(enclosed(&code[at + bracket..]));
        }
    }
    for (at, _) in code.match_indices("fn ") {
        let Some(arguments) = code[at..].find('(') else { continue };
        let behind = at + arguments + enclosed(&code[at + arguments..]).len().max(1);
        // Texts are left out of what is enclosed, and there are none among arguments.
        let Some(body) = code[behind..].find(['{', ';']) else { continue };
        let returns = &code[behind..behind + body];
        let is_phase_two = returns.contains("PhaseTwoError") || returns.contains("PhaseTwoResult");
        if is_phase_two && code[behind + body..].starts_with('{') {
            bodies.push(enclosed(&code[behind + body..]));
        }
    }
    bodies
}

/// Returns what is wrong with a body, if anything is.
fn wrong(body: &str) -> Option<String> {
    for (end, _) in body.match_indices(".await?;") {
        let begin = body[..end].rfind([';', '{', '}']).map_or(0, |at| at + 1);
        let statement = body[begin..end].trim();
        let is_read = statement.starts_with("let ") && !statement.starts_with("let _");
        if !is_read && !HELPERS.iter().any(|helper| statement.contains(helper)) {
            return Some(format!("nobody looks at what this returns: {statement}.await?;"));
        }
    }
    let looks = LOOKS.iter().any(|word| body.contains(word));
    (body.contains(".execute(") && !looks).then(|| "nobody looks at the number of rows".to_owned())
}

#[test]
fn phase_two_of_what_people_copy_looks_at_the_rows_that_it_changes() {
    let (mut found, mut seen) = (Vec::new(), 0);
    for file in files(&["rs", "md"]) {
        let [code, documentation] = codes(&file);
        let path = file.display().to_string();
        // The crates' own code is not copied, and this file is full of faults.
        let is_copied = !path.contains("participant-sdk") && !path.contains("examples/tests");
        let copied = [code, documentation].into_iter().skip(usize::from(!is_copied));
        for body in copied.flat_map(|code| bodies(&code)) {
            seen += 1;
            if let Some(wrong) = wrong(&body) {
                found.push(format!("{path}: {wrong}\n{body}\n"));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(seen > 40, "only {seen} bodies are found");
}

/// The test above finds what it is there for.
#[test]
fn planted_faults_are_found() {
    let of = |code: &str| {
        let bodies = bodies(code);
        assert_eq!(bodies.len(), 1, "{code}");
        wrong(&bodies[0])
    };
    for bad in [
        ".confirm(async |db, _, Json(number)| { sqlx::query(\"{;\").execute(db).await?; Ok(()) })",
        ".cancel(async |db, Json(o)| { post(db, \"x\", &o).await?; Ok(()) })",
        ".compensate(async |db, Json(o)| { let _ = post(db, &o).await?; Ok(()) })",
        ".cancel(async |db, _| { sqlx::query(a).execute(db).await.map(|_| ()) })",
        "async fn cancel(&self, Json(Car { plate, .. }): Json<Car>) -> Result<(), PhaseTwoError> {
             let done = query(a).execute(&mut *db).await?; logbook::undone(db, call).await?; Ok(())
         }",
        "async fn confirm(&self, (): ()) -> PhaseTwoResult { if a {} post(db).await?; Ok(()) }",
    ] {
        assert!(of(bad).is_some(), "{bad}");
    }
    for good in [
        ".confirm(async |_, _| Ok(()))",
        ".cancel(async |db, Json(o)| match db.add(&o).await? { true => Ok(()), false => fail(\"\") })",
        "async fn cancel(&self, (): ()) -> PhaseTwoResult {
             let done = query(a).execute(&mut *db).await?;
             one_row(done.rows_affected(), \"x\")?; logbook::undone(db, call).await?; Ok(())
         }",
    ] {
        assert_eq!(of(good), None, "{good}");
    }
}

#[test]
fn phase_two_in_python_looks_at_the_rows_that_it_changes() {
    let path = root().join("examples/python-participant/stock.py");
    let text = fs::read_to_string(path).expect("the stock");
    let mut seen = 0;
    for begin in ["    def confirm(", "    def cancel(", "    def compensate("] {
        for (at, _) in text.match_indices(begin) {
            let body: Vec<_> = text[at..].lines().skip(1).collect();
            let ends =
                body.iter().position(|line| !line.is_empty() && !line.starts_with("        "));
            let body = body[..ends.unwrap_or(body.len())].join("\n");
            let (changes, looks) =
                (body.matches("db.execute(").count(), body.matches("is_done(").count());
            assert!(changes > 0 && changes == looks, "{changes} and {looks}:\n{body}");
            seen += 1;
        }
    }
    assert_eq!(seen, 4, "a confirm, a cancel and two compensations");
}
