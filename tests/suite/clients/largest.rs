//! A participant whose every answer is as long as answers may be.

use std::sync::atomic::{AtomicUsize, Ordering};

use tonic::{Request, Response, Status};
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, HeuristicKind, HeuristicOutcome,
    Payload, PrepareRequest, PrepareResponse, Prepared, Refusal, cancel_response, commit_response,
    prepare_response,
};

/// More than what is kept of an error, a refusal's message and a note.
const TEXT_BYTES: usize = 1100;

/// Fails each call twice, with two long errors. Then every branch votes yes with an output but the one
/// whose payload begins with `n`, which waits for the others and votes no. Cancel answers a hazard.
#[derive(Debug, Default)]
pub(crate) struct Largest {
    /// Votes so far; one more once the branch that votes no has seen that all others have voted.
    pub(crate) yes: AtomicUsize,
    /// Branches that vote yes.
    pub(crate) others: usize,
    /// Bytes of each output.
    pub(crate) output_bytes: usize,
}

fn long(word: &str) -> String {
    word.repeat(TEXT_BYTES.div_ceil(word.len()))
}

fn media_type() -> String {
    format!("application/{}", "x".repeat(116))
}

pub(crate) fn payload(data: Vec<u8>) -> Option<Payload> {
    Some(Payload { data: data.into(), media_type: media_type() })
}

fn fail(attempt: u32) -> Result<(), Status> {
    match attempt {
        1 => Err(Status::unavailable(long("first "))),
        2 => Err(Status::unavailable(long("last "))),
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl ParticipantService for Largest {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        use prepare_response::Answer;
        let PrepareRequest { attempt, payload: given, .. } = request.into_inner();
        fail(attempt)?;
        let answer = if given.unwrap_or_default().data.starts_with(b"n") {
            // Not as soon as the last of them answers: the coordinator must have read that answer.
            let answered = self.yes.load(Ordering::SeqCst);
            if answered <= self.others {
                self.yes.fetch_add(usize::from(answered == self.others), Ordering::SeqCst);
                return Err(Status::unavailable(long("wait ")));
            }
            Answer::Refused(Refusal { reason: "R".repeat(64), message: long("no ") })
        } else {
            self.yes.fetch_add(1, Ordering::SeqCst);
            Answer::Prepared(Prepared { output: payload(vec![b'o'; self.output_bytes]) })
        };
        Ok(Response::new(PrepareResponse { answer: Some(answer), ..Default::default() }))
    }

    async fn commit(
        &self,
        _request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        let answer = Some(commit_response::Answer::Done(unanimo_proto::v1::Done {}));
        Ok(Response::new(CommitResponse { answer }))
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        fail(request.into_inner().attempt)?;
        let kind = HeuristicKind::Hazard.into();
        let outcome = HeuristicOutcome { kind, note: long("note ") };
        let answer = Some(cancel_response::Answer::Heuristic(outcome));
        Ok(Response::new(CancelResponse { answer }))
    }
}
