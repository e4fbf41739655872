//! Identities of callers: who they are, and what they may do.
//!
//! They are in a file, which is read again when it changes. A caller proves its identity by the certificate of its
//! connection, or by a token of which the file has the hash.

mod caller;
mod denials;
mod file;
mod token;

use std::collections::HashMap;
use std::sync::Arc;

use unanimo_core::ParticipantName;

pub(crate) use self::caller::{Caller, Unknown};
pub(crate) use self::denials::Denials;
pub(crate) use self::file::read;
pub use self::token::Token;

/// Tells whether the coordinator can use a file of identities with this text.
///
/// # Errors
/// It is malformed, or an entry breaks a rule. The message repeats no value of the file.
pub fn check(path: &std::path::Path, text: &str) -> Result<(), unanimo_tls::Error> {
    read(&unanimo_tls::File::new("identities", path), text.as_bytes()).map(drop)
}

/// Role of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Begins transactions, and asks for what it began.
    Initiator,
    /// Holds branches, and speaks for its own names.
    Participant,
    /// Acts on any transaction.
    Operator,
    /// Looks at any transaction.
    Viewer,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Initiator, Self::Participant, Self::Operator, Self::Viewer];

    /// Returns its name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Initiator => "initiator",
            Self::Participant => "participant",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }
}

/// One who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Its name: in log lines, and with the transactions that it begins.
    pub(crate) name: String,
    roles: Vec<Role>,
    /// Names of participants that it speaks for.
    participants: Vec<ParticipantName>,
}

impl Identity {
    fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// All identities that are known.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    /// By a name in a certificate.
    subjects: HashMap<String, Arc<Identity>>,
    /// By the public part of a token, with the hash of all of it.
    tokens: HashMap<String, (token::Hash, Arc<Identity>)>,
}

impl Identities {
    /// Returns the one that this token is of.
    fn of_token(&self, text: &str) -> Option<&Arc<Identity>> {
        let (hash, identity) = self.tokens.get(token::id_of(text)?)?;
        hash.is_of(text).then_some(identity)
    }

    /// Returns the one with a name of this certificate.
    fn of_certificate(&self, names: &[String]) -> Option<&Arc<Identity>> {
        names.iter().find_map(|name| self.subjects.get(name))
    }
}
