//! A shop with four services, as the pages of an ordinary system show it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};
use unanimo_coordinator::Config;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use unanimo_proto::v1::{
    self, BranchContext, BranchSpec, CancelRequest, CancelResponse, CommitRequest, CommitResponse,
    Done, HeuristicKind, HeuristicOutcome, Mode, Payload, PrepareRequest, PrepareResponse,
    Prepared, Refusal, RegisterEndpointRequest, SubmitTransactionRequest, WaitFor, Working,
};

use crate::coordinator::{World, config, sqlite_url};

/// Services, with the action of each.
const SERVICES: [(&str, &str); 4] =
    [("payments", "hold"), ("stock", "reserve"), ("shipping", "book"), ("gift-cards", "redeem")];

/// Orders at a time when nothing is amiss.
const ORDERS: [(&str, &[usize]); 2] = [("order", &[0, 1, 2]), ("pickup", &[0, 1])];

/// Service of the shop. What it does is in the name of the order.
#[derive(Clone, Debug, Default)]
struct Service {
    /// The service for gift cards takes no Commit.
    is_closed: Arc<AtomicBool>,
    /// Branches that were called before.
    called: Arc<Mutex<HashSet<String>>>,
}

/// The shop: a coordinator, and its services.
pub(super) struct Shop {
    pub(super) world: World,
    service: Service,
    endpoint: String,
    /// Number of the next order.
    next: AtomicU64,
}

fn answer(data: &serde_json::Value) -> Payload {
    Payload { data: Bytes::from(data.to_string()), media_type: "application/json".to_owned() }
}

impl Service {
    /// Tells whether a branch is called for the first time.
    fn is_first(&self, of: &BranchContext) -> bool {
        self.called.lock().unwrap().insert(format!("{} {}", of.gid, of.branch_id))
    }
}

#[async_trait]
impl ParticipantService for Service {
    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        use v1::prepare_response::Answer;
        let message = request.get_ref();
        let context = message.context.clone().unwrap_or_default();
        let is_first = self.is_first(&context);
        let took = match context.gid.starts_with("trip-") {
            true => 150 + 90 * context.branch_id.len() as u64,
            false => 2 + message.action.len() as u64,
        };
        tokio::time::sleep(Duration::from_millis(took)).await;
        let sold_out = context.gid.ends_with("7") && message.action == "reserve";
        let answer = match (&*context.gid, &*context.branch_id) {
            _ if sold_out => Answer::Refused(Refusal {
                reason: "SOLD_OUT".to_owned(),
                message: "article 8812 is not in stock".to_owned(),
            }),
            ("trip-2040", "hotel") if is_first => {
                return Err(Status::unavailable("the hotel's booking system does not answer"));
            }
            ("trip-2041", "hotel") => {
                let retry_after = Some(prost_types::Duration { seconds: 600, nanos: 0 });
                Answer::Working(Working { retry_after })
            }
            _ => {
                let output = answer(&json!({ "reference": format!("R-{}", context.gid) }));
                Answer::Prepared(Prepared { output: Some(output) })
            }
        };
        Ok(Response::new(PrepareResponse { answer: Some(answer), ..Default::default() }))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        use v1::commit_response::Answer;
        let message = request.get_ref();
        tokio::time::sleep(Duration::from_millis(3)).await;
        if message.action == "redeem" && self.is_closed.load(Ordering::Relaxed) {
            return Err(Status::unavailable("the issuer of the cards is closed for maintenance"));
        }
        let gid = message.context.as_ref().map(|of| of.gid.as_str()).unwrap_or_default();
        let answer = match gid == "order-4402" && message.action == "hold" {
            true => Answer::Heuristic(HeuristicOutcome {
                kind: HeuristicKind::Rollback.into(),
                note: "the bank had released the amount".to_owned(),
            }),
            false => Answer::Done(Done {}),
        };
        Ok(Response::new(CommitResponse { answer: Some(answer) }))
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        let answer = Some(v1::cancel_response::Answer::Done(Done {}));
        Ok(Response::new(CancelResponse { answer }))
    }
}

/// Number in the name of an order.
fn number_of(order: &str) -> u64 {
    let digits = order.bytes().filter(u8::is_ascii_digit);
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// Returns a branch at one of the services.
fn branch(id: &str, (participant, action): (&str, &str), order: &str) -> BranchSpec {
    let cents = 990 + number_of(order) * 137 % 18_000;
    let payload = json!({ "order": order, "amount": { "currency": "EUR", "cents": cents } });
    BranchSpec {
        branch_id: id.to_owned(),
        participant: participant.to_owned(),
        action: action.to_owned(),
        payload: Some(answer(&payload)),
        ..Default::default()
    }
}

impl Shop {
    pub(super) async fn open() -> Self {
        let settings = Config {
            stalled_after: Period::millis(500),
            call_timeout: Period::secs(5),
            phase_two_backoff: Period::millis(200),
            phase_two_backoff_max: Period::secs(600),
            // Longer than orders are taken for: on a busy machine nobody is gone meanwhile.
            keep_alive_interval: Period::secs(60),
            ..config(&sqlite_url())
        };
        let (service, world) = (Service::default(), World::without_participants(settings).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let served = ParticipantServiceServer::new(service.clone());
        tokio::spawn(Server::builder().add_service(served).serve_with_incoming(incoming));
        let shop = Self { world, service, endpoint, next: AtomicU64::new(5_000) };
        shop.register().await;
        shop
    }

    /// Registers all services, as their SDKs do again and again.
    pub(super) async fn register(&self) {
        let instances = [
            ("payments", "payments-0", "unanimo-sdk-rust/0.1.0"),
            ("stock", "stock-0", "unanimo-sdk-rust/0.1.0"),
            ("shipping", "shipping-0", "unanimo-python/0.1.0"),
            ("gift-cards", "gift-cards-0", "unanimo-sdk-rust/0.0.9"),
        ];
        for (participant, instance, sdk) in instances {
            let request = RegisterEndpointRequest {
                participant: participant.to_owned(),
                endpoint: self.endpoint.clone(),
                instance_id: instance.to_owned(),
                features: ["must_succeed", "saga", "step_inputs", "tcc"].map(str::to_owned).into(),
                sdk: sdk.to_owned(),
                ..Default::default()
            };
            self.world.directory().register_endpoint(request).await.unwrap();
        }
    }

    async fn order(&self, gid: &str, services: &[usize], wait_for: WaitFor) {
        let of = |n: &usize| branch(SERVICES[*n].0, SERVICES[*n], gid);
        let request = SubmitTransactionRequest {
            gid: gid.to_owned(),
            mode: Mode::Tcc.into(),
            branches: services.iter().map(of).collect(),
            wait_for: wait_for.into(),
            metadata: [
                ("customer".to_owned(), format!("c-{}", 1_000 + number_of(gid) * 7_919 % 9_000)),
                (
                    "region".to_owned(),
                    ["eu", "us"][usize::from(number_of(gid).is_multiple_of(3))].to_owned(),
                ),
            ]
            .into(),
            ..Default::default()
        };
        self.world.submit(request).await.unwrap();
    }

    /// Takes orders for so long, now many and now few. Every tenth one is sold out.
    pub(super) async fn sell(&self, time: Duration) {
        let began = tokio::time::Instant::now();
        while began.elapsed() < time {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number.is_multiple_of(20) {
                self.register().await;
            }
            let (kind, services) = ORDERS[usize::from(number.is_multiple_of(4))];
            self.order(&format!("{kind}-{number}"), services, WaitFor::Ended).await;
            // Sine of the time, with a little noise.
            let wave = (began.elapsed().as_secs_f64() / 8.0).sin() + 1.2;
            let noise = f64::from(u32::try_from(number * 7_919 % 11).unwrap()) / 10.0;
            tokio::time::sleep(Duration::from_secs_f64(0.02 + 0.06 * (wave + noise))).await;
        }
    }

    /// Ends the maintenance.
    pub(super) fn open_again(&self) {
        self.service.is_closed.store(false, Ordering::Relaxed);
    }

    async fn trip(&self, gid: &str) {
        let mut steps = vec![
            branch("flight", SERVICES[2], gid),
            branch("hotel", SERVICES[2], gid),
            branch("payment", SERVICES[0], gid),
            branch("tickets", SERVICES[2], gid),
        ];
        steps[2].depends_on = vec!["flight".to_owned(), "hotel".to_owned()];
        steps[2].pivot = true;
        steps[3].depends_on = vec!["payment".to_owned()];
        let request = SubmitTransactionRequest {
            gid: gid.to_owned(),
            mode: Mode::Saga.into(),
            branches: steps,
            wait_for: WaitFor::Accepted.into(),
            timeout: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
            ..Default::default()
        };
        self.world.submit(request).await.unwrap();
    }

    /// Lets things go wrong: gift cards are closed, an amount was released, and one hotel takes its time. Returns the ids of
    /// one that is stuck, of one that ended otherwise, and of a saga that is done.
    pub(super) async fn trouble(&self) -> [String; 3] {
        self.service.is_closed.store(true, Ordering::Relaxed);
        self.order("order-4402", &[0, 1], WaitFor::Ended).await;
        self.trip("trip-2040").await;
        self.trip("trip-2041").await;
        for gid in ["order-4403", "order-4404"] {
            self.order(gid, &[0, 1, 3], WaitFor::Decided).await;
        }
        let world = &self.world;
        let stuck = world.get_until("order-4404", "its alarm", |tx| tx.stalled).await.tx_id;
        world.get_until("order-4403", "its alarm", |tx| tx.stalled).await;
        let otherwise = world.get("order-4402").await.tx_id;
        let saga = world.get_until("trip-2040", "its end", |tx| tx.ended_at.is_some()).await.tx_id;
        [stuck, otherwise, saga]
    }
}
