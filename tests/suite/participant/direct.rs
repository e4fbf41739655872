//! Calls of a participant as a coordinator would make them.

use std::time::{Duration, SystemTime};

use tonic::{Request, Status};
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    BranchContext, CancelRequest, CommitRequest, Mode, PrepareRequest, cancel_response,
    commit_response, prepare_response,
};

/// A branch to call for.
#[derive(Clone, Debug)]
pub(crate) struct Branch {
    pub(crate) context: BranchContext,
    pub(crate) action: String,
    pub(crate) payload: bytes::Bytes,
    pub(crate) prepare_until: Option<prost_types::Timestamp>,
    pub(crate) requires: Vec<String>,
    pub(crate) must_succeed: bool,
    /// Number of each call, from 1.
    pub(crate) attempt: u32,
}

pub(crate) const CLUSTER: &str = "test-cluster";

/// A new branch of participant `p`.
pub(crate) fn branch(mode: Mode, action: &str) -> Branch {
    let context = BranchContext {
        tx_id: uuid::Uuid::now_v7().to_string(),
        gid: "g".into(),
        branch_id: "a".into(),
        branch_number: 1,
        cluster_id: CLUSTER.into(),
        participant: "p".into(),
        mode: mode.into(),
        database_id: String::new(),
        database_place: String::new(),
    };
    let soon = SystemTime::now() + Duration::from_secs(60);
    let (action, payload) = (action.into(), bytes::Bytes::new());
    Branch {
        context,
        action,
        payload,
        prepare_until: Some(soon.into()),
        requires: Vec::new(),
        must_succeed: false,
        attempt: 1,
    }
}

impl Branch {
    /// Its prepared transaction.
    pub(crate) fn name(&self) -> String {
        let BranchContext { cluster_id, participant, tx_id, branch_number, .. } = &self.context;
        format!("u/{cluster_id}/{participant}/{tx_id}/{branch_number}")
    }

    pub(crate) fn tx_id(&self) -> uuid::Uuid {
        self.context.tx_id.parse().unwrap()
    }

    pub(crate) async fn prepare(
        &self,
        service: &impl ParticipantService,
    ) -> Result<prepare_response::Answer, Status> {
        let request = PrepareRequest {
            context: Some(self.context.clone()),
            action: self.action.clone(),
            payload: unanimo_tests::payload(self.payload.clone()),
            prepare_until: self.prepare_until,
            attempt: self.attempt,
            requires: self.requires.clone(),
            must_succeed: self.must_succeed,
            ..Default::default()
        };
        let response = service.prepare(Request::new(request)).await?;
        Ok(response.into_inner().answer.unwrap())
    }

    pub(crate) async fn commit(
        &self,
        service: &impl ParticipantService,
    ) -> Result<commit_response::Answer, Status> {
        let request = CommitRequest {
            context: Some(self.context.clone()),
            action: self.action.clone(),
            payload: unanimo_tests::payload(self.payload.clone()),
            attempt: self.attempt,
            ..Default::default()
        };
        let response = service.commit(Request::new(request)).await?;
        Ok(response.into_inner().answer.unwrap())
    }

    pub(crate) async fn cancel(
        &self,
        service: &impl ParticipantService,
    ) -> Result<cancel_response::Answer, Status> {
        let request = CancelRequest {
            context: Some(self.context.clone()),
            action: self.action.clone(),
            payload: unanimo_tests::payload(self.payload.clone()),
            prepare_until: self.prepare_until,
            attempt: self.attempt,
            ..Default::default()
        };
        let response = service.cancel(Request::new(request)).await?;
        Ok(response.into_inner().answer.unwrap())
    }
}

/// The reason of a vote no.
#[track_caller]
pub(crate) fn refused(answer: prepare_response::Answer) -> String {
    match answer {
        prepare_response::Answer::Refused(refusal) => refusal.reason,
        other => panic!("not refused: {other:?}"),
    }
}
