//! Soak: a long time with everything that goes wrong at once. Half of the participants are dead, one is
//! slow, the coordinator's database is bounced and its clock is set, while two healthy banks are at
//! work. Then memory must be flat, the healthy must be served as before, and nothing may be half done.
//!
//! `cargo xtask soak --minutes N` runs it; it wants the machine for itself. Half a minute of it is a test as any other,
//! beside which others run.

mod bystanders;
mod load;
mod watch;

use std::time::{Duration, Instant};

use unanimo_tests::clock::Clock;
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use self::bystanders::Bystanders;
use self::load::Load;
use self::watch::Memory;
use super::bank::Bank;
use super::process;
use super::{Mode, World};

/// Name of the environment variable with the seconds that a run takes.
const SECONDS: &str = "SOAK_SECONDS";

/// Part of the time in which nothing is disturbed.
const UNDISTURBED: f64 = 0.25;

/// Time between two faults.
const PAUSE: Duration = Duration::from_secs(5);

/// Time for which the database is away.
const AWAY: Duration = Duration::from_secs(1);

/// Steps of the coordinator's clock, in seconds from the true time.
const CLOCK: [i64; 4] = [3_600, -3_600, 9 * 86_400, 0];

/// Factor by which the slowest answers of the healthy may become slower, on a machine with nothing else to do.
const SLOWER_MAX: f64 = 2.0;

/// The same where other tests run, which begin and end at any moment. A coordinator that lets the sick hold up the
/// healthy makes them wait for many times as long: a hundred times, in one that did.
#[cfg(target_os = "linux")]
const SLOWER_MAX_BESIDE_OTHERS: f64 = 20.0;

/// Time of the test beside which others run.
#[cfg(target_os = "linux")]
const SHORT: Duration = Duration::from_secs(30);

/// Memory that a coordinator may take more in the last third of a run than in the one before, in KiB:
/// what an allocator keeps.
const GROWTH_MAX: u64 = 16 * 1024;

fn time() -> Duration {
    let seconds = std::env::var(SECONDS).map_or(60, |text| text.parse().expect(SECONDS));
    Duration::from_secs(seconds)
}

/// Bounces the database and sets the clock, in turn, until the time is over.
async fn disturb(server: &Server, clock: &Clock, load: &Load, end: Instant) {
    for (round, step) in CLOCK.iter().cycle().enumerate() {
        tokio::time::sleep(PAUSE).await;
        if Instant::now() + PAUSE + AWAY >= end {
            break;
        }
        if round % 2 == 0 {
            load.database_goes();
            tokio::task::block_in_place(|| server.kill());
            tokio::time::sleep(AWAY).await;
            tokio::task::block_in_place(|| server.launch());
            load.database_is_back();
        } else {
            clock.set_off_by(*step);
        }
    }
    clock.set_off_by(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes its time and wants the machine for itself: cargo xtask soak"]
async fn l3_l5_s7_a_soak_leaves_memory_flat_the_healthy_served_and_nothing_half_done() {
    soak(time(), SLOWER_MAX).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_l5_s7_half_a_minute_of_the_soak() {
    soak(SHORT, SLOWER_MAX_BESIDE_OTHERS).await;
}

async fn soak(time: Duration, slower_max: f64) {
    let (server, clock) = (Server::start(), Clock::new());
    let banks = [Bank::open("bank-a", Mode::Tcc).await, Bank::open("bank-b", Mode::Tcc).await];
    let bystanders = Bystanders::start().await;
    let healthy = banks.iter().flat_map(|bank| participant(&bank.name, &bank.endpoint));
    let arguments = healthy.chain(bystanders.arguments());
    let arguments = process::arguments(&server.database().await, arguments, "4s");
    let coordinator = process::coordinator_under(arguments, clock.variables()).await;
    let mut world = World::around(Mode::Tcc, banks, coordinator);
    let pid = until("the coordinator to start", async || world.coordinator.pid()).await;
    let memory = Memory::watch(pid);

    let began = Instant::now();
    let load = Load::start(&world.client);
    tokio::time::sleep(time.mul_f64(UNDISTURBED)).await;
    load.enough().await;
    load.disturbed();
    let sick = bystanders.burden(&world.client);
    disturb(&server, &clock, &load, began + time).await;
    tokio::time::sleep(time.saturating_sub(began.elapsed())).await;
    load.enough().await;
    let memory = memory.stop().await;
    let (done, latencies) = load.stop().await;
    let sick = sick.stop().await;
    bystanders.heal();

    latencies.check(slower_max);
    memory.check(GROWTH_MAX);
    bystanders.check(&world.client, &sick).await;
    world.done = done;
    world.check().await;
}

#[expect(clippy::print_stdout, reason = "whoever runs it wants the figures")]
fn say(line: &str) {
    println!("{line}");
}

/// Returns the arguments that name a participant.
fn participant(name: &str, endpoint: &str) -> [String; 2] {
    ["--participant".to_owned(), format!("{name}={endpoint}")]
}
