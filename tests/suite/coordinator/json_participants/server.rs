//! A participant that is called over HTTP with JSON, and answers wrong where a test says so.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, Response};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::Status;
use unanimo_proto::v1::participant_service_server::ParticipantService;

/// A response in the place of the participant's own.
#[derive(Clone, Debug)]
pub(crate) struct Wrong {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) location: &'static str,
    pub(crate) body: &'static str,
}

#[derive(Clone)]
pub(crate) struct JsonServer {
    participant: Arc<dyn ParticipantService>,
    /// Answered first, after the participant has done what it was asked for.
    wrong: Arc<Mutex<VecDeque<Wrong>>>,
    headers: Arc<Mutex<Vec<HeaderMap>>>,
    /// Ports from which requests came.
    ports: Arc<Mutex<Vec<u16>>>,
}

impl JsonServer {
    /// Serves it on a free port, and returns the endpoint.
    pub(crate) async fn serve(participant: &(impl ParticipantService + Clone)) -> (Self, String) {
        let server = Self {
            participant: Arc::new(participant.clone()),
            wrong: Arc::default(),
            headers: Arc::default(),
            ports: Arc::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(server.clone());
        let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        (server, format!("http+json://{address}/unanimo/v1"))
    }

    pub(crate) fn answer_wrong(&self, wrong: impl IntoIterator<Item = Wrong>) {
        self.wrong.lock().unwrap().extend(wrong);
    }

    /// Answers nothing wrong any more.
    pub(crate) fn answer_right(&self) {
        self.wrong.lock().unwrap().clear();
    }

    pub(crate) fn headers(&self) -> Vec<HeaderMap> {
        self.headers.lock().unwrap().clone()
    }

    /// Counts the connections on which requests came.
    pub(crate) fn connections(&self) -> usize {
        let mut ports = self.ports.lock().unwrap().clone();
        ports.sort_unstable();
        ports.dedup();
        ports.len()
    }

    async fn call(&self, path: &str, headers: HeaderMap, body: &[u8]) -> Result<Vec<u8>, Status> {
        let metadata = tonic::metadata::MetadataMap::from_headers(headers);
        let with = |message: DynamicMessage| (metadata, message);
        match path {
            "/unanimo/v1/prepare" => {
                let (metadata, message) = with(read("PrepareRequest", body)?);
                let mut request = tonic::Request::new(message.transcode_to().unwrap());
                *request.metadata_mut() = metadata;
                write("PrepareResponse", &self.participant.prepare(request).await?.into_inner())
            }
            "/unanimo/v1/commit" => {
                let (metadata, message) = with(read("CommitRequest", body)?);
                let mut request = tonic::Request::new(message.transcode_to().unwrap());
                *request.metadata_mut() = metadata;
                write("CommitResponse", &self.participant.commit(request).await?.into_inner())
            }
            "/unanimo/v1/cancel" => {
                let (metadata, message) = with(read("CancelRequest", body)?);
                let mut request = tonic::Request::new(message.transcode_to().unwrap());
                *request.metadata_mut() = metadata;
                write("CancelResponse", &self.participant.cancel(request).await?.into_inner())
            }
            path => Err(Status::unimplemented(format!("no {path}"))),
        }
    }
}

fn descriptor(name: &str) -> prost_reflect::MessageDescriptor {
    let pool = DescriptorPool::decode(unanimo_proto::FILE_DESCRIPTOR_SET).unwrap();
    pool.get_message_by_name(&format!("unanimo.v1.{name}")).unwrap()
}

fn read(name: &str, body: &[u8]) -> Result<DynamicMessage, Status> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    DynamicMessage::deserialize(descriptor(name), &mut reader)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

fn write(name: &str, message: &impl Message) -> Result<Vec<u8>, Status> {
    let bytes = message.encode_to_vec();
    let message = DynamicMessage::decode(descriptor(name), bytes.as_slice()).unwrap();
    Ok(serde_json::to_vec(&message).unwrap())
}

async fn answer(State(server): State<JsonServer>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    assert_eq!(head.method, Method::POST);
    assert_eq!(head.headers["content-type"], "application/json");
    server.headers.lock().unwrap().push(head.headers.clone());
    let peer = head.extensions.get::<axum::extract::ConnectInfo<std::net::SocketAddr>>();
    server.ports.lock().unwrap().push(peer.unwrap().0.port());
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let answered = server.call(head.uri.path(), head.headers, &body).await;
    if let Some(wrong) = server.wrong.lock().unwrap().pop_front() {
        return response(wrong.status, wrong.content_type, wrong.location, wrong.body);
    }
    match answered {
        Ok(json) => response(200, "application/json", "", json),
        Err(status) => {
            let name = unanimo_coordinator::api::error::code_name(status.code());
            let problem = serde_json::json!({"code": name, "detail": status.message()});
            response(500, "application/problem+json", "", problem.to_string())
        }
    }
}

fn response(status: u16, kind: &str, location: &str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in [("content-type", kind), ("location", location)] {
        if !value.is_empty() {
            response = response.header(name, value);
        }
    }
    response.body(body.into()).unwrap()
}
