//! Many transactions in flight in a process that is killed: how soon they are back, and new ones are served.

use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, async_trait};
use unanimo_coordinator::config::Period;
use unanimo_coordinator::engine::Until;
use unanimo_coordinator::{Builder, Config};
use unanimo_core::ParticipantName;
use unanimo_proto::v1;
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_tests::postgres::Server;

use crate::flat::{LONG, SETTINGS};
use crate::say;
use crate::world::{Shape, Willing, World, config_on, definition};

/// Participant of those in flight. It answers once it is told to.
const SILENT: &str = "silent";

/// Line of the process that is killed, once all are in flight.
const ALL: &str = "all are in flight";

/// Begins under way at once.
const AT_ONCE: usize = 1_024;

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

/// Settings of both processes.
fn config(url: &str, count: usize) -> Config {
    let mut config = config_on(url, LONG);
    config.transactions_max = 2 * count;
    config.participant_share = 100;
    config.call_timeout = Period::secs(300);
    config
}

/// Starts a coordinator with that participant in its process.
async fn start(url: &str, count: usize, speaks: watch::Receiver<bool>) -> Result<World> {
    let builder = Builder::new(config(url, count))
        .without_network()
        .participant(ParticipantName::new(SILENT)?, Arc::new(Silent(speaks)));
    World::of(World::embed(builder).await?)
}

/// Takes the figures, and checks that all are back in time if that is wanted.
pub(crate) async fn measure(count: usize, check: bool) -> Result<ExitCode> {
    let server = Server::start_with(SETTINGS);
    let url = server.database().await;
    let beginning = Instant::now();
    begun_and_killed(&url, count).await?;
    say(&format!(
        "{count} were in flight when the process was killed, {:.1?} after its start",
        beginning.elapsed()
    ));
    let mut raw = PgConnection::connect(&url).await?;
    ensure!(ended(&mut raw).await? == 0, "none had ended");

    let (speak, speaks) = watch::channel(false);
    let started = Instant::now();
    let world = start(&url, count, speaks).await?;
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
    let ended = ended(&mut raw).await?;
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

/// Has another process begin so many, and kills it while all of them are in flight.
async fn begun_and_killed(url: &str, count: usize) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["in-flight", "--url", url, "--count", &count.to_string()]);
    let mut process = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(process.stdout.take().context("its output is piped")?).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
    ensure!(line.as_deref() == Some(ALL), "the process says {line:?}");
    // By SIGKILL.
    process.kill().await?;
    Ok(())
}

/// The process that is killed: begins so many whose participant answers nothing, says when all are durable, and waits.
pub(crate) async fn in_flight(url: &str, count: usize) -> Result<ExitCode> {
    let (_speak, speaks) = watch::channel(false);
    let world = start(url, count, speaks).await?;
    let engine = world.running().engine().clone();
    let mut begins = JoinSet::new();
    for number in 0..count {
        let mut definition = definition(&format!("in-flight-{number}"), Shape::Tcc)?;
        definition.timeout = Some(Duration::from_secs(3600));
        for branch in &mut definition.branches {
            branch.participant = ParticipantName::new(SILENT)?;
        }
        let engine = engine.clone();
        begins.spawn(async move {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            engine.begin(definition, Until::Durable, deadline).await.map(drop)
        });
        if begins.len() >= AT_ONCE {
            begins.join_next().await.context("one is under way")???;
        }
    }
    while let Some(begun) = begins.join_next().await {
        begun??;
    }
    ensure!(engine.in_flight().0 == count, "{} are in flight", engine.in_flight().0);
    say(ALL);
    std::future::pending().await
}
