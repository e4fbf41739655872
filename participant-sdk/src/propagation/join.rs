//! Joining: a participant that is called with a transaction's context enlists itself.

mod error;

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tonic::Code;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{BranchSpec, EnlistBranchRequest, EnlistBranchResponse, Vote};
use uuid::Uuid;

pub use self::error::JoinError;
use super::scope::Propagation;
use super::trace::Trace;
use crate::channel::Link;
use crate::client::{Client, Output};
use crate::participant::{Caller, Service};
use crate::payload::{Encode, Payload};
use crate::refusal::Refusal;
use crate::resource::{RawCall, Resource, Voted};
use crate::wire::{self, Parts};

/// Pause after the first Prepare that was not answered; it doubles with each.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest pause, also of those that a handler asks for: somebody waits for the reply.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Lets a service take part in the transactions of its callers. Cheap to clone.
///
/// It is made by [`Service::joiner`], for a service's own handlers of requests, behind a
/// [`ServerLayer`](super::ServerLayer).
#[derive(Debug)]
pub struct Joiner<R: Resource> {
    service: Service<R>,
    coordinator: Client,
}

impl<R: Resource> Clone for Joiner<R> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), coordinator: self.coordinator.clone() }
    }
}

/// A branch's vote.
#[derive(Debug)]
#[must_use = "a branch that refused aborts the transaction"]
pub enum Joined {
    /// Yes, with what the handler found out; in two-phase commit that is nothing.
    Prepared(Output),
    /// Yes, and nothing was written.
    ReadOnly,
    /// No: the transaction aborts.
    Refused(Refusal),
}

impl Joined {
    /// The yes with its output, or the no.
    ///
    /// # Errors
    /// The vote is no.
    pub fn accepted(self) -> Result<Output, Refusal> {
        match self {
            Self::Prepared(output) => Ok(output),
            Self::ReadOnly => Ok(Output::default()),
            Self::Refused(refusal) => Err(refusal),
        }
    }
}

impl<R: Resource> Service<R> {
    /// Lets the participant join transactions that its own service is called with. `coordinator` is
    /// this participant's coordinator: no request says where it is. Its
    /// [time to wait](Client::wait_at_most) bounds each joining.
    ///
    /// The participant must be [served](Service::serve), too: that is where Commit and Cancel come.
    #[must_use]
    pub fn joiner(&self, coordinator: Client) -> Joiner<R> {
        Joiner { service: self.clone(), coordinator }
    }
}

impl<R: Resource> Joiner<R> {
    /// Takes part in the [current](Propagation::current) transaction with a new branch: makes it
    /// durable at the coordinator (promise S6), and only then runs `action`'s handler, behind the same
    /// barrier as the coordinator's calls. The server layer tells the vote to the caller.
    ///
    /// A Prepare that gets no answer is sent again until the transaction's deadline, or until the
    /// coordinator's client has waited long enough.
    ///
    /// A handler runs in a task of its own, outside the transaction: it makes no calls for it.
    ///
    /// The reply names at most 4,096 bytes of branches: 77 with ids that are made here. Nothing is enlisted
    /// that would not be named.
    ///
    /// # Errors
    /// There is no vote. Where the branch was enlisted, the transaction aborts: joining once more
    /// makes another branch and does not change that.
    pub async fn join(
        &self,
        action: impl Into<String>,
        payload: impl Encode,
    ) -> Result<Joined, JoinError> {
        let branch_id = new_branch_id(self.service.participant());
        self.join_as(branch_id, action, payload).await
    }

    /// Joins as [`Self::join`] does, with a branch id of the service's own making, such as the idempotency key
    /// of the request: 1 to 128 bytes of `[A-Za-z0-9_.:-]`, unique within the transaction. Whoever
    /// joins again under the same id with the same content is the same branch, has its effect once,
    /// and hears the same vote.
    ///
    /// # Errors
    /// As of [`Self::join`]; other content under the same id is rejected.
    pub async fn join_as(
        &self,
        branch_id: impl Into<String>,
        action: impl Into<String>,
        payload: impl Encode,
    ) -> Result<Joined, JoinError> {
        let propagation = Propagation::current().ok_or(JoinError::NoTransaction)?;
        let give_up = Instant::now() + self.coordinator.wait_max();
        let (branch_id, action) = (branch_id.into(), action.into());
        let full = || JoinError::ReplyFull { branch_id: branch_id.clone() };
        // Before it is enlisted: a branch that the reply does not name means ABORT.
        let place = propagation.reserve(&branch_id).ok_or_else(full)?;
        let spec = BranchSpec {
            branch_id: branch_id.clone(),
            participant: self.service.participant().to_owned(),
            action,
            payload: Some(Payload::of(&payload)?.into()),
            mode: propagation.context().mode().into(),
            ..Default::default()
        };
        let call = self.enlist(&propagation, spec).await?;
        drop(place);
        let (vote, joined) = self.prepare(call, give_up).await?;
        propagation.voted(&branch_id, vote);
        Ok(joined)
    }

    /// Makes the branch durable at the coordinator. From then on it is told of, at first without a
    /// vote: were it forgotten here, the transaction would abort all the same, for it is not listed.
    async fn enlist(
        &self,
        propagation: &Propagation,
        spec: BranchSpec,
    ) -> Result<RawCall, JoinError> {
        if self.service.is_stopped() {
            return Err(JoinError::Stopped);
        }
        let asked = propagation.context();
        let BranchSpec { branch_id, action, payload, .. } = spec.clone();
        let request = EnlistBranchRequest {
            tx_id: asked.tx_id().to_string(),
            branch: Some(spec),
            requires: Vec::new(),
            database_id: self.service.database_id().to_owned(),
        };
        let call = |mut service: CoordinatorServiceClient<Link>, request| async move {
            service.enlist_branch(request).await
        };
        let enlisted = self.coordinator.call(request, call).await;
        let EnlistBranchResponse { context, prepare_until, metadata } = enlisted
            .map_err(|source| JoinError::Enlist { branch_id: branch_id.clone(), source })?;
        // A branch that its initiator calls is no step, and has no inputs.
        let inputs = HashMap::new();
        let parts = Parts { context, action, payload, inputs, metadata, attempt: 1, prepare_until };
        let other = self.service.other_database(&parts);
        if let Some(text) = other.or_else(|| self.service.other_place(&parts)) {
            return Err(JoinError::OtherDatabase { text });
        }
        let call = wire::call(parts)
            .map_err(|status| JoinError::Answer { text: status.message().to_owned() })?;
        let branch = call.branch();
        if branch.cluster_id != asked.cluster_id() {
            return Err(JoinError::OtherCluster {
                asked: asked.cluster_id().to_owned(),
                own: branch.cluster_id.clone(),
            });
        }
        let same = branch.tx_id == asked.tx_id()
            && branch.gid == asked.gid()
            && call.mode == asked.mode()
            && branch.branch_id == branch_id
            && branch.participant == self.service.participant();
        if !same {
            return Err(JoinError::Answer { text: format!("it names {branch}") });
        }
        propagation.enlisted(&branch_id);
        Ok(call)
    }

    /// Runs phase one until there is a vote, or no time left.
    async fn prepare(
        &self,
        mut call: RawCall,
        give_up: Instant,
    ) -> Result<(Vote, Joined), JoinError> {
        let mut pause = PAUSE;
        loop {
            let caller = Caller { timeout: None, trace: Trace::ambient() };
            let (wait, last) = match self.service.vote(call.clone(), caller).await {
                Ok(Voted::Prepared(output)) => {
                    return Ok((Vote::Prepared, Joined::Prepared(Output::new(output, false))));
                }
                Ok(Voted::ReadOnly) => return Ok((Vote::ReadOnly, Joined::ReadOnly)),
                Ok(Voted::Refused(refusal)) => {
                    return Ok((Vote::Refused, Joined::Refused(refusal)));
                }
                Ok(Voted::Working(asked)) => {
                    (asked.clamp(PAUSE, PAUSE_MAX), "still working".to_owned())
                }
                Err(status) => {
                    let again = matches!(status.code(), Code::Unavailable | Code::Unknown);
                    (if again { pause } else { Duration::MAX }, status.message().to_owned())
                }
            };
            let late = call.until.is_some_and(|until| {
                let left = until.duration_since(SystemTime::now()).unwrap_or_default();
                wait >= left
            });
            let in_time = wait < give_up.saturating_duration_since(Instant::now()) && !late;
            if !in_time || self.service.is_stopped() {
                let branch_id = call.call.branch.branch_id;
                return Err(JoinError::NoVote { branch_id, last });
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
            call.call.attempt += 1;
        }
    }
}

/// Bytes of the participant's name in ids of branches.
const NAME_PART_BYTES_MAX: usize = 8;

/// Returns a branch id of at most 41 bytes, so that a reply can name many. It begins as the
/// participant's name does, for people; no more of it, which may have 64 bytes.
fn new_branch_id(participant: &str) -> String {
    let part = participant.get(..NAME_PART_BYTES_MAX).unwrap_or(participant);
    format!("{part}:{}", Uuid::now_v7().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branch_ids_are_short_and_their_own() {
        for (participant, part) in
            [("a", "a:"), ("bank-one", "bank-one:"), ("bank-one-b", "bank-one:")]
        {
            let ids = [new_branch_id(participant), new_branch_id(participant)];
            assert!(ids[0] != ids[1] && ids.iter().all(|id| id.starts_with(part)), "{ids:?}");
            assert!(ids.iter().all(|id| id.len() <= 41), "{ids:?}");
        }
    }
}
