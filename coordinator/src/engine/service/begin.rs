//! New work in the loop: transactions that begin, tombstones, and branches that are enlisted.

use unanimo_core::{Definition, Digests, Effects, Gid, Input, Start, Transaction, TxId, Version};

use super::super::Until;
use super::super::admission::Permit;
use super::super::clock::Anchor;
use super::super::live::Live;
use super::super::message::{Failure, Reply};
use super::{Service, fail};
use crate::store::GidHolder;

impl Service {
    pub(super) fn begin(
        &mut self,
        (definition, digests): (Definition, Digests),
        permit: Permit,
        until: Until,
        reply: Reply,
    ) {
        self.recall_instead(&definition.gid);
        if let Some(&tx_id) = self.by_gid.get(&definition.gid) {
            return self.attach(tx_id, &digests, until, reply);
        }
        let (mode, after) = (definition.mode, matches!(definition.start, Start::After(_)));
        let clock = self.clock.anchor();
        let now = clock.now();
        let tx_id = self.env.tx_id(now);
        let request = (definition, digests.newest());
        let begun = Transaction::begin_as(tx_id, request, now, &self.options.policy);
        tracing::debug!(
            %tx_id, gid = %begun.0.identity().gid, mode = mode.name(), "the transaction has begun"
        );
        self.create(begun, (clock, after), permit, until, reply);
    }

    /// Asks for ABORT of a gid that the store did not know. The first that is stored under the gid
    /// wins: a transaction that began meanwhile is rolled back like any other one.
    pub(super) fn rollback_unseen(
        &mut self,
        (gid, initiator): (Gid, String),
        permit: Permit,
        until: Until,
        reply: Reply,
    ) {
        self.recall_instead(&gid);
        if self.by_gid.contains_key(&gid) {
            return fail(reply, Failure::NotLive);
        }
        let clock = self.clock.anchor();
        let now = clock.now();
        let tx_id = self.env.tx_id(now);
        tracing::debug!(%tx_id, %gid, "a gid that was never seen is rolled back");
        let policy = &self.options.policy;
        let tombstone = Transaction::tombstone(tx_id, gid, initiator, now, policy);
        self.create(tombstone, (clock, false), permit, until, reply);
    }

    /// Takes a new transaction to memory, and has it written. One that starts after a time waits by its own
    /// clock.
    fn create(
        &mut self,
        (tx, effects): (Transaction, Effects),
        (clock, starts_after): (Anchor, bool),
        permit: Permit,
        until: Until,
        reply: Reply,
    ) {
        let tx_id = tx.tx_id();
        let call_timeout = self.options.call_timeout;
        self.told_timeouts.look(&tx.identity().gid, (0, tx.branches()), call_timeout);
        self.by_gid.insert(tx.identity().gid.clone(), tx_id);
        let mut live = Live::new(tx, clock, permit, Version::default());
        live.wait(until, reply);
        live.ends_here = live.has_ended();
        live.starts_after = starts_after;
        self.traces.begin(live.tx.identity(), false);
        self.live.insert(tx_id, live);
        self.carry_out(tx_id, effects);
    }

    /// Attaches a request to the live transaction of its gid, if that is its own. Another request's
    /// may not be durable, so nothing of it is told here.
    pub(super) fn attach(&mut self, tx_id: TxId, digests: &Digests, until: Until, reply: Reply) {
        let Some(live) = self.live.get_mut(&tx_id) else {
            return fail(reply, Failure::NotLive);
        };
        let digest = live.tx.identity().digest;
        if digests.matches(digest) {
            self.wait(tx_id, until, reply);
        } else {
            fail(reply, Failure::Elsewhere(GidHolder { tx_id, digest }));
        }
    }

    pub(super) fn enlist(&mut self, tx_id: TxId, input: Input, permit: Permit, reply: Reply) {
        let Input::Enlist { branch, enlistment } = &input else { return };
        let (id, enlistment) = (branch.branch_id.clone(), *enlistment);
        let known = |live: &Live| live.tx.branch_by_id(&id).map(|branch| branch.number);
        let is_new = self.live.get(&tx_id).and_then(known).is_none();
        let bytes = branch.payload.held_bytes();
        if is_new
            && let Some(Err(over)) = self.live.get_mut(&tx_id).map(|live| live.may_grow(bytes))
        {
            self.metrics.refused(over.label());
            return self.refuse(tx_id, Failure::Error(over.into()), reply);
        }
        if let Err(failure) = self.apply(tx_id, input) {
            return self.refuse(tx_id, failure, reply);
        }
        let Some(live) = self.live.get_mut(&tx_id) else {
            return fail(reply, Failure::NotLive);
        };
        // A repetition holds nothing more.
        let number = known(live);
        if is_new {
            live.join(permit);
            let index = number.map_or(usize::MAX, |number| number.index());
            let added = live.tx.branches().get(index..).unwrap_or_default();
            let gid = &live.tx.identity().gid;
            self.told_timeouts.look(gid, (index, added), self.options.call_timeout);
        }
        let enlisting = |number| Until::of_enlisting(enlistment, number);
        let until = number.map_or(Until::Durable, enlisting);
        self.wait(tx_id, until, reply);
    }
}
