//! Participant whose behaviour is the action's name, and which records its calls.
//!
//! Actions, with a number for `N`: `ok`, `refuse`, `refuse-N` (N Prepares are refused first),
//! `read-only`, `hang`, `hang-N`, `gated` (Prepare waits while calls are held), `fail-N` (N Prepares fail
//! first), `decline-N` (with an error status that means no), `working-N`, `later-N`
//! (N Prepares are answered so, and are to be sent again in a millisecond, or in an hour), `output-N` (bytes), `empty` (a reply without an answer), `typed` (an output
//! that is `text/plain`), `commit-fail-N`, `commit-hang`, `commit-heuristic` (rolled back instead),
//! `cancel-hazard`, `too-late` (Prepare is refused so), `status-N` (Prepares fail with a text of N bytes).
//! Besides, the whole participant has a [`Mood`].

use crate::{bytes_of, payload};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use unanimo_proto::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use unanimo_proto::v1::{
    BranchContext, CancelRequest, CancelResponse, CommitRequest, CommitResponse, Done,
    HeuristicKind, HeuristicOutcome, Payload, PrepareRequest, PrepareResponse, Prepared, ReadOnly,
    Refusal, Working, cancel_response, commit_response, prepare_response,
};

/// Call that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Name of the operation: `prepare`, `commit` or `cancel`.
    pub operation: &'static str,
    /// Id of the transaction.
    pub tx_id: String,
    /// Id of the branch.
    pub branch_id: String,
    /// Gid of the transaction.
    pub gid: String,
    /// Name of the participant, as the call has it.
    pub participant: String,
    /// Payload of the branch.
    pub payload: Bytes,
    /// Output that came with the call.
    pub output: Bytes,
    /// Media types of payload and output.
    pub media_types: [String; 2],
    /// Trace that came with the call.
    pub traceparent: String,
    /// Metadata that came with the call.
    pub metadata: HashMap<String, String>,
    /// Inputs that came with the call: outputs of earlier steps.
    pub inputs: BTreeMap<String, Bytes>,
    /// The call was to succeed.
    pub must_succeed: bool,
    /// Most bytes of the output that the call allowed.
    pub output_bytes_max: Option<u64>,
    /// Features that the call required.
    pub requires: Vec<String>,
}

/// Scripted participant. Cheap to clone.
#[derive(Clone)]
pub struct Scripted {
    state: Arc<State>,
}

struct State {
    seen: Mutex<Vec<Seen>>,
    /// True while Commits and Cancels wait, and Prepares of `gated`.
    gate: watch::Sender<bool>,
    mood: watch::Sender<Mood>,
}

/// Behaviour of the whole participant, whatever the action is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It does what the action says.
    #[default]
    Well,
    /// Each call is answered with an error.
    Failing,
    /// Each call is taken, and never answered.
    Hanging,
    /// Prepares are as the action says, and each Commit and Cancel is answered with an error.
    FailingInPhaseTwo,
    /// Each Prepare is answered with an error, and Commits and Cancels are as the action says.
    FailingInPhaseOne,
    /// Each call takes so many milliseconds longer.
    Slow(u64),
    /// Each call is answered WORKING, to be sent again so many milliseconds later.
    Working(u32),
    /// Prepares are as the action says, and each Commit and Cancel is answered WORKING, to be sent again so
    /// many milliseconds later.
    WorkingInPhaseTwo(u32),
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl Default for Scripted {
    fn default() -> Self {
        let state = State {
            seen: Mutex::default(),
            gate: watch::Sender::new(false),
            mood: watch::Sender::default(),
        };
        Self { state: Arc::new(state) }
    }
}

impl Scripted {
    /// Returns every call so far.
    ///
    /// # Panics
    /// An earlier call panicked.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("no call panics").clone()
    }

    /// Returns the calls so far for one branch of one transaction, in order.
    #[must_use]
    pub fn calls(&self, tx_id: &str, branch_id: &str) -> Vec<&'static str> {
        let seen = self.seen().into_iter();
        seen.filter(|seen| seen.tx_id == tx_id && seen.branch_id == branch_id)
            .map(|seen| seen.operation)
            .collect()
    }

    /// Holds back Commits, Cancels and the Prepares of `gated`, or lets them go on.
    pub fn hold(&self, hold: bool) {
        self.state.gate.send_replace(hold);
    }

    /// Changes what the whole participant does.
    pub fn set_mood(&self, mood: Mood) {
        self.state.mood.send_replace(mood);
    }

    /// WORKING, if that is its answer to everything.
    fn working(&self, phase_two: bool) -> Option<Working> {
        let mood = *self.state.mood.borrow();
        let (Mood::Working(ms) | Mood::WorkingInPhaseTwo(ms)) = mood else { return None };
        (phase_two || matches!(mood, Mood::Working(_))).then(|| {
            let (seconds, nanos) = (i64::from(ms / 1000), i32::try_from(ms % 1000).unwrap_or(0));
            let retry_after = prost_types::Duration { seconds, nanos: nanos * 1_000_000 };
            Working { retry_after: Some(retry_after) }
        })
    }

    async fn moody(&self, phase_two: bool) -> Result<(), Status> {
        let mood = *self.state.mood.borrow();
        match mood {
            Mood::FailingInPhaseTwo if !phase_two => Ok(()),
            Mood::FailingInPhaseOne if phase_two => Ok(()),
            Mood::Working(_) | Mood::WorkingInPhaseTwo(_) | Mood::Well => Ok(()),
            Mood::Failing | Mood::FailingInPhaseTwo | Mood::FailingInPhaseOne => {
                Err(Status::internal("out of order"))
            }
            Mood::Hanging => std::future::pending().await,
            Mood::Slow(ms) => {
                tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
                Ok(())
            }
        }
    }

    /// Serves it on a free port, and returns the endpoint.
    ///
    /// # Panics
    /// No port is free.
    pub async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let service =
            ParticipantServiceServer::new(self.clone()).max_encoding_message_size(usize::MAX);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        format!("http://{address}")
    }

    /// Records a call, and returns how often it has come, this time included.
    fn note<T>(&self, operation: &'static str, request: &Request<T>, parts: &Parts<'_>) -> usize {
        let Parts { context, payload, output, metadata, inputs, must_succeed, .. } = *parts;
        let Parts { output_bytes_max, requires, .. } = *parts;
        let media_type = |payload: Option<&Payload>| {
            payload.map(|payload| payload.media_type.clone()).unwrap_or_default()
        };
        let context = context.expect("every call names its branch");
        let header = request.metadata().get("traceparent");
        let seen = Seen {
            operation,
            tx_id: context.tx_id.clone(),
            branch_id: context.branch_id.clone(),
            gid: context.gid.clone(),
            participant: context.participant.clone(),
            payload: bytes_of(payload),
            output: bytes_of(output),
            media_types: [media_type(payload), media_type(output)],
            traceparent: header.and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned(),
            metadata: metadata.clone(),
            inputs: inputs.iter().map(|(name, p)| (name.clone(), p.data.clone())).collect(),
            must_succeed,
            output_bytes_max,
            requires: requires.to_vec(),
        };
        let mut all = self.state.seen.lock().expect("no call panics");
        all.push(seen);
        let same = |seen: &&Seen| {
            seen.operation == operation
                && seen.tx_id == context.tx_id
                && seen.branch_id == context.branch_id
        };
        all.iter().filter(same).count()
    }

    async fn pass_gate(&self) {
        let mut gate = self.state.gate.subscribe();
        // The sender lives as long as `self`, so the wait does not fail.
        let _ = gate.wait_for(|held| !held).await;
    }
}

struct Parts<'a> {
    context: Option<&'a BranchContext>,
    payload: Option<&'a Payload>,
    output: Option<&'a Payload>,
    metadata: &'a HashMap<String, String>,
    inputs: &'a HashMap<String, Payload>,
    must_succeed: bool,
    output_bytes_max: Option<u64>,
    requires: &'a [String],
}

fn number(action: &str, prefix: &str) -> Option<usize> {
    action.strip_prefix(prefix)?.parse().ok()
}

#[tonic::async_trait]
impl ParticipantService for Scripted {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        use prepare_response::Answer;
        let message = request.get_ref();
        let parts = Parts {
            context: message.context.as_ref(),
            payload: message.payload.as_ref(),
            output: None,
            metadata: &message.metadata,
            inputs: &message.inputs,
            must_succeed: message.must_succeed,
            output_bytes_max: message.output_bytes_max,
            requires: &message.requires,
        };
        let count = self.note("prepare", &request, &parts);
        self.moody(false).await?;
        if let Some(working) = self.working(false) {
            let answer = Some(Answer::Working(working));
            return Ok(Response::new(PrepareResponse { answer, ..Default::default() }));
        }
        let action = message.action.as_str();
        let yes = |output| Answer::Prepared(Prepared { output: payload(output) });
        let refused = || {
            Some(Answer::Refused(Refusal {
                reason: "NO_MONEY".into(),
                message: "the account is empty".into(),
            }))
        };
        if action == "gated" {
            self.pass_gate().await;
        }
        let answer = match action {
            "refuse" => refused(),
            "too-late" => Some(Answer::Refused(Refusal {
                reason: "TOO_LATE".into(),
                message: "Prepare came after the transaction's deadline".into(),
            })),
            _ if number(action, "status-").is_some() => {
                let text = "x".repeat(number(action, "status-").unwrap_or(0));
                return Err(Status::internal(format!("ä{text}")));
            }
            _ if number(action, "refuse-").is_some_and(|times| count <= times) => refused(),
            _ if number(action, "hang-").is_some_and(|times| count <= times) => {
                std::future::pending().await
            }
            "read-only" => Some(Answer::ReadOnly(ReadOnly {})),
            "empty" => None,
            "typed" => {
                let output =
                    Payload { data: Bytes::from_static(b"o"), media_type: "text/plain".into() };
                Some(Answer::Prepared(Prepared { output: Some(output) }))
            }
            "hang" => std::future::pending().await,
            _ if number(action, "decline-").is_some_and(|times| count <= times) => {
                return Err(Status::failed_precondition("sold out"));
            }
            _ if number(action, "fail-").is_some_and(|times| count <= times) => {
                return Err(Status::unavailable("not now"));
            }
            _ if number(action, "working-").is_some_and(|times| count <= times) => {
                let retry_after = prost_types::Duration { seconds: 0, nanos: 1_000_000 };
                Some(Answer::Working(Working { retry_after: Some(retry_after) }))
            }
            _ if number(action, "later-").is_some_and(|times| count <= times) => {
                let retry_after = prost_types::Duration { seconds: 3_600, nanos: 0 };
                Some(Answer::Working(Working { retry_after: Some(retry_after) }))
            }
            _ => {
                let size = number(action, "output-").unwrap_or(0);
                Some(yes(Bytes::from(vec![b'o'; size])))
            }
        };
        Ok(Response::new(PrepareResponse { answer, ..Default::default() }))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        use commit_response::Answer;
        let message = request.get_ref();
        let parts = Parts {
            context: message.context.as_ref(),
            payload: message.payload.as_ref(),
            output: message.output.as_ref(),
            metadata: &message.metadata,
            inputs: &message.inputs,
            must_succeed: false,
            output_bytes_max: None,
            requires: &message.requires,
        };
        let count = self.note("commit", &request, &parts);
        self.pass_gate().await;
        self.moody(true).await?;
        if let Some(working) = self.working(true) {
            return Ok(Response::new(CommitResponse { answer: Some(Answer::Working(working)) }));
        }
        let answer = match message.action.as_str() {
            "commit-hang" => std::future::pending().await,
            "commit-heuristic" => Answer::Heuristic(HeuristicOutcome {
                kind: HeuristicKind::Rollback.into(),
                note: "an administrator rolled it back".into(),
            }),
            action if number(action, "commit-fail-").is_some_and(|times| count <= times) => {
                return Err(Status::unavailable("not now"));
            }
            _ => Answer::Done(Done {}),
        };
        Ok(Response::new(CommitResponse { answer: Some(answer) }))
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        use cancel_response::Answer;
        let message = request.get_ref();
        let parts = Parts {
            context: message.context.as_ref(),
            payload: message.payload.as_ref(),
            output: message.output.as_ref(),
            metadata: &message.metadata,
            inputs: &message.inputs,
            must_succeed: false,
            output_bytes_max: None,
            requires: &message.requires,
        };
        self.note("cancel", &request, &parts);
        self.pass_gate().await;
        self.moody(true).await?;
        if let Some(working) = self.working(true) {
            return Ok(Response::new(CancelResponse { answer: Some(Answer::Working(working)) }));
        }
        let answer = match message.action.as_str() {
            "cancel-hazard" => Answer::Heuristic(HeuristicOutcome {
                kind: HeuristicKind::Hazard.into(),
                note: "the disk is gone".into(),
            }),
            _ => Answer::Done(Done {}),
        };
        Ok(Response::new(CancelResponse { answer: Some(answer) }))
    }
}
