//! Admission: bounds on what may be in flight (promise L5), and the share of it that one participant may
//! have (promise L3).
//!
//! New work is counted before it is begun. What is begun is never refused: votes, Commit, Rollback,
//! phase two and adoption only add to the count. A transaction that waits for nothing but calls that fail, or
//! that have moved nothing for long, is set aside: it is in memory, and holds no place that others need, neither
//! of all places nor of those of healthy participants. Of a participant that answers and moves nothing it
//! holds the place: no breaker refuses new work for that one, and its share is what bounds it. Of those that wait
//! for a participant whose calls fail, there are no more than its share either, of what those that are set aside for
//! others leave: past that it gets no new work, or what fails for ever would fill memory, and then hold the places of
//! others. Where no more can be set aside they hold places. Once the transaction goes on it holds its places again. A
//! participant whose branches have ended has its place back at once.
//!
//! A participant's share is a part of what the transactions of others leave, of places and of bytes alike. So however
//! many participants are slow or sick, and however greedy, there are places left for the next one: with a share of 70 in 100
//! the first leaves 30 of 100 places, the second 9, the third 2.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use unanimo_core::{BranchSpec, ParticipantName};

use super::quotas::{Counts, Holding};
use crate::identity::Quotas;
use crate::participants::directory::{Directory, Invitation};
use crate::participants::load::Load;

/// Part of the bytes that others leave which one participant's branches may hold: the rest is for others.
const BYTES_SHARE: (usize, usize) = (15, 16);

/// The most that may be in flight on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Transactions in memory.
    pub transactions_max: usize,
    /// Bytes of their payloads, outputs, metadata and texts.
    pub bytes_max: usize,
    /// Part of the transactions that one participant may have of those that others leave, in percent.
    pub share_percent: usize,
}

impl Bounds {
    /// Returns one participant's share of the places that others leave.
    fn share_of(self, left: usize) -> usize {
        left.saturating_mul(self.share_percent).div_ceil(100).max(1)
    }

    /// Returns one participant's share of the bytes that others leave.
    fn bytes_share_of(left: usize) -> usize {
        let (part, whole) = BYTES_SHARE;
        (left / whole).saturating_mul(part).saturating_add(left % whole)
    }
}

/// Too much is in flight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much is in flight: {what}{} would go over {max}", of(.participant.as_ref()))]
pub struct Overloaded {
    /// The quantity that would exceed its bound.
    pub what: &'static str,
    /// The participant, if the bound is its share.
    pub participant: Option<ParticipantName>,
    /// The bound.
    pub max: usize,
}

fn of(participant: Option<&ParticipantName>) -> String {
    participant.map(|name| format!(" of participant {}", name.local())).unwrap_or_default()
}

/// Counts what is in flight.
#[derive(Debug)]
pub(super) struct Admission {
    bounds: Bounds,
    transactions: AtomicUsize,
    bytes: AtomicUsize,
    /// Transactions that hold no place: they wait for nothing but calls that fail.
    aside: AtomicUsize,
    /// These, and those that hold their places because too many are set aside.
    lasting: AtomicUsize,
    /// Counts of what each identity has open.
    opened: Arc<Counts>,
}

/// A place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    transactions: usize,
    bytes: usize,
    aside: bool,
    /// It is to be set aside, whether it could be or not.
    lasting: bool,
    shares: Vec<Share>,
    /// New work that it is for tries participants that fail.
    invitation: Invitation,
    /// Its part in the count of its identity, unless its row says that it sleeps or has ended.
    holding: Option<Holding>,
}

/// Part of a participant's share that a transaction has.
#[derive(Debug)]
pub(super) struct Share {
    participant: ParticipantName,
    load: Arc<Load>,
    transactions: usize,
    bytes: usize,
    /// The place is given to others.
    given: bool,
    /// The transaction is to be set aside, and waits for this participant, whose calls fail.
    lasting: bool,
}

impl Share {
    fn hold(&mut self, holds: bool, lasts: bool) {
        match (lasts, self.lasting) {
            (true, false) => self.load.last(self.transactions),
            (false, true) => self.load.go_on(self.transactions),
            (true, true) | (false, false) => {}
        }
        self.lasting = lasts;
        match (holds, self.given) {
            (true, true) => self.load.take_back(self.transactions),
            (false, false) => self.load.set_aside(self.transactions),
            (true, false) | (false, true) => {}
        }
        self.given = !holds;
    }
}

/// Returns the shares of branches at these participants with these bytes, one for each participant. The
/// coordinator itself has none.
pub(super) fn shares<'a>(
    directory: &Directory,
    branches: impl Iterator<Item = (&'a ParticipantName, usize)>,
) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::new();
    for (participant, bytes) in branches {
        if let Some(share) = shares.iter_mut().find(|share| share.participant == *participant) {
            share.bytes += bytes;
        } else if !directory.find(participant).is_some_and(|entry| entry.is_own()) {
            // Also of a name that is not known: while something is owed to it, it is not forgotten.
            let (participant, load) = (participant.clone(), directory.load_of(participant));
            let (given, lasting) = (false, false);
            shares.push(Share { participant, load, transactions: 1, bytes, given, lasting });
        }
    }
    shares
}

/// Returns the participant and the bytes of each branch.
pub(super) fn held_at(branch: &BranchSpec) -> (&ParticipantName, usize) {
    (&branch.participant, branch.payload.held_bytes() + branch.step.held_bytes())
}

impl Admission {
    pub(super) fn new(bounds: Bounds, quotas: Quotas) -> Self {
        Self {
            bounds,
            opened: Counts::new(quotas),
            transactions: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            aside: AtomicUsize::new(0),
            lasting: AtomicUsize::new(0),
        }
    }

    /// Admits a new transaction, or with `transactions` 0 more of a known one.
    pub(super) fn admit(
        self: &Arc<Self>,
        transactions: usize,
        bytes: usize,
        shares: Vec<Share>,
    ) -> Result<Permit, Overloaded> {
        let Bounds { transactions_max, bytes_max, .. } = self.bounds;
        // Counted first, so that two at once cannot both take the last place.
        let permit = self.admit_always(transactions, bytes, shares);
        let over = |what, max| Err(Overloaded { what, participant: None, max });
        if self.transactions() > transactions_max && transactions > 0 {
            return over("transactions", transactions_max);
        }
        if self.bytes() > bytes_max && bytes > 0 {
            return over("bytes of payloads and outputs", bytes_max);
        }
        let lasting = self.lasting.load(Ordering::Relaxed);
        let left = |max: usize, all: usize, own| max.saturating_sub(all.saturating_sub(own));
        for Share { participant, load, transactions, bytes, .. } in &permit.shares {
            let places = left(transactions_max, self.transactions(), load.transactions());
            let share_max = self.bounds.share_of(places);
            let bytes_max = Bounds::bytes_share_of(left(bytes_max, self.bytes(), load.bytes()));
            let over =
                |what, max| Err(Overloaded { what, participant: Some(participant.clone()), max });
            if load.transactions() > share_max && *transactions > 0 {
                return over("transactions", share_max);
            }
            let of_others = lasting.saturating_sub(load.lasting());
            let lasting_max = self.bounds.share_of(transactions_max.saturating_sub(of_others));
            if load.lasting() > lasting_max && *transactions > 0 {
                return over("transactions that do not go on", lasting_max);
            }
            if load.bytes() > bytes_max && *bytes > 0 {
                return over("bytes of payloads and outputs", bytes_max);
            }
        }
        Ok(permit)
    }

    /// Counts work that must not be refused.
    pub(super) fn admit_always(
        self: &Arc<Self>,
        transactions: usize,
        bytes: usize,
        shares: Vec<Share>,
    ) -> Permit {
        self.transactions.fetch_add(transactions, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        shares.iter().for_each(|share| share.load.add(share.transactions, share.bytes));
        let (admission, invitation) = (Arc::clone(self), Invitation::default());
        let (aside, lasting) = (false, false);
        let holding = None;
        Permit { admission, transactions, bytes, aside, lasting, shares, invitation, holding }
    }

    /// Counts of what each identity has open.
    pub(super) fn opened(&self) -> &Arc<Counts> {
        &self.opened
    }

    /// Transactions in memory that are set aside, or are to be.
    pub(super) fn lasting(&self) -> usize {
        self.lasting.load(Ordering::Relaxed)
    }

    /// Transactions in memory that are set aside.
    pub(super) fn aside(&self) -> usize {
        self.aside.load(Ordering::Relaxed)
    }

    /// Transactions in memory that hold a place.
    pub(super) fn transactions(&self) -> usize {
        self.transactions.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Permit {
    /// Adds the invitation of the work that it is for.
    pub(super) fn with(mut self, invitation: Invitation) -> Self {
        self.invitation = invitation;
        self
    }

    /// Adds what it counts for its identity.
    pub(super) fn holding(mut self, holding: Holding) -> Self {
        self.holding = Some(holding);
        self
    }

    /// Returns what it counts for its identity, to be changed.
    pub(super) fn held(&mut self) -> &mut Option<Holding> {
        &mut self.holding
    }

    /// The work is stored. If it tries nothing now, other work may be let in instead.
    pub(super) fn stored(&mut self, tries: bool) {
        let invitation = std::mem::take(&mut self.invitation);
        if tries {
            invitation.used();
        }
    }

    /// Counts as many bytes as are held by now.
    pub(super) fn resize(&mut self, bytes: usize) {
        let Self { admission, bytes: counted, holding, .. } = self;
        if let Some(holding) = holding {
            holding.resize(bytes);
        }
        // Added first: a count that is too low would let others in.
        admission.bytes.fetch_add(bytes, Ordering::Relaxed);
        admission.bytes.fetch_sub(std::mem::replace(counted, bytes), Ordering::Relaxed);
    }

    /// Gives the place of the transaction to others, as long as memory allows it.
    pub(super) fn set_aside(&mut self) {
        let (admission, count) = (&self.admission, self.transactions);
        if !std::mem::replace(&mut self.lasting, true) {
            admission.lasting.fetch_add(count, Ordering::Relaxed);
        }
        if self.aside || count == 0 || admission.aside() >= admission.bounds.transactions_max {
            return;
        }
        self.aside = true;
        admission.aside.fetch_add(count, Ordering::Relaxed);
        admission.transactions.fetch_sub(count, Ordering::Relaxed);
    }

    /// Has the transaction hold its place again, where there is any or not: it goes on.
    pub(super) fn take_back(&mut self) {
        let (admission, count) = (&self.admission, self.transactions);
        if std::mem::replace(&mut self.lasting, false) {
            admission.lasting.fetch_sub(count, Ordering::Relaxed);
        }
        if !std::mem::replace(&mut self.aside, false) {
            return;
        }
        admission.transactions.fetch_add(count, Ordering::Relaxed);
        admission.aside.fetch_sub(count, Ordering::Relaxed);
    }

    /// Has the transaction hold its places in these participants' shares, where there are any or not, and
    /// gives the others to others. `waits` tells for which participants whose calls fail it waits.
    pub(super) fn hold(
        &mut self,
        holds: impl Fn(&ParticipantName) -> bool,
        waits: impl Fn(&ParticipantName) -> bool,
    ) {
        let lasting = self.lasting;
        for share in &mut self.shares {
            share.hold(holds(&share.participant), lasting && waits(&share.participant));
        }
    }

    pub(super) fn is_aside(&self) -> bool {
        self.aside
    }

    /// Adds the shares of a branch that joins the transaction, which is counted at each participant
    /// once. Its bytes are counted with the transaction's from here on.
    pub(super) fn absorb(&mut self, mut branch: Self) {
        self.take_back();
        self.hold(|_| true, |_| false);
        branch.stored(true);
        for mut share in std::mem::take(&mut branch.shares) {
            let counted =
                |own: &Share| own.transactions > 0 && own.participant == share.participant;
            if self.shares.iter().any(counted) {
                share.load.give_back(share.transactions, 0);
                share.transactions = 0;
            }
            self.shares.push(share);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.take_back();
        self.hold(|_| true, |_| false);
        self.admission.transactions.fetch_sub(self.transactions, Ordering::Relaxed);
        self.admission.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.shares.iter().for_each(|share| share.load.give_back(share.transactions, share.bytes));
    }
}
