//! The trace of a transaction with the example participant in Python: its handlers are below the attempts that called them.

use std::collections::{HashMap, HashSet};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use unanimo_coordinator::Builder;
use unanimo_sdk::{Client, Json};
use unanimo_tests::reaper::{Owned, run_folder};
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::collector::{Collector, Mood, Span};
use super::{named, traced};
use crate::python::{python, root, stubs};

async fn take(State(collector): State<Collector>, body: Bytes) {
    let span: Value = serde_json::from_slice(&body).unwrap();
    let text = |key: &str| span[key].as_str().unwrap().to_owned();
    collector.add([Span {
        trace: text("trace"),
        id: text("id"),
        parent: text("parent"),
        name: text("name"),
        attributes: HashMap::new(),
        links: Vec::new(),
        times: (0, 0),
        failed: false,
    }]);
}

/// Serves the collector to programs without a library of OpenTelemetry, and returns the address.
async fn serve(collector: &Collector) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/", post(take)).with_state(collector.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

#[tokio::test]
async fn a_handler_in_python_is_below_the_attempt_that_called_it() {
    let collector = Collector::new(Mood::Well);
    let running = Builder::new(traced(&collector.serve().await)).start().await.unwrap();
    let url = format!("http://{}", running.grpc_address().unwrap());
    let log = run_folder().join(Uuid::new_v4().to_string());
    let mut command = python();
    let examples = root().join("examples/python-participant");
    let path = format!("{}:{}", stubs().display(), examples.display());
    command
        .arg(root().join("tests/suite/coordinator/traces/in_python.py"))
        .args(["--coordinator", &url, "--item", "lamp=10", "--database"])
        .arg(log.with_extension("db"))
        .env("PYTHONPATH", path)
        .env("COLLECTOR", serve(&collector).await)
        .stdout(std::fs::File::create(log.with_extension("out")).unwrap())
        .stderr(std::fs::File::create(&log).unwrap());
    let _shop = Owned::spawn(&mut command);

    let client = Client::new(url.as_str()).unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    let gid = until("a transaction with the shop in Python", async || {
        let gid = format!("g-{}", Uuid::new_v4());
        let lamps = Json(serde_json::json!({"item": "lamp", "pieces": 1}));
        let draft = client.tcc(&gid).branch("a", "py-shop", "reserve", lamps).wait_until_ended();
        // Until it is registered nobody is asked.
        let outcome = draft.submit().await.ok()?;
        assert!(outcome.is_committed(), "{outcome:?}\n{}", said());
        Some(gid)
    })
    .await;
    running.stop().await.unwrap();

    let all = collector.spans();
    let is_its = |span: &&&Span| span.has("unanimo.gid", &gid);
    let transactions = named(&all, "transaction");
    let transaction = transactions.iter().find(is_its).expect("the transaction's span");
    let of_trace: Vec<&Span> = all.iter().filter(|span| span.trace == transaction.trace).collect();
    let ids: HashSet<&str> = of_trace.iter().map(|span| span.id.as_str()).collect();
    let holes = of_trace.iter().filter(|span| span.id != transaction.id);
    let holes: Vec<_> = holes.filter(|span| !ids.contains(span.parent.as_str())).collect();
    assert!(holes.is_empty(), "{holes:#?}");
    for (rpc, handler, attempts) in [("Prepare", "try_", 2), ("Commit", "confirm", 1)] {
        let rpc = format!("unanimo.v1.ParticipantService/{rpc}");
        let calls: Vec<_> = of_trace.iter().filter(|span| span.name == rpc).collect();
        assert_eq!(calls.len(), attempts, "{of_trace:#?}");
        for call in calls {
            let below: Vec<_> = of_trace.iter().filter(|span| span.parent == call.id).collect();
            let [only] = below[..] else { panic!("{below:#?}\n{}", said()) };
            assert_eq!(only.name, format!("handler {handler}"));
            assert_eq!(
                call.failed,
                handler == "try_" && call.has("unanimo.attempt", "1"),
                "{call:?}"
            );
        }
    }
    let handlers = all.iter().filter(|span| span.name.starts_with("handler "));
    assert_eq!(handlers.count(), 3, "each is in the trace: {all:#?}");
}
