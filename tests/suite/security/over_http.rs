//! Identities and roles over HTTP: those of gRPC.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use unanimo_proto::v1;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_tests::wait::{PATIENCE, until};
use uuid::Uuid;

use super::handshakes::http_get as tls_call;
use super::roles::{Begun, COLUMNS, File, begin, table};
use super::{Authority, guarded};
use crate::coordinator::World;
use crate::coordinator::describe;
use crate::coordinator::grpc_web::{MEDIA_TYPE, call_with};
use crate::coordinator::http::{first_event, http_call, reply};

/// Method, address and body of a call.
pub(super) fn request(rpc: &str, of: &Begun) -> (&'static str, String, Value) {
    let (tx, gid) = (format!("/v1/tx/{}", of.tx_id), format!("/v1/transactions/{}", of.gid));
    let new = Uuid::new_v4();
    let branch = |id: &str| json!({"branchId": id, "participant": "p", "action": "ok"});
    let act = json!({"operator": "ann", "note": "a test"});
    let endpoint = json!({"endpoint": "http://127.0.0.1:1", "instanceId": "i"});
    match rpc {
        "SubmitTransaction" => {
            let body =
                json!({"gid": format!("s-{new}"), "mode": "MODE_TCC", "branches": [branch("a")]});
            ("POST", "/v1/transactions".into(), body)
        }
        "BeginTransaction" => {
            let body = json!({"gid": format!("b-{new}"), "mode": "MODE_TCC"});
            ("POST", "/v1/transactions:begin".into(), body)
        }
        "ExecuteBranch" => {
            ("POST", format!("{tx}/branches:execute"), json!({"branch": branch("b")}))
        }
        "EnlistBranch" => ("POST", format!("{tx}/branches:enlist"), json!({"branch": branch("b")})),
        "CommitTransaction" => {
            ("POST", format!("{tx}:commit"), json!({"branches": [{"branchId": "a"}]}))
        }
        "RollbackTransaction" => ("POST", format!("{gid}:rollback"), json!({})),
        "GetTransaction" => ("GET", gid, Value::Null),
        "ListTransactions" => ("GET", "/v1/transactions?participant=p".into(), Value::Null),
        "WatchTransaction" => ("GET", format!("{tx}:watch"), Value::Null),
        "WatchTransactions" => ("GET", "/v1/transactions:watch".into(), Value::Null),
        "ExportTransaction" => ("GET", format!("{tx}:export"), Value::Null),
        "InquireBranches" => {
            let branches = json!([{"txId": of.tx_id, "branchId": "a"}]);
            let body =
                json!({"participant": "p", "clusterId": of.cluster_id, "branches": branches});
            ("POST", "/v1/branches:inquire".into(), body)
        }
        "GetServerInfo" => ("GET", "/v1/server".into(), Value::Null),
        "RegisterEndpoint" => ("POST", "/v1/participants/r:register".into(), endpoint),
        "DeregisterEndpoint" => ("POST", "/v1/participants/r:deregister".into(), endpoint),
        "ListParticipants" => ("GET", "/v1/participants".into(), Value::Null),
        "RetryTransaction" => ("POST", format!("{tx}:retry"), json!({})),
        "ResolveBranch" => {
            let mut body = act;
            body["resolution"] = json!("RESOLUTION_COMMITTED");
            ("POST", format!("{tx}/branches/a:resolve"), body)
        }
        "ForgetTransaction" => ("POST", format!("{tx}:forget"), act),
        "ListAudit" => ("GET", "/v1/audit".into(), Value::Null),
        "ListWebhooks" => ("GET", "/v1/webhooks".into(), Value::Null),
        "ListDeadLetters" => ("GET", "/v1/dead-letters".into(), Value::Null),
        "RedeliverEvents" => ("POST", "/v1/webhooks/none:redeliver".into(), json!({})),
        "TestWebhook" => ("POST", "/v1/webhooks/none:test".into(), json!({})),
        "GetStatistics" => ("GET", "/v1/statistics".into(), Value::Null),
        other => panic!("the table has {other}, which no call is written for"),
    }
}

/// Word of the table for an answer.
async fn found(world: &World, header: &str, rpc: &str, of: &Begun) -> (&'static str, String) {
    let (method, path, body) = request(rpc, of);
    let address = world.running.admin_address().unwrap();
    let headers = [("authorization", header), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let reply = match rpc {
        "WatchTransaction" | "WatchTransactions" => first_event(address, &path, &headers).await.0,
        _ => http_call(address, method, &path, &headers, body.as_bytes()).await,
    };
    let is_missing =
        rpc == "ListTransactions" && reply.code == 200 && !reply.body.contains(&of.tx_id);
    // Nothing is owed, wrong or recorded yet; who is told so may ask.
    let nothing = match rpc {
        "ResolveBranch" => "NOTHING_TO_RESOLVE",
        "ForgetTransaction" => "NOTHING_TO_FORGET",
        "ExportTransaction" => "NO_HISTORY",
        _ => "none",
    };
    let word = match reply.code {
        404 if reply.body.contains("\"reason\":\"WEBHOOK_UNKNOWN\"") => "yes",
        404 => "NOT_FOUND",
        200 if is_missing => "NOT_FOUND",
        403 => "DENIED",
        401 => "UNAUTHENTICATED",
        200 => "yes",
        400 if reply.body.contains(&format!("\"reason\":\"{nothing}\"")) => "yes",
        _ => "another answer",
    };
    (word, format!("{reply:?}"))
}

#[tokio::test]
async fn each_role_may_do_over_http_what_the_table_says() {
    let file = File::new();
    let world = file.world().await;
    let mut wrong = Vec::new();
    for (rpc, cells) in table() {
        for (column, expected) in cells.iter().enumerate() {
            let begun = begin(file.link(&world, 0)).await;
            let header = match COLUMNS[column] {
                "nobody" => String::new(),
                _ => format!("Bearer {}", file.token(column)),
            };
            let (word, reply) = found(&world, &header, &rpc, &begun).await;
            if word != expected {
                wrong
                    .push(format!("{rpc} by {}: {word}, not {expected}: {reply}", COLUMNS[column]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Whoever is not known reads nothing, and the body of nobody is read.
    let begun = begin(file.link(&world, 0)).await;
    for header in ["", "Bearer x", "Basic x"] {
        let (word, reply) = found(&world, header, "GetTransaction", &begun).await;
        assert!(word == "UNAUTHENTICATED" && reply.contains("www-authenticate: bearer"), "{reply}");
        assert!(reply.contains("\\\"reason\\\":\\\"UNAUTHENTICATED\\\""), "{reply}");
    }
    let mut stream = TcpStream::connect(world.running.admin_address().unwrap()).await.unwrap();
    let head = "POST /v1/transactions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 1000000\r\n\r\n{\"gid\": \"";
    stream.write_all(head.as_bytes()).await.unwrap();
    // The rest does not come. A server that waited for it would say so, and not that nobody is known.
    let mut response = Vec::new();
    let answered = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut response)).await;
    answered.expect("it is answered").ok();
    let answer = reply(&String::from_utf8_lossy(&response));
    assert_eq!(answer.code, 401, "{answer:?}");
}

/// A token that is revoked is none over HTTP either.
#[tokio::test]
async fn a_token_that_is_revoked_is_none_over_http() {
    let file = File::new();
    let world = file.world().await;
    let begun = begin(file.link(&world, 0)).await;
    let header = |column: usize| format!("Bearer {}", file.token(column));
    assert_eq!(found(&world, &header(0), "GetTransaction", &begun).await.0, "yes");
    file.write(&[1]);
    until("the token to be revoked", async || {
        let (word, _) = found(&world, &header(0), "GetTransaction", &begun).await;
        (word == "UNAUTHENTICATED").then_some(())
    })
    .await;
    assert_eq!(found(&world, &header(1), "GetTransaction", &begun).await.0, "NOT_FOUND");
}

/// Calls under way over HTTP take of the share that gRPC has, and the other way round.
#[tokio::test]
async fn shares_of_an_identity_hold_for_both_together() {
    let file = File::new();
    let mut config = crate::coordinator::config(&crate::coordinator::sqlite_url());
    config.identities = file.setting();
    config.identity_calls = 2;
    let world = World::start(config).await;
    let begun = begin(file.link(&world, 0)).await;
    let address = world.running.admin_address().unwrap();
    let bearer = format!("Bearer {}", file.token(0));
    let headers = [("authorization", bearer.as_str())];
    let watched = format!("/v1/tx/{}:watch", begun.tx_id);
    let ask = async || {
        let mut client = CoordinatorServiceClient::new(file.link(&world, 0));
        client.get_server_info(v1::GetServerInfoRequest::default()).await.map(drop)
    };
    let mut streams = Vec::new();
    for _ in 0..2 {
        let stream = until("a turn", async || {
            let (event, stream) = first_event(address, &watched, &headers).await;
            (event.code == 200).then_some(stream)
        });
        streams.push(stream.await);
    }
    let status = ask().await.expect_err("two calls are under way over HTTP");
    assert_eq!(describe(&status).1, "IDENTITY_LIMITED", "{status}");
    drop(streams);
    until("the end of a stream", async || ask().await.ok()).await;

    let client = CoordinatorServiceClient::new(file.link(&world, 0));
    let key = Some(v1::watch_transaction_request::Key::TxId(begun.tx_id.clone()));
    let request = v1::WatchTransactionRequest { key, ..Default::default() };
    let mut watching = Vec::new();
    for _ in 0..2 {
        let watch = async || client.clone().watch_transaction(request.clone()).await.ok();
        watching.push(until("a turn", watch).await);
    }
    let limited = http_call(address, "GET", "/v1/server", &headers, b"").await;
    assert!(limited.code == 429 && limited.body.contains("IDENTITY_LIMITED"), "{limited:?}");
    drop((client, watching));
}

/// A call too many is told when to come back.
#[tokio::test]
async fn a_call_too_many_over_http_is_told_when_to_come_back() {
    let file = File::new();
    let mut config = crate::coordinator::config(&crate::coordinator::sqlite_url());
    config.identities = file.setting();
    config.identity_rate = 1;
    let world = World::start(config).await;
    let (address, header) =
        (world.running.admin_address().unwrap(), format!("Bearer {}", file.token(5)));
    let limited = until("a call too many", async || {
        let headers = [("authorization", header.as_str())];
        let reply = http_call(address, "GET", "/v1/server", &headers, b"").await;
        (reply.code == 429).then_some(reply)
    })
    .await;
    assert!(limited.body.contains("IDENTITY_LIMITED"), "{limited:?}");
    assert!(limited.head.contains("retry-after: 1"), "{limited:?}");
    assert!(limited.head.contains("application/problem+json"), "{limited:?}");
}

/// Where gRPC demands a certificate, HTTP does; the name in it is the identity.
#[tokio::test]
async fn a_certificate_is_demanded_where_grpc_demands_it() {
    let authority = Authority::new();
    let world = World::start(guarded(&authority)).await;
    let (code, text) = tls_call(&world, &authority, "/v1/server", false).await;
    assert!(code == 401 && text.contains("a client certificate is needed"), "{text}");
    let (code, text) = tls_call(&world, &authority, "/v1/server", true).await;
    assert!(code == 200 && text.contains("clusterId"), "{text}");

    let file = File::new();
    let mut config = guarded(&authority);
    config.identities = file.setting();
    let world = World::start(config).await;
    let (code, text) = tls_call(&world, &authority, "/v1/server", true).await;
    assert!(code == 401 && text.contains("no name in the certificate is known"), "{text}");
}

/// Where others reach the address of health, and nobody knows who calls, it has no API and no pages.
#[tokio::test]
async fn an_address_that_others_reach_serves_no_api_to_strangers() {
    let authority = Authority::new();
    let mut config = guarded(&authority);
    config.tls_client_ca = Default::default();
    config.admin_listen = "0.0.0.0:0".parse().unwrap();
    let world = World::start(config).await;
    for path in ["/v1/server", "/v1/openapi.json", "/"] {
        let (code, text) = tls_call(&world, &authority, path, false).await;
        assert_eq!(code, 404, "{path}: {text}");
    }
    assert_eq!(tls_call(&world, &authority, "/healthz", false).await.0, 200);
}

/// The pages show to each what the API would, and nothing to whoever is not known.
#[tokio::test]
async fn pages_are_for_those_who_may_look() {
    let file = File::new();
    let world = file.world().await;
    let begun = begin(file.link(&world, 0)).await;
    let address = world.running.admin_address().unwrap();
    let (of_tx, of_gid) = (format!("/tx/{}", begun.tx_id), format!("/gid/{}", begun.gid));
    let acts = [format!("{of_tx}/retry"), format!("{of_tx}/resolve"), format!("{of_tx}/forget")];
    // Its initiator, another one, its participant, another one, an operator, a viewer.
    for (path, codes) in [
        // Initiators are sent to what they began.
        ("/", [303, 303, 403, 403, 200, 200]),
        ("/participants", [403, 403, 403, 403, 200, 200]),
        ("/system", [200, 200, 200, 200, 200, 200]),
        (&of_tx, [200, 404, 200, 404, 200, 200]),
        (&of_gid, [303, 404, 303, 404, 303, 303]),
        ("/transactions", [200, 200, 403, 403, 200, 200]),
        ("/attention", [200, 200, 403, 403, 200, 200]),
        (&acts[0], [403, 403, 403, 403, 200, 403]),
        (&acts[1], [403, 403, 403, 403, 200, 403]),
        (&acts[2], [403, 403, 403, 403, 200, 403]),
        ("/attention/retry", [403, 403, 403, 403, 200, 403]),
        ("/attention/resolve", [403, 403, 403, 403, 200, 403]),
        ("/attention/forget", [403, 403, 403, 403, 200, 403]),
    ] {
        let nobody = http_call(address, "GET", path, &[], b"").await;
        assert_eq!(nobody.code, 401, "{path}: {nobody:?}");
        assert!(!nobody.body.contains(&begun.gid), "{path}: {nobody:?}");
        for (column, code) in codes.into_iter().enumerate() {
            let header = format!("Bearer {}", file.token(column));
            let reply = http_call(address, "GET", path, &[("authorization", &header)], b"").await;
            let of = format!("{path} for {}: {reply:?}", COLUMNS[column]);
            assert_eq!(reply.code, code, "{of}");
            // Another initiator, and another participant, see nothing of it in any page.
            let is_foreign = (column == 1 || column == 3) && path != of_gid;
            assert!(!is_foreign || !reply.body.contains(&begun.gid), "{of}");
            let has_form = reply.body.contains("name=\"form\"");
            assert!(!has_form || column == 4, "{of}");
        }
    }
}

/// The webhooks on the system's page are for operators and viewers without a namespace, and to leave them out denies nothing.
#[tokio::test]
async fn webhooks_are_on_the_page_of_those_alone_who_may_list_them() {
    let file = File::new();
    let viewer = "name = \"bob\"\n";
    let text = std::fs::read_to_string(file.path()).unwrap();
    let mut config = crate::coordinator::config(&crate::coordinator::sqlite_url());
    config.identities = file.setting();
    config.webhooks = super::setting(&crate::coordinator::webhooks::unreachable());
    let world = World::start(config.clone()).await;
    let address = world.running.admin_address().unwrap();
    for (column, is_shown) in [false, false, false, false, true, true].into_iter().enumerate() {
        let header = format!("Bearer {}", file.token(column));
        let headers = [("authorization", header.as_str())];
        let page = http_call(address, "GET", "/system", &headers, b"").await;
        assert_eq!(page.code, 200, "{page:?}");
        let shown = page.body.contains(">Webhooks</h2>") && page.body.contains(">hook</th>");
        assert_eq!(shown, is_shown, "{}: {}", COLUMNS[column], page.body);
        assert!(is_shown || !page.body.contains("hook"), "{}", page.body);
    }
    let denied = |text: &str| text.contains("ListWebhooks");
    let audit = async |world: &World| {
        let header = format!("Bearer {}", file.token(4));
        let address = world.running.admin_address().unwrap();
        http_call(address, "GET", "/v1/audit", &[("authorization", &header)], b"").await.body
    };
    assert!(!denied(&audit(&world).await));
    // The viewer comes into a namespace.
    let moved = text.replacen(viewer, &format!("{viewer}namespace = \"tenant-a\"\n"), 1);
    assert_ne!(moved, text);
    std::fs::write(file.path(), moved).unwrap();
    let header = format!("Bearer {}", file.token(5));
    let page = until("the webhooks to go", async || {
        let headers = [("authorization", header.as_str())];
        let page = http_call(address, "GET", "/system", &headers, b"").await;
        (!page.body.contains("hook")).then_some(page)
    })
    .await;
    assert!(page.code == 200 && page.body.contains(">Limits in force</h2>"), "{page:?}");
    assert!(!denied(&audit(&world).await));
}

/// Without identities it is the address that is counted, over HTTP as over gRPC.
#[tokio::test]
async fn an_address_has_its_share_over_http() {
    let mut config = crate::coordinator::config(&crate::coordinator::sqlite_url());
    config.address_rate = 1;
    let world = World::start(config).await;
    let address = world.running.admin_address().unwrap();
    let limited = until("a call too many", async || {
        let reply = http_call(address, "GET", "/v1/server", &[], b"").await;
        (reply.code == 429).then_some(reply)
    })
    .await;
    assert!(limited.body.contains("ADDRESS_LIMITED"), "{limited:?}");
    assert!(limited.head.contains("retry-after: 1"), "{limited:?}");
    let healthy = http_call(address, "GET", "/healthz", &[], b"").await;
    assert_eq!(healthy.code, 200, "{healthy:?}");
}

/// Roles are those of gRPC, and nothing but the token says who calls.
#[tokio::test]
async fn a_role_is_asked_for_over_grpc_web() {
    let file = File::new();
    let world = file.world().await;
    let bearer = |column: usize| format!("Bearer {}", file.token(column));
    // A browser would send it by itself.
    let cookie = format!("authorization={}; session={}", bearer(4), file.token(4));
    let statistics = v1::GetStatisticsRequest::default();
    for (header, expected) in
        [(bearer(4), "0"), (bearer(0), "7"), ("Bearer bad".to_owned(), "16"), (String::new(), "16")]
    {
        let mut headers = vec![MEDIA_TYPE, ("cookie", cookie.as_str())];
        if !header.is_empty() {
            headers.push(("authorization", &header));
        }
        let rpc = "unanimo.v1.OperatorService/GetStatistics";
        let (_, trailers) = call_with(&world, rpc, &headers, &statistics).await;
        assert!(trailers.starts_with(&format!("grpc-status:{expected}\r\n")), "{trailers}");
    }
}
