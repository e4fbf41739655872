//! The description of a participant over HTTP, held against what really goes there and comes back.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use serde_json::{Value, json};
use tonic::Request;
use unanimo_proto::over_http::{self, Call};
use unanimo_proto::v1::{
    BranchContext, CancelRequest, CommitRequest, Mode, Payload, PrepareRequest,
};
use unanimo_tests::schema::wrong;

use super::{NodeShop, STOCK, Uuid};
use crate::coordinator::http::{Reply, http_call};

/// Returns the description that is published.
fn description() -> Value {
    serde_json::from_str(include_str!("../../../docs/reference/participant-openapi.json")).unwrap()
}

/// Schema of a request, or of the answer with this status.
fn schema(description: &Value, call: &str, status: Option<u16>) -> Value {
    let post = &description["paths"][format!("/{call}")]["post"];
    let found = match status {
        None => &post["requestBody"]["content"]["application/json"],
        Some(200) => &post["responses"]["200"]["content"]["application/json"],
        Some(_) => {
            assert_eq!(post["responses"]["default"]["$ref"], "#/components/responses/Problem");
            let problem = &description["components"]["responses"]["Problem"];
            &problem["content"]["application/problem+json"]
        }
    };
    found["schema"].clone()
}

fn payload(text: &str) -> Payload {
    Payload { data: text.to_owned().into_bytes().into(), media_type: "application/json".into() }
}

fn context() -> BranchContext {
    BranchContext {
        tx_id: Uuid::now_v7().to_string(),
        gid: "g".into(),
        branch_id: "b".into(),
        branch_number: 1,
        cluster_id: "c".into(),
        participant: "node-shop".into(),
        mode: Mode::Tcc.into(),
        ..Default::default()
    }
}

/// Body of a call, as a coordinator sends it.
fn body<C: Call>(message: C) -> Value {
    let request = over_http::request("http://127.0.0.1:1", Request::new(message)).unwrap();
    serde_json::from_slice(request.body()).unwrap()
}

/// Each field of each request is described, with its type; and nothing is described that is none.
#[test]
fn every_field_that_a_coordinator_sends_is_described() {
    let description = description();
    assert_eq!(description["openapi"], "3.1.0");
    let at = Some(prost_types::Timestamp { seconds: 1, nanos: 5 });
    let of_context = BranchContext { database_id: "d".into(), ..context() };
    let metadata: HashMap<String, String> = [("tenant".to_owned(), "blue".to_owned())].into();
    let inputs: HashMap<String, Payload> = [("customer".to_owned(), payload("7"))].into();
    let requires = vec!["tcc".to_owned()];
    let prepare = PrepareRequest {
        context: Some(of_context.clone()),
        action: "reserve".into(),
        payload: Some(payload("1")),
        prepare_until: at,
        metadata: metadata.clone(),
        attempt: 1,
        requires: requires.clone(),
        must_succeed: true,
        inputs: inputs.clone(),
        output_bytes_max: Some(1 << 40),
    };
    let commit = CommitRequest {
        context: Some(of_context.clone()),
        action: "reserve".into(),
        payload: Some(payload("1")),
        output: Some(payload("2")),
        metadata: metadata.clone(),
        attempt: 1,
        requires: requires.clone(),
        inputs: inputs.clone(),
    };
    let cancel = CancelRequest {
        context: Some(of_context),
        action: "reserve".into(),
        payload: Some(payload("1")),
        output: Some(payload("2")),
        metadata,
        attempt: 1,
        prepare_until: at,
        requires,
        inputs,
    };
    for (call, body) in
        [("prepare", body(prepare)), ("commit", body(commit)), ("cancel", body(cancel))]
    {
        let schema = schema(&description, call, None);
        assert_eq!(wrong(&description, &schema, &body), [""; 0], "{call}: {body}");
        let named = schema["$ref"].as_str().unwrap().strip_prefix('#').unwrap();
        let described = description.pointer(named).unwrap()["properties"].as_object().unwrap();
        let described: BTreeSet<_> = described.keys().collect();
        let sent: BTreeSet<_> = body.as_object().unwrap().keys().collect();
        assert_eq!(sent, described, "{call}");
    }
}

/// The example in Node answers what is described: votes, ends, and what is no answer.
#[tokio::test]
async fn what_a_shop_in_node_answers_is_described() {
    let description = description();
    // It is called by hand: there is no coordinator.
    let node = NodeShop::start(([127, 0, 0, 1], 1).into(), &[]);
    let endpoint = node.endpoint().await;
    let address = endpoint.strip_prefix("http+json://").unwrap().strip_suffix("/tx").unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let (order, too_many) =
        (payload(r#"{"item":"lamp","pieces":2}"#), payload(r#"{"item":"lamp","pieces":99999}"#));
    let (kept, refused, undone) = (context(), context(), context());
    let prepare = |context: &BranchContext, payload: &Payload| {
        let (context, payload) = (Some(context.clone()), Some(payload.clone()));
        let message =
            PrepareRequest { context, payload, action: "reserve".into(), ..Default::default() };
        ("prepare", body(message))
    };
    let commit = |context: &BranchContext| {
        let (context, payload) = (Some(context.clone()), Some(order.clone()));
        let message =
            CommitRequest { context, payload, action: "reserve".into(), ..Default::default() };
        ("commit", body(message))
    };
    let cancel = |context: &BranchContext| {
        let (context, payload) = (Some(context.clone()), Some(order.clone()));
        let message =
            CancelRequest { context, payload, action: "reserve".into(), ..Default::default() };
        ("cancel", body(message))
    };
    for ((call, body), status, answered) in [
        (prepare(&kept, &order), 200, "prepared"),
        (prepare(&refused, &too_many), 200, "refused"),
        (prepare(&undone, &order), 200, "prepared"),
        (commit(&kept), 200, "done"),
        (cancel(&undone), 200, "done"),
        (commit(&undone), 200, "heuristic"),
        (("commit", json!({"context": {}})), 400, "detail"),
        (("cancel", json!(7)), 400, "detail"),
    ] {
        let json = [("content-type", "application/json")];
        let path = format!("/tx/{call}");
        let reply: Reply =
            http_call(address, "POST", &path, &json, body.to_string().as_bytes()).await;
        assert_eq!(reply.code, status, "{call} {body}: {reply:?}");
        let answer: Value = serde_json::from_str(&reply.body).unwrap();
        assert!(!answer[answered].is_null(), "{call} {body}: {answer}");
        let mut shown = answer.clone();
        // Of a problem any field may be there; these are of RFC 9457.
        if status != 200 {
            shown.as_object_mut().unwrap().remove("status");
        }
        let schema = schema(&description, call, Some(status));
        assert_eq!(wrong(&description, &schema, &shown), [""; 0], "{call}: {answer}");
    }
    assert_eq!(node.stock().await, (STOCK - 2, 0));
}
