//! The engine's face: checks, admits, waits, and finds transactions that are not in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use unanimo_core::{
    BranchId, BranchSpec, Decision, Definition, Digest, Enlistment, HeuristicKind, Incarnation,
    Input, ParticipantName, Phase, Record, Rejection, Transaction, TxId, Version, Violation, Vote,
};

use super::admission::{Admission, Permit};
use super::message::{Failure, Message, Reply};
use super::service::Service;
use super::timers::Timers;
use super::{Answer, Error, Options, Overloaded, Until, View};
use crate::cluster::lease::Lease;
use crate::env::Env;
use crate::metrics::Metrics;
use crate::participants::caller::Caller;
use crate::participants::directory::Directory;
use crate::store::journal::{self, Settled};
use crate::store::{Claim, Filter, Key, Store, Stored};

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
    pub(crate) settled: mpsc::UnboundedReceiver<Vec<Settled>>,
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
    };
    (Handle { shared: Arc::new(shared) }, service)
}

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

/// Where a transaction is.
enum Found {
    /// In the engine.
    Live,
    /// In the store only: it has ended.
    Stored(Box<Stored>),
}

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
            return Err(Error::Invalid(unknown));
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

    /// The answer for a gid that is known already.
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
        let stored = self.shared.store.find(gid).await.map_err(Error::from)?;
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
                return Err(Error::Invalid(vec![Violation::new("branch.participant", rule)]));
            }
            checked => checked?,
        }
        self.refuse_if(shared.draining.load(Ordering::Relaxed), "draining", || Error::Draining)?;
        for _ in 0..SEARCHES_MAX {
            let permit = self.place(0, spec.payload.len())?;
            let spec = spec.clone();
            let message =
                |reply| Message::Enlist { tx_id, spec: spec.clone(), enlistment, permit, reply };
            match self.ask(deadline, message).await {
                Ok(Some(view)) => return Ok(Answer::View(view)),
                Ok(None) => return self.not_yet(Key::Tx(tx_id)).await,
                Err(Failure::Error(error)) => return Err(error),
                Err(Failure::NotLive | Failure::Elsewhere(_)) => {}
            }
            if let Found::Stored(stored) = self.locate(&Key::Tx(tx_id)).await? {
                return self.on_ended(*stored, Input::Enlist { spec, enlistment });
            }
        }
        Err(Error::Moving)
    }

    /// The branch as it stands, if the transaction has it already.
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
        let until = Until::Voted(branch.number);
        self.input(tx_id, input, until, deadline).await.map(Some)
    }

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

    /// Sends what is owed at once.
    ///
    /// # Errors
    /// There is no such transaction or branch.
    pub async fn retry(
        &self,
        tx_id: TxId,
        branch: Option<&BranchId>,
        operator: String,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let branch = match branch {
            Some(id) => Some(self.number_of(tx_id, id, deadline).await?),
            None => None,
        };
        let input = Input::Retry { branch, operator: Some(operator) };
        self.input(tx_id, input, Until::Durable, deadline).await
    }

    /// Ends a branch by an operator's word.
    ///
    /// # Errors
    /// There is no such branch, or nothing is owed to it.
    pub async fn resolve(
        &self,
        tx_id: TxId,
        branch: &BranchId,
        kind: HeuristicKind,
        operator: String,
        note: String,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let branch = self.number_of(tx_id, branch, deadline).await?;
        let input = Input::Resolve { branch, kind, operator, note };
        self.input(tx_id, input, Until::Durable, deadline).await
    }

    async fn number_of(
        &self,
        tx_id: TxId,
        id: &BranchId,
        deadline: Instant,
    ) -> Result<unanimo_core::BranchNumber, Error> {
        let view = match self.wait(Key::Tx(tx_id), Until::Durable, deadline).await? {
            Answer::View(view) if view.stripped => return Err(Error::Stripped),
            Answer::View(view) => view,
            Answer::NotYet(_) => return Err(Error::Moving),
        };
        view.tx.branch_by_id(id).map(|branch| branch.number).ok_or_else(|| {
            let rule = format!("must name a branch of the transaction, {id} is none");
            Error::Invalid(vec![Violation::new("branch_id", rule)])
        })
    }

    /// Settles a heuristic transaction that has ended.
    ///
    /// # Errors
    /// It has not ended, is not heuristic, or was forgotten before.
    pub async fn forget(
        &self,
        tx_id: TxId,
        operator: String,
        note: String,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        for _ in 0..SEARCHES_MAX {
            let adopt = match self.locate(&Key::Tx(tx_id)).await? {
                Found::Live => None,
                Found::Stored(stored) if stored.stripped => {
                    return Err(Rejection::NothingToForget.into());
                }
                Found::Stored(stored) => {
                    let (owner, version) = (stored.owner, stored.record.version);
                    let record = self.claim(tx_id, owner, version).await?;
                    // Somebody was faster: look again.
                    let Some(record) = record else { continue };
                    Some(Box::new(record))
                }
            };
            let input = Input::Forget { operator: operator.clone(), note: note.clone() };
            let until = Until::Durable;
            let message = |reply| Message::Input { tx_id, input, adopt, until, reply };
            match self.ask(deadline, message).await {
                Ok(Some(view)) => return Ok(Answer::View(view)),
                Ok(None) => return Ok(Answer::NotYet(Some(tx_id))),
                Err(Failure::Error(error)) => return Err(error),
                Err(Failure::NotLive | Failure::Elsewhere(_)) => {}
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

    /// Brings transactions to memory that this incarnation has durably made its own.
    pub(crate) async fn adopt(&self, records: Vec<Record>) {
        let (done, finished) = oneshot::channel();
        if self.send(Message::Adopt { records, done }).is_ok() {
            // The engine may end meanwhile.
            let _ = finished.await;
        }
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
        match tokio::time::timeout_at(deadline, receiver).await {
            Ok(Ok(answer)) => answer.map(Some),
            Ok(Err(_)) => Err(Error::Stopped.into()),
            Err(_) => Ok(None),
        }
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
        let Some(stored) = self.shared.store.find(key).await? else {
            return self.missing(key).await;
        };
        if matches!(stored.record.state.phase, Phase::Ended { .. }) {
            return Ok(Found::Stored(Box::new(stored)));
        }
        let Stored { record, owner, .. } = stored;
        let (this, tx_id, version) = (self.clone(), record.identity.tx_id, record.version);
        // In a task of its own: what is claimed must reach the engine, whoever goes away.
        let bringing = tokio::spawn(async move {
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
        let watermark = self.shared.store.purge_watermark().await?;
        Err(if tx_id.created_ms() < watermark.0 { Error::Purged } else { Error::NeverSeen })
    }

    /// Makes a transaction this incarnation's own, if it is not in memory here after all.
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
        let claimed = store.claim(*me, Claim::One(tx_id, owner, version)).await?;
        Ok(claimed.into_iter().next())
    }
}

impl Stored {
    fn into_view(self) -> View {
        View { tx: Transaction::restore(self.record), stripped: self.stripped }
    }
}
