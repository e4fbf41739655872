//! `unanimo saga check`: reads definitions, and tells every mistake.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use unanimo_saga::{Problem, SagaFile};

use super::{Error, InputArgs, warn};
use crate::error::Error as Failure;
use crate::output::{self, clean};

/// Check definitions: every mistake with its line and column. No coordinator is called
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Each mistake is a line on standard error: FILE:LINE:COLUMN: FIELD RULE. What
  is allowed and may be a mistake is a line that begins with `warning:`. A
  definition without mistakes is a line on standard output.

JSON (--json): an object with files, a list of objects with file, good, saga
  (its name), steps (their number) and inputs (their names), which a file with
  a mistake has not; error (why it cannot be read), and mistakes and warnings:
  lists of objects with line, column, field and rule. A value that does not
  apply is null.

Exit codes: 0 no mistakes, 1 a mistake, or a file that cannot be read, 2 wrong
  usage.")]
pub(super) struct Args {
    /// Files with definitions, in YAML or JSON; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    inputs: InputArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Output of `--json`. Keys are only ever added.
#[derive(Serialize)]
struct Json {
    files: Vec<JsonFile>,
}

#[derive(Default, Serialize)]
struct JsonFile {
    file: String,
    good: bool,
    saga: Option<String>,
    steps: Option<usize>,
    inputs: Option<Vec<String>>,
    error: Option<String>,
    mistakes: Vec<JsonProblem>,
    warnings: Vec<JsonProblem>,
}

#[derive(Serialize)]
struct JsonProblem {
    line: Option<usize>,
    column: Option<usize>,
    field: Option<String>,
    rule: String,
}

impl JsonProblem {
    fn all<'p>(problems: impl IntoIterator<Item = &'p Problem>) -> Vec<Self> {
        let one = |problem: &Problem| Self {
            line: problem.place.map(|place| place.line),
            column: problem.place.map(|place| place.column),
            field: (!problem.path.is_empty()).then(|| problem.path.clone()),
            rule: problem.rule.clone(),
        };
        problems.into_iter().map(one).collect()
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let (mut code, mut told) = (ExitCode::SUCCESS, Json { files: Vec::new() });
    for path in &args.files {
        let checked = check(path, args);
        if checked.is_err() {
            code = ExitCode::FAILURE;
        }
        if args.json {
            told.files.push(json(path, &checked));
            continue;
        }
        match checked {
            Ok(file) => good(path, &file)?,
            Err(error) => bad(&error),
        }
    }
    if args.json {
        output::print_json(&told)?;
    }
    Ok(code)
}

fn check(path: &Path, args: &Args) -> Result<SagaFile, Error> {
    let file = SagaFile::read(path).map_err(Error::Definition)?;
    if !args.json {
        warn(&file);
    }
    if args.inputs.is_given() {
        let name = path.display().to_string();
        let filled = file.with(&args.inputs.read()?);
        filled.map_err(|problems| Error::Inputs { file: name, problems })?;
    }
    Ok(file)
}

fn steps(file: &SagaFile) -> usize {
    unanimo_saga::graph::Graph::of_definition(file).steps.len()
}

fn good(path: &Path, file: &SagaFile) -> Result<(), Failure> {
    let inputs: Vec<_> = file.inputs().collect();
    let inputs = match inputs.as_slice() {
        [] => String::new(),
        inputs => format!(", inputs {}", inputs.join(", ")),
    };
    let steps = steps(file);
    let steps = format!("{steps} {}", if steps == 1 { "step" } else { "steps" });
    output::print(&format!("{}: {} is good: {steps}{inputs}\n", path.display(), file.name()))
}

fn bad(error: &Error) {
    match error {
        Error::Definition(unanimo_saga::Error::Broken { problems, .. })
        | Error::Inputs { problems, .. } => {
            problems.iter().for_each(|problem| output::note(&clean(&problem.to_string())));
        }
        error => output::note(&clean(&format!("failed to {error}"))),
    }
}

fn json(path: &Path, checked: &Result<SagaFile, Error>) -> JsonFile {
    let of = JsonFile { file: path.display().to_string(), ..JsonFile::default() };
    match checked {
        Ok(file) => JsonFile {
            good: true,
            saga: Some(file.name().to_owned()),
            steps: Some(steps(file)),
            inputs: Some(file.inputs().map(str::to_owned).collect()),
            warnings: JsonProblem::all(file.warnings()),
            ..of
        },
        Err(
            Error::Definition(unanimo_saga::Error::Broken { problems, .. })
            | Error::Inputs { problems, .. },
        ) => JsonFile { mistakes: JsonProblem::all(problems.iter()), ..of },
        Err(error) => JsonFile { error: Some(format!("failed to {error}")), ..of },
    }
}
