//! One greedy caller: what another one's transactions take beside it, and without it, in turns in the same run.
//!
//! The greedy one calls a hundred times as often as its limit lets it: from its address, as its identity, or in its namespace as
//! one of many identities.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use unanimo_coordinator::config::FilePath;
use unanimo_coordinator::identity::Token;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{GetServerInfoRequest, Outcome};
use unanimo_tests::postgres::Server;

use crate::say;
use crate::world::{Shape, World, config, request};

/// Another one's p99 beside the greedy one has to be below so many times what it is without.
const RATIO_MAX: f64 = 2.0;

/// Calls a second of each limit.
const RATE: u32 = 50;

/// Calls of the greedy one for each that its limit allows.
const GREED: u32 = 100;

/// Tasks of the greedy one. Each makes the same part of its calls, and is an identity of its own in a namespace.
const TASKS: u8 = 20;

/// Rounds, each with both sides. Times of all rounds together are compared: what the machine does besides meets both sides.
const ROUNDS: u32 = 7;

/// Caller that a limit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Address,
    Identity,
    Namespace,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Address, Self::Identity, Self::Namespace];

    fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Identity => "identity",
            Self::Namespace => "namespace",
        }
    }

    /// Returns the file of identities: number 0 is the other one, and all others are the greedy one's.
    fn identities(self) -> String {
        let entry = |number: u8| {
            let namespace = match (self, number) {
                (Self::Namespace, 0) => "namespace = \"other\"\n",
                (Self::Namespace, _) => "namespace = \"greedy\"\n",
                _ => "",
            };
            format!(
                "[[identity]]\nname = \"i{number}\"\nroles = [\"initiator\"]\n{namespace}tokens = [\"{}\"]\n",
                token(number).hashed()
            )
        };
        (0..=TASKS).map(entry).collect()
    }
}

fn token(number: u8) -> Token {
    Token::new([number; Token::RANDOM_BYTES])
}

/// Connection of one caller, as one identity or as none.
#[derive(Clone)]
struct Caller {
    client: CoordinatorServiceClient<Channel>,
    header: Option<AsciiMetadataValue>,
}

impl Caller {
    fn signed<T>(&self, content: T) -> Request<T> {
        let mut request = Request::new(content);
        if let Some(header) = &self.header {
            request.metadata_mut().insert("authorization", header.clone());
        }
        request
    }

    /// Makes a transaction.
    async fn submit(&mut self, gid: String) -> Result<()> {
        let request = self.signed(request(gid, Shape::Tcc));
        let result = self.client.submit_transaction(request).await?.into_inner().result;
        let outcome = result.context("a result")?.outcome();
        ensure!(outcome == Outcome::Committed, "{outcome:?}");
        Ok(())
    }

    /// Makes a call, and tells whether it was served.
    async fn ask(&mut self) -> Result<bool> {
        let request = self.signed(GetServerInfoRequest::default());
        match self.client.get_server_info(request).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::ResourceExhausted => Ok(false),
            Err(status) => bail!(status),
        }
    }
}

/// A coordinator with one limit.
struct Limited {
    kind: Kind,
    world: World,
    _folder: TempDir,
}

impl Limited {
    async fn start(server: &Server, kind: Kind) -> Result<Self> {
        let folder = TempDir::new()?;
        let mut config = config(server).await;
        match kind {
            Kind::Address => config.address_rate = RATE,
            Kind::Identity => config.identity_rate = RATE,
            Kind::Namespace => config.namespace_rate = RATE,
        }
        if kind != Kind::Address {
            let file = folder.path().join("identities.toml");
            fs::write(&file, kind.identities())?;
            config.identities = file.to_str().context("a path of text")?.parse::<FilePath>()?;
        }
        let prefix = if kind == Kind::Namespace { "other/" } else { "" };
        let world = World::over_network(config, None, prefix).await?;
        Ok(Self { kind, world, _folder: folder })
    }

    /// Connects the caller of this number. The other one has an address of its own.
    async fn connect(&self, number: u8) -> Result<Caller> {
        let server = self.world.running().grpc_address().context("it serves gRPC")?;
        let from = if number == 0 { [127, 0, 0, 3] } else { [127, 0, 0, 2] };
        let endpoint = Endpoint::from_shared(format!("http://{server}"))?.tcp_nodelay(true);
        let channel = endpoint.local_address(Some(from.into())).connect().await?;
        let number = if self.kind == Kind::Identity { number.min(1) } else { number };
        let header = match self.kind {
            Kind::Address => None,
            _ => Some(AsciiMetadataValue::try_from(format!("Bearer {}", token(number).text()))?),
        };
        Ok(Caller { client: CoordinatorServiceClient::new(channel), header })
    }

    /// Starts the greedy one, which goes on until it is told to stop; each task then tells how many calls it made, and how many
    /// of them were served.
    async fn greedy(&self, stop: &Arc<AtomicBool>) -> Result<JoinSet<Result<(u32, u32)>>> {
        let mut tasks = JoinSet::new();
        let interval = Duration::from_secs(1) * u32::from(TASKS) / (RATE * GREED);
        for number in 1..=TASKS {
            let (mut caller, stop) = (self.connect(number).await?, Arc::clone(stop));
            tasks.spawn(async move {
                let (mut made, mut served) = (0, 0);
                let mut ticks = tokio::time::interval(interval);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    served += u32::from(caller.ask().await?);
                    made += 1;
                }
                Ok((made, served))
            });
        }
        Ok(tasks)
    }
}

/// Measures the other one's transactions, one after the other, fewer than its own limit allows.
async fn other(caller: &mut Caller, prefix: &str, time: Duration) -> Result<Vec<Duration>> {
    let (end, mut times) = (Instant::now() + time, Vec::new());
    let mut ticks = tokio::time::interval(Duration::from_secs(1) * 5 / (RATE * 4));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        ticks.tick().await;
        let begun = Instant::now();
        caller.submit(format!("{prefix}-{}", times.len())).await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// Measures a limit of this kind, and tells whether the other one notices little enough.
async fn measure(server: &Server, kind: Kind, time: Duration) -> Result<bool> {
    let limited = Limited::start(server, kind).await?;
    let mut caller = limited.connect(0).await?;
    other(&mut caller, "warm", time.min(Duration::from_secs(1))).await?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let (mut made, mut served, mut greedy_for) = (0, 0, Duration::ZERO);
    for round in 0..ROUNDS {
        alone.extend(other(&mut caller, &format!("alone-{round}"), time).await?);
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let mut greedy = limited.greedy(&stop).await?;
        beside.extend(other(&mut caller, &format!("beside-{round}"), time).await?);
        stop.store(true, Ordering::Relaxed);
        while let Some(task) = greedy.join_next().await {
            let (more, of_them) = task??;
            (made, served) = (made + more, served + of_them);
        }
        greedy_for += begun.elapsed();
    }
    limited.world.stop().await;
    let (alone, beside) = (p99_ms(&mut alone), p99_ms(&mut beside));
    let ratio = beside / alone;
    // With less greed than that it says nothing.
    let greed = f64::from(made) / greedy_for.as_secs_f64() / f64::from(RATE);
    let passed = ratio < RATIO_MAX && greed >= f64::from(GREED) / 2.0;
    let of = kind.name();
    say(&format!(
        "p99 beside a greedy {of} ÷ alone = {beside:.2} ms ÷ {alone:.2} ms = {ratio:.2}, and less than {RATIO_MAX} is needed: \
         {}\n  it called {greed:.0} times as often as its limit allows; {served} of {made} calls were served",
        if passed { "passed" } else { "FAILED" }
    ));
    Ok(passed)
}

/// Measures each kind of limit.
pub(crate) async fn all(time: Duration, check: bool) -> Result<ExitCode> {
    let (server, mut passed) = (Server::durable(), true);
    for kind in Kind::ALL {
        passed &= measure(&server, kind, time).await?;
    }
    Ok(if passed || !check { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn p99_ms(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}
