//! Texts that a participant controls, in every page that shows them.

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};
use tonic_types::StatusExt;
use unanimo_proto::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use unanimo_proto::v1::{
    self, CancelRequest, CancelResponse, CommitRequest, CommitResponse, HeuristicKind,
    HeuristicOutcome, Mode, Payload, PrepareRequest, PrepareResponse, Prepared, Refusal,
    RegisterEndpointRequest, SubmitTransactionRequest,
};

use unanimo_tests::browser::Page;
use unanimo_tests::reaper::run_folder;
use unanimo_tests::wait::until;

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
                Answer::Refused(Refusal { reason: HOSTILE.to_owned(), message: HOSTILE.to_owned() })
            }
            "media" => {
                // Of bytes that are no text the type alone is shown.
                let data = Bytes::from_static(b"\xff\xfe");
                let media_type = HOSTILE.to_owned();
                Answer::Prepared(Prepared { output: Some(Payload { data, media_type }) })
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

/// Serves the receiver of a webhook in whose every answer the reason of its status, a header and the body would run in a page.
async fn receiver() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let length = HOSTILE.len();
    let answer = format!(
        "HTTP/1.1 500 {HOSTILE}\r\nx-why: {HOSTILE}\r\ncontent-length: {length}\r\n\r\n{HOSTILE}"
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 65_536]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    url
}

/// File with a webhook that this receiver is sent events of.
fn webhooks(url: &str) -> std::path::PathBuf {
    let path = run_folder().join(format!("hooks{}.toml", uuid::Uuid::new_v4()));
    let secret = format!("whsec_{}", "A".repeat(44));
    let entry = format!(
        "[[webhook]]\nname = \"hook\"\nurl = \"{url}\"\nsecrets = [\"{secret}\"]\nbackoff-max = \"20ms\"\n"
    );
    std::fs::write(&path, entry).unwrap();
    path
}

/// Names that a participant registers with are of an alphabet in which nothing runs.
#[tokio::test]
async fn names_of_participants_cannot_be_hostile() {
    let world = World::start(stuck()).await;
    let good = RegisterEndpointRequest {
        participant: "p2".into(),
        endpoint: "http://127.0.0.1:1".into(),
        instance_id: "one".into(),
        features: vec!["a".into()],
        ..Default::default()
    };
    world.directory().register_endpoint(good.clone()).await.unwrap();
    for (field, bad) in [
        ("participant", RegisterEndpointRequest { participant: HOSTILE.into(), ..good.clone() }),
        ("instance_id", RegisterEndpointRequest { instance_id: HOSTILE.into(), ..good.clone() }),
        ("features[0]", RegisterEndpointRequest { features: vec![HOSTILE.into()], ..good.clone() }),
        ("endpoint", RegisterEndpointRequest { endpoint: HOSTILE.into(), ..good.clone() }),
    ] {
        let status = world.directory().register_endpoint(bad).await.unwrap_err();
        let details = status.get_error_details();
        let fields = &details.bad_request().unwrap_or_else(|| panic!("{status}")).field_violations;
        assert_eq!(fields[0].field, field, "{status}");
    }
}

/// Messages and reasons of refusals, errors, notes, outputs and their media types, names of SDKs, and keys of metadata are
/// texts in every page that shows them.
#[tokio::test]
async fn texts_of_participants_stay_texts() {
    let mut config = stuck();
    config.webhooks = webhooks(&receiver().await).to_str().unwrap().parse().unwrap();
    let world = World::start(config).await;
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
    let mut owed = of("owed", &["commit-fail", "media"]);
    owed.metadata.insert("note".into(), HOSTILE.into());
    world.submit(owed).await.unwrap();
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
        // And a value of metadata, and a media type.
        (format!("/tx/{}", owed.tx_id), 5),
        (format!("/tx/{}", trip.tx_id), 3),
        (format!("/tx/{}/retry", owed.tx_id), 1),
        (format!("/tx/{}/resolve", owed.tx_id), 1),
        ("/participants".to_owned(), 2),
        ("/attention".to_owned(), 1),
    ] {
        page.open(&path).await;
        let shown = shown(&page).await;
        assert!(shown >= least, "{shown} in {path}: {}", page.text().await);
    }
    // Pages that have none of these texts: they are here for what they may show later.
    for path in ["/", "/transactions", "/attention/retry", &format!("/tx/{}/forget", ended.tx_id)] {
        page.open(path).await;
        shown(&page).await;
    }
    // A status is told by its number: the receiver's own words are nowhere.
    page.open("/system").await;
    until("the failure", async || {
        let text = page.text().await;
        if !text.contains("answered 500") {
            page.open("/system").await;
        }
        text.contains("answered 500").then_some(())
    })
    .await;
    assert_eq!(shown(&page).await, 0);
    assert_eq!(page.problems(), [""; 0]);
}

/// Returns how often the hostile text is on a page, in texts and in values of fields, where nothing of it became an element.
async fn shown(page: &Page) -> u64 {
    let strange = "document.querySelectorAll('img, script:not([src=\"/assets/live.js\"]), iframe, [onerror]').length";
    assert_eq!(page.value(strange).await, json!(0), "{}", page.text().await);
    let shown = "document.documentElement.textContent.split('onerror=alert(1)').length - 1 + \
                 [...document.querySelectorAll('*')].flatMap(of => [...of.attributes]) \
                     .filter(of => of.value.includes('onerror=alert(1)')).length";
    page.value(shown).await.as_u64().unwrap()
}
