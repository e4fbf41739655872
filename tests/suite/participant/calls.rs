//! A participant that is called as the coordinator calls it, without a wire in between.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tonic::{Code, Request, Status};
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    BranchContext, CancelRequest, CommitRequest, HeuristicKind, Mode, Payload, PrepareRequest,
    cancel_response, commit_response, prepare_response,
};
use unanimo_sdk::{Isolation, Participant, Service, Sweep, Sweeper};
use unanimo_tests::wait::PATIENCE;
use uuid::Uuid;

use super::databases::Database;
use super::handler::{Gate, Handler, Job};

/// A vote, or that there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    Prepared(Bytes),
    Refused(String),
    Working,
    /// Another status than OK.
    Unanswered,
}

/// An end, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Heuristic(HeuristicKind),
    Working,
    Unanswered,
}

/// A branch, and the calls for it.
#[derive(Clone, Debug)]
pub(crate) struct Branch {
    pub(crate) tx_id: Uuid,
    pub(crate) branch_id: String,
    pub(crate) mode: Mode,
    /// The mode is one that a later version has.
    pub(crate) of_later_mode: bool,
    pub(crate) action: String,
    pub(crate) payload: Bytes,
    pub(crate) inputs: HashMap<String, Payload>,
    pub(crate) until: Option<SystemTime>,
    pub(crate) requires: Vec<String>,
    pub(crate) must_succeed: bool,
    pub(crate) output_bytes_max: Option<u64>,
}

impl Branch {
    pub(crate) fn new(mode: Mode, action: &str, job: &Job) -> Self {
        Self {
            tx_id: Uuid::now_v7(),
            branch_id: "b1".to_owned(),
            mode,
            of_later_mode: false,
            action: action.to_owned(),
            payload: serde_json::to_vec(job).unwrap().into(),
            inputs: HashMap::new(),
            until: Some(SystemTime::now() + Duration::from_secs(60)),
            requires: Vec::new(),
            must_succeed: false,
            output_bytes_max: None,
        }
    }

    /// The same, as a coordinator asks for it that can no longer abort: without a bound.
    pub(crate) fn that_must_succeed(self) -> Self {
        let requires = vec!["must_succeed".to_owned()];
        Self { until: None, requires, must_succeed: true, ..self }
    }

    /// The same with an input, which the participant must know of.
    pub(crate) fn with_input(mut self, name: &str, data: &str) -> Self {
        let data = Bytes::copy_from_slice(data.as_bytes());
        let input = Payload { data, media_type: "application/json".to_owned() };
        self.inputs.insert(name.to_owned(), input);
        self.requires.push("step_inputs".to_owned());
        self
    }

    /// A step of a saga.
    pub(crate) fn step(job: &Job) -> Self {
        Self::new(Mode::Saga, "step", job)
    }

    /// One of TCC.
    pub(crate) fn tcc(job: &Job) -> Self {
        Self::new(Mode::Tcc, "work", job)
    }

    fn context(&self) -> Option<BranchContext> {
        Some(BranchContext {
            tx_id: self.tx_id.to_string(),
            gid: format!("gid-{}", self.tx_id),
            branch_id: self.branch_id.clone(),
            branch_number: 1,
            cluster_id: "cluster".to_owned(),
            participant: "bank".to_owned(),
            mode: if self.of_later_mode { 4711 } else { self.mode.into() },
            database_id: String::new(),
            database_place: String::new(),
        })
    }
}

/// A participant on a database of its own.
pub(crate) struct World<D: Database> {
    pub(crate) pool: D::Pool,
    pub(crate) gate: Arc<Gate>,
    service: Service<D>,
    handler: Handler,
}

impl<D: Database> Clone for World<D> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            gate: Arc::clone(&self.gate),
            service: self.service.clone(),
            handler: self.handler.clone(),
        }
    }
}

impl<D: Database> World<D> {
    pub(crate) async fn open(isolation: Isolation) -> Self {
        let (resource, pool) = D::open().await;
        Self::with(resource, pool, isolation).await
    }

    pub(crate) async fn with(resource: D, pool: D::Pool, isolation: Isolation) -> Self {
        let table = "CREATE TABLE effect (tx_id varchar(36), branch_id varchar(128),
                                          what varchar(16))";
        D::run_outside(&pool, table.to_owned()).await;
        let handler = Handler::new(isolation);
        let participant = Participant::new("bank", resource)
            .tcc("work", handler.clone())
            .saga("step", handler.clone())
            .uncompensated("final", handler.clone());
        let service = participant.service().unwrap();
        Self { pool, gate: Arc::clone(&handler.gate), service, handler }
    }

    /// Sweeps what is prepared here, and asks this coordinator.
    pub(crate) fn sweep(&self, coordinator: &str, sweep: Sweep) -> Sweeper {
        self.service.sweep([coordinator], sweep).unwrap()
    }

    /// The answer as it is on the wire.
    pub(crate) async fn answer(&self, branch: &Branch) -> Result<prepare_response::Answer, Status> {
        let answer = self.service.prepare(Request::new(PrepareRequest {
            context: branch.context(),
            action: branch.action.clone(),
            payload: unanimo_tests::payload(branch.payload.clone()),
            prepare_until: branch.until.map(Into::into),
            attempt: 1,
            requires: branch.requires.clone(),
            must_succeed: branch.must_succeed,
            inputs: branch.inputs.clone(),
            output_bytes_max: branch.output_bytes_max,
            ..PrepareRequest::default()
        }));
        Ok(answer.await?.into_inner().answer.unwrap())
    }

    pub(crate) async fn prepare(&self, branch: &Branch) -> Vote {
        use prepare_response::Answer;
        match self.answer(branch).await {
            Ok(answer) => match answer {
                Answer::Prepared(prepared) => {
                    Vote::Prepared(unanimo_tests::bytes_of(prepared.output.as_ref()))
                }
                Answer::Refused(refusal) => Vote::Refused(refusal.reason),
                Answer::Working(_) => Vote::Working,
                Answer::ReadOnly(_) => panic!("nothing here votes read-only"),
            },
            Err(_) => Vote::Unanswered,
        }
    }

    pub(crate) async fn commit(&self, branch: &Branch) -> End {
        let answer = self.service.commit(Request::new(CommitRequest {
            context: branch.context(),
            action: branch.action.clone(),
            payload: unanimo_tests::payload(branch.payload.clone()),
            attempt: 1,
            inputs: branch.inputs.clone(),
            ..CommitRequest::default()
        }));
        use commit_response::Answer;
        match answer.await.map(|response| response.into_inner().answer.unwrap()) {
            Ok(Answer::Done(_)) => End::Done,
            Ok(Answer::Working(_)) => End::Working,
            Ok(Answer::Heuristic(heuristic)) => End::Heuristic(heuristic.kind()),
            Err(_) => End::Unanswered,
        }
    }

    pub(crate) async fn cancel(&self, branch: &Branch) -> End {
        let answer = self.service.cancel(Request::new(CancelRequest {
            context: branch.context(),
            action: branch.action.clone(),
            payload: unanimo_tests::payload(branch.payload.clone()),
            attempt: 1,
            prepare_until: branch.until.map(Into::into),
            inputs: branch.inputs.clone(),
            ..CancelRequest::default()
        }));
        use cancel_response::Answer;
        match answer.await.map(|response| response.into_inner().answer.unwrap()) {
            Ok(Answer::Done(_)) => End::Done,
            Ok(Answer::Working(_)) => End::Working,
            Ok(Answer::Heuristic(heuristic)) => End::Heuristic(heuristic.kind()),
            Err(_) => End::Unanswered,
        }
    }

    /// Sends Commit and Cancel that require this; answers with what comes back.
    pub(crate) async fn end_requiring(&self, branch: &Branch, requires: &[String]) -> [Code; 2] {
        let code = |status: Result<(), Status>| status.err().map_or(Code::Ok, |no| no.code());
        let (context, action) = (branch.context(), branch.action.clone());
        let requires = requires.to_vec();
        let commit = CommitRequest { context, action, requires, ..CommitRequest::default() };
        let (context, action) = (branch.context(), branch.action.clone());
        let requires = commit.requires.clone();
        let cancel = CancelRequest { context, action, requires, ..CancelRequest::default() };
        [
            code(self.service.commit(Request::new(commit)).await.map(drop)),
            code(self.service.cancel(Request::new(cancel)).await.map(drop)),
        ]
    }

    /// Asks until there is a vote, as the coordinator does.
    pub(crate) async fn vote(&self, branch: &Branch) -> Vote {
        let patience = Patience::default();
        loop {
            match self.prepare(branch).await {
                Vote::Working | Vote::Unanswered => patience.pause("a vote").await,
                vote => return vote,
            }
        }
    }

    /// Commits until that has an end.
    pub(crate) async fn committed(&self, branch: &Branch) -> End {
        let patience = Patience::default();
        loop {
            match self.commit(branch).await {
                End::Working | End::Unanswered => patience.pause("the end of Commit").await,
                end => return end,
            }
        }
    }

    /// Cancels until that has an end.
    pub(crate) async fn cancelled(&self, branch: &Branch) -> End {
        let patience = Patience::default();
        loop {
            match self.cancel(branch).await {
                End::Working | End::Unanswered => patience.pause("the end of Cancel").await,
                end => return end,
            }
        }
    }

    /// Number of times that the branch had this effect.
    pub(crate) async fn effects(&self, branch: &Branch, what: &str) -> i64 {
        let Branch { tx_id, branch_id, .. } = branch;
        let count = format!(
            "SELECT count(*) FROM effect
             WHERE tx_id = '{tx_id}' AND branch_id = '{branch_id}' AND what = '{what}'"
        );
        D::number(&self.pool, count).await
    }

    /// The state of the branch's row.
    pub(crate) async fn state(&self, branch: &Branch) -> Option<String> {
        let Branch { tx_id, branch_id, .. } = branch;
        let state = format!(
            "SELECT state FROM unanimo_barrier
             WHERE tx_id = '{tx_id}' AND branch_id = '{branch_id}'"
        );
        D::text(&self.pool, state).await
    }

    /// Number of times that phase one was run, whatever the branch.
    pub(crate) fn runs(&self) -> u64 {
        self.handler.runs.load(Ordering::SeqCst)
    }
}

impl Vote {
    pub(crate) fn refused(reason: &str) -> Self {
        Self::Refused(reason.to_owned())
    }

    pub(crate) fn is_prepared(&self) -> bool {
        matches!(self, Self::Prepared(_))
    }
}

/// Bounds how often something is asked. (`wait::until` cannot be in a task that is spawned for every
/// kind of database.)
struct Patience(Instant);

impl Default for Patience {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Patience {
    async fn pause(&self, what: &str) {
        assert!(self.0.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
