//! Permission for new work: where a participant fails, one request at a time may try it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;
use unanimo_core::ParticipantName;

use super::{CallKind, Directory, Entry, Error};
use crate::participants::breaker::Invited;

/// Permission for new work to try the participants that fail; empty where none does. With the last copy it is
/// given back to other work, unless it was used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Invitation(Vec<Arc<Turn>>);

/// Turn of new work at one breaker.
#[derive(Debug)]
struct Turn {
    entry: Arc<Entry>,
    kind: CallKind,
    invited: Invited,
    used: AtomicBool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.used.load(Ordering::Relaxed) {
            self.entry.breaker(self.kind).give_back(self.invited);
        }
    }
}

impl Invitation {
    /// The work has begun, and tries its participants.
    pub(crate) fn used(&self) {
        self.0.iter().for_each(|turn| turn.used.store(true, Ordering::Relaxed));
    }

    /// Adds another one for the same work.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

impl Directory {
    /// Checks that new work may name these participants. To be asked once for each request, with all of them.
    ///
    /// # Errors
    /// It may not: the first that takes no new work.
    pub(crate) fn invite<'a>(
        &self,
        names: impl IntoIterator<Item = &'a ParticipantName>,
    ) -> Result<Invitation, Error> {
        let now = Instant::now();
        let mut invitation = Invitation::default();
        for name in names {
            let entry = self.living(name, now)?;
            // Both at once: of two that ask at the same time one is let in.
            let mut breakers = CallKind::ALL.map(|kind| (kind, entry.breaker(kind)));
            let refuses = breakers.iter().find(|(kind, breaker)| {
                breaker.refuses(now, entry.waiting(*kind), entry.good_waits(*kind))
            });
            if let Some((_, breaker)) = refuses {
                let error = breaker.last_error().to_owned();
                return Err(Error::Failing { name: name.clone(), error });
            }
            for (kind, breaker) in &mut breakers {
                if let Some(invited) = breaker.invite(now) {
                    let (entry, used) = (Arc::clone(&entry), AtomicBool::new(false));
                    invitation.0.push(Arc::new(Turn { entry, kind: *kind, invited, used }));
                }
            }
        }
        Ok(invitation)
    }
}
