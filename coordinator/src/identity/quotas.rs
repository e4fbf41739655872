//! Quotas of identities and namespaces: how much each may have open.

use std::sync::Arc;

use unanimo_tls::Reload;

use super::Identities;

/// The most that one identity, or one namespace, may have open at once. Zero is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Transactions.
    pub transactions: usize,
    /// Bytes of their payloads, outputs, metadata and texts.
    pub bytes: usize,
}

impl Quota {
    /// Tells whether it bounds anything.
    pub(crate) fn is_any(self) -> bool {
        self != Self::default()
    }
}

/// Quota of an entry in the file: what is not said there is as for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) transactions: Option<usize>,
    pub(super) bytes: Option<usize>,
}

impl Own {
    pub(super) fn is_any(self) -> bool {
        self != Self::default()
    }

    fn over(self, all: Quota) -> Quota {
        Quota {
            transactions: self.transactions.unwrap_or(all.transactions),
            bytes: self.bytes.unwrap_or(all.bytes),
        }
    }

    /// Describes it for whoever compares it with what it was before; empty where there is none.
    pub(super) fn shown(self) -> String {
        let told = [("open-transactions", self.transactions), ("open-bytes", self.bytes)];
        let told = told.iter().filter_map(|(name, bound)| Some((name, (*bound)?)));
        told.map(|(name, bound)| format!(", {name}: {bound}")).collect()
    }
}

/// The quotas of all identities and namespaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quotas {
    /// That of those that have none of their own, and of callers without an identity.
    of_all: Quota,
    /// That of each namespace.
    of_namespace: Quota,
    identities: Option<Arc<Reload<Identities>>>,
}

impl Quotas {
    pub(crate) fn new(of_all: Quota, identities: Option<Arc<Reload<Identities>>>) -> Self {
        Self { of_all, of_namespace: Quota::default(), identities }
    }

    /// Bounds each namespace as well: all that its identities have open together.
    pub(crate) fn with_namespaces(self, of_namespace: Quota) -> Self {
        Self { of_namespace, ..self }
    }

    /// Returns the quota of a namespace.
    pub(crate) fn of_namespace(&self) -> Quota {
        self.of_namespace
    }

    /// Returns the quota of the identity of this name.
    pub(crate) fn of(&self, name: &str) -> Quota {
        let identities = self.identities.as_ref().map(|identities| identities.current());
        let own = identities.and_then(|known| known.quotas.get(name).copied());
        own.unwrap_or_default().over(self.of_all)
    }

    /// Tells whether any identity or namespace has a bound.
    pub(crate) fn is_any(&self) -> bool {
        let has_own = |identities: &Arc<Reload<Identities>>| {
            identities.current().quotas.values().any(|own| own.over(self.of_all).is_any())
        };
        let of_all = self.of_all.is_any() || self.of_namespace.is_any();
        of_all || self.identities.as_ref().is_some_and(has_own)
    }
}
