//! An entry as a line of JSON, and an export made of such lines.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use unanimo_coordinator::audit::{Entry, Kind, Link, hex, unhex};
use unanimo_proto::v1;

use super::Error;

/// Version of the form of an export.
pub(super) const FORMAT: u32 = 1;

/// Place of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) hash: String,
}

impl Place {
    pub(super) fn link(&self) -> Option<Link> {
        Some(Link { number: self.number, hash: unhex(&self.hash)? })
    }
}

impl From<&v1::AuditLink> for Place {
    fn from(link: &v1::AuditLink) -> Self {
        Self { number: link.number, hash: hex(&link.hash) }
    }
}

/// First line of an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub(super) unanimo_audit: u32,
    pub(super) cluster_id: String,
    pub(super) purged: Place,
}

/// Last line of an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tail {
    pub(super) last: Place,
}

/// An entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) at: String,
    pub(super) kind: String,
    pub(super) identity: String,
    pub(super) roles: Vec<String>,
    pub(super) operator: String,
    pub(super) address: String,
    pub(super) act: String,
    pub(super) tx_id: String,
    pub(super) gid: String,
    pub(super) branch_id: String,
    pub(super) reason: String,
    pub(super) outcome: String,
    pub(super) of: u64,
    pub(super) count: u64,
    pub(super) hash: String,
}

impl From<v1::AuditEntry> for Line {
    fn from(entry: v1::AuditEntry) -> Self {
        let kind = kind(entry.kind()).map_or("unreadable", Kind::name).to_owned();
        let place = entry.link.as_ref().map(Place::from);
        let Place { number, hash } =
            place.unwrap_or_else(|| Place { number: 0, hash: String::new() });
        Self {
            number,
            at: entry.occurred_at.map(time).unwrap_or_default(),
            kind,
            identity: entry.identity,
            roles: entry.roles,
            operator: entry.operator,
            address: entry.address,
            act: entry.act,
            tx_id: entry.tx_id,
            gid: entry.gid,
            branch_id: entry.branch_id,
            reason: entry.reason,
            outcome: entry.outcome,
            of: entry.of,
            count: entry.count,
            hash,
        }
    }
}

fn kind(kind: v1::AuditKind) -> Option<Kind> {
    match kind {
        v1::AuditKind::Unspecified => None,
        v1::AuditKind::Asked => Some(Kind::Asked),
        v1::AuditKind::Answered => Some(Kind::Answered),
        v1::AuditKind::Denied => Some(Kind::Denied),
        v1::AuditKind::Changed => Some(Kind::Changed),
        v1::AuditKind::Purged => Some(Kind::Purged),
    }
}

fn time(at: prost_types::Timestamp) -> String {
    Timestamp::new(at.seconds, at.nanos).map(shown).unwrap_or_default()
}

/// Returns a time as an export has it; an empty text if it has none for it.
pub(super) fn time_of(at: unanimo_core::Timestamp) -> String {
    let at = i64::try_from(at.0).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    at.map(shown).unwrap_or_default()
}

fn shown(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// Content of a line, as its hash is of it.
pub(super) struct Content {
    pub(super) link: Link,
    pub(super) at: unanimo_core::Timestamp,
    pub(super) body: Vec<u8>,
}

impl Line {
    /// Returns what its hash is of.
    pub(super) fn content(&self) -> Result<Content, Error> {
        let at = self.at.parse::<Timestamp>().ok();
        let at = at.and_then(|at| u64::try_from(at.as_millisecond()).ok());
        let place = Place { number: self.number, hash: self.hash.clone() };
        let (Some(kind), Some(at), Some(link)) = (Kind::named(&self.kind), at, place.link()) else {
            return Err(Error::Unreadable(self.number));
        };
        let entry = Entry {
            kind,
            identity: self.identity.clone(),
            roles: self.roles.join(","),
            operator: self.operator.clone(),
            address: self.address.clone(),
            act: self.act.clone(),
            tx_id: self.tx_id.clone(),
            gid: self.gid.clone(),
            branch_id: self.branch_id.clone(),
            reason: self.reason.clone(),
            outcome: self.outcome.clone(),
            of: self.of,
            count: self.count,
        };
        let at = unanimo_core::Timestamp(at);
        // Its hash is of the content: another form of that would have the same one.
        let roles = entry.roles.split(',').filter(|role| !role.is_empty());
        let is_as_exported = roles.eq(self.roles.iter().map(String::as_str))
            && (&self.at, &self.hash) == (&time_of(at), &hex(&link.hash));
        if !is_as_exported {
            return Err(Error::Form(self.number));
        }
        Ok(Content { link, at, body: entry.encode() })
    }
}
