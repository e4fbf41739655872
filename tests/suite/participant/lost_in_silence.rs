//! Losses of several handlers that cannot be recorded, because their database is silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tonic::Code;
use unanimo_proto::v1::Mode;
use unanimo_sdk::driver::{Care, Driver, Error, Pool};
use unanimo_sdk::{Call, Participant, PhaseTwoError, Postgres, PrepareError, Resource, Tcc};
use unanimo_tests::plain_driver::{Plain, PlainConnection, PlainPool, PlainSession};
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::direct::branch;

/// Handlers that lose their transactions at the same time.
const LOSSES: usize = 4;

/// Time for which a silent database keeps whoever asks it waiting.
const SILENCE: Duration = Duration::from_secs(1);

const WELL: u8 = 0;
const REFUSES: u8 = 1;
const SILENT: u8 = 2;

/// Driver whose database takes no new session when it is told so.
#[derive(Clone, Debug)]
struct Falling(Plain, Arc<AtomicU8>);

#[derive(Clone, Debug)]
struct FallingPool(PlainPool, Arc<AtomicU8>);

impl Driver for Falling {
    type Connection = PlainConnection;
    type Pool = FallingPool;

    async fn connect(&self, settings: &[(&str, String)]) -> Result<PlainConnection, Error> {
        self.0.connect(settings).await
    }

    fn pool(&self, sessions_max: u32, care: Care) -> FallingPool {
        FallingPool(self.0.pool(sessions_max, care), Arc::clone(&self.1))
    }
}

impl Pool for FallingPool {
    type Connection = PlainConnection;
    type Session = PlainSession;

    async fn acquire(&self) -> Result<PlainSession, Error> {
        match self.1.load(Ordering::SeqCst) {
            WELL => self.0.acquire().await,
            REFUSES => Err(Error::other("it takes no session")),
            _ => {
                tokio::time::sleep(SILENCE).await;
                Err(Error::silent(SILENCE))
            }
        }
    }
}

/// Commits something beside the transaction that it was given, once all others are there.
struct Loses(Arc<AtomicU8>, tokio::sync::Barrier);

impl Tcc<Postgres<Falling>> for Loses {
    type Payload = bytes::Bytes;
    type Output = ();

    async fn try_(
        &self,
        db: &mut PlainConnection,
        _: &Call<bytes::Bytes>,
    ) -> Result<(), PrepareError> {
        let beside = "ROLLBACK; START TRANSACTION READ WRITE; INSERT INTO kept VALUES (1); COMMIT";
        db.batch_execute(beside).await?;
        self.1.wait().await;
        self.0.store(REFUSES, Ordering::SeqCst);
        Ok(())
    }

    async fn confirm(
        &self,
        _: &mut PlainConnection,
        _: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut PlainConnection,
        _: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

/// L5: an attempt to record them all takes no longer than the first of them does, and nothing is forgotten by it.
#[tokio::test]
async fn l5_s11_losses_of_a_silent_database_are_not_waited_for_one_by_one() {
    let url = Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept (n int)").execute(&pool).await.unwrap();
    let state = Arc::new(AtomicU8::new(WELL));
    let driver = Falling(Plain(url.parse().unwrap()), Arc::clone(&state));
    let database = Postgres::over(driver).await.unwrap();
    let loses = Loses(Arc::clone(&state), tokio::sync::Barrier::new(LOSSES));
    let participant = Participant::new("p", database.clone()).tcc("work", loses);
    let service = participant.service().unwrap();
    let calls = (0..LOSSES).map(|_| {
        let (service, branch) = (service.clone(), branch(Mode::Tcc, "work"));
        tokio::spawn(async move { branch.prepare(&service).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Internal);
    }
    state.store(SILENT, Ordering::SeqCst);
    let begun = Instant::now();
    assert!(!database.record_losses().await, "S11: none is recorded");
    assert!(begun.elapsed() < SILENCE * 3, "L5: {:?}", begun.elapsed());
    state.store(WELL, Ordering::SeqCst);
    until("the records", async || database.record_losses().await.then_some(())).await;
    let recorded = "SELECT count(*) FROM unanimo_barrier WHERE state = 'running'";
    let recorded: i64 = sqlx::query_scalar(recorded).fetch_one(&pool).await.unwrap();
    assert_eq!(recorded, 4, "S11");
}
