//! Turns of HTTP: streams of one identity leave some to others who come from the same address, such as that of a proxy.

use unanimo_proto::v1;
use unanimo_tests::wait::until;

use super::roles::{File, begin};
use crate::coordinator::http::{first_event, http_call};

/// Connections of the address of health, of which one in eight has no turn: 112 turns are left, of which one address has 84.
const OF_ADDRESS: usize = 84;

/// Three quarters of these.
const OF_IDENTITY: usize = 63;

#[tokio::test]
async fn l5_watches_of_one_identity_leave_turns_to_others_of_its_address() {
    let file = File::new();
    let world = file.world().await;
    let begun = begin(file.link(&world, 0)).await;
    let address = world.running.admin_address().unwrap();
    let bearer = |column: usize| format!("Bearer {}", file.token(column));
    let (own, others) = (bearer(0), bearer(1));
    let own = [("authorization", own.as_str())];
    let watched = format!("/v1/tx/{}:watch", begun.tx_id);
    let mut open = Vec::new();
    let refused = loop {
        let (event, stream) = first_event(address, &watched, &own).await;
        if event.code != 200 {
            break event;
        }
        open.push(stream);
        assert!(open.len() <= OF_ADDRESS, "nobody refuses");
    };
    assert_eq!(open.len(), OF_IDENTITY, "{refused:?}");
    assert_eq!(refused.code, 429, "{refused:?}");
    let words = "so many calls of web are under way over HTTP";
    assert!(
        refused.body.contains("IDENTITY_LIMITED") && refused.body.contains(words),
        "{refused:?}"
    );
    let again = http_call(address, "GET", "/v1/server", &own, b"").await;
    assert_eq!(again.code, 429, "whatever the call: {again:?}");

    let others = [("authorization", others.as_str())];
    for _ in 0..50 {
        let served = http_call(address, "GET", "/v1/server", &others, b"").await;
        assert_eq!(served.code, 200, "{served:?}");
    }
    let body = serde_json::json!({"gid": "of-others", "mode": "MODE_TCC"}).to_string();
    let headers = [others[0], ("content-type", "application/json")];
    let begun = http_call(address, "POST", "/v1/transactions:begin", &headers, body.as_bytes());
    assert_eq!(begun.await.code, 200);
    let (event, _stream) = first_event(address, "/v1/transactions/of-others:watch", &others).await;
    assert_eq!(event.code, 200, "a stream, too: {event:?}");

    // Over gRPC it has places of its own.
    let mut client =
        v1::coordinator_service_client::CoordinatorServiceClient::new(file.link(&world, 0));
    client.get_server_info(v1::GetServerInfoRequest::default()).await.expect("over gRPC");
    drop(open);
    until("the turns to be given back", async || {
        let served = http_call(address, "GET", "/v1/server", &own, b"").await;
        (served.code == 200).then_some(())
    })
    .await;
}
