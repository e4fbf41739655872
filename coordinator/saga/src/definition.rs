//! A definition as a file, and the saga that it becomes with its inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use unanimo_core::{
    BranchSpec, CALL_TIMEOUT_DEFAULT, Definition, Gid, Limits, Mode, Timestamp, Violation,
};
use unanimo_proto::v1;

use crate::inputs::{self, Declaration, Inputs};
use crate::problem::{PROBLEMS_MAX, Place, Problem, Problems};
use crate::reader::{self, Read, STEPS_READ_MAX};
use crate::tree::{self, Node, Value};
use crate::wire;

/// Most bytes of a file: what a transaction may hold, and room for how it is written.
pub const FILE_BYTES_MAX: u64 = 8 << 20;

/// Most bytes that are read once more for the defaults of a file. It is read for each default alone, and a file can
/// have very many.
const DEFAULTS_BYTES_MAX: usize = 64 << 20;

/// Failure to get a definition from a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read {name}: {source}{}", to_do(.source))]
    Read {
        /// The file.
        name: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The definition breaks rules.
    #[error("understand {name}:\n{problems}")]
    Broken {
        /// The file.
        name: String,
        /// The rules.
        problems: Problems,
    },
}

/// Tells what to do about a file that cannot be read.
fn to_do(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::NotFound => ": a path is looked for from the current directory",
        std::io::ErrorKind::IsADirectory => ": name the files in it, each by its path",
        _ => "",
    }
}

/// Text that tells what a file without a definition lacks.
const LACKS: &str = "; a definition has `saga: NAME`, and `steps:` with at least one step";

fn is_too_long(bytes: usize) -> bool {
    u64::try_from(bytes).unwrap_or(u64::MAX) > FILE_BYTES_MAX
}

fn too_long(file: &str) -> Problems {
    let rule = format!("must be at most {FILE_BYTES_MAX} bytes");
    Problems::one(Problem { file: file.to_owned(), place: None, path: String::new(), rule })
}

/// Returns a file as text. An editor of another encoding is told where it shows.
fn text_of(file: &str, bytes: Vec<u8>) -> Result<String, Problems> {
    if is_too_long(bytes.len()) {
        // It may be cut in the middle of a character.
        return Err(too_long(file));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let place = Some(Place { line, column });
        let rule = "must be UTF-8: save it in that encoding".to_owned();
        Problems::one(Problem { file: file.to_owned(), place, path: String::new(), rule })
    })
}

/// A definition of a saga that breaks no rule.
#[derive(Clone, Debug)]
pub struct SagaFile {
    file: String,
    root: Node,
    name: String,
    /// With samples in the place of inputs.
    definition: Definition,
    warnings: Vec<Problem>,
    inputs: BTreeMap<String, Declaration>,
}

impl SagaFile {
    /// Reads a file, or standard input if the path is `-`.
    ///
    /// # Errors
    /// The file cannot be read, or the definition breaks rules.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
        let mut bytes = Vec::new();
        let read = if is_stdin {
            std::io::stdin().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
        } else {
            std::fs::File::open(path)
                .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        };
        if let Err(source) = read {
            return Err(Error::Read { name, source });
        }
        match text_of(&name, bytes).and_then(|text| Self::parse(&name, &text)) {
            Ok(file) => Ok(file),
            Err(problems) => Err(Error::Broken { name, problems }),
        }
    }

    /// Reads a text in YAML or JSON; `file` is its name in messages.
    ///
    /// # Errors
    /// The rules that the definition breaks.
    pub fn parse(file: &str, text: &str) -> Result<Self, Problems> {
        if is_too_long(text.len()) {
            return Err(too_long(file));
        }
        let (root, mut problems) = tree::read(file, text);
        let Some(root) = root else {
            let empty = problems.iter_mut().filter(|problem| problem.rule == tree::EMPTY);
            empty.for_each(|problem| problem.rule.push_str(LACKS));
            return Err(Problems::sorted(problems));
        };
        if !matches!(root.value, Value::Map(_) | Value::Unread) {
            let rule = format!("must be an object, is {}{LACKS}", root.value.kind());
            let (file, place) = (file.to_owned(), Some(root.place));
            problems.push(Problem { file, place, path: String::new(), rule });
            return Err(Problems::sorted(problems));
        }
        let mut read = reader::read(file, &root, None);
        problems.append(&mut read.problems);
        add_violations(file, &read, &mut problems);
        if problems.is_empty() {
            problems = bad_defaults(file, text.len(), &root, &read.inputs);
        }
        if let Some(problems) = Problems::of(problems) {
            return Err(problems);
        }
        let warnings = warnings(file, &read);
        let Read { name, definition, inputs, .. } = read;
        Ok(Self { file: file.to_owned(), root, name, definition, warnings, inputs })
    }

    /// Returns the name of the saga.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the names of the inputs that a run needs, and of those that have a default.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.inputs.keys().map(String::as_str)
    }

    /// Returns what is allowed and may be a mistake.
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Returns the definition, in which samples stand for the inputs.
    pub(crate) fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Puts the values of the inputs in their places.
    ///
    /// # Errors
    /// A value is missing, of a wrong type or for no input; or the definition breaks a rule with it.
    pub fn with(&self, inputs: &Inputs) -> Result<Saga, Problems> {
        let mut problems = Vec::new();
        let known = inputs.resolve(&self.file, &self.inputs, &mut problems);
        let mut read = reader::read(&self.file, &self.root, Some(known));
        problems.append(&mut read.problems);
        add_violations(&self.file, &read, &mut problems);
        match Problems::of(problems) {
            Some(problems) => Err(problems),
            None => Ok(Saga { request: wire::request(&read.definition) }),
        }
    }
}

/// A saga with its inputs, ready to run.
#[derive(Clone, Debug)]
pub struct Saga {
    request: v1::SubmitTransactionRequest,
}

impl Saga {
    /// Returns the request that runs it as the transaction `gid`.
    #[must_use]
    pub fn request(&self, gid: &Gid) -> v1::SubmitTransactionRequest {
        v1::SubmitTransactionRequest { gid: gid.to_string(), ..self.request.clone() }
    }
}

/// Finds defaults that their places do not take. Each is read alone: rules that compare it with other values, or with
/// the clock, are for a run, which may give another one.
fn bad_defaults(
    file: &str,
    bytes: usize,
    root: &Node,
    declared: &BTreeMap<String, Declaration>,
) -> Vec<Problem> {
    let most = DEFAULTS_BYTES_MAX / bytes.max(1);
    let of = |(name, default): (String, Node)| {
        reader::read(file, root, Some(BTreeMap::from([(name, default)]))).problems
    };
    inputs::defaults(declared).into_iter().take(most).flat_map(of).take(PROBLEMS_MAX).collect()
}

/// Adds the rules of the core that the definition breaks to what was told of it.
fn add_violations(file: &str, read: &Read, problems: &mut Vec<Problem>) {
    let limits = Limits::default();
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
    let mut violations = read.definition.violations(&limits);
    violations.extend(read.definition.violations_at(Timestamp(now), &limits));
    // The rules do not go through a list that is too long. Here one mistake hides no other.
    let longer = Limits { branches_max: STEPS_READ_MAX, ..limits };
    violations.extend(read.definition.violations(&longer));
    let mut told = BTreeSet::new();
    violations.retain(|Violation { field, rule }| told.insert((field.clone(), rule.clone())));
    for violation in violations.into_iter().take(PROBLEMS_MAX) {
        // Steps that are missing, or are no object, were told already.
        let is_of_steps = is_list_of_steps(&violation.field);
        if is_of_steps && !read.places.has(&violation.field) {
            continue;
        }
        let (place, path) = read.places.find(&violation.field);
        // There are none because those that are written were told, and not read.
        let is_empty = is_of_steps && violation.rule.ends_with("has none");
        if is_empty && is_told(problems, &path) {
            continue;
        }
        let (file, rule) = (file.to_owned(), in_words_of_a_file(violation.rule));
        problems.push(Problem { file, place, path, rule });
    }
}

/// Tells whether a violation is of the steps of the saga or of a child, all together.
fn is_list_of_steps(field: &str) -> bool {
    field == "branches" || field.ends_with(".branches")
}

/// Tells whether there is a problem at a path or under it.
fn is_told(problems: &[Problem], path: &str) -> bool {
    problems.iter().any(|problem| {
        let rest = problem.path.strip_prefix(path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

/// Returns a rule that names a field of a request with the field's name in a file.
fn in_words_of_a_file(rule: String) -> String {
    match rule.as_str() {
        "must be at least backoff_min" => "must be at least backoff".to_owned(),
        _ => rule,
    }
}

/// Finds what is allowed, and is not what its writer seems to want.
fn warnings(file: &str, read: &Read) -> Vec<Problem> {
    let warn = |path: &str, rule: String| {
        let (place, path) = read.places.find(path);
        Problem { file: file.to_owned(), place, path, rule }
    };
    let mut found = locked_for_long("", &read.definition, &warn);
    found.extend(longer_than_a_call("", &read.definition, &warn));
    found
}

/// Finds steps in two-phase commit that hold their rows locked while other steps work.
fn locked_for_long(
    prefix: &str,
    definition: &Definition,
    warn: &impl Fn(&str, String) -> Problem,
) -> Vec<Problem> {
    let branches = &definition.branches;
    let of = |(index, branch): (usize, &BranchSpec)| {
        let follows = |other: &&BranchSpec| {
            other.step.depends_on.contains(&branch.branch_id) && !other.step.pivot
        };
        let follower = branches.iter().find(follows)?;
        let rule = format!(
            "keeps rows locked while {} works; let a step in two-phase commit come last before the pivot, or \
             make it tcc",
            follower.branch_id
        );
        (branch.mode == Mode::TwoPhaseCommit)
            .then(|| warn(&format!("{prefix}branches[{index}].mode"), rule))
    };
    let mut found: Vec<_> = branches.iter().enumerate().filter_map(of).collect();
    for (index, child) in &definition.children {
        found.extend(locked_for_long(&format!("{prefix}branches[{index}].child."), child, warn));
    }
    found
}

/// Finds attempts that are to last longer than the coordinator waits, as it does by default.
fn longer_than_a_call(
    prefix: &str,
    definition: &Definition,
    warn: &impl Fn(&str, String) -> Problem,
) -> Vec<Problem> {
    let mut found = Vec::new();
    for (index, branch) in definition.branches.iter().enumerate() {
        if branch.step.attempt_timeout.is_some_and(|wanted| wanted > CALL_TIMEOUT_DEFAULT) {
            let rule = format!(
                "is beyond the coordinator's call-timeout, {}s by default, which ends the call; make it shorter, \
                 or that setting longer",
                CALL_TIMEOUT_DEFAULT.as_secs()
            );
            found.push(warn(&format!("{prefix}branches[{index}].attempt_timeout"), rule));
        }
    }
    for (index, child) in &definition.children {
        found.extend(longer_than_a_call(&format!("{prefix}branches[{index}].child."), child, warn));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_encoding_is_told_where_it_is_none() {
        for (bytes, place) in [
            (&b"saga: t\nsteps:\n  \xc3\xa4\xe9: {}\n"[..], "3:4"),
            (b"\xff\xfes\0a\0g\0a\0", "1:1"),
            (b"saga: t\xe4", "1:8"),
        ] {
            let told = text_of("f.yaml", bytes.to_vec()).expect_err("no UTF-8").to_string();
            assert_eq!(told, format!("f.yaml:{place}: must be UTF-8: save it in that encoding"));
        }
        let long = vec![0xc3; usize::try_from(FILE_BYTES_MAX).expect("it fits") + 1];
        let told = text_of("f.yaml", long).expect_err("too long").to_string();
        assert_eq!(told, "f.yaml: must be at most 8388608 bytes");
    }
}
