//! Turns of HTTP: streams, pages and forms of one identity leave some to others who come from the same address, such as that
//! of a proxy.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1;
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::roles::{File, begin};
use crate::coordinator::http::{self, first_event, http_call};
use crate::coordinator::{World, config};

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

type Headers<'a> = &'a [(&'a str, &'a str)];

/// Checks that so many requests, whose answers wait, count as their identity's, and that others of the address are served.
async fn leaves_turns(
    address: SocketAddr,
    of: (&str, &str),
    length: usize,
    own: Headers<'_>,
    others: Headers<'_>,
) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for _ in 0..OF_ADDRESS {
        open.push(http::begin(address, of, own, length).await);
    }
    let refused = until("the identity to have its share", async || {
        let served = http_call(address, "GET", "/v1/server", own, b"").await;
        (served.code != 200).then_some(served)
    })
    .await;
    assert!(refused.code == 429 && refused.body.contains("IDENTITY_LIMITED"), "{refused:?}");
    for _ in 0..20 {
        let served = http_call(address, "GET", "/v1/server", others, b"").await;
        assert_eq!(served.code, 200, "{served:?}");
    }
    open
}

#[tokio::test]
async fn l5_forms_of_one_identity_leave_turns_to_others_of_its_address() {
    let file = File::new();
    let world = file.world().await;
    let address = world.running.admin_address().unwrap();
    let [operator, other] = [4, 1].map(|column| format!("Bearer {}", file.token(column)));
    let own = [
        ("authorization", operator.as_str()),
        ("sec-fetch-site", "same-origin"),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    // A form that does not come is waited for.
    let form = ("POST", "/tx/0199b0d0-0000-7000-8000-000000000000/retry");
    leaves_turns(address, form, 100, &own, &[("authorization", &other)]).await;
}

#[tokio::test]
async fn l5_pages_of_one_identity_leave_turns_to_others_of_its_address() {
    /// Histories that are asked for at once: fewer than its turns.
    const ASKED: usize = OF_IDENTITY - 3;
    /// Those of one identity that wait for their turn to be made.
    const WAITING: usize = 2;
    let file = File::new();
    let proxy = Proxy::start(Server::shared().socket()).await;
    let mut config = config(&proxy.url(&Server::shared().database().await));
    config.identities = file.setting();
    config.lease = Period::secs(60);
    let world = World::start(config).await;
    let address = world.running.admin_address().unwrap();
    let [own, other] = [0, 1].map(|column| format!("Bearer {}", file.token(column)));
    let (own, others) = ([("authorization", &*own)], [("authorization", &*other)]);
    // Whatever is read from the database is waited for.
    proxy.hold(true);
    let page = format!("/tx/{}", Uuid::now_v7());
    let history = format!("{page}/history.json");
    drop(leaves_turns(address, ("GET", &page), 0, &own, &others).await);
    until("the turns to be given back", async || {
        let served = http_call(address, "GET", "/v1/server", &own, b"").await;
        (served.code == 200).then_some(())
    })
    .await;

    let begun = Instant::now();
    let mut asked = JoinSet::new();
    for _ in 0..ASKED {
        let (history, token) = (history.clone(), own[0].1.to_owned());
        asked.spawn(async move {
            http_call(address, "GET", &history, &[("authorization", &*token)], b"").await
        });
    }
    for _ in WAITING..ASKED {
        let refused = asked.join_next().await.unwrap().unwrap();
        assert!(
            refused.code == 503 && refused.body.contains("Others are being made"),
            "{refused:?}"
        );
    }
    let stranger = http_call(address, "GET", &history, &[], b"").await;
    assert_eq!(stranger.code, 401, "{stranger:?}");
    let participant = format!("Bearer {}", file.token(2));
    let denied = http_call(address, "GET", &history, &[("authorization", &participant)], b"").await;
    assert_eq!(denied.code, 403, "{denied:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "at once, and not after {:?}",
        begun.elapsed()
    );

    // Another one has a place among those that wait.
    let waits = http_call(address, "GET", &history, &others, b"");
    let mut waits = std::pin::pin!(waits);
    timeout(Duration::from_millis(200), waits.as_mut()).await.expect_err("it waits");
    proxy.hold(false);
    assert_eq!(waits.await.code, 404);
    while let Some(answer) = asked.join_next().await {
        assert_eq!(answer.unwrap().code, 404);
    }
}
