//! Admission: bounds on what may be in flight (promise L5), and the share of it that one participant may
//! have (promise L3).
//!
//! New work is counted before it is begun. What is begun is never refused: votes, Commit, Rollback,
//! phase two and adoption only add to the count. A transaction that waits for nothing but calls that fail, or
//! that have moved nothing for long, is set aside: it is in memory, and holds no place that others need, neither
//! of all places nor of those of healthy participants. Of a participant that answers and moves nothing it
//! holds the place: no breaker refuses new work for that one, and its share is what bounds it. Bytes are
//! counted as before. Once the transaction goes on it holds its places again. A participant whose branches have
//! ended has its place back at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use unanimo_core::{BranchSpec, ParticipantName};

use crate::participants::directory::{Directory, Invitation};
use crate::participants::load::Load;

/// Part of the bytes that one participant's branches may hold: the rest is for others.
const BYTES_SHARE: (usize, usize) = (15, 16);

/// The most that may be in flight on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Transactions in memory.
    pub transactions_max: usize,
    /// Bytes of their payloads, outputs, metadata and texts.
    pub bytes_max: usize,
    /// Part of the transactions that one participant may have, in percent.
    pub share_percent: usize,
}

impl Bounds {
    /// Returns the most transactions, and the most bytes, of one participant.
    fn of_participant(self) -> (usize, usize) {
        let (part, whole) = BYTES_SHARE;
        let transactions = self.transactions_max.saturating_mul(self.share_percent).div_ceil(100);
        let bytes = (self.bytes_max / whole).saturating_mul(part);
        (transactions.max(1), bytes.saturating_add(self.bytes_max % whole))
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
    participant.map(|name| format!(" of participant {name}")).unwrap_or_default()
}

/// Counts what is in flight.
#[derive(Debug)]
pub(super) struct Admission {
    bounds: Bounds,
    transactions: AtomicUsize,
    bytes: AtomicUsize,
    /// Transactions that hold no place: they wait for nothing but calls that fail.
    aside: AtomicUsize,
}

/// A place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    transactions: usize,
    bytes: usize,
    aside: bool,
    shares: Vec<Share>,
    /// New work that it is for tries participants that fail.
    invitation: Invitation,
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
}

impl Share {
    fn hold(&mut self, holds: bool) {
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
            shares.push(Share { participant, load, transactions: 1, bytes, given: false });
        }
    }
    shares
}

/// Returns the participant and the bytes of each branch.
pub(super) fn held_at(branch: &BranchSpec) -> (&ParticipantName, usize) {
    (&branch.participant, branch.payload.held_bytes() + branch.step.held_bytes())
}

impl Admission {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            transactions: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            aside: AtomicUsize::new(0),
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
        let (transactions_max, bytes_max) = self.bounds.of_participant();
        for Share { participant, load, transactions, bytes, .. } in &permit.shares {
            let over =
                |what, max| Err(Overloaded { what, participant: Some(participant.clone()), max });
            if load.transactions() > transactions_max && *transactions > 0 {
                return over("transactions", transactions_max);
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
        Permit { admission, transactions, bytes, aside: false, shares, invitation }
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

    /// The work is stored. If it tries nothing now, other work may be let in instead.
    pub(super) fn stored(&mut self, tries: bool) {
        let invitation = std::mem::take(&mut self.invitation);
        if tries {
            invitation.used();
        }
    }

    /// Counts as many bytes as are held by now.
    pub(super) fn resize(&mut self, bytes: usize) {
        let Self { admission, bytes: counted, .. } = self;
        // Added first: a count that is too low would let others in.
        admission.bytes.fetch_add(bytes, Ordering::Relaxed);
        admission.bytes.fetch_sub(std::mem::replace(counted, bytes), Ordering::Relaxed);
    }

    /// Gives the place of the transaction to others, as long as memory allows it.
    pub(super) fn set_aside(&mut self) {
        let (admission, count) = (&self.admission, self.transactions);
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
        if !std::mem::replace(&mut self.aside, false) {
            return;
        }
        admission.transactions.fetch_add(count, Ordering::Relaxed);
        admission.aside.fetch_sub(count, Ordering::Relaxed);
    }

    /// Has the transaction hold its places in these participants' shares, where there are any or not, and
    /// gives the others to others.
    pub(super) fn hold(&mut self, holds: impl Fn(&ParticipantName) -> bool) {
        self.shares.iter_mut().for_each(|share| share.hold(holds(&share.participant)));
    }

    pub(super) fn is_aside(&self) -> bool {
        self.aside
    }

    /// Adds the shares of a branch that joins the transaction, which is counted at each participant
    /// once. Its bytes are counted with the transaction's from here on.
    pub(super) fn absorb(&mut self, mut branch: Self) {
        self.take_back();
        self.hold(|_| true);
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
        self.hold(|_| true);
        self.admission.transactions.fetch_sub(self.transactions, Ordering::Relaxed);
        self.admission.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.shares.iter().for_each(|share| share.load.give_back(share.transactions, share.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(transactions_max: usize, bytes_max: usize) -> Arc<Admission> {
        Arc::new(Admission::new(Bounds { transactions_max, bytes_max, share_percent: 70 }))
    }

    #[test]
    fn what_is_over_a_bound_is_refused_until_a_place_is_given_back() {
        let admission = admission(2, 100);
        let admit = |transactions, bytes| admission.admit(transactions, bytes, Vec::new());
        let first = admit(1, 60).expect("a place");
        let error = admit(1, 60).expect_err("too many bytes");
        assert_eq!(
            error.to_string(),
            "too much is in flight: bytes of payloads and outputs would go over 100"
        );
        let _second = admit(1, 0).expect("a place");
        let error = admit(1, 0).expect_err("too many transactions");
        assert_eq!(error.to_string(), "too much is in flight: transactions would go over 2");
        let mut forced = admission.admit_always(1, 0, Vec::new());
        assert_eq!(admission.transactions(), 3);
        forced.resize(30);
        forced.resize(20);
        assert_eq!(admission.bytes(), 80);
        drop((first, forced));
        admit(1, 100).expect("a place");
        assert_eq!((admission.transactions(), admission.bytes()), (1, 0));
    }

    fn give(permit: &mut Permit) {
        permit.set_aside();
        permit.hold(|_| false);
    }

    fn take(permit: &mut Permit) {
        permit.take_back();
        permit.hold(|_| true);
    }

    #[test]
    fn l3_no_participant_takes_all_places() {
        let admission = admission(10, 1600);
        let loads = [Arc::new(Load::default()), Arc::new(Load::default())];
        let share = |of: usize, bytes: usize| {
            let participant = ParticipantName::new(["sick", "well"][of]).expect("a name");
            vec![Share {
                participant,
                load: Arc::clone(&loads[of]),
                transactions: 1,
                bytes,
                given: false,
            }]
        };
        let mut held: Vec<Permit> =
            (0..7).map(|_| admission.admit(1, 0, share(0, 0)).expect("a place")).collect();
        let error = admission.admit(1, 0, share(0, 0)).expect_err("its share is taken");
        let expected = "too much is in flight: transactions of participant sick would go over 7";
        assert_eq!(error.to_string(), expected);
        let well: Vec<_> =
            (0..3).map(|_| admission.admit(1, 0, share(1, 0)).expect("a place")).collect();
        admission.admit(1, 0, share(1, 0)).expect_err("all are taken");
        // What is set aside leaves its place to others.
        held.iter_mut().for_each(give);
        held.iter_mut().for_each(give);
        assert_eq!((admission.transactions(), admission.aside()), (3, 7));
        let more = admission.admit(1, 0, share(1, 0)).expect("a place");
        drop((held, well, more));
        assert_eq!((admission.transactions(), admission.aside()), (0, 0));
        assert_eq!((loads[0].transactions(), loads[1].transactions()), (0, 0));

        let error = admission.admit(1, 1501, share(0, 1501)).expect_err("others need bytes, too");
        let expected = "too much is in flight: bytes of payloads and outputs of participant sick would go over 1500";
        assert_eq!(error.to_string(), expected);
        let mut first = admission.admit(1, 1500, share(0, 1500)).expect("a place");
        first.absorb(admission.admit_always(0, 10, share(0, 10)));
        assert_eq!((loads[0].transactions(), loads[0].bytes()), (1, 1510));
        assert_eq!(admission.bytes(), 1500, "its bytes are counted by a resize");
        drop(first);
        assert_eq!((loads[0].transactions(), loads[0].bytes()), (0, 0));
    }
    /// A transaction that waits for one participant takes nothing of another one's share meanwhile, and
    /// something is owed to both.
    #[test]
    fn l3_what_is_set_aside_takes_no_share_and_gets_it_again() {
        let admission = admission(10, 1600);
        let loads = [Arc::new(Load::default()), Arc::new(Load::default())];
        let share = |of: usize, bytes: usize| {
            let participant = ParticipantName::new(["sick", "well"][of]).expect("a name");
            let load = Arc::clone(&loads[of]);
            Share { participant, load, transactions: 1, bytes, given: false }
        };
        let both = || vec![share(0, 10), share(1, 10)];
        let counted = || loads.each_ref().map(|l| (l.transactions(), l.owed(), l.bytes()));
        let mut held: Vec<Permit> =
            (0..7).map(|_| admission.admit(1, 20, both()).expect("a place")).collect();
        admission.admit(1, 0, vec![share(1, 0)]).expect_err("its share is taken");
        held.iter_mut().for_each(give);
        assert_eq!(counted(), [(0, 7, 70), (0, 7, 70)], "they hold their bytes");
        assert_eq!(admission.bytes(), 140);
        let more: Vec<_> =
            (0..7).map(|_| admission.admit(1, 0, vec![share(1, 0)]).expect("a place")).collect();
        // They go on, whether there is a place or not.
        held.iter_mut().for_each(take);
        held.iter_mut().for_each(take);
        assert_eq!((admission.transactions(), admission.aside()), (14, 0));
        assert_eq!(counted(), [(7, 7, 70), (14, 14, 70)]);
        admission.admit(1, 0, vec![share(0, 0)]).expect_err("all are taken");
        drop(more);
        give(&mut held[0]);
        // One that waits for the sick one alone, which answers, takes nothing of the healthy one's.
        held[1].set_aside();
        held[1].hold(|participant| participant.as_str() == "sick");
        assert_eq!((admission.transactions(), admission.aside()), (5, 2));
        assert_eq!(counted(), [(6, 7, 70), (5, 7, 70)]);
        drop(held);
        assert_eq!((admission.transactions(), admission.aside(), admission.bytes()), (0, 0, 0));
        assert_eq!(counted(), [(0, 0, 0), (0, 0, 0)]);
    }
}
