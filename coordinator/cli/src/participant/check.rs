//! `unanimo participant check`: a running participant, driven through the list of guarantees.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::signal::unix::{SignalKind, signal};
use unanimo_conformance::{Checked, Options, Remote, Report, Verdict};
use unanimo_coordinator::config::Period;
use unanimo_core::{ActionName, ParticipantName};
use unanimo_proto::v1;

use crate::error::{Error as CliError, last_cause};
use crate::output::{self, BAD, GOOD, HINT, SOSO, clean, table};
use crate::tx;

/// Most bytes of a cluster's id.
const CLUSTER_BYTES_MAX: usize = 32;

/// What stands below the options.
const MORE_HELP: &str = "\
It does real work. Each guarantee makes transactions of its own, with ids that nobody else has: it
prepares the action with the payload many times, and cancels it again. Some guarantees are about
Commit: what they commit stays committed. Use a test account, or a test installation.

No coordinator is needed, and none knows of it: nobody else ends what it prepares. So stop it with
Ctrl-C if you must, which cancels what is prepared, and not with -9.

JSON (--json): an object with participant, action, mode, passed (the exit code is 0), guarantees,
  refused (the vote no that met the payload, or null), committed (how many branches were, and stay,
  committed), left_behind (a list of branches that may be prepared still) and interrupted. A
  guarantee is an object with name, result (passed, failed, skipped), seen (what was seen, or why
  it was skipped; null if it passed), text (what must hold) and why.

Exit codes: 0 no guarantee is broken, and what had to be skipped is named; 1 one is broken, the
  action refuses the payload from the beginning, or nobody answers; 2 an argument is wrong, and
  nothing was sent.";

/// Drive a running participant through the list of guarantees, and tell which it keeps
///
/// Duplicates, late calls, calls at once and calls out of order: whatever networks, crashes and a
/// coordinator that repeats itself do to a participant. It works for participants in any language.
#[derive(Debug, clap::Args)]
#[command(after_long_help = MORE_HELP)]
pub(crate) struct Args {
    /// Where the participant answers
    #[arg(long, value_name = "URL", value_parser = tx::endpoint)]
    endpoint: String,
    /// Its name
    #[arg(long, value_name = "NAME", value_parser = ParticipantName::new)]
    participant: ParticipantName,
    /// One of its actions
    #[arg(long, value_name = "ACTION", value_parser = ActionName::new)]
    action: ActionName,
    /// An argument that the action accepts, in JSON: it is prepared many times, and committed some
    /// times
    #[arg(long, value_name = "JSON", value_parser = json)]
    payload: Option<Bytes>,
    /// The same from a file, whose bytes are sent as they are
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    payload_file: Option<PathBuf>,
    /// An argument that the action refuses, in JSON, for the guarantees about refusals
    #[arg(long, value_name = "JSON", value_parser = json)]
    refused_payload: Option<Bytes>,
    /// The mode in which it does the action
    #[arg(long, value_name = "MODE", default_value = "tcc")]
    mode: Mode,
    /// The cluster id to send, for a participant that insists on its coordinator's
    #[arg(long, value_name = "ID", default_value = Options::CLUSTER_ID,
          value_parser = cluster_id)]
    cluster_id: String,
    /// How long an operation is asked again before it counts as not answered
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    timeout: Period,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Mode {
    /// Try, confirm, cancel
    Tcc,
    /// Two-phase commit
    #[value(alias = "2pc")]
    TwoPhase,
    /// A step of a saga and its compensation
    Saga,
}

/// Why nothing was checked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The payload's file cannot be read.
    #[error("read the payload from {path}: {source}")]
    Payload { path: String, source: std::io::Error },
    /// Nobody is there.
    #[error("reach a participant at {endpoint}: {why}")]
    Unreachable { endpoint: String, why: String },
    /// It does not vote.
    #[error("{0}")]
    Unusable(unanimo_conformance::Unusable),
}

impl Error {
    /// Whether the arguments are to blame.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Payload { .. })
    }

    /// What may help.
    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Payload { .. } => return None,
            Self::Unreachable { .. } => {
                "--endpoint is the participant's address, not the coordinator's"
            }
            Self::Unusable(_) => {
                "are --participant, --mode and --cluster-id what it expects? A vote, even no, \
                 travels in an OK reply"
            }
        };
        Some(text.to_owned())
    }
}

fn json(text: &str) -> Result<Bytes, String> {
    let json: &RawValue = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(tx::compact(json.get()).into())
}

/// Of the alphabet of names, and shorter.
fn cluster_id(text: &str) -> Result<String, String> {
    let name = ParticipantName::new(text).map_err(|error| error.to_string())?;
    match name.as_str().len() {
        ..=CLUSTER_BYTES_MAX => Ok(text.to_owned()),
        found => Err(format!("must be at most {CLUSTER_BYTES_MAX} bytes, has {found}")),
    }
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, CliError> {
    let (endpoint, as_json) = (args.endpoint.clone(), args.json);
    let options = args.options()?;
    let mode = options.mode;
    let remote = Remote::connect(&endpoint).await.map_err(|error| Error::Unreachable {
        endpoint: endpoint.clone(),
        why: last_cause(&error),
    })?;
    output::note(&format!(
        "{SOSO}warning:{SOSO:#} this does real work at {endpoint}, and what it commits stays"
    ));
    let progress = |checked: &Checked| {
        if !as_json && matches!(checked.verdict, Verdict::Failed(_)) {
            output::note(&format!("{BAD}failed:{BAD:#} {}", checked.guarantee));
        }
    };
    // From here on Ctrl-C leaves nothing prepared.
    let mut interrupted = signal(SignalKind::interrupt())
        .map_err(|source| CliError::System { doing: "listen to signals", source })?;
    let stop = async {
        interrupted.recv().await;
        output::note("stopping: what is prepared is cancelled first");
    };
    let report = unanimo_conformance::run(Arc::new(remote), options, progress, stop);
    let report = report.await.map_err(Error::Unusable)?;
    if as_json {
        output::print_json(&Json::new(&report, mode))?;
    } else {
        output::print(&shown(&report))?;
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Args {
    fn options(self) -> Result<Options, Error> {
        let payload = match (self.payload, self.payload_file) {
            (Some(payload), _) => payload,
            (None, None) => Bytes::new(),
            (None, Some(path)) => std::fs::read(&path)
                .map_err(|source| Error::Payload { path: path.display().to_string(), source })?
                .into(),
        };
        Ok(Options {
            payload,
            refused_payload: self.refused_payload,
            mode: match self.mode {
                Mode::Tcc => v1::Mode::Tcc,
                Mode::TwoPhase => v1::Mode::TwoPhaseCommit,
                Mode::Saga => v1::Mode::Saga,
            },
            cluster_id: self.cluster_id,
            patience: self.timeout.0,
            ..Options::new(self.participant.as_str(), self.action.as_str())
        })
    }
}

fn shown(report: &Report) -> String {
    let mut text = table(["GUARANTEE", "RESULT", "SEEN"], report.checked.iter().map(row));
    for checked in &report.checked {
        if matches!(checked.verdict, Verdict::Failed(_)) {
            let Checked { guarantee, text: holds, why, .. } = checked;
            text +=
                &format!("\n{BAD}{guarantee}{BAD:#}\n  must hold  {holds}\n  because    {why}\n");
        }
    }
    let (passed, failed, skipped) = report.counts();
    let color = if report.passed() { GOOD } else { BAD };
    text += &format!("\n{color}{passed} passed, {failed} failed, {skipped} skipped{color:#}\n");
    if let Some(refused) = &report.refused {
        let (action, refused) = (&report.action, clean(refused));
        text += &format!(
            "{BAD}not enough was checked{BAD:#}: {action} answers this payload {refused}\n\
             {HINT}hint:{HINT:#} --payload JSON or --payload-file FILE gives one that it accepts\n"
        );
    }
    text += &match report.committed {
        0 => "nothing was committed, everything prepared was cancelled\n".to_owned(),
        1 => "1 branch was committed and stays so, all others were cancelled\n".to_owned(),
        many => format!("{many} branches were committed and stay so, all others were cancelled\n"),
    };
    for branch in &report.left_behind {
        let branch = clean(branch);
        text += &format!("{BAD}may be prepared still{BAD:#}: {branch}: Cancel is not answered\n");
    }
    text
}

fn row(checked: &Checked) -> [String; 3] {
    let (result, seen) = words(&checked.verdict);
    [checked.guarantee.to_owned(), result.to_owned(), seen.unwrap_or_default().to_owned()]
}

fn words(verdict: &Verdict) -> (&'static str, Option<&str>) {
    match verdict {
        Verdict::Passed => ("passed", None),
        Verdict::Failed(seen) => ("failed", Some(seen)),
        Verdict::Skipped(why) => ("skipped", Some(why)),
    }
}

/// What `--json` prints. Keys are only ever added.
#[derive(Serialize)]
struct Json<'r> {
    participant: &'r str,
    action: &'r str,
    mode: &'static str,
    passed: bool,
    guarantees: Vec<JsonGuarantee<'r>>,
    refused: Option<&'r str>,
    committed: u32,
    left_behind: &'r [String],
    interrupted: bool,
}

#[derive(Serialize)]
struct JsonGuarantee<'r> {
    name: &'static str,
    result: &'static str,
    seen: Option<&'r str>,
    text: &'static str,
    why: &'static str,
}

impl<'r> Json<'r> {
    fn new(report: &'r Report, mode: v1::Mode) -> Self {
        let guarantee = |checked: &'r Checked| {
            let (result, seen) = words(&checked.verdict);
            let Checked { guarantee: name, text, why, .. } = checked;
            JsonGuarantee { name, result, seen, text, why }
        };
        Self {
            participant: &report.participant,
            action: &report.action,
            mode: tx::mode(mode.into()),
            passed: report.passed(),
            guarantees: report.checked.iter().map(guarantee).collect(),
            refused: report.refused.as_deref(),
            committed: report.committed,
            left_behind: &report.left_behind,
            interrupted: report.interrupted,
        }
    }
}
