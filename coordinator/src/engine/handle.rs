//! The engine's face: finds transactions wherever they are, asks, and waits.

mod operator;
mod query;
mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use unanimo_core::{
    BranchId, Incarnation, Input, ParticipantName, Phase, Record, Transaction, TxId, Version, Vote,
};

pub use self::query::{BranchKey, Inquired, Verdict};
use super::admission::Admission;
use super::message::{Failure, Message, Reply};
use super::service::Service;
use super::timers::Timers;
use super::{Answer, Error, Options, Until, View};
use crate::cluster::lease::Lease;
use crate::env::Env;
use crate::metrics::Metrics;
use crate::participants::caller::Caller;
use crate::participants::directory::Directory;
use crate::store::journal::{self, Completion};
use crate::store::{Claim, Key, Store, Stored};

/// How often a transaction that moves between memory and store is looked for before the caller is
/// told to ask again.
const SEARCHES_MAX: usize = 5;

/// How long a call whose time is up waits for what can be said at once: less than the time that is
/// kept back for the answer to travel.
const PEEK_MAX: Duration = Duration::from_millis(50);

/// Where requests are handed over. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inbox: mpsc::UnboundedSender<Message>,
    me: Incarnation,
    store: Arc<dyn Store>,
    directory: Arc<Directory>,
    admission: Arc<Admission>,
    options: Arc<Options>,
    metrics: Arc<Metrics>,
    draining: AtomicBool,
    /// Held from the look whether a transaction is in memory until it has been brought there. Two
    /// claims of one at once would both be of this incarnation: the first one's life would go on with
    /// a version that the second has taken.
    taking_over: tokio::sync::Mutex<()>,
}

/// What the engine is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) me: Incarnation,
    pub(crate) options: Options,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) lease: Lease,
    pub(crate) journal: journal::Handle,
    pub(crate) settled: mpsc::UnboundedReceiver<Vec<Completion>>,
    pub(crate) adoption_wanted: Arc<Notify>,
}

/// An engine and its face.
pub(crate) fn engine(parts: Parts) -> (Handle, Service) {
    let Parts { me, options, env, store, directory, metrics, lease, journal, settled, .. } = parts;
    let (sender, inbox) = mpsc::unbounded_channel();
    let admission = Arc::new(Admission::new(options.bounds));
    let options = Arc::new(options);
    let service = Service {
        me,
        cluster_id: store.cluster_id().into(),
        options: Arc::clone(&options),
        env,
        metrics: Arc::clone(&metrics),
        caller: Caller::new(Arc::clone(&directory), lease.clone(), Arc::clone(&metrics)),
        lease,
        journal,
        admission: Arc::clone(&admission),
        adoption_wanted: parts.adoption_wanted,
        inbox,
        own: sender.downgrade(),
        settled,
        live: HashMap::new(),
        by_gid: HashMap::new(),
        timers: Timers::default(),
        writes: 0,
    };
    let shared = Shared {
        inbox: sender,
        me,
        store,
        directory,
        admission,
        options,
        metrics,
        draining: AtomicBool::new(false),
        taking_over: tokio::sync::Mutex::new(()),
    };
    (Handle { shared: Arc::new(shared) }, service)
}

/// Where a transaction is.
enum Found {
    /// In the engine.
    Live,
    /// In the store only: it has ended.
    Stored(Box<Stored>),
}

impl Handle {
    /// Asks for COMMIT.
    ///
    /// # Errors
    /// The list is wrong, or the transaction commits by itself.
    pub async fn commit(
        &self,
        tx_id: TxId,
        listed: Vec<(BranchId, Option<Vote>)>,
        until: Until,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        self.input(tx_id, Input::CommitAsked { listed }, until, deadline).await
    }

    /// Asks for ABORT.
    ///
    /// # Errors
    /// There is no such transaction.
    pub async fn rollback(
        &self,
        tx_id: TxId,
        until: Until,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        self.input(tx_id, Input::RollbackAsked, until, deadline).await
    }

    /// Waits for a transaction, wherever it is.
    ///
    /// # Errors
    /// There is none, or the store does not answer.
    pub async fn wait(&self, key: Key, until: Until, deadline: Instant) -> Result<Answer, Error> {
        for _ in 0..SEARCHES_MAX {
            let observed = key.clone();
            let message = |reply| Message::Observe { key: observed, until, reply };
            match self.ask(deadline, message).await {
                Ok(Some(view)) => return Ok(Answer::View(view)),
                Ok(None) => return self.not_yet(key).await,
                Err(Failure::Error(error)) => return Err(error),
                Err(Failure::NotLive | Failure::Elsewhere(_)) => {}
            }
            if let Found::Stored(stored) = self.locate(&key).await? {
                return Ok(Answer::View(Box::new(stored.into_view())));
            }
        }
        Err(Error::Moving)
    }

    async fn input(
        &self,
        tx_id: TxId,
        input: Input,
        until: Until,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        for _ in 0..SEARCHES_MAX {
            let copy = input.clone();
            let message = |reply| Message::Input { tx_id, input: copy, adopt: None, until, reply };
            match self.ask(deadline, message).await {
                Ok(Some(view)) => return Ok(Answer::View(view)),
                Ok(None) => return self.not_yet(Key::Tx(tx_id)).await,
                Err(Failure::Error(error)) => return Err(error),
                Err(Failure::NotLive | Failure::Elsewhere(_)) => {}
            }
            if let Found::Stored(stored) = self.locate(&Key::Tx(tx_id)).await? {
                return self.on_ended(*stored, input);
            }
        }
        Err(Error::Moving)
    }

    /// What an input means for a transaction that has ended: nothing changes, but it may be wrong.
    fn on_ended(&self, stored: Stored, input: Input) -> Result<Answer, Error> {
        let stripped = stored.stripped;
        let mut tx = Transaction::restore(stored.record);
        if !stripped {
            let at = tx.identity().created_at;
            tx.apply(input, at, &self.shared.options.policy)?;
        } else if !matches!(input, Input::CommitAsked { .. } | Input::RollbackAsked) {
            return Err(Error::Stripped);
        }
        Ok(Answer::View(Box::new(View { tx, stripped })))
    }

    /// Brings transactions to memory that this incarnation has durably made its own.
    pub(crate) async fn adopt(&self, records: Vec<Record>) {
        let (done, finished) = oneshot::channel();
        if self.send(Message::Adopt { records, done }).is_ok() {
            // The engine may end meanwhile.
            let _ = finished.await;
        }
    }

    /// Takes the turn to take over: one claim at a time, until what it brought is in memory.
    pub(crate) async fn taking_over(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.shared.taking_over.lock().await
    }

    /// Which of these are not in memory.
    pub(crate) async fn not_live(
        &self,
        transactions: Vec<(TxId, Version)>,
    ) -> Vec<(TxId, Version)> {
        let (reply, receiver) = oneshot::channel();
        match self.send(Message::NotLive { transactions, reply }) {
            Ok(()) => receiver.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Participants came back: what waits for them goes out.
    pub(crate) fn returned(&self, names: Vec<ParticipantName>) {
        // The engine may have ended.
        let _ = self.send(Message::Returned(names));
    }

    /// Refuses new work from now on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// How many transactions are in memory, and the bytes of their payloads.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        (self.shared.admission.transactions(), self.shared.admission.bytes())
    }

    /// The rules that requests are checked against.
    #[must_use]
    pub fn policy(&self) -> &unanimo_core::Policy {
        &self.shared.options.policy
    }

    /// The name of the database.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        self.shared.store.cluster_id()
    }

    fn send(&self, message: Message) -> Result<(), Error> {
        self.shared.inbox.send(message).map_err(|_| Error::Stopped)
    }

    /// Asks the loop, and waits until it answers or the time is up: then `None`.
    async fn ask(
        &self,
        deadline: Instant,
        message: impl FnOnce(Reply) -> Message,
    ) -> Result<Option<Box<View>>, Failure> {
        let (reply, receiver) = oneshot::channel();
        self.send(message(reply))?;
        answered(receiver, deadline).await
    }

    /// The wait ran out: what can be said at once.
    async fn not_yet(&self, key: Key) -> Result<Answer, Error> {
        let (reply, receiver) = oneshot::channel();
        self.send(Message::Peek { key, reply })?;
        // An engine that has lost touch with its database looks at no message until it is back.
        let Ok(known) = tokio::time::timeout(PEEK_MAX, receiver).await else {
            return Ok(Answer::NotYet(None));
        };
        Ok(match known.map_err(|_| Error::Stopped)? {
            Some((_, Some(view))) => Answer::View(view),
            Some((tx_id, None)) => Answer::NotYet(Some(tx_id)),
            None => Answer::NotYet(None),
        })
    }

    /// Finds a transaction that is not in memory, and brings it there if it has not ended.
    async fn locate(&self, key: &Key) -> Result<Found, Error> {
        let Some(stored) = self.shared.store.transactions().find(key).await? else {
            return self.missing(key).await;
        };
        if matches!(stored.record.state.phase, Phase::Ended { .. }) {
            return Ok(Found::Stored(Box::new(stored)));
        }
        let Stored { record, owner, .. } = stored;
        let (this, tx_id, version) = (self.clone(), record.identity.tx_id, record.version);
        // In a task of its own: what is claimed must reach the engine, whoever goes away.
        let bringing = tokio::spawn(async move {
            let _turn = this.taking_over().await;
            if let Some(record) = this.claim(tx_id, owner, version).await? {
                this.adopt(vec![record]).await;
            }
            Ok::<(), Error>(())
        });
        bringing.await.unwrap_or(Err(Error::Stopped))?;
        Ok(Found::Live)
    }

    /// Never seen, or purged: told by the time that the identifier carries.
    async fn missing(&self, key: &Key) -> Result<Found, Error> {
        let Key::Tx(tx_id) = key else { return Err(Error::NeverSeen) };
        let watermark = self.shared.store.purge().watermark().await?;
        Err(if tx_id.created_ms() < watermark.0 { Error::Purged } else { Error::NeverSeen })
    }

    /// Makes a transaction this incarnation's own, if it is not in memory here after all. For whoever
    /// has the turn to [take over](Self::taking_over).
    async fn claim(
        &self,
        tx_id: TxId,
        owner: Incarnation,
        version: Version,
    ) -> Result<Option<Record>, Error> {
        if self.not_live(vec![(tx_id, version)]).await.is_empty() {
            return Ok(None);
        }
        let Shared { store, me, .. } = &*self.shared;
        let claimed = store.transactions().claim(*me, Claim::One(tx_id, owner, version)).await?;
        Ok(claimed.into_iter().next())
    }
}

impl Stored {
    fn into_view(self) -> View {
        View { tx: Transaction::restore(self.record), stripped: self.stripped }
    }
}

/// Waits for the loop's answer until the time is up: then `None`.
async fn answered(
    receiver: oneshot::Receiver<Result<Box<View>, Failure>>,
    deadline: Instant,
) -> Result<Option<Box<View>>, Failure> {
    match tokio::time::timeout_at(deadline, receiver).await {
        Ok(Ok(answer)) => answer.map(Some),
        Ok(Err(_)) => Err(Error::Stopped.into()),
        Err(_) => Ok(None),
    }
}
