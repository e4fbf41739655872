//! `unanimo participant check`: checks the list of guarantees against a running participant.

mod caller;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::signal::unix::{SignalKind, signal};
use unanimo_conformance::{Checked, GUARANTEES, Options, Report, Verdict};
use unanimo_coordinator::config::Period;
use unanimo_core::{ActionName, ParticipantName};
use unanimo_proto::v1;

use self::caller::CallerArgs;
use crate::error::Error as CliError;
use crate::output::{
    self, BAD, CAUTION, GOOD, HINT, clean, is_terminal, table, wide_table, wrapped,
};
use crate::progress::Progress;
use crate::tx;

/// Longest cluster id, in bytes.
const CLUSTER_BYTES_MAX: usize = 32;

/// Text below the options in `--help`.
const MORE_HELP: &str = "\
The check does real work. Each guarantee uses transactions of its own, with
new ids: it prepares the action with the payload many times, and cancels it
again. Some guarantees are about Commit: work that they commit stays
committed. Use a test account, or a test installation.

No coordinator is needed, and no coordinator ends the branches that the check
has prepared. To stop the check, press Ctrl-C: it then cancels its branches.
Do not stop it with kill -9.

JSON (--json): an object with participant, action, mode, passed (the exit code
  is 0), guarantees, refused (the refusal of the payload, or null), committed
  (number of branches that were committed and stay so), left_behind (a list of
  branches that may still be prepared) and interrupted. A guarantee is an
  object with name, result (passed, failed, skipped), seen (the failure, or
  the reason for skipping; null if it passed), text (the rule) and why (the
  reason for the rule).

Exit codes: 0 no guarantee is broken; skipped ones are named, with the reason.
  1 a guarantee is broken, or not all could be checked: the action refuses the
  payload, the participant cannot be reached, or the check was stopped; or a
  branch was left behind. 2 an argument is wrong, and nothing was sent.";

/// Check whether a running participant keeps the guarantees that a coordinator needs
///
/// Sends duplicates, late calls, calls at once and calls out of order: all that a network, a crash
/// or a coordinator that repeats a call can do. It works for a participant in any language.
#[derive(Debug, clap::Args)]
#[command(after_long_help = MORE_HELP)]
pub(crate) struct Args {
    /// Endpoint of the participant: http://HOST:PORT or https://HOST:PORT, or for one over HTTP with JSON
    /// http+json://HOST:PORT/BASE or https+json://HOST:PORT/BASE
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    endpoint: String,
    /// Name of the participant
    #[arg(long, value_name = "NAME", value_parser = ParticipantName::new)]
    participant: ParticipantName,
    /// Action of the participant to check
    #[arg(long, value_name = "ACTION", value_parser = ActionName::new)]
    action: ActionName,
    /// Payload that the action accepts, in JSON: it is prepared many times, and committed some
    /// times
    #[arg(long, value_name = "JSON", value_parser = json)]
    payload: Option<Bytes>,
    /// File with a payload that the action accepts; its bytes are sent unchanged
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    payload_file: Option<PathBuf>,
    /// Payload that the action refuses, in JSON. Without it the guarantees about refusals use a
    /// Prepare after its deadline
    #[arg(long, value_name = "JSON", value_parser = json)]
    refused_payload: Option<Bytes>,
    /// Payload whose work takes some seconds, in JSON: longer than another call of its branch waits. Without it the
    /// pauses between calls are checked only where a call had to wait by chance
    #[arg(long, value_name = "JSON", value_parser = json)]
    slow_payload: Option<Bytes>,
    /// Input that the action reads, as NAME=JSON: what an earlier step of a saga answers. Can be given
    /// several times
    #[arg(long, value_name = "NAME=JSON", value_parser = input)]
    input: Vec<(String, Bytes)>,
    /// Mode in which the participant offers the action
    #[arg(long, value_name = "MODE", default_value = "tcc")]
    mode: Mode,
    /// Cluster id to send, for a participant that accepts only its own coordinator's
    #[arg(long, value_name = "ID", default_value = Options::CLUSTER_ID,
          value_parser = cluster_id)]
    cluster_id: String,
    /// Time for which an operation is repeated before it counts as not answered
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    timeout: Period,
    #[command(flatten)]
    caller: CallerArgs,
    /// Print JSON, for programs
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

/// Failure to check anything.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The payload's file cannot be read.
    #[error("read the payload from {path}: {source}")]
    Payload { path: String, source: std::io::Error },
    /// TLS or the token cannot be used.
    #[error("{0}")]
    Caller(String),
    /// No participant listens there.
    #[error("reach a participant at {endpoint}: {why}")]
    Unreachable { endpoint: String, why: String },
    /// The participant does not vote.
    #[error("{0}")]
    Unusable(unanimo_conformance::Unusable),
}

impl Error {
    /// Tells whether an argument is wrong.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Payload { .. } | Self::Caller(_))
    }

    /// Returns a hint for the operator.
    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Payload { .. } | Self::Caller(_) => return None,
            Self::Unusable(unusable) if unusable.is_elsewhere => {
                "--endpoint is the address of the participant's gRPC service, not the coordinator's; one that is \
                 called over HTTP with JSON has an endpoint http+json://HOST:PORT/BASE"
            }
            Self::Unreachable { endpoint, .. } if endpoint.starts_with("https") => {
                "--endpoint is the participant's address, not the coordinator's; --tls-ca names the authority \
                 of its certificate, and --tls-cert and --tls-key show one to a participant that asks"
            }
            Self::Unreachable { .. } => {
                "--endpoint is the participant's address, not the coordinator's; with TLS it begins with https"
            }
            Self::Unusable(_) => {
                "does the participant expect this --participant, --mode and --cluster-id? It must \
                 send every vote, also REFUSED, in an OK reply. One that accepts its coordinators alone needs \
                 --token-file or --tls-cert"
            }
        };
        Some(text.to_owned())
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let parsed = unanimo_coordinator::participants::allow::parse_endpoint(text);
    parsed.map(|_| text.to_owned()).map_err(|violation| violation.rule)
}

fn json(text: &str) -> Result<Bytes, String> {
    let json: &RawValue = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(tx::compact(json.get()).into())
}

/// Parses an input: its name, and JSON.
fn input(text: &str) -> Result<(String, Bytes), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=JSON")?;
    let name = ActionName::new(name).map_err(|error| format!("the name {error}"))?;
    Ok((name.as_str().to_owned(), json(value)?))
}

/// Parses a cluster id: the alphabet of names, and shorter.
fn cluster_id(text: &str) -> Result<String, String> {
    let name = ParticipantName::new(text).map_err(|error| error.to_string())?;
    match name.as_str().len() {
        ..=CLUSTER_BYTES_MAX => Ok(text.to_owned()),
        found => Err(format!("must be at most {CLUSTER_BYTES_MAX} bytes, has {found}")),
    }
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, CliError> {
    let (endpoint, as_json, caller) = (args.endpoint.clone(), args.json, args.caller.clone());
    let options = args.options()?;
    let (mode, has_refused_payload) = (options.mode, options.refused_payload.is_some());
    let target = caller.connect(&endpoint).await?;
    output::note(&format!(
        "{CAUTION}warning:{CAUTION:#} the check does real work at {endpoint}, and work that it \
         commits stays"
    ));
    let mut progress = Progress::of("guarantees", u64::try_from(GUARANTEES.len()).ok());
    let mut done = 0;
    let told = |checked: &Checked| {
        if !as_json && matches!(checked.verdict, Verdict::Failed(_)) {
            progress.note(&format!("{BAD}failed:{BAD:#} {}", checked.guarantee));
        }
        done += 1;
        progress.at(done);
    };
    // From here on Ctrl-C cancels the prepared branches before the process ends.
    let mut interrupted = signal(SignalKind::interrupt())
        .map_err(|source| CliError::System { doing: "listen to signals", source })?;
    let stop = async {
        interrupted.recv().await;
        output::note("stopping: the prepared branches are cancelled first");
    };
    let report = unanimo_conformance::run(Arc::new(target), options, told, stop);
    let report = report.await;
    progress.hide();
    let report = report.map_err(Error::Unusable)?;
    if as_json {
        output::print_json(&Json::new(&report, mode))?;
    } else {
        output::print(&shown(&report, has_refused_payload))?;
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
            slow_payload: self.slow_payload,
            inputs: self.input.into_iter().collect(),
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

fn shown(report: &Report, has_refused_payload: bool) -> String {
    let header = ["GUARANTEE", "RESULT", "SEEN"];
    let rows = report.checked.iter().map(row);
    // In a file each guarantee is one line.
    let mut text = if is_terminal() { table(header, rows) } else { wide_table(header, rows) };
    for checked in &report.checked {
        if matches!(checked.verdict, Verdict::Failed(_)) {
            let Checked { guarantee, text: holds, why, .. } = checked;
            text += &format!(
                "\n{BAD}{guarantee}{BAD:#}\n  must hold  {}\n  because    {}\n",
                wrapped(13, holds),
                wrapped(13, why)
            );
        }
    }
    let (passed, failed, skipped) = report.counts();
    let color = if report.passed() { GOOD } else { BAD };
    text += &format!("\n{color}{passed} passed, {failed} failed, {skipped} skipped{color:#}\n");
    if !has_refused_payload {
        text += &format!(
            "{CAUTION}skipped{CAUTION:#}: a refusal by the action's own rule, because there is no \
             --refused-payload; the guarantees about refusals used a Prepare after its deadline\n"
        );
    }
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

/// Output of `--json`. Keys are only ever added.
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
