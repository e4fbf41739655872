//! Failures of drivers.

use std::fmt;
use std::time::Duration;

use crate::causes;
use crate::handler::BoxError;

/// An error that the server answered a statement with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// SQLSTATE: five characters.
    pub code: String,
    /// Primary text.
    pub message: String,
    /// Second text, with more about it.
    pub detail: Option<String>,
    /// Function of the server's source that raised it (field `R`). Texts are translated, and this is not.
    pub routine: Option<String>,
    /// Its severity is not ERROR but FATAL or PANIC: the server ends the session with it. Whether the
    /// statement had an effect is then not known.
    pub is_fatal: bool,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// Failure of a driver.
#[derive(Debug)]
pub struct Error {
    answer: Option<Box<ServerError>>,
    kind: Kind,
    source: BoxError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Any,
    Refused,
    Unfit,
    /// For this long.
    Silent(Duration),
}

impl Error {
    /// The server has answered this statement with an error. The source is the driver's own error.
    pub fn server(answer: ServerError, source: impl Into<BoxError>) -> Self {
        Self { answer: Some(Box::new(answer)), kind: Kind::Any, source: source.into() }
    }

    /// Anything else: the connection was lost, time is up, an answer cannot be read. What was asked for may
    /// have been done or not.
    pub fn other(source: impl Into<BoxError>) -> Self {
        Self { answer: None, kind: Kind::Any, source: source.into() }
    }

    /// The connections cannot be used as they are, and a person has to mend that.
    pub fn unfit(text: impl Into<String>) -> Self {
        Self { answer: None, kind: Kind::Unfit, source: text.into().into() }
    }

    /// The participant itself does not take the session.
    pub(crate) fn refused(source: impl Into<BoxError>) -> Self {
        Self { answer: None, kind: Kind::Refused, source: source.into() }
    }

    /// The server did not answer in this time: as [`Self::other`], and a set-up is tried again.
    #[must_use]
    pub fn silent(waited: Duration) -> Self {
        let source = "the server did not answer in time".into();
        Self { answer: None, kind: Kind::Silent(waited), source }
    }

    /// Returns the server's answer, if this is one.
    #[must_use]
    pub fn answer(&self) -> Option<&ServerError> {
        self.answer.as_deref()
    }

    pub(crate) fn is_unfit(&self) -> bool {
        self.kind == Kind::Unfit
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent_for().is_some()
    }

    /// Returns the time in which the server has not answered, if that is what failed.
    pub(crate) fn silent_for(&self) -> Option<Duration> {
        match self.kind {
            Kind::Silent(waited) => Some(waited),
            Kind::Any | Kind::Refused | Kind::Unfit => None,
        }
    }

    /// Returns an error of sqlx, or of the participant itself, as sqlx has it.
    pub(crate) fn into_sqlx(self) -> Result<sqlx::Error, Self> {
        match self.source.downcast() {
            Ok(error) => Ok(*error),
            Err(source) if self.kind == Kind::Refused => Ok(sqlx::Error::Configuration(source)),
            Err(source) => Err(Self { source, ..self }),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.answer {
            Some(answer) => answer.fmt(f),
            None => f.write_str(&causes::in_full(&*self.source)),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}
