//! `unanimo replay`: recorded histories through today's state machine.

mod step;
mod told;
mod unknown;

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use unanimo_core::history::{self, Document};

use self::told::{Outcome, tell};
use super::error::Error as CommandError;
use super::output::{self, clean};
use super::progress::Progress;
use super::tx;

/// Code of a history that is equal.
const SAME: u8 = 0;
/// Code of one that differs, or is a part.
const OTHER: u8 = 1;

/// Exit codes and JSON, for `--help`.
const LONG_HELP: &str = "\
Exit codes of replay: 0 if every history was replayed and is equal; 1 if one
  differs, or is equal as far as it goes and is not all that was recorded, or
  cannot be had from the coordinator; 2 if a file cannot be read, is no
  history, or breaks a rule: the error names the field. All are replayed, and
  the highest code is that of the command.

JSON (--json): for each history an object with name, gid, tx_id, recorded_by,
  rules (numbers of the rules by which it went, from its begin and from each
  adoption on: it is replayed by them), equal, inputs, transitions, calls,
  lock_requests, recoveries, cut (entries that are not in the document),
  missing (null, or what is not in it, in words), unknown (fields that this
  version passes over), and difference (null, or an object with version, step,
  at, input, what, recorded, replayed).";

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
    /// This version does something else at the first input.
    #[error("replay {name}: {difference}")]
    Differs { name: String, difference: String },
}

impl Error {
    /// Tells whether the file that was named is the cause.
    pub(super) fn is_usage(&self) -> bool {
        !matches!(self, Self::Write { .. } | Self::Differs { .. })
    }
}

/// A history that was read.
#[derive(Debug)]
pub(super) struct History {
    pub(super) document: Document,
    /// Paths of the fields that this version does not know.
    pub(super) unknown: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let mut worst = SAME;
    let total = u64::try_from(args.histories.len()).ok();
    let mut progress = Progress::of("histories", total);
    for (name, done) in args.histories.iter().zip(0..) {
        // Step by step it goes as fast as its reader.
        if !args.step {
            progress.at(done);
        }
        let code = match one(args, name, &mut progress) {
            Ok(true) => SAME,
            Ok(false) => OTHER,
            Err(error @ (CommandError::History(_) | CommandError::Client(_))) => {
                // The others are replayed all the same.
                progress.hide();
                error.print();
                error.code()
            }
            Err(error) => return Err(error),
        };
        worst = worst.max(code);
    }
    Ok(ExitCode::from(worst))
}

/// Replays one history, and tells whether it is equal.
fn one(args: &Args, name: &str, progress: &mut Progress) -> Result<bool, CommandError> {
    let History { document, unknown } = read(&args.server, name)?;
    let outcome = match args.step {
        true => step::through(&document, args.server.json),
        false => Ok(history::replay(&document)),
    };
    let outcome = match outcome? {
        Ok(replayed) => Outcome::Equal(replayed),
        Err(history::Error::NotWhole { missing, replayed }) => Outcome::Part(replayed, missing),
        Err(history::Error::Differs(difference)) => Outcome::Differs(difference),
        Err(history::Error::Invalid(violation)) => {
            let (name, why) = (name.to_owned(), violation.to_string());
            return Err(Error::Malformed { name, why }.into());
        }
    };
    progress.hide();
    note_unknown(name, &unknown);
    tell(args, name, &document, &outcome, &unknown)?;
    Ok(matches!(outcome, Outcome::Equal(_)))
}

/// Tells of fields that this version does not know.
pub(super) fn note_unknown(name: &str, unknown: &[String]) {
    for path in unknown {
        output::note(&format!(
            "{}: {} is no field of this version, and passed over",
            clean(name),
            clean(path)
        ));
    }
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
pub(super) fn read(server: &tx::Server, name: &str) -> Result<History, CommandError> {
    let text = if name == "-" {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text).map(|_| text);
        read.map_err(|source| Error::Read { name: "standard input".to_owned(), source })?
    } else if Path::new(name).exists() || looks_like_a_path(name) {
        let read = std::fs::read_to_string(name);
        read.map_err(|source| Error::Read { name: name.to_owned(), source })?
    } else {
        tx::export::fetch(server, name)?
    };
    parse(&text).map_err(|why| Error::Malformed { name: name.to_owned(), why }.into())
}

/// Tells whether the name cannot be meant as a gid.
fn looks_like_a_path(name: &str) -> bool {
    name.contains(['/', '\\']) || name.ends_with(".json")
}

fn parse(text: &str) -> Result<History, String> {
    #[derive(serde::Deserialize)]
    struct Head {
        format: String,
    }
    /// Answer of the API, which has the document as a text.
    #[derive(serde::Deserialize)]
    struct Answer {
        #[serde(rename = "historyJson")]
        history_json: String,
    }
    if text.trim().is_empty() {
        return Err("the file is empty; `unanimo tx export` makes one".to_owned());
    }
    if let Ok(Answer { history_json }) = serde_json::from_str(text) {
        return parse(&history_json);
    }
    // Another format would be blamed for a field that it names otherwise.
    if let Ok(Head { format }) = serde_json::from_str(text)
        && format != history::FORMAT
    {
        return Err(format!("format must be {}, is {}", history::FORMAT, clean(&format)));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let document: Document = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { format!("{path}: ") };
        format!("{field}{}", error.into_inner())
    })?;
    reader.end().map_err(|error| error.to_string())?;
    let unknown = unknown::fields(text, &document);
    Ok(History { document, unknown })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// A document of one branch; `change` breaks it.
    fn broken(change: impl Fn(&mut serde_json::Value)) -> String {
        let text = include_str!("replay/example.json");
        let mut value: serde_json::Value = serde_json::from_str(text).expect("JSON");
        change(&mut value);
        let read = parse(&value.to_string());
        match read.map(|read| history::replay(&read.document)) {
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
            (
                "/branches/0/payload/bytes",
                "99999999999",
                "branches[0].payload.bytes must be at most",
            ),
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
                "entries[1].steps[0].input.retry.branch must number",
            ),
            (
                "/entries/1/steps/0/input/prepare_answered/branch",
                "3",
                "entries[1].steps[0].input.prepare_answered.branch must number one of the 2",
            ),
            (
                "/entries/1/steps/0/input/prepare_answered/answer/prepared/output/bytes",
                "99999999999",
                "input.prepare_answered.answer.prepared.output.bytes must be at most",
            ),
            (
                "/entries/0/steps/0/input/begin/settings/limits",
                r#"{"branches_max": 1, "payload_bytes_max": 1, "payloads_bytes_max": 1,
                    "output_bytes_max": 1, "outputs_bytes_max": -1}"#,
                "entries[0].steps[0].input.begin.settings.limits.outputs_bytes_max",
            ),
            (
                "/entries/0/steps/0/input/begin/settings/lock_backoff/cap",
                "99999999999999",
                "entries[0].steps[0].input.begin.settings.lock_backoff.cap must be at most a year",
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
        let empty = parse("\n").expect_err("nothing");
        assert_eq!(empty, "the file is empty; `unanimo tx export` makes one");
        let missing = broken(|document| {
            document["entries"][1].as_object_mut().expect("an object").remove("after");
        });
        assert!(missing.contains("entries[1]: missing field `after`"), "{missing}");
    }

    /// `/v1/tx/ID:export` answers so; a page that is not the whole says it as any other part does.
    #[test]
    fn an_answer_of_the_api_is_read_as_its_document() {
        let text = include_str!("replay/example.json");
        let answer =
            |text: &str| serde_json::json!({"historyJson": text, "nextPageToken": "7"}).to_string();
        let read = parse(&answer(text)).expect("a document");
        history::replay(&read.document).expect("equal");
        let why = parse(&answer("")).expect_err("nothing is in it");
        assert!(why.contains("is empty"), "{why}");
    }

    #[test]
    fn rules_of_a_newer_version_are_refused_by_their_path() {
        let found = broken(|document| {
            document["entries"][0]["steps"][0]["input"]["begin"]["settings"]["rules"] = 99.into();
        });
        let path = "entries[0].steps[0].input.begin.settings.rules must be at most ";
        assert!(found.contains(path), "{found}");
    }

    #[test]
    fn a_history_that_lost_entries_is_not_equal() {
        let ends = |end: &str| {
            let end: Value = serde_json::from_str(end).expect("JSON");
            broken(|document| document["end"] = end.clone())
        };
        let (count, version) = (5, 5);
        assert_eq!(ends(&format!(r#"{{"version": {version}, "entries": {count}}}"#)), "equal");
        let error = "the history is not whole: it ends at version 5, and was recorded to version 6";
        assert_eq!(ends(r#"{"version": 6}"#), error);
        let error = "the history is not whole: it has 5 entries, and 6 were recorded";
        assert_eq!(ends(r#"{"version": 5, "entries": 6}"#), error);
        assert_eq!(
            ends(r#"{"version": 4}"#),
            "end.version must be that of the last entry, 5, is 4"
        );
        let error = "end.entries must be the number of entries, 5, is 4";
        assert_eq!(ends(r#"{"version": 5, "entries": 4}"#), error);
        // One that was made before there was an end.
        let short = broken(|document| {
            document["entries"].as_array_mut().expect("a list").pop();
        });
        assert_eq!(short, "the history is not whole: it ends at version 4 of 5, and has no end");
        let cut = broken(|document| document["cut"] = serde_json::json!({"entries": 3}));
        assert_eq!(
            cut,
            "the history is not whole: it ends at version 5 of 5: 3 entries were left out"
        );
    }
}
