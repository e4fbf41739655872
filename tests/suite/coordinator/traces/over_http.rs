//! Spans that go to their collector over HTTP.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use tokio::net::TcpListener;
use unanimo_coordinator::config::{Config, OtlpProtocol};
use unanimo_proto::v1::Outcome;
use unanimo_tests::reaper::run_folder;
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::collector::{Collector, Mood, spans_of};
use super::{one_trace, traced};
use crate::coordinator::scrapes::value;
use crate::coordinator::{World, tcc};

/// Answer of a collector: a status, and seconds of `Retry-After`.
#[derive(Clone, Copy)]
enum Says {
    Status(u16, Option<&'static str>),
    /// It takes the request without three spans.
    Partly,
    Garbage,
    /// It takes the request, and never answers.
    Nothing,
}

/// A collector over HTTP, which answers these first, and then takes everything.
#[derive(Clone)]
struct Web {
    collector: Collector,
    first: Arc<Mutex<VecDeque<Says>>>,
    /// Value of the header `api-key`, and the time of each request.
    asked: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Web {
    fn new(first: &[Says]) -> Self {
        let first = Arc::new(Mutex::new(first.iter().copied().collect()));
        Self { collector: Collector::new(Mood::Well), first, asked: Arc::default() }
    }

    /// Serves it, and returns the address.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/otlp", listener.local_addr().unwrap());
        let router = Router::new().route("/otlp/v1/traces", post(take)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    async fn config(&self) -> Config {
        Config { otlp_protocol: OtlpProtocol::Http, ..traced(&self.serve().await) }
    }
}

async fn take(State(web): State<Web>, headers: HeaderMap, body: Bytes) -> Response {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let key = headers.get("api-key").map(|value| value.to_str().unwrap().to_owned());
    web.asked.lock().unwrap().push((key.unwrap_or_default(), Instant::now()));
    let spans = spans_of(ExportTraceServiceRequest::decode(body).unwrap());
    let first = web.first.lock().unwrap().pop_front();
    let answer = match first {
        Some(Says::Status(status, after)) => {
            let mut headers = HeaderMap::new();
            if let Some(seconds) = after {
                headers.insert("retry-after", HeaderValue::from_static(seconds));
            }
            let status = StatusCode::from_u16(status).unwrap();
            return (status, headers, "not now").into_response();
        }
        Some(Says::Nothing) => std::future::pending().await,
        Some(Says::Garbage) => return "<html>".into_response(),
        Some(Says::Partly) => Some(ExportTracePartialSuccess {
            rejected_spans: 3,
            error_message: "three are too old".to_owned(),
        }),
        None => None,
    };
    web.collector.add(spans);
    ExportTraceServiceResponse { partial_success: answer }.encode_to_vec().into_response()
}

/// The collector is busy at first: the same batch comes again, and no span of the trace is lost.
#[tokio::test]
async fn one_trace_comes_whole_over_http() {
    let web = Web::new(&[Says::Status(503, Some("2")), Says::Status(429, None)]);
    let config = web.config().await;
    one_trace(web.collector.clone(), config, true).await;
    let asked = web.asked.lock().unwrap();
    assert!(asked.len() >= 3, "{asked:?}");
    assert!(asked[1].1 - asked[0].1 >= Duration::from_secs(2), "it asked for two seconds");
    assert!(asked[2].1 - asked[1].1 >= Duration::from_secs(1), "a second else");
}

async fn commit(world: &World, gid: &str) {
    let result = world.submit(tcc(gid, &["ok"])).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
}

/// A collector that refuses, or a server that is none, costs spans alone, which are counted.
#[tokio::test]
async fn spans_that_are_refused_over_http_are_counted_and_not_sent_again() {
    for (says, lost) in [
        (Says::Partly, 3..=3),
        (Says::Garbage, 1..=99),
        (Says::Status(400, None), 1..=99),
        (Says::Status(302, None), 1..=99),
    ] {
        let web = Web::new(&[says]);
        let world = World::start(web.config().await).await;
        commit(&world, "g").await;
        let dropped = until("spans to be dropped", async || {
            value(&world, "unanimo_spans_dropped_total").await.filter(|dropped| *dropped > 0.0)
        })
        .await;
        assert!(lost.contains(&(dropped as u64)), "{dropped}");
        // What comes next is taken.
        commit(&world, "h").await;
        until("later spans", async || {
            let spans = web.collector.spans();
            spans.iter().any(|span| span.has("unanimo.gid", "h")).then_some(())
        })
        .await;
        assert_eq!(value(&world, "unanimo_spans_dropped_total").await, Some(dropped));
    }
}

/// The key is in each request, the new one after a change, and in no text.
#[tokio::test]
async fn a_collector_gets_the_headers_that_it_demands() {
    let file = run_folder().join(Uuid::new_v4().to_string());
    std::fs::write(&file, "Api-Key = \"first-secret\"\n").unwrap();
    let web = Web::new(&[]);
    let mut config = web.config().await;
    config.otlp_headers_file = file.to_str().unwrap().parse().unwrap();
    let world = World::start(config).await;
    commit(&world, "g").await;
    let key = async |expected: &str| {
        until(expected, async || {
            commit(&world, &Uuid::new_v4().to_string()).await;
            let last = web.asked.lock().unwrap().last().cloned();
            last.filter(|(key, _)| key == expected).map(drop)
        })
        .await;
    };
    key("first-secret").await;
    std::fs::write(&file, "Api-Key = \"second-secret\"\n").unwrap();
    key("second-secret").await;
}

/// A collector that hangs holds up no transaction, and no stop.
#[tokio::test]
async fn a_collector_over_http_that_hangs_holds_nothing_up() {
    let web = Web::new(&[Says::Nothing; 100]);
    let world = World::start(web.config().await).await;
    commit(&world, "g").await;
    until("a batch to be sent", async || (!web.asked.lock().unwrap().is_empty()).then_some(()))
        .await;
    commit(&world, "h").await;
    let begun = Instant::now();
    world.running.stop().await.unwrap();
    // A batch is given up after five seconds alone.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
