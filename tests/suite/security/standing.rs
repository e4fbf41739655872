//! A stream that is open goes on only as long as its caller may read.

use std::time::Duration;

use tonic::{Code, Status, Streaming};
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    GetServerInfoRequest, WatchTransactionsRequest, WatchTransactionsResponse,
};
use unanimo_tests::wait::until;

use super::roles::File;
use crate::coordinator::{World, tcc};

type Events = Streaming<WatchTransactionsResponse>;

async fn follow(file: &File, world: &World, column: usize) -> Events {
    let mut client = CoordinatorServiceClient::new(file.link(world, column));
    client.watch_transactions(WatchTransactionsRequest::default()).await.unwrap().into_inner()
}

async fn submit(file: &File, world: &World, column: usize, gid: &str) {
    let mut client = CoordinatorServiceClient::new(file.link(world, column));
    client.submit_transaction(tcc(gid, &["ok"])).await.unwrap();
}

/// Returns the gid of the next event, or the status with which the stream ends.
async fn next(events: &mut Events) -> Result<String, Status> {
    loop {
        let news = tokio::time::timeout(Duration::from_secs(50), events.message()).await;
        let news = news.expect("it is silent")?.expect("a stream of events has no end");
        if let Some(event) = news.event {
            return Ok(event.gid);
        }
    }
}

/// Waits until a call of this identity ends with the code.
async fn until_answered(file: &File, world: &World, column: usize, code: Code) {
    until("the file to be read again", async || {
        let mut client = CoordinatorServiceClient::new(file.link(world, column));
        let answer = client.get_server_info(GetServerInfoRequest::default()).await;
        (answer.map_or_else(|status| status.code(), |_| Code::Ok) == code).then_some(())
    })
    .await;
}

/// The first event after a token was revoked is told to nobody who had it.
#[tokio::test]
async fn a_stream_of_events_ends_once_its_token_is_revoked() {
    let file = File::new();
    let world = file.world().await;
    let (mut web, mut viewer) = (follow(&file, &world, 0).await, follow(&file, &world, 5).await);
    submit(&file, &world, 0, "before").await;
    assert_eq!(next(&mut web).await.unwrap(), "before");
    assert_eq!(next(&mut viewer).await.unwrap(), "before");
    file.write(&[1]);
    until_answered(&file, &world, 0, Code::Unauthenticated).await;
    submit(&file, &world, 1, "after").await;
    for events in [&mut web, &mut viewer] {
        let status = next(events).await.expect_err("its token was revoked");
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
}

/// A role that was taken away ends a stream, and one that sees less makes it tell less.
#[tokio::test]
async fn a_stream_of_events_tells_what_the_role_of_its_caller_allows_by_then() {
    let file = File::new();
    let world = file.world().await;
    let (mut web, mut viewer) = (follow(&file, &world, 0).await, follow(&file, &world, 5).await);
    submit(&file, &world, 0, "before").await;
    assert_eq!(next(&mut web).await.unwrap(), "before");
    assert_eq!(next(&mut viewer).await.unwrap(), "before");
    // The first one is a participant alone, and the viewer an initiator.
    let role = |column, role| (column, role);
    file.write_as(&[role(0, "participant"), role(1, "initiator"), role(5, "initiator")]);
    until("the roles to be other ones", async || {
        let mut client = CoordinatorServiceClient::new(file.link(&world, 0));
        let asked = client.watch_transactions(WatchTransactionsRequest::default()).await;
        asked.is_err_and(|status| status.code() == Code::PermissionDenied).then_some(())
    })
    .await;
    submit(&file, &world, 1, "of-another").await;
    submit(&file, &world, 5, "its-own").await;
    let status = next(&mut web).await.expect_err("its role was taken away");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert_eq!(next(&mut viewer).await.unwrap(), "its-own");
}
