//! Errors of commands, and the exit code of each.

use std::io::{self, Write};
use std::process::ExitCode;

use unanimo_coordinator::coordinator::{Ended, StartError};
use unanimo_coordinator::store::in_full;
use unanimo_coordinator::{config, coordinator};

use super::output::{BAD, HINT};
use super::{audit, certs, demo, participant, replay, saga, tx};

/// Failure of a command.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The configuration cannot be read or breaks rules.
    #[error("failed to {}", in_full(.0))]
    Config(config::Error),
    /// The operating system refused something that the process needs.
    #[error("failed to {doing}: {source}")]
    System { doing: &'static str, source: io::Error },
    /// The coordinator did not start.
    #[error("failed to start: {}", not_started(.0))]
    Start(StartError),
    /// The port of the pages cannot be had.
    #[error("failed to listen on --port {port} for the pages: {source}")]
    Pages { port: u16, source: io::Error },
    /// The coordinator ended by itself.
    #[error("{0}")]
    Ended(Ended),
    /// A transaction's file cannot be read or breaks the schema.
    #[error("failed to {0}")]
    Definition(tx::definition::Error),
    /// A saga's definition or its inputs break rules.
    #[error("failed to {0}")]
    Saga(saga::Error),
    /// A recorded history cannot be read or breaks a rule.
    #[error("failed to {0}")]
    History(replay::Error),
    /// The coordinator cannot be reached, or answered with an error.
    #[error("{0}")]
    Client(tx::client::Error),
    /// The participant cannot be checked.
    #[error("failed to {0}")]
    Check(participant::check::Error),
    /// An identity is none that the coordinator can use.
    #[error("failed to {0}")]
    Identities(String),
    /// The audit is not as it was written, or cannot be read.
    #[error("{0}")]
    Audit(audit::Error),
    /// Certificates cannot be made.
    #[error("failed to {0}")]
    Certs(certs::Error),
    /// The demo failed.
    #[error("failed to {}", in_full(.0))]
    Demo(demo::Failure),
    /// The reader of standard output has closed it, as `head` does.
    #[error("the reader of standard output has closed it")]
    ReaderGone,
    /// The error was logged already and is not printed again.
    #[error("{0}")]
    Logged(Box<Error>),
}

impl Error {
    /// Returns the exit code.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    /// Returns the number of the exit code; [`super::EXIT_CODES`] documents it.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::ReaderGone => 0,
            Self::Config(_)
            | Self::Definition(_)
            | Self::Saga(_)
            | Self::Identities(_)
            // A file that a setting names.
            | Self::Start(StartError::Tls(_)) => 2,
            Self::History(error) if error.is_usage() => 2,
            Self::Client(error) if error.is_usage() => 2,
            Self::Check(error) if error.is_usage() => 2,
            Self::Ended(coordinator::Ended::Fenced(_) | coordinator::Ended::Elsewhere(_)) => 3,
            Self::Audit(error) if error.is_tampered() => 7,
            Self::Logged(error) => error.code(),
            Self::System { .. }
            | Self::Pages { .. }
            | Self::Start(_)
            | Self::Ended(_)
            | Self::History(_)
            | Self::Client(_)
            | Self::Check(_)
            | Self::Audit(_)
            | Self::Certs(_)
            | Self::Demo(_) => 1,
        }
    }

    /// Prints the error on standard error, with a hint if there is one.
    pub(super) fn print(&self) {
        let hint = match self {
            Self::ReaderGone | Self::Logged(_) => return,
            Self::Client(error) => error.hint(),
            Self::Check(error) => error.hint(),
            _ => None,
        };
        let mut stderr = anstream::stderr().lock();
        // A failure to write to standard error cannot be reported anywhere.
        let _ = writeln!(stderr, "{BAD}error:{BAD:#} {self}");
        if let Some(hint) = hint {
            let _ = writeln!(stderr, "{HINT}hint:{HINT:#} {hint}");
        }
    }
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Self::Config(error)
    }
}

impl From<audit::Error> for Error {
    fn from(error: audit::Error) -> Self {
        Self::Audit(error)
    }
}

impl From<certs::Error> for Error {
    fn from(error: certs::Error) -> Self {
        Self::Certs(error)
    }
}

impl From<tx::client::Error> for Error {
    fn from(error: tx::client::Error) -> Self {
        Self::Client(error)
    }
}

impl From<tx::definition::Error> for Error {
    fn from(error: tx::definition::Error) -> Self {
        Self::Definition(error)
    }
}

impl From<saga::Error> for Error {
    fn from(error: saga::Error) -> Self {
        Self::Saga(error)
    }
}

impl From<replay::Error> for Error {
    fn from(error: replay::Error) -> Self {
        Self::History(error)
    }
}

impl From<participant::check::Error> for Error {
    fn from(error: participant::check::Error) -> Self {
        Self::Check(error)
    }
}

/// Tells why a coordinator did not start. For a port that is taken the settings are named by which it gets another one.
fn not_started(error: &StartError) -> String {
    match error {
        StartError::Listen { setting, address, source }
            if source.kind() == io::ErrorKind::AddrInUse =>
        {
            let flags = match *setting {
                "listen" | "admin-listen" => {
                    "--listen and --admin-listen (then --database-url, too)".to_owned()
                }
                other => format!("--{other}"),
            };
            format!(
                "`{setting}` {address}: another process has this port, perhaps another coordinator; name another one \
                 with {flags}"
            )
        }
        error => in_full(error),
    }
}

/// Returns the innermost cause of an error of the transport. The errors around it add nothing, such
/// as "transport error" and "tcp connect error".
pub(super) fn last_cause(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.last().map_or_else(|| error.to_string(), ToString::to_string)
}
