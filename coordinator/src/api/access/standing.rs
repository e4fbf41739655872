//! The caller of a stream, which is looked at again while it is open.

use std::sync::Arc;

use tonic::Status;
use unanimo_core::Namespace;

use super::{find, refused, sees_all};
use crate::api::error::no_role_any_more;
use crate::api::namespace::is_inside;
use crate::api::rpc::Rpc;
use crate::env::Env;
use crate::identity::{Caller, Known};

/// Transactions of all that a caller sees.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Sight {
    /// Only those that this one began.
    pub(in crate::api) initiator: Option<String>,
    /// Only those of this namespace.
    pub(in crate::api) namespace: Option<Namespace>,
}

impl Sight {
    pub(super) fn of(caller: &Caller, rpc: Rpc) -> Self {
        let initiator = (!sees_all(caller, rpc)).then(|| caller.full_name());
        Self { initiator, namespace: caller.namespace().cloned() }
    }

    /// Tells whether it has the transaction with this full gid, of an initiator with this full name.
    pub(in crate::api) fn has(&self, gid: &str, initiator: &str) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| is_inside(namespace, gid))
            && self.initiator.as_ref().is_none_or(|own| own == initiator)
    }
}

/// Caller of a stream: whether it may still read is looked at again, for a token that was revoked or has expired and a role
/// that was taken away end it.
pub(in crate::api) struct Standing {
    pub(super) known: Known,
    pub(super) env: Arc<dyn Env>,
    pub(super) rpc: Rpc,
    pub(super) header: Option<Vec<u8>>,
    pub(super) names: Option<Vec<String>>,
}

impl Standing {
    /// Returns what may be seen.
    ///
    /// # Errors
    /// The same as those of a call that begins now.
    pub(in crate::api) fn look(&self) -> Result<Sight, Status> {
        let found =
            find(&self.known, self.env.now(), self.header.as_deref(), self.names.as_deref());
        let caller = found.map_err(refused)?;
        if !caller.has_any(self.rpc.roles()) {
            self.known.denials.note(caller.name(), self.rpc.name(), "its role was taken away");
            return Err(no_role_any_more(&caller, self.rpc));
        }
        Ok(Sight::of(&caller, self.rpc))
    }
}
