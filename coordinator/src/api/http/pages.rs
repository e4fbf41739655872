//! Questions of the pages for people, and the acts of those who look at them: in their name, through the same services.

use axum::body::Body;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Collected};
use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::Value;
use unanimo_core::{Mode, Timestamp, Transaction};
use unanimo_proto::v1;
use unanimo_saga::graph::Graph;
use unanimo_tls::Peer;

use super::{Hosts, Http, descriptors, guard, problem};
use crate::api::convert::{self, Content};
use crate::api::rpc::Rpc;
use crate::api::turns::Turn;
use crate::config::TRACE_ID;
use crate::engine::View;

/// Most steps of a saga that is drawn: more cannot be read, and cost much.
const STEPS_MAX: usize = 100;

/// Longest time for which a page waits, as gRPC writes it.
const PATIENCE: &str = "10S";

/// Header by which a browser tells whether a page of another site is behind a request.
const SITE: &str = "sec-fetch-site";

/// Caller that looks at a page, or acts by it.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    headers: HeaderMap,
    peer: Option<Peer>,
    /// Turn of the request, which becomes its identity's with the first call.
    turn: Option<Turn>,
}

/// Act of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Retry,
    Resolve,
    Forget,
}

impl Act {
    fn rpc(self) -> Rpc {
        match self {
            Self::Retry => Rpc::RetryTransaction,
            Self::Resolve => Rpc::ResolveBranch,
            Self::Forget => Rpc::ForgetTransaction,
        }
    }
}

impl Http {
    /// Returns the address of a trace for people, if one is set.
    pub(crate) fn trace_link(&self, trace_id: &str) -> String {
        self.callers.trace_link.replace(TRACE_ID, trace_id)
    }
}

impl Asker {
    pub(crate) fn new<T>(request: &Request<T>, peer: Option<Peer>) -> Self {
        // Those by which it is known, and found to be no page of another site.
        let names = [
            header::HOST,
            header::AUTHORIZATION,
            header::ORIGIN,
            header::HeaderName::from_static(SITE),
        ];
        let mut known = HeaderMap::new();
        for name in names {
            // One that comes twice is not made one.
            for value in request.headers().get_all(&name) {
                known.append(name.clone(), value.clone());
            }
        }
        Self { headers: known, peer, turn: request.extensions().get().cloned() }
    }

    /// Asks on when the request is answered: its turn is given back with the answer.
    pub(crate) fn beyond_its_request(self) -> Self {
        Self { turn: None, ..self }
    }

    fn extensions(&self) -> http::Extensions {
        let mut extensions = http::Extensions::new();
        if let Some(peer) = &self.peer {
            extensions.insert(peer.clone());
        }
        if let Some(turn) = &self.turn {
            extensions.insert(turn.clone());
        }
        extensions
    }

    fn request(&self, address: &str, method: Method, body: Body) -> Result<Request<Body>, Value> {
        let mut request = Request::new(body);
        *request.extensions_mut() = self.extensions();
        let Ok(uri) = address.parse() else {
            // What was asked for is within the bound of an address, and is not once it is encoded anew.
            let why = "the filter or the name in the address is too long";
            return Err(problem::refused(StatusCode::URI_TOO_LONG, why));
        };
        *request.uri_mut() = uri;
        *request.method_mut() = method;
        for name in [header::HOST, header::AUTHORIZATION] {
            for value in self.headers.get_all(&name) {
                request.headers_mut().append(name.clone(), value.clone());
            }
        }
        let timeout = header::HeaderValue::from_static(PATIENCE);
        request.headers_mut().insert("grpc-timeout", timeout);
        Ok(request)
    }
}

impl Http {
    /// Asks for what is at this address, in the name of whoever looks. The error is a problem.
    pub(crate) async fn look(&self, address: &str, asker: &Asker) -> Result<Value, Value> {
        let request = asker.request(address, Method::GET, Body::empty())?;
        self.answer_to(request, asker).await
    }

    /// Acts by the call at this address. The error is a problem.
    pub(crate) async fn act(
        &self,
        address: &str,
        asker: &Asker,
        body: &Value,
    ) -> Result<Value, Value> {
        let mut request = asker.request(address, Method::POST, Body::from(body.to_string()))?;
        let media_type = header::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, media_type);
        self.answer_to(request, asker).await
    }

    async fn answer_to(&self, request: Request<Body>, asker: &Asker) -> Result<Value, Value> {
        let answer = self.answer(request, asker.peer.clone()).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
        let json = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() { Ok(json) } else { Err(json) }
    }

    /// Draws a saga, as the API tells it, with the state of each step: a picture in SVG, in which every text is escaped.
    /// Nothing if it is too large to be read, or no transaction.
    pub(crate) fn drawn(transaction: &Value) -> Option<String> {
        let message = descriptors::POOL.get_message_by_name("unanimo.v1.Transaction")?;
        let message = DynamicMessage::deserialize(message, transaction).ok()?;
        let tx = v1::Transaction::decode(message.encode_to_vec().as_slice()).ok()?;
        (tx.branches.len() <= STEPS_MAX).then(|| Graph::of_transaction(&tx).to_svg())
    }

    /// Tells of a recorded transaction what the API would have told at this time, without payloads and outputs.
    pub(crate) fn told(tx: &Transaction, at: Timestamp) -> Option<Value> {
        let view =
            View { tx: tx.clone(), revision: tx.version(), stripped: false, is_asleep: false };
        let told = convert::transaction_at(at, &view, Content::default(), None);
        let message = descriptors::POOL.get_message_by_name("unanimo.v1.Transaction")?;
        let told = DynamicMessage::decode(message, told.encode_to_vec().as_slice()).ok()?;
        serde_json::to_value(told).ok()
    }

    /// Checks that a page which everybody may see was asked for by an address or `localhost`. The error is the rule.
    pub(crate) fn check_host(headers: &HeaderMap) -> Result<(), &'static str> {
        let host = headers.get(header::HOST).map(|host| (header::HOST, host.clone()));
        let host: HeaderMap = host.into_iter().collect();
        let rule = "the host must be an IP address or localhost";
        guard::check(&host, &Hosts::Own(Vec::new())).map_err(|_| rule)
    }

    /// Tells whether whoever looks may act.
    pub(crate) fn may_act(&self, asker: &Asker) -> bool {
        self.may(Act::Retry.rpc(), asker)
    }

    /// Tells whether whoever looks may see the numbers of the process. To find out by a call would note it as denied.
    pub(crate) fn may_see_statistics(&self, asker: &Asker) -> bool {
        self.may(Rpc::GetStatistics, asker)
    }

    /// Tells whether whoever looks may list transactions without a filter: participants may not.
    pub(crate) fn may_list(&self, asker: &Asker) -> bool {
        self.may(Rpc::WatchTransactions, asker)
    }

    /// Tells whether whoever looks may have a recorded history, and whether such transactions have one.
    pub(crate) fn may_have_history(&self, is_saga: bool, asker: &Asker) -> bool {
        let mode = if is_saga { Mode::Saga } else { Mode::Tcc };
        self.may(Rpc::ExportTransaction, asker)
            && self.stack.api().engine.policy().record.applies_to(Some(mode))
    }

    /// Tells whether whoever looks may see the webhooks: nobody of a namespace may.
    pub(crate) fn may_see_webhooks(&self, asker: &Asker) -> bool {
        self.may(Rpc::ListWebhooks, asker) && self.namespace(asker).is_none()
    }

    fn may(&self, rpc: Rpc, asker: &Asker) -> bool {
        let is_certified = asker.peer.as_ref().is_some_and(|peer| peer.names.is_some());
        (is_certified || !self.callers.demand_certificates)
            && self.stack.api().would_admit(rpc, &asker.headers, &asker.extensions())
    }

    /// Returns the name of whoever is about to act; empty where there are no identities. One who may not is refused with
    /// a problem, which is noted and entered as it is for gRPC. A form comes from a page of this address, and says so.
    pub(crate) fn actor(&self, act: Act, asker: &Asker, is_form: bool) -> Result<String, Value> {
        self.admitted(act.rpc(), asker, || {
            guard::check(&asker.headers, &self.callers.hosts)?;
            if is_form { guard::check_own_page(&asker.headers) } else { Ok(()) }
        })
    }

    /// Returns the name of whoever is about to wait for a history, in the same way.
    pub(crate) fn exporter(&self, asker: &Asker) -> Result<String, Value> {
        let check = || guard::check_host(&asker.headers, &self.callers.hosts);
        self.admitted(Rpc::ExportTransaction, asker, check)
    }

    /// Admits a call that is still to be made, and counts the turn of the request as its identity's.
    fn admitted(
        &self,
        rpc: Rpc,
        asker: &Asker,
        check: impl FnOnce() -> Result<(), (StatusCode, &'static str)>,
    ) -> Result<String, Value> {
        let is_certified = asker.peer.as_ref().is_some_and(|peer| peer.names.is_some());
        let (api, extensions) = (self.stack.api(), asker.extensions());
        if self.callers.demand_certificates && !is_certified {
            return Err(problem::of(&api.uncertified(Some(rpc), asker.peer.as_ref())));
        }
        check().map_err(|(status, why)| problem::refused(status, why))?;
        let admitted = api.admit(rpc, &asker.headers, &extensions).and_then(|access| {
            api.take_turn(&access, &extensions)?;
            Ok(access.name().to_owned())
        });
        admitted.map_err(|status| {
            api.metrics.served(rpc.name(), status.code());
            problem::of(&status)
        })
    }

    /// Returns the namespace of whoever looks, if it is of one. One who is not known is of a namespace in which nothing is.
    pub(crate) fn namespace(&self, asker: &Asker) -> Option<String> {
        let api = self.stack.api();
        match api.namespace_of(&asker.headers, &asker.extensions()) {
            Ok(namespace) => namespace.map(String::from),
            Err(_) => Some(String::new()),
        }
    }

    /// Counts a response that is whole until it is read; another one takes its place if there is no room for it.
    pub(crate) async fn counted(&self, response: Response<Body>) -> Response<Body> {
        let (head, body) = response.into_parts();
        let Ok(body) = body.collect().await.map(Collected::to_bytes) else {
            return problem::refusal(StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be made");
        };
        match self.stack.answers.counted(body) {
            Ok(body) => Response::from_parts(head, Body::from(body)),
            Err(status) => problem::response(&status),
        }
    }
}
