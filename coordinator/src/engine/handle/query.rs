//! Questions: what is, what becomes, and what a participant may do.

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use unanimo_core::{BranchId, Decision, Input, ParticipantName, TxId};

use super::super::message::Message;
use super::super::{Answer, Error, Until, View};
use super::{Handle, SEARCHES_MAX};
use crate::store::{Filter, Key, Stored};

/// What a participant may do with a branch that it holds in doubt (promise S12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it.
    Running,
    /// Commit it.
    Commit,
    /// Cancel it.
    Cancel,
    /// Touch nothing: this branch was never seen.
    NeverSeen,
    /// Touch nothing: what was known of it is deleted.
    Purged,
}

/// What is known of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inquired {
    /// What to do.
    pub verdict: Verdict,
    /// Its participant has answered phase two.
    pub ended: bool,
}

impl Handle {
    /// Follows a transaction: what it is now and, if it is live, what it becomes.
    ///
    /// # Errors
    /// There is none, or the store does not answer.
    pub async fn watch(
        &self,
        key: Key,
        deadline: Instant,
    ) -> Result<(Box<View>, Option<watch::Receiver<Box<View>>>), Error> {
        for _ in 0..SEARCHES_MAX {
            let view = match self.wait(key.clone(), Until::Durable, deadline).await? {
                Answer::View(view) => view,
                Answer::NotYet(_) => return Err(Error::Moving),
            };
            if view.tx.phase().ended_at().is_some() {
                return Ok((view, None));
            }
            let (reply, receiver) = oneshot::channel();
            self.send(Message::Watch { key: key.clone(), reply })?;
            if let Some(mut receiver) = receiver.await.map_err(|_| Error::Stopped)? {
                let view = receiver.borrow_and_update().clone();
                return Ok((view, Some(receiver)));
            }
        }
        Err(Error::Moving)
    }

    /// What a participant may do with branches in doubt. What is owed to them is sent at once.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn inquire(
        &self,
        participant: &ParticipantName,
        branches: &[(TxId, BranchId)],
        deadline: Instant,
    ) -> Result<Vec<Inquired>, Error> {
        let mut results = Vec::with_capacity(branches.len());
        for (tx_id, branch_id) in branches {
            results.push(self.inquire_one(participant, *tx_id, branch_id, deadline).await?);
        }
        Ok(results)
    }

    async fn inquire_one(
        &self,
        participant: &ParticipantName,
        tx_id: TxId,
        branch_id: &BranchId,
        deadline: Instant,
    ) -> Result<Inquired, Error> {
        let known = |verdict, ended| Ok(Inquired { verdict, ended });
        let view = match self.wait(Key::Tx(tx_id), Until::Durable, deadline).await {
            Ok(Answer::View(view)) => view,
            Ok(Answer::NotYet(_)) => return known(Verdict::Running, false),
            Err(Error::NeverSeen) => return known(Verdict::NeverSeen, false),
            Err(Error::Purged) => return known(Verdict::Purged, true),
            Err(error) => return Err(error),
        };
        if view.stripped {
            return known(Verdict::Purged, true);
        }
        let branch = view.tx.branch_by_id(branch_id);
        let Some(branch) = branch.filter(|branch| branch.spec.participant == *participant) else {
            return known(Verdict::NeverSeen, false);
        };
        let verdict = match view.tx.phase().decision() {
            None => return known(Verdict::Running, false),
            Some(Decision::Commit) => Verdict::Commit,
            Some(Decision::Abort(_)) => Verdict::Cancel,
        };
        if branch.is_owed() {
            let input = Input::Retry { branch: Some(branch.number), operator: None };
            self.input(tx_id, input, Until::Durable, deadline).await?;
        }
        known(verdict, !branch.is_owed())
    }

    /// A page of transactions, as they are stored.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Stored>, Error> {
        Ok(self.shared.store.list(filter).await?)
    }

    /// A transaction's events.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn events(&self, tx_id: TxId) -> Result<Vec<unanimo_core::Event>, Error> {
        Ok(self.shared.store.events(tx_id).await?)
    }
}
