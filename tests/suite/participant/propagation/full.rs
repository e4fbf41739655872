//! Requests for which a service joins so often that the reply cannot name every branch.

use std::convert::Infallible;

use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};
use unanimo_sdk::propagation::{CallEnd, JoinError, ServerLayer};
use unanimo_sdk::{Client, Participant, Serve, Sqlite};
use unanimo_tests::reaper;
use uuid::Uuid;

use crate::coordinator;
use crate::participant::sweeper::Reserve;

/// Branches with ids of 128 bytes that fit into 4,096.
const LONGEST_THAT_FIT: usize = 29;

/// S2: one that would not be listed is not enlisted, and those before it commit.
#[tokio::test]
async fn s2_nobody_joins_whose_branch_the_reply_cannot_name() {
    let world = coordinator::World::sqlite().await;
    let url = format!("http://{}", world.running.grpc_address().unwrap());
    let client = Client::new(&url).unwrap();
    let file = reaper::run_folder().join(format!("{}.db", Uuid::now_v7()));
    let participant = Participant::new("joining", Sqlite::open(&file).await.unwrap());
    let service = participant.tcc("ok", Reserve).service().unwrap();
    let serve = Serve::on("127.0.0.1:0").register_with(&url);
    let mut serving = service.serve(serve).await.unwrap();
    serving.registered().await.unwrap();
    let joiner = service.joiner(client.clone());

    for (id_bytes, fit) in [(128, LONGEST_THAT_FIT), (41, 64)] {
        let tx = client.tcc(format!("full-{id_bytes}")).begin().await.unwrap();
        let handler = service_fn(|_: Request<()>| {
            let joiner = joiner.clone();
            async move {
                for number in 0..fit {
                    let id = format!("{number:0id_bytes$}");
                    joiner
                        .join_as(id, "ok", bytes::Bytes::from_static(b"x"))
                        .await
                        .unwrap()
                        .accepted()
                        .unwrap();
                }
                if id_bytes == 128 {
                    let payload = bytes::Bytes::from_static(b"x");
                    let error = joiner.join_as("1".repeat(128), "ok", payload).await.unwrap_err();
                    assert!(matches!(error, JoinError::ReplyFull { .. }), "{error}");
                    assert!(error.to_string().contains("more than 4,096 bytes"), "{error}");
                }
                Ok::<_, Infallible>(Response::new(String::new()))
            }
        });
        let mut request = Request::new(());
        tx.propagation().inject(request.headers_mut());
        let response = ServerLayer::new().layer(handler).oneshot(request).await.unwrap();
        let header = &response.headers()["unanimo-branches"];
        assert!(header.len() <= 4096, "{}", header.len());
        tx.propagation().collect(response.headers(), CallEnd::Succeeded);
        let outcome = tx.commit().await.unwrap();
        assert!(outcome.is_committed(), "S2: every branch is listed: {outcome}");
        let transaction = world.get(&format!("full-{id_bytes}")).await;
        assert_eq!(transaction.branches.len(), fit);
    }
    serving.stop().await.unwrap();
}
