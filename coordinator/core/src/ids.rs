//! Names and numbers, each a type of its own, so that none can stand in for another.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Most bytes of a `gid` or a `branch_id`. Fixed: it is part of the wire contract, and names of
/// prepared transactions at participants are built from identifiers of known length.
pub const ID_BYTES_MAX: usize = 128;
/// Most bytes of the name of a participant or an action. Fixed, as [`ID_BYTES_MAX`] is: with it the
/// name of a prepared transaction stays below PostgreSQL's 200 bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Most bytes of a namespace.
pub const NAMESPACE_BYTES_MAX: usize = 32;

/// Character between a namespace and a name in it. It is in the alphabet of no identifier, so nobody can write a name that
/// is taken for one of a namespace.
pub const NAMESPACE_END: char = '/';

/// A text that is not an identifier, and the rule that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// Too long.
    #[error("must be at most {max} bytes, has {found}")]
    TooLong {
        /// The bound, in bytes.
        max: usize,
        /// The text's length, in bytes.
        found: usize,
    },
    /// A byte outside the alphabet.
    #[error("must consist of A-Z a-z 0-9 _ . : - only, has {found:?} at byte {at}")]
    Alphabet {
        /// The character.
        found: char,
        /// Where it begins, from 0.
        at: usize,
    },
    /// It begins with a byte with which none begins: `-` would be read as a flag by programs, and `.`
    /// and `:` as a path or an address.
    #[error("must begin with a letter, a digit or _, begins with {0:?}")]
    Start(char),
    /// Not a UUID in its canonical form.
    #[error("must be a UUID as the coordinator gave it (36 characters, lower case, hyphens)")]
    NotAUuid,
}

/// Checks length and alphabet.
///
/// # Errors
/// The rule that the text breaks.
pub fn check_alphabet(text: &str, max: usize) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::Empty);
    }
    if text.len() > max {
        return Err(Error::TooLong { max, found: text.len() });
    }
    let outside = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '-'));
    match text.char_indices().find(|(_, c)| outside(c)) {
        Some((at, found)) => Err(Error::Alphabet { found, at }),
        None => Ok(()),
    }
}

/// Checks the beginning of a full gid, which may be a namespace and `/` alone.
///
/// # Errors
/// The rule that it breaks.
pub fn check_prefix(text: &str) -> Result<(), Error> {
    match parted(text) {
        (Some(namespace), "") => Namespace::new(namespace).map(drop),
        _ => Gid::full(text).map(drop),
    }
}

/// Checks length, alphabet and first character: the rule for names and ids.
///
/// # Errors
/// The rule that the text breaks.
pub fn check_name(text: &str, max: usize) -> Result<(), Error> {
    check_alphabet(text, max)?;
    match text.chars().next() {
        Some(first) if first.is_ascii_alphanumeric() || first == '_' => Ok(()),
        first => first.map_or(Err(Error::Empty), |first| Err(Error::Start(first))),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        text_id!(@common $(#[$doc])* $name, $max);

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                Self::new(&text)
            }
        }
    };
    // One that may be in a namespace.
    (in a namespace: $(#[$doc:meta])* $name:ident, $max:expr) => {
        text_id!(@common $(#[$doc])* $name, $max);

        impl $name {
            /// Takes the full name of something that is there: `NAMESPACE/NAME`, or NAME alone for what is in no
            /// namespace.
            ///
            /// # Errors
            /// A part breaks the rule for its length or alphabet.
            pub fn full(text: &str) -> Result<Self, Error> {
                let (namespace, local) = parted(text);
                if let Some(namespace) = namespace {
                    Namespace::new(namespace)?;
                }
                check_alphabet(local, $max)?;
                Ok(Self(text.into()))
            }

            /// Returns the same name in a namespace, or in none.
            #[must_use]
            pub fn within(self, namespace: Option<&Namespace>) -> Self {
                match namespace {
                    None if self.local().len() == self.0.len() => self,
                    None => Self(self.local().into()),
                    Some(namespace) => {
                        Self(format!("{namespace}{NAMESPACE_END}{}", self.local()).into())
                    }
                }
            }

            /// Returns its namespace, if it is in one.
            #[must_use]
            pub fn namespace(&self) -> Option<Namespace> {
                parted(&self.0).0.map(|namespace| Namespace(namespace.into()))
            }

            /// Returns the name as those know it who are in its namespace.
            #[must_use]
            pub fn local(&self) -> &str {
                parted(&self.0).1
            }

            /// Tells whether the other name is in the same namespace, or both are in none.
            #[must_use]
            pub fn is_beside(&self, other: &Gid) -> bool {
                parted(&self.0).0 == parted(&other.0).0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                let (namespace, local) = parted(&text);
                if let Some(namespace) = namespace {
                    Namespace::new(namespace)?;
                }
                check_name(local, $max)?;
                Ok(Self(text.into()))
            }
        }
    };
    (@common $(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks length, alphabet and first character.
            ///
            /// # Errors
            /// The rule that the text breaks.
            pub fn new(text: &str) -> Result<Self, Error> {
                check_name(text, $max)?;
                Ok(Self(text.into()))
            }

            /// Takes the name of something that is there: the rule for the first character is newer
            /// than what may be stored.
            ///
            /// # Errors
            /// The text breaks the rule for length or alphabet.
            pub fn known(text: &str) -> Result<Self, Error> {
                check_alphabet(text, $max)?;
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// Parts the full name of something into its namespace and the name in it.
fn parted(text: &str) -> (Option<&str>, &str) {
    match text.split_once(NAMESPACE_END) {
        Some((namespace, local)) => (Some(namespace), local),
        None => (None, text),
    }
}

text_id!(
    /// Name of a namespace: it keeps the names of a tenant apart from those of others.
    Namespace,
    NAMESPACE_BYTES_MAX
);
text_id!(
    in a namespace:
    /// The client's own name for a transaction: its idempotency key.
    Gid,
    ID_BYTES_MAX
);
text_id!(
    /// The initiator's name for a branch, unique within its transaction.
    BranchId,
    ID_BYTES_MAX
);
text_id!(
    in a namespace:
    /// A participant's name. Never an address.
    ParticipantName,
    NAME_BYTES_MAX
);
text_id!(
    /// Name of an action that a participant offers.
    ActionName,
    NAME_BYTES_MAX
);

text_id!(
    /// Name of an input of a step, as its participant knows it.
    InputName,
    NAME_BYTES_MAX
);

text_id!(
    in a namespace:
    /// Name of a lock.
    LockName,
    ID_BYTES_MAX
);

text_id!(
    /// Name of a feature that one side of a call demands of the other.
    FeatureName,
    NAME_BYTES_MAX
);

/// The coordinator's name for a transaction; keys everything at participants. A UUID of version 7:
/// it carries the time at which it was made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TxId(pub Uuid);

impl TxId {
    /// Reads the canonical form.
    ///
    /// # Errors
    /// [`Error::NotAUuid`] for anything else, other spellings of a UUID included.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let uuid = Uuid::try_parse(text).map_err(|_| Error::NotAUuid)?;
        let mut canonical = Uuid::encode_buffer();
        if uuid.hyphenated().encode_lower(&mut canonical) == text {
            Ok(Self(uuid))
        } else {
            Err(Error::NotAUuid)
        }
    }

    /// The time that the identifier carries, in milliseconds since 1970; zero if it carries none.
    #[must_use]
    pub fn created_ms(self) -> u64 {
        match self.0.get_version_num() {
            // RFC 9562: the first 48 bits.
            7 => u64::try_from(self.0.as_u128() >> 80).unwrap_or(0),
            _ => 0,
        }
    }
}

impl TryFrom<String> for TxId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}

impl From<TxId> for String {
    fn from(id: TxId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A branch's place in the order of enlisting, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BranchNumber(u16);

impl BranchNumber {
    /// The number of the branch at `index`, counted from 0.
    #[must_use]
    pub fn from_index(index: usize) -> Self {
        Self(u16::try_from(index + 1).expect("branches are limited far below u16::MAX"))
    }

    /// The number as stored; `None` for 0, which no branch has.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// The branch's place, counted from 0.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0) - 1
    }

    /// The number, from 1.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

/// One life of a coordinator process: the unit of ownership. Later lives have larger numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(pub i64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of changes of a transaction's durable form. Every transition has the next one; a write
/// that folds several has the last one's.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Version(pub i64);

impl Version {
    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests;
