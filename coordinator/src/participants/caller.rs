//! One call to a participant: its slot, its transport, its deadline, and how it ended.

pub(super) mod attempt;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;
use unanimo_core::{
    BranchNumber, BranchSpec, Identity, InputName, ParticipantName, Payload, PhaseTwoAnswer,
    PhaseTwoOperation, PrepareAnswer, Timestamp, TraceContext,
};
use unanimo_proto::v1;

use self::attempt::{Attempt, Verdict};
use super::breaker::Past;
use super::databases::Database;
use super::directory::{CallKind, Directory, Entry, Route};
use super::wire;
use crate::cluster::lease::Lease;
use crate::lines::Lines;
use crate::metrics::Metrics;
use crate::spans::{self, Spans, Traced};

/// Reason of a refusal by which a participant says that its clock is past the Prepare's time.
pub(crate) const TOO_LATE: &str = "TOO_LATE";

/// Content of a call, whatever the operation.
#[derive(Clone, Debug)]
pub struct BranchCall {
    /// The transaction.
    pub identity: Arc<Identity>,
    /// The call.
    pub spec: Arc<BranchSpec>,
    /// Its number.
    pub number: BranchNumber,
    /// Output of its Prepare.
    pub output: Option<Payload>,
    /// Id of the database that holds its vote; empty if it is not known.
    pub database_id: String,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Outputs of earlier branches that go with it.
    pub inputs: Vec<(InputName, Payload)>,
    /// Its Prepare may only succeed.
    pub must_succeed: bool,
    /// Most bytes of the output of its Prepare, where a larger one would be no vote.
    pub output_bytes_max: Option<usize>,
    /// When a Prepare may start at the latest, if there is such a time.
    pub prepare_until: Option<Timestamp>,
    /// The database's name.
    pub cluster_id: Arc<str>,
    /// Time to wait for the answer.
    pub timeout: Duration,
    /// All the time that a call has. Where the transaction allows less, the call's end says little of the
    /// participant.
    pub full: Duration,
    /// Endpoints that an earlier attempt failed at: they are the last choice.
    pub avoid: Vec<u64>,
    /// It is sent though the participant fails: it tries whether that is back.
    pub probe: bool,
    /// Past of the branch's calls of this kind.
    pub(crate) past: Past,
    /// Its place in a trace.
    pub(crate) traced: Traced,
}

impl BranchCall {
    fn is_full(&self) -> bool {
        self.timeout >= self.full
    }

    /// Returns the attributes that spans of its branch have.
    fn named(&self) -> spans::Attributes {
        spans::of_branch(&self.identity, &self.spec)
    }
}

/// Reason for which a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its error.
    pub error: String,
    /// The endpoint, if one was called.
    pub endpoint: Option<u64>,
    /// Its address; empty if none was called.
    pub url: String,
}

/// End of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End<T> {
    /// The participant answered.
    Answered(T),
    /// There is no answer.
    Failed(Failed),
    /// It was not sent, because the participant began to fail while it waited for a slot.
    Deferred,
}

/// Longest id of a participant's database, in bytes.
const DATABASE_ID_BYTES_MAX: usize = unanimo_core::ids::NAME_BYTES_MAX;

/// Calls participants.
///
/// Everything that a call over the network needs is boxed: every call's task would be as large, and
/// be moved about as a whole, also where the participant is in this process.
#[derive(Clone, Debug)]
pub struct Caller {
    directory: Arc<Directory>,
    lease: Lease,
    metrics: Arc<Metrics>,
    spans: Spans,
    failures: Arc<Lines>,
}

impl Caller {
    /// A caller that sends only while the lease holds.
    #[must_use]
    pub(crate) fn new(
        directory: Arc<Directory>,
        lease: Lease,
        metrics: Arc<Metrics>,
        spans: Spans,
    ) -> Self {
        Self { directory, lease, metrics, spans, failures: Arc::new(Lines::readable()) }
    }

    /// Lines about calls that failed.
    pub(crate) fn failures(&self) -> &Lines {
        &self.failures
    }

    /// Sends Prepare and waits for its end: the answer, and the id of the database that holds it.
    pub async fn prepare(&self, call: BranchCall) -> End<(PrepareAnswer, String)> {
        let call = &call;
        let databases = self.directory.databases();
        let participant = &call.spec.participant;
        let tokens = self.directory.tokens();
        let sending = move |route: Route, url: String, trace: TraceContext| async move {
            let request = || {
                let prepare = wire::prepare(call, databases.of(participant));
                wire::request(prepare, &trace, call.timeout)
            };
            let response = match route {
                Route::Remote(mut client, _open) => {
                    let signed = tokens.sign(participant, &url, request());
                    Box::pin(client.prepare(signed)).await
                }
                Route::Local(service) => service.prepare(request()).await,
                Route::Own(own) => return Ok((own.prepare(call).await, String::new())),
            };
            let v1::PrepareResponse { answer, database_id } = response?.into_inner();
            // It is stored with the branch, and goes out with each of its calls.
            if database_id.len() > DATABASE_ID_BYTES_MAX {
                let (bytes, most) = (database_id.len(), DATABASE_ID_BYTES_MAX);
                let error = format!("database_id has {bytes} bytes, and must have at most {most}");
                return Err(Status::internal(error));
            }
            match databases.votes(participant, &database_id) {
                Ok(()) => Ok((wire::prepare_answer(answer), database_id)),
                // No answer of the participant: it is asked for at another endpoint.
                Err(other) => Err(Status::internal(other.to_string())),
            }
        };
        let is_busy = |(answer, _): &(PrepareAnswer, String)| match answer {
            PrepareAnswer::Working { .. } => true,
            PrepareAnswer::Refused(refusal) => refusal.reason == TOO_LATE,
            _ => false,
        };
        self.send("prepare", call, CallKind::Prepare, sending, is_busy).await
    }

    /// Sends Commit or Cancel and waits for its end.
    pub async fn phase_two(
        &self,
        operation: PhaseTwoOperation,
        call: BranchCall,
    ) -> End<PhaseTwoAnswer> {
        let call = &call;
        let databases = self.directory.databases();
        // The database of the vote, whichever the participant has today. Of a branch without a vote nothing
        // is known but that one.
        let database = move || {
            let today = databases.of(&call.spec.participant);
            match call.database_id.as_str() {
                "" => today,
                voted_in if voted_in == today.id => today,
                voted_in => Database { id: voted_in.to_owned(), place: String::new() },
            }
        };
        let (tokens, participant) = (self.directory.tokens(), &call.spec.participant);
        let commit = move |route: Route, url: String, trace: TraceContext| async move {
            let request = || wire::request(wire::commit(call, database()), &trace, call.timeout);
            let response = match route {
                Route::Remote(mut client, _open) => {
                    let signed = tokens.sign(participant, &url, request());
                    Box::pin(client.commit(signed)).await
                }
                Route::Local(service) => service.commit(request()).await,
                Route::Own(own) => return Ok(own.phase_two(operation, call).await),
            };
            response.map(|response| wire::commit_answer(response.into_inner().answer))
        };
        let cancel = move |route: Route, url: String, trace: TraceContext| async move {
            let request = || wire::request(wire::cancel(call, database()), &trace, call.timeout);
            let response = match route {
                Route::Remote(mut client, _open) => {
                    let signed = tokens.sign(participant, &url, request());
                    Box::pin(client.cancel(signed)).await
                }
                Route::Local(service) => service.cancel(request()).await,
                Route::Own(own) => return Ok(own.phase_two(operation, call).await),
            };
            response.map(|response| wire::cancel_answer(response.into_inner().answer))
        };
        let is_busy = |answer: &PhaseTwoAnswer| matches!(answer, PhaseTwoAnswer::Working { .. });
        let kind = CallKind::PhaseTwo;
        match operation {
            PhaseTwoOperation::Commit => self.send("commit", call, kind, commit, is_busy).await,
            PhaseTwoOperation::Cancel => self.send("cancel", call, kind, cancel, is_busy).await,
        }
    }

    /// Sends it to one endpoint after the other, as long as no connection can be made: then nothing was
    /// sent.
    async fn send<T, F>(
        &self,
        operation: &'static str,
        call: &BranchCall,
        kind: CallKind,
        sending: impl Fn(Route, String, TraceContext) -> F,
        is_busy: impl Fn(&T) -> bool,
    ) -> End<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let (name, local) = (&call.spec.participant, call.spec.participant.local());
        let failed =
            |error: String| End::Failed(Failed { error, endpoint: None, url: String::new() });
        let Some(entry) = self.directory.find(name) else {
            return failed(format!("participant {local} is not known here"));
        };
        let mut avoid = call.avoid.clone();
        let mut attempt = Attempt::new(&entry, kind, call);
        let (began, endpoints) = (Instant::now(), self.directory.count_endpoints(&entry));
        loop {
            let Some(taken) = self.directory.take(&entry, kind, &avoid).await else {
                let verdict = Verdict::Connect(format!("participant {local} has no endpoint"));
                attempt.failed(&verdict);
                return failed(self.noted(name, verdict));
            };
            if !call.probe && entry.breaker(kind).is_open() {
                return End::Deferred;
            }
            if !self.lease.is_held() {
                return failed("the coordinator's lease has run out".to_owned());
            }
            let route = match self.directory.route(&taken, call.past != Past::Good) {
                Ok(route) => route,
                Err(error) => return failed(error),
            };
            let (started, endpoint, url) = (Instant::now(), taken.id(), taken.url().to_owned());
            attempt.sent(taken);
            let traced = call.traced.operation();
            let span = traced.map(|of| self.spans.attempt(of, call.named(), call.attempt, &url));
            let named = span.as_ref().and_then(spans::Attempt::sent);
            let trace = named.unwrap_or_else(|| call.traced.sent(&call.identity));
            let sent = tokio::time::timeout(call.timeout, sending(route, url.clone(), trace)).await;
            let verdict = match sent {
                Ok(Ok(answer)) => {
                    let is_busy = is_busy(&answer);
                    attempt.answered(is_busy);
                    span.into_iter().for_each(|span| span.answered(is_busy));
                    self.metrics.called(name.as_str(), operation, true, started.elapsed());
                    return End::Answered(answer);
                }
                Ok(Err(status)) if started.elapsed() < call.timeout => {
                    wire::verdict(&status, kind == CallKind::Prepare, call.attempt)
                        .within(call.is_full(), status.code())
                }
                // By our own clock, or by the transport's, which may be faster by a moment.
                Ok(Err(_)) | Err(_) => Verdict::unanswered(call.timeout, call.is_full()),
            };
            self.metrics.called(name.as_str(), operation, false, started.elapsed());
            span.into_iter().for_each(|span| span.failed(verdict.error()));
            attempt.failed_there(&verdict);
            avoid.push(endpoint);
            if verdict.is_unsent() && avoid.len() < endpoints && began.elapsed() < call.timeout {
                continue;
            }
            attempt.failed(&verdict);
            let error = self.noted(name, verdict);
            return End::Failed(Failed { error, endpoint: Some(endpoint), url });
        }
    }

    /// Notes the error of a call that has failed at last, and returns it.
    fn noted(&self, name: &ParticipantName, verdict: Verdict) -> String {
        let error = verdict.into_error();
        self.metrics.call_failed(name.as_str(), &error);
        error
    }

    /// Returns the trace of a transaction, for its log lines.
    pub(crate) fn trace_id(&self, identity: &Identity) -> Option<String> {
        self.spans.trace_id(identity)
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Returns the participant, if its name is known.
    pub(crate) fn find(&self, name: &ParticipantName) -> Option<Arc<Entry>> {
        self.directory.find(name)
    }
}
