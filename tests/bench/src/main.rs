//! Committed transactions per second, beside plain commits on the same server in the same run.
//!
//! Load, coordinator, participants and PostgreSQL with `fsync` are all on one machine. So compare
//! figures with those of the same run only.

mod conversion;
mod flat;
mod greedy;
mod layout;
mod load;
mod memory;
mod owed;
mod pages;
mod plain;
mod purge;
mod reads;
mod recovery;
mod tls;
mod volume;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use unanimo_tests::postgres::Server;

use self::load::Measured;
use self::world::{Shape, World};

/// Allocator of the program `unanimo`, so that the benchmark measures what the program does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Durable writes that one commit per state change would need: begin, two votes, decision, end.
const WRITES_WITHOUT_BATCHING: f64 = 5.0;

/// Factor by which the journal has to be better than one commit per state change.
const RATIO_MIN: f64 = 3.0;

/// Factor by which a saga of two steps, which is done after its phase one, has to be faster than a TCC
/// transaction of two branches.
const SAGA_RATIO_MIN: f64 = 1.2;

/// Measures TCC transactions of two branches and sagas of two steps, each until it is decided.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    measure: Option<Measure>,
    /// Seconds for each figure.
    #[arg(long, default_value_t = 5, global = true)]
    seconds: u64,
    /// End with exit code 1 if 64 transactions in flight through the library are slower than three
    /// times the maximum of one commit per state change, sagas slower than 1.2 times TCC, or transactions over TLS
    /// slower than 0.85 times those without.
    #[arg(long, global = true)]
    check: bool,
}

#[derive(Debug, Subcommand)]
enum Measure {
    /// Runs sagas of ten steps to their ends on the embedded store, and tells the memory that it took.
    Sagas {
        /// Number of sagas.
        #[arg(long, default_value_t = 10_000)]
        count: u64,
    },
    /// Begins sagas that start tomorrow on the embedded store, and tells the memory that they take, before and
    /// after a restart.
    Sleepers {
        /// Number of sagas.
        #[arg(long, default_value_t = 1_000_000)]
        count: u64,
        /// They begin now: the first step is done, and the second one is due tomorrow.
        #[arg(long)]
        begun: bool,
    },
    /// Measures TLS's cost alone: transactions over gRPC with TLS on each connection, and without, in turns. With `--check`
    /// the exit code is 1 if it takes more than 15 % of the throughput in the middle.
    Tls {
        /// Number of rounds, each of which measures both sides.
        #[arg(long, default_value_t = tls::ROUNDS)]
        rounds: usize,
    },
    /// Measures what a caller's transactions take beside a greedy one, which calls a hundred times as often as its limit allows:
    /// limits of addresses, identities and namespaces. With `--check` the exit code is 1 if p99 is twice what it is without.
    Greedy,
    /// Measures PostgreSQL's processor time, log and space for each TCC of two branches.
    Layout,
    /// Measures everything beside many finished transactions and beside few, in turn, and then with a snapshot that is
    /// held open.
    Flat {
        /// Number of finished transactions.
        #[arg(long, default_value_t = 1_000_000)]
        count: i64,
        /// Seconds for which a snapshot is held open under load.
        #[arg(long, default_value_t = 60)]
        hold: u64,
    },
    /// Starts on a database with many transactions that are owed to a participant which cannot be reached, and tells the
    /// memory that they take, the time of others' transactions beside them, and how they end once it is back.
    Owed {
        /// Number of transactions that are owed.
        #[arg(long, default_value_t = 1_000_000)]
        count: i64,
    },
    /// Measures the purge: what it spends on each transaction, and what is left to others beside it.
    Purge {
        /// Number of transactions that are due, for each of its two steps.
        #[arg(long, default_value_t = 100_000)]
        count: u64,
    },
    /// Asks for the pages for people, and for lists of the API over HTTP, beside many finished transactions; and for those about
    /// 5,000 that need a person, beside the others. With `--check` the exit code is 1 if one of them takes 200 ms or more,
    /// once.
    Pages {
        /// Number of finished transactions.
        #[arg(long, default_value_t = 1_000_000)]
        count: i64,
    },
    /// Has a process begin many transactions, kills it while all are in flight, starts again, and tells how soon all are back.
    /// With `--check` the exit code is 1 if that takes ten seconds or more.
    Recovery {
        /// Number of transactions.
        #[arg(long, default_value_t = 100_000)]
        count: usize,
    },
    /// The process that `recovery` kills.
    #[command(hide = true)]
    InFlight {
        #[arg(long)]
        url: String,
        #[arg(long)]
        count: usize,
    },
    /// Starts on a database of the version before the log with so many transactions, and tells the time and the memory
    /// that the conversion takes.
    Conversion {
        /// Number of transactions.
        #[arg(long, default_value_t = 100_000)]
        count: i64,
    },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Arguments { measure, seconds, check } = Arguments::parse();
    match measure {
        Some(Measure::Sagas { count }) => return volume::sagas(count).await,
        Some(Measure::Sleepers { count, begun }) => return volume::sleepers(count, begun).await,
        Some(Measure::Tls { rounds }) => {
            return tls::alone(Duration::from_secs(seconds), rounds, check).await;
        }
        Some(Measure::Greedy) => {
            return greedy::all(Duration::from_secs(seconds), check).await;
        }
        Some(Measure::Layout) => return layout::measure().await,
        Some(Measure::Flat { count, hold }) => {
            return flat::measure(count, Duration::from_secs(seconds), Duration::from_secs(hold))
                .await;
        }
        Some(Measure::Owed { count }) => {
            return owed::measure(count, Duration::from_secs(seconds)).await;
        }
        Some(Measure::Purge { count }) => {
            return purge::measure(count, Duration::from_secs(seconds)).await;
        }
        Some(Measure::Pages { count }) => return pages::measure(count, check).await,
        Some(Measure::Recovery { count }) => return recovery::measure(count, check).await,
        Some(Measure::InFlight { url, count }) => return recovery::in_flight(&url, count).await,
        Some(Measure::Conversion { count }) => return conversion::measure(count).await,
        None => {}
    }
    let time = Duration::from_secs(seconds);
    let server = Server::durable();

    say("what                                      in flight      per s    p50 ms    p99 ms");
    let plain = plain::commits(&server, 64, time).await?;
    print("single-row commits, a connection each", 64, &plain);
    let world = World::over_grpc(&server).await?;
    let alone = world.submit(Shape::Tcc, 1, time).await?;
    print("TCC over gRPC, PostgreSQL", 1, &alone);
    let tcc = world.submit(Shape::Tcc, 256, time).await?;
    print("TCC over gRPC, PostgreSQL", 256, &tcc);
    let saga = world.submit(Shape::Saga, 256, time).await?;
    print("sagas over gRPC, PostgreSQL", 256, &saga);
    let grpc_ratio = saga.per_second() / tcc.per_second();
    world.stop().await;
    let world = World::embedded(&server).await?;
    let embedded = world.begin(Shape::Tcc, 64, time).await?;
    print("TCC through the library, PostgreSQL", 64, &embedded);
    let saga = world.begin(Shape::Saga, 64, time).await?;
    print("sagas through the library, PostgreSQL", 64, &saga);
    let many = world.begin(Shape::Tcc, 256, time).await?;
    print("TCC through the library, PostgreSQL", 256, &many);
    let many_sagas = world.begin(Shape::Saga, 256, time).await?;
    print("sagas through the library, PostgreSQL", 256, &many_sagas);
    world.stop().await;
    let world = World::without_history(&server).await?;
    let unrecorded = world.begin(Shape::Saga, 64, time).await?;
    print("the same, without recorded history", 64, &unrecorded);
    let many_unrecorded = world.begin(Shape::Saga, 256, time).await?;
    print("the same, without recorded history", 256, &many_unrecorded);
    world.stop().await;

    let ratio = embedded.per_second() / (plain.per_second() / WRITES_WITHOUT_BATCHING);
    let passed = ratio >= RATIO_MIN;
    say(&format!(
        "\nlibrary at 64 in flight ÷ (commits ÷ {WRITES_WITHOUT_BATCHING}) = {ratio:.1}; at least \
         {RATIO_MIN} are needed: {}",
        if passed { "passed" } else { "FAILED" }
    ));
    let over = |sagas: &Measured, tcc: &Measured| sagas.per_second() / tcc.per_second();
    let (few, few_unrecorded) = (over(&saga, &embedded), over(&unrecorded, &embedded));
    let (more, more_unrecorded) = (over(&many_sagas, &many), over(&many_unrecorded, &many));
    let sagas_passed = grpc_ratio >= SAGA_RATIO_MIN;
    say(&format!(
        "sagas of two steps ÷ TCC of two branches = {grpc_ratio:.2} over gRPC, of which at least \
         {SAGA_RATIO_MIN} are needed: {}\n  through the library {few:.2} at 64 in flight and {more:.2} at 256; without \
         recorded history {few_unrecorded:.2} and {more_unrecorded:.2}",
        if sagas_passed { "passed" } else { "FAILED" }
    ));
    let tls_passed = tls::measure(&server, round_of(time), tls::ROUNDS).await?;
    let passed = passed && sagas_passed && tls_passed;
    Ok(if passed || !check { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the time of one side of a round, where one figure has several rounds.
fn round_of(time: Duration) -> Duration {
    (time / 3).max(Duration::from_secs(1))
}

fn print(what: &str, in_flight: usize, measured: &Measured) {
    let (p50, p99) = (measured.quantile_ms(0.5), measured.quantile_ms(0.99));
    say(&format!(
        "{what:<40} {in_flight:>10} {:>10.0} {p50:>9.2} {p99:>9.2}",
        measured.per_second()
    ));
}

#[expect(clippy::print_stdout, reason = "figures are what it is asked for")]
fn say(line: &str) {
    println!("{line}");
}
