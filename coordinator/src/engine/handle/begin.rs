//! Requests that begin a transaction, and the quotas of their initiators.

use std::sync::Arc;

use tokio::time::Instant;
use unanimo_core::{Definition, Violation};

use super::super::quotas::{Counts, Holding};
use super::super::{Answer, Error, Until};
use super::Handle;

impl Handle {
    /// Begins a transaction, or finds the one that the same request began before.
    ///
    /// # Errors
    /// The definition breaks rules, or new work is refused; a gid that is known is answered before
    /// any of that is looked at.
    pub async fn begin(
        &self,
        definition: Definition,
        until: Until,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let permit = match self.placed(&definition) {
            Ok(permit) => permit,
            refused => return self.begin_admitted(definition, refused, until, deadline).await,
        };
        let held = match self.hold(&definition) {
            // It keeps its place while it waits: what is in memory is bounded by the places.
            Err(uncounted @ Error::NotCounted(_)) => {
                // A request that came before is answered meanwhile.
                let again = definition.clone();
                match self.begin_admitted(again, Err(uncounted), until, deadline).await {
                    Err(Error::NotCounted(_)) => {}
                    known => return known,
                }
                self.counted(deadline).await;
                self.check_draining().and_then(|()| self.hold(&definition))
            }
            held => held,
        };
        let admitted = held.map(|holding| permit.holding(holding));
        self.begin_admitted(definition, admitted, until, deadline).await
    }

    /// Finds the transaction that the same request began before, and begins none.
    ///
    /// # Errors
    /// The gid is not known, or names another request's transaction.
    pub async fn find_begun(
        &self,
        definition: Definition,
        until: Until,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let not_known = Err(Error::UnknownGid);
        self.begin_admitted(definition, not_known, until, deadline).await
    }

    /// Counts of what each identity has open.
    pub(in crate::engine) fn quotas(&self) -> &Arc<Counts> {
        self.shared.admission.opened()
    }

    /// Counts a new transaction for its initiator, or says why that one may not have it.
    pub(super) fn hold(&self, definition: &Definition) -> Result<Holding, Error> {
        let (initiator, bytes) = (&definition.initiator, definition.held_bytes());
        if let Some((max, quota)) = self.quotas().bytes_max(initiator)
            && bytes > max
        {
            // It would never be let in.
            let rule = format!(
                "must hold at most {max} bytes with their transaction ({quota}), hold {bytes}"
            );
            return Err(Error::Invalid(vec![Violation::new("branches", rule)]));
        }
        self.quotas().admit(initiator, bytes).inspect_err(|error| {
            if let Error::OverQuota(over) = error {
                self.shared.metrics.refused(over.label());
            }
        })
    }
}
