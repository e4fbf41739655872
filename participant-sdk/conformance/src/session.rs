//! One run: branches of its own, operations that are asked again as a coordinator would, and the
//! end of what was left prepared.

mod asking;
mod branch;
mod elsewhere;
mod leaving;
mod refused;
mod traces;
mod unimplemented;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;
use tonic::{Code, Request, Status};
use unanimo_proto::v1::{BranchContext, HeuristicKind, Mode, Payload};
use uuid::Uuid;

use self::asking::Asking;
pub use self::branch::Branch;
use self::branch::{cancel, commit, prepare};
pub use self::elsewhere::Operation;
use self::traces::Traces;
use super::answer::{self, End, Reply, Vote};
use super::{Options, Target};

/// Longest time of one call before it is sent again.
const CALL_TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// Between calls that were answered with an error, or with WORKING that names no time.
const PAUSE: Duration = Duration::from_millis(50);

/// The longest pause that WORKING can ask for: a check is not to take minutes.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Attempts that a participant has at least if it answers each of them at once, without an end: some of those that a
/// patience of a second holds.
const ATTEMPTS_MIN: u32 = 8;

/// Time from now to a Prepare's bound.
const PREPARE_WITHIN: Duration = Duration::from_secs(600);

/// Reason of a check to end before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guarantee is broken: what was seen.
    Failed(String),
    /// It cannot be checked here: why.
    Skipped(String),
}

/// A run. Cheap to clone.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    target: Arc<dyn Target>,
    options: Options,
    traces: Mutex<Traces>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Session {
    /// A run over a participant.
    #[must_use]
    pub fn new(target: Arc<dyn Target>, options: Options) -> Self {
        Self { inner: Arc::new(Inner { target, options, traces: Mutex::default() }) }
    }

    /// Returns the options of the run.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// A branch of a transaction that nobody has seen.
    #[must_use]
    pub fn branch(&self) -> Branch {
        let options = self.options();
        let Options { participant, action, payload, inputs, mode, cluster_id, .. } = options;
        let tx_id = Uuid::now_v7().to_string();
        let context = BranchContext {
            gid: format!("check-{tx_id}"),
            tx_id,
            branch_id: "b1".to_owned(),
            branch_number: 1,
            cluster_id: cluster_id.clone(),
            participant: participant.clone(),
            mode: (*mode).into(),
            database_id: String::new(),
            database_place: String::new(),
        };
        Branch {
            context,
            action: action.clone(),
            payload: payload.clone(),
            payload_type: options.payload_type.clone(),
            inputs: inputs.clone(),
            input_types: options.input_types.clone(),
            prepare_until: Some(SystemTime::now() + PREPARE_WITHIN),
            output: Payload::default(),
            requires: Vec::new(),
            phase_two_requires: Vec::new(),
            must_succeed: false,
            output_bytes_max: None,
        }
    }

    /// A branch that has voted yes; without one the check is skipped.
    ///
    /// # Errors
    /// There is no such vote.
    pub async fn prepared(&self) -> Result<Branch, Stop> {
        let mut branch = self.branch();
        match self.prepare(&branch).await? {
            Vote::Prepared(output) => branch.output = output,
            Vote::Refused(refusal) => {
                let refused = Vote::Refused(refusal);
                return Err(Stop::Skipped(format!("the action answers this payload {refused}")));
            }
            Vote::ReadOnly => {
                let text = "the action votes READ_ONLY: no Commit or Cancel is owed to it";
                return Err(Stop::Skipped(text.to_owned()));
            }
        }
        Ok(branch)
    }

    /// Stops a check about Commit where none is ever sent.
    ///
    /// # Errors
    /// The mode is saga.
    pub fn needs_commit(&self) -> Result<(), Stop> {
        match self.options().mode {
            Mode::Saga => Err(Stop::Skipped("a step of a saga is not sent Commit".to_owned())),
            _ => Ok(()),
        }
    }

    /// Sends Prepare until there is a vote.
    ///
    /// # Errors
    /// There is none within the patience, or it is one that the mode does not have.
    pub async fn prepare(&self, branch: &Branch) -> Result<Vote, Stop> {
        self.open(branch);
        let mut asking = Asking::new("Prepare");
        let vote = loop {
            let request = self.request(prepare(branch, asking.attempt));
            let sent = self.within(self.inner.target.prepare(request)).await;
            if let Ok(response) = &sent
                && !response.database_id.is_empty()
            {
                self.lock().database_id = Some(response.database_id.clone());
            }
            if let Some(vote) = self.answered(&mut asking, sent.map(answer::vote)).await? {
                break vote;
            }
        };
        if vote == Vote::ReadOnly && self.options().mode != Mode::TwoPhaseCommit {
            let text = "Prepare was answered READ_ONLY, which is a vote of two-phase commit only";
            return Err(Stop::Failed(text.to_owned()));
        }
        Ok(vote)
    }

    /// Sends Commit until there is an answer that ends the branch.
    ///
    /// # Errors
    /// There is none within the patience.
    pub async fn commit(&self, branch: &Branch) -> Result<End, Stop> {
        let mut asking = Asking::new("Commit");
        let end = loop {
            let request = self.request(commit(branch, asking.attempt));
            let sent = self.within(self.inner.target.commit(request)).await;
            let sent = sent.map(|response| self.committed(branch, response));
            if let Some(end) = self.answered(&mut asking, sent).await? {
                break end;
            }
        };
        self.close(branch);
        Ok(end)
    }

    /// Sends Cancel until there is an answer that ends the branch.
    ///
    /// # Errors
    /// There is none within the patience.
    pub async fn cancel(&self, branch: &Branch) -> Result<End, Stop> {
        let mut asking = Asking::new("Cancel");
        let end = loop {
            let request = self.request(cancel(branch, asking.attempt));
            let sent = self.within(self.inner.target.cancel(request)).await;
            if let Some(end) = self.answered(&mut asking, sent.map(answer::cancelled)).await? {
                break end;
            }
        };
        if end.heuristic() == Some(HeuristicKind::Commit) {
            // Whatever became of the answer to its Commit.
            self.stays(branch);
        }
        self.close(branch);
        Ok(end)
    }

    /// Sends Prepare, and expects an error instead of a vote.
    ///
    /// # Errors
    /// It is answered, or does not arrive.
    pub async fn prepare_in_vain(&self, what: &str, branch: &Branch) -> Result<(), Stop> {
        self.open(branch);
        let started = Instant::now();
        loop {
            let request = self.request(prepare(branch, 1));
            let why = match self.within(self.inner.target.prepare(request)).await {
                Ok(response) => {
                    let answered = answer::vote(response).words();
                    return Err(Stop::Failed(format!("{what} was answered {answered}")));
                }
                Err(status) if is_passing(&status) => answer::status(&status),
                Err(_) => {
                    self.close(branch);
                    return Ok(());
                }
            };
            if started.elapsed() > self.options().patience {
                return Err(self.no_answer("Prepare", &why));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Does the same several times at once.
    ///
    /// # Errors
    /// The first that one of them met.
    pub async fn at_once<T: Send + 'static, F>(
        &self,
        count: usize,
        operation: impl Fn(Self, usize) -> F,
    ) -> Result<Vec<T>, Stop>
    where
        F: Future<Output = Result<T, Stop>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for number in 0..count {
            tasks.spawn(operation(self.clone(), number));
        }
        let mut results = Vec::with_capacity(count);
        while let Some(joined) = tasks.join_next().await {
            let result =
                joined.unwrap_or_else(|error| Err(Stop::Failed(format!("a call: {error}"))));
            results.push(result);
        }
        results.into_iter().collect()
    }

    /// Asks for a first vote; answers with the refusal if it is no.
    pub(super) async fn first_vote(&self) -> Result<Option<String>, String> {
        match self.prepare(&self.branch()).await {
            Ok(vote @ Vote::Refused(_)) => Ok(Some(vote.to_string())),
            Ok(Vote::Prepared(_) | Vote::ReadOnly) => Ok(None),
            Err(Stop::Failed(why) | Stop::Skipped(why)) => Err(why),
        }
    }

    /// Tells whether the endpoint turned out to serve something else than a participant.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.lock().no_participant
    }

    /// Cancels what is prepared still.
    pub async fn clean_up(&self) {
        let open = std::mem::take(&mut self.lock().open);
        for branch in open {
            if self.cancel(&branch).await.is_err() {
                self.lock().left_behind.push(branch.to_string());
            }
        }
    }

    /// Returns the number of branches that were committed, and those that may be prepared still.
    #[must_use]
    pub fn traces(&self) -> (u32, Vec<String>) {
        let traces = self.lock();
        let committed = u32::try_from(traces.committed.len()).unwrap_or(u32::MAX);
        (committed, traces.left_behind.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Traces> {
        self.inner.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, branch: &Branch) {
        let mut traces = self.lock();
        let key = branch.key();
        let known = traces.open.iter().any(|open| open.key() == key);
        if !known && !traces.committed.contains(&key) {
            traces.open.push(branch.clone());
        }
    }

    fn close(&self, branch: &Branch) {
        self.lock().open.retain(|open| open.key() != branch.key());
    }

    fn call_timeout(&self) -> Duration {
        self.options().patience.min(CALL_TIMEOUT_MAX)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.call_timeout());
        request
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let timeout = self.call_timeout();
        let late = |_| Err(Status::deadline_exceeded(format!("no reply within {timeout:?}")));
        let sent = tokio::time::timeout(timeout, call).await.unwrap_or_else(late);
        self.lock().saw(sent.as_ref().err());
        sent
    }

    /// The answer, or a pause after which the operation is to be sent again, as a coordinator does.
    async fn answered<A>(
        &self,
        asking: &mut Asking,
        sent: Result<Reply<A>, Status>,
    ) -> Result<Option<A>, Stop> {
        let has_answered = self.lock().has_answered;
        if let Err(status) = &sent
            && !has_answered
            && answer::is_no_participant(status)
        {
            let mut traces = self.lock();
            traces.no_participant = true;
            // There is nobody to cancel anything.
            traces.open.clear();
            let why = answer::status(status);
            return Err(Stop::Failed(format!("the endpoint serves no participant: {why}")));
        }
        self.lock().has_answered |= sent.is_ok();
        let timeout = self.call_timeout();
        let is_silent = sent.as_ref().is_err_and(|status| asking.is_silent(status, timeout));
        let (why, pause) = match sent {
            Ok(Reply::Answer(answer)) => return Ok(Some(answer)),
            Ok(Reply::Working(pause)) => {
                self.lock().waits(asking.attempt, pause);
                ("WORKING".to_owned(), pause)
            }
            Ok(Reply::Nothing) => ("a reply without an answer".to_owned(), PAUSE),
            Err(status) => (answer::status(&status), PAUSE),
        };
        // On a busy machine the time passes, and nobody comes to anything in it: so the attempts count, too.
        let has_had_its_time = is_silent || asking.attempt >= ATTEMPTS_MIN;
        if has_had_its_time && asking.started.elapsed() > self.options().patience {
            return Err(self.no_answer(asking.operation, &why));
        }
        tokio::time::sleep(if pause.is_zero() { PAUSE } else { pause.min(PAUSE_MAX) }).await;
        asking.again();
        Ok(None)
    }

    fn no_answer(&self, operation: &str, why: &str) -> Stop {
        let patience = self.options().patience;
        Stop::Failed(format!(
            "{operation} was not answered within {patience:?}, asked again and again; the last \
             reply was {why}"
        ))
    }
}

/// Tells whether it says nothing of the request itself.
fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}
