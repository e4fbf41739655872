//! The rpcs over HTTP, with JSON by the contract's own mapping.
//!
//! A request becomes one of gRPC and goes through the same services, so that identities, roles, limits,
//! deadlines and errors are the same: nothing is checked a second time here. What only HTTP has is refused here: pages of
//! other sites, other media types, unknown addresses.

mod answer;
mod cors;
mod descriptors;
mod events;
mod grpc_web;
mod guard;
mod mapping;
pub mod openapi;
mod pages;
mod problem;
mod request;
mod schema;
mod table;
mod walk;

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use prost_reflect::MethodDescriptor;
use tonic::codegen::Service;
use unanimo_tls::Peer;

pub(crate) use self::guard::Hosts;
pub(crate) use self::pages::{Act, Asker};
pub(crate) use self::problem::plain;
use self::request::{Json, framed, unreadable};
use self::table::Found;
use super::admit::Admitting;
use super::deadline;
use super::rpc::Rpc;
use super::stack::Stack;
use super::turns::Turn;

/// Headers that mean the same as in gRPC.
const HEADERS: [&str; 4] = ["authorization", "grpc-timeout", "traceparent", "tracestate"];

/// Services that are served over grpc-web, too.
const SERVICES: [&str; 3] = [
    "unanimo.v1.CoordinatorService",
    "unanimo.v1.OperatorService",
    "unanimo.v1.ParticipantDirectoryService",
];

/// Path of the description.
const OPENAPI: &str = "/v1/openapi.json";

/// Knowledge of who may reach the address.
#[derive(Clone, Debug)]
pub(crate) struct Callers {
    /// gRPC demands a certificate of every client.
    pub(crate) demand_certificates: bool,
    /// Names that the host in a request may have.
    pub(crate) hosts: Hosts,
    /// Origins of pages of other sites that may use the API.
    pub(crate) origins: Arc<[String]>,
    /// Address of a trace, with a place for its id; empty if there is none.
    pub(crate) trace_link: Arc<str>,
}

/// The API, once the coordinator serves.
pub(crate) type Slot = Arc<OnceLock<Http>>;

/// The rpcs over HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    stack: Stack,
    service: Admitting<tonic::service::Routes>,
    web: grpc_web::Web,
    callers: Callers,
}

/// Makes JSON of a message of the contract, as an answer has it.
pub(crate) fn json_of<M: prost::Name>(message: &M) -> Option<Vec<u8>> {
    let descriptor = descriptors::POOL.get_message_by_name(&M::full_name())?;
    answer::json(&descriptor, &message.encode_to_vec()).ok()
}

type Answered = Result<Response<Body>, Response<Body>>;

impl Http {
    pub(crate) fn new(stack: Stack, callers: Callers) -> Self {
        let service = stack.admitting();
        let web = grpc_web::web(service.clone());
        Self { stack, service, web, callers }
    }

    /// Answers a request of this peer, of which without TLS the address alone is known.
    pub(crate) async fn answer(
        &self,
        request: Request<Body>,
        peer: Option<Peer>,
    ) -> Response<Body> {
        let origin = cors::allowed(request.headers(), &self.callers.origins);
        let answered = self.answered(request, peer, origin.is_some()).await;
        let mut response = answered.unwrap_or_else(|refusal| refusal);
        if let Some(origin) = origin {
            cors::open(response.headers_mut(), origin);
        }
        response
    }

    async fn answered(
        &self,
        request: Request<Body>,
        peer: Option<Peer>,
        is_allowed_page: bool,
    ) -> Answered {
        let refused = |(status, why): (StatusCode, &str)| problem::refusal(status, why);
        let has_certificate = peer.as_ref().is_some_and(|peer| peer.names.is_some());
        if self.callers.demand_certificates && !has_certificate {
            let path = request.uri().path();
            let found = table::find(request.method(), path).ok().map(|(route, _)| route.rpc);
            let rpc = found.or_else(|| Rpc::of_path(path));
            return Err(problem::response(&self.stack.api().uncertified(rpc, peer.as_ref())));
        }
        guard::check_host(request.headers(), &self.callers.hosts).map_err(refused)?;
        if !is_allowed_page {
            guard::check_site(request.headers()).map_err(refused)?;
        } else if cors::is_question(request.method(), request.headers()) {
            return Ok(cors::answer());
        }
        guard::check_timeout(request.headers())
            .map_err(|bad| problem::response::<Body>(&unreadable(bad)))?;
        let (method, path) = (request.method(), request.uri().path());
        if path == OPENAPI && method == Method::GET {
            return Ok(answer::response(Bytes::from_static(openapi::text().as_bytes())));
        }
        if is_grpc(path) {
            if method != Method::POST {
                return Err(not_found(path, &[Method::POST]));
            }
            let media_types = grpc_web::media_types(request.headers()).map_err(refused)?;
            return Ok(self.over_grpc_web(request, peer, media_types).await);
        }
        let found = table::find(method, path).map_err(|others| not_found(path, &others))?;
        if !found.0.by_query {
            guard::check_json(request.headers()).map_err(refused)?;
            if is_allowed_page {
                guard::check_asked(request.headers()).map_err(refused)?;
            }
        }
        let method = descriptors::method(found.0.rpc);
        self.call(found, method, request, peer).await
    }

    async fn call(
        &self,
        (route, of_path): Found,
        method: MethodDescriptor,
        request: Request<Body>,
        peer: Option<Peer>,
    ) -> Answered {
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or_default();
        let message = method.input();
        let body = if route.by_query {
            let query = resumed(query, &head.headers, &method);
            let read = mapping::read_query(&message, &query, &of_path);
            let read = read.map_err(|bad| problem::response::<Body>(&unreadable(bad)))?;
            request::Request::Made(Some(framed(&read)))
        } else if query.is_empty() {
            let body = self.stack.uploads.counted(tonic::body::Body::new(body));
            let bytes_max = self.stack.message_bytes_max();
            let received = BytesMut::new();
            request::Request::Json(Json { body, message, of_path, bytes_max, received })
        } else {
            let why = "the fields of this call are in its body, and not in the query";
            return Err(problem::refusal(StatusCode::BAD_REQUEST, why));
        };
        let body = tonic::body::Body::new(body);
        let call = call_of(&descriptors::path(&method), &head, peer, body);
        let answered = self.service.clone().call(call).await;
        let answered = answered.unwrap_or_else(|never| match never {});
        let failed = |status| problem::response(&status);
        if method.is_server_streaming() {
            if let Some(status) = answer::error_in(answered.headers()) {
                return Err(failed(status));
            }
            let answers = self.stack.answers.clone();
            return Ok(events::response(answered, method.output(), answers).map(Body::new));
        }
        let json = answer::only(answered, &method.output()).await.map_err(failed)?;
        let counted = self.stack.answers.counted(json.into()).map_err(failed)?;
        Ok(answer::response(counted))
    }

    /// Answers a call that has the frames of gRPC already.
    async fn over_grpc_web(
        &self,
        request: Request<Body>,
        peer: Option<Peer>,
        [given, answer]: [HeaderValue; 2],
    ) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = self.stack.uploads.counted(tonic::body::Body::new(body));
        let mut call = call_of(head.uri.path(), &head, peer, body);
        call.headers_mut().insert(header::CONTENT_TYPE, given);
        call.headers_mut().insert(header::ACCEPT, answer);
        let answered = self.web.clone().call(call).await;
        let answered = answered.unwrap_or_else(|never| match never {});
        grpc_web::response(answered, self.stack.answers.clone()).map(Body::new)
    }
}

/// Returns the paths of the API, for a router. A page asks those of gRPC by grpc-web: see [`is_grpc`].
pub(crate) fn paths() -> impl Iterator<Item = String> {
    let of_json = ["/v1", "/v1/", "/v1/{*rest}"].map(str::to_owned);
    of_json.into_iter().chain(SERVICES.map(|service| format!("/{service}/{{rpc}}")))
}

/// Tells whether a path is one of gRPC: a service of the contract, and a name.
fn is_grpc(path: &str) -> bool {
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    service.is_some_and(|(service, _)| SERVICES.contains(&service))
}

/// Encodes a text for an address.
pub(crate) fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Makes the call of gRPC that a request with this head is.
fn call_of(
    path: &str,
    head: &Parts,
    peer: Option<Peer>,
    body: tonic::body::Body,
) -> Request<tonic::body::Body> {
    let mut call = Request::new(body);
    *call.method_mut() = Method::POST;
    *call.version_mut() = http::Version::HTTP_2;
    *call.uri_mut() = path.parse().expect("a path");
    let media_type = HeaderValue::from_static("application/grpc");
    call.headers_mut().insert(header::CONTENT_TYPE, media_type);
    for name in HEADERS {
        for value in head.headers.get_all(name) {
            call.headers_mut().append(name, value.clone());
        }
    }
    deadline::arrives(call.extensions_mut());
    if let Some(turn) = head.extensions.get::<Turn>() {
        call.extensions_mut().insert(turn.clone());
    }
    if let Some(peer) = peer {
        call.extensions_mut().insert(peer);
    }
    call
}

/// Returns the query of a stream that goes on after the last event that its reader has seen.
fn resumed(query: &str, headers: &HeaderMap, method: &MethodDescriptor) -> String {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let last = last.filter(|id| method.is_server_streaming() && id.parse::<u64>().is_ok());
    let is_given = |part: &str| {
        let name = part.split('=').next().unwrap_or_default();
        name == "after_revision" || name == "afterRevision"
    };
    let others = query.split('&').filter(|part| last.is_none() || !is_given(part));
    let seen = last.map(|id| format!("after_revision={id}"));
    others.map(str::to_owned).chain(seen).collect::<Vec<_>>().join("&")
}

fn not_found(path: &str, others: &[Method]) -> Response<Body> {
    if others.is_empty() && path.starts_with("/v1/") && path.contains(':') {
        let why = "nothing is there: what follows a colon is an act, such as :watch, and a colon of a name is written %3A. \
                   See /v1/openapi.json";
        return problem::refusal(StatusCode::NOT_FOUND, why);
    }
    if others.is_empty() {
        return problem::refusal(StatusCode::NOT_FOUND, "nothing is there: see /v1/openapi.json");
    }
    let allow = others.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let why = format!("the method must be {allow}");
    let mut response = problem::refusal(StatusCode::METHOD_NOT_ALLOWED, &why);
    let allow = header::HeaderValue::from_str(&allow).expect("names of methods");
    response.headers_mut().insert(header::ALLOW, allow);
    response
}

/// Makes the answer of a coordinator that does not serve yet.
pub(crate) fn not_yet() -> Response<Body> {
    later("the coordinator starts, or is a standby: /readyz tells what it waits for")
}

/// Makes the answer to a request that breaks a rule of HTTP itself.
pub(crate) fn malformed(why: &str) -> Response<Body> {
    problem::refusal(StatusCode::BAD_REQUEST, why)
}

/// Makes the answer to a call that is one too many.
pub(crate) fn too_many() -> Response<Body> {
    later("so many calls are under way here that one more has no connection to wait on")
}

fn later(why: &str) -> Response<Body> {
    let mut response = problem::refusal(StatusCode::SERVICE_UNAVAILABLE, why);
    response.headers_mut().insert(header::RETRY_AFTER, 1.into());
    response
}
