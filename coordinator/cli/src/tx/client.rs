//! Connection to a coordinator, and messages for its errors.

mod hints;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::{ErrorDetails, ErrorInfo, FieldViolation, StatusExt};
use unanimo_coordinator::api::error::{DOMAIN, code_name};
use unanimo_proto::PERMANENT_CODES;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::operator_service_client::OperatorServiceClient;
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_tls::TokenFile;

use super::Server;
use crate::error::last_cause;
use crate::output::clean;

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time to wait for an answer, unless `--timeout` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Failure to get an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No coordinator listens there.
    #[error("failed to reach a coordinator at {endpoint}: {why}")]
    Unreachable {
        /// Address of the coordinator.
        endpoint: String,
        /// Innermost cause.
        why: String,
    },
    /// A file of TLS cannot be used.
    #[error("failed to {0}")]
    Tls(String),
    /// The coordinator, or something on the way to it, answered with an error.
    #[error("{}", Words(.status, .endpoint))]
    Refused {
        /// The answer.
        status: Box<Status>,
        /// Address of the coordinator; empty until [`Error::at`] sets it.
        endpoint: String,
    },
    /// The answer is one that no coordinator of this version sends.
    #[error("the coordinator's answer is not valid: {0}")]
    Nonsense(&'static str),
    /// The stream of changes ended before the transaction.
    #[error("the coordinator ended the stream before the transaction had ended")]
    CutOff,
    /// The time given is over.
    #[error("the transaction has not ended within --timeout")]
    NotEnded,
    /// The stream of events ended, which has no end.
    #[error("the coordinator ended the stream of events")]
    EventsEnded,
    /// The time given is over before the first answer.
    #[error("the coordinator has not answered within --timeout")]
    Silent,
    /// The file with an output cannot be read.
    #[error("failed to read the output from {path}: {source}")]
    Output {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// An option names the same twice.
    #[error("{0} is there twice: it can have one value")]
    Twice(String),
    /// An option is missing, or is not for this command.
    #[error("{0}")]
    Lacks(String),
    /// Nobody can be asked whether an act on many transactions shall begin.
    #[error(
        "nothing was done, for there is no terminal to ask at; with --yes the command would {0}"
    )]
    NotAgreed(String),
    /// Nobody registered or configured a participant of this name, and nothing is owed to one.
    #[error("participant {0} is not known: it never registered, and is not configured")]
    NoParticipant(String),
    /// A participant may still hold something of the transaction that is to be forgotten.
    #[error("the transaction is not forgotten: {0}")]
    StillHeld(String),
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Refused { status: Box::new(status), endpoint: String::new() }
    }
}

impl Error {
    /// Adds the coordinator's address.
    pub(crate) fn at(self, server: &str) -> Self {
        match self {
            Self::Refused { status, .. } => Self::Refused { status, endpoint: server.to_owned() },
            error => error,
        }
    }

    /// Tells whether the coordinator found that a field of the request breaks a rule.
    pub(crate) fn is_usage(&self) -> bool {
        let is_own = matches!(
            self,
            Self::Output { .. }
                | Self::Tls(_)
                | Self::Twice(_)
                | Self::Lacks(_)
                | Self::NotAgreed(_)
        );
        is_own
            || matches!(self, Self::Refused { status, .. }
            if status.code() == Code::InvalidArgument && own(&status.get_error_details()).is_some())
    }

    /// Returns a hint for the operator.
    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Unreachable { endpoint, why } => {
                return Some(hints::of_unreachable(endpoint, why));
            }
            Self::Refused { status, .. } => return hints::of_status(status),
            Self::CutOff => "the coordinator may be stopping; run `unanimo tx watch` again",
            Self::NoParticipant(_) => "`unanimo participant list` has all that are known",
            Self::EventsEnded => {
                "the coordinator may be stopping; run the command again with --from and the last revision"
            }
            Self::NotEnded
            | Self::Silent
            | Self::Output { .. }
            | Self::Tls(_)
            | Self::Twice(_)
            | Self::Lacks(_)
            | Self::NotAgreed(_) => return None,
            Self::StillHeld(_) => {
                "look at the data of each such participant, end there by hand what is left (docs/in-doubt.md tells \
                 how for what is prepared, docs/sagas.md for steps), and run the command again with --released"
            }
            Self::Nonsense(_) => "the coordinator may have another version than this program",
        };
        Some(text.to_owned())
    }

    /// Tells whether the request may have taken effect, or may yet: only the coordinator itself can exclude
    /// it. What a proxy answers may come after the coordinator has done what was asked.
    pub(super) fn is_indeterminate(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                let details = status.get_error_details();
                let effect = own(&details).and_then(|info| info.metadata.get("effect"));
                effect.is_none_or(|effect| effect != "none")
            }
            Self::Nonsense(_) => true,
            _ => false,
        }
    }

    /// Tells whether the same request may be answered otherwise when it is sent again.
    pub(super) fn is_retryable(&self) -> bool {
        let Self::Refused { status, .. } = self else { return false };
        match own(&status.get_error_details()) {
            Some(info) => info.metadata.get("retryable").is_some_and(|value| value == "true"),
            None => !PERMANENT_CODES.contains(&status.code()),
        }
    }

    /// Tells whether the request was refused for its own transaction's sake, so that others may do better.
    pub(super) fn is_of_one(&self) -> bool {
        let Self::Refused { status, .. } = self else { return false };
        let details = status.get_error_details();
        let Some(info) = own(&details) else { return false };
        let fields = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
        info.reason == "TRANSACTION_UNREADABLE"
            // A branch whose output another one reads is resolved with it, one by one.
            || fields.iter().any(|bad| bad.field == "output")
            || matches!(status.code(), Code::NotFound | Code::FailedPrecondition | Code::Aborted)
    }

    /// Tells whether the coordinator itself has answered, and may answer otherwise in a moment.
    pub(super) fn is_passing(&self) -> bool {
        let Self::Refused { status, .. } = self else { return false };
        own(&status.get_error_details()).is_some() && self.is_retryable()
    }

    /// Tells whether too much is in flight, or the caller has called too often.
    pub(super) fn is_too_much(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.code() == Code::ResourceExhausted)
    }

    /// Returns the time after which to come back, where the answer has it.
    pub(super) fn delay(&self) -> Option<Duration> {
        let Self::Refused { status, .. } = self else { return None };
        status.get_error_details().retry_info().and_then(|info| info.retry_delay)
    }

    /// Tells whether the gid names another request's transaction.
    pub(super) fn is_gid_reused(&self) -> bool {
        let Self::Refused { status, .. } = self else { return false };
        own(&status.get_error_details()).is_some_and(|info| info.reason == "GID_REUSED")
    }

    /// Adds the name by which the transaction was asked for.
    pub(super) fn about(self, name: &str) -> Self {
        match self {
            Self::Refused { mut status, endpoint } if status.code() == Code::NotFound => {
                let details = status.get_error_details();
                let message = format!("{name}: {}", status.message());
                *status = Status::with_error_details(status.code(), message, details);
                Self::Refused { status, endpoint }
            }
            error => error,
        }
    }

    /// Names the fields of branches as a saga's file does, by the steps of these names, in their order.
    pub(crate) fn of_steps(self, steps: &[String]) -> Self {
        let Self::Refused { mut status, endpoint } = self else { return self };
        let named = |field: &str| {
            let mut each = steps.iter().enumerate();
            let of_step = each.find_map(|(index, step)| {
                let rest = field.strip_prefix(&format!("branches[{index}]"))?;
                Some(format!("steps.{step}{rest}"))
            });
            of_step.unwrap_or_else(|| field.to_owned())
        };
        let mut details = status.get_error_details();
        let Some(bad) = details.bad_request().cloned() else {
            return Self::Refused { status, endpoint };
        };
        let is_list = in_one_line(&bad.field_violations) == status.message();
        let fields = bad.field_violations.into_iter();
        let fields = fields.map(|bad| FieldViolation::new(named(&bad.field), bad.description));
        let fields: Vec<_> = fields.collect();
        let message = if is_list { in_one_line(&fields) } else { status.message().to_owned() };
        details.set_bad_request(fields);
        *status = Status::with_error_details(status.code(), message, details);
        Self::Refused { status, endpoint }
    }

    /// Tells whether the coordinator answered that there is no such transaction.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. }
            if status.code() == Code::NotFound && own(&status.get_error_details()).is_some())
    }
}

/// Returns the reason of an error that a coordinator sent. Errors of the connection have none, and those of a
/// proxy none of this domain.
fn own(details: &ErrorDetails) -> Option<&ErrorInfo> {
    details.error_info().filter(|info| info.domain == DOMAIN)
}

/// Returns the innermost cause of an answer that is no coordinator's.
fn cause(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => last_cause(source),
        None => status.message().to_owned(),
    }
}

/// Returns fields and rules as the coordinator's message has them.
fn in_one_line(fields: &[FieldViolation]) -> String {
    let told = fields.iter().map(|bad| format!("{} {}", bad.field, bad.description));
    told.collect::<Vec<_>>().join("; ")
}

/// An answer as text: message, reason, bad fields and metadata, a line each. The second field is
/// the coordinator's address.
struct Words<'a>(&'a Status, &'a str);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(status, endpoint) = self;
        let details = status.get_error_details();
        let code = code_name(status.code());
        let Some(info) = own(&details) else {
            let why = clean(&cause(status));
            return write!(f, "failed to get an answer from {endpoint}: {why} ({code})");
        };
        let bad = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
        // A message that is its fields and no more is told once: as it is for one, and as a list for several.
        let is_list = !bad.is_empty() && in_one_line(bad) == status.message();
        match is_list && bad.len() > 1 {
            true => write!(f, "{} fields break rules", bad.len())?,
            false => write!(f, "{}", clean(status.message()))?,
        }
        write!(f, "\n  reason: {} ({code})", clean(&info.reason))?;
        if !is_list || bad.len() > 1 {
            for field in bad {
                write!(f, "\n  {}: {}", clean(&field.field), clean(&field.description))?;
            }
        }
        let more = info.metadata.iter().filter(|(key, _)| *key != "retryable");
        let more: BTreeMap<_, _> = more.collect();
        for (key, value) in more {
            write!(f, "\n  {}: {}", clean(key), clean(value))?;
        }
        Ok(())
    }
}

/// Adds the token to each call, if there is one.
#[derive(Clone)]
pub(crate) struct Signing(Option<TokenFile>);

impl Interceptor for Signing {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            token.sign(&mut request);
        }
        Ok(request)
    }
}

/// Service that calls are sent through.
type Link = InterceptedService<Channel, Signing>;

/// Connection to a coordinator.
pub(crate) struct Client {
    pub(crate) coordinator: CoordinatorServiceClient<Link>,
    pub(crate) operator: OperatorServiceClient<Link>,
    pub(crate) directory: ParticipantDirectoryServiceClient<Link>,
    timeout: Duration,
}

impl Client {
    pub(crate) async fn connect(server: &Server) -> Result<Self, Error> {
        let bounded =
            |endpoint: Endpoint| endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let token = server.tls.token(&server.endpoint)?;
        let channel = server.tls.connect(&server.endpoint, bounded).await?;
        let channel = InterceptedService::new(channel, Signing(token));
        Ok(Self {
            // The coordinator limits the size of messages; the client need not.
            coordinator: CoordinatorServiceClient::new(channel.clone())
                .max_decoding_message_size(usize::MAX)
                .max_encoding_message_size(usize::MAX),
            operator: OperatorServiceClient::new(channel.clone())
                .max_decoding_message_size(usize::MAX),
            directory: ParticipantDirectoryServiceClient::new(channel)
                .max_decoding_message_size(usize::MAX),
            timeout: server.timeout.map_or(TIMEOUT, |timeout| timeout.0),
        })
    }

    /// Makes a request with the time limit of `--timeout`.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        Self::request_within(message, self.timeout)
    }

    /// Makes a request with this time limit.
    pub(crate) fn request_within<T>(message: T, timeout: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        request
    }
}
