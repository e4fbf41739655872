//! Mistakes in a definition, each with its place.

use std::fmt;

/// Mistakes of one kind that are told. Whoever has more has made one of them many times, and each message
/// repeats a path.
pub(crate) const PROBLEMS_MAX: usize = 100;

/// Position in a file; both numbers count from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A field, its place, and the rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name of the file, or of the option that gave the text.
    pub file: String,
    /// Position in the file; `None` if the text has no lines.
    pub place: Option<Place>,
    /// Path of the field, such as `steps.pay.after[0]`; empty for the whole file.
    pub path: String,
    /// The rule, fitting after the path: `must be a list, is a text`.
    pub rule: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, place, path, rule } = self;
        write!(f, "{file}:")?;
        if let Some(Place { line, column }) = place {
            write!(f, "{line}:{column}:")?;
        }
        match path.as_str() {
            "" => write!(f, " {rule}"),
            path => write!(f, " {path} {rule}"),
        }
    }
}

/// Every mistake that was found, at least one, in the order of their places.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Problems(Vec<Problem>);

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Problems {
    /// Returns the problems as an error; `None` if there are none.
    pub(crate) fn of(problems: Vec<Problem>) -> Option<Self> {
        (!problems.is_empty()).then(|| Self::sorted(problems))
    }

    /// Returns problems, of which there is at least one, as an error.
    pub(crate) fn sorted(mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| (a.place, &a.path, &a.rule).cmp(&(b.place, &b.path, &b.rule)));
        problems.dedup();
        Self(problems)
    }

    /// Returns them one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl Problems {
    /// Returns one problem as an error.
    pub(crate) fn one(problem: Problem) -> Self {
        Self(vec![problem])
    }
}
