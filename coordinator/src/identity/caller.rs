//! The caller of one request.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use unanimo_core::{Namespace, ParticipantName, Timestamp};
use unanimo_tls::bearer;

use super::jwt::Bad;
use super::{Identities, Identity, Issuer, Role};

/// Reason for which nobody knows who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// It shows neither a token nor a certificate.
    Nothing,
    /// Its token is none, or was revoked.
    Token,
    /// Its token of the issuer is not accepted.
    Issued(Bad),
    /// Its token of the issuer is good, and nobody's, or of several.
    Nobody,
    /// No name in its certificate is an identity's, or they are several ones'.
    Certificate,
}

impl Unknown {
    /// Tells whether the same call may be known a moment later.
    pub(crate) fn is_passing(self) -> bool {
        matches!(self, Self::Issued(bad) if bad.is_passing())
    }
}

/// Returns the header with a token. One that comes twice is none that anybody knows: which of them counts, a proxy on the way may
/// have seen otherwise.
pub(crate) fn authorization(headers: &HeaderMap) -> Option<&[u8]> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let first = all.next()?;
    match all.next() {
        Some(_) => Some(&[]),
        None => Some(first.as_bytes()),
    }
}

/// The caller of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Anybody, who may do everything: there are no identities.
    Anybody,
    /// One that is known.
    Known(Arc<Identity>),
}

impl Caller {
    /// Finds out who calls. A token counts before the certificate, and a bad one is not passed over.
    pub(crate) fn find(
        identities: &Identities,
        (issuer, now): (Option<&Issuer>, Timestamp),
        authorization: Option<&[u8]>,
        certificate: Option<&[String]>,
    ) -> Result<Self, Unknown> {
        let found = match (authorization, certificate) {
            (Some(header), _) => {
                let token = bearer(header).ok_or(Unknown::Token)?;
                // One of ours has no dot.
                match issuer.filter(|_| token.contains('.')) {
                    None => identities.of_token(token).ok_or(Unknown::Token),
                    Some(issuer) => {
                        let values = issuer.verify(token, now).map_err(Unknown::Issued)?;
                        identities.of_claim(&values).ok_or(Unknown::Nobody)
                    }
                }
            }
            (None, Some(names)) => identities.of_certificate(names).ok_or(Unknown::Certificate),
            (None, None) => Err(Unknown::Nothing),
        };
        found.map(|identity| Self::Known(Arc::clone(identity)))
    }

    /// Tells whether it has one of these roles.
    pub(crate) fn has_any(&self, roles: &[Role]) -> bool {
        match self {
            Self::Anybody => true,
            Self::Known(identity) => roles.iter().any(|role| identity.has(*role)),
        }
    }

    /// Returns the names of its roles; empty for anybody.
    pub(crate) fn roles(&self) -> String {
        match self {
            Self::Anybody => String::new(),
            Self::Known(identity) => {
                identity.roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(",")
            }
        }
    }

    /// Returns the namespace outside of which there is nothing for it.
    pub(crate) fn namespace(&self) -> Option<&Namespace> {
        match self {
            Self::Anybody => None,
            Self::Known(identity) => identity.namespace.as_ref(),
        }
    }

    /// Returns its name with its namespace, which is stored with what it begins; empty for anybody.
    pub(crate) fn full_name(&self) -> String {
        match self {
            Self::Anybody => String::new(),
            Self::Known(identity) => identity.full_name(),
        }
    }

    /// Returns its name; empty for anybody.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Anybody => "",
            Self::Known(identity) => &identity.name,
        }
    }

    /// Tells whether it began the transaction of this initiator.
    pub(crate) fn began(&self, initiator: &str) -> bool {
        match self {
            Self::Anybody => true,
            Self::Known(identity) => identity.has(Role::Initiator) && identity.is_named(initiator),
        }
    }

    /// Tells whether it speaks for this participant.
    pub(crate) fn is(&self, participant: &ParticipantName) -> bool {
        match self {
            Self::Anybody => true,
            Self::Known(identity) => {
                identity.has(Role::Participant) && identity.participants.contains(participant)
            }
        }
    }
}
