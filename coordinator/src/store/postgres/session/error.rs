//! Faults of a session.

/// Reason for which a session cannot be had, or used any more.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The driver or the server gave up.
    #[error("{0}")]
    Driver(#[from] sqlx::Error),
    /// The server takes no writes.
    #[error(
        "the server at {server} {why}: the coordinator works on the server that takes writes alone"
    )]
    NotWritable {
        /// Host and port.
        server: String,
        /// Reason, as a phrase that follows "the server".
        why: &'static str,
    },
    /// The settings are not those that were set.
    #[error(
        "the session with {server} has other settings than the coordinator relies on: {found}; if \
         there is a pooler in between, it must give each client a session of its own"
    )]
    Settings {
        /// Host and port.
        server: String,
        /// Settings that differ.
        found: String,
    },
    /// The server has the tables in another place than the one where they were opened.
    #[error(
        "the database at {server} is not the one that was opened ({known}), but is in another place \
         ({found})"
    )]
    Elsewhere {
        /// Host and port.
        server: String,
        /// The place where the tables were opened.
        known: String,
        /// The place of this server's.
        found: String,
    },
    /// The server lacks what this process has written and was told to be durable.
    #[error("the database at {server} was restored to an earlier time under this process: {found}")]
    Restored {
        /// Host and port.
        server: String,
        /// Finding that tells so.
        found: String,
    },
    /// A standby was promoted since the session was opened.
    #[error("the session is with the server at {server}, and another one was promoted since")]
    Former {
        /// Host and port.
        server: String,
    },
    /// None of several servers can be used.
    #[error("{}", .0.join("; "))]
    NoServer(Vec<String>),
    /// Standbys are waited for, and nobody can tell what they have.
    #[error(
        "synchronous_standby_names is set, and this role cannot see how far the standbys are, so no \
         write could be proven: GRANT pg_read_all_stats TO {role}"
    )]
    Blind {
        /// The role of the session.
        role: String,
    },
    /// The commit returned before the standbys had it.
    #[error(
        "a commit was acknowledged before the synchronous standbys had it, because somebody ended \
         its wait for them: it does not count as durable"
    )]
    Unproven,
    /// No session is given any more.
    #[error("the store is closed")]
    Closed,
}

impl SessionError {
    /// Tells whether the server answered with another state than the one that this process works on: from
    /// another place, or of an earlier time.
    pub(in crate::store) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Elsewhere { .. } | Self::Restored { .. })
    }
}

/// Tells whether a server that takes writes has another database than ours, an earlier state of it, or none.
pub(super) fn is_other(error: &SessionError) -> bool {
    match error {
        SessionError::Elsewhere { .. } | SessionError::Restored { .. } => true,
        SessionError::Driver(sqlx::Error::Database(error)) => {
            error.code().as_deref() == Some("3D000")
        }
        _ => false,
    }
}
