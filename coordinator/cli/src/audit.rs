//! `unanimo audit`: what operators did, what was denied, and who may call since when.

mod export;
mod line;
mod list;
mod pages;
mod verify;

use std::process::ExitCode;

use unanimo_coordinator::audit::Broken;

use super::error::Error as CommandError;
use super::tx::Server;

/// Description of the output of `--json`, for `--help`.
const JSON_HELP: &str = "\
JSON (--json), and each entry of `audit export`: an object with number, at
  (RFC 3339 in UTC, in milliseconds), kind (asked, answered, denied, changed,
  purged), identity, roles (a list), operator, address, act, tx_id, gid,
  branch_id, reason, outcome, of, count, hash (of 64 hexadecimal digits). A
  text that does not apply is empty, a number is 0. docs/security.md says what
  each is, and what the hash is of. `audit verify`: an object with entries
  (their number), last (NUMBER:HASH), purged (the last entry that is gone:
  purged (NUMBER:HASH), entry (the number of the one that says so), at; or
  null), and purged_since_noted (a list of such objects).";

/// Failure to check the audit, or to write it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The chain is not as it was written.
    #[error("the audit is not as it was written: {0}")]
    Broken(Broken),
    /// The entry that was noted is gone.
    #[error("it cannot be told whether the audit is as it was written: {0}")]
    Noted(Broken),
    /// An entry has no content.
    #[error(
        "the audit is not as it was written: entry {0} cannot be read, or a later version wrote it"
    )]
    Unreadable(u64),
    /// An entry has another form than an export gives it.
    #[error(
        "the audit is not as it was written: no export has entry {0} in this form (its time, roles or hash)"
    )]
    Form(u64),
    /// The first line of a file is none of an export.
    #[error("{name}, line 1: {why}")]
    NoExport {
        /// The file.
        name: String,
        /// Fault of it.
        why: String,
    },
    /// A line of a file is none of an export.
    #[error("{name}, line {line}: {why}")]
    Line {
        /// The file.
        name: String,
        /// Number of the line.
        line: usize,
        /// Fault of it.
        why: String,
    },
    /// The file cannot be read or written.
    #[error("failed to use {name}: {source}")]
    File {
        /// The file.
        name: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The caller's identity is told a part of it.
    #[error(
        "the coordinator tells an identity of a namespace the entries of that alone (unanimo audit list), and not the whole \
         chain: export and verify the audit as one without a namespace"
    )]
    PartOnly,
    /// Entries were purged while the audit was read.
    #[error("entries were purged while the audit was read: run the command again")]
    Purged,
}

impl Error {
    /// Tells whether the audit, or a file of it, is not as it was written. Otherwise nobody knows.
    pub(super) fn is_tampered(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Unreadable(_) | Self::Form(_) | Self::Line { .. })
    }
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::NotedPurged { .. } => Self::Noted(broken),
            broken => Self::Broken(broken),
        }
    }
}

/// List, export and check the audit: acts of operators, denied calls, and changes of who may call
#[derive(Debug, clap::Args)]
#[command(after_long_help = JSON_HELP)]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::Args),
    Export(export::Args),
    Verify(verify::Args),
}

pub(super) fn run(args: Args) -> Result<ExitCode, CommandError> {
    let Args { server, command } = args;
    match command {
        Command::List(args) => server.block_on(list::run(&server, &args)),
        Command::Export(args) => server.block_on(export::run(&server, &args)),
        Command::Verify(args) => verify::run(&server, &args),
    }
}
