//! `unanimo saga check`: reads definitions, and tells every mistake.

use std::path::PathBuf;
use std::process::ExitCode;

use unanimo_saga::SagaFile;

use super::{Error, InputArgs, warn};
use crate::error::Error as Failure;
use crate::output::{self, clean};

/// Check definitions: every mistake with its line and column. No coordinator is called
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Each mistake is a line on standard error: FILE:LINE:COLUMN: FIELD RULE. What
  is allowed and may be a mistake is a line that begins with `warning:`. A
  definition without mistakes is a line on standard output.

Exit codes: 0 no mistakes, 1 a mistake, or a file that cannot be read, 2 wrong
  usage.")]
pub(super) struct Args {
    /// Files with definitions, in YAML or JSON; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    inputs: InputArgs,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::SUCCESS;
    for path in &args.files {
        let checked = SagaFile::read(path).map_err(Error::Definition).and_then(|file| {
            warn(&file);
            if args.inputs.is_given() {
                let name = path.display().to_string();
                let filled = file.with(&args.inputs.read()?);
                filled.map_err(|problems| Error::Inputs { file: name, problems })?;
            }
            Ok(file)
        });
        match checked {
            Ok(file) => {
                let inputs: Vec<_> = file.inputs().collect();
                let inputs = match inputs.as_slice() {
                    [] => String::new(),
                    inputs => format!(", inputs {}", inputs.join(", ")),
                };
                let steps = unanimo_saga::graph::Graph::of_definition(&file).steps.len();
                let steps = format!("{steps} {}", if steps == 1 { "step" } else { "steps" });
                let path = path.display();
                output::print(&format!("{path}: {} is good: {steps}{inputs}\n", file.name()))?;
            }
            Err(error) => {
                code = ExitCode::FAILURE;
                match &error {
                    Error::Definition(unanimo_saga::Error::Broken { problems, .. })
                    | Error::Inputs { problems, .. } => {
                        problems
                            .iter()
                            .for_each(|problem| output::note(&clean(&problem.to_string())));
                    }
                    error => output::note(&clean(&format!("failed to {error}"))),
                }
            }
        }
    }
    Ok(code)
}
