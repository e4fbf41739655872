//! The connection to a coordinator, and its errors in words.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::{ErrorDetails, StatusExt};
use unanimo_coordinator::api::error::code_name;
use unanimo_coordinator::store::in_full;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::operator_service_client::OperatorServiceClient;

use super::Server;
use crate::error::last_cause;
use crate::output::clean;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take that needs nothing but the coordinator.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody is there.
    #[error("failed to reach a coordinator at {endpoint}: {why}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// Why not.
        why: String,
    },
    /// It answered with an error.
    #[error("{}", in_words(.0))]
    Refused(Box<Status>),
    /// It answered with something that no coordinator of this version answers.
    #[error("the coordinator's answer makes no sense: {0}")]
    Nonsense(&'static str),
    /// It stopped telling before there was an end to tell.
    #[error("the coordinator ended the stream before the transaction had ended")]
    CutOff,
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl Error {
    /// What may help.
    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Unreachable { .. } => {
                "is `unanimo serve` running there? --endpoint URL or UNANIMO_ENDPOINT names another"
            }
            Self::Refused(status) => return hint(status),
            Self::CutOff => "it may be stopping; `unanimo tx watch` again goes on from there",
            Self::Nonsense(_) => "is it of another version?",
        };
        Some(text.to_owned())
    }

    /// Whether the coordinator says that there is no such transaction.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::NotFound)
    }
}

/// Ours have a reason; those of the connection have not.
fn has_reason(details: &ErrorDetails) -> bool {
    details.error_info().is_some()
}

fn hint(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    let retryable = |info: &tonic_types::ErrorInfo| {
        info.metadata.get("retryable").is_some_and(|value| value == "true")
    };
    if details.error_info().is_some_and(retryable) {
        let delay = details.retry_info().and_then(|info| info.retry_delay);
        let when = delay.map_or_else(String::new, |delay| format!(" in {delay:?}"));
        return Some(format!("try again{when}: the same command takes effect only once"));
    }
    match status.code() {
        _ if has_reason(&details) => None,
        Code::Cancelled | Code::DeadlineExceeded => {
            Some("--timeout sets how long to wait; what was asked for may still happen".to_owned())
        }
        Code::Unavailable | Code::Unknown => Some(
            "the connection broke, or the endpoint is no coordinator; what was asked for may or \
             may not have happened"
                .to_owned(),
        ),
        Code::Unimplemented => Some("the endpoint is no coordinator of this version".to_owned()),
        _ => None,
    }
}

/// Message, reason and bad fields, a line each.
fn in_words(status: &Status) -> Words<'_> {
    Words(status)
}

struct Words<'a>(&'a Status);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(status) = self;
        let details = status.get_error_details();
        let code = code_name(status.code());
        let Some(info) = details.error_info() else {
            let source = std::error::Error::source(status).map(in_full);
            let why = source.unwrap_or_else(|| status.message().to_owned());
            return write!(f, "no answer from the coordinator: {} ({code})", clean(&why));
        };
        write!(f, "{}", clean(status.message()))?;
        write!(f, "\n  reason: {} ({code})", clean(&info.reason))?;
        if let Some(bad) = details.bad_request() {
            for field in &bad.field_violations {
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

/// A connection.
pub(super) struct Client {
    pub(super) coordinator: CoordinatorServiceClient<Channel>,
    pub(super) operator: OperatorServiceClient<Channel>,
    timeout: Duration,
}

impl Client {
    pub(super) async fn connect(server: &Server) -> Result<Self, Error> {
        let unreachable = |error: tonic::transport::Error| Error::Unreachable {
            endpoint: server.endpoint.clone(),
            why: last_cause(&error),
        };
        let endpoint = Endpoint::from_shared(server.endpoint.clone()).map_err(unreachable)?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let channel = endpoint.connect().await.map_err(unreachable)?;
        Ok(Self {
            // Whatever the server lets through is fine.
            coordinator: CoordinatorServiceClient::new(channel.clone())
                .max_decoding_message_size(usize::MAX)
                .max_encoding_message_size(usize::MAX),
            operator: OperatorServiceClient::new(channel).max_decoding_message_size(usize::MAX),
            timeout: server.timeout.map_or(TIMEOUT, |timeout| timeout.0),
        })
    }

    /// A request that is to be answered in time.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        Self::request_within(message, self.timeout)
    }

    /// The same with a time of its own.
    pub(super) fn request_within<T>(message: T, timeout: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        request
    }
}
