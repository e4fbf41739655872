//! Coordinator that lists what a test says, and answers as it says.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use unanimo_proto::v1;
use unanimo_tests::guard::nothing_set;

/// Answers that it gives, and calls that it has heard.
#[derive(Default)]
pub(super) struct Says {
    /// Transactions, newest first.
    pub(super) listed: Vec<v1::Transaction>,
    /// Most transactions of a page.
    pub(super) page: usize,
    /// No list is answered.
    pub(super) is_silent: bool,
    /// Participants, of which a page has as many as one of transactions.
    pub(super) participants: Vec<v1::Participant>,
    /// Answer to GetStatistics.
    pub(super) statistics: v1::GetStatisticsResponse,
    /// Errors in answer to the next lists.
    pub(super) list_errors: VecDeque<Status>,
    /// Lists that were asked for.
    pub(super) lists: Vec<v1::ListTransactionsRequest>,
    /// Answers to the next retries: an error, or none. Those that come later are done.
    pub(super) retries: VecDeque<Option<Status>>,
    /// Transactions that were to be retried.
    pub(super) retried: Vec<String>,
}

#[derive(Clone)]
pub(super) struct Fake {
    pub(super) endpoint: String,
    says: Arc<Mutex<Says>>,
}

impl Fake {
    pub(super) async fn start(listed: Vec<v1::Transaction>, page: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let says = Says { listed, page, ..Says::default() };
        let fake = Self { endpoint, says: Arc::new(Mutex::new(says)) };
        let this = fake.clone();
        let router = Router::new().fallback(move |request: Request| {
            let this = this.clone();
            async move { this.answer(request).await }
        });
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(
            Server::builder().add_routes(Routes::from(router)).serve_with_incoming(incoming),
        );
        fake
    }

    pub(super) fn says(&self) -> MutexGuard<'_, Says> {
        self.says.lock().unwrap()
    }

    async fn answer(&self, request: Request) -> Response {
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let body = to_bytes(request.into_body(), usize::MAX).await.unwrap();
        // Behind a flag and the length.
        let message = &body[5..];
        match &*method {
            "ListTransactions" => {
                let request = v1::ListTransactionsRequest::decode(message).unwrap();
                let answer = self.says().list(&request);
                match answer {
                    None => std::future::pending().await,
                    Some(Ok(page)) => reply(&page),
                    Some(Err(status)) => status.into_http(),
                }
            }
            "RetryTransaction" => {
                let request = v1::RetryTransactionRequest::decode(message).unwrap();
                let mut says = self.says();
                says.retried.push(request.tx_id);
                match says.retries.pop_front().flatten() {
                    Some(status) => status.into_http(),
                    None => reply(&v1::RetryTransactionResponse { transaction: Some(owing()) }),
                }
            }
            "ListParticipants" => {
                let request = v1::ListParticipantsRequest::decode(message).unwrap();
                reply(&self.says().participants(&request))
            }
            "GetStatistics" => {
                let statistics = self.says().statistics.clone();
                reply(&statistics)
            }
            _ => nothing_set(),
        }
    }
}

impl Says {
    fn participants(&self, request: &v1::ListParticipantsRequest) -> v1::ListParticipantsResponse {
        let skipped: usize = request.page_token.parse().unwrap_or_default();
        let page = self.page.min(usize::try_from(request.page_size).unwrap());
        let is_last = skipped + page >= self.participants.len();
        let next_page_token = if is_last { String::new() } else { (skipped + page).to_string() };
        v1::ListParticipantsResponse {
            participants: self.participants.iter().skip(skipped).take(page).cloned().collect(),
            next_page_token,
        }
    }

    /// Returns nothing while it is silent.
    fn list(
        &mut self,
        request: &v1::ListTransactionsRequest,
    ) -> Option<Result<v1::ListTransactionsResponse, Status>> {
        self.lists.push(request.clone());
        if self.is_silent {
            return None;
        }
        if let Some(status) = self.list_errors.pop_front() {
            return Some(Err(status));
        }
        let from = request.created_from.map_or(0, |from| from.seconds);
        let is_wanted = |tx: &&v1::Transaction| {
            !request.attention
                && (request.states.is_empty() || request.states.contains(&tx.state))
                && tx.created_at.is_some_and(|at| at.seconds >= from)
        };
        let skipped: usize = request.page_token.parse().unwrap_or_default();
        let wanted: Vec<_> = self.listed.iter().filter(is_wanted).skip(skipped).cloned().collect();
        let asked = usize::try_from(request.page_size).unwrap();
        let page = self.page.min(asked);
        let is_last = wanted.len() <= page;
        Some(Ok(v1::ListTransactionsResponse {
            transactions: wanted.into_iter().take(page).collect(),
            next_page_token: if is_last { String::new() } else { (skipped + page).to_string() },
            counts: request.include_counts.then(v1::TransactionCounts::default),
        }))
    }
}

/// Makes a transaction of which COMMIT is owed, created so many seconds ago.
pub(super) fn committing(name: &str, secs_ago: u64) -> v1::Transaction {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seconds = i64::try_from(now - secs_ago).unwrap();
    v1::Transaction {
        tx_id: name.to_owned(),
        gid: name.to_owned(),
        state: v1::TransactionState::Committing.into(),
        created_at: Some(prost_types::Timestamp { seconds, nanos: 0 }),
        ..Default::default()
    }
}

/// Makes an error of a coordinator, which is to come back in a moment if it may be sent again.
pub(super) fn error(code: Code, reason: &str, retryable: bool) -> Status {
    let metadata = HashMap::from([("retryable".to_owned(), retryable.to_string())]);
    let mut details = ErrorDetails::with_error_info(reason, "unanimo", metadata);
    details.set_retry_info(retryable.then_some(Duration::from_millis(10)));
    Status::with_error_details(code, "no", details)
}

fn owing() -> v1::Transaction {
    let state = v1::BranchState::Committing.into();
    let branch = v1::Branch { state, ..Default::default() };
    v1::Transaction { branches: vec![branch], ..Default::default() }
}

fn reply(message: &impl Message) -> Response {
    let message = message.encode_to_vec();
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let body = Full::new(bytes::Bytes::from(bytes));
    let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(Body::new(body)).unwrap()
}
