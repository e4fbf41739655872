//! The API over HTTP: each rpc is answered as over gRPC, errors included.

mod same;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use serde::de::DeserializeSeed;
use serde_json::{Value, json};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};
use tonic_types::StatusExt;
use unanimo_tests::wait::until;

use self::same::same;
use super::http::{Reply, first_event, http_call};
use super::{World, tcc};

/// Passes messages on as bytes.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use bytes::Buf;
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        Ok(Some(bytes.to_vec()))
    }
}

fn method(rpc: &str) -> MethodDescriptor {
    let pool = DescriptorPool::decode(unanimo_proto::FILE_DESCRIPTOR_SET).unwrap();
    let services: Vec<_> = pool.services().collect();
    let mut all = services.iter().flat_map(|service| service.methods().collect::<Vec<_>>());
    all.find(|method| method.name() == rpc).unwrap_or_else(|| panic!("no rpc {rpc}"))
}

/// Answer over gRPC, as JSON; of a stream the first message.
async fn over_grpc(world: &World, rpc: &str, request: &Value) -> Result<Value, Status> {
    let method = method(rpc);
    let message = method.input().deserialize(request).unwrap_or_else(|e| panic!("{rpc}: {e}"));
    let path = format!("/{}/{rpc}", method.parent_service().full_name());
    let path: PathAndQuery = path.parse().unwrap();
    let mut grpc = tonic::client::Grpc::new(world.channel.clone());
    grpc.ready().await.unwrap();
    let request = Request::new(message.encode_to_vec());
    let answer = if method.is_server_streaming() {
        let mut stream = grpc.server_streaming(request, path, Raw).await?.into_inner();
        stream.message().await?.unwrap()
    } else {
        grpc.unary(request, path, Raw).await?.into_inner()
    };
    let answer = DynamicMessage::decode(method.output(), answer.as_slice()).unwrap();
    Ok(serde_json::to_value(&answer).unwrap())
}

/// Address of a call, and its request without what is in the path.
pub(super) struct Call {
    pub(super) rpc: &'static str,
    http: &'static str,
    path: String,
    /// Fields in the path.
    of_path: Value,
    /// The others.
    rest: Value,
}

impl Call {
    fn request(&self) -> Value {
        let mut all = self.of_path.as_object().unwrap().clone();
        all.extend(self.rest.as_object().unwrap().clone());
        all.into()
    }

    /// The same with one more field.
    fn with(&self, name: &str, value: Value) -> Self {
        let (mut rest, of_path, path) =
            (self.rest.clone(), self.of_path.clone(), self.path.clone());
        rest[name] = value;
        Self { rest, of_path, path, ..*self }
    }

    async fn over_http(&self, world: &World) -> Reply {
        self.over_http_with(world.running.admin_address().unwrap(), &[]).await
    }

    /// Makes it with more headers.
    pub(super) async fn over_http_with(
        &self,
        address: SocketAddr,
        headers: &[(&str, &str)],
    ) -> Reply {
        if self.http == "GET" {
            let query = self.rest.as_object().unwrap().iter().flat_map(|(name, value)| {
                let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                values.into_iter().map(move |value| match value {
                    Value::String(text) => format!("{name}={text}"),
                    other => format!("{name}={other}"),
                })
            });
            let path = format!("{}?{}", self.path, query.collect::<Vec<_>>().join("&"));
            if self.rpc.starts_with("WatchTransaction") {
                return first_event(address, &path, headers).await.0;
            }
            return http_call(address, "GET", &path, headers, b"").await;
        }
        let all = [&[("content-type", "application/json")][..], headers].concat();
        http_call(address, "POST", &self.path, &all, self.rest.to_string().as_bytes()).await
    }
}

/// JSON in the first event of a stream, or the whole body.
fn answer(reply: &Reply) -> Value {
    let text = match reply.head.contains("text/event-stream") {
        false => reply.body.as_str(),
        true => {
            let (_, data) = reply.body.split_once("data: ").unwrap();
            data.lines().next().unwrap()
        }
    };
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {reply:?}"))
}

/// Checks that an error is the same both ways.
#[track_caller]
fn same_error(of: &str, status: &Status, reply: &Reply) {
    let problem = answer(reply);
    assert!(reply.head.contains("application/problem+json"), "{of}: {reply:?}");
    let code = unanimo_coordinator::api::error::code_name(status.code());
    let details = status.get_error_details();
    assert_eq!(problem["code"], code, "{of}: {status} and {problem}");
    assert_eq!(problem["status"], reply.code, "{of}");
    assert_eq!(problem["detail"], status.message(), "{of}");
    let info = details.error_info().unwrap();
    assert_eq!(problem["reason"], info.reason, "{of}");
    let anchor = format!("errors.md#{}", info.reason.to_lowercase());
    assert!(problem["type"].as_str().unwrap().ends_with(&anchor), "{problem}");
    let place = format!("<a id=\"{}\"></a>", info.reason.to_lowercase());
    assert!(include_str!("../../../docs/reference/errors.md").contains(&place), "{place}");
    assert_eq!(problem["retryable"].to_string(), info.metadata["retryable"], "{of}");
    assert_eq!(problem["effect"], info.metadata["effect"], "{of}");
    for (key, value) in &info.metadata {
        let is_own = key == "retryable" || key == "effect";
        assert!(is_own || problem["metadata"][key] == *value, "{of}: {key} in {problem}");
    }
    let violations = details.bad_request().map(|bad| bad.field_violations.clone());
    let found: Vec<_> = violations.unwrap_or_default();
    let told = problem["violations"].as_array().cloned().unwrap_or_default();
    assert_eq!(told.len(), found.len(), "{of}: {problem}");
    for (told, found) in told.iter().zip(&found) {
        assert_eq!(told["field"], found.field, "{of}");
        assert_eq!(told["rule"], found.description, "{of}");
    }
    let delay = details.retry_info().and_then(|info| info.retry_delay);
    let delay = delay.map(|delay| u64::try_from(delay.as_millis()).unwrap());
    assert_eq!(problem["retryAfterMs"].as_u64(), delay, "{of}");
    assert_eq!(reply.head.contains("retry-after: "), delay.is_some(), "{of}: {}", reply.head);
}

fn post(rpc: &'static str, path: String, of_path: Value, rest: Value) -> Call {
    Call { rpc, http: "POST", path, of_path, rest }
}

fn get(rpc: &'static str, path: String, of_path: Value, rest: Value) -> Call {
    Call { rpc, http: "GET", path, of_path, rest }
}

/// Every rpc, in an order in which each has something to do. `held` has a Commit that is not answered.
pub(super) fn calls(tx_id: &str, held: &str, cluster_id: &str) -> Vec<Call> {
    let branch = |id: &str| json!({"branchId": id, "participant": "p", "action": "ok", "payload": {"data": "eHg="}});
    let (tx, of_tx) = (|act: &str| format!("/v1/tx/{tx_id}{act}"), json!({"txId": tx_id}));
    let (gid, of_gid) =
        (|act: &str| format!("/v1/transactions/begun%3Aone{act}"), json!({"gid": "begun:one"}));
    let of_held = json!({"txId": held});
    let note = json!({"operator": "ann", "note": "a test"});
    let by_number = json!([{"txId": tx_id, "branchNumber": 1}]);
    let endpoint =
        json!({"endpoint": "http://127.0.0.1:1", "instanceId": "i", "features": ["a", "b"]});
    let all = json!({"includeOutputs": true, "include_payloads": true, "includeTimeline": true});
    let list = json!({"states": ["TRANSACTION_STATE_ACTIVE", "TRANSACTION_STATE_COMMITTING"], "pageSize": 2, "includeCounts": true});
    vec![
        post(
            "SubmitTransaction",
            "/v1/transactions".into(),
            json!({}),
            json!({"gid": "s", "mode": "MODE_TCC", "branches": [branch("a")], "timeout": "20s", "metadata": {"k": "v \u{1f980}"}, "includeOutputs": true}),
        ),
        post(
            "BeginTransaction",
            "/v1/transactions:begin".into(),
            json!({}),
            json!({"gid": "begun:one", "mode": "MODE_TCC"}),
        ),
        post(
            "ExecuteBranch",
            tx("/branches:execute"),
            of_tx.clone(),
            json!({"branch": branch("a")}),
        ),
        post("EnlistBranch", tx("/branches:enlist"), of_tx.clone(), json!({"branch": branch("b")})),
        get("GetTransaction", tx(""), of_tx.clone(), all.clone()),
        get("GetTransaction", gid(""), of_gid.clone(), all),
        get("ListTransactions", "/v1/transactions".into(), json!({}), list),
        get("WatchTransaction", tx(":watch"), of_tx.clone(), json!({})),
        get("WatchTransaction", gid(":watch"), of_gid.clone(), json!({"includeOutputs": true})),
        get(
            "WatchTransactions",
            "/v1/transactions:watch".into(),
            json!({}),
            json!({"onlyNew": true, "kinds": ["TRANSACTION_EVENT_KIND_STALLED"]}),
        ),
        get("ExportTransaction", tx(":export"), of_tx.clone(), json!({"pageSize": 1})),
        get("ExportTransaction", gid(":export"), of_gid.clone(), json!({})),
        post(
            "InquireBranches",
            "/v1/branches:inquire".into(),
            json!({}),
            json!({"participant": "p", "clusterId": cluster_id, "branches": by_number}),
        ),
        post(
            "CommitTransaction",
            tx(":commit"),
            of_tx.clone(),
            json!({"branches": [{"branchId": "a"}, {"branchId": "b", "vote": "VOTE_PREPARED"}], "waitFor": "WAIT_FOR_DECIDED"}),
        ),
        post("RollbackTransaction", tx(":rollback"), of_tx, json!({})),
        post(
            "RollbackTransaction",
            gid(":rollback"),
            of_gid,
            json!({"waitFor": "WAIT_FOR_DECIDED"}),
        ),
        post(
            "RetryTransaction",
            format!("/v1/tx/{held}:retry"),
            of_held.clone(),
            json!({"operator": "ann", "note": "a test"}),
        ),
        post(
            "ResolveBranch",
            format!("/v1/tx/{held}/branches/a:resolve"),
            json!({"txId": held, "branchId": "a"}),
            json!({"resolution": "RESOLUTION_COMMITTED", "operator": "ann", "note": "a test"}),
        ),
        post("ForgetTransaction", format!("/v1/tx/{held}:forget"), of_held, note),
        get("ListAudit", "/v1/audit".into(), json!({}), json!({"pageSize": 2})),
        get("ListDeadLetters", "/v1/dead-letters".into(), json!({}), json!({"webhook": "hook"})),
        post(
            "RedeliverEvents",
            "/v1/webhooks/hook:redeliver".into(),
            json!({"webhook": "hook"}),
            json!({"revision": "7"}),
        ),
        post("TestWebhook", "/v1/webhooks/hook:test".into(), json!({"webhook": "hook"}), json!({})),
        get("ListWebhooks", "/v1/webhooks".into(), json!({}), json!({})),
        post(
            "RegisterEndpoint",
            "/v1/participants/q:register".into(),
            json!({"participant": "q"}),
            endpoint,
        ),
        get("ListParticipants", "/v1/participants".into(), json!({}), json!({"pageSize": 10})),
        post(
            "DeregisterEndpoint",
            "/v1/participants/q:deregister".into(),
            json!({"participant": "q"}),
            json!({"endpoint": "http://127.0.0.1:1", "instanceId": "i"}),
        ),
        get("GetServerInfo", "/v1/server".into(), json!({}), json!({})),
        get("GetStatistics", "/v1/statistics".into(), json!({}), json!({"includeSettings": true})),
    ]
}

/// Way of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Grpc,
    Http,
}

impl Call {
    /// Answer this way, as JSON.
    async fn answered(&self, world: &World, way: Way) -> Value {
        let of = format!("{} at {} over {way:?}", self.rpc, self.path);
        match way {
            Way::Grpc => {
                let answer = over_grpc(world, self.rpc, &self.request()).await;
                answer.unwrap_or_else(|status| panic!("{of}: {status}"))
            }
            Way::Http => {
                let reply = self.over_http(world).await;
                assert_eq!(reply.code, 200, "{of}: {reply:?}");
                answer(&reply)
            }
        }
    }
}

#[tokio::test]
async fn every_rpc_over_http_equals_its_answer_over_grpc() {
    every_rpc_is_answered_the_same([Way::Grpc, Way::Http]).await;
}

/// Each call has its effect over HTTP, and is told by gRPC afterwards.
#[tokio::test]
async fn every_rpc_over_grpc_equals_its_answer_over_http() {
    every_rpc_is_answered_the_same([Way::Http, Way::Grpc]).await;
}

async fn every_rpc_is_answered_the_same([first, second]: [Way; 2]) {
    let mut config = super::config(&super::sqlite_url());
    config.history = "all".parse().unwrap();
    // Nobody receives there, and no event is sent.
    let hooks = super::webhooks::unreachable();
    config.webhooks = hooks.to_str().unwrap().parse().unwrap();
    let world = World::start(config).await;
    let begin = json!({"gid": "begun:one", "mode": "MODE_TCC"});
    let begin = post("BeginTransaction", "/v1/transactions:begin".into(), json!({}), begin);
    let begun = begin.answered(&world, first).await;
    world.p.hold(true);
    let held = world.submit(tcc("held", &["ok"])).await.unwrap().tx_id;
    let tx_id = begun["txId"].as_str().unwrap();
    let all = calls(tx_id, &held, &world.cluster_id().await);
    for call in &all {
        let of = format!("{} at {}", call.rpc, call.path);
        // Without more ado the same error.
        if call.rpc != "GetServerInfo" {
            let bad = call.with("requires", json!(["nothing"]));
            let status = over_grpc(&world, call.rpc, &bad.request()).await.unwrap_err();
            same_error(&of, &status, &bad.over_http(&world).await);
        }
        let told = call.answered(&world, first).await;
        same(&of, &told, &call.answered(&world, second).await);
    }
    let covered: BTreeSet<_> = all.iter().map(|call| call.rpc).collect();
    let pool = DescriptorPool::decode(unanimo_proto::FILE_DESCRIPTOR_SET).unwrap();
    let services = pool.services().filter(|service| service.name() != "ParticipantService");
    let contract: BTreeSet<_> = services
        .flat_map(|service| service.methods().map(|m| m.name().to_owned()).collect::<Vec<_>>())
        .collect();
    assert_eq!(covered, contract.iter().map(String::as_str).collect());
    world.p.hold(false);
}

/// Messages of a stream over HTTP are those over gRPC, one by one, and not the first one alone.
#[tokio::test]
async fn every_message_of_a_stream_is_the_same() {
    let world = World::sqlite().await;
    for gid in ["a", "b", "c", "d"] {
        world.submit(tcc(gid, &[if gid == "c" { "refuse" } else { "ok" }])).await.unwrap();
        world.get_until(gid, "its end", |tx| tx.ended_at.is_some()).await;
    }
    let method = method("WatchTransactions");
    let path = PathAndQuery::from_static("/unanimo.v1.CoordinatorService/WatchTransactions");
    let mut grpc = tonic::client::Grpc::new(world.channel.clone());
    grpc.ready().await.unwrap();
    let mut stream =
        grpc.server_streaming(Request::new(Vec::new()), path, Raw).await.unwrap().into_inner();
    let mut told = Vec::new();
    let events = |told: &[Value]| told.iter().filter(|one| one["event"].is_object()).count();
    while events(&told) < 4 {
        let message = stream.message().await.unwrap().unwrap();
        let message = DynamicMessage::decode(method.output(), message.as_slice()).unwrap();
        told.push(serde_json::to_value(&message).unwrap());
    }
    // It would go on for ever: the time of the call ends it.
    let address = world.running.admin_address().unwrap();
    let timeout = [("grpc-timeout", "5S")];
    let reply = http_call(address, "GET", "/v1/transactions:watch", &timeout, b"").await;
    let seen: Vec<Value> = reply
        .body
        .split("event: state\n")
        .skip(1)
        .map(|event| event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap())
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert!(seen.len() >= told.len(), "{told:?} and {reply:?}");
    for (told, seen) in told.iter().zip(&seen) {
        assert_eq!(told["revision"], seen["revision"]);
        same("WatchTransactions", told, seen);
    }
}

/// Errors of every kind: of fields, of what is not there, of what was begun otherwise.
#[tokio::test]
async fn errors_over_http_equal_those_over_grpc() {
    let world = World::sqlite().await;
    world.submit(tcc("g", &["ok"])).await.unwrap();
    // Of this moment: no purge takes it for one that it has removed.
    let missing = uuid::Uuid::now_v7().to_string();
    let of_tx = json!({"txId": missing});
    for call in [
        post("SubmitTransaction", "/v1/transactions".into(), json!({}), json!({})),
        post(
            "SubmitTransaction",
            "/v1/transactions".into(),
            json!({}),
            json!({"gid": "g", "mode": "MODE_TCC", "branches": [{"branchId": "x", "participant": "p", "action": "ok"}]}),
        ),
        post(
            "SubmitTransaction",
            "/v1/transactions".into(),
            json!({}),
            json!({"gid": "h", "mode": 99, "branches": [{"branchId": "x", "participant": "nobody", "action": "ok"}, {"participant": "p"}]}),
        ),
        post("CommitTransaction", format!("/v1/tx/{missing}:commit"), of_tx.clone(), json!({})),
        post("RetryTransaction", format!("/v1/tx/{missing}:retry"), of_tx.clone(), json!({})),
        post(
            "ResolveBranch",
            format!("/v1/tx/{missing}/branches/a:resolve"),
            json!({"txId": missing, "branchId": "a"}),
            json!({}),
        ),
        post(
            "ExecuteBranch",
            "/v1/tx/nothing/branches:execute".into(),
            json!({"txId": "nothing"}),
            json!({}),
        ),
        get(
            "GetTransaction",
            "/v1/transactions/nothing".into(),
            json!({"gid": "nothing"}),
            json!({}),
        ),
        get("GetTransaction", format!("/v1/tx/{missing}"), of_tx.clone(), json!({})),
        get("WatchTransaction", format!("/v1/tx/{missing}:watch"), of_tx, json!({})),
        get(
            "ExportTransaction",
            "/v1/transactions/g:export".into(),
            json!({"gid": "g"}),
            json!({}),
        ),
        get(
            "ListTransactions",
            "/v1/transactions".into(),
            json!({}),
            json!({"pageToken": "nonsense"}),
        ),
        post(
            "InquireBranches",
            "/v1/branches:inquire".into(),
            json!({}),
            json!({"participant": "p", "clusterId": "other", "branches": [{"txId": missing, "branchId": "a"}]}),
        ),
    ] {
        let of = format!("{} at {} with {}", call.rpc, call.path, call.rest);
        let status = over_grpc(&world, call.rpc, &call.request()).await;
        let status = status.expect_err(&of);
        same_error(&of, &status, &call.over_http(&world).await);
    }
}

/// A stream goes from the present state to the end, and a reader that comes again goes on.
#[tokio::test]
async fn a_transaction_is_watched_until_its_end() {
    let world = World::sqlite().await;
    world.p.hold(true);
    world.submit(tcc("g", &["ok"])).await.unwrap();
    let address = world.running.admin_address().unwrap();
    let (now, _) = first_event(address, "/v1/transactions/g:watch", &[]).await;
    // Whoever has seen the present state waits for the next one.
    let timeout = ("grpc-timeout", "5S");
    let id = now.body.rsplit("id: ").next().unwrap().lines().next().unwrap().to_owned();
    let headers = [timeout, ("last-event-id", id.as_str())];
    let seen = http_call(address, "GET", "/v1/transactions/g:watch", &headers, b"").await;
    assert!(now.body.contains("event: state\n") && seen.code == 200, "{now:?}, {seen:?}");
    assert!(!seen.body.contains("event: state\n"), "{seen:?}");
    assert!(
        seen.body.contains("event: error\n") && seen.body.contains("TRANSACTION_MOVING"),
        "{seen:?}"
    );
    let watching = tokio::spawn(async move {
        http_call(address, "GET", "/v1/transactions/g:watch", &[], b"").await
    });
    until("the watch to begin", async || {
        let (_, metrics) = super::http::http_get(&world, "/metrics").await;
        let begun = "unanimo_requests_total{method=\"WatchTransaction\",code=\"Ok\"} 3";
        metrics.contains(begun).then_some(())
    })
    .await;
    world.p.hold(false);
    let reply = watching.await.unwrap();
    assert!(reply.code == 200 && reply.head.contains("text/event-stream"), "{reply:?}");
    // A proxy hands each event on as it comes.
    assert!(reply.head.contains("x-accel-buffering: no"), "{reply:?}");
    let states = reply.body.matches("event: state\n").count();
    assert!(states >= 2, "{states}: {}", reply.body);
    assert!(reply.body.contains("\"state\":\"TRANSACTION_STATE_COMMITTED\""), "{}", reply.body);
    assert!(reply.body.contains("event: end\ndata: {}\n\n"), "{}", reply.body);
    let last = reply.body.rsplit("id: ").next().unwrap().lines().next().unwrap().to_owned();
    let seen = [("last-event-id", last.as_str())];
    let again = http_call(address, "GET", "/v1/transactions/g:watch", &seen, b"").await;
    // The ended state comes in any case, and nothing before it.
    assert_eq!(again.body.matches("event: state\n").count(), 1, "{}", again.body);
}

/// A gid is found by its address whatever signs it has, also where they look like an act or a path; what cannot be one is refused
/// by its field, in the API and on a page.
#[tokio::test]
async fn a_gid_is_found_whatever_signs_it_has() {
    let world = World::sqlite().await;
    let address = world.running.admin_address().unwrap();
    let get = async |path: String| http_call(address, "GET", &path, &[], b"").await;
    let long = "x".repeat(128);
    for gid in ["a:watch", "b:export:watch", "c..d", "0", "_", "_.:-", &long] {
        let tx_id = world.submit(tcc(gid, &["ok"])).await.unwrap().tx_id;
        world.get_until(gid, "its end", |tx| tx.ended_at.is_some()).await;
        let all: String = gid.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for name in [gid.replace(':', "%3A"), all] {
            let told = get(format!("/v1/transactions/{name}")).await;
            let told: Value = serde_json::from_str(&told.body).unwrap();
            assert_eq!(told["transaction"]["gid"], gid, "{name}: {told}");
            let watched = get(format!("/v1/transactions/{name}:watch")).await.body;
            assert!(
                watched.contains(&tx_id) && watched.contains("event: end"),
                "{name}: {watched}"
            );
            let led = get(format!("/gid/{name}")).await;
            assert!(
                led.code == 303 && led.head.contains(&format!("/tx/{tx_id}")),
                "{name}: {led:?}"
            );
        }
        // On a page a colon is none of an act.
        assert_eq!(get(format!("/gid/{gid}")).await.code, 303, "{gid}");
    }
    let too_long = "x".repeat(129);
    for name in ["a%20b", "%C3%A4", "a%25b", "%3Cscript%3E", "a%00", "%2e%2e%2f%2e%2e", &too_long] {
        let refused = get(format!("/v1/transactions/{name}")).await;
        let problem: Value = serde_json::from_str(&refused.body).unwrap();
        let found = (refused.code, &problem["violations"][0]["field"]);
        assert_eq!(found, (400, &json!("gid")), "{name}: {problem}");
        let page = get(format!("/gid/{name}")).await;
        assert!(page.code == 400 && page.body.contains("</html>"), "{name}: {page:?}");
        assert!(!page.body.contains("<script>"), "{name}: {page:?}");
    }
}

/// With an address of its own the API is served there alone, and health where it was.
#[tokio::test]
async fn the_api_may_have_an_address_of_its_own() {
    let mut config = super::config(&super::sqlite_url());
    config.http_listen.0 = Some("127.0.0.1:0".parse().unwrap());
    let world = World::start(config).await;
    let admin = world.running.admin_address().unwrap();
    let own = world.running.http_address().expect("an address of its own");
    for path in ["/v1/server", "/v1/openapi.json", "/"] {
        let (here, there) = tokio::join!(
            http_call(own, "GET", path, &[], b""),
            http_call(admin, "GET", path, &[], b"")
        );
        assert_eq!((here.code, there.code), (200, 404), "{path}: {here:?}, {there:?}");
    }
    for path in ["/healthz", "/metrics"] {
        assert_eq!(http_call(admin, "GET", path, &[], b"").await.code, 200, "{path}");
    }
}

/// A page whose own name was turned to this address is refused, even where anybody is welcome; names in `http-hosts` are
/// this coordinator's.
#[tokio::test]
async fn a_foreign_host_is_refused_where_anybody_is_welcome() {
    let mut config = super::config(&super::sqlite_url());
    config.insecure = true;
    config.http_hosts.0 = vec!["coordinator".to_owned()];
    let world = World::start(config).await;
    let address = world.running.admin_address().unwrap();
    for path in ["/v1/server", "/"] {
        for (host, code) in [
            ("evil.example:7611", 421),
            ("coordinator.evil.example", 421),
            ("Coordinator:7611", 200),
            ("localhost:7611", 200),
            ("10.0.0.1", 200),
        ] {
            let origin = format!("http://{host}");
            let headers =
                [("host", host), ("origin", origin.as_str()), ("sec-fetch-site", "same-origin")];
            let reply = http_call(address, "GET", path, &headers, b"").await;
            assert_eq!(reply.code, code, "{path} of {host}: {reply:?}");
        }
    }
}

/// An address that is too long once a page has encoded it anew is refused, and harms nothing.
#[tokio::test]
async fn a_long_address_is_refused() {
    let world = World::sqlite().await;
    let address = world.running.admin_address().unwrap();
    let long = "-".repeat(22_000);
    for path in [
        format!("/transactions?gidPrefix={long}"),
        format!("/participants?pageToken={long}"),
        format!("/tx/{long}"),
    ] {
        let reply = http_call(address, "GET", &path, &[], b"").await;
        assert_eq!(reply.code, 414, "{}: {reply:?}", &path[..20]);
    }
    assert_eq!(http_call(address, "GET", "/", &[], b"").await.code, 200);
}

/// Nothing that is answered can be put into a page of another site, or be kept: not even what is nowhere.
#[tokio::test]
async fn whatever_is_answered_keeps_to_itself() {
    let world = World::sqlite().await;
    let address = world.running.admin_address().unwrap();
    for (path, code) in [
        ("/tx/%ff", 400),
        ("/nothing", 404),
        ("/v1/nothing", 404),
        ("/v1/server", 200),
        ("/healthz", 200),
        ("/assets/live.js", 200),
    ] {
        let reply = http_call(address, "GET", path, &[], b"").await;
        assert_eq!(reply.code, code, "{path}: {reply:?}");
        for header in [
            "content-security-policy: default-src 'none'",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
        ] {
            assert!(reply.head.contains(header), "{header} of {path}: {reply:?}");
        }
    }
}
