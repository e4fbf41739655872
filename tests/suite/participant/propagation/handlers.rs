//! Handlers of a participant that joined: when they run, what they see, and when they are asked again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::StatusCode;
use sqlx::SqliteConnection;
use tonic::transport::Channel;
use unanimo_examples::Posting;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{BranchState, GetTransactionRequest, get_transaction_request};
use unanimo_sdk::client::Transaction;
use unanimo_sdk::{
    Call, Client, Json, Participant, PhaseTwoError, PrepareError, Sqlite, Tcc, refuse,
};
use unanimo_tests::joining::{self, Bank};
use unanimo_tests::reaper::run_folder;

use super::{AbortCause, Outcome};
use crate::coordinator;

/// Does as the account's name says: `check` looks whether the coordinator has the branch durably,
/// `fail` and `working` have no vote so many times, `panic` and `refuse` do so.
struct Told {
    coordinator: CoordinatorServiceClient<Channel>,
    calls: AtomicI64,
}

impl Tcc<Sqlite> for Told {
    type Payload = Json<Posting>;
    type Output = Json<u32>;

    async fn try_(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Posting>>,
    ) -> Result<Json<u32>, PrepareError> {
        sqlx::query("INSERT INTO work VALUES (1)").execute(db).await?;
        let again = self.calls.fetch_add(1, Ordering::SeqCst) < call.payload.cents;
        match call.payload.account.as_str() {
            "fail" if again => Err(std::io::Error::other("not now"))?,
            "working" if again => Err(PrepareError::Working(Duration::ZERO)),
            "panic" => std::panic::resume_unwind(Box::new(())),
            "refuse" => refuse("NO", "no"),
            "check" => self.check(call).await,
            _ => Ok(Json(call.attempt)),
        }
    }

    async fn confirm(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Posting>>,
        _: Json<u32>,
    ) -> Result<(), PhaseTwoError> {
        assert_eq!(call.metadata, metadata());
        sqlx::query("INSERT INTO work VALUES (1)").execute(db).await?;
        Ok(())
    }

    async fn cancel(
        &self,
        db: &mut SqliteConnection,
        _: &Call<Json<Posting>>,
        _: Json<u32>,
    ) -> Result<(), PhaseTwoError> {
        sqlx::query("DELETE FROM work").execute(db).await?;
        Ok(())
    }
}

impl Told {
    async fn check(&self, call: &Call<Json<Posting>>) -> Result<Json<u32>, PrepareError> {
        let request = GetTransactionRequest {
            key: Some(get_transaction_request::Key::TxId(call.branch.tx_id.to_string())),
            include_outputs: true,
            include_payloads: true,
            include_timeline: true,
            ..Default::default()
        };
        let shown =
            self.coordinator.clone().get_transaction(request).await?.into_inner().transaction;
        let branches = shown.unwrap_or_default().branches;
        let of = branches.iter().find(|branch| branch.branch_id == call.branch.branch_id);
        match of {
            Some(branch)
                if branch.state() == BranchState::Enlisted
                    && branch.branch_number == call.branch.number
                    && branch.action == call.action
                    && call.metadata == metadata() =>
            {
                Ok(Json(call.attempt))
            }
            other => refuse("NOT_AS_IT_SHOULD_BE", format!("{other:?} {call:?}")),
        }
    }
}

fn metadata() -> HashMap<String, String> {
    [("tenant".to_owned(), "blue".to_owned())].into()
}

struct Scene {
    coordinator: coordinator::World,
    client: Client,
    bank: Bank<Sqlite>,
    pool: sqlx::SqlitePool,
}

impl Scene {
    async fn start() -> Self {
        let coordinator = coordinator::World::sqlite().await;
        let url = format!("http://{}", coordinator.running.grpc_address().unwrap());
        let file = run_folder().join(format!("{}.db", uuid::Uuid::new_v4()));
        let pool = sqlx::SqlitePool::connect(&format!("sqlite:{}?mode=rwc", file.display())).await;
        let pool = pool.unwrap();
        sqlx::raw_sql("CREATE TABLE work (n integer)").execute(&pool).await.unwrap();
        let told = Told { coordinator: coordinator.client(), calls: AtomicI64::new(0) };
        let participant =
            Participant::new("told", Sqlite::open(&file).await.unwrap()).tcc("do", told);
        let client = Client::new(&url).unwrap();
        let mut bank = Bank::open(participant, &client, &url).await;
        bank.serving.registered().await.unwrap();
        Self { coordinator, client, bank, pool }
    }

    async fn begin(&self, gid: &str) -> Transaction {
        self.client.tcc(gid).metadata("tenant", "blue").begin().await.unwrap()
    }

    async fn order(&self, tx: &Transaction, order: &str) -> (StatusCode, String) {
        let client = joining::client(&tx.propagation().layer());
        joining::send(&client, &format!("{}/{order}", self.bank.http), None).await.unwrap()
    }

    async fn ended(&self, gid: &str) {
        self.coordinator.get_until(gid, "its end", |t| t.ended_at.is_some()).await;
    }

    async fn work(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM work").fetch_one(&self.pool).await.unwrap()
    }

    async fn states(&self) -> Vec<String> {
        let query = "SELECT state FROM unanimo_barrier";
        sqlx::query_scalar(query).fetch_all(&self.pool).await.unwrap()
    }
}

#[tokio::test]
async fn s6_a_branch_is_durable_before_its_handler_runs() {
    let scene = Scene::start().await;
    let tx = scene.begin("durable").await;
    let (status, text) = scene.order(&tx, "do/check/0/ok").await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert!(tx.commit().await.unwrap().is_committed());
    scene.ended("durable").await;
    assert_eq!((scene.work().await, scene.states().await), (2, vec!["committed".to_owned()]));
}

#[tokio::test]
async fn s7_a_handler_without_a_vote_is_asked_again_and_has_its_effect_once() {
    for how in ["fail", "working"] {
        let scene = Scene::start().await;
        let tx = scene.begin(how).await;
        let (status, text) = scene.order(&tx, &format!("do/{how}/3/ok")).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        assert_eq!(scene.work().await, 1, "what was done without a vote is undone");
        assert!(tx.commit().await.unwrap().is_committed());
        scene.ended(how).await;
        assert_eq!(scene.work().await, 2);
    }
}

/// It is listed as what it is, and the coordinator need not wait for the deadline.
#[tokio::test]
async fn s2_a_branch_that_has_no_vote_is_listed_without_one() {
    let scene = Scene::start().await;
    let tx = scene.begin("panics").await;
    let (status, text) = scene.order(&tx, "do/panic/0/ok").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("has no vote: the handler of prepare panicked"), "{text}");
    let Outcome::Aborted(aborted) = tx.commit().await.unwrap() else { panic!("it is not") };
    assert_eq!(aborted.cause, AbortCause::NoVote);
    scene.ended("panics").await;
    assert_eq!((scene.work().await, scene.states().await), (0, vec!["cancelled".to_owned()]));
}

#[tokio::test]
async fn s2_what_a_service_does_not_offer_is_refused() {
    let scene = Scene::start().await;
    let tx = scene.begin("unknown").await;
    let (status, text) = scene.order(&tx, "undo/check/0/ok").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(text.starts_with("ACTION_NOT_OFFERED"), "{text}");
    let Outcome::Aborted(aborted) = tx.commit().await.unwrap() else { panic!("it is not") };
    assert_eq!(aborted.cause, AbortCause::Refused);
}

#[tokio::test]
async fn a_participant_that_is_stopped_joins_nothing() {
    let scene = Scene::start().await;
    let tx = scene.begin("stopped").await;
    let Scene { bank, coordinator, pool, .. } = scene;
    let Bank { serving, http, .. } = bank;
    serving.stop().await.unwrap();
    let client = joining::client(&tx.propagation().layer());
    let url = format!("{http}/do/check/0/ok");
    let (status, text) = joining::send(&client, &url, None).await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("is stopped"), "{text}");
    assert!(coordinator.get("stopped").await.branches.is_empty(), "nothing is enlisted");
    let work: i64 = sqlx::query_scalar("SELECT count(*) FROM work").fetch_one(&pool).await.unwrap();
    assert_eq!(work, 0);
}
