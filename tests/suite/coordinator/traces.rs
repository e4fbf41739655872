//! Traces of transactions, as a collector of OpenTelemetry gets them.

mod collector;
mod in_python;
mod over_http;

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use sqlx::{Connection, PgConnection, SqliteConnection};
use tonic::Request;
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;
use unanimo_coordinator::Builder;
use unanimo_coordinator::config::Config;
use unanimo_proto::v1::{Outcome, WaitFor};
use unanimo_sdk::{Call, Participant, PhaseTwoError, PrepareError, Serve, Serving, Sqlite, Tcc};
use unanimo_tests::alarms::hear;
use unanimo_tests::postgres::Server;
use unanimo_tests::relay::Relay;
use unanimo_tests::wait::until;

use self::collector::{Collector, Mood, Span, serve_garbage};
use super::scrapes::value;
use super::{World, branch, config, sqlite_url, tcc};
use crate::participant::databases::Database;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn traced(endpoint: &str) -> Config {
    Config { otlp_endpoint: endpoint.to_owned(), ..config(&sqlite_url()) }
}

/// A participant's work, which fails so often at first.
struct Work {
    fails: AtomicU32,
}

impl Tcc<Sqlite> for Work {
    type Payload = bytes::Bytes;
    type Output = ();

    async fn try_(
        &self,
        _: &mut SqliteConnection,
        _: &Call<bytes::Bytes>,
    ) -> Result<(), PrepareError> {
        let left =
            self.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if left.is_ok() { Err(PrepareError::Failed("not now".into())) } else { Ok(()) }
    }

    async fn confirm(
        &self,
        _: &mut SqliteConnection,
        _: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut SqliteConnection,
        _: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

async fn participant(name: &str, fails: u32, coordinator: &str) -> Serving {
    let (database, _pool) = <Sqlite as Database>::open().await;
    let work = Work { fails: AtomicU32::new(fails) };
    let serve = Serve::on("127.0.0.1:0").register_with(coordinator);
    let mut serving =
        Participant::new(name, database).tcc("work", work).serve(serve).await.unwrap();
    serving.registered().await.unwrap();
    serving
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn is_within(span: &Span, above: &Span) -> bool {
    above.times.0 <= span.times.0 && span.times.1 <= above.times.1
}

#[tokio::test]
async fn one_trace_leads_from_the_initiator_to_every_handler() {
    let collector = Collector::new(Mood::Well);
    let config = traced(&collector.serve().await);
    one_trace(collector, config, false).await;
}

/// The initiator's span is above the transaction's, and below that are operations, attempts and the participants'
/// handlers, with the attempt that failed: one trace, without a hole.
///
/// A stop hands over the last spans, unless the collector `is_late`: then the trace is waited for before.
async fn one_trace(collector: Collector, config: Config, is_late: bool) {
    let provider = SdkTracerProvider::builder().with_simple_exporter(collector.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("services"));
    let _guard = hear(tracing_subscriber::registry().with(tracing_subscriber::Layer::with_filter(
        layer,
        tracing_subscriber::filter::filter_fn(|of| {
            of.is_span() && matches!(of.name(), "checkout" | "participant_operation")
        }),
    )));
    let running = Builder::new(config).start().await.unwrap();
    let coordinator = format!("http://{}", running.grpc_address().unwrap());
    let (one, two) =
        (participant("one", 1, &coordinator).await, participant("two", 0, &coordinator).await);
    let client = unanimo_sdk::Client::new(coordinator.as_str()).unwrap();
    let draft = client.tcc("g").branch("a", "one", "work", bytes::Bytes::from("x"));
    let draft = draft.branch("b", "two", "work", bytes::Bytes::from("x")).wait_until_ended();
    let submitted = draft.submit().instrument(tracing::info_span!("checkout")).await.unwrap();
    assert!(submitted.is_committed());
    one.stop().await.unwrap();
    two.stop().await.unwrap();
    if is_late {
        let is_there =
            async || (!named(&collector.spans(), "transaction").is_empty()).then_some(());
        until("the trace", is_there).await;
    }
    running.stop().await.unwrap();

    let all = collector.spans();
    let [initiator] = named(&all, "checkout")[..] else { panic!("{all:#?}") };
    let of_trace: Vec<Span> =
        all.iter().filter(|span| span.trace == initiator.trace).cloned().collect();
    let [transaction] = named(&of_trace, "transaction")[..] else { panic!("{of_trace:#?}") };
    assert_eq!(transaction.parent, initiator.id);
    for (key, value) in
        [("unanimo.gid", "g"), ("unanimo.mode", "tcc"), ("unanimo.outcome", "committed")]
    {
        assert!(transaction.has(key, value), "{key}: {transaction:?}");
    }
    let ids: HashSet<&str> = of_trace.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), of_trace.len(), "every id is one span's");
    let holes: Vec<&Span> = of_trace
        .iter()
        .filter(|span| span.id != initiator.id && !ids.contains(span.parent.as_str()))
        .collect();
    assert!(holes.is_empty(), "{holes:#?}");
    for (operation, rpc, attempts) in [("prepare", "Prepare", 3), ("commit", "Commit", 2)] {
        let operations = named(&of_trace, operation);
        assert_eq!(operations.len(), 2, "{of_trace:#?}");
        assert!(operations.iter().all(|span| span.parent == transaction.id));
        // All of these go by the transaction's clock; handlers by that of their own process.
        assert!(operations.iter().all(|span| is_within(span, transaction)), "{of_trace:#?}");
        let rpc = format!("unanimo.v1.ParticipantService/{rpc}");
        let calls = named(&of_trace, &rpc);
        assert_eq!(calls.len(), attempts, "{of_trace:#?}");
        for call in calls {
            let above = operations.iter().find(|of| of.id == call.parent).expect("an operation");
            assert!(is_within(call, above), "{above:?} {call:?}");
            let below: Vec<_> = of_trace.iter().filter(|span| span.parent == call.id).collect();
            let [handler] = below[..] else { panic!("{below:#?}") };
            assert_eq!(handler.name, "participant_operation");
            assert!(handler.has("operation", operation));
            assert_eq!(call.attributes["unanimo.participant"], handler.attributes["participant"]);
            let is_first =
                call.has("unanimo.attempt", "1") && call.has("unanimo.participant", "one");
            assert_eq!(call.failed, operation == "prepare" && is_first, "{call:?}");
        }
    }
    assert!(!transaction.links.is_empty(), "to the flushes that made it durable");
    for (trace, id) in &transaction.links {
        let flush = all.iter().find(|span| (&span.trace, &span.id) == (trace, id));
        assert_eq!(flush.map(|span| span.name.as_str()), Some("journal flush"), "{all:#?}");
    }
}

/// An incarnation that adopts a transaction goes on with its trace, whose id is the tx_id where the caller has none.
#[tokio::test]
async fn an_adopted_transaction_goes_on_with_its_trace() {
    let collector = Collector::new(Mood::Well);
    let world = World::start(traced(&collector.serve().await)).await;
    world.p.hold(true);
    let result = world.submit(tcc("g", &["ok"])).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    until("the span of the first Prepare", async || {
        (!named(&collector.spans(), "prepare").is_empty()).then_some(())
    })
    .await;
    let world = world.crash_and_restart().await;
    world.p.hold(false);
    world.get_until("g", "its end", |tx| tx.ended_at.is_some()).await;
    let p = world.p.clone();
    world.running.stop().await.unwrap();
    let all = collector.spans();
    let [transaction] = named(&all, "transaction")[..] else { panic!("{all:#?}") };
    assert_eq!(transaction.trace, result.tx_id.replace('-', ""));
    assert!(transaction.parent.is_empty() && transaction.has("unanimo.adopted", "true"));
    for name in ["prepare", "commit"] {
        let [operation] = named(&all, name)[..] else { panic!("{all:#?}") };
        assert_eq!((&operation.trace, &operation.parent), (&transaction.trace, &transaction.id));
    }
    let attempts: HashSet<String> = p.seen().into_iter().map(|seen| seen.traceparent).collect();
    assert_eq!(attempts.len(), p.seen().len(), "each attempt has a span of its own: {attempts:?}");
    let prefix = format!("00-{}-", transaction.trace);
    assert!(
        attempts.iter().all(|of| of.starts_with(&prefix) && of.ends_with("-01")),
        "{attempts:?}"
    );
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The caller says whether its transaction is sampled; where it says nothing, the ratio does. Whatever is decided,
/// participants are told, and log lines name the trace.
#[tokio::test]
async fn sampling_is_the_callers_word_and_lines_name_the_trace() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _guard = hear(subscriber);
    let collector = Collector::new(Mood::Well);
    let mut config = traced(&collector.serve().await);
    config.otlp_sampling = "0".parse().unwrap();
    let world = World::start(config).await;
    let sampled = format!("00-{TRACE}-b7ad6b7169203331-01");
    let unsampled = format!("00-{TRACE}-b7ad6b7169203331-00");
    let mut results = Vec::new();
    for (gid, parent) in
        [("sampled", &*sampled), ("unsampled", &*unsampled), ("alone", ""), ("odd", "no parent")]
    {
        let mut request = tcc(gid, &["ok"]);
        request.wait_for = WaitFor::Ended.into();
        let mut request = Request::new(request);
        if !parent.is_empty() {
            request.metadata_mut().insert("traceparent", parent.parse().unwrap());
        }
        let answer = world.client().submit_transaction(request).await.unwrap();
        results.push(answer.into_inner().result.unwrap());
    }
    let seen = world.p.seen();
    // What the page of a transaction links to.
    let told = [world.get("sampled").await.trace_id, world.get("alone").await.trace_id];
    assert_eq!(told, [TRACE.to_owned(), results[2].tx_id.replace('-', "")]);
    world.running.stop().await.unwrap();
    let parents = |index: usize| -> Vec<&str> {
        let of = seen.iter().filter(|seen| seen.tx_id == results[index].tx_id);
        of.map(|seen| seen.traceparent.as_str()).collect()
    };
    let of_sampled = parents(0);
    assert!(
        of_sampled.iter().all(|of| of.starts_with(&format!("00-{TRACE}-")) && **of != *sampled)
    );
    assert!(of_sampled.iter().all(|of| of.ends_with("-01")), "{of_sampled:?}");
    assert_eq!(parents(1), [&*unsampled; 2], "as it came");
    for index in [2, 3] {
        let own = format!("00-{}-", results[index].tx_id.replace('-', ""));
        let told = parents(index);
        assert!(told.iter().all(|of| of.starts_with(&own) && of.ends_with("-00")), "{told:?}");
    }
    let spans = collector.spans();
    assert!(
        spans.iter().any(|span| span.name == "transaction" && span.has("unanimo.gid", "sampled"))
    );
    assert!(
        spans.iter().all(|span| span.trace == TRACE || span.name == "journal flush"),
        "{spans:#?}"
    );
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for (gid, trace) in [
        ("sampled", TRACE.to_owned()),
        ("unsampled", TRACE.to_owned()),
        ("alone", results[2].tx_id.replace('-', "")),
    ] {
        let line = text.lines().find(|line| {
            line.contains("a transaction has ended") && line.contains(&format!("gid={gid} "))
        });
        let line = line.unwrap_or_else(|| panic!("{gid}: {text}"));
        assert!(line.contains(&format!("trace_id=\"{trace}\"")), "{line}");
    }
}

/// Whatever the collector does, transactions go on, spans are dropped and counted, and the coordinator stops.
#[tokio::test]
async fn no_collector_holds_a_transaction_up() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let hanging = Collector::new(Mood::Hangs);
    let endpoints = [
        hanging.serve().await,
        Collector::new(Mood::Fails).serve().await,
        Collector::new(Mood::Refuses).serve().await,
        serve_garbage().await,
        closed,
    ];
    for endpoint in endpoints {
        let mut config = traced(&endpoint);
        config.branches_max = 64;
        let world = World::start(config).await;
        // More spans than are sent and wait while one request hangs: 257 each.
        for number in 0..24 {
            let mut request = tcc(&format!("g{number}"), &[]);
            request.branches = (0..64).map(|n| branch(&format!("b{n}"), "ok")).collect();
            request.wait_for = WaitFor::Ended.into();
            let result = world.submit(request).await.unwrap();
            assert_eq!(result.outcome(), Outcome::Committed, "{endpoint}");
            assert!(result.ended, "{endpoint}");
        }
        until("spans to be dropped", async || {
            value(&world, "unanimo_spans_dropped_total").await.filter(|dropped| *dropped > 0.0)
        })
        .await;
        let before = hanging.requests();
        world.running.stop().await.unwrap();
        // Each hangs for five seconds, and what waits is eight of them.
        let more = hanging.requests() - before;
        assert!(more <= 2, "the stop has waited for {more} requests to a collector that hangs");
    }
    assert!(hanging.requests() > 0);
}

/// L2: a successor does not wait for a collector that hangs. The right to write is given up before the last spans are sent.
#[tokio::test]
async fn l2_a_hanging_collector_holds_no_successor_up() {
    let collector = Collector::new(Mood::Hangs);
    let url = Server::shared().database().await;
    let config = Config { otlp_endpoint: collector.serve().await, ..config(&url) };
    let world = World::start(config).await;
    // A request that hangs, and spans of the next one.
    for gid in ["g", "h"] {
        let mut request = tcc(gid, &["ok"]);
        request.wait_for = WaitFor::Ended.into();
        assert!(world.submit(request).await.unwrap().ended);
        until("a request", async || (collector.requests() > 0).then_some(())).await;
    }
    let mut raw = PgConnection::connect(&url).await.unwrap();
    let stopping = tokio::spawn(world.running.stop());
    until("the right to write to be given up", async || {
        let fenced = sqlx::query_scalar::<_, bool>("SELECT bool_or(fenced) FROM unanimo.fences");
        fenced.fetch_one(&mut raw).await.unwrap().then_some(())
    })
    .await;
    // Without the collector nothing is left to wait for.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!stopping.is_finished(), "it has waited for the collector before");
    stopping.await.unwrap().unwrap();
}

/// A collector that vanishes without a word, as a machine does that loses its power, is found out, and the next one has the
/// spans that come then.
#[tokio::test]
async fn a_collector_that_fell_silent_is_found_out() {
    let (collector, relay) = (Collector::new(Mood::Well), Relay::start().await);
    let address = collector.serve().await.strip_prefix("http://").unwrap().parse().unwrap();
    relay.point_to(Some(address));
    let world = World::start(traced(&relay.url())).await;
    let submit = async |gid: &str| {
        let mut request = tcc(gid, &["ok"]);
        request.wait_for = WaitFor::Ended.into();
        assert!(world.submit(request).await.unwrap().ended);
    };
    submit("before").await;
    until("its spans", async || (!collector.spans().is_empty()).then_some(())).await;
    relay.fall_silent();
    let silent = collector.requests();
    let mut number = 0;
    until("spans that get through", async || {
        number += 1;
        submit(&format!("g{number}")).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        (collector.requests() > silent).then_some(())
    })
    .await;
    world.running.stop().await.unwrap();
}
