//! Why a command did not do what it was asked to, and the exit code that tells it.

use std::io::{self, Write};
use std::process::ExitCode;

use unanimo_coordinator::coordinator::{Ended, StartError};
use unanimo_coordinator::store::in_full;
use unanimo_coordinator::{config, coordinator};

use super::output::{BAD, HINT};
use super::{demo, participant, tx};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// There is no configuration to start with.
    #[error("failed to {}", in_full(.0))]
    Config(config::Error),
    /// The process cannot run at all.
    #[error("failed to {doing}: {source}")]
    System { doing: &'static str, source: io::Error },
    /// The coordinator did not start.
    #[error("failed to start: {}", in_full(.0))]
    Start(StartError),
    /// The coordinator ended by itself.
    #[error("{0}")]
    Ended(Ended),
    /// A transaction's file cannot be understood.
    #[error("failed to {0}")]
    Definition(tx::definition::Error),
    /// The coordinator could not be asked, or refused.
    #[error("{0}")]
    Client(tx::client::Error),
    /// A participant could not be checked.
    #[error("failed to {0}")]
    Check(participant::check::Error),
    /// The demo did not show what it was to show.
    #[error("failed to {0}")]
    Demo(demo::Failure),
    /// Whoever read the output has gone, as `head` does.
    #[error("the reader of the output has gone")]
    ReaderGone,
    /// It was logged: saying it twice would not make it clearer.
    #[error("{0}")]
    Logged(Box<Error>),
}

impl Error {
    /// The exit code; [`super::EXIT_CODES`] documents it.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::ReaderGone => ExitCode::SUCCESS,
            Self::Config(_) | Self::Definition(_) => ExitCode::from(2),
            Self::Check(error) if error.is_usage() => ExitCode::from(2),
            Self::Ended(coordinator::Ended::Fenced(_)) => ExitCode::from(3),
            Self::Logged(error) => error.exit_code(),
            Self::System { .. }
            | Self::Start(_)
            | Self::Ended(_)
            | Self::Client(_)
            | Self::Check(_)
            | Self::Demo(_) => ExitCode::FAILURE,
        }
    }

    /// Tells a person, on standard error.
    pub(super) fn print(&self) {
        let hint = match self {
            Self::ReaderGone | Self::Logged(_) => return,
            Self::Client(error) => error.hint(),
            Self::Check(error) => error.hint(),
            _ => None,
        };
        let mut stderr = anstream::stderr().lock();
        // There is no other place to tell it.
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

impl From<participant::check::Error> for Error {
    fn from(error: participant::check::Error) -> Self {
        Self::Check(error)
    }
}

/// What an error of the transport comes down to: the ones above only say that there was one.
pub(super) fn last_cause(error: &tonic::transport::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.last().map_or_else(|| error.to_string(), ToString::to_string)
}
