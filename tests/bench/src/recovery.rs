//! Many transactions in flight, left by a process that is gone: how soon they are back, and new ones are served.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection};
use tokio::sync::watch;
use tonic::{Request, Response, Status, async_trait};
use unanimo_coordinator::Builder;
use unanimo_coordinator::config::Period;
use unanimo_coordinator::store::Written;
use unanimo_core::{ParticipantName, Policy, Transaction, TxId, Version};
use unanimo_proto::v1;
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_tests::postgres::Server;
use uuid::Uuid;

use crate::flat::{LONG, SETTINGS};
use crate::layout::{a_write, create, now};
use crate::reads::{BATCH, Side};
use crate::say;
use crate::world::{Shape, Willing, World, config_on, definition};

/// Participant of those in flight. It answers once it is told to.
const SILENT: &str = "silent";

/// Longest time in which all are back.
const BACK_MAX: Duration = Duration::from_secs(10);

/// Longest wait for the last end.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
struct Silent(watch::Receiver<bool>);

impl Silent {
    async fn until_told(&self) {
        // An error: the measurement is over.
        let _ = self.0.clone().wait_for(|speaks| *speaks).await;
    }
}

#[async_trait]
impl ParticipantService for Silent {
    async fn prepare(
        &self,
        request: Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::PrepareResponse>, Status> {
        self.until_told().await;
        Willing.prepare(request).await
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        Willing.commit(request).await
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        Willing.cancel(request).await
    }
}

/// Takes the figures, and checks that all are back in time if that is wanted.
pub(crate) async fn measure(count: usize, check: bool) -> Result<ExitCode> {
    let server = Server::start_with(SETTINGS);
    let url = server.database().await;
    let side = Side::new(url.clone()).await?;
    begin(&side, count).await?;
    side.store.close().await;
    let mut raw = PgConnection::connect(&url).await?;
    let before = ended(&mut raw).await?;

    let (speak, speaks) = watch::channel(false);
    let started = Instant::now();
    let mut config = config_on(&url, LONG);
    config.transactions_max = 2 * count;
    config.participant_share = 100;
    config.call_timeout = Period::secs(300);
    let builder = Builder::new(config)
        .without_network()
        .participant(ParticipantName::new(SILENT)?, Arc::new(Silent(speaks)));
    let world = World::of(World::embed(builder).await?)?;
    say(&format!("it serves after {:.2?}", started.elapsed()));
    world.one().await?;
    say(&format!("a new one is committed after {:.2?}", started.elapsed()));
    let engine = world.running().engine().clone();
    while engine.in_flight().0 < count {
        ensure!(started.elapsed() < PATIENCE, "{} of {count} are back", engine.in_flight().0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let back = started.elapsed();
    say(&format!("{count} are back after {back:.2?}"));
    speak.send(true)?;
    while engine.in_flight().0 > 0 {
        ensure!(started.elapsed() < PATIENCE, "{} have not ended", engine.in_flight().0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    say(&format!("all have ended after {:.2?}", started.elapsed()));
    let ended = ended(&mut raw).await? - before;
    // And the new one.
    ensure!(ended == i64::try_from(count)? + 1, "{ended} have ended");
    raw.close().await?;
    world.stop().await;
    let passed = back < BACK_MAX;
    let verdict = if passed { "passed" } else { "FAILED" };
    say(&format!("less than {BACK_MAX:.0?} until all are back is needed: {verdict}"));
    Ok(if check && !passed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn ended(raw: &mut PgConnection) -> Result<i64> {
    let ended = "SELECT count(DISTINCT tx_id) FROM unanimo.log WHERE ended_ms IS NOT NULL";
    Ok(sqlx::query_scalar(ended).fetch_one(raw).await?)
}

/// Writes the begins of so many, as a process leaves them that is killed before any participant has answered.
async fn begin(side: &Side, count: usize) -> Result<()> {
    let me = create(&side.store, "killed").await?;
    let mut writer = side.store.batch_writer(me).await?;
    let policy = Policy::default();
    let mut left = count;
    while left > 0 {
        let part = left.min(BATCH);
        let mut writes = Vec::new();
        for _ in 0..part {
            let (id, at) = (Uuid::now_v7(), now());
            let mut definition = definition(&id.to_string(), Shape::Tcc)?;
            definition.timeout = Some(Duration::from_secs(3600));
            for branch in &mut definition.branches {
                branch.participant = ParticipantName::new(SILENT)?;
            }
            let (_, effects) = Transaction::begin(TxId(id), definition, at, &policy);
            let begin = effects.transition.context("a begin is written")?;
            writes.push(a_write(begin, Version(0)));
        }
        let written = writer.write(&writes).await?;
        ensure!(written.iter().all(|one| *one == Written::Applied), "all are written");
        left -= part;
    }
    // Its lease is over.
    side.fence_all().await
}
