//! The error of a quota that is reached, and whose quota it is.

use std::fmt::{self, Display, Formatter};

use unanimo_core::ids::NAMESPACE_END;

use super::super::Error;

/// Name of the quota of an identity's bytes.
pub(in crate::engine) const OPEN_BYTES: &str = "open-bytes";

/// Name of the quota of a namespace's bytes.
pub(in crate::engine) const OPEN_BYTES_PER_NAMESPACE: &str = "open-bytes-per-namespace";

/// Owner of a quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// An identity, by its full name; empty for callers without one.
    Identity(String),
    /// A namespace.
    Namespace(String),
}

impl Display for Owner {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(identity) => f.write_str(&named(identity)),
            Self::Namespace(namespace) => write!(f, "namespace {namespace}"),
        }
    }
}

impl Owner {
    /// Tells whether the identity with this full name is the owner, or is in the namespace that is.
    pub(crate) fn has(&self, full_name: &str) -> bool {
        match self {
            Self::Identity(identity) => identity == full_name,
            Self::Namespace(namespace) => namespace_of(full_name) == Some(namespace),
        }
    }
}

/// An identity or a namespace would have more open than it may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverQuota {
    /// Transactions.
    #[error("{open} transactions of {of} are open, and the quota is {max}")]
    Transactions {
        /// Whose quota it is.
        of: Owner,
        /// Those that are open.
        open: usize,
        /// The quota.
        max: usize,
    },
    /// Bytes of their payloads, outputs, metadata and texts.
    #[error(
        "open transactions of {of} hold {open} bytes, and with {more} more they would hold more than the quota of {max}"
    )]
    Bytes {
        /// Whose quota it is.
        of: Owner,
        /// Those that are held.
        open: usize,
        /// Those of the request.
        more: usize,
        /// The quota.
        max: usize,
    },
}

impl OverQuota {
    /// Returns whose quota it is.
    pub(crate) fn owner(&self) -> &Owner {
        match self {
            Self::Transactions { of, .. } | Self::Bytes { of, .. } => of,
        }
    }

    /// Returns the name of the quota: of an identity's as the file of identities has it, of a namespace's the setting.
    pub(crate) fn quota(&self) -> &'static str {
        match (self, self.owner()) {
            (Self::Transactions { .. }, Owner::Identity(_)) => "open-transactions",
            (Self::Transactions { .. }, Owner::Namespace(_)) => "open-transactions-per-namespace",
            (Self::Bytes { .. }, Owner::Identity(_)) => OPEN_BYTES,
            (Self::Bytes { .. }, Owner::Namespace(_)) => OPEN_BYTES_PER_NAMESPACE,
        }
    }

    /// Returns what is open, and the quota.
    pub(crate) fn numbers(&self) -> (usize, usize) {
        match *self {
            Self::Transactions { open, max, .. } | Self::Bytes { open, max, .. } => (open, max),
        }
    }

    /// Returns the name of the metric's label.
    pub(in crate::engine) fn label(&self) -> &'static str {
        match (self, self.owner()) {
            (Self::Transactions { .. }, Owner::Identity(_)) => "quota_transactions",
            (Self::Transactions { .. }, Owner::Namespace(_)) => "namespace_transactions",
            (Self::Bytes { .. }, Owner::Identity(_)) => "quota_bytes",
            (Self::Bytes { .. }, Owner::Namespace(_)) => "namespace_bytes",
        }
    }
}

impl From<OverQuota> for Error {
    fn from(over: OverQuota) -> Self {
        Self::OverQuota(Box::new(over))
    }
}

/// Returns words for an identity, by the name that it has in its namespace.
pub(in crate::engine) fn named(identity: &str) -> String {
    match identity.rsplit_once(NAMESPACE_END).map_or(identity, |(_, local)| local) {
        "" => "callers without an identity".to_owned(),
        name => format!("identity {name}"),
    }
}

/// Returns the namespace in an identity's full name.
pub(super) fn namespace_of(identity: &str) -> Option<&str> {
    identity.split_once(NAMESPACE_END).map(|(namespace, _)| namespace)
}
