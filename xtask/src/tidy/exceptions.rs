//! Tolerated violations. The list only shrinks: a number that has become smaller, or an entry that
//! is not needed, is an error.

use super::{Violation, tree};

/// Tolerated violations of one rule in one place.
#[derive(Debug)]
pub(super) struct Exception {
    pub(super) rule: &'static str,
    /// Path of a file or a folder.
    pub(super) path: &'static str,
    /// Name as in [`Violation::item`]; empty if it has none.
    pub(super) item: &'static str,
    /// Sum of the violations' measures.
    pub(super) measure: usize,
    pub(super) why: &'static str,
}

const TOO_LONG: &str = "is to be split";

pub(super) const EXCEPTIONS: &[Exception] = &[
    exception("length", "coordinator/src/coordinator.rs", "start", 72, TOO_LONG),
    exception(
        "layers",
        "coordinator/src/engine/service/went_back/tests.rs",
        "",
        2,
        "a test's participant in this process speaks the wire contract",
    ),
    exception(
        "layers",
        "coordinator/src/spans/export.rs",
        "",
        7,
        "the contract of collectors has a v1 of its own",
    ),
    exception(
        "manifests",
        "examples/Cargo.toml",
        "lints",
        1,
        "an example may print, and shows nothing that is not about its subject",
    ),
];

const fn exception(
    rule: &'static str,
    path: &'static str,
    item: &'static str,
    measure: usize,
    why: &'static str,
) -> Exception {
    Exception { rule, path, item, measure, why }
}

/// Removes violations that an exception covers, and adds one for each exception that is not needed.
pub(super) fn apply(found: Vec<Violation>, exceptions: &[Exception]) -> Vec<Violation> {
    let covers = |exception: &Exception, violation: &Violation| {
        exception.rule == violation.rule
            && exception.item == violation.item
            && tree::is_under(&violation.file, exception.path)
    };
    let mut rest = Vec::new();
    let mut measures = vec![0; exceptions.len()];
    for violation in found {
        match exceptions.iter().position(|exception| covers(exception, &violation)) {
            Some(index) => {
                measures[index] += violation.measure;
                if measures[index] > exceptions[index].measure {
                    rest.push(violation);
                }
            }
            None => rest.push(violation),
        }
    }
    for (exception, measure) in exceptions.iter().zip(measures) {
        rest.extend(unneeded(exception, measure));
    }
    rest
}

fn unneeded(exception: &Exception, measure: usize) -> Option<Violation> {
    let Exception { rule, path, item, measure: listed, why } = *exception;
    let message = match measure {
        0 => "nothing needs it: remove it".to_owned(),
        _ if measure < listed => {
            format!("it has become smaller: write {measure} instead of {listed}")
        }
        _ => return None,
    };
    Some(Violation {
        file: "xtask/src/tidy/exceptions.rs".to_owned(),
        line: include_str!("exceptions.rs").lines().position(|l| l.contains(path)).unwrap_or(0) + 1,
        rule: "exceptions",
        item: item.to_owned(),
        measure: 1,
        message: format!("exception of {path} {item} from `{rule}` ({why}): {message}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn too_long(lines: usize) -> Violation {
        Violation {
            file: "a/b.rs".to_owned(),
            line: 1,
            rule: "length",
            item: String::new(),
            measure: lines,
            message: String::new(),
        }
    }

    #[test]
    fn exceptions_only_shrink() {
        let (rule, path, item, why) = ("length", "a/b.rs", "", "old");
        let exceptions = [Exception { rule, path, item, measure: 500, why }];
        let messages = |found| {
            let rest = apply(found, &exceptions);
            rest.into_iter().map(|violation| violation.message).collect::<Vec<_>>()
        };
        assert_eq!(apply(vec![too_long(500)], &exceptions), []);
        assert_eq!(apply(vec![too_long(501)], &exceptions), [too_long(501)]);
        assert!(messages(vec![too_long(499)])[0].contains("write 499 instead of 500"));
        assert!(messages(vec![])[0].contains("nothing needs it"));
    }
}
