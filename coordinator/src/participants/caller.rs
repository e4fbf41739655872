//! One call to a participant: its slot, its transport, its deadline, and how it ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::Status;
use unanimo_core::{
    BranchNumber, BranchSpec, Identity, InputName, Payload, PhaseTwoAnswer, PhaseTwoOperation,
    PrepareAnswer, Timestamp,
};
use unanimo_proto::v1;

use super::directory::{Directory, Entry, Route};
use super::wire;
use crate::cluster::lease::Lease;
use crate::metrics::Metrics;

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
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Outputs of earlier branches that go with it.
    pub inputs: Vec<(InputName, Payload)>,
    /// Its Prepare may only succeed.
    pub must_succeed: bool,
    /// When a Prepare may start at the latest, if there is such a time.
    pub prepare_until: Option<Timestamp>,
    /// The database's name.
    pub cluster_id: Arc<str>,
    /// Time to wait for the answer.
    pub timeout: Duration,
}

/// Calls participants.
///
/// Everything that a call over the network needs is boxed: every call's task would be as large, and
/// be moved about as a whole, also where the participant is in this process.
#[derive(Clone, Debug)]
pub struct Caller {
    directory: Arc<Directory>,
    lease: Lease,
    metrics: Arc<Metrics>,
}

impl Caller {
    /// A caller that sends only while the lease holds.
    #[must_use]
    pub fn new(directory: Arc<Directory>, lease: Lease, metrics: Arc<Metrics>) -> Self {
        Self { directory, lease, metrics }
    }

    /// Sends Prepare and waits for its end.
    pub async fn prepare(&self, call: BranchCall) -> PrepareAnswer {
        let databases = self.directory.databases();
        let participant = &call.spec.participant;
        let database = || databases.id_of(participant);
        let sending = async |route: Route| {
            let request = || {
                wire::request(wire::prepare(&call, database()), &call.identity.trace, call.timeout)
            };
            let response = match route {
                Route::Remote(mut client) => Box::pin(client.prepare(request())).await,
                Route::Local(service) => service.prepare(request()).await,
                Route::Own(own) => return Ok(own.prepare(&call).await),
            };
            response.map(|response| {
                let v1::PrepareResponse { answer, database_id } = response.into_inner();
                match databases.votes(participant, &database_id) {
                    Ok(()) => wire::prepare_answer(answer),
                    Err(other) => {
                        let tx_id = call.identity.tx_id;
                        tracing::error!(
                            alarm = "participant_other_database", %tx_id, %participant, error = %other,
                            "a vote came from another database and does not count"
                        );
                        PrepareAnswer::Failed(other.to_string())
                    }
                }
            })
        };
        self.send("prepare", &call, |entry| &entry.prepare_slots, sending)
            .await
            .unwrap_or_else(PrepareAnswer::Failed)
    }

    /// Sends Commit or Cancel and waits for its end.
    pub async fn phase_two(
        &self,
        operation: PhaseTwoOperation,
        call: BranchCall,
    ) -> PhaseTwoAnswer {
        let databases = self.directory.databases();
        let database = || databases.id_of(&call.spec.participant);
        let commit = async |route: Route| {
            let request = || {
                wire::request(wire::commit(&call, database()), &call.identity.trace, call.timeout)
            };
            let response = match route {
                Route::Remote(mut client) => Box::pin(client.commit(request())).await,
                Route::Local(service) => service.commit(request()).await,
                Route::Own(own) => return Ok(own.phase_two(operation, &call).await),
            };
            response.map(|response| wire::commit_answer(response.into_inner().answer))
        };
        let cancel = async |route: Route| {
            let request = || {
                wire::request(wire::cancel(&call, database()), &call.identity.trace, call.timeout)
            };
            let response = match route {
                Route::Remote(mut client) => Box::pin(client.cancel(request())).await,
                Route::Local(service) => service.cancel(request()).await,
                Route::Own(own) => return Ok(own.phase_two(operation, &call).await),
            };
            response.map(|response| wire::cancel_answer(response.into_inner().answer))
        };
        let sent = match operation {
            PhaseTwoOperation::Commit => {
                self.send("commit", &call, |entry| &entry.phase_two_slots, commit).await
            }
            PhaseTwoOperation::Cancel => {
                self.send("cancel", &call, |entry| &entry.phase_two_slots, cancel).await
            }
        };
        sent.unwrap_or_else(PhaseTwoAnswer::Failed)
    }

    async fn send<T>(
        &self,
        operation: &'static str,
        call: &BranchCall,
        slots: impl Fn(&Entry) -> &Semaphore,
        sending: impl AsyncFnOnce(Route) -> Result<T, Status>,
    ) -> Result<T, String> {
        let name = &call.spec.participant;
        let Some(entry) = self.directory.find(name) else {
            return Err(format!("participant {name} is not known here"));
        };
        let Ok(_slot) = slots(&entry).acquire().await else {
            return Err("the coordinator is stopping".to_owned());
        };
        let prepare = operation == "prepare";
        let Some(route) = self.directory.route(&entry, prepare, call.attempt) else {
            return Err(format!("participant {name} has no endpoint"));
        };
        if !self.lease.is_held() {
            return Err("the coordinator's lease has run out".to_owned());
        }
        let started = tokio::time::Instant::now();
        let result = tokio::time::timeout(call.timeout, sending(route)).await;
        let result = match result {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) if started.elapsed() < call.timeout => Err(wire::failure(&status)),
            // By our own clock, or by the transport's, which may be faster by a moment.
            Ok(Err(_)) | Err(_) => Err(format!("no answer within {:?}", call.timeout)),
        };
        self.metrics.called(name.as_str(), operation, result.is_ok(), started.elapsed());
        result
    }
}
