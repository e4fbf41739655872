//! Identities of callers: who they are, and what they may do.
//!
//! They are in a file, which is read again when it changes. A caller proves its identity by the certificate of its
//! connection, by a token of which the file has the hash, or by one that an issuer has signed.

mod caller;
mod denials;
mod file;
mod jwt;
mod quotas;
mod shares;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use unanimo_core::ids::NAMESPACE_END;
use unanimo_core::{Namespace, ParticipantName};
pub use unanimo_tls::Token;
pub(crate) use unanimo_tls::network_of;
use unanimo_tls::{Reload, TokenHashes};

pub(crate) use self::caller::{Caller, Unknown, authorization};
pub(crate) use self::denials::Denials;
pub(crate) use self::file::read;
pub(crate) use self::jwt::{
    Issuer, Options as IssuerOptions, Source as KeySource, Web as KeysOnWeb,
};
pub use self::quotas::Quota;
pub(crate) use self::quotas::Quotas;
pub(crate) use self::shares::{Bounds as ShareBounds, Place, Shares, TooMany};

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
    /// Its name: in log lines. No other one has it, whatever its namespace.
    pub(crate) name: String,
    /// The namespace outside of which there is nothing for it.
    pub(crate) namespace: Option<Namespace>,
    roles: Vec<Role>,
    /// Full names of participants that it speaks for.
    participants: Vec<ParticipantName>,
}

impl Identity {
    /// Returns its name with its namespace. It is stored with what it begins, so that one that comes into another namespace
    /// has left its transactions behind.
    pub(crate) fn full_name(&self) -> String {
        match &self.namespace {
            None => self.name.clone(),
            Some(namespace) => format!("{namespace}{NAMESPACE_END}{}", self.name),
        }
    }

    /// Tells whether this is its full name.
    fn is_named(&self, full_name: &str) -> bool {
        let local = match &self.namespace {
            None => Some(full_name),
            Some(namespace) => full_name
                .strip_prefix(namespace.as_str())
                .and_then(|rest| rest.strip_prefix(NAMESPACE_END)),
        };
        local == Some(&*self.name)
    }

    fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// Knowledge of callers.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Those who may call; anybody may if there are none.
    pub(crate) identities: Option<Arc<Reload<Identities>>>,
    /// The issuer of tokens that are no own ones.
    pub(crate) issuer: Option<Issuer>,
    /// Calls that each identity may make.
    pub(crate) shares: Arc<Shares>,
    /// Calls that the identities of each namespace may make together.
    pub(crate) namespaces: Arc<Shares>,
    /// Calls that callers without an identity may make from each address.
    pub(crate) addresses: Arc<Shares>,
    pub(crate) denials: Arc<Denials>,
}

/// All identities that are known.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    /// By a name in a certificate.
    subjects: HashMap<String, Arc<Identity>>,
    /// By a value of the claim that says who calls.
    claims: HashMap<String, Arc<Identity>>,
    /// By a token.
    tokens: TokenHashes<Arc<Identity>>,
    /// The quotas of those that have their own, by name.
    quotas: BTreeMap<String, quotas::Own>,
    /// Each by its name, in words that tell no token.
    told: BTreeMap<String, Told>,
    /// Namespaces of those that have one, by name.
    namespaces: BTreeMap<String, Namespace>,
}

/// One of several named things, for whoever compares them with what they were before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Words that may be said of it.
    pub(crate) shown: String,
    /// Hash of all of it, by which a change is found.
    pub(crate) hash: Vec<u8>,
}

/// Identity that is of another namespace than it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) name: String,
    pub(crate) from: Option<Namespace>,
    pub(crate) to: Option<Namespace>,
}

impl Moved {
    /// Warns of it: a slip in the file hands transactions of one tenant to nobody, and names of another one to it.
    pub(crate) fn warn(&self) {
        let word = |namespace: &Option<Namespace>| {
            namespace.as_ref().map_or_else(|| "none".to_owned(), Namespace::to_string)
        };
        tracing::warn!(
            identity = self.name,
            from = word(&self.from),
            to = word(&self.to),
            "an identity is of another namespace now: what it began before is not there for it any more, and goes on"
        );
    }
}

/// Named things that may change while the coordinator runs.
pub(crate) type AllTold = BTreeMap<String, Told>;

impl Told {
    /// Describes one that has these parts.
    pub(crate) fn new(shown: String, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        Self { shown, hash: hash.finalize().to_vec() }
    }
}

impl Identities {
    /// Describes them.
    pub(crate) fn told(&self) -> AllTold {
        self.told.clone()
    }

    /// Tells whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Returns those that are there as well, and are of another namespace now, with the former one. What such a one has
    /// begun is not there for it any more, and a name of a role elsewhere may be meant.
    pub(crate) fn moved(&self, now: &Self) -> Vec<Moved> {
        let known = self.told.keys().filter(|name| now.told.contains_key(*name));
        let moved = known.map(|name| Moved {
            name: name.clone(),
            from: self.namespaces.get(name).cloned(),
            to: now.namespaces.get(name).cloned(),
        });
        moved.filter(|moved| moved.from != moved.to).collect()
    }

    /// Returns the one that this token is of.
    fn of_token(&self, text: &str) -> Option<&Arc<Identity>> {
        self.tokens.find(text)
    }

    /// Returns the one with one of these values of a claim; `None` if it is several.
    fn of_claim(&self, values: &[String]) -> Option<&Arc<Identity>> {
        only(values.iter().filter_map(|value| self.claims.get(value)))
    }

    /// Returns the one with a name of this certificate; `None` if it is several.
    fn of_certificate(&self, names: &[String]) -> Option<&Arc<Identity>> {
        only(names.iter().filter_map(|name| self.subjects.get(name)))
    }
}

/// Returns the only one of these; `None` if they are several. Which of them is meant would depend on their order.
fn only<'a>(mut found: impl Iterator<Item = &'a Arc<Identity>>) -> Option<&'a Arc<Identity>> {
    let first = found.next()?;
    found.all(|other| Arc::ptr_eq(first, other)).then_some(first)
}
