//! Questions: what is, what becomes, and what a participant may do.

use std::sync::atomic::Ordering;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use unanimo_core::{
    Branch, BranchId, BranchNumber, BranchState, Decision, HeuristicKind, Input, ParticipantName,
    Timestamp, Transaction, TxId, Version,
};

use super::super::message::Message;
use super::super::{Answer, Error, Until, View};
use super::{Handle, PEEK_MAX};
use crate::store::{AttentionCount, Filter, Key, Page, PhaseCount, Stored};

/// Instruction for a branch that a participant holds in doubt (promise S12).
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
    /// Touch nothing: it is known to have ended against the decision.
    Heuristic,
}

/// A branch, by either of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BranchKey {
    /// The initiator's.
    Id(BranchId),
    /// Its place in the transaction.
    Number(BranchNumber),
}

/// Answer to an inquiry for one branch.
#[derive(Clone, Debug)]
pub struct Inquired {
    /// The instruction.
    pub verdict: Verdict,
    /// Its transaction has ended, durably: nothing is sent to it any more, not after a crash
    /// either.
    pub ended: bool,
    /// The branch and its transaction, if they are known.
    pub of: Option<(Box<Transaction>, BranchNumber)>,
}

/// A transaction as it is now and, if it is live, as it becomes: each later state, or the reason
/// for which no more comes. A sender that goes away has stopped with its engine.
pub type Watched = (Box<View>, Option<watch::Receiver<Result<Box<View>, Error>>>);

impl Handle {
    /// Returns the time of day that new transactions go by.
    pub(crate) fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Follows a transaction: what it is now and, if it is live, what it becomes.
    ///
    /// # Errors
    /// There is none, or the store does not answer.
    pub async fn watch(&self, key: Key, deadline: Instant) -> Result<Watched, Error> {
        self.search(|| self.try_watch(&key, deadline)).await
    }

    /// Makes one attempt; `None` if the transaction moved meanwhile.
    async fn try_watch(&self, key: &Key, deadline: Instant) -> Result<Option<Watched>, Error> {
        let view = match self.wait(key.clone(), Until::Durable, deadline).await? {
            Answer::View(view) => view,
            Answer::NotYet(_) => return Err(Error::StoreSilent),
        };
        if view.tx.phase().ended_at().is_some() {
            return Ok(Some((view, None)));
        }
        let (reply, receiver) = oneshot::channel();
        self.send(Message::Watch { key: key.clone(), reply })?;
        let following = tokio::time::timeout_at(deadline + PEEK_MAX, receiver).await;
        let following = following.map_err(|_| Error::StoreSilent)?;
        let Some(mut receiver) = following.map_err(|_| Error::Stopped)? else {
            return Ok(None);
        };
        // Looked at after the loop has answered: whoever comes later than the end of all watches
        // would wait for nothing.
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        let view = receiver.borrow_and_update().clone()?;
        Ok(Some((view, Some(receiver))))
    }

    /// Answers a participant that holds branches in doubt. Commits and Cancels that are owed to
    /// them are sent at once.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn inquire(
        &self,
        participant: &ParticipantName,
        branches: &[(TxId, BranchKey)],
        deadline: Instant,
    ) -> Result<Vec<Inquired>, Error> {
        let mut results = Vec::with_capacity(branches.len());
        for (tx_id, key) in branches {
            // What there was no time for is left as it is, and asked for again.
            let left = Inquired { verdict: Verdict::Running, ended: false, of: None };
            results.push(match Instant::now() < deadline {
                true => self.inquire_one(participant, *tx_id, key, deadline).await?,
                false => left,
            });
        }
        Ok(results)
    }

    /// Reads a transaction that is at rest: it has ended, or it sleeps and is not decided, or this participant fails
    /// that it waits for. It is left where it is; `None` if it is in memory, or something else.
    async fn at_rest(
        &self,
        participant: &ParticipantName,
        tx_id: TxId,
    ) -> Result<Option<Box<View>>, Error> {
        let (reply, receiver) = oneshot::channel();
        let transactions = vec![(tx_id, Version::default())];
        self.send(Message::NotLive { transactions, reply })?;
        if receiver.await.map_err(|_| Error::Stopped)?.is_empty() {
            return Ok(None);
        }
        let stored = self.read(&Key::Tx(tx_id)).await?;
        let entry = self.shared.directory.find(participant);
        let fails = entry.is_some_and(|entry| entry.is_failing());
        let rests = |stored: &Stored| {
            let state = &stored.record.state;
            let sleeps = state.wake_at.is_some() && (fails || state.phase.decision().is_none());
            sleeps || state.phase.ended_at().is_some()
        };
        Ok(stored.filter(rests).map(|stored| Box::new(stored.into_view())))
    }

    async fn inquire_one(
        &self,
        participant: &ParticipantName,
        tx_id: TxId,
        key: &BranchKey,
        deadline: Instant,
    ) -> Result<Inquired, Error> {
        let unknown = |verdict, ended| Ok(Inquired { verdict, ended, of: None });
        // One that sleeps is asked about every half a minute, and is not woken for that.
        let at_rest = self.at_rest(participant, tx_id);
        let found = match tokio::time::timeout_at(deadline + PEEK_MAX, at_rest).await {
            Ok(Ok(Some(view))) if own_branch(&view.tx, key, participant).is_some() => {
                Ok(Answer::View(view))
            }
            // It is none of this participant's, and is not woken for it.
            Ok(Ok(Some(view))) if !participant.is_beside(&view.tx.identity().gid) => {
                return unknown(Verdict::NeverSeen, false);
            }
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) => self.wait(Key::Tx(tx_id), Until::Durable, deadline).await,
            Err(_) => Ok(Answer::NotYet(None)),
        };
        let view = match found {
            Ok(Answer::View(view)) => view,
            // One that cannot be read, or that somebody holds, is left alone; others of this inquiry are not
            // concerned.
            Ok(Answer::NotYet(_)) | Err(Error::Unreadable(_) | Error::Moving) => {
                return unknown(Verdict::Running, false);
            }
            Err(Error::Store(error)) if error.is_of_rows() => {
                return unknown(Verdict::Running, false);
            }
            Err(Error::NeverSeen) => return unknown(Verdict::NeverSeen, false),
            Err(Error::Purged) => return unknown(Verdict::Purged, true),
            Err(error) => return Err(error),
        };
        if view.stripped {
            return unknown(Verdict::Purged, true);
        }
        let (tx, is_asleep) = (view.tx, view.is_asleep);
        let number = own_branch(&tx, key, participant);
        let Some(branch) = number.and_then(|number| tx.branch(number)) else {
            return unknown(Verdict::NeverSeen, false);
        };
        let (number, verdict) = (branch.number, verdict(branch, tx.phase().decision()));
        // One that sleeps is left to the scan, which brings it back once its participant answers.
        if branch.is_owed() && !is_asleep {
            let input = Input::Retry { number: Some(number), operator: None };
            // The verdict stands, whether what is owed is sent now or in its own time.
            if let Err(error) = self.input(Key::Tx(tx_id), input, Until::Durable, deadline).await {
                tracing::debug!(%tx_id, %error, "what is owed is not sent at once");
            }
        }
        // Of the answers to phase two only the last one of a transaction is waited for: before that,
        // a crash may forget this branch's, and it would be told again.
        let ended = tx.phase().ended_at().is_some();
        Ok(Inquired { verdict, ended, of: Some((Box::new(tx), number)) })
    }

    /// A page of transactions, as they are stored, those among them that cannot be read.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn list(&self, filter: &Filter) -> Result<Page, Error> {
        Ok(self.shared.store.transactions().list(filter).await?)
    }

    /// Numbers of transactions by phase, and of those that need a person. Of the ended ones only those
    /// that ended at this time or later are counted.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn count(
        &self,
        ended_from: Option<Timestamp>,
    ) -> Result<(Vec<PhaseCount>, AttentionCount), Error> {
        let transactions = self.shared.store.transactions();
        let counted = transactions.count(ended_from.unwrap_or_default()).await?;
        Ok((counted, transactions.attention().await?))
    }

    /// A transaction's events.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn events(&self, tx_id: TxId) -> Result<Vec<unanimo_core::Event>, Error> {
        Ok(self.shared.store.transactions().events(tx_id).await?)
    }

    /// A transaction's recorded history after a version: the JSON of each entry, oldest first.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn history(&self, tx_id: TxId, after: Version) -> Result<Vec<String>, Error> {
        Ok(self.shared.store.transactions().history(tx_id, after).await?)
    }
}

/// Returns the branch of this key, if it is the participant's.
fn own_branch(
    tx: &Transaction,
    key: &BranchKey,
    participant: &ParticipantName,
) -> Option<BranchNumber> {
    let branch = match key {
        BranchKey::Id(id) => tx.branch_by_id(id),
        BranchKey::Number(number) => tx.branch(*number),
    };
    branch.filter(|branch| branch.spec.participant == *participant).map(|branch| branch.number)
}

fn verdict(branch: &Branch, decision: Option<Decision>) -> Verdict {
    match (branch.state(decision), decision) {
        (_, None) => Verdict::Running,
        (BranchState::Heuristic(HeuristicKind::Rollback), Some(Decision::Commit))
        | (BranchState::Heuristic(HeuristicKind::Commit), Some(Decision::Abort(_))) => {
            Verdict::Heuristic
        }
        // The effect of a step that is kept stays, whatever the saga's end.
        (BranchState::Kept, Some(_)) | (_, Some(Decision::Commit)) => Verdict::Commit,
        (_, Some(Decision::Abort(_))) => Verdict::Cancel,
    }
}
