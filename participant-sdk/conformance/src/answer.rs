//! Answers of a participant, and their words.

use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use unanimo_proto::v1::{
    CancelResponse, CommitResponse, Done, HeuristicKind, HeuristicOutcome, Payload,
    PrepareResponse, Refusal, Working, cancel_response, commit_response, prepare_response,
};

/// Most characters of an output that are shown.
const SHOWN_MAX: usize = 60;

/// A vote.
#[derive(Clone, Debug, PartialEq)]
pub enum Vote {
    /// Yes, with the output and its media type.
    Prepared(Payload),
    /// No.
    Refused(Refusal),
    /// Yes, and nothing was written.
    ReadOnly,
}

/// An answer to Commit or Cancel that ends the branch.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// As told.
    Done,
    /// Otherwise, or unknown.
    Heuristic(HeuristicOutcome),
}

/// A reply: an answer, or a word that there is none yet.
pub(super) enum Reply<A> {
    Answer(A),
    Working(Duration),
    /// None of the answers that the contract has.
    Nothing,
}

impl<A: fmt::Display> Reply<A> {
    /// Returns it in words.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Answer(answer) => answer.to_string(),
            Self::Working(_) => "WORKING".to_owned(),
            Self::Nothing => "a reply without an answer".to_owned(),
        }
    }
}

impl Vote {
    /// Tells whether it is a yes that a Commit or a Cancel is owed to.
    #[must_use]
    pub fn is_prepared(&self) -> bool {
        matches!(self, Self::Prepared(_))
    }
}

impl End {
    /// Returns its end by itself, if it ended so.
    #[must_use]
    pub fn heuristic(&self) -> Option<HeuristicKind> {
        match self {
            Self::Done => None,
            Self::Heuristic(outcome) => Some(match outcome.kind() {
                HeuristicKind::Unspecified => HeuristicKind::Hazard,
                kind => kind,
            }),
        }
    }

    /// Tells whether a branch that was told to commit is committed.
    pub(super) fn is_commit(&self) -> bool {
        matches!(self.heuristic(), None | Some(HeuristicKind::Commit))
    }
}

pub(super) fn vote(response: PrepareResponse) -> Reply<Vote> {
    use prepare_response::Answer;
    match response.answer {
        Some(Answer::Prepared(prepared)) => {
            Reply::Answer(Vote::Prepared(prepared.output.unwrap_or_default()))
        }
        Some(Answer::Refused(refusal)) => Reply::Answer(Vote::Refused(refusal)),
        Some(Answer::ReadOnly(_)) => Reply::Answer(Vote::ReadOnly),
        Some(Answer::Working(working)) => Reply::Working(pause(working)),
        None => Reply::Nothing,
    }
}

pub(super) fn committed(response: CommitResponse) -> Reply<End> {
    use commit_response::Answer;
    match response.answer {
        Some(Answer::Done(Done {})) => Reply::Answer(End::Done),
        Some(Answer::Heuristic(outcome)) => Reply::Answer(End::Heuristic(outcome)),
        Some(Answer::Working(working)) => Reply::Working(pause(working)),
        None => Reply::Nothing,
    }
}

pub(super) fn cancelled(response: CancelResponse) -> Reply<End> {
    use cancel_response::Answer;
    match response.answer {
        Some(Answer::Done(Done {})) => Reply::Answer(End::Done),
        Some(Answer::Heuristic(outcome)) => Reply::Answer(End::Heuristic(outcome)),
        Some(Answer::Working(working)) => Reply::Working(pause(working)),
        None => Reply::Nothing,
    }
}

/// A pause that is no duration is left to the caller.
fn pause(working: Working) -> Duration {
    working.retry_after.and_then(|pause| Duration::try_from(pause).ok()).unwrap_or_default()
}

/// A status in words.
pub(super) fn status(status: &Status) -> String {
    let code = code_name(status.code());
    match status.message() {
        "" => code.to_owned(),
        message => format!("{code}: {message}"),
    }
}

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepared(output) if *output == Payload::default() => f.write_str("PREPARED"),
            Self::Prepared(output) => write!(f, "PREPARED with output {}", shown(output)),
            Self::Refused(Refusal { reason, message }) => {
                write!(f, "REFUSED ({reason}: {message})")
            }
            Self::ReadOnly => f.write_str("READ_ONLY"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.heuristic() {
            None => return f.write_str("done"),
            Some(HeuristicKind::Commit) => "HEURISTIC_COMMIT",
            Some(HeuristicKind::Rollback) => "HEURISTIC_ROLLBACK",
            Some(HeuristicKind::Hazard | HeuristicKind::Unspecified) => "HEURISTIC_HAZARD",
        };
        match self {
            Self::Heuristic(outcome) if !outcome.note.is_empty() => {
                write!(f, "{kind} ({})", outcome.note)
            }
            _ => f.write_str(kind),
        }
    }
}

/// Name of a code, as the gRPC documents write it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Bytes as text, if they are short text, and their media type.
fn shown(Payload { data, media_type }: &Payload) -> String {
    let media_type = if media_type.is_empty() { "no media type" } else { media_type };
    match std::str::from_utf8(data) {
        Ok(text) if text.chars().count() <= SHOWN_MAX => format!("`{text}` ({media_type})"),
        _ => format!("of {} bytes ({media_type})", data.len()),
    }
}

/// Tells whether a status says that another kind of server listens: one that has no such service, or that
/// does not speak gRPC. Asking again does not help.
pub(crate) fn is_no_participant(status: &Status) -> bool {
    let transport = std::error::Error::source(status).is_some();
    match status.code() {
        Code::Unimplemented => true,
        Code::Unknown | Code::Internal => transport,
        _ => false,
    }
}
