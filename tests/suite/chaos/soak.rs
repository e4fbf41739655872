//! Soak: a long time with everything that goes wrong at once. Half of the participants are dead, one is
//! slow, the coordinator's database is bounced, and the clocks of the coordinator and of the database are
//! set, each for itself, while two healthy banks are at work. Then memory must be flat, the healthy must be served as before, and nothing may be half done.
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

/// Steps of the database's clock, in another order: the two agree and differ in every way.
const DATABASE_CLOCK: [i64; 5] = [9 * 86_400, -3_600, 0, 3_600, -3_600];

/// Factor by which the slowest answers of the healthy may become slower.
const SLOWER_MAX: f64 = 2.0;

/// Memory that a coordinator may take more in the last third of a run than in the one before, in KiB:
/// what an allocator keeps.
const GROWTH_MAX: u64 = 16 * 1024;

fn time() -> Duration {
    let seconds = std::env::var(SECONDS).map_or(60, |text| text.parse().expect(SECONDS));
    Duration::from_secs(seconds)
}

/// Parts that are disturbed, and go on.
struct Disturber<'a> {
    server: &'a Server,
    load: &'a Load,
    /// That of the coordinator, and that of the database.
    clocks: [&'a Clock; 2],
}

/// Disturbances that a run had.
#[derive(Default)]
struct Disturbed {
    bounces: u32,
    /// Steps of the coordinator's clock, and of the database's.
    clock_steps: [u32; 2],
}

impl Disturbed {
    fn has_all(&self) -> bool {
        self.bounces > 0 && self.clock_steps.iter().all(|steps| *steps > 0)
    }
}

impl Disturber<'_> {
    /// Bounces the database and sets the two clocks, in turn, until the time is over, and each at least once.
    async fn disturb(self, end: Instant) -> Disturbed {
        let mut done = Disturbed::default();
        let mut steps = [CLOCK.iter().cycle(), DATABASE_CLOCK.iter().cycle()];
        for round in 0.. {
            tokio::time::sleep(PAUSE).await;
            let is_over = Instant::now() + PAUSE + AWAY >= end;
            if is_over && done.has_all() {
                break;
            }
            match round % 3 {
                0 => {
                    self.bounce().await;
                    done.bounces += 1;
                }
                turn => {
                    let which = turn - 1;
                    self.clocks[which].set_off_by(*steps[which].next().unwrap());
                    done.clock_steps[which] += 1;
                }
            }
        }
        for clock in self.clocks {
            clock.set_off_by(0);
        }
        done
    }

    async fn bounce(&self) {
        self.load.database_goes();
        tokio::task::block_in_place(|| self.server.kill());
        tokio::time::sleep(AWAY).await;
        tokio::task::block_in_place(|| self.server.launch());
        self.load.database_is_back();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes its time and wants the machine for itself: cargo xtask soak"]
async fn l3_l5_s7_a_soak_leaves_memory_flat_the_healthy_served_and_nothing_half_done() {
    let time = time();
    let clocks = [Clock::new(), Clock::new()];
    let [clock, of_database] = &clocks;
    let server = tokio::task::block_in_place(|| Server::with_clock(of_database));
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
    let disturber = Disturber { server: &server, load: &load, clocks: [clock, of_database] };
    let disturbed = disturber.disturb(end).await;
    tokio::time::sleep(end.saturating_duration_since(Instant::now())).await;
    load.enough().await;
    let memory = memory.stop().await;
    let (done, latencies) = load.stop().await;
    let sick = sick.stop().await;
    bystanders.heal(&world.client, &sick).await;

    let Disturbed { bounces, clock_steps: [own, its] } = disturbed;
    say(&format!(
        "the database was bounced {bounces} times, the coordinator's clock set {own} times, the database's {its} times"
    ));
    assert!(disturbed.has_all(), "not everything was disturbed");
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
