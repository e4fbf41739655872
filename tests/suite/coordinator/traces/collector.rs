//! A collector of OpenTelemetry in this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1 as wire;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A span, whoever made it.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) trace: String,
    pub(super) id: String,
    /// Empty if it has none.
    pub(super) parent: String,
    pub(super) name: String,
    pub(super) attributes: HashMap<String, String>,
    pub(super) links: Vec<(String, String)>,
    /// Start and end, in nanoseconds.
    pub(super) times: (u64, u64),
    pub(super) failed: bool,
}

impl Span {
    pub(super) fn has(&self, key: &str, value: &str) -> bool {
        self.attributes.get(key).is_some_and(|found| found == value)
    }
}

/// Behaviour of a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// It takes a request, and never answers.
    Hangs,
    /// It answers each with an error.
    Fails,
    /// It takes a request, and none of its spans.
    Refuses,
}

/// The collector, and the exporter of participants. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    mood: Mood,
    spans: Arc<Mutex<Vec<Span>>>,
    requests: Arc<AtomicUsize>,
}

impl Collector {
    pub(super) fn new(mood: Mood) -> Self {
        Self { mood, spans: Arc::default(), requests: Arc::default() }
    }

    /// Serves it on a free port, and returns the address.
    pub(super) async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(self.clone());
        let incoming = TcpIncoming::from(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        format!("http://{address}")
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many requests have come.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub(super) fn add(&self, spans: impl IntoIterator<Item = Span>) {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
    }
}

/// Serves what is no collector: it answers everything with the same bytes.
pub(super) async fn serve_garbage() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut taken = [0; 1024];
                while stream.read(&mut taken).await.is_ok_and(|count| count > 0) {
                    if stream.write_all(&[0xAB; 4096]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("http://{address}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_wire(span: wire::Span) -> Span {
    let text = |value: any_value::Value| match value {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::BoolValue(flag) => flag.to_string(),
        other => panic!("{other:?}"),
    };
    let attributes = span.attributes.into_iter().map(|attribute| {
        (attribute.key, text(attribute.value.and_then(|value| value.value).unwrap()))
    });
    let links = span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id)));
    assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
    assert!(span.start_time_unix_nano > 0 && span.start_time_unix_nano <= span.end_time_unix_nano);
    Span {
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        name: span.name,
        attributes: attributes.collect(),
        links: links.collect(),
        times: (span.start_time_unix_nano, span.end_time_unix_nano),
        failed: span.status.is_some_and(|status| status.code == 2),
    }
}

pub(super) fn spans_of(request: ExportTraceServiceRequest) -> Vec<Span> {
    let scopes = request.resource_spans.into_iter().flat_map(|of| of.scope_spans);
    scopes.flat_map(|of| of.spans).map(of_wire).collect()
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let spans = spans_of(request.into_inner());
        let partial_success = match self.mood {
            Mood::Well => {
                self.add(spans);
                None
            }
            Mood::Hangs => std::future::pending().await,
            Mood::Fails => return Err(Status::internal("x".repeat(5000))),
            Mood::Refuses => Some(ExportTracePartialSuccess {
                rejected_spans: i64::try_from(spans.len()).unwrap(),
                error_message: "y".repeat(5000),
            }),
        };
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

/// Spans of participants, which their processes send to the collector by themselves.
impl SpanExporter for Collector {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let since = |at: std::time::SystemTime| {
            u64::try_from(at.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()).unwrap()
        };
        self.add(batch.into_iter().map(|span| {
            let parent = span.parent_span_id.to_string();
            let attributes =
                span.attributes.iter().map(|a| (a.key.to_string(), a.value.to_string()));
            Span {
                trace: span.span_context.trace_id().to_string(),
                id: span.span_context.span_id().to_string(),
                parent: if parent == "0000000000000000" { String::new() } else { parent },
                name: span.name.to_string(),
                attributes: attributes.collect(),
                links: Vec::new(),
                times: (since(span.start_time), since(span.end_time)),
                failed: false,
            }
        }));
        Ok(())
    }
}
