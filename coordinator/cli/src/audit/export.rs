//! `unanimo audit export`: all entries as lines of JSON.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::Error as AuditError;
use super::pages::{Pages, Part};
use crate::error::Error;
use crate::output;
use crate::tx::Server;

/// Export all entries of the audit as lines of JSON, for `unanimo audit verify`
///
/// The first line has the entry that was purged last, and the last line the end of the chain.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File to write; without it, standard output. A file that exists is not overwritten
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn run(server: &Server, args: &Args) -> Result<ExitCode, Error> {
    let pages = Pages::open(server).await?;
    let Some(path) = &args.output else {
        let write = |part| output::print(&text(&part));
        pages.each(write).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let failed = |source| AuditError::File { name: path.display().to_string(), source };
    let mut file = BufWriter::new(File::create_new(path).map_err(failed)?);
    pages.each(|part| Ok(file.write_all(text(&part).as_bytes()).map_err(failed)?)).await?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

fn text(part: &Part) -> String {
    match part {
        Part::Head(head) => json(head),
        Part::Line(line) => json(line),
        Part::Tail(tail) => json(tail),
    }
}

fn json(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("texts, numbers and lists of them");
    format!("{json}\n")
}
