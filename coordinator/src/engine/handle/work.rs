//! New work: transactions that begin, and branches that are enlisted.

use std::sync::atomic::Ordering;

use tokio::time::Instant;
use unanimo_core::{BranchSpec, Definition, Digest, Enlistment, Input, TxId, Violation};

use super::super::admission::Permit;
use super::super::message::{Failure, Message};
use super::super::{Answer, Error, Overloaded, Until, View};
use super::{Handle, Reached};
use crate::store::Key;

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
        let gid = Key::Gid(definition.gid.clone());
        let digest = definition.digest();
        let answer = match self.admit(&definition) {
            Ok(permit) => {
                let definition = Box::new(definition);
                self.ask(deadline, |reply| Message::Begin { definition, permit, until, reply })
                    .await
            }
            Err(refusal) => match self.known(&gid, digest, until, deadline).await {
                Err(Failure::Error(Error::NeverSeen)) => Err(refusal.into()),
                known => known,
            },
        };
        match answer {
            Ok(None) => self.not_yet(gid).await,
            Ok(Some(view)) => Ok(Answer::View(view)),
            // Another transaction has the gid, under the same request: it is this one's answer.
            Err(Failure::Elsewhere(tx_id)) => self.wait(Key::Tx(tx_id), until, deadline).await,
            Err(Failure::NotLive) => self.wait(gid, until, deadline).await,
            Err(Failure::Error(error)) => Err(error),
        }
    }

    /// Counts new work, or says why it is refused.
    fn admit(&self, definition: &Definition) -> Result<Permit, Error> {
        let shared = &self.shared;
        let violations = definition.violations(&shared.options.policy.limits);
        if !violations.is_empty() {
            return Err(Error::Invalid(violations));
        }
        let unknown: Vec<Violation> = self.unknown_participants(definition);
        if !unknown.is_empty() {
            return Err(Error::UnknownParticipants(unknown));
        }
        self.refuse_if(shared.draining.load(Ordering::Relaxed), "draining", || Error::Draining)?;
        for branch in &definition.branches {
            let check = shared.directory.check(&branch.participant);
            check.inspect_err(|_| shared.metrics.refused("participant_gone"))?;
        }
        self.place(1, definition.payload_bytes())
    }

    fn unknown_participants(&self, definition: &Definition) -> Vec<Violation> {
        use crate::participants::directory::Error;
        let mut violations = Vec::new();
        for (index, branch) in definition.branches.iter().enumerate() {
            if let Err(error @ Error::Unknown(_)) = self.shared.directory.check(&branch.participant)
            {
                let field = format!("branches[{index}].participant");
                violations.push(Violation::new(field, format!("must be known: {error}")));
            }
        }
        violations
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

    fn place(&self, transactions: usize, bytes: usize) -> Result<Permit, Error> {
        let admitted: Result<Permit, Overloaded> = self.shared.admission.admit(transactions, bytes);
        Ok(admitted.inspect_err(|_| self.shared.metrics.refused("overloaded"))?)
    }

    /// Answers for a gid that is known already.
    async fn known(
        &self,
        gid: &Key,
        digest: Digest,
        until: Until,
        deadline: Instant,
    ) -> Result<Option<Box<View>>, Failure> {
        let Key::Gid(name) = gid else { return Err(Failure::NotLive) };
        let name = name.clone();
        let attach = |reply| Message::Attach { gid: name, digest, until, reply };
        match self.ask(deadline, attach).await {
            Err(Failure::NotLive) => {}
            other => return other,
        }
        let stored = self.shared.store.transactions().find(gid).await.map_err(Error::from)?;
        let Some(stored) = stored else { return Err(Error::NeverSeen.into()) };
        let identity = &stored.record.identity;
        if identity.digest == digest {
            Err(Failure::Elsewhere(identity.tx_id))
        } else {
            Err(Error::GidReused(identity.tx_id).into())
        }
    }

    /// Enlists a branch. For one whose Prepare the coordinator sends, waits for its vote.
    ///
    /// # Errors
    /// The branch breaks rules, or new work is refused.
    pub async fn enlist(
        &self,
        tx_id: TxId,
        spec: BranchSpec,
        enlistment: Enlistment,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        match self.enlist_new(tx_id, &spec, enlistment, deadline).await {
            // What is known is answered even where new work is refused.
            Err(error @ (Error::Overloaded(_) | Error::Draining | Error::Participant(_))) => {
                let input = Input::Enlist { spec: spec.clone(), enlistment };
                match self.known_branch(tx_id, &spec, input, deadline).await? {
                    Some(answer) => Ok(answer),
                    None => Err(error),
                }
            }
            other => other,
        }
    }

    async fn enlist_new(
        &self,
        tx_id: TxId,
        spec: &BranchSpec,
        enlistment: Enlistment,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        use crate::participants::directory::Error as Participant;
        let shared = &self.shared;
        match shared.directory.check(&spec.participant) {
            Err(error @ Participant::Unknown(_)) => {
                let rule = format!("must be known: {error}");
                let violation = Violation::new("branch.participant", rule);
                return Err(Error::UnknownParticipants(vec![violation]));
            }
            checked => checked?,
        }
        self.refuse_if(shared.draining.load(Ordering::Relaxed), "draining", || Error::Draining)?;
        let message = |reply| {
            let permit = self.place(0, spec.payload.len())?;
            Ok(Message::Enlist { tx_id, spec: spec.clone(), enlistment, permit, reply })
        };
        match self.reach(&Key::Tx(tx_id), deadline, message).await? {
            Reached::Live(answer) => Ok(answer),
            Reached::Ended(stored) => {
                self.on_ended(*stored, Input::Enlist { spec: spec.clone(), enlistment })
            }
        }
    }

    /// Answers for a branch that the transaction has already; `None` if it has not.
    async fn known_branch(
        &self,
        tx_id: TxId,
        spec: &BranchSpec,
        input: Input,
        deadline: Instant,
    ) -> Result<Option<Answer>, Error> {
        let view = match self.wait(Key::Tx(tx_id), Until::Durable, deadline).await? {
            Answer::View(view) => view,
            not_yet @ Answer::NotYet(_) => return Ok(Some(not_yet)),
        };
        let Some(branch) = view.tx.branch_by_id(&spec.branch_id) else { return Ok(None) };
        let until = Until::of_enlisting(branch.enlistment, branch.number);
        self.input(tx_id, input, until, deadline).await.map(Some)
    }
}
