//! Participants over HTTP with JSON: called, judged and shown as those over gRPC.

pub(crate) mod server;

use std::time::Duration;

use tonic::Code;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    BranchResult, BranchState, ListParticipantsRequest, Outcome, SubmitTransactionRequest,
    TransactionResult, WaitFor,
};
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use self::server::{JsonServer, Wrong};
use super::http::http_call;
use super::participants::register;
use super::{World, config, describe, sqlite_url, tcc};

fn at(name: &str, gid: &str, actions: &[&str]) -> SubmitTransactionRequest {
    let mut request = tcc(gid, actions);
    request.branches.iter_mut().for_each(|branch| branch.participant = name.into());
    request
}

/// Outcome, and for each branch its vote, reason and output.
fn summary(result: &TransactionResult) -> (Outcome, String) {
    let told = result.branches.iter().map(|branch| {
        let BranchResult { vote, refusal, output, output_dropped, .. } = branch;
        format!("{vote:?} {refusal:?} {output:?} {output_dropped}")
    });
    (result.outcome(), told.collect())
}

/// Whatever a participant answers, it means over HTTP what it means over gRPC: the outcome, the ends, and each call.
#[tokio::test]
async fn an_answer_over_http_means_what_it_means_over_grpc() {
    let world = World::sqlite().await;
    let (over_grpc, over_http) = (Scripted::default(), Scripted::default());
    register(&world, "grpc", &over_grpc.serve().await).await;
    let (_server, endpoint) = JsonServer::serve(&over_http).await;
    register(&world, "json", &endpoint).await;
    for action in [
        "ok",
        "refuse",
        "typed",
        "fail-2",
        "decline-2",
        "working-3",
        "output-2000",
        "commit-fail-2",
        "commit-heuristic",
    ] {
        let mut seen = Vec::new();
        for name in ["grpc", "json"] {
            let gid = format!("{name}-{action}");
            let result = world.submit(at(name, &gid, &[action, "gated"])).await.unwrap();
            let scripted = if name == "grpc" { &over_grpc } else { &over_http };
            let owed = [BranchState::Committing, BranchState::Cancelling];
            let transaction = world
                .get_until(&gid, "its ends", |t| {
                    t.branches.iter().all(|branch| !owed.contains(&branch.state()))
                })
                .await;
            let ends: Vec<_> = transaction.branches.iter().map(|branch| branch.state()).collect();
            let calls = ["a", "b"].map(|branch| scripted.calls(&result.tx_id, branch));
            seen.push((summary(&result), ends, calls));
        }
        assert_eq!(seen[0], seen[1], "{action}");
    }
}

/// The request that goes out is the same, too: payload, metadata, trace, and the time that the call has.
#[tokio::test]
async fn a_call_over_http_has_payload_trace_and_deadline() {
    let mut config = config(&sqlite_url());
    config.call_timeout = Period::millis(4321);
    let world = World::start(config).await;
    let scripted = Scripted::default();
    let (server, endpoint) = JsonServer::serve(&scripted).await;
    register(&world, "json", &endpoint).await;
    let mut request = at("json", "g", &["typed"]);
    request.metadata = [("tenant".to_owned(), "blue ☂".to_owned())].into();
    request.wait_for = WaitFor::Ended.into();
    let mut request = tonic::Request::new(request);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
    request.metadata_mut().insert("traceparent", trace);
    let result = world.client().submit_transaction(request).await.unwrap().into_inner();
    let result = result.result.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    let seen = scripted.seen();
    assert_eq!(seen.iter().map(|call| call.operation).collect::<Vec<_>>(), ["prepare", "commit"]);
    for call in &seen {
        assert_eq!(call.payload, "payload of a".as_bytes());
        assert_eq!(call.metadata["tenant"], "blue ☂");
        assert!(call.traceparent.contains("0af7651916cd43dd8448eb211c80319c"), "{call:?}");
    }
    assert_eq!((&seen[1].output[..], seen[1].media_types[1].as_str()), (&b"o"[..], "text/plain"));
    for headers in server.headers() {
        assert_eq!(headers["unanimo-timeout-ms"], "4321");
        assert!(!headers.contains_key("authorization") && !headers.contains_key("grpc-timeout"));
    }
}

const WRONG: [Wrong; 7] = [
    Wrong { status: 200, content_type: "text/html", location: "", body: "<html>{\"done\":{}}" },
    Wrong { status: 200, content_type: "application/json", location: "", body: "" },
    Wrong {
        status: 200,
        content_type: "application/json",
        location: "",
        body: "{\"done\":{}, \"prepared\":",
    },
    Wrong { status: 200, content_type: "application/json", location: "", body: "{}" },
    Wrong {
        status: 302,
        content_type: "application/json",
        location: "/unanimo/v1/prepare",
        body: "{\"done\":{},\"prepared\":{}}",
    },
    Wrong { status: 502, content_type: "text/html", location: "", body: "<html>Bad Gateway" },
    Wrong {
        status: 409,
        content_type: "application/problem+json",
        location: "",
        body: "{\"detail\":\"locked\"}",
    },
];

/// S2, S7: neither a vote nor an end is taken from a response that is no answer. The call comes again, although the
/// participant has done it, and gets the same answer.
#[tokio::test]
async fn s2_what_a_proxy_says_is_neither_a_vote_nor_an_end() {
    let world = World::sqlite().await;
    for (number, wrong) in WRONG.into_iter().enumerate() {
        let scripted = Scripted::default();
        let (server, endpoint) = JsonServer::serve(&scripted).await;
        let name = format!("json-{number}");
        register(&world, &name, &endpoint).await;
        server.answer_wrong([wrong.clone(), wrong.clone()]);
        let result = world.submit(at(&name, &name, &["ok"])).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed, "{wrong:?}");
        world.get_until(&name, "its end", |t| t.ended_at.is_some()).await;
        let calls = scripted.calls(&result.tx_id, "a");
        assert_eq!(calls, ["prepare", "prepare", "prepare", "commit"], "{wrong:?}");

        scripted.hold(true);
        let gid = format!("{name}-commit");
        let result = world.submit(at(&name, &gid, &["ok"])).await.unwrap();
        server.answer_wrong([wrong.clone()]);
        scripted.hold(false);
        world.get_until(&gid, "its end", |t| t.ended_at.is_some()).await;
        let calls = scripted.calls(&result.tx_id, "a");
        assert_eq!(calls, ["prepare", "commit", "commit"], "{wrong:?}");
    }
}

/// An address that serves something else is told as such, and nothing commits by it.
#[tokio::test]
async fn an_endpoint_that_is_set_up_wrong_is_told() {
    let world = World::sqlite().await;
    let scripted = Scripted::default();
    let (server, endpoint) = JsonServer::serve(&scripted).await;
    register(&world, "json", &endpoint).await;
    server.answer_wrong((0..2000).map(|_| Wrong {
        status: 404,
        content_type: "text/plain",
        location: "",
        body: "",
    }));
    let mut request = at("json", "g", &["ok"]);
    request.timeout = super::millis(300);
    let result = world.submit(request).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Aborted);
    let told = format!("{result:?}");
    assert!(told.contains("there must be prepare, commit and cancel"), "{told}");
}

#[tokio::test]
async fn one_over_http_is_listed_kept_and_called_after_a_restart() {
    let world = World::sqlite().await;
    let scripted = Scripted::default();
    let (server, endpoint) = JsonServer::serve(&scripted).await;
    // Over HTTP, as a service without gRPC does.
    let body = serde_json::json!({"endpoint": endpoint, "instanceId": "one"}).to_string();
    let admin = world.running.admin_address().unwrap();
    let json = [("content-type", "application/json")];
    let path = "/v1/participants/json:register";
    let reply = http_call(admin, "POST", path, &json, body.as_bytes()).await;
    assert_eq!(reply.code, 200, "{reply:?}");
    let world = world.crash_and_restart().await;
    for n in 0..20 {
        let result = world.submit(at("json", &format!("g{n}"), &["ok"])).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
    }
    let listed = world.directory().list_participants(ListParticipantsRequest::default()).await;
    let listed = listed.unwrap().into_inner().participants;
    assert_eq!(listed[0].endpoints[0].endpoint, endpoint);
    // Prepares and Commits may overlap: some connections, and not one for each call.
    let connections = server.connections();
    assert!(connections <= 8, "{connections} connections for {} calls", server.headers().len());
}

#[tokio::test]
async fn endpoints_over_http_are_checked() {
    let world = World::sqlite().await;
    for (endpoint, code, reason) in [
        ("http+json://10.0.0.1:7000/tx", Code::PermissionDenied, "ENDPOINT_NOT_ALLOWED"),
        ("http+json://localhost/tx", Code::InvalidArgument, "FIELD_INVALID"),
        ("http+json://localhost:1/tx?a=b", Code::InvalidArgument, "FIELD_INVALID"),
        ("http+json://localhost:1/../tx", Code::InvalidArgument, "FIELD_INVALID"),
        ("http://localhost:1/tx", Code::InvalidArgument, "FIELD_INVALID"),
    ] {
        let request = unanimo_proto::v1::RegisterEndpointRequest {
            participant: "json".into(),
            endpoint: endpoint.into(),
            instance_id: "one".into(),
            ..Default::default()
        };
        let status = world.directory().register_endpoint(request).await.unwrap_err();
        let (found_code, found_reason, _) = describe(&status);
        assert_eq!((found_code, found_reason.as_str()), (code, reason), "{endpoint}");
    }
}

/// L3: one that hangs is given up at its time, its slot is free again, and its endpoint is passed over for another one's.
#[tokio::test]
async fn one_that_hangs_is_passed_over_and_others_are_called() {
    let mut config = config(&sqlite_url());
    config.call_timeout = Period::millis(200);
    let world = World::start(config).await;
    let (hanging, well) = (Scripted::default(), Scripted::default());
    hanging.set_mood(Mood::Hanging);
    let (_server, endpoint) = JsonServer::serve(&hanging).await;
    register(&world, "json", &endpoint).await;
    register(&world, "json", &well.serve().await).await;
    for n in 0..10 {
        let result = world.submit(at("json", &format!("g{n}"), &["ok"])).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Committed);
    }
    // One call at a time tries whether it is back.
    let tried = hanging.seen().len();
    assert!(tried < 10, "{tried} calls");
    let started = std::time::Instant::now();
    hanging.set_mood(Mood::Well);
    let mut n = 0;
    until("it to be called again", async || {
        n += 1;
        world.submit(at("json", &format!("later{n}"), &["ok"])).await.unwrap();
        (hanging.seen().len() > tried).then_some(())
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(60));
}
