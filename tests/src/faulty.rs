//! Participant without the SDK, with its barrier in memory: correct, or with one fault.

use crate::bytes_of;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use unanimo_proto::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use unanimo_proto::v1::{
    BranchContext, CancelRequest, CancelResponse, CommitRequest, CommitResponse, Done,
    HeuristicKind, HeuristicOutcome, Mode, Payload, PrepareRequest, PrepareResponse, Prepared,
    ReadOnly, Refusal, Working, cancel_response, commit_response, prepare_response,
};
use uuid::Uuid;

/// Name of the participant.
pub const NAME: &str = "faulty";

/// Name of its action, which refuses the payload `no`, and reads the input `ticket` for the payload
/// `ticket`.
pub const ACTION: &str = "work";

/// Fault of a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    None,
    /// Cancel of an unknown branch leaves no tombstone.
    NoTombstone,
    /// Cancel of an unknown branch is an error.
    CancelNeedsPrepare,
    /// Cancel of an unknown branch is always WORKING.
    CancelWaitsForPrepare,
    /// Commit of an unknown branch is done.
    CommitsAnything,
    /// Each Prepare makes a new output.
    OutputsDiffer,
    /// A refusal is not stored.
    ForgetsRefusals,
    /// The barrier's key has only the transaction's id.
    OneBranchATransaction,
    /// `prepare_until` is ignored.
    IgnoresBound,
    /// An action that the participant does not offer is an error.
    UnknownActionIsAnError,
    /// Cancel of a committed branch is done.
    CancelsCommitted,
    /// Commit of a cancelled branch is done.
    CommitsCancelled,
    /// A branch that has ended leaves no row.
    ForgetsEnds,
    /// Prepare looks for a row, works, and then overwrites any row.
    LooksThenWrites,
    /// The participant's name in a branch is ignored.
    AnswersToAnyName,
    /// An invalid context is accepted.
    TakesAnyContext,
    /// Reasons of refusals are sentences.
    WordyReasons,
    /// The vote in TCC is READ_ONLY.
    ReadOnlyInTcc,
    /// Replies to Prepare have no answer.
    Mute,
    /// The same, from the second branch on. Not one of [`Self::ALL`]: no guarantee is kept.
    FallsMute,
    /// A Prepare that comes after its Cancel is READ_ONLY. Not one of [`Self::ALL`]: that is a vote of two-phase
    /// commit only.
    ReadOnlyAfterCancel,
    /// It does what it is asked, whatever that requires.
    IgnoresRequirements,
    /// It ends a branch as it is told, whatever that requires.
    IgnoresPhaseTwoRequirements,
    /// A mode that the participant does not know is an error.
    UnknownModeIsAnError,
    /// A refusal of work that must succeed is stored.
    StoresFailures,
    /// The media type of an output is not stored.
    ForgetsMediaTypes,
    /// An input that the action does not read is refused.
    RefusesOtherInputs,
    /// A missing input is an error.
    MissingInputIsAnError,
    /// Cancel without an input that the action reads is an error.
    CancelNeedsInputs,
    /// A yes to work that must succeed is not stored.
    ForgetsSuccess,
    /// A prepared branch is forgotten once its bound is past.
    PurgesAtBound,
    /// A Cancel without a bound leaves no tombstone.
    TombstonesNeedABound,
    /// A bound on the output is ignored.
    IgnoresOutputBound,
    /// A refusal for want of an input is stored, though the work must succeed.
    StoresMissingInput,
    /// Cancel undoes all branches of the transaction.
    CancelsAll,
    /// The id of the database is ignored.
    IgnoresDatabases,
    /// Commit of a branch in another database is done. Not one of [`Self::ALL`]: a step of a saga is sent none.
    CommitsElsewhere,
    /// Commit does what it is told, whatever it requires. Not one of [`Self::ALL`]: a step of a saga is sent none.
    CommitsWhateverIsRequired,
    /// Commit is carried out, and its answer is lost. Not one of [`Self::ALL`], as the one before.
    CommitsUnheard,
    /// Cancel of a branch in another database is done. Not one of [`Self::ALL`]: it is found where the one before is.
    CancelsElsewhere,
    /// Commit of another participant's branch, which is in another database, is a hazard. Not one of [`Self::ALL`]: a
    /// step of a saga is sent none.
    HazardUnderAnyName,
    /// Cancel of another participant's branch is done. Not one of [`Self::ALL`]: it is found where the one before is.
    CancelsUnderAnyName,
    /// The place of the database is looked at nowhere: no fault.
    KnowsNoPlace,
    /// Prepare does not look at the place of the database. Not one of [`Self::ALL`], as all that are about places.
    PreparesAtOtherPlaces,
    /// Commit does not look at it.
    CommitsAtOtherPlaces,
    /// Cancel does not look at it.
    CancelsAtOtherPlaces,
    /// Commit of a branch at another place is a hazard, as with another database.
    HazardAtOtherPlaces,
    /// A Prepare for another place leaves a tombstone.
    EndsAtOtherPlaces,
    /// The pause of WORKING is always the same.
    PausesAlike,
    /// The text of an error status is as long as what it is about.
    WordyStatuses,
    /// Votes carry no id of the database: no fault.
    HasNoDatabaseId,
    /// It does not know work that must succeed, and says so: no fault.
    MayAlwaysFail,
}

impl Fault {
    /// Every fault, and `None`.
    pub const ALL: [Self; 36] = [
        Self::None,
        Self::NoTombstone,
        Self::CancelNeedsPrepare,
        Self::CancelWaitsForPrepare,
        Self::CommitsAnything,
        Self::OutputsDiffer,
        Self::ForgetsRefusals,
        Self::OneBranchATransaction,
        Self::IgnoresBound,
        Self::UnknownActionIsAnError,
        Self::CancelsCommitted,
        Self::CommitsCancelled,
        Self::ForgetsEnds,
        Self::LooksThenWrites,
        Self::AnswersToAnyName,
        Self::TakesAnyContext,
        Self::WordyReasons,
        Self::ReadOnlyInTcc,
        Self::Mute,
        Self::IgnoresRequirements,
        Self::IgnoresPhaseTwoRequirements,
        Self::UnknownModeIsAnError,
        Self::StoresFailures,
        Self::ForgetsMediaTypes,
        Self::RefusesOtherInputs,
        Self::MissingInputIsAnError,
        Self::CancelNeedsInputs,
        Self::ForgetsSuccess,
        Self::PurgesAtBound,
        Self::TombstonesNeedABound,
        Self::IgnoresOutputBound,
        Self::StoresMissingInput,
        Self::CancelsAll,
        Self::IgnoresDatabases,
        Self::PausesAlike,
        Self::WordyStatuses,
    ];
}

/// Name of the input that the action reads.
pub const INPUT: &str = "ticket";

/// Place of its database.
const PLACE: &str = "here";

/// Id of its database.
const DATABASE_ID: &str = "0197a000-0000-7000-8000-000000000000";

/// Time that Prepare works.
const WORK: Duration = Duration::from_millis(3);

#[derive(Clone, Debug)]
enum State {
    Prepared(Bytes),
    Refused(Refusal),
    Committed(Bytes),
    Cancelled,
    Lost,
}

/// Participant with a fault. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Faulty {
    fault: Fault,
    rows: Arc<Mutex<HashMap<(String, String), State>>>,
    /// Bounds of what is prepared.
    bounds: Arc<Mutex<HashMap<(String, String), SystemTime>>>,
}

impl Faulty {
    /// Makes a participant with this fault.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self { fault, rows: Arc::default(), bounds: Arc::default() }
    }

    /// Serves it on a free port, and returns the endpoint.
    ///
    /// # Panics
    /// No port is free.
    pub async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = ParticipantServiceServer::new(self.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        format!("http://{address}")
    }

    /// Returns the numbers of branches that are prepared and that are committed.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let rows = self.rows();
        let count = |is: fn(&State) -> bool| rows.values().filter(|state| is(state)).count();
        (
            count(|state| matches!(state, State::Prepared(_))),
            count(|state| matches!(state, State::Committed(_))),
        )
    }

    fn rows(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), State>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, context: Option<BranchContext>) -> Result<(String, String), Status> {
        let context = context.unwrap_or_default();
        let named = |text: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
            let first = text.bytes().next();
            let begins = first.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            begins && text.bytes().all(allowed)
        };
        let good = Uuid::parse_str(&context.tx_id).is_ok()
            && named(&context.branch_id)
            && context.branch_number > 0
            && (context.mode() != Mode::Unspecified
                || context.mode != 0 && self.fault != Fault::UnknownModeIsAnError);
        if !good && self.fault != Fault::TakesAnyContext {
            return Err(Status::invalid_argument("context breaks the rules"));
        }
        let mine = context.participant == NAME || self.fault == Fault::TakesAnyContext && !good;
        if !mine && self.fault != Fault::AnswersToAnyName {
            let asked = match self.fault {
                Fault::WordyStatuses => &context.participant[..],
                _ => "the one that is asked for",
            };
            let text = format!("this is participant {NAME}, and not {asked}");
            return Err(Status::failed_precondition(text));
        }
        let branch = match self.fault {
            Fault::OneBranchATransaction => String::new(),
            _ => context.branch_id,
        };
        Ok((context.tx_id, branch))
    }

    /// Tells whether a branch is one of another database.
    fn is_elsewhere(&self, context: Option<&BranchContext>) -> bool {
        let id = context.map_or("", |context| context.database_id.as_str());
        !["", DATABASE_ID].contains(&id) && self.fault != Fault::IgnoresDatabases
    }

    /// Refuses a branch whose database is at another place, unless the fault is one of these.
    fn check_place(&self, context: Option<&BranchContext>, faults: &[Fault]) -> Result<(), Status> {
        let place = context.map_or("", |context| context.database_place.as_str());
        let looks = self.fault != Fault::KnowsNoPlace && !faults.contains(&self.fault);
        match !["", PLACE].contains(&place) && looks {
            true => Err(Status::failed_precondition("it is at another place")),
            false => Ok(()),
        }
    }

    /// Returns the vote of a branch that has a row, now or `again`.
    fn vote(&self, state: &State, again: bool) -> prepare_response::Answer {
        use prepare_response::Answer;
        match state {
            State::Prepared(output) | State::Committed(output) => {
                let output = match self.fault {
                    Fault::OutputsDiffer => new_output(),
                    _ => output.clone(),
                };
                let media_type = if again && self.fault == Fault::ForgetsMediaTypes {
                    String::new()
                } else {
                    "text/plain".to_owned()
                };
                Answer::Prepared(Prepared { output: Some(Payload { data: output, media_type }) })
            }
            State::Refused(refusal) => Answer::Refused(refusal.clone()),
            State::Cancelled if self.fault == Fault::ReadOnlyAfterCancel => {
                Answer::ReadOnly(ReadOnly {})
            }
            State::Cancelled | State::Lost => {
                Answer::Refused(Refusal { reason: "ENDED".into(), message: "it has ended".into() })
            }
        }
    }

    /// Returns the state to which a first Prepare leads.
    fn work(&self, request: &PrepareRequest) -> Result<State, Status> {
        let refused = |reason: &str| {
            let reason = match self.fault {
                Fault::WordyReasons => format!("refused, because {reason}!"),
                _ => reason.to_owned(),
            };
            State::Refused(Refusal { reason, message: "no".to_owned() })
        };
        if let Some(unknown) = self.unsupported(request) {
            let reason = "FEATURE_UNSUPPORTED".to_owned();
            return Ok(State::Refused(Refusal { reason, message: unknown.clone() }));
        }
        let context = request.context.as_ref();
        if context.is_some_and(|context| context.mode != 0 && context.mode() == Mode::Unspecified) {
            let reason = "MODE_NOT_OFFERED".to_owned();
            let message = "it is not known".to_owned();
            return Ok(State::Refused(Refusal { reason, message }));
        }
        let until = request.prepare_until.and_then(|until| SystemTime::try_from(until).ok());
        if until.is_some_and(|until| until < SystemTime::now()) && self.fault != Fault::IgnoresBound
        {
            return Ok(refused("LATE"));
        }
        if request.action != ACTION {
            return match self.fault {
                Fault::UnknownActionIsAnError => Err(Status::not_found("no such action")),
                _ => Ok(refused("NO_SUCH_ACTION")),
            };
        }
        let payload = bytes_of(request.payload.as_ref());
        let ticket = request.inputs.contains_key(INPUT);
        if self.fault == Fault::RefusesOtherInputs && request.inputs.len() > usize::from(ticket) {
            return Ok(refused("UNKNOWN_INPUT"));
        }
        match &payload[..] {
            b"no" => Ok(refused("NO")),
            b"ticket" if !ticket && self.fault == Fault::MissingInputIsAnError => {
                Err(Status::invalid_argument("no ticket"))
            }
            b"ticket" if !ticket => Ok(refused("NO_TICKET")),
            _ => {
                let output = new_output();
                let most = request.output_bytes_max.and_then(|most| usize::try_from(most).ok());
                let over = most.is_some_and(|most| output.len() > most);
                if over && self.fault != Fault::IgnoresOutputBound {
                    return Ok(refused("OUTPUT_TOO_LARGE"));
                }
                Ok(State::Prepared(output))
            }
        }
    }
}

impl Faulty {
    /// The first requirement that is not known.
    fn unsupported<'r>(&self, request: &'r PrepareRequest) -> Option<&'r String> {
        let known = |name: &str| match self.fault {
            Fault::IgnoresRequirements => true,
            Fault::MayAlwaysFail => false,
            _ => ["must_succeed", "output_bytes_max", "step_inputs"].contains(&name),
        };
        request.requires.iter().find(|name| !known(name))
    }

    /// Refuses phase two that requires anything: nothing is known here that it could.
    fn check_phase_two(&self, requires: &[String]) -> Result<(), Status> {
        match requires.first() {
            Some(name) if self.fault != Fault::IgnoresPhaseTwoRequirements => {
                let name: String = name.chars().take(100).collect();
                Err(Status::unimplemented(format!("{name} is not known")))
            }
            _ => Ok(()),
        }
    }

    fn is_stored(&self, request: &PrepareRequest, state: &State) -> bool {
        let named = || request.requires.iter().any(|name| name == "must_succeed");
        let must_succeed = match self.unsupported(request) {
            Some(_) => named(),
            None => request.must_succeed,
        };
        let lacks_input = matches!(state, State::Refused(no) if no.reason == "NO_TICKET");
        let stores = self.fault == Fault::StoresFailures
            || self.fault == Fault::StoresMissingInput && lacks_input;
        let no_vote = must_succeed && !stores;
        if must_succeed && self.fault == Fault::ForgetsSuccess {
            return false;
        }
        !matches!(state, State::Refused(_)) || !(no_vote || self.fault == Fault::ForgetsRefusals)
    }
}

fn new_output() -> Bytes {
    Uuid::new_v4().to_string().into()
}

fn heuristic(kind: HeuristicKind) -> HeuristicOutcome {
    HeuristicOutcome { kind: kind.into(), note: "as its row says".to_owned() }
}

#[tonic::async_trait]
impl ParticipantService for Faulty {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        let request = request.into_inner();
        let key = self.key(request.context.clone())?;
        if self.is_elsewhere(request.context.as_ref()) {
            return Err(Status::failed_precondition("it is in another database"));
        }
        let placed = self.check_place(request.context.as_ref(), &[Fault::PreparesAtOtherPlaces]);
        if placed.is_err() && self.fault == Fault::EndsAtOtherPlaces {
            self.rows().insert(key.clone(), State::Cancelled);
        }
        placed?;
        let database_id = match self.fault {
            Fault::HasNoDatabaseId => String::new(),
            _ => DATABASE_ID.to_owned(),
        };
        let answered = |answer| {
            Ok(Response::new(PrepareResponse {
                answer: Some(answer),
                database_id: database_id.clone(),
            }))
        };
        if *bytes_of(request.payload.as_ref()) == *b"slow" {
            let doublings =
                if self.fault == Fault::PausesAlike { 0 } else { request.attempt.min(9) };
            let pause = Duration::from_millis(10 << doublings);
            let retry_after = prost_types::Duration::try_from(pause).ok();
            return answered(prepare_response::Answer::Working(Working { retry_after }));
        }
        match self.fault {
            Fault::FallsMute if self.rows().is_empty() => {}
            Fault::Mute | Fault::FallsMute => {
                return Ok(Response::new(PrepareResponse { answer: None, ..Default::default() }));
            }
            Fault::ReadOnlyInTcc => {
                return answered(prepare_response::Answer::ReadOnly(ReadOnly {}));
            }
            Fault::LooksThenWrites => {
                if let Some(state) = self.rows().get(&key) {
                    return answered(self.vote(state, true));
                }
                let state = self.work(&request)?;
                tokio::time::sleep(WORK).await;
                let answer = self.vote(&state, false);
                if self.is_stored(&request, &state) {
                    self.rows().insert(key, state);
                }
                return answered(answer);
            }
            _ => {}
        }
        tokio::time::sleep(WORK).await;
        let mut rows = self.rows();
        let mut bounds = self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        if self.fault == Fault::PurgesAtBound
            && bounds.get(&key).is_some_and(|bound| *bound < SystemTime::now())
        {
            bounds.remove(&key);
            rows.remove(&key);
        }
        if let Some(state) = rows.get(&key) {
            return answered(self.vote(state, true));
        }
        let state = self.work(&request)?;
        let answer = self.vote(&state, false);
        if self.is_stored(&request, &state) {
            let until = request.prepare_until.and_then(|until| SystemTime::try_from(until).ok());
            if let (State::Prepared(_), Some(until)) = (&state, until) {
                bounds.insert(key.clone(), until);
            }
            rows.insert(key, state);
        }
        answered(answer)
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        use commit_response::Answer;
        let request = request.into_inner();
        let is_named =
            self.fault == Fault::HazardUnderAnyName || self.key(request.context.clone()).is_ok();
        if is_named && self.is_elsewhere(request.context.as_ref()) {
            let answer = match self.fault {
                Fault::CommitsElsewhere => Answer::Done(Done {}),
                _ => Answer::Heuristic(heuristic(HeuristicKind::Hazard)),
            };
            return Ok(Response::new(CommitResponse { answer: Some(answer) }));
        }
        let faults = [Fault::CommitsAtOtherPlaces, Fault::HazardAtOtherPlaces];
        self.check_place(request.context.as_ref(), &faults)?;
        let place = request.context.as_ref().map_or("", |context| context.database_place.as_str());
        if !place.is_empty() && self.fault == Fault::HazardAtOtherPlaces {
            let answer = Some(Answer::Heuristic(heuristic(HeuristicKind::Hazard)));
            return Ok(Response::new(CommitResponse { answer }));
        }
        let key = self.key(request.context)?;
        if self.fault != Fault::CommitsWhateverIsRequired {
            self.check_phase_two(&request.requires)?;
        }
        let mut rows = self.rows();
        let (answer, state) = match rows.get(&key).cloned() {
            Some(State::Prepared(output) | State::Committed(output)) => {
                (Answer::Done(Done {}), State::Committed(output))
            }
            Some(state @ State::Cancelled) if self.fault == Fault::CommitsCancelled => {
                (Answer::Done(Done {}), state)
            }
            Some(state @ (State::Cancelled | State::Refused(_))) => {
                (Answer::Heuristic(heuristic(HeuristicKind::Rollback)), state)
            }
            None if self.fault == Fault::CommitsAnything => {
                return Ok(Response::new(CommitResponse { answer: Some(Answer::Done(Done {})) }));
            }
            Some(State::Lost) | None => {
                (Answer::Heuristic(heuristic(HeuristicKind::Hazard)), State::Lost)
            }
        };
        rows.insert(key.clone(), state);
        if self.fault == Fault::ForgetsEnds {
            rows.remove(&key);
        }
        if self.fault == Fault::CommitsUnheard {
            return Err(Status::unavailable("the connection is cut"));
        }
        Ok(Response::new(CommitResponse { answer: Some(answer) }))
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        use cancel_response::Answer;
        let request = request.into_inner();
        let name = request.context.as_ref().map_or("", |context| context.participant.as_str());
        if name != NAME && self.fault == Fault::CancelsUnderAnyName {
            return Ok(Response::new(CancelResponse { answer: Some(Answer::Done(Done {})) }));
        }
        let is_named = self.key(request.context.clone()).is_ok();
        if is_named && self.is_elsewhere(request.context.as_ref()) {
            return match self.fault {
                Fault::CancelsElsewhere => {
                    Ok(Response::new(CancelResponse { answer: Some(Answer::Done(Done {})) }))
                }
                _ => Err(Status::failed_precondition("it is in another database")),
            };
        }
        self.check_place(request.context.as_ref(), &[Fault::CancelsAtOtherPlaces])?;
        let key = self.key(request.context)?;
        self.check_phase_two(&request.requires)?;
        let has_bound = request.prepare_until.is_some();
        let reads = &bytes_of(request.payload.as_ref())[..] == b"ticket";
        if reads && self.fault == Fault::CancelNeedsInputs && !request.inputs.contains_key(INPUT) {
            return Err(Status::invalid_argument("no ticket"));
        }
        let mut rows = self.rows();
        let found = rows.get(&key).cloned();
        let answered = |answer| Ok(Response::new(CancelResponse { answer: Some(answer) }));
        let (answer, state) = match (found, self.fault) {
            (None, Fault::CancelNeedsPrepare) => return Err(Status::not_found("no such branch")),
            (None, Fault::CancelWaitsForPrepare) => {
                return answered(Answer::Working(Working { retry_after: None }));
            }
            (None, Fault::NoTombstone) => return answered(Answer::Done(Done {})),
            (None, Fault::TombstonesNeedABound) if !has_bound => {
                return answered(Answer::Done(Done {}));
            }
            (Some(state @ State::Committed(_)), Fault::CancelsCommitted) => {
                (Answer::Done(Done {}), state)
            }
            (Some(state @ State::Committed(_)), _) => {
                (Answer::Heuristic(heuristic(HeuristicKind::Commit)), state)
            }
            (Some(State::Lost), _) => {
                (Answer::Heuristic(heuristic(HeuristicKind::Hazard)), State::Lost)
            }
            (Some(State::Refused(refusal)), _) => (Answer::Done(Done {}), State::Refused(refusal)),
            (Some(State::Prepared(_) | State::Cancelled) | None, _) => {
                (Answer::Done(Done {}), State::Cancelled)
            }
        };
        rows.insert(key.clone(), state);
        if self.fault == Fault::ForgetsEnds {
            rows.remove(&key);
        }
        if self.fault == Fault::CancelsAll {
            for ((tx_id, _), state) in rows.iter_mut() {
                if *tx_id == key.0 && matches!(state, State::Prepared(_)) {
                    *state = State::Cancelled;
                }
            }
        }
        answered(answer)
    }
}
