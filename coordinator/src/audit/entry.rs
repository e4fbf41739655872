//! An entry of the audit, and its bytes.
//!
//! The bytes are netstrings (`LENGTH:TEXT,`), one for each field in the order of [`Entry`], behind the number of this
//! format. So one entry has one form, and another language can make it.

/// Number of the format.
const FORMAT: &str = "1";

/// Most bytes of a text that is none of a request's: those have bounds of their own.
const TEXT_BYTES_MAX: usize = 2_000;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal;)*) => {
        /// Kind of an entry.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $($(#[doc = $doc])+ $kind,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Returns its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Returns the one of this name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$kind),)* _ => None }
            }
        }
    };
}

kinds! {
    /// An operator's act, before it is carried out.
    Asked = "asked";
    /// The outcome of an act; `of` is the number of the entry before it.
    Answered = "answered";
    /// Calls that were denied; `count` of them, of which the first is described.
    Denied = "denied";
    /// Settings and files of identities, keys or tokens are used from now on; or the database has lost entries.
    Changed = "changed";
    /// Entries whose retention was over are gone; `of` is the number of the last one, and `reason` its hash.
    Purged = "purged";
}

/// An entry of the audit. A text that does not apply is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its kind.
    pub kind: Kind,
    /// Name of the identity that called.
    pub identity: String,
    /// Its roles, with commas between them.
    pub roles: String,
    /// Name that the caller gave.
    pub operator: String,
    /// Address from which the call came.
    pub address: String,
    /// The rpc; of a change the setting.
    pub act: String,
    /// The transaction.
    pub tx_id: String,
    /// Its gid.
    pub gid: String,
    /// The branch.
    pub branch_id: String,
    /// Note of the operator, reason of the denial, or the change.
    pub reason: String,
    /// Outcome: a status, and its reason.
    pub outcome: String,
    /// Number of the entry that it belongs to.
    pub of: u64,
    /// Number of calls.
    pub count: u64,
}

impl Entry {
    /// Makes an entry of this kind in which nothing is said.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let none = String::new;
        Self {
            kind,
            identity: none(),
            roles: none(),
            operator: none(),
            address: none(),
            act: none(),
            tx_id: none(),
            gid: none(),
            branch_id: none(),
            reason: none(),
            outcome: none(),
            of: 0,
            count: 0,
        }
    }

    /// Returns its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (of, count) = (self.of.to_string(), self.count.to_string());
        let fields = [
            FORMAT,
            self.kind.name(),
            &self.identity,
            &self.roles,
            &self.operator,
            &self.address,
            &self.act,
            &self.tx_id,
            &self.gid,
            &self.branch_id,
            &self.reason,
            &self.outcome,
            &of,
            &count,
        ];
        fields.iter().flat_map(|field| netstring(field)).collect()
    }

    /// Reads its bytes; `None` if they are none that [`Self::encode`] makes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut next = || {
            let (text, behind) = first(rest)?;
            rest = behind;
            Some(text)
        };
        if next()? != FORMAT {
            return None;
        }
        let entry = Self {
            kind: Kind::named(&next()?)?,
            identity: next()?,
            roles: next()?,
            operator: next()?,
            address: next()?,
            act: next()?,
            tx_id: next()?,
            gid: next()?,
            branch_id: next()?,
            reason: next()?,
            outcome: next()?,
            of: next()?.parse().ok()?,
            count: next()?.parse().ok()?,
        };
        // Neither more bytes nor another spelling of a number.
        (entry.encode() == bytes).then_some(entry)
    }
}

/// Returns a text as a netstring.
pub(super) fn netstring(text: &str) -> Vec<u8> {
    format!("{}:{text},", text.len()).into_bytes()
}

/// Returns the text of the first netstring, and what is behind it.
fn first(bytes: &[u8]) -> Option<(String, &[u8])> {
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    let length: usize = std::str::from_utf8(&bytes[..colon]).ok()?.parse().ok()?;
    let rest = &bytes[colon + 1..];
    let text = std::str::from_utf8(rest.get(..length)?).ok()?.to_owned();
    let rest = rest.get(length..)?.strip_prefix(b",")?;
    Some((text, rest))
}

/// Cuts a text.
pub(super) fn bounded(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_one_form() {
        let mut entry = Entry::new(Kind::Denied);
        entry.identity = "ann".to_owned();
        entry.reason = "a,1:b,\u{1b}[2J\nä".to_owned();
        (entry.of, entry.count) = (7, 1_000);
        let bytes = entry.encode();
        assert!(bytes.starts_with(b"1:1,6:denied,3:ann,0:,"), "{bytes:?}");
        assert_eq!(Entry::decode(&bytes), Some(entry));
        for bad in ["", "1:1,", "1:2,6:denied,"] {
            assert_eq!(Entry::decode(bad.as_bytes()), None, "{bad}");
        }
        let longer = [&bytes[..], b"0:,"].concat();
        assert_eq!(Entry::decode(&longer), None, "one field more");
        assert_eq!(Entry::decode(&bytes[..bytes.len() - 1]), None, "a byte less");
        let text = String::from_utf8(bytes).expect("text");
        assert_eq!(
            Entry::decode(text.replace("1:7,", "2:07,").as_bytes()),
            None,
            "another spelling"
        );
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(*kind));
        }
    }
}
