//! Messages and headers that are larger than most: the SDK's limits, and those that are set.

use bytes::Bytes;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;
use unanimo_proto::v1::{Mode, Outcome, PrepareRequest, PrepareResponse, prepare_response};
use unanimo_sdk::client::Error;
use unanimo_sdk::{Participant, Serve, Serving, Sqlite};

use super::databases::Database;
use super::direct::{Branch, branch};
use super::indeterminate::status;
use super::initiator::Fake;
use super::sweeper::Reserve;

const LARGER: usize = 9 << 20;
const ALLOWED: usize = 16 << 20;

/// S10: an answer that cannot be read tells nothing; with a higher limit it is read.
#[tokio::test]
async fn s10_an_answer_over_the_limit_is_not_decided_and_is_read_where_it_is_set() {
    let fake = Fake::new(Outcome::Committed.into()).with_detail("x".repeat(LARGER));
    let client = fake.client().await;
    let submit = async |client: &unanimo_sdk::Client| {
        client.tcc("g").branch("b", "p", "a", ()).submit().await.unwrap()
    };
    let heard = submit(&client).await;
    assert!(matches!(heard, unanimo_sdk::Outcome::NotDecided(_)), "{heard:?}");
    let heard = submit(&client.message_bytes_at_most(ALLOWED)).await;
    assert!(heard.is_committed(), "{heard}");
}

async fn served(serve: Serve) -> Serving {
    let (database, _pool) = <Sqlite as Database>::open().await;
    Participant::new("p", database).tcc("ok", Reserve).serve(serve).await.unwrap()
}

fn request(of: &Branch, payload: Bytes) -> PrepareRequest {
    PrepareRequest {
        context: Some(of.context.clone()),
        action: of.action.clone(),
        payload: unanimo_tests::payload(payload),
        ..PrepareRequest::default()
    }
}

fn is_prepared(response: &PrepareResponse) -> bool {
    matches!(response.answer, Some(prepare_response::Answer::Prepared(_)))
}

#[tokio::test]
async fn a_participant_reads_messages_up_to_the_limit_that_it_is_given() {
    let (small, large) = (Serve::on("127.0.0.1:0"), Serve::on("127.0.0.1:0"));
    for (serve, is_read) in [(small, false), (large.message_bytes_at_most(ALLOWED), true)] {
        let serving = served(serve).await;
        let client = ParticipantServiceClient::connect(serving.endpoint().to_owned()).await;
        let of = branch(Mode::Tcc, "ok");
        let message = request(&of, vec![0; LARGER].into());
        match client.unwrap().prepare(message).await {
            Ok(response) => assert!(is_read && is_prepared(response.get_ref())),
            Err(status) => {
                assert!(!is_read, "{status:?}");
                assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
            }
        }
        serving.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_participant_in_ones_own_server_reads_messages_up_to_the_limit_that_it_is_given() {
    let (database, _pool) = <Sqlite as Database>::open().await;
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    for (served, is_read) in
        [(service.server(), false), (service.server_of_messages(ALLOWED), true)]
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder().add_service(served);
        tokio::spawn(server.serve_with_incoming(incoming));
        let client = ParticipantServiceClient::connect(endpoint).await;
        let message = request(&branch(Mode::Tcc, "ok"), vec![0; LARGER].into());
        match client.unwrap().prepare(message).await {
            Ok(response) => assert!(is_read && is_prepared(response.get_ref())),
            Err(status) => assert!(!is_read && status.code() == Code::OutOfRange, "{status:?}"),
        }
    }
}

/// More than the library takes by itself, and less than would be a burden.
const LONG: usize = 40_000;

/// The text of a proxy, or of a coordinator of another make, is read to its end.
#[tokio::test]
async fn a_client_reads_a_long_status() {
    let mut long = status(Code::InvalidArgument, "FIELD_INVALID", false, "none");
    long = tonic::Status::with_details_and_metadata(
        long.code(),
        "x".repeat(LONG),
        Bytes::copy_from_slice(long.details()),
        long.metadata().clone(),
    );
    let client = Fake::new(Outcome::Committed.into()).refusing(long).client().await;
    let refused = client.tcc("g").branch("b", "p", "a", ()).submit().await;
    match refused {
        Err(Error::Rejected { message, .. }) => assert_eq!(message.len(), LONG),
        other => panic!("{other:?}"),
    }
}

/// Headers have a bound, behind which others are taken.
#[tokio::test]
async fn a_participant_takes_long_headers_up_to_a_limit() {
    let serving = served(Serve::on("127.0.0.1:0")).await;
    let client = ParticipantServiceClient::connect(serving.endpoint().to_owned()).await.unwrap();
    let prepare = async |length: usize| {
        let mut request = Request::new(request(&branch(Mode::Tcc, "ok"), Bytes::new()));
        let value = MetadataValue::try_from("x".repeat(length)).unwrap();
        request.metadata_mut().insert("x-long", value);
        client.clone().prepare(request).await.map(|response| is_prepared(response.get_ref()))
    };
    assert!(prepare(LONG).await.unwrap());
    prepare(70_000).await.unwrap_err();
    assert!(prepare(0).await.unwrap(), "and others are taken");
    serving.stop().await.unwrap();
}
