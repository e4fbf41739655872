//! `unanimo replay`: recorded histories through today's state machine.

mod step;

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use unanimo_core::history::{self, Difference, Document, Replayed};

use super::error::Error as CommandError;
use super::output::{self, BAD, GOOD, clean};
use super::tx;

/// Exit codes and JSON, for `--help`.
const LONG_HELP: &str = "\
Exit codes of replay: 0 if every history was replayed and is equal; 1 if one differs; 2 if a file is no
  history, or breaks a rule: the error names the field.

JSON (--json): for each history an object with name, gid, tx_id, recorded_by, equal, inputs,
  transitions, calls, lock_requests, recoveries, cut (entries that are not in the document), and
  difference (null, or an object with version, step, at, input, what, recorded, replayed).";

/// Replay recorded histories: apply their inputs to this version, and tell the first difference
///
/// A history says what happened to a transaction, and what was written and sent then. This version
/// must do the same: then it means the same by transactions that run while it is installed. Payloads
/// are not in it, and nothing is sent to anybody.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP)]
pub(super) struct Args {
    /// File that `unanimo tx export` made, or `-` for standard input; or the gid or tx_id of a
    /// transaction, whose history is asked for at the coordinator
    #[arg(value_name = "FILE|GID", required = true)]
    histories: Vec<String>,
    /// Show the transaction after each input. On a terminal, wait for Enter before the next one
    #[arg(long)]
    step: bool,
    #[command(flatten)]
    server: tx::Server,
}

/// Failure to read or write a history.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The file cannot be read.
    #[error("read {name}: {source}")]
    Read { name: String, source: std::io::Error },
    /// The file cannot be written.
    #[error("write {name}: {source}")]
    Write { name: String, source: std::io::Error },
    /// The file is no history.
    #[error("understand {name}: {why}")]
    Malformed { name: String, why: String },
}

impl Error {
    /// Tells whether the file that was named is the cause.
    pub(super) fn is_usage(&self) -> bool {
        !matches!(self, Self::Write { .. })
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let mut equal = true;
    for name in &args.histories {
        let document = read(args, name)?;
        let outcome = match args.step {
            true => step::through(&document, args.server.json),
            false => Ok(history::replay(&document)),
        };
        let outcome = match outcome? {
            Ok(replayed) => Ok(replayed),
            Err(history::Error::Differs(difference)) => Err(difference),
            Err(history::Error::Invalid(violation)) => {
                let (name, why) = (name.clone(), violation.to_string());
                return Err(Error::Malformed { name, why }.into());
            }
        };
        equal &= outcome.is_ok();
        tell(args, name, &document, &outcome)?;
    }
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes a new file. One that is there stays as it is: it may be the only record.
pub(super) fn write_new(path: &Path, text: &str) -> Result<(), Error> {
    let written = std::fs::File::create_new(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    });
    written.map_err(|source| Error::Write { name: path.display().to_string(), source })
}

/// Reads a file, standard input, or the history of a transaction.
fn read(args: &Args, name: &str) -> Result<Document, CommandError> {
    let text = if name == "-" {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text).map(|_| text);
        read.map_err(|source| Error::Read { name: "standard input".to_owned(), source })?
    } else if Path::new(name).exists() || looks_like_a_path(name) {
        let read = std::fs::read_to_string(name);
        read.map_err(|source| Error::Read { name: name.to_owned(), source })?
    } else {
        tx::export::fetch(&args.server, name)?
    };
    parse(&text).map_err(|why| Error::Malformed { name: name.to_owned(), why }.into())
}

/// Tells whether the name cannot be meant as a gid.
fn looks_like_a_path(name: &str) -> bool {
    name.contains(['/', '\\']) || name.ends_with(".json")
}

fn parse(text: &str) -> Result<Document, String> {
    #[derive(serde::Deserialize)]
    struct Head {
        format: String,
    }
    // Another format would be blamed for a field that it names otherwise.
    if let Ok(Head { format }) = serde_json::from_str(text)
        && format != history::FORMAT
    {
        return Err(format!("format must be {}, is {}", history::FORMAT, clean(&format)));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let document = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { format!("{path}: ") };
        format!("{field}{}", error.into_inner())
    })?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(document)
}

/// Outcome of one replay, as JSON.
#[derive(Serialize)]
struct Told<'a> {
    name: &'a str,
    gid: &'a str,
    tx_id: String,
    recorded_by: String,
    equal: bool,
    inputs: Option<usize>,
    transitions: Option<usize>,
    calls: Option<usize>,
    lock_requests: Option<usize>,
    recoveries: Option<usize>,
    cut: usize,
    difference: Option<ToldDifference<'a>>,
}

#[derive(Serialize)]
struct ToldDifference<'a> {
    version: i64,
    step: usize,
    at: &'a str,
    input: &'a str,
    what: &'a str,
    recorded: &'a str,
    replayed: &'a str,
}

fn tell(
    args: &Args,
    name: &str,
    document: &Document,
    outcome: &Result<Replayed, Box<Difference>>,
) -> Result<(), CommandError> {
    if args.server.json {
        return output::print_json(&told(name, document, outcome));
    }
    let subject = &document.transaction;
    let recorded_by = recorded_by(document);
    let head = format!("{} ({})", subject.gid, subject.mode.name());
    let text = match outcome {
        Ok(sum) => {
            let counts = [
                (sum.inputs, "input"),
                (sum.transitions, "transition"),
                (sum.calls, "call"),
                (sum.lock_requests, "lock request"),
                (sum.recoveries, "adoption"),
            ];
            let told = counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| {
                let plural = if count == 1 { "" } else { "s" };
                format!("{count} {what}{plural}")
            });
            let counts: Vec<String> = told.collect();
            let counts = counts.join(", ");
            format!("{GOOD}equal{GOOD:#}    {head}: {counts}; recorded by {recorded_by}\n")
        }
        Err(difference) => {
            let difference = difference.to_string();
            let lines: String =
                difference.lines().map(|line| format!("  {}\n", clean(line))).collect();
            format!("{BAD}differs{BAD:#}  {head}; recorded by {recorded_by}\n{lines}")
        }
    };
    output::print(&(text + &end_of_record(document)))
}

fn told<'a>(
    name: &'a str,
    document: &'a Document,
    outcome: &'a Result<Replayed, Box<Difference>>,
) -> Told<'a> {
    let sum = outcome.as_ref().ok();
    let difference = outcome.as_ref().err();
    Told {
        name,
        gid: document.transaction.gid.as_str(),
        tx_id: document.transaction.tx_id.to_string(),
        recorded_by: recorded_by(document),
        equal: outcome.is_ok(),
        inputs: sum.map(|sum| sum.inputs),
        transitions: sum.map(|sum| sum.transitions),
        calls: sum.map(|sum| sum.calls),
        lock_requests: sum.map(|sum| sum.lock_requests),
        recoveries: sum.map(|sum| sum.recoveries),
        cut: document.cut.map_or(0, |cut| cut.entries),
        difference: difference.map(|difference| ToldDifference {
            version: difference.version.0,
            step: difference.step,
            at: &difference.at,
            input: &difference.input,
            what: &difference.what,
            recorded: &difference.recorded,
            replayed: &difference.replayed,
        }),
    }
}

fn recorded_by(document: &Document) -> String {
    clean(&format!("{} {}", document.program.name, document.program.version))
}

/// Says where the record ends, if the transaction had gone on.
fn end_of_record(document: &Document) -> String {
    let last = document.entries.last().map_or(0, |entry| entry.version.0);
    let version = document.transaction.version.0;
    match document.cut {
        Some(cut) => format!(
            "         the document ends at version {last} of {version}: {} entries were left out\n",
            cut.entries
        ),
        None if last < version => {
            format!("         the record ends at version {last} of {version}\n")
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document of one branch; `change` breaks it.
    fn broken(change: impl Fn(&mut serde_json::Value)) -> String {
        let text = include_str!("replay/example.json");
        let mut value: serde_json::Value = serde_json::from_str(text).expect("JSON");
        change(&mut value);
        let read = parse(&value.to_string());
        match read.map(|document| history::replay(&document)) {
            Err(why) => why,
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(_)) => "equal".to_owned(),
        }
    }

    #[test]
    fn a_malformed_file_is_refused_by_its_field() {
        assert_eq!(broken(|_| ()), "equal");
        for (pointer, value, error) in [
            (
                "/format",
                "\"unanimo.history/9\"",
                "format must be unanimo.history/1, is unanimo.history/9",
            ),
            ("/transaction/gid", "\"a b\"", "transaction.gid: must consist of"),
            ("/transaction/mode", "\"tpc\"", "transaction.mode: must be 2pc, tcc or saga"),
            ("/branches/0/by", "\"me\"", "branches[0].by: unknown variant `me`"),
            ("/branches/0/payload/bytes", "99999999999", "branches[0].payload must be at most"),
            ("/branches/1/depends_on", "[7]", "branches[1].depends_on[0] must number one of the 2"),
            ("/branches/1/branch_id", "\"a\"", "branches[1].branch_id must be unique"),
            ("/entries", "[]", "entries must have at least 1 entry"),
            ("/entries/0/version", "2", "entries[0] must begin the transaction (version 1)"),
            ("/entries/1/version", "1", "entries[1].version must be above 1"),
            ("/entries/1/steps", "[]", "entries[1].steps must have at least 1 step"),
            ("/entries/0/steps/0/input", "\"tick\"", "entries[0] must begin the transaction"),
            ("/entries/1/steps/0/input", "{\"begin\": 1}", "entries[1].steps[0].input.begin: "),
            ("/entries/1/steps/0/input", "{\"hiccup\": {}}", "unknown variant `hiccup`"),
            (
                "/entries/1/steps/0/input",
                "{\"retry\": {\"branch\": 0}}",
                "entries[1].steps[0].input must number",
            ),
            ("/entries/1/at", "\"noon\"", "entries[1].at: invalid type: string \"noon\""),
        ] {
            let found = broken(|document| {
                *document.pointer_mut(pointer).expect(pointer) =
                    serde_json::from_str(value).expect(value);
            });
            assert!(found.contains(error), "{pointer} = {value}: {found}");
        }
        assert!(parse("{").expect_err("no JSON").contains("EOF"));
        let missing = broken(|document| {
            document["entries"][1].as_object_mut().expect("an object").remove("after");
        });
        assert!(missing.contains("entries[1]: missing field `after`"), "{missing}");
    }
}
