mod again;
mod gids;
pub(in crate::engine::service) mod lab;
mod lives;
mod looks;
mod rests;

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};
use unanimo_core::{
    ActionName, BranchId, BranchSpec, Decision, Definition, Drive, Incarnation, Mode,
    ParticipantName, Payload, TraceContext,
};
use unanimo_proto::v1::{
    BranchContext, CancelRequest, CancelResponse, CommitRequest, CommitResponse, Done,
    PrepareRequest, PrepareResponse, Prepared, commit_response, prepare_response,
};

use self::lab::{assemble, start, start_for};
use super::*;
use crate::cluster::lease;
use crate::config::Config;
use crate::engine::message::Message;
use crate::engine::{Answer, Clock, Handle, Parts, Until, engine};
use crate::env::{Env, SystemEnv};
use crate::metrics::Metrics;
use crate::participants::{ParticipantService, directory::Directory};
use crate::store::{
    self, Audit, BatchError, BatchWriter, Endpoints, Error, Feed, Incarnations, Locks,
    PostgresOptions, Purge, Store, Transactions, Waits, Webhooks, Write, Written, journal::journal,
};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn many_rows_that_went_back_are_one_alarm() {
    let (mut known, start) = (Known::default(), Instant::now());
    assert_eq!((0..1_000).filter(|_| known.tells(start)).count(), 1);
    assert!(!known.tells(start + TELL_WINDOW / 2));
    assert!(known.tells(start + TELL_WINDOW));
}

/// Batches that a promoted server lacks.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::service) enum Lacks {
    /// The batch of this number, from 0, in the middle of which the server before was replaced. It was acknowledged all
    /// the same.
    One(u32),
    /// Everything that the server before had.
    All,
}

/// Store whose server is replaced.
#[derive(Clone)]
pub(in crate::engine::service) struct Replaced {
    /// The promoted server.
    store: Arc<dyn Store>,
    lacks: Lacks,
    batches: Arc<AtomicU32>,
    generation: Arc<AtomicU64>,
    /// Times that somebody was about to look for transactions, or for whom they wait.
    looks: Arc<AtomicU32>,
    /// True as long as the promoted one writes nothing.
    held: watch::Sender<bool>,
}

impl Replaced {
    pub(in crate::engine::service) async fn open(url: &str, lacks: Lacks) -> Arc<Self> {
        let store = store::open(url, &PostgresOptions::default()).await.expect("a store");
        let (batches, generation, looks, held) = Default::default();
        Arc::new(Self { store, lacks, batches, generation, looks, held })
    }
}

impl fmt::Debug for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replaced").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Writer {
    writer: Box<dyn BatchWriter>,
    of: Replaced,
}

#[async_trait]
impl BatchWriter for Writer {
    async fn write(&mut self, batch: &[Write]) -> Result<Vec<Written>, BatchError> {
        let number = self.of.batches.fetch_add(1, Ordering::SeqCst);
        match self.of.lacks {
            Lacks::One(lost) if number == lost => {
                self.of.generation.fetch_add(1, Ordering::SeqCst);
                return Ok(vec![Written::Applied; batch.len()]);
            }
            Lacks::All if self.of.generation.load(Ordering::SeqCst) == 0 => {
                return Ok(vec![Written::Applied; batch.len()]);
            }
            Lacks::One(_) | Lacks::All => {}
        }
        let _ = self.of.held.subscribe().wait_for(|held| !held).await;
        self.writer.write(batch).await
    }
}

#[async_trait]
impl Store for Replaced {
    fn cluster_id(&self) -> &str {
        self.store.cluster_id()
    }
    fn incarnations(&self) -> &dyn Incarnations {
        self.store.incarnations()
    }
    fn transactions(&self) -> &dyn Transactions {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.store.transactions()
    }
    fn waits(&self) -> &dyn Waits {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.store.waits()
    }
    fn locks(&self) -> &dyn Locks {
        self.store.locks()
    }
    fn endpoints(&self) -> &dyn Endpoints {
        self.store.endpoints()
    }
    fn audit(&self) -> &dyn Audit {
        self.store.audit()
    }
    fn feed(&self) -> &dyn Feed {
        self.store.feed()
    }
    fn webhooks(&self) -> &dyn Webhooks {
        self.store.webhooks()
    }
    fn purge(&self) -> &dyn Purge {
        self.store.purge()
    }
    async fn batch_writer(&self, me: Incarnation) -> Result<Box<dyn BatchWriter>, Error> {
        let writer = self.store.batch_writer(me).await?;
        Ok(Box::new(Writer { writer, of: self.clone() }))
    }
    fn generation(&self) -> Option<u64> {
        Some(self.generation.load(Ordering::SeqCst))
    }
    async fn close(&self) {
        self.store.close().await;
    }
}

/// Participant that looks at what is stored whenever it is called, and notes what is too early.
struct Looks {
    store: Arc<dyn Store>,
    faults: Faults,
}

pub(in crate::engine::service) type Faults = Arc<Mutex<Vec<&'static str>>>;

/// As long as this is among the faults each Commit fails.
const DOWN: &str = "the participant is down";

impl Looks {
    async fn stored(&self, context: Option<BranchContext>) -> Option<Phase> {
        let tx_id = context.expect("a context").tx_id.parse().expect("a tx_id");
        let stored =
            self.store.transactions().find(&Key::Tx(TxId(tx_id))).await.expect("an answer");
        stored.map(|stored| stored.record.state.phase)
    }

    fn note(&self, fault: &'static str) {
        self.faults.lock().expect("no panic").push(fault);
    }
}

#[tonic::async_trait]
impl ParticipantService for Looks {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        if self.stored(request.into_inner().context).await.is_none() {
            self.note("S6: a Prepare whose branch is not stored");
        }
        let answer = Some(prepare_response::Answer::Prepared(Prepared::default()));
        Ok(Response::new(PrepareResponse { answer, ..Default::default() }))
    }
    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        if self.faults.lock().expect("no panic").contains(&DOWN) {
            return Err(Status::unavailable(DOWN));
        }
        let phase = self.stored(request.into_inner().context).await;
        if phase.and_then(|phase| phase.decision()) != Some(Decision::Commit) {
            self.note("S3: a Commit that is not stored");
        }
        let answer = Some(commit_response::Answer::Done(Done::default()));
        Ok(Response::new(CommitResponse { answer }))
    }
    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        self.note("S1: a Cancel of what nobody refused");
        Err(Status::internal("a Cancel"))
    }
}

pub(in crate::engine::service) fn definition(gid: &str) -> Definition {
    let branch = BranchSpec {
        branch_id: BranchId::new("a").expect("an id"),
        participant: ParticipantName::new("p").expect("a name"),
        action: ActionName::new("debit").expect("a name"),
        payload: Payload::default(),
        mode: Mode::Tcc,
        step: Default::default(),
    };
    Definition {
        gid: Gid::new(gid).expect("a gid"),
        mode: Mode::Tcc,
        drive: Drive::Declarative,
        branches: vec![branch],
        timeout: Some(HOUR),
        start: Default::default(),
        locks: Vec::new(),
        parent: None,
        children: Vec::new(),
        metadata: Default::default(),
        trace: TraceContext::default(),
        initiator: String::new(),
    }
}

/// S3, S10: what is asked while the lease has run out is answered once the promoted server has it, however the engine came
/// to rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_s10_what_is_asked_during_a_rest_is_told_once_it_is_stored_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/rest.db", folder.path().display());
    let store = Replaced::open(&url, Lacks::All).await;
    let (mut tasks, faults) = (JoinSet::new(), Faults::default());
    let length = Duration::from_secs(4);
    let (engine, renewals) = start_for(length, &store, &faults, &mut tasks).await;
    let deadline = Instant::now() + HOUR;
    let open = Definition { drive: Drive::Interactive, branches: Vec::new(), ..definition("g") };
    let begun = engine.begin(open, Until::Durable, deadline).await.expect("an answer");
    let Answer::View(view) = begun else { panic!("{begun:?}") };
    let key = Key::Tx(view.tx.tx_id());
    // The lease runs out, and the timer, which wakes the engine each second, brings it to rest.
    tokio::time::sleep(length + Duration::from_secs(2)).await;
    let asking = engine.wait(key.clone(), Until::Durable, deadline);
    let mut asking = std::pin::pin!(asking);
    let rests = tokio::time::timeout(Duration::from_millis(300), &mut asking).await;
    assert!(rests.is_err(), "it rests: {rests:?}");
    store.held.send_replace(true);
    store.generation.fetch_add(1, Ordering::SeqCst);
    tasks.spawn(async move { drop(renewals.run().await) });
    let early = tokio::time::timeout(Duration::from_secs(1), &mut asking).await;
    assert!(early.is_err(), "S3: {early:?}");
    assert!(store.transactions().find(&key).await.expect("an answer").is_none());
    store.held.send_replace(false);
    let told = asking.await;
    assert!(matches!(told, Ok(Answer::View(_))), "{told:?}");
    assert!(store.transactions().find(&key).await.expect("an answer").is_some(), "S10");
}

/// S3, S6: the acknowledgement of the begin, of the decision or of the end comes from a server that was replaced by
/// then. Nothing is sent or told before the promoted one has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_s6_what_a_replaced_server_has_acknowledged_is_not_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    for lost in 0..3 {
        let url = format!("sqlite:{}/{lost}.db", folder.path().display());
        let store = Replaced::open(&url, Lacks::One(lost)).await;
        let (mut tasks, faults) = (JoinSet::new(), Faults::default());
        let engine = start(&store, &faults, &mut tasks).await;
        let deadline = Instant::now() + HOUR;
        let until = if lost < 2 { Until::Decided } else { Until::Ended };
        let begun = engine.begin(definition("g"), until, deadline).await.expect("an answer");
        let Answer::View(view) = begun else { panic!("{begun:?}") };
        let key = Key::Tx(view.tx.tx_id());
        let stored = store.transactions().find(&key).await.expect("an answer");
        let stored = stored.expect("S10: a row of what was told").record.state.phase;
        assert_eq!(stored.decision(), Some(Decision::Commit), "S10: batch {lost}");
        assert!(until == Until::Decided || stored.ended_at().is_some(), "S10: {stored:?}");
        let ended = engine.wait(key.clone(), Until::Ended, deadline).await;
        assert!(matches!(ended, Ok(Answer::View(_))), "{ended:?}");
        let stored = store.transactions().find(&key).await.expect("an answer").expect("a row");
        assert!(stored.record.state.phase.ended_at().is_some(), "batch {lost}");
        assert_eq!(stored.record.branches.len(), 1, "batch {lost}: it is whole");
        assert_eq!(store.generation(), Some(1));
        assert_eq!(*faults.lock().expect("no panic"), Vec::<&str>::new(), "batch {lost}");
        tasks.abort_all();
    }
}

/// S3, S6: so it is with a claim whose answer comes when its server was replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_s6_a_claim_that_may_be_lost_is_written_before_anything_is_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/claim.db", folder.path().display());
    let store = Replaced::open(&url, Lacks::All).await;
    let (mut tasks, faults) = (JoinSet::new(), Faults::default());
    let engine = start(&store, &faults, &mut tasks).await;
    let (now, policy) = (SystemEnv.now(), unanimo_core::Policy::default());
    let tx_id = SystemEnv.tx_id(now);
    let (tx, _) = Transaction::begin(tx_id, definition("claimed"), now, &policy);
    store.generation.fetch_add(1, Ordering::SeqCst);
    let (done, adopted) = tokio::sync::oneshot::channel();
    let records = vec![tx.record()];
    engine
        .send(Message::Adopt { records, generation: Some(0), woken: false, done })
        .expect("it runs");
    adopted.await.expect("it runs");
    let ended = engine.wait(Key::Tx(tx_id), Until::Ended, Instant::now() + HOUR).await;
    assert!(matches!(ended, Ok(Answer::View(_))), "{ended:?}");
    assert_eq!(*faults.lock().expect("no panic"), Vec::<&str>::new());
}

/// S4, S9: what has ended lately is stored again though nobody asks for it, some at a time; whoever asks for one that has
/// not had its turn hears of it once it is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_s9_ends_are_written_again_unasked_and_at_once_where_they_are_asked_for() {
    const COUNT: usize = backlog::AT_ONCE_MAX * 2;
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/ends.db", folder.path().display());
    let store = Replaced::open(&url, Lacks::All).await;
    let (mut tasks, faults) = (JoinSet::new(), Faults::default());
    let engine = start(&store, &faults, &mut tasks).await;
    let deadline = Instant::now() + HOUR;
    let mut ended = Vec::new();
    for n in 0..COUNT {
        let begun = engine.begin(definition(&format!("g-{n}")), Until::Ended, deadline).await;
        let Ok(Answer::View(view)) = begun else { panic!("{begun:?}") };
        ended.push(Key::Tx(view.tx.tx_id()));
    }
    assert!(store.transactions().find(&ended[0]).await.expect("an answer").is_none());
    store.held.send_replace(true);
    store.generation.fetch_add(1, Ordering::SeqCst);
    // It notices that with its next message.
    while engine.at_work().await < backlog::AT_ONCE_MAX {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(engine.at_work().await, backlog::AT_ONCE_MAX, "no more at once");
    let asking = engine.wait(ended[0].clone(), Until::Ended, deadline);
    let mut asking = std::pin::pin!(asking);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut asking).await;
    assert!(early.is_err(), "S3: {early:?}");
    store.held.send_replace(false);
    let told = asking.await;
    assert!(matches!(told, Ok(Answer::View(_))), "S9: {told:?}");
    for key in &ended {
        while store.transactions().find(key).await.expect("an answer").is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let stored = store.transactions().find(key).await.expect("an answer").expect("a row");
        assert!(stored.record.state.phase.ended_at().is_some(), "S4");
        assert_eq!(stored.record.branches.len(), 1, "it is whole");
    }
}

/// Ends that no other server can lack take no memory.
#[test]
fn ends_are_remembered_only_where_they_can_be_lost() {
    let (gid, policy) = (Gid::new("g").expect("a gid"), unanimo_core::Policy::default());
    let now = SystemEnv.now();
    let tx = Transaction::tombstone(SystemEnv.tx_id(now), gid, String::new(), now, &policy).0;
    for (generation, remembered) in [(None, false), (Some(0), true)] {
        let mut known = Known::new(generation, HOUR);
        known.ended(&tx);
        assert_eq!(known.ends.get(tx.tx_id()).is_some(), remembered);
    }
}
