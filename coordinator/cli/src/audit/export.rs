//! `unanimo audit export`: all entries as lines of JSON.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::Error as AuditError;
use super::pages::{ENTRIES, Pages, Part};
use crate::error::Error;
use crate::output;
use crate::progress::Progress;
use crate::tx::Server;

/// Export all entries of the audit as lines of JSON, for `unanimo audit verify`
///
/// The first line has the entry that was purged last, and the last line the end of the chain.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File to write; without it, standard output. A file that exists is not overwritten, and one that is not whole is
    /// removed
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn run(server: &Server, args: &Args) -> Result<ExitCode, Error> {
    let pages = Pages::open(server).await?;
    let Some(path) = &args.output else {
        let write = |part| output::print(&text(&part));
        let progress = (!output::is_terminal()).then(|| Progress::of(ENTRIES, None));
        pages.each(progress, write).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let file = File::create_new(path).map_err(|source| failed(path, source))?;
    let written = write(pages, path, file).await;
    if written.is_err() {
        // What is not whole is no export, and would be in the way of the next one.
        let _ = fs::remove_file(path);
    }
    written.map(|()| ExitCode::SUCCESS)
}

async fn write(pages: Pages, path: &Path, file: File) -> Result<(), Error> {
    let failed = |source| failed(path, source);
    let mut file = BufWriter::new(file);
    let progress = Some(Progress::of(ENTRIES, None));
    let write = |part| Ok(file.write_all(text(&part).as_bytes()).map_err(failed)?);
    pages.each(progress, write).await?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    Ok(file.sync_all().map_err(failed)?)
}

fn failed(path: &Path, source: io::Error) -> AuditError {
    AuditError::File { name: path.display().to_string(), source }
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
