//! Place of the participant's database: a copy, which has the same id, is elsewhere.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Service;
use crate::action::caught;
use crate::resource::{Fault, Resource};
use crate::wire::Parts;

/// Longest wait for a database that is asked where it is.
const ASKED_WITHIN: Duration = Duration::from_secs(3);

impl<R: Resource> Service<R> {
    /// Asks where the database is, for a registration; empty if nobody can tell. Of a database that does not answer
    /// the last known place goes on to count here. It is not registered: it would be in the way of other processes,
    /// which have found the database elsewhere.
    pub(in crate::participant) async fn look_at_place(&self) -> String {
        // On connections that nobody else waits for.
        let resource = self.inner.resource.for_sweeper();
        let asked = tokio::time::timeout(ASKED_WITHIN, caught(resource.place())).await;
        let place = match asked.unwrap_or(Ok(Err(Fault::Overtime(ASKED_WITHIN)))) {
            Ok(Ok(place)) => place.unwrap_or_default(),
            Ok(Err(fault @ Fault::Definite { .. })) => {
                tracing::debug!(
                    participant = self.participant(), error = %fault,
                    "the database does not tell where it is: a copy of it is not told apart"
                );
                String::new()
            }
            Ok(Err(fault)) => {
                tracing::debug!(participant = self.participant(), error = %fault, "no place is told");
                return String::new();
            }
            // A driver of the service's own is asked: one that panics now may answer the next time.
            Err(broken) => {
                let (participant, error) = (self.participant(), broken.text());
                tracing::error!(
                    participant,
                    error,
                    "the question where the database is has panicked; it is asked again"
                );
                return String::new();
            }
        };
        let mut known = self.inner.place.write().unwrap_or_else(PoisonError::into_inner);
        known.clone_from(&place);
        place
    }

    /// Tells whether the participant's database is elsewhere by the coordinator's word: this process has a copy of it,
    /// or is the first one that has seen it move; or the last one, which finds out now.
    pub(crate) fn other_place(&self, parts: &Parts) -> Option<String> {
        let asked = parts.context.as_ref().map(|context| context.database_place.as_str())?;
        let own = self.inner.place.read().unwrap_or_else(PoisonError::into_inner);
        let differ = !asked.is_empty() && !own.is_empty() && asked != own.as_str();
        if differ && !self.inner.asks_place.swap(true, Ordering::AcqRel) {
            // One that does not register would never ask again.
            let service = self.clone();
            tokio::spawn(async move {
                service.look_at_place().await;
                service.inner.asks_place.store(false, Ordering::Release);
            });
        }
        differ.then(|| {
            format!(
                "this process of participant {} has its database at {own}, and not at {asked} as those that are \
                 registered: it is a copy, or the others have not moved yet",
                self.participant()
            )
        })
    }
}
