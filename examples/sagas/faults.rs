//! Network in front of the participants, which loses answers and tells when a step is served.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use unanimo_sdk::proto::v1::participant_service_server::{
    ParticipantService, ParticipantServiceServer,
};
use unanimo_sdk::proto::v1::prepare_response::Answer;
use unanimo_sdk::proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, PrepareRequest, PrepareResponse,
};

/// Answers that are lost of a step from the pivot on: it is sent again until one arrives.
const LOST_FROM_PIVOT: u32 = 2;

/// Event at the network, for the one who runs the example.
#[derive(Debug)]
pub enum Signal {
    /// The step at which the coordinator is to be killed is served. The work goes on once it is dead.
    Served(oneshot::Sender<()>),
    /// The work of that step is done.
    Worked,
    /// An answer of this step is lost.
    Lost(String),
    /// A step that may only succeed was refused.
    Refused(String),
}

/// Faults that the network makes.
#[derive(Debug)]
pub struct Faults {
    /// Step whose answers are lost, and how many are.
    hang: Option<(String, u32)>,
    lost: AtomicU32,
    /// Step at which the coordinator is killed.
    kill_at: Option<String>,
    has_killed: AtomicBool,
    /// Steps that were served.
    served: Mutex<BTreeSet<String>>,
    signals: mpsc::UnboundedSender<Signal>,
}

impl Faults {
    /// Makes faults: a step whose answers are lost, all of them unless it is the pivot or later, and a
    /// step at which the coordinator is killed.
    #[must_use]
    pub fn new(
        hang: Option<(&str, super::example::Stage)>,
        kill_at: Option<&str>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Signal>) {
        use super::example::Stage;
        let (signals, received) = mpsc::unbounded_channel();
        let lost_max = |stage| match stage {
            Stage::BeforePivot => u32::MAX,
            Stage::Pivot | Stage::AfterPivot(_) => LOST_FROM_PIVOT,
        };
        let faults = Self {
            hang: hang.map(|(step, stage)| (step.to_owned(), lost_max(stage))),
            lost: AtomicU32::new(0),
            kill_at: kill_at.map(str::to_owned),
            has_killed: AtomicBool::new(false),
            served: Mutex::default(),
            signals,
        };
        (Arc::new(faults), received)
    }

    /// Tells whether the coordinator is to be killed now: once, when the step is first served.
    fn kills_at(&self, step: &str) -> bool {
        self.kill_at.as_deref() == Some(step) && !self.has_killed.swap(true, Ordering::SeqCst)
    }

    /// Tells whether an answer is lost. "Still working" is none.
    fn loses(&self, step: &str, answer: Option<&Answer>) -> bool {
        match &self.hang {
            Some((hung, lost_max)) if hung == step => {
                matches!(answer, Some(Answer::Prepared(_)))
                    && self.lost.fetch_add(1, Ordering::SeqCst) < *lost_max
            }
            _ => false,
        }
    }

    /// Tells whether a step was sent in this run.
    #[must_use]
    pub fn has_served(&self, step: &str) -> bool {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).contains(step)
    }

    /// Tells whether an answer was lost.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst) > 0
    }

    /// Tells whether the coordinator was killed.
    #[must_use]
    pub fn has_killed(&self) -> bool {
        self.has_killed.load(Ordering::SeqCst)
    }

    fn tell(&self, signal: Signal) {
        // Nobody listens any more once the example is over.
        let _ = self.signals.send(signal);
    }
}

/// Network in front of a participant.
#[derive(Clone, Debug)]
pub struct Network<S> {
    participant: S,
    faults: Arc<Faults>,
}

impl<S: ParticipantService + Clone> Network<S> {
    /// Serves the participant behind it, and returns its endpoint.
    ///
    /// # Errors
    /// No port is free.
    pub async fn serve(participant: S, faults: Arc<Faults>) -> std::io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = ParticipantServiceServer::new(Self { participant, faults });
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Ok(format!("http://{address}"))
    }

    /// Lets the participant work, and tells whether the answer is lost.
    async fn work(
        self,
        request: Request<PrepareRequest>,
    ) -> (Result<Response<PrepareResponse>, Status>, bool) {
        let PrepareRequest { context, must_succeed, .. } = request.get_ref();
        let must_succeed = *must_succeed;
        let step = context.as_ref().map(|context| context.branch_id.clone()).unwrap_or_default();
        let served = &self.faults.served;
        served.lock().unwrap_or_else(PoisonError::into_inner).insert(step.clone());
        let kills = self.faults.kills_at(&step);
        if kills {
            let (dead, is_dead) = oneshot::channel();
            self.faults.tell(Signal::Served(dead));
            // An error says that the example is over.
            let _ = is_dead.await;
        }
        let response = self.participant.prepare(request).await;
        if kills {
            self.faults.tell(Signal::Worked);
        }
        let answer = response.as_ref().ok().and_then(|response| response.get_ref().answer.as_ref());
        let is_lost = self.faults.loses(&step, answer);
        if must_succeed && matches!(answer, Some(Answer::Refused(_))) {
            self.faults.tell(Signal::Refused(step));
        } else if is_lost {
            self.faults.tell(Signal::Lost(step));
        }
        (response, is_lost)
    }
}

#[tonic::async_trait]
impl<S: ParticipantService + Clone> ParticipantService for Network<S> {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        // A task of its own: the work goes on when the coordinator that asked for it is dead.
        let worked = tokio::spawn(self.clone().work(request)).await;
        let (response, is_lost) = worked.map_err(|error| Status::internal(error.to_string()))?;
        if is_lost { std::future::pending().await } else { response }
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        self.participant.commit(request).await
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        self.participant.cancel(request).await
    }
}
