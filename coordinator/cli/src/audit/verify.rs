//! `unanimo audit verify`: checks that entries are as they were written.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::de::DeserializeOwned;
use unanimo_coordinator::audit::{Link, Purge, Verifier, hex};

use super::Error as AuditError;
use super::line::{FORMAT, Head, Line, Place, Tail, time_of};
use super::pages::{ENTRIES, Pages, Part};
use crate::error::Error;
use crate::output::{self, clean};
use crate::progress::Progress;
use crate::tx::Server;

/// Check that no entry of the audit was changed, removed or moved since it was written
///
/// Each entry has a hash over its content and the hash before it. Whoever can write the database can write the whole
/// chain anew: note the last line of this command elsewhere, and give it with --noted the next time. Whoever can write the
/// database can also add an entry about a purge, and remove what is before: this command tells which entry says that
/// entries were purged, and with --noted each such entry since then. The log has a line for each purge.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes: 0 it is as it was written; 7 it is not, an entry is of a kind that
  this program does not know (verify with one as new as the coordinator), or
  the file is not whole, and the first fault is told; 1 it cannot be read, or
  the noted entry was purged: nobody can tell; 2 an argument is wrong.")]
pub(super) struct Args {
    /// File of `unanimo audit export`; without it, the coordinator is asked
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Entry that must be there, as an earlier check has told the last one
    #[arg(long, value_name = "NUMBER:HASH", value_parser = noted)]
    noted: Option<Link>,
}

fn noted(text: &str) -> Result<Link, String> {
    let place = text.split_once(':').and_then(|(number, hash)| {
        Place { number: number.parse().ok()?, hash: hash.to_owned() }.link()
    });
    let rule = "must be NUMBER:HASH, as this command prints it";
    place.filter(|link| link.hash.len() == 32).ok_or_else(|| rule.to_owned())
}

/// Check under way.
struct Check {
    noted: Option<Link>,
    verifier: Option<Verifier>,
    count: u64,
    ended: bool,
}

impl Check {
    fn take(&mut self, part: &Part) -> Result<(), AuditError> {
        match (part, &mut self.verifier) {
            (Part::Head(Head { purged, .. }), _) => {
                let start = purged.link().ok_or(AuditError::Unreadable(purged.number))?;
                self.verifier = Some(Verifier::new(start, self.noted.clone()));
            }
            (Part::Line(line), Some(verifier)) => {
                let content = line.content()?;
                verifier.take(&content.link, content.at, &content.body)?;
                self.count += 1;
            }
            (Part::Tail(Tail { last }), Some(verifier)) => {
                let last = last.link().ok_or(AuditError::Unreadable(last.number))?;
                verifier.end(&last)?;
                self.ended = true;
            }
            (_, None) => return Err(AuditError::Unreadable(0)),
        }
        Ok(())
    }
}

pub(super) fn run(server: &Server, args: &Args) -> Result<ExitCode, Error> {
    let mut check = Check { noted: args.noted.clone(), verifier: None, count: 0, ended: false };
    match &args.file {
        Some(path) => read(path, &mut check)?,
        None => server.block_on(async {
            let pages = Pages::open(server).await?;
            let progress = Some(Progress::of(ENTRIES, None));
            pages.each(progress, |part| Ok(check.take(&part)?)).await
        })?,
    }
    let verifier = check.verifier.as_ref().ok_or(AuditError::Unreadable(0))?;
    tell(server.json, check.count, verifier)?;
    Ok(ExitCode::SUCCESS)
}

/// Tells of a chain that is as it was written.
fn tell(json: bool, entries: u64, verifier: &Verifier) -> Result<(), Error> {
    let last = format!("{}:{}", verifier.last().number, hex(&verifier.last().hash));
    let (purged, since) = (verifier.vouching(), verifier.purges_since_noted());
    if json {
        return output::print_json(&serde_json::json!({
            "entries": entries,
            "last": last,
            "purged": purged.map(purge_json),
            "purged_since_noted": since.map(purge_json).collect::<Vec<_>>(),
        }));
    }
    let mut text = purged.map(|purge| purge_text("", purge)).unwrap_or_default();
    text.extend(since.map(|purge| purge_text("since the noted entry: ", purge)));
    output::print(&format!(
        "{text}{entries} entries are as they were written; the last one is\n{last}\n"
    ))
}

fn purge_json(purge: &Purge) -> serde_json::Value {
    serde_json::json!({
        "purged": format!("{}:{}", purge.of, purge.hash),
        "entry": purge.number,
        "at": time_of(purge.at),
    })
}

fn purge_text(before: &str, purge: &Purge) -> String {
    let Purge { number, at, of, hash } = purge;
    let (hash, at) = (clean(hash), time_of(*at));
    format!("{before}purged {of}:{hash}, as entry {number} of {at} says\n")
}

/// Checks the lines of a file.
fn read(path: &Path, check: &mut Check) -> Result<(), AuditError> {
    let name = path.display().to_string();
    let failed = |source| AuditError::File { name: name.clone(), source };
    let file = File::open(path).map_err(failed)?;
    // A pipe has no size.
    let size = file.metadata().map_err(failed)?.len();
    let mut progress = Progress::of("MiB", (size > 0).then_some(size >> 20));
    let lines = BufReader::new(file).lines();
    let (mut is_empty, mut bytes) = (true, 0);
    for (index, text) in lines.enumerate() {
        is_empty = false;
        let text = text.map_err(failed)?;
        bytes += text.len() as u64 + 1;
        progress.at(bytes >> 20);
        let bad = |why: String| match index {
            0 => AuditError::NoExport { name: name.clone(), why },
            index => AuditError::Line { name: name.clone(), line: index + 1, why },
        };
        if check.ended {
            return Err(bad("there is nothing behind the end of an export".to_owned()));
        }
        let part = part(index, &text).map_err(bad)?;
        check.take(&part)?;
    }
    if check.ended {
        return Ok(());
    }
    if is_empty {
        let why = "the file is empty; `unanimo audit export` makes one".to_owned();
        return Err(AuditError::Line { name, line: 1, why });
    }
    let why = "the end of the export is missing".to_owned();
    Err(AuditError::Line {
        name,
        line: usize::try_from(check.count).unwrap_or(usize::MAX).saturating_add(2),
        why,
    })
}

fn part(index: usize, text: &str) -> Result<Part, String> {
    if index == 0 {
        let head: Head = parse(text, "the first line of an export")?;
        let known = head.unanimo_audit == FORMAT;
        return match known {
            true => Ok(Part::Head(head)),
            false => {
                Err(format!("its form is {}, this program knows {FORMAT}", head.unanimo_audit))
            }
        };
    }
    if text.starts_with("{\"last\"") {
        return parse(text, "the last line of an export").map(Part::Tail);
    }
    parse::<Line>(text, "an entry").map(|line| Part::Line(Box::new(line)))
}

fn parse<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        // The error repeats texts of the file.
        format!("it is not {what}: {}", clean(&error.to_string()))
    })
}
