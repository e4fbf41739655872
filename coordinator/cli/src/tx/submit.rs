//! `unanimo tx submit`: submits a transaction from a file, and prints its outcome.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1;

use super::client::{self, Client};
use super::{Server, definition, json, words};
use crate::error::Error;
use crate::output::{self, BAD, CAUTION, GOOD, HINT, clean, table, wrapped};

/// Time to wait for the answer: longer than the coordinator's default `timeout-default`, 60 s.
const TIMEOUT: Period = Period::secs(90);

/// Pauses between attempts while the coordinator does not answer: doubling, from the first to the last.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Description of the file, for `--help`.
const FILE_HELP: &str = r#"FILE is a JSON object:
  gid       your name for the transaction, its idempotency key. If you submit
            the same file again, it is the same transaction, and you get its
            outcome. The coordinator keeps a gid for its `gid-retention` (by
            default 7 days after the transaction's end); after that the gid is
            new, and the work would be done again. Where a file may come back
            that late, use --must-exist
  mode      "2pc", "tcc", or "saga", whose steps then have no order; use
            `unanimo saga run` for that
  timeout   time to decide, such as "60s" or "1h 30m"; then the transaction is
            aborted. If left out, the coordinator's `timeout-default`
  metadata  an object of texts, which is sent to the participants; may be left
            out
  branches  a list of objects:
    branch_id       your name for the branch, unique in the transaction
    participant     name of a participant, as registered or configured
    action          name of one of the participant's actions
    payload         argument of the action, any JSON; it is sent as written,
                    without the space between its tokens
    payload_base64  argument of the action if it is not JSON; do not give both

Example, for the two banks of examples/README.md:
  {
    "gid": "order-4711",
    "mode": "tcc",
    "timeout": "60s",
    "metadata": {"tenant": "acme"},
    "branches": [
      {"branch_id": "debit", "participant": "bank-a", "action": "debit",
       "payload": {"account": "alice", "cents": 100}},
      {"branch_id": "credit", "participant": "bank-b", "action": "credit",
       "payload": {"account": "bob", "cents": 100}}
    ]
  }
A transaction that is aborted has used its gid: to try again, choose another
one.

If the connection to the coordinator breaks, the command asks again under the
same gid until --timeout. That is safe: the transaction is the same one.

JSON (--json): an object with tx_id, gid, outcome (committed, aborted,
  not_decided), ended, heuristic, abort_cause, abort_branch_id, abort_detail,
  and branches: a list of objects with branch_id, vote, refusal {reason,
  message}, last_error, output_dropped, output or output_base64. The values
  are those of `unanimo tx --help`; tx_id is null where nobody knows it.

Exit codes: 0 committed, or with --wait accepted accepted and not decided yet;
  4 aborted; 6 committed or aborted, and a branch ended otherwise, or nobody
  can tell how (see heuristic): an operator has to look at it, and `unanimo tx
  show` tells more; 5 not decided before --timeout, or with --wait ended not
  ended, or nobody knows, as where no coordinator is reached: run the same
  command again; 1 the coordinator refused the transaction, and no run of this
  command began it; 2 an argument or a field of FILE is wrong, and no
  transaction was begun."#;

/// Exit code for a branch that has ended against the decision, or of which nobody can tell how it has ended.
pub(crate) const DEVIATES: u8 = 6;

/// Submit a transaction from a file, and wait for its outcome
#[derive(Debug, clap::Args)]
#[command(after_long_help = FILE_HELP)]
pub(super) struct Args {
    /// File with the transaction, in JSON; `-` is standard input. --help describes it
    file: PathBuf,
    /// Event to wait for
    #[arg(long, value_name = "EVENT", default_value = "decided")]
    wait: Wait,
    /// Begin nothing: the gid must be known. For a file that may come back after the gid retention
    #[arg(long)]
    must_exist: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wait {
    /// The transaction is durable; the coordinator then goes on without you
    Accepted,
    /// The decision, which is final
    Decided,
    /// The end: every branch has ended
    Ended,
}

pub(super) async fn run(server: &Server, args: Args) -> Result<ExitCode, Error> {
    let mut request = definition::read(&args.file)?;
    if args.must_exist {
        require_existing(&mut request);
    }
    let gid = request.gid.clone();
    let (result, text) = match connect(server).await? {
        Some(mut client) => {
            let result = submit(server, &mut client, request, args.wait).await?;
            let text = shown(&gid, &result, args.wait);
            (result, text)
        }
        None => (not_known(), unreached(&gid)),
    };
    let code = exit_code(&result, args.wait);
    let printed = if server.json {
        output::print_json(&json::Submitted::new(gid, result))
    } else {
        output::print(&text)
    };
    end(printed, code)
}

/// Connects, or tells why nobody is reached. This run has sent nothing then; an earlier run of the same request may have,
/// and what that began may yet be committed: its outcome is not known.
pub(crate) async fn connect(server: &Server) -> Result<Option<Client>, client::Error> {
    match Client::connect(server).await {
        Ok(client) => Ok(Some(client)),
        Err(error @ client::Error::Unreachable { .. }) => {
            output::note(&format!("{CAUTION}no answer:{CAUTION:#} {error}"));
            if let Some(hint) = error.hint() {
                output::note(&format!("{HINT}hint:{HINT:#} {hint}"));
            }
            output::note("this run has sent nothing; an earlier one with the same gid may have");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Submits a transaction, and waits for this event.
pub(crate) async fn submit(
    server: &Server,
    client: &mut Client,
    mut request: v1::SubmitTransactionRequest,
    wait: Wait,
) -> Result<v1::TransactionResult, client::Error> {
    request.wait_for = match wait {
        Wait::Accepted => v1::WaitFor::Accepted.into(),
        Wait::Decided => v1::WaitFor::Decided.into(),
        Wait::Ended => v1::WaitFor::Ended.into(),
    };
    let until = Instant::now() + server.timeout.unwrap_or(TIMEOUT).0;
    let (mut pause, mut unknown) = (PAUSE_MIN, false);
    loop {
        let left = until.saturating_duration_since(Instant::now()).max(PAUSE_MIN);
        let asked = Client::request_within(request.clone(), left);
        let error = match client.coordinator.submit_transaction(asked).await {
            Ok(submitted) => match submitted.into_inner().result {
                Some(result) => return Ok(result),
                None => client::Error::Nonsense("it has no result"),
            },
            Err(status) => client::Error::from(status).at(&server.endpoint),
        };
        // Another request has the gid: no attempt of this one was ever accepted.
        if error.is_gid_reused() || !(unknown || error.is_indeterminate()) {
            return Err(error);
        }
        let is_first = !std::mem::replace(&mut unknown, true);
        if is_first {
            output::note(&format!("{CAUTION}no answer:{CAUTION:#} {error}"));
        }
        if !error.is_retryable() || Instant::now() + pause >= until {
            if !is_first {
                output::note(&format!("{CAUTION}the last attempt:{CAUTION:#} {error}"));
            }
            return Ok(not_known());
        }
        if is_first {
            output::note("the command asks again under the same gid, until --timeout");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Makes a request one that begins nothing.
pub(crate) fn require_existing(request: &mut v1::SubmitTransactionRequest) {
    request.require_existing = true;
    request.requires.push("require_existing".to_owned());
}

/// Result of a request of which nobody knows whether it took effect.
pub(crate) fn not_known() -> v1::TransactionResult {
    v1::TransactionResult {
        outcome: v1::Outcome::NotDecided.into(),
        heuristic: v1::Heuristic::None.into(),
        ..Default::default()
    }
}

/// Ends a command whose result was printed with the exit code of that.
pub(crate) fn end(printed: Result<(), Error>, code: ExitCode) -> Result<ExitCode, Error> {
    match printed {
        // The exit code tells the outcome also if the output is not read.
        Ok(()) | Err(Error::ReaderGone) => Ok(code),
        Err(error) => Err(error),
    }
}

/// Tells whether the outcome is known, and the end that was to be waited for has not come.
fn lacks_its_end(result: &v1::TransactionResult, wait: Wait) -> bool {
    let decided = matches!(result.outcome(), v1::Outcome::Committed | v1::Outcome::Aborted);
    decided && wait == Wait::Ended && !result.ended
}

/// Tells whether the transaction was only to be accepted, and is: an answer that is not about a stored one has no `tx_id`.
fn is_accepted(result: &v1::TransactionResult, wait: Wait) -> bool {
    let undecided = matches!(result.outcome(), v1::Outcome::NotDecided | v1::Outcome::Unspecified);
    undecided && wait == Wait::Accepted && !result.tx_id.is_empty()
}

/// Makes the exit code of a result. One against which a branch has ended is neither a success nor a failure, and one
/// that lacks its end may become such a one.
pub(crate) fn exit_code(result: &v1::TransactionResult, wait: Wait) -> ExitCode {
    match result.outcome() {
        v1::Outcome::Committed | v1::Outcome::Aborted if words::deviates(result.heuristic) => {
            ExitCode::from(DEVIATES)
        }
        _ if lacks_its_end(result, wait) => ExitCode::from(5),
        _ if is_accepted(result, wait) => ExitCode::SUCCESS,
        v1::Outcome::Committed => ExitCode::SUCCESS,
        v1::Outcome::Aborted => ExitCode::from(4),
        v1::Outcome::NotDecided | v1::Outcome::Unspecified => ExitCode::from(5),
    }
}

/// Makes the text where no coordinator was reached. Nothing is told to follow: there may be no such transaction.
pub(crate) fn unreached(gid: &str) -> String {
    format!(
        "{CAUTION}not known{CAUTION:#}: no coordinator was reached\ngid    {gid}\n\n{HINT}hint:{HINT:#} run the same \
         command again: it is the same transaction\n"
    )
}

/// Makes the text about a result.
pub(crate) fn shown(gid: &str, result: &v1::TransactionResult, wait: Wait) -> String {
    told(gid, result, wait, false)
}

/// Makes the text about a result. Of a transaction that is forgotten nobody has to look at anything any more.
pub(super) fn told(
    gid: &str,
    result: &v1::TransactionResult,
    wait: Wait,
    is_forgotten: bool,
) -> String {
    let cause =
        words::why_aborted(result.abort_cause(), &result.abort_branch_id, &result.abort_detail);
    let more = if lacks_its_end(result, wait) { ", and not every branch has ended" } else { "" };
    let outcome = match result.outcome() {
        v1::Outcome::Committed => format!("{GOOD}committed{GOOD:#}{more}"),
        v1::Outcome::Aborted => {
            format!("{CAUTION}aborted{CAUTION:#}: {}{more}", wrapped(9, &clean(&cause)))
        }
        _ if is_accepted(result, wait) => format!("{GOOD}accepted{GOOD:#}, and not decided yet"),
        v1::Outcome::NotDecided | v1::Outcome::Unspecified => {
            format!("{CAUTION}not decided yet{CAUTION:#}")
        }
    };
    let mut text = format!("{outcome}\ngid    {gid}\ntx_id  {}\n", known(&result.tx_id));
    if words::deviates(result.heuristic) {
        let heuristic = words::heuristic(result.heuristic());
        let more = if is_forgotten { "" } else { ": an operator has to look at it" };
        text += &format!("{BAD}heuristic: {heuristic}{BAD:#}{more}\n");
    }
    if !result.branches.is_empty() {
        text += "\n";
        text += &table(["BRANCH", "VOTE", "OUTPUT", "WHY"], result.branches.iter().map(row));
    }
    if is_accepted(result, wait) {
        // Nothing is missing of what was asked for: there is nothing to repeat.
        text += &format!("\n{HINT}hint:{HINT:#} `unanimo tx watch {gid}` follows it\n");
    } else if result.outcome() == v1::Outcome::NotDecided || lacks_its_end(result, wait) {
        text += &format!(
            "\n{HINT}hint:{HINT:#} run the same command again: it is the same transaction\n      \
             `unanimo tx watch {gid}` follows it\n"
        );
    }
    text
}

fn known(tx_id: &str) -> &str {
    if tx_id.is_empty() { "not known yet" } else { tx_id }
}

fn row(branch: &v1::BranchResult) -> [String; 4] {
    let why = match &branch.refusal {
        Some(refusal) => format!("{}: {}", refusal.reason, refusal.message),
        None => branch.last_error.clone(),
    };
    let size = words::size(branch.output.as_ref(), branch.output_dropped);
    [branch.branch_id.clone(), words::vote(branch.vote()).unwrap_or_default(), size, why]
}
