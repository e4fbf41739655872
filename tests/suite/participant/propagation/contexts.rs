//! Contents of requests: garbage, nothing, another cluster's transaction, a trace.

use http::header::HeaderMap;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tonic::Code;
use tonic::metadata::{AsciiMetadataValue, MetadataKey};
use tower::ServiceExt;
use unanimo_sdk::propagation::{CLUSTER_ID, CallEnd, ClientLayer, Context};
use unanimo_sdk::proto::v1::Mode as WireMode;
use unanimo_tests::joining;

use super::{Mode, Outcome, RICH, World, order};
use crate::coordinator;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

impl World {
    /// An order at bank `b`, with headers as they are given.
    async fn order_with(&self, headers: &HeaderMap) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::post(format!("{}/debit/x/100/ok", self.b.bank.http));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::default()).unwrap();
        let response = joining::client(&ClientLayer::new()).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn malformed_headers_are_named_with_their_rule_and_reach_no_handler() {
    let world = World::start(Mode::Tcc).await;
    let tx = world.begin().await;
    let mut good = HeaderMap::new();
    tx.propagation().inject(&mut good);
    let mut cases: Vec<(&'static str, Option<&'static [u8]>)> = vec![
        ("unanimo-tx-id", Some(b"4711")),
        ("unanimo-gid", Some(b"a b")),
        ("unanimo-gid", Some(b"\xff\xfe")),
        ("unanimo-mode", Some(b"xa")),
        ("unanimo-cluster-id", Some(b"a/b")),
    ];
    for name in ["unanimo-tx-id", "unanimo-gid", "unanimo-mode", "unanimo-cluster-id"] {
        cases.push((name, None));
    }
    for (name, value) in cases {
        let mut headers = good.clone();
        headers.remove(name);
        if let Some(value) = value {
            headers.insert(name, HeaderValue::from_bytes(value).unwrap());
        }
        let (status, reply, text) = world.order_with(&headers).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{name} {value:?}");
        assert!(text.starts_with(&format!("header {name} must be")), "{text}");
        assert!(!reply.contains_key("unanimo-branches"));

        let mut request = order("debit/x/100/ok");
        let metadata = request.metadata_mut();
        for (name, value) in &headers {
            let value = AsciiMetadataValue::try_from(value.as_bytes()).unwrap();
            metadata.insert(MetadataKey::from_bytes(name.as_str().as_bytes()).unwrap(), value);
        }
        let error = world.order_of(ClientLayer::new(), request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{name} {value:?}");
        assert!(error.message().starts_with(&format!("header {name} must be")), "{error}");
    }
    assert!(world.b.bank.requests().is_empty());
    let (status, ..) = world.order_with(&good).await;
    assert_eq!(status, StatusCode::OK);
    assert!(tx.rollback().await.unwrap().is_aborted());
}

#[tokio::test]
async fn without_a_context_nobody_joins() {
    let world = World::start(Mode::Tcc).await;
    let error = world.order_of(ClientLayer::new(), order("debit/x/100/ok")).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("part of no transaction"), "{error}");
    // The scope that a server is called from in its own process is not that of its request.
    let tx = world.begin().await;
    let (status, reply, text) = world.order_with(&HeaderMap::new()).await;
    assert_eq!(status, StatusCode::CONFLICT, "{text}");
    assert!(!reply.contains_key("unanimo-branches"));
    assert!(world.a.barrier().await.is_empty() && world.b.barrier().await.is_empty());
    assert!(world.ended(&tx).await.is_committed(), "of nothing");
}

/// The reply is for any language to read.
#[tokio::test]
async fn a_reply_names_its_transaction_and_branches() {
    let world = World::start(Mode::Tcc).await;
    let tx = world.begin().await;
    let propagation = tx.propagation();
    let mut headers = HeaderMap::new();
    propagation.inject(&mut headers);
    let (status, reply, _) = world.order_with(&headers).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(reply["unanimo-tx-id"], tx.tx_id());
    let named = reply["unanimo-branches"].to_str().unwrap();
    let (branch, vote) = named.split_once('=').unwrap();
    assert!(branch.starts_with("b:") && branch.len() == 2 + 32, "{named}");
    assert_eq!(vote, "prepared");
    // Of another transaction it says nothing; here it does, and the branch is listed by hand.
    let other = world.begin().await;
    other.propagation().collect(&reply, CallEnd::Succeeded);
    assert!(world.ended(&other).await.is_committed(), "of nothing");
    propagation.collect(&reply, CallEnd::Succeeded);
    assert!(world.ended(&tx).await.is_committed());
    assert_eq!(world.b.ended_balances().await, [RICH - 100, RICH, RICH]);
}

/// A context's coordinator is never called: a participant asks its own, which has not seen it.
#[tokio::test]
async fn s12_a_transaction_of_another_cluster_is_not_joined() {
    let world = World::start(Mode::Tcc).await;
    let elsewhere = coordinator::World::sqlite().await;
    let address = elsewhere.running.grpc_address().unwrap();
    let client = unanimo_sdk::Client::new(format!("http://{address}")).unwrap();
    let tx = client.tcc("elsewhere").begin().await.unwrap();
    let error = world.order(&tx, "debit/x/100/ok").await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(error.message().contains("TRANSACTION_NEVER_SEEN"), "{error}");
    assert!(world.a.barrier().await.is_empty());

    // A context that is not what it says: enlisted, and not a thing done.
    let tx = world.begin().await;
    let mut headers = HeaderMap::new();
    tx.propagation().inject(&mut headers);
    headers.insert(CLUSTER_ID, HeaderValue::from_static("elsewhere"));
    let (status, reply, text) = world.order_with(&headers).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(text.contains("is of cluster elsewhere"), "{text}");
    assert!(!reply.contains_key("unanimo-branches"));
    assert!(world.b.barrier().await.is_empty());
    assert!(world.ended(&tx).await.is_aborted(), "its branch is not listed");
    world.untouched().await;
}

#[tokio::test]
async fn a_trace_travels_with_the_transaction_and_is_never_replaced() {
    let world = World::start(Mode::Tcc).await;
    let tx = world.begin().await;
    let mut request = order("debit/x/100/ok credit/y/100/ok");
    let own = AsciiMetadataValue::from_static(TRACEPARENT);
    request.metadata_mut().insert("traceparent", own);
    request.metadata_mut().insert("tracestate", AsciiMetadataValue::from_static("a=1"));
    world.order_of(tx.propagation().layer(), request).await.unwrap();
    let below = world.b.bank.requests();
    let [headers] = &below[..] else { panic!("one request: {below:?}") };
    assert_eq!(
        (&headers["traceparent"], &headers["tracestate"]),
        (&HeaderValue::from_static(TRACEPARENT), &HeaderValue::from_static("a=1"),)
    );
    let context = Context::from_headers(headers).unwrap().unwrap();
    assert_eq!(&context, tx.propagation().context());
    assert_eq!(context.tx_id().to_string(), tx.tx_id());
    assert_eq!(context.mode(), WireMode::Tcc);
    let Outcome::Committed(_) = world.ended(&tx).await else { panic!("it is not") };
}
