//! Mistakes in a participant's making.

use crate::barrier::Unrecorded;
use crate::channel::BadAddress;
use crate::handler::BoxError;
use crate::schema;

/// Mistake in a participant's making.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name breaks the rule.
    #[error(
        "{what} {name:?} must be 1 to 64 bytes of [A-Za-z0-9_.:-], and begin with a letter, a digit or _"
    )]
    Name {
        /// Kind of thing that it names.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// An action is there twice.
    #[error("action {0} must be given once")]
    Twice(String),
    /// The database cannot prepare transactions.
    #[error("two-phase commit needs prepared transactions: {why}")]
    CannotPrepare {
        /// Reason.
        why: String,
    },
    /// The address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Reason.
        #[source]
        source: std::io::Error,
    },
    /// The address at which coordinators are to call is none.
    #[error("endpoint {endpoint:?} must be http://HOST:PORT or https://HOST:PORT: {rule}")]
    Endpoint {
        /// Text that was given.
        endpoint: String,
        /// Rule that it breaks.
        rule: String,
    },
    /// A coordinator refuses the registration.
    #[error("register with the coordinator {coordinator}, which refuses: {reason}")]
    Refused {
        /// Its address.
        coordinator: String,
        /// Its reason.
        reason: String,
    },
    /// The registration has ended.
    #[error("register with the coordinator {coordinator}: the registration has ended")]
    NotRegistered {
        /// Its address.
        coordinator: String,
    },
    /// Nobody can call the address that is listened on.
    #[error("{0} is no address to call: say how others reach this participant with `advertise`")]
    Advertise(std::net::SocketAddr),
    /// The barrier's table cannot be made or upgraded.
    #[error("set up the database")]
    Database(#[source] schema::Error),
    /// The participant's own set-up failed.
    #[error("set up the participant's own tables")]
    SetUp(#[source] BoxError),
    /// No session of the database can be used as operations use it.
    #[error("open a session of the database: {0}")]
    Session(String),
    /// Handlers have lost their local transactions, and the database has not taken the record of that before the end.
    #[error(
        "record that handlers have lost their local transactions: {branches}; a Cancel may be answered as done \
         although what they have left behind stands"
    )]
    Unrecorded {
        /// Some of the branches.
        branches: String,
    },
    /// A file of TLS or of tokens cannot be used, or nobody can be whom [`Participant::accept`](super::Participant::accept) names.
    #[error(transparent)]
    Tls(unanimo_tls::Error),
    /// The coordinator's address is none, or a file of TLS for it cannot be used.
    #[error("coordinator {endpoint:?} must be http://HOST:PORT or https://HOST:PORT: {rule}")]
    Coordinator {
        /// Text that was given.
        endpoint: String,
        /// Rule that it breaks.
        rule: String,
    },
}

/// Branches that an error names. The log has all of them.
const BRANCHES_MAX: usize = 20;

impl Error {
    /// Tells of losses that are not recorded, if there are any; `why` nobody records them any more.
    pub(super) fn unless_recorded(unrecorded: &[Unrecorded], why: &str) -> Result<(), Self> {
        if unrecorded.is_empty() {
            return Ok(());
        }
        unrecorded.iter().for_each(|branch| branch.tell(why));
        let named = unrecorded.iter().take(BRANCHES_MAX).map(ToString::to_string);
        let mut branches = named.collect::<Vec<_>>().join(", ");
        if unrecorded.len() > BRANCHES_MAX {
            branches.push_str(&format!(", and {} more", unrecorded.len() - BRANCHES_MAX));
        }
        Err(Self::Unrecorded { branches })
    }
}

impl From<BadAddress> for Error {
    fn from(BadAddress { endpoint, rule }: BadAddress) -> Self {
        Self::Coordinator { endpoint, rule }
    }
}
