//! The caller of one request.

use std::sync::Arc;

use unanimo_core::ParticipantName;

use super::{Identities, Identity, Role};

/// Reason for which nobody knows who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// It shows neither a token nor a certificate.
    Nothing,
    /// Its token is none, or was revoked.
    Token,
    /// No name in its certificate is an identity's.
    Certificate,
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
        authorization: Option<&[u8]>,
        certificate: Option<&[String]>,
    ) -> Result<Self, Unknown> {
        let found = match (authorization, certificate) {
            (Some(header), _) => bearer(header).and_then(|token| identities.of_token(token)),
            (None, Some(names)) => {
                return match identities.of_certificate(names) {
                    Some(identity) => Ok(Self::Known(Arc::clone(identity))),
                    None => Err(Unknown::Certificate),
                };
            }
            (None, None) => return Err(Unknown::Nothing),
        };
        found.map(|identity| Self::Known(Arc::clone(identity))).ok_or(Unknown::Token)
    }

    /// Tells whether it has one of these roles.
    pub(crate) fn has_any(&self, roles: &[Role]) -> bool {
        match self {
            Self::Anybody => true,
            Self::Known(identity) => roles.iter().any(|role| identity.has(*role)),
        }
    }

    /// Returns its name, which is stored with what it begins; empty for anybody.
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
            Self::Known(identity) => identity.has(Role::Initiator) && identity.name == initiator,
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

/// Returns the token of the header `authorization`. The scheme is written in any case (RFC 9110).
fn bearer(header: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(header).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
