//! Soak: a long time with everything that goes wrong at once. Half of the participants are dead, one is
//! slow, the coordinator's database is bounced and its clock is set, while two healthy banks are at
//! work. Then memory must be flat, the healthy must be served as before, and nothing may be half done.
//!
//! `cargo xtask soak --minutes N` runs it. It compares times, and so wants the machine for itself: `cargo xtask ci`
//! runs a short one after the tests.

mod bystanders;
mod load;
mod owed;
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

/// Factor by which the slowest answers of the healthy may become slower.
const SLOWER_MAX: f64 = 2.0;

/// Memory that a coordinator may take more in the last third of a run than in the one before, in KiB:
/// what an allocator keeps.
const GROWTH_MAX: u64 = 16 * 1024;

fn time() -> Duration {
    let seconds = std::env::var(SECONDS).map_or(60, |text| text.parse().expect(SECONDS));
    Duration::from_secs(seconds)
}

/// Disturbances that a run had.
#[derive(Default)]
struct Disturbed {
    bounces: u32,
    clock_steps: u32,
}

/// Bounces the database and sets the clock, in turn, until the time is over, and each at least once.
async fn disturb(server: &Server, clock: &Clock, load: &Load, end: Instant) -> Disturbed {
    let mut done = Disturbed::default();
    for (round, step) in CLOCK.iter().cycle().enumerate() {
        tokio::time::sleep(PAUSE).await;
        let is_over = Instant::now() + PAUSE + AWAY >= end;
        if is_over && done.bounces > 0 && done.clock_steps > 0 {
            break;
        }
        if round % 2 == 0 {
            load.database_goes();
            tokio::task::block_in_place(|| server.kill());
            tokio::time::sleep(AWAY).await;
            tokio::task::block_in_place(|| server.launch());
            load.database_is_back();
            done.bounces += 1;
        } else {
            clock.set_off_by(*step);
            done.clock_steps += 1;
        }
    }
    clock.set_off_by(0);
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes its time and wants the machine for itself: cargo xtask soak"]
async fn l3_l5_s7_a_soak_leaves_memory_flat_the_healthy_served_and_nothing_half_done() {
    let time = time();
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

    let load = Load::start(&world.client);
    tokio::time::sleep(time.mul_f64(UNDISTURBED)).await;
    load.enough().await;
    // A busy machine takes longer until here: that takes nothing from the disturbed time.
    let end = Instant::now() + time.mul_f64(1.0 - UNDISTURBED);
    load.disturbed();
    let sick = bystanders.burden(&world.client);
    let disturbed = disturb(&server, &clock, &load, end).await;
    tokio::time::sleep(end.saturating_duration_since(Instant::now())).await;
    load.enough().await;
    let memory = memory.stop().await;
    let (done, latencies) = load.stop().await;
    let sick = sick.stop().await;
    bystanders.heal(&world.client, &sick).await;

    let Disturbed { bounces, clock_steps } = disturbed;
    say(&format!("the database was bounced {bounces} times, the clock set {clock_steps} times"));
    assert!(bounces > 0 && clock_steps > 0, "nothing was disturbed");
    let slower = latencies.tell();
    memory.check(GROWTH_MAX);
    bystanders.check(&world.client, &sick).await;
    world.done = done;
    world.check().await;
    // The last: on a machine that others use, too, all else still tells something.
    assert!(slower <= SLOWER_MAX, "L3: p99 {slower:.2} times as long, at most {SLOWER_MAX}");
}

#[expect(clippy::print_stdout, reason = "whoever runs it wants the figures")]
fn say(line: &str) {
    println!("{line}");
}

/// Returns the arguments that name a participant.
fn participant(name: &str, endpoint: &str) -> [String; 2] {
    ["--participant".to_owned(), format!("{name}={endpoint}")]
}
