//! Texts that a participant controls, in every page that shows them.

use bytes::Bytes;
use serde_json::json;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};
use unanimo_proto::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use unanimo_proto::v1::{
    self, CancelRequest, CancelResponse, CommitRequest, CommitResponse, HeuristicKind,
    HeuristicOutcome, Mode, Payload, PrepareRequest, PrepareResponse, Prepared, Refusal,
    RegisterEndpointRequest, SubmitTransactionRequest,
};

use super::{HOSTILE, page};
use crate::coordinator::acts::stuck;
use crate::coordinator::{World, tcc};

/// Participant in whose every answer there is a text that would run in a page.
#[derive(Clone, Debug)]
struct Hostile;

#[async_trait]
impl ParticipantService for Hostile {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        use v1::prepare_response::Answer;
        let answer = match request.get_ref().action.as_str() {
            "refuse" => {
                Answer::Refused(Refusal { reason: "NO".into(), message: HOSTILE.to_owned() })
            }
            "fail" => return Err(Status::internal(HOSTILE)),
            _ => {
                let data = Bytes::from_static(HOSTILE.as_bytes());
                let media_type = "text/html".to_owned();
                Answer::Prepared(Prepared { output: Some(Payload { data, media_type }) })
            }
        };
        Ok(Response::new(PrepareResponse { answer: Some(answer), ..Default::default() }))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        if request.get_ref().action == "commit-fail" {
            return Err(Status::internal(HOSTILE));
        }
        let kind = HeuristicKind::Rollback.into();
        let outcome = HeuristicOutcome { kind, note: HOSTILE.to_owned() };
        let answer = Some(v1::commit_response::Answer::Heuristic(outcome));
        Ok(Response::new(CommitResponse { answer }))
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        Err(Status::internal(HOSTILE))
    }
}

impl Hostile {
    async fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let incoming = TcpIncoming::from(listener);
        let service = ParticipantServiceServer::new(self);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        endpoint
    }
}

/// Messages of refusals, errors, notes, outputs and names of SDKs are texts in every page that shows them.
#[tokio::test]
async fn texts_of_participants_stay_texts() {
    let world = World::start(stuck()).await;
    // A name of an SDK has 64 bytes at most.
    let register = RegisterEndpointRequest {
        participant: "hostile".into(),
        endpoint: Hostile.serve().await,
        instance_id: "one".into(),
        sdk: "<img src=http://evil.example/x onerror=alert(1)>".into(),
        ..Default::default()
    };
    world.directory().register_endpoint(register).await.unwrap();
    let of = |gid: &str, actions: &[&str]| {
        let mut request: SubmitTransactionRequest = tcc(gid, actions);
        request.branches.iter_mut().for_each(|branch| branch.participant = "hostile".into());
        request
    };
    world.submit(of("refused", &["ok", "refuse"])).await.unwrap();
    world.submit(of("ended-otherwise", &["ok"])).await.unwrap();
    world.submit(of("owed", &["commit-fail"])).await.unwrap();
    let mut saga = of("trip", &["ok", "refuse"]);
    saga.mode = Mode::Saga.into();
    saga.branches[1].depends_on = vec![saga.branches[0].branch_id.clone()];
    world.submit(saga).await.unwrap();
    let ended = world.get_until("ended-otherwise", "its end", |tx| tx.ended_at.is_some()).await;
    let owed = world.get_until("owed", "its alarm", |tx| tx.stalled).await;
    let refused = world.get_until("refused", "its alarm", |tx| tx.stalled).await;
    let trip = world.get_until("trip", "its alarm", |tx| tx.stalled).await;
    let mut page = page(&world).await;
    for (path, least) in [
        // Of a branch with its output, a refusal, an error, a note; and of what it waits for.
        (format!("/tx/{}", refused.tx_id), 4),
        (format!("/tx/{}", ended.tx_id), 2),
        (format!("/tx/{}", owed.tx_id), 3),
        (format!("/tx/{}", trip.tx_id), 3),
        (format!("/tx/{}/retry", owed.tx_id), 0),
        (format!("/tx/{}/resolve", owed.tx_id), 0),
        (format!("/tx/{}/forget", ended.tx_id), 0),
        ("/participants".to_owned(), 2),
        ("/attention".to_owned(), 0),
        ("/attention/retry".to_owned(), 0),
        ("/transactions".to_owned(), 0),
        ("/".to_owned(), 0),
    ] {
        page.open(&path).await;
        let shown = "document.documentElement.textContent.split('onerror=alert(1)').length - 1";
        let shown = page.value(shown).await;
        assert!(shown.as_u64() >= Some(least), "{shown} in {path}: {}", page.text().await);
        let strange = "document.querySelectorAll('img, script:not([src=\"/assets/live.js\"]), iframe, [onerror]').length";
        assert_eq!(page.value(strange).await, json!(0), "{path}");
    }
    assert_eq!(page.problems(), [""; 0]);
}
