//! Operators' requests.

use tokio::sync::oneshot;
use tokio::time::Instant;
use unanimo_core::{
    BranchId, BranchNumber, Gid, HeuristicKind, Input, Payload, Rejection, TxId, Violation,
};

use super::super::children::gid_of_child;
use super::super::message::{Failure, Message};
use super::super::{Answer, Error, Until, View};
use super::Handle;
use super::waits::{Asleep, in_time};
use crate::store::Key;

/// An operator's word for the end of a branch.
#[derive(Debug)]
pub struct Word {
    /// The end.
    pub kind: HeuristicKind,
    /// The branch's output, for the steps that read it.
    pub output: Option<Payload>,
    /// Who says so.
    pub operator: String,
    /// The reason.
    pub note: String,
}

impl Handle {
    /// Returns the number of transactions in memory that wait for something other than time: not for their
    /// start, nor for that of a step. None is left once the engine has ended.
    pub(crate) async fn at_work(&self) -> usize {
        if self.in_flight().0 == 0 {
            return 0;
        }
        let (reply, count) = oneshot::channel();
        if self.send(Message::AtWork { reply }).is_err() {
            return 0;
        }
        count.await.unwrap_or(0)
    }

    /// Sends what is owed at once. The operator's reason may be empty.
    ///
    /// # Errors
    /// There is no such transaction or branch.
    pub async fn retry(
        &self,
        tx_id: TxId,
        branch: Option<&BranchId>,
        operator: String,
        note: String,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let number = match branch {
            Some(id) => Some(self.number_of(tx_id, id, deadline).await?),
            None => None,
        };
        let by = if note.is_empty() { operator } else { format!("{operator}: {note}") };
        let input = Input::Retry { number, operator: Some(by) };
        self.input(Key::Tx(tx_id), input, Until::Durable, deadline).await
    }

    /// Ends a branch by an operator's word.
    ///
    /// # Errors
    /// There is no such branch, or nothing is owed to it.
    pub async fn resolve(
        &self,
        tx_id: TxId,
        branch: &BranchId,
        word: Word,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let number = self.number_to_resolve(tx_id, branch, deadline).await?;
        let Word { kind, output, operator, note } = word;
        let input = Input::Resolve { number, kind, output, operator, note };
        self.input(Key::Tx(tx_id), input, Until::Durable, deadline).await
    }

    /// Refuses to end a child by word: it would wait for a decision that nobody sends any more.
    async fn number_to_resolve(
        &self,
        tx_id: TxId,
        id: &BranchId,
        deadline: Instant,
    ) -> Result<BranchNumber, Error> {
        let view = self.view_of(tx_id, deadline).await?;
        let branch =
            view.tx.branch_by_id(id).ok_or_else(|| Rejection::no_branch("branch_id", id))?;
        if branch.spec.is_child() {
            let child = gid_of_child(view.tx.identity(), id, branch.number);
            if self.has_ended(&child, deadline).await? {
                return Ok(branch.number);
            }
            let rule =
                format!("must be no child: resolve the branches of transaction {}", child.local());
            return Err(Rejection::from(Violation::new("branch_id", rule)).into());
        }
        Ok(branch.number)
    }

    /// Tells whether the child of this gid, or what stands in its place, has ended: then only a word can
    /// end the branch that waits for it.
    async fn has_ended(&self, child: &Gid, deadline: Instant) -> Result<bool, Error> {
        match self.wait(Key::Gid(child.clone()), Until::Durable, deadline).await {
            Ok(Answer::View(view)) => Ok(view.tx.phase().ended_at().is_some()),
            Ok(Answer::NotYet(_)) => Ok(false),
            Err(Error::UnknownGid) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn number_of(
        &self,
        tx_id: TxId,
        id: &BranchId,
        deadline: Instant,
    ) -> Result<BranchNumber, Error> {
        let view = self.view_of(tx_id, deadline).await?;
        let number = view.tx.branch_by_id(id).map(|branch| branch.number);
        number.ok_or_else(|| Rejection::no_branch("branch_id", id).into())
    }

    async fn view_of(&self, tx_id: TxId, deadline: Instant) -> Result<Box<View>, Error> {
        match self.wait(Key::Tx(tx_id), Until::Durable, deadline).await? {
            Answer::View(view) if view.stripped => Err(Error::Stripped),
            Answer::View(view) => Ok(view),
            Answer::NotYet(_) => Err(Error::StoreSilent),
        }
    }

    /// Clears the alarm of a heuristic transaction that has ended. One that was forgotten before is
    /// answered as it is.
    ///
    /// # Errors
    /// It has not ended, or is not heuristic.
    pub async fn forget(
        &self,
        tx_id: TxId,
        operator: String,
        note: String,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let this = self.clone();
        // In a task of its own: what is claimed must reach the engine, whoever goes away.
        let forgetting = tokio::spawn(async move {
            this.search(|| this.try_forget(tx_id, &operator, &note, deadline)).await
        });
        in_time(deadline, async { forgetting.await.unwrap_or(Err(Error::Stopped)) }).await
    }

    /// Makes one attempt; `None` if the transaction moved meanwhile.
    async fn try_forget(
        &self,
        tx_id: TxId,
        operator: &str,
        note: &str,
        deadline: Instant,
    ) -> Result<Option<Answer>, Error> {
        let (turn, adopt) = match self.locate(&Key::Tx(tx_id), Asleep::Woken).await? {
            None => (None, None),
            Some(stored) if stored.record.state.forgotten => {
                return Ok(Some(Answer::View(Box::new(stored.into_view()))));
            }
            Some(stored) if stored.stripped => return Err(Rejection::NothingToForget.into()),
            Some(stored) => {
                let (owner, version) = (stored.owner, stored.record.version);
                let turn = self.turn_to_claim().await;
                let Some(claimed) = self.claim(&turn, tx_id, owner, version).await? else {
                    return Ok(None);
                };
                (Some(turn), Some(Box::new(claimed)))
            }
        };
        let input = Input::Forget { operator: operator.to_owned(), note: note.to_owned() };
        let (reply, receiver) = oneshot::channel();
        let key = Key::Tx(tx_id);
        self.send(Message::Input { key, input, adopt, until: Until::Durable, reply })?;
        // Whoever has the next turn is answered behind this message.
        drop(turn);
        match self.answer_or_look(receiver, &Key::Tx(tx_id), None, deadline).await {
            Ok(answer) => Ok(Some(answer)),
            Err(Failure::Error(error)) => Err(error),
            Err(Failure::NotLive | Failure::Elsewhere(_)) => Ok(None),
        }
    }
}
