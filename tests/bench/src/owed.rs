//! Transactions that are owed to a participant which cannot be reached: what they cost out of memory, and how they come
//! back.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use sqlx::{Connection, Executor, PgConnection};
use tokio::net::TcpListener;
use tonic::transport::Server as GrpcServer;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, async_trait};
use unanimo_coordinator::config::{DatabaseUrl, Period};
use unanimo_coordinator::engine::{Answer, Until};
use unanimo_coordinator::{Builder, Config, Running};
use unanimo_core::{
    ActionName, BranchId, BranchSpec, Definition, Gid, Mode, ParticipantName, StepSpec,
};
use unanimo_proto::v1;
use unanimo_proto::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use unanimo_tests::postgres::Server;
use uuid::Uuid;

use crate::memory::resident_mib;
use crate::say;
use crate::world::{Shape, Willing, World, definition};

/// Participant that cannot be reached.
const GONE: &str = "gone";

/// Transactions of others under way at once.
const IN_FLIGHT: usize = 64;

/// Transactions that are copied in one statement.
const CHUNK: i64 = 100_000;

/// Longest wait for what is sure to come.
const PATIENCE: Duration = Duration::from_secs(120);

/// Copies of one that is owed, as it stands once it has left memory: its last row has the mark of those that sleep.
const COPIES: &str = "
WITH sample AS MATERIALIZED (
    SELECT *, position($1::text::bytea IN body) AS place, max(version) OVER () AS last
    FROM unanimo.log WHERE tx_id = $1
), ids AS MATERIALIZED (
    SELECT (replace(substr($1::text, 1, 13), '-', '') || lpad(to_hex(i), 20, '0'))::uuid AS id
    FROM generate_series($2::int8, $3::int8) AS i
), rows AS (
    INSERT INTO unanimo.log (tx_id, follows, version, owner, write_id, kind, body, data, history)
    SELECT id, follows, version, owner, gen_random_uuid(), CASE WHEN version = last THEN kind | 16 ELSE kind END,
        CASE WHEN place > 0 THEN overlay(body PLACING id::text::bytea FROM place) ELSE body END, data, history
    FROM ids CROSS JOIN sample
), names AS (
    INSERT INTO unanimo.gids (epoch, key, tx_id)
    SELECT epoch, encode(substr(sha256(id::text::bytea), 1, 16), 'hex')::uuid, id FROM ids CROSS JOIN unanimo.cluster
), asleep AS (
    INSERT INTO unanimo.parked (tx_id, owner, wake_ms, reasons, initiator, bytes)
    SELECT id, owner, $4, reasons, coalesce(initiator, ''), coalesce(bytes, 500)
    FROM ids CROSS JOIN (SELECT * FROM unanimo.parked WHERE tx_id = $1) AS one
)
INSERT INTO unanimo.waits (tx_id, participant, due_ms) SELECT id, $5, $4 FROM ids";

/// Says yes, and then takes no Commit until it is well.
#[derive(Clone, Debug, Default)]
struct Gone {
    is_well: Arc<AtomicBool>,
}

#[async_trait]
impl ParticipantService for Gone {
    async fn prepare(
        &self,
        request: Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::PrepareResponse>, Status> {
        Willing.prepare(request).await
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        match self.is_well.load(Ordering::SeqCst) {
            true => Willing.commit(request).await,
            false => Err(Status::unavailable("gone")),
        }
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        Willing.cancel(request).await
    }
}

/// Takes the figures.
pub(crate) async fn measure(count: i64, time: Duration) -> Result<ExitCode> {
    let server = Server::start_with("fsync = on\nshared_buffers = 1GB\nmax_wal_size = 2GB\n");
    let url = server.database().await;
    let mut raw = PgConnection::connect(&url).await?;
    let gone = Gone::default();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let service = ParticipantServiceServer::new(gone.clone());
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(GrpcServer::builder().add_service(service).serve_with_incoming(incoming));

    let world = World::of(start(&url, &endpoint).await?)?;
    let before = healthy(&world, "none is owed", time).await?;
    let sample = owe(world.running()).await?;
    until_parked(&mut raw, sample).await?;
    world.stop().await;

    let loading = Instant::now();
    let next_month = now_ms()? + 30 * 24 * 60 * 60 * 1000;
    for first in (1..=count).step_by(usize::try_from(CHUNK)?) {
        let last = (first + CHUNK - 1).min(count);
        let copies = sqlx::query(COPIES).bind(sample).bind(first).bind(last);
        copies.bind(next_month).bind(GONE).execute(&mut raw).await?;
    }
    raw.execute("VACUUM ANALYZE").await?;
    say(&format!(
        "{count} are owed to a participant that is gone; loaded in {:.0?}",
        loading.elapsed()
    ));

    let (began, memory) = (Instant::now(), resident_mib()?);
    let world = World::of(start(&url, &endpoint).await?)?;
    say(&format!(
        "started in {:.1?}; memory {memory} MiB before, {} MiB after",
        began.elapsed(),
        resident_mib()?
    ));
    let beside = healthy(&world, "all are owed, none comes back", time).await?;
    let (left, memory) = (owed(&mut raw).await?, resident_mib()?);
    say(&format!(
        "{left} are out of memory, {} in it; {memory} MiB",
        world.running().engine().in_flight().0
    ));

    gone.is_well.store(true, Ordering::SeqCst);
    let (since, mut before_it) = (Instant::now(), left);
    while before_it > left - 64 {
        ensure!(since.elapsed() < PATIENCE, "{before_it} of {left} are owed still");
        tokio::time::sleep(Duration::from_millis(100)).await;
        before_it = owed(&mut raw).await?;
    }
    say(&format!("the participant is back: the first ended after {:.1?}", since.elapsed()));
    let since = Instant::now();
    let during = healthy(&world, "while they come back", time * 3).await?;
    let ended = before_it - owed(&mut raw).await?;
    let per_second = float(ended) / since.elapsed().as_secs_f64();
    say(&format!(
        "{per_second:.0} of them ended per second; memory {} MiB at most so far, {} in it",
        resident_mib()?,
        world.running().engine().in_flight().0
    ));
    say(&format!(
        "p99 of others: {:.2} times beside those that are owed, {:.2} while they come back",
        beside / before,
        during / before
    ));
    world.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Measures transactions of participants that are well, and returns their p99.
async fn healthy(world: &World, when: &str, time: Duration) -> Result<f64> {
    let measured = world.begin(Shape::Tcc, IN_FLIGHT, time).await?;
    let p99 = measured.quantile_ms(0.99);
    say(&format!("{when:<34} {:>8.0} TCC/s of others, p99 {p99:.1} ms", measured.per_second()));
    Ok(p99)
}

async fn start(url: &str, endpoint: &str) -> Result<Running> {
    let any = ([127, 0, 0, 1], 0).into();
    let mut config = Config {
        database_url: DatabaseUrl::new(url.to_owned()),
        listen: any,
        admin_listen: any,
        stalled_after: Period::secs(1),
        ..Config::default()
    };
    config.participants.insert(ParticipantName::new(GONE)?, vec![endpoint.to_owned()]);
    World::embed(Builder::new(config)).await
}

/// Has one transaction committed, and owed.
async fn owe(running: &Running) -> Result<Uuid> {
    let gid = Uuid::from_u128(u128::from(std::process::id()) + (1 << 96)).to_string();
    let mut owed: Definition = definition(&gid, Shape::Tcc)?;
    owed.branches = vec![BranchSpec {
        branch_id: BranchId::new("a")?,
        participant: ParticipantName::new(GONE)?,
        action: ActionName::new("try")?,
        payload: Bytes::from_static(b"ten euros").into(),
        mode: Mode::Tcc,
        step: StepSpec::default(),
    }];
    owed.gid = Gid::new(&gid)?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let answer = running.engine().begin(owed, Until::Decided, deadline).await?;
    let Answer::View(view) = answer else { anyhow::bail!("not decided") };
    Ok(view.tx.tx_id().0)
}

/// Waits until the alarm is stored, and the transaction is among those that stand out.
async fn until_parked(raw: &mut PgConnection, sample: Uuid) -> Result<()> {
    let since = Instant::now();
    let is_there = "SELECT EXISTS (SELECT 1 FROM unanimo.parked WHERE tx_id = $1 AND reasons <> 0)";
    while !sqlx::query_scalar(is_there).bind(sample).fetch_one(&mut *raw).await? {
        ensure!(since.elapsed() < PATIENCE, "no alarm is stored");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn owed(raw: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM unanimo.waits").fetch_one(raw).await?)
}

fn now_ms() -> Result<i64> {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().context("a clock past 1970")?;
    Ok(i64::try_from(since.as_millis())?)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn float(number: i64) -> f64 {
    number as f64
}
