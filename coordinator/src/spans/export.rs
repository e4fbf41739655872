//! The way to a collector: OTLP over gRPC or HTTP, in batches, and never for longer than a few seconds each.

mod headers;
mod web;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{self as wire, ResourceSpans, ScopeSpans, Status};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Code;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

pub(crate) use self::headers::Headers;
use self::web::Web;
use super::{Kind, Span, Value};
use crate::metrics::Metrics;
use crate::wire::status_in_words;

/// Most spans of one request: some hundred kilobytes, where collectors take 4 MiB.
const BATCH_MAX: usize = 512;

/// Time for which a batch gathers.
const GATHER: Duration = Duration::from_millis(200);

/// Longest wait for the collector's answer, and for a connection.
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// Silence of a collector after which it is asked whether it is there, and the wait for its answer. It is asked only while a
/// batch is under way: many collectors end connections that are asked for nothing.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts to send a batch to a collector that says that it is not there, or not now.
const ATTEMPTS_MAX: u32 = 3;

/// Pause between them.
const PAUSE: Duration = Duration::from_secs(1);

/// Most bytes of an answer, and of its headers.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// Most bytes of the collector's words in a log line.
const WORDS_BYTES_MAX: usize = 300;

/// Between two log lines about spans that are lost.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Protocol of a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    /// HTTP/1.1 with bodies of protobuf.
    Http,
}

/// A collector, and what it is told of this process.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    /// `http://HOST:PORT` or `https://HOST:PORT`; over HTTP with a path, if it has one.
    pub(crate) url: String,
    pub(crate) protocol: Protocol,
    /// Headers of each request.
    pub(crate) headers: Headers,
    pub(crate) tls: unanimo_tls::Client,
    /// Name of the node.
    pub(crate) node: String,
}

impl Collector {
    fn way(&self) -> Result<Way, unanimo_tls::Error> {
        Ok(match self.protocol {
            Protocol::Grpc => Way::Grpc(
                TraceServiceClient::new(self.channel()?)
                    .max_decoding_message_size(ANSWER_BYTES_MAX),
            ),
            Protocol::Http => Way::Http(Web::new(&self.url, &self.tls)),
        })
    }

    fn channel(&self) -> Result<Channel, unanimo_tls::Error> {
        let bounded = |endpoint: Endpoint| {
            endpoint
                .connect_timeout(CONNECT_PATIENCE)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .http2_max_header_list_size(HEADERS_BYTES_MAX)
        };
        if self.url.starts_with("https://") {
            return self.tls.lazy(&self.url, bounded);
        }
        let bad = |_| unanimo_tls::Error::Address { url: self.url.clone() };
        Ok(bounded(Endpoint::from_shared(self.url.clone()).map_err(bad)?).connect_lazy())
    }

    fn resource(&self) -> Resource {
        let attributes = [
            ("service.name", "unanimo"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", &self.node),
        ];
        let attributes =
            attributes.map(|(key, text)| attribute(key, Value::Text(text.to_owned()))).into();
        Resource { attributes, ..Resource::default() }
    }
}

/// Sends spans until nobody makes any more.
///
/// # Errors
/// The address is none.
pub(crate) fn collect(
    collector: &Collector,
    waiting: mpsc::Receiver<Span>,
    metrics: Arc<Metrics>,
) -> Result<impl Future<Output = ()> + Send + 'static, unanimo_tls::Error> {
    let (way, headers) = (collector.way()?, collector.headers.clone());
    let told = Told { dropped: 0, last: String::new(), at: None };
    let exporter =
        Exporter { way, headers, waiting, resource: collector.resource(), metrics, told };
    Ok(exporter.run())
}

/// Way to a collector.
#[expect(clippy::large_enum_variant, reason = "there is one")]
enum Way {
    Grpc(TraceServiceClient<Channel>),
    Http(Web),
}

/// Batch that the collector has not taken.
struct NotTaken {
    why: String,
    /// Pause after which it may take it; none if it never will.
    again: Option<Duration>,
}

impl Way {
    /// Sends a batch once.
    async fn send(
        &mut self,
        batch: &ExportTraceServiceRequest,
        headers: &Headers,
    ) -> Result<ExportTraceServiceResponse, NotTaken> {
        let client = match self {
            Self::Http(web) => return web.send(batch, headers).await,
            Self::Grpc(client) => client,
        };
        let mut request = tonic::Request::new(batch.clone());
        *request.metadata_mut() = MetadataMap::from_headers((*headers.current()).clone());
        request.set_timeout(PATIENCE);
        let sent = tokio::time::timeout(PATIENCE, client.export(request)).await;
        let sent = sent.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer")));
        sent.map(tonic::Response::into_inner).map_err(|status| NotTaken {
            again: (status.code() == Code::Unavailable).then_some(PAUSE),
            why: status_in_words(&status, WORDS_BYTES_MAX),
        })
    }
}

struct Exporter {
    way: Way,
    headers: Headers,
    waiting: mpsc::Receiver<Span>,
    resource: Resource,
    metrics: Arc<Metrics>,
    told: Told,
}

/// Spans that were lost, as far as they were told.
struct Told {
    /// Count of the metric at the last line.
    dropped: u64,
    /// Reason of the last loss.
    last: String,
    at: Option<Instant>,
}

impl Exporter {
    async fn run(mut self) {
        let mut batch = Vec::new();
        while self.waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
            self.gather(&mut batch).await;
            let spans = std::mem::take(&mut batch);
            let count = spans.len() as u64;
            match self.export(spans).await {
                Ok(refused) => self.lost(refused.0, &refused.1),
                Err(why) => self.lost(count, &why),
            }
            self.tell();
        }
    }

    /// Takes what comes within a moment.
    async fn gather(&mut self, batch: &mut Vec<Span>) {
        let gathered = tokio::time::sleep(GATHER);
        tokio::pin!(gathered);
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            tokio::select! {
                received = self.waiting.recv_many(batch, room) => if received == 0 { return },
                () = &mut gathered => return,
            }
        }
    }

    /// Sends a batch, and returns how many spans of it the collector refuses, and why.
    async fn export(&mut self, spans: Vec<Span>) -> Result<(u64, String), String> {
        let scope = InstrumentationScope { name: "unanimo".to_owned(), ..Default::default() };
        let spans = spans.into_iter().map(to_wire).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..Default::default() }];
        let resource = Some(self.resource.clone());
        let resource_spans = vec![ResourceSpans { resource, scope_spans, ..Default::default() }];
        let request = ExportTraceServiceRequest { resource_spans };
        let mut attempt = 1;
        loop {
            match self.way.send(&request, &self.headers).await {
                Ok(answer) => {
                    let refused = answer.partial_success.unwrap_or_default();
                    let count = u64::try_from(refused.rejected_spans).unwrap_or(0);
                    return Ok((count, clipped(refused.error_message)));
                }
                Err(NotTaken { again: Some(pause), .. }) if attempt < ATTEMPTS_MAX => {
                    attempt += 1;
                    tokio::time::sleep(pause).await;
                }
                Err(NotTaken { why, .. }) => return Err(why),
            }
        }
    }

    fn lost(&mut self, count: u64, why: &str) {
        if count > 0 {
            self.metrics.spans_dropped(count);
            why.clone_into(&mut self.told.last);
        }
    }

    /// Logs that spans were lost, once a minute.
    fn tell(&mut self) {
        let all = self.metrics.count_spans_dropped();
        let told = &mut self.told;
        let is_time = told.at.is_none_or(|at| at.elapsed() >= TOLD_EVERY);
        if all <= told.dropped || !is_time {
            return;
        }
        let (dropped, error) = (all - told.dropped, std::mem::take(&mut told.last));
        let error = if error.is_empty() { "it is slower than they come".to_owned() } else { error };
        tracing::warn!(
            dropped,
            error,
            "spans were dropped, because the collector at otlp-endpoint did not take them; transactions go on"
        );
        (told.dropped, told.at) = (all, Some(Instant::now()));
    }
}

fn clipped(mut words: String) -> String {
    words.truncate(words.floor_char_boundary(WORDS_BYTES_MAX));
    words
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(text),
        Value::Number(number) => any_value::Value::IntValue(number),
        Value::Flag(flag) => any_value::Value::BoolValue(flag),
    };
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.to_owned(), value, ..Default::default() }
}

fn to_wire(span: Span) -> wire::Span {
    let kind = match span.kind {
        Kind::Internal => SpanKind::Internal,
        Kind::Client => SpanKind::Client,
    };
    let status = span.error.map(|message| Status { message, code: StatusCode::Error.into() });
    let event = |(name, at): (&str, u64)| Event {
        time_unix_nano: at,
        name: name.to_owned(),
        ..Event::default()
    };
    let link = |(trace, span): (super::TraceId, super::SpanId)| Link {
        trace_id: trace.0.to_vec(),
        span_id: span.0.to_vec(),
        ..Link::default()
    };
    wire::Span {
        trace_id: span.trace_id.0.to_vec(),
        span_id: span.span_id.0.to_vec(),
        parent_span_id: span.parent.map(|id| id.0.to_vec()).unwrap_or_default(),
        trace_state: span.state.as_deref().unwrap_or_default().to_owned(),
        // Sampled.
        flags: 1,
        name: span.name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: span.start,
        end_time_unix_nano: span.end.max(span.start),
        attributes: span.attributes.into_iter().map(|(key, value)| attribute(key, value)).collect(),
        events: span.events.into_iter().map(event).collect(),
        links: span.links.into_iter().map(link).collect(),
        status,
        ..wire::Span::default()
    }
}
