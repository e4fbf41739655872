//! Committed transactions per second, beside plain commits on the same server in the same run.
//!
//! Load, coordinator, participants and PostgreSQL with `fsync` are all on one machine. So compare
//! figures with those of the same run only.

mod load;
mod plain;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use unanimo_tests::postgres::Server;

use self::load::Measured;
use self::world::World;

/// Allocator of the program `unanimo`, so that the benchmark measures what the program does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Durable writes that one commit per state change would need: begin, two votes, decision, end.
const WRITES_WITHOUT_BATCHING: f64 = 5.0;

/// Factor by which the journal has to be better than one commit per state change.
const RATIO_MIN: f64 = 3.0;

/// Measures TCC transactions of two branches, each until it is decided.
#[derive(Debug, Parser)]
struct Arguments {
    /// Seconds for each figure.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// End with exit code 1 if 64 transactions in flight through the library are slower than three
    /// times the maximum of one commit per state change.
    #[arg(long)]
    check: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Arguments { seconds, check } = Arguments::parse();
    let time = Duration::from_secs(seconds);
    let server = Server::durable();

    say("what                                      in flight      per s    p50 ms    p99 ms");
    let plain = plain::commits(&server, 64, time).await?;
    print("single-row commits, a connection each", 64, &plain);
    let world = World::over_grpc(&server).await?;
    for in_flight in [1, 256] {
        print("TCC over gRPC, PostgreSQL", in_flight, &world.submit(in_flight, time).await?);
    }
    world.stop().await;
    let world = World::embedded(&server).await?;
    let embedded = world.begin(64, time).await?;
    print("TCC through the library, PostgreSQL", 64, &embedded);
    world.stop().await;

    let ratio = embedded.per_second() / (plain.per_second() / WRITES_WITHOUT_BATCHING);
    let passed = ratio >= RATIO_MIN;
    say(&format!(
        "\nlibrary at 64 in flight ÷ (commits ÷ {WRITES_WITHOUT_BATCHING}) = {ratio:.1}; at least \
         {RATIO_MIN} are needed: {}",
        if passed { "passed" } else { "FAILED" }
    ));
    Ok(if passed || !check { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
