//! New work: transactions that begin, and branches that are enlisted.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use unanimo_core::{
    BranchNumber, BranchRequest, Definition, Digests, Enlistment, Gid, Identity, Input, Mode,
    Outcome, ParticipantName, TxId, Violation,
};

use super::super::admission::{Permit, Share, held_at, shares};
use super::super::message::{Failure, Message};
use super::super::{Answer, Error, Overloaded, Until};
use super::waits::{Asleep, in_time};
use super::{Handle, Reached};
use crate::participants::directory::Invitation;
use crate::store::{GidHolder, Key};

impl Handle {
    /// Notes the database of a participant that was enlisted, and whose vote comes with Commit.
    pub(crate) fn note_database(&self, tx_id: TxId, number: BranchNumber, database_id: String) {
        // The engine may have ended.
        let _ = self.send(Message::Database { tx_id, number, database_id });
    }

    pub(super) async fn begin_admitted(
        &self,
        definition: Definition,
        admitted: Result<Permit, Error>,
        until: Until,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let digests = definition.digests();
        let answering = self.begin_or_find(definition, digests, admitted, until, deadline);
        answer_to(&digests, in_time(deadline, answering).await?)
    }

    async fn begin_or_find(
        &self,
        definition: Definition,
        digests: Digests,
        admitted: Result<Permit, Error>,
        until: Until,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let gid = Key::Gid(definition.gid.clone());
        let answer = match admitted {
            Ok(permit) => {
                let request = Box::new((definition, digests));
                let begin = |reply| Message::Begin { request, permit, until, reply };
                self.ask(&gid, Some(digests), deadline, begin).await
            }
            Err(refusal) => match self.known(&gid, digests, until, deadline).await {
                Err(Failure::Error(Error::UnknownGid)) => Err(refusal.into()),
                known => known,
            },
        };
        match answer {
            Ok(answer) => Ok(answer),
            // Another transaction has the gid. Under the same request its answer is this one's;
            // under another one, nothing is told of it before it is durable.
            Err(Failure::Elsewhere(holder)) if digests.matches(holder.digest) => {
                self.wait(Key::Tx(holder.tx_id), until, deadline).await.map_err(moved)
            }
            Err(Failure::Elsewhere(holder)) => {
                let found = self.wait(Key::Tx(holder.tx_id), Until::Durable, deadline).await;
                found.map(nameless).map_err(moved)
            }
            Err(Failure::NotLive) => {
                self.wait(gid, until, deadline).await.map(nameless).map_err(moved)
            }
            Err(Failure::Error(error)) => Err(error),
        }
    }

    /// Asks for ABORT by the client's own name. A gid that was never seen becomes a tombstone: an
    /// aborted transaction that answers whatever comes later under it.
    ///
    /// # Errors
    /// The gid was never seen, and new work is refused.
    pub async fn rollback_gid(
        &self,
        gid: Gid,
        initiator: String,
        until: Until,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let key = Key::Gid(gid.clone());
        match self.input(key.clone(), Input::RollbackAsked, until, deadline).await {
            Err(Error::UnknownGid) => {}
            known => return self.with_parent(known?, deadline).await,
        }
        let draining = self.shared.draining.load(Ordering::Relaxed);
        self.refuse_if(draining, "draining", || Error::Draining)?;
        let permit = self.place(1, 0, Vec::new())?;
        match self.leave_tombstone((gid, initiator), permit, until, deadline).await? {
            Ok(answer) => Ok(answer),
            // The tombstone lost the gid to another transaction: that one is rolled back.
            Err(holder) => {
                self.input(holder, Input::RollbackAsked, until, deadline).await.map_err(moved)
            }
        }
    }

    /// Leaves a tombstone under a gid that the store does not know; or names the transaction that has it by
    /// then, which is left as it is.
    pub(super) async fn leave_tombstone(
        &self,
        (gid, initiator): (Gid, String),
        permit: Permit,
        until: Until,
        deadline: Instant,
    ) -> Result<Result<Answer, Key>, Error> {
        let key = Key::Gid(gid.clone());
        let tombstone = |reply| Message::Tombstone { gid, initiator, permit, until, reply };
        match self.ask(&key, None, deadline, tombstone).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(Failure::Error(error)) => Err(error),
            Err(Failure::Elsewhere(holder)) => Ok(Err(Key::Tx(holder.tx_id))),
            Err(Failure::NotLive) => Ok(Err(key)),
        }
    }

    /// Gives new work its place, or says why it is refused.
    pub(super) fn placed(&self, definition: &Definition) -> Result<Permit, Error> {
        let shared = &self.shared;
        let limits = &shared.options.policy.limits;
        let mut violations = definition.violations(limits);
        violations.extend(definition.violations_at(shared.clock.now(), limits));
        if !violations.is_empty() {
            return Err(Error::Invalid(violations));
        }
        let unknown: Vec<Violation> = self.unknown_participants("", definition);
        if !unknown.is_empty() {
            return Err(Error::UnknownParticipants(unknown));
        }
        self.check_draining()?;
        let invitation = self.invite_all(definition)?;
        let shares = shares(&shared.directory, definition.branches.iter().map(held_at));
        let permit = self.place(1, definition.held_bytes(), shares)?;
        Ok(permit.with(invitation))
    }

    /// Checks that all participants take new work, those of children included. Each is asked once.
    fn invite_all(&self, definition: &Definition) -> Result<Invitation, Error> {
        fn names<'a>(definition: &'a Definition, into: &mut BTreeSet<&'a ParticipantName>) {
            into.extend(definition.branches.iter().map(|branch| &branch.participant));
            definition.children.iter().for_each(|(_, child)| names(child, into));
        }
        let mut participants = BTreeSet::new();
        names(definition, &mut participants);
        self.invite(participants)
    }

    fn invite<'a>(
        &self,
        participants: impl IntoIterator<Item = &'a ParticipantName>,
    ) -> Result<Invitation, Error> {
        use crate::participants::directory::Error;
        let invited = self.shared.directory.invite(participants);
        Ok(invited.inspect_err(|error| {
            self.shared.metrics.refused(match error {
                Error::Failing { .. } => "participant_failing",
                Error::Unknown(_) | Error::NotYet(_) | Error::Gone(_) => "participant_gone",
            });
        })?)
    }

    fn unknown_participants(&self, prefix: &str, definition: &Definition) -> Vec<Violation> {
        use crate::participants::directory::Error;
        let mut violations = Vec::new();
        for (index, branch) in definition.branches.iter().enumerate() {
            if let Err(error @ Error::Unknown(_)) = self.shared.directory.knows(&branch.participant)
            {
                let field = format!("{prefix}branches[{index}].participant");
                violations.push(Violation::new(field, format!("must be known: {error}")));
            }
        }
        for (index, child) in &definition.children {
            let prefix = format!("{prefix}branches[{index}].child.");
            violations.extend(self.unknown_participants(&prefix, child));
        }
        violations
    }

    pub(super) fn check_draining(&self) -> Result<(), Error> {
        let draining = self.shared.draining.load(Ordering::Relaxed);
        self.refuse_if(draining, "draining", || Error::Draining)
    }

    fn refuse_if(
        &self,
        refused: bool,
        reason: &'static str,
        error: impl Fn() -> Error,
    ) -> Result<(), Error> {
        if refused {
            self.shared.metrics.refused(reason);
            return Err(error());
        }
        Ok(())
    }

    fn place(
        &self,
        transactions: usize,
        bytes: usize,
        shares: Vec<Share>,
    ) -> Result<Permit, Error> {
        let admitted = self.shared.admission.admit(transactions, bytes, shares);
        Ok(admitted.inspect_err(|Overloaded { participant, .. }| {
            let reason = if participant.is_some() { "participant_share" } else { "overloaded" };
            self.shared.metrics.refused(reason);
        })?)
    }

    /// Answers for a gid that is known already.
    async fn known(
        &self,
        gid: &Key,
        digests: Digests,
        until: Until,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let Key::Gid(name) = gid else { return Err(Failure::NotLive) };
        let name = name.clone();
        let attach =
            |reply| Message::Attach { gid: name, digests: Box::new(digests), until, reply };
        match self.ask(gid, Some(digests), deadline, attach).await {
            Err(Failure::NotLive) => {}
            other => return other,
        }
        let stored = self.shared.store.transactions().find(gid).await.map_err(Error::from)?;
        let Some(stored) = stored else {
            return Err(match self.is_recalled(gid).await? {
                true => Failure::NotLive,
                false => Error::UnknownGid.into(),
            });
        };
        let Identity { tx_id, digest, .. } = *stored.record.identity;
        Err(Failure::Elsewhere(GidHolder { tx_id, digest }))
    }

    /// Enlists a branch, which may be a child. For one whose Prepare the coordinator sends, waits for its
    /// vote.
    ///
    /// # Errors
    /// The branch breaks rules, or new work is refused.
    pub async fn enlist(
        &self,
        tx_id: TxId,
        branch: BranchRequest,
        child: Option<Definition>,
        enlistment: Enlistment,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let checked = match child {
            Some(child) => self.check_child(tx_id, "branch.child", &child, deadline).await,
            None => Ok(Invitation::default()),
        };
        let enlisted = match checked {
            Ok(child) => self.enlist_new(tx_id, &branch, child, enlistment, deadline).await,
            Err(error) => Err(error),
        };
        match enlisted {
            // What is known is answered even where new work is refused.
            Err(
                // A rule may be younger than the branch.
                error @ (Error::Invalid(_)
                | Error::Overloaded(_)
                | Error::Draining
                | Error::Participant(_)
                | Error::UnknownParticipants(_)),
            ) => {
                let input = Input::Enlist { branch: branch.clone(), enlistment };
                match self.known_branch(tx_id, &branch, input, deadline).await? {
                    Some(answer) => Ok(answer),
                    None => Err(error),
                }
            }
            other => other,
        }
    }

    /// Checks the rules of a child that is enlisted, and its participants.
    async fn check_child(
        &self,
        tx_id: TxId,
        field: &str,
        child: &Definition,
        deadline: Instant,
    ) -> Result<Invitation, Error> {
        if let Answer::View(view) = self.wait(Key::Tx(tx_id), Until::Durable, deadline).await?
            && view.tx.identity().mode() != Some(Mode::Saga)
        {
            let rule = "must not be set: the transaction is no saga";
            return Err(Error::Invalid(vec![Violation::new(field, rule)]));
        }
        let prefix = &format!("{field}.");
        let violations = child.violations(&self.shared.options.policy.limits);
        if !violations.is_empty() {
            let at = |v: Violation| Violation::new(format!("{prefix}{}", v.field), v.rule);
            return Err(Error::Invalid(violations.into_iter().map(at).collect()));
        }
        let unknown = self.unknown_participants(prefix, child);
        if !unknown.is_empty() {
            return Err(Error::UnknownParticipants(unknown));
        }
        self.invite_all(child)
    }

    async fn enlist_new(
        &self,
        tx_id: TxId,
        branch: &BranchRequest,
        child: Invitation,
        enlistment: Enlistment,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        use crate::participants::directory::Error as Participant;
        let shared = &self.shared;
        if let Err(error @ Participant::Unknown(_)) = shared.directory.knows(&branch.participant) {
            let rule = format!("must be known: {error}");
            let violation = Violation::new("branch.participant", rule);
            return Err(Error::UnknownParticipants(vec![violation]));
        }
        let invitation = child.and(self.invite([&branch.participant])?);
        self.refuse_if(shared.draining.load(Ordering::Relaxed), "draining", || Error::Draining)?;
        let message = |reply| {
            let bytes = branch.payload.held_bytes();
            let held = std::iter::once((&branch.participant, bytes));
            let permit = self.place(0, bytes, shares(&shared.directory, held))?;
            let permit = permit.with(invitation.clone());
            Ok(Message::Enlist { tx_id, branch: branch.clone(), enlistment, permit, reply })
        };
        match self.reach(&Key::Tx(tx_id), Asleep::Woken, deadline, message).await? {
            Reached::Live(answer) => Ok(answer),
            Reached::AtRest(stored) => {
                self.on_ended(*stored, Input::Enlist { branch: branch.clone(), enlistment })
            }
        }
    }

    /// Answers for a branch that the transaction has already; `None` if it has not.
    async fn known_branch(
        &self,
        tx_id: TxId,
        branch: &BranchRequest,
        input: Input,
        deadline: Instant,
    ) -> Result<Option<Answer>, Error> {
        let view = match self.wait(Key::Tx(tx_id), Until::Durable, deadline).await? {
            Answer::View(view) => view,
            not_yet @ Answer::NotYet(_) => return Ok(Some(not_yet)),
        };
        let Some(known) = view.tx.branch_by_id(&branch.branch_id) else { return Ok(None) };
        let until = Until::of_enlisting(known.enlistment, known.number);
        self.input(Key::Tx(tx_id), input, until, deadline).await.map(Some)
    }
}

/// A transaction answers the request that it was made of, and no other one (promise S9).
fn answer_to(digests: &Digests, answer: Answer) -> Result<Answer, Error> {
    match answer {
        Answer::View(view) if !digests.matches(view.tx.identity().digest) => {
            let outcome = Some(view.tx.outcome()).filter(|known| *known != Outcome::NotDecided);
            Err(Error::GidReused { tx_id: view.tx.tx_id(), outcome })
        }
        answer => Ok(answer),
    }
}

/// The answer without the name of a transaction that may be another request's.
fn nameless(answer: Answer) -> Answer {
    match answer {
        Answer::NotYet(_) => Answer::NotYet(None),
        view @ Answer::View(_) => view,
    }
}

/// A transaction that was there a moment ago is on its way, not unknown.
fn moved(error: Error) -> Error {
    match error {
        Error::NeverSeen | Error::UnknownGid => Error::Moving,
        other => other,
    }
}
