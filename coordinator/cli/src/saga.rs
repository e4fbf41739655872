//! `unanimo saga`: commands about definitions of sagas.

mod check;
mod graph;
mod run;

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use unanimo_saga::{FILE_BYTES_MAX, Inputs, Problems};

use super::error::Error as Failure;
use super::output;

/// Failure to make a saga of a definition and its inputs.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The definition cannot be read or breaks rules.
    #[error("{0}")]
    Definition(unanimo_saga::Error),
    /// An input is missing, wrong or for nothing; or the definition breaks a rule with it.
    #[error("put the inputs into {file}:\n{problems}")]
    Inputs { file: String, problems: Problems },
    /// The file with the inputs cannot be read.
    #[error("read the inputs from {file}: {source}")]
    Read { file: String, source: std::io::Error },
    /// The picture cannot be written.
    #[error("write {file}: {source}")]
    Write { file: String, source: std::io::Error },
    /// The gid is none.
    #[error("understand --gid: {0}")]
    Gid(unanimo_core::ids::Error),
    /// An input has two values.
    #[error("put the inputs together: --set {0} is there twice")]
    SetTwice(String),
}

/// Check, run and draw sagas from files
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(check::Args),
    Run(run::Args),
    Graph(graph::Args),
    /// Print the JSON Schema of definitions, for editors
    Schema,
}

/// Values of a definition's inputs.
#[derive(Debug, clap::Args)]
struct InputArgs {
    /// Values of the inputs: an object in JSON or YAML, or @FILE with one; `@-` is standard input
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    /// Value of one input; may be repeated for others, and goes before --input. VALUE is JSON, or else a text;
    /// for an input of type string it is always a text
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let named = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = named.ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl InputArgs {
    fn is_given(&self) -> bool {
        self.input.is_some() || !self.set.is_empty()
    }

    fn read(&self) -> Result<Inputs, Error> {
        let mut inputs = match &self.input {
            None => Inputs::default(),
            Some(given) => {
                let (file, text) = match given.strip_prefix('@') {
                    None => ("--input".to_owned(), given.clone()),
                    Some(path) => (path.to_owned(), read(Path::new(path))?),
                };
                Inputs::parse(&file, &text).map_err(|problems| Error::Inputs { file, problems })?
            }
        };
        for (at, (name, value)) in self.set.iter().enumerate() {
            if self.set[..at].iter().any(|(before, _)| before == name) {
                return Err(Error::SetTwice(name.clone()));
            }
            inputs.set(name, value);
        }
        Ok(inputs)
    }
}

fn read(path: &Path) -> Result<String, Error> {
    // One byte more tells that it is too long.
    let most = FILE_BYTES_MAX + 1;
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(most).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(most).read_to_string(&mut text))
    };
    read.map(|_| text).map_err(|source| Error::Read { file: path.display().to_string(), source })
}

/// Prints warnings about a definition.
fn warn(file: &unanimo_saga::SagaFile) {
    for warning in file.warnings() {
        output::note(&format!("warning: {}", output::clean(&warning.to_string())));
    }
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Check(args) => check::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Graph(args) => graph::run(&args),
        Command::Schema => {
            output::print(&unanimo_saga::schema())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
