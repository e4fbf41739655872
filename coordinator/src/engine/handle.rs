//! Handle of the engine: finds transactions wherever they are, hands inputs over, and waits.

mod begin;
mod children;
mod counts;
mod operator;
mod query;
mod waits;
mod work;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use unanimo_core::{BranchId, Incarnation, Input, ParticipantName, Phase, Transaction, TxId, Vote};

pub use self::operator::Word;
pub use self::query::{BranchKey, Inquired, Verdict, Watched};
use self::waits::Asleep;
use super::admission::Admission;
use super::clock::Clock;
use super::message::{Failure, Message, Reply};
use super::service::Service;
use super::service::alarms::Alarms;
use super::service::locks::TAKES_MAX;
use super::service::parking::Parking;
use super::service::traces::Traces;
use super::service::went_back::Known;
use super::timers::Timers;
use super::unread::AllUnread;
use super::unreadable;
use super::waiting::Waiting;
use super::{Answer, Error, Options, Until, View, on_stripped};
use crate::cluster::lease::Lease;
use crate::lines::Lines;
use crate::metrics::Metrics;
use crate::participants::caller::Caller;
use crate::participants::directory::Directory;
use crate::spans::Spans;
use crate::store::journal::{self, Completion};
use crate::store::{Key, Store, Stored};

/// Attempts to find a transaction that moves between memory and store before the caller is
/// told to ask again.
const SEARCHES_MAX: u32 = 9;

/// Pause after the second of these attempts; it doubles with each further one. Whoever moves the transaction
/// may have a write under way: all together they wait for more than a second.
const SEARCH_PAUSE: Duration = Duration::from_millis(10);

/// Time past a deadline by which everything has been answered. Enough for a look at what is known by
/// then, and less than the time that is kept back for the answer to travel.
pub(crate) const PEEK_MAX: Duration = Duration::from_millis(50);

/// Handle by which requests reach the engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

/// A handle for what the engine itself calls: it keeps nothing of the engine alive.
#[derive(Clone, Debug)]
pub(crate) struct WeakHandle(Weak<Shared>);

impl WeakHandle {
    /// Returns a handle, unless the engine has ended.
    pub(crate) fn upgrade(&self) -> Option<Handle> {
        Some(Handle { shared: self.0.upgrade()? })
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    inbox: mpsc::UnboundedSender<Message>,
    pub(super) me: Incarnation,
    pub(super) clock: Arc<Clock>,
    pub(super) store: Arc<dyn Store>,
    /// Without it nothing is looked for, or claimed, that nobody has asked for.
    pub(super) lease: Lease,
    pub(super) directory: Arc<Directory>,
    admission: Arc<Admission>,
    options: Arc<Options>,
    pub(super) metrics: Arc<Metrics>,
    draining: AtomicBool,
    /// Nobody may begin to follow a transaction any more.
    stopping: AtomicBool,
    /// Every transaction that earlier incarnations left was adopted once.
    pub(super) has_adopted: AtomicBool,
    /// It was looked once for whom transactions out of memory wait.
    pub(super) knows_waits: AtomicBool,
    /// Transactions that were found unreadable, and set aside.
    pub(super) set_aside: tokio::sync::Mutex<HashSet<TxId>>,
    /// Transactions whose claim has failed in so many scans in a row.
    pub(super) failed_claims: tokio::sync::Mutex<HashMap<TxId, u32>>,
    /// Bound on alarms of what cannot be read.
    pub(super) unreadable_alarms: Lines,
    /// Held from the look whether a transaction is in memory until it has been brought there.
    pub(super) claiming: tokio::sync::Mutex<()>,
}

/// Parts of the engine.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) me: Incarnation,
    pub(crate) options: Options,
    pub(crate) clock: Clock,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) lease: Lease,
    pub(crate) journal: journal::Handle,
    pub(crate) completions: mpsc::UnboundedReceiver<Vec<Completion>>,
    pub(crate) adoption_wanted: Arc<Notify>,
    pub(crate) spans: Spans,
}

/// Makes an engine and its handle.
pub(crate) fn engine(parts: Parts) -> (Handle, Service) {
    let Parts {
        me, options, clock, store, directory, metrics, lease, journal, completions, ..
    } = parts;
    let (sender, inbox) = mpsc::unbounded_channel();
    let admission = Arc::new(Admission::new(options.bounds, options.quotas.clone()));
    let gid_retention = options.gid_retention;
    let options = Arc::new(options);
    let clock = Arc::new(clock);
    let service = Service {
        me,
        cluster_id: store.cluster_id().into(),
        options: Arc::clone(&options),
        clock: Arc::clone(&clock),
        env: clock.env(),
        metrics: Arc::clone(&metrics),
        caller: Caller::new(directory.clone(), lease.clone(), metrics.clone(), parts.spans.clone()),
        lease: lease.clone(),
        journal,
        store: Arc::clone(&store),
        lock_slots: Arc::new(Semaphore::new(TAKES_MAX)),
        lock_waits: Default::default(),
        calls: Default::default(),
        waiting: Waiting::new(),
        retries: VecDeque::new(),
        failing: BTreeSet::new(),
        alarms: Alarms::new(),
        admission: Arc::clone(&admission),
        adoption_wanted: parts.adoption_wanted,
        inbox,
        rested: Vec::new(),
        own: sender.downgrade(),
        completions,
        live: HashMap::new(),
        by_gid: HashMap::new(),
        timers: Timers::default(),
        starts: Timers::default(),
        asleep: Timers::default(),
        doubts: Timers::default(),
        suspended: crate::suspension::suspended(),
        look_at_sleepers: Instant::now(),
        parking: Parking::new(),
        unread: AllUnread::default(),
        writes: 0,
        ends: Default::default(),
        went_back: Known::new(store.generation(), gid_retention),
        told_timeouts: Default::default(),
        traces: Traces::new(parts.spans),
    };
    let shared = Shared {
        inbox: sender,
        me,
        clock,
        store,
        lease,
        directory,
        admission,
        options,
        metrics,
        draining: AtomicBool::new(false),
        stopping: AtomicBool::new(false),
        has_adopted: AtomicBool::new(false),
        knows_waits: AtomicBool::new(false),
        set_aside: Default::default(),
        failed_claims: Default::default(),
        unreadable_alarms: unreadable::alarms(),
        claiming: tokio::sync::Mutex::new(()),
    };
    (Handle { shared: Arc::new(shared) }, service)
}

/// Answer to a request for a transaction, wherever that is.
enum Reached {
    /// Given by the engine's loop, or because the caller's time is up.
    Live(Answer),
    /// The transaction is in the store only: it has ended, or is left asleep.
    AtRest(Box<Stored>),
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
        self.input(Key::Tx(tx_id), Input::CommitAsked { listed }, until, deadline).await
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
        let answer = self.input(Key::Tx(tx_id), Input::RollbackAsked, until, deadline).await?;
        self.with_parent(answer, deadline).await
    }

    /// Has the parent of a child ask it again, which was ended by somebody else: both may have slept until
    /// another time.
    pub(super) async fn with_parent(
        &self,
        answer: Answer,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        if let Answer::View(view) = &answer
            && let Some(parent) = view.tx.identity().parent
        {
            let input = Input::Retry { number: Some(parent.number), operator: None };
            // Without it the parent asks when the child was to go on.
            let _ = self.input(Key::Tx(parent.tx_id), input, Until::Durable, deadline).await;
        }
        Ok(answer)
    }

    async fn input(
        &self,
        key: Key,
        input: Input,
        until: Until,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let message = |reply| {
            let (key, input) = (key.clone(), input.clone());
            Ok(Message::Input { key, input, adopt: None, until, reply })
        };
        match self.reach(&key, Asleep::Woken, deadline, message).await? {
            Reached::Live(answer) => Ok(answer),
            Reached::AtRest(stored) => self.on_ended(*stored, input),
        }
    }

    /// Asks the loop for a transaction. If that is not in memory, brings it there and asks again,
    /// with a new message, or answers with what is stored if it has ended or is left asleep. A search that
    /// outlives the deadline is given up.
    async fn reach(
        &self,
        key: &Key,
        asleep: Asleep,
        deadline: Instant,
        mut message: impl FnMut(Reply) -> Result<Message, Error>,
    ) -> Result<Reached, Error> {
        let search = self.search(|| {
            let (reply, receiver) = oneshot::channel();
            let sent = message(reply).and_then(|message| self.send(message));
            async move {
                sent?;
                match self.answer_or_look(receiver, key, None, deadline).await {
                    Ok(answer) => return Ok(Some(Reached::Live(answer))),
                    Err(Failure::Error(error)) => return Err(error),
                    Err(Failure::NotLive | Failure::Elsewhere(_)) => {}
                }
                Ok(self.locate(key, asleep).await?.map(Reached::AtRest))
            }
        });
        // Everything that must go to its end does so in tasks of its own.
        match tokio::time::timeout_at(deadline + PEEK_MAX, search).await {
            Ok(reached) => reached,
            Err(_) => Ok(Reached::Live(Answer::NotYet(None))),
        }
    }

    /// Makes attempts until one finds the transaction. Between two of them it may move: from one
    /// owner to another, or out of memory because it has ended.
    async fn search<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<Option<T>, Error>>,
    {
        for number in 1..=SEARCHES_MAX {
            if let Some(found) = attempt().await? {
                return Ok(found);
            }
            // The first attempt may have brought it to memory: the second one is made at once.
            if number > 1 && number < SEARCHES_MAX {
                tokio::time::sleep(SEARCH_PAUSE * 2_u32.pow(number - 2)).await;
            }
        }
        Err(Error::Moving)
    }

    /// Applies an input to a transaction that has ended: nothing changes, but the input may be
    /// rejected.
    fn on_ended(&self, stored: Stored, input: Input) -> Result<Answer, Error> {
        let stripped = stored.stripped;
        // Nothing is written, whatever the input does to the copy here.
        let revision = stored.record.version;
        let mut tx = Transaction::restore(stored.record);
        if !stripped {
            let at = tx.identity().created_at;
            tx.apply(input, at, &self.shared.options.policy)?;
        } else {
            on_stripped(&input)?;
        }
        Ok(Answer::View(Box::new(View { tx, revision, stripped, is_asleep: false })))
    }

    /// Participants came back: what waits for them goes out.
    pub(crate) fn returned(&self, names: Vec<ParticipantName>) {
        // The engine may have ended.
        let _ = self.send(Message::Returned(names));
    }

    /// Ends the streams of all who follow a transaction; the coordinator is about to stop.
    pub(crate) fn end_watches(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        // The engine may have ended.
        let _ = self.send(Message::EndWatches);
    }

    /// Refuses new work from now on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Returns a handle that does not keep the engine alive.
    pub(crate) fn downgrade(&self) -> WeakHandle {
        WeakHandle(Arc::downgrade(&self.shared))
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

    pub(super) fn send(&self, message: Message) -> Result<(), Error> {
        self.shared.inbox.send(message).map_err(|_| Error::Stopped)
    }

    /// Reads a transaction that is not in memory. One that has not ended, and is not left asleep, is adopted,
    /// and is in memory then: the answer is `None`.
    async fn locate(&self, key: &Key, asleep: Asleep) -> Result<Option<Box<Stored>>, Error> {
        let Some(stored) = self.read(key).await? else {
            return match self.is_recalled(key).await? {
                true => Ok(None),
                false => Err(self.missing(key).await?),
            };
        };
        let has_ended = matches!(stored.record.state.phase, Phase::Ended { .. });
        if has_ended || (asleep == Asleep::Left && self.sleeps(&stored).await?) {
            return Ok(Some(Box::new(stored)));
        }
        let Stored { record, owner, .. } = stored;
        self.adopt_one(record.identity.tx_id, owner, record.version).await?;
        Ok(None)
    }

    /// Tells *never seen* from *purged*, by the time that the identifier carries: the answer to who asks for what is not
    /// there, or must not learn that it is.
    pub(crate) async fn missing(&self, key: &Key) -> Result<Error, Error> {
        let Key::Tx(tx_id) = key else { return Ok(Error::UnknownGid) };
        let watermark = self.shared.store.purge().watermark().await?;
        Ok(if tx_id.created_ms() < watermark.0 { Error::Purged } else { Error::NeverSeen })
    }
}

impl Stored {
    fn into_view(self) -> View {
        let revision = self.record.version;
        let is_asleep = self.record.state.wake_at.is_some();
        let tx = Transaction::restore(self.record);
        View { tx, revision, stripped: self.stripped, is_asleep }
    }
}
