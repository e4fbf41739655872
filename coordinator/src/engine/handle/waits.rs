//! Waits for the engine's loop, and what is told when the time is up.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use unanimo_core::Digests;

use super::super::message::{Failure, Message, Reply};
use super::super::{Answer, Error, Until, View};
use super::{Handle, PEEK_MAX, Reached};
use crate::store::{Key, Stored};

/// Time past a deadline that the look may take: its result is to come before the end of all.
const LOOK_MAX: Duration = Duration::from_millis(40);

/// Treatment of a transaction that sleeps in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asleep {
    /// It is brought to memory.
    Woken,
    /// It is left where it is, and its row answers.
    Left,
}

impl Handle {
    /// Waits for a transaction, wherever it is.
    ///
    /// # Errors
    /// There is none, or the store does not answer.
    pub async fn wait(&self, key: Key, until: Until, deadline: Instant) -> Result<Answer, Error> {
        self.observe(key, until, Asleep::Woken, deadline).await
    }

    /// Looks at a transaction, wherever it is: all that is known of it is durable. One that sleeps is left asleep.
    /// Each time that it is woken writes two rows, which stay until it is purged.
    ///
    /// # Errors
    /// There is none, or the store does not answer.
    pub async fn look(&self, key: Key, deadline: Instant) -> Result<Answer, Error> {
        self.observe(key, Until::Durable, Asleep::Left, deadline).await
    }

    async fn observe(
        &self,
        key: Key,
        until: Until,
        asleep: Asleep,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let observe = |reply| Ok(Message::Observe { key: key.clone(), until, reply });
        match self.reach(&key, asleep, deadline, observe).await? {
            Reached::Live(answer) => Ok(answer),
            Reached::AtRest(stored) => Ok(Answer::View(Box::new(stored.into_view()))),
        }
    }

    /// Tells whether what was read sleeps. The store has told nothing that a failover undoes; the loop is asked
    /// after that, because the row may be of an earlier time than what it remembers.
    pub(super) async fn sleeps(&self, stored: &Stored) -> Result<bool, Error> {
        if stored.record.state.wake_at.is_none() {
            return Ok(false);
        }
        let (reply, receiver) = oneshot::channel();
        self.send(Message::Sleeps { tx_id: stored.record.identity.tx_id, reply })?;
        receiver.await.map_err(|_| Error::Stopped)
    }

    /// Has the loop bring back what it remembers of a transaction that is not in the store. Tells whether it is to be looked
    /// for again: it is in memory then, or was stored meanwhile.
    pub(super) async fn is_recalled(&self, key: &Key) -> Result<bool, Error> {
        let (reply, receiver) = oneshot::channel();
        self.send(Message::Recall { key: key.clone(), reply })?;
        receiver.await.map_err(|_| Error::Stopped)
    }

    /// Asks the loop, and waits until it answers or the time is up: then looks at what is known of
    /// the transaction by then.
    pub(super) async fn ask(
        &self,
        key: &Key,
        request: Option<Digests>,
        deadline: Instant,
        message: impl FnOnce(Reply) -> Message,
    ) -> Result<Answer, Failure> {
        let (reply, receiver) = oneshot::channel();
        self.send(message(reply))?;
        self.answer_or_look(receiver, key, request, deadline).await
    }

    /// Waits until the loop answers or the time is up: then looks at what is known of the transaction
    /// by then.
    pub(super) async fn answer_or_look(
        &self,
        mut receiver: Receiver,
        key: &Key,
        request: Option<Digests>,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        if let Some(answer) = answered(&mut receiver, deadline).await {
            return answer;
        }
        let known = self.not_yet(key.clone(), request, deadline + LOOK_MAX).await?;
        // The answer may have come meanwhile, and a refusal is not the transaction as it stands.
        match receiver.try_recv() {
            Ok(answer) => answer.map(Answer::View),
            Err(_) => Ok(known),
        }
    }

    /// The wait ran out: the transaction as it stands, if what it has under way is durable by then.
    /// With a request, a transaction of another one is only seen where all of it is durable.
    async fn not_yet(
        &self,
        key: Key,
        request: Option<Digests>,
        until: Instant,
    ) -> Result<Answer, Error> {
        let (reply, receiver) = oneshot::channel();
        self.send(Message::Peek { key, request: request.map(Box::new), reply })?;
        // An engine that has lost touch with its database looks at no message until it is back.
        let Ok(known) = tokio::time::timeout_at(until, receiver).await else {
            return Ok(Answer::NotYet(None));
        };
        let tx_id = match known.map_err(|_| Error::Stopped)? {
            Some((_, Some(view))) => return Ok(Answer::View(view)),
            Some((tx_id, None)) => tx_id,
            None => return Ok(Answer::NotYet(None)),
        };
        let (reply, mut receiver) = oneshot::channel();
        self.send(Message::Observe { key: Key::Tx(tx_id), until: Until::Durable, reply })?;
        Ok(match answered(&mut receiver, until).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) | None => Answer::NotYet(Some(tx_id)),
        })
    }
}

/// Where an answer of the loop comes.
type Receiver = oneshot::Receiver<Result<Box<View>, Failure>>;

/// Waits for the loop's answer until the time is up: then `None`.
async fn answered(receiver: &mut Receiver, deadline: Instant) -> Option<Result<Answer, Failure>> {
    Some(match tokio::time::timeout_at(deadline, receiver).await.ok()? {
        Ok(answer) => answer.map(Answer::View),
        Err(_) => Err(Error::Stopped.into()),
    })
}

/// Gives an answer in time, whatever becomes of it. Everything that must go to its end does so in a
/// task of its own.
pub(super) async fn in_time(
    deadline: Instant,
    answering: impl Future<Output = Result<Answer, Error>>,
) -> Result<Answer, Error> {
    match tokio::time::timeout_at(deadline + PEEK_MAX, answering).await {
        Ok(answer) => answer,
        Err(_) => Ok(Answer::NotYet(None)),
    }
}
