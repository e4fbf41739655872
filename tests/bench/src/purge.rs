//! The purge: what each transaction costs it, and what it leaves to those that are written meanwhile.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use unanimo_core::Incarnation;
use unanimo_tests::postgres::Server;

use crate::layout::{create, now, processor_time, wal};
use crate::memory::processor_ticks;
use crate::reads::{DAY, Side};
use crate::say;
use crate::world::{Shape, World};

/// Transactions under way at once: all that the machine can do, and a part of it.
const IN_FLIGHT: [usize; 2] = [64, 4];

/// Time in which the purge comes to know how many begin.
const PACED: Duration = Duration::from_secs(25);

/// Memory that a server would be given, and a log that is not written out all the time.
const SETTINGS: &str = "fsync = on\nshared_buffers = 512MB\nmax_wal_size = 2GB\n";

/// Takes the figures.
pub(crate) async fn measure(count: u64, time: Duration) -> Result<ExitCode> {
    let server = Server::start_with(SETTINGS);
    let mut side = Side::new(server.database().await).await?;
    let me = create(&side.store, "purges").await?;
    say(&format!(
        "{:<10} {:>12} {:>14} {:>14} {:>12}",
        "each", "µs in all", "of PostgreSQL", "of the process", "bytes of WAL"
    ));
    side.end(count, 60).await?;
    step(&mut side, me, "strip").await?;
    step(&mut side, me, "delete").await?;
    side.fence_all().await?;

    for in_flight in IN_FLIGHT {
        // Of the round before.
        let rest = create(&side.store, "rest").await?;
        while side.strip(rest).await? + side.delete(rest).await? > 0 {}
        side.fence_all().await?;
        let alone = beside(&mut side, in_flight, time).await?;
        side.end(count, 60).await?;
        let strips = create(&side.store, "strips").await?;
        while side.strip(strips).await? > 0 {}
        side.end(count, 60).await?;
        let due = beside(&mut side, in_flight, time).await?;
        say(&format!("{:.2} of the throughput is left", due / alone));
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs one step until nothing is left.
async fn step(side: &mut Side, me: Incarnation, what: &str) -> Result<()> {
    let before =
        (processor_time(&mut side.raw).await?, processor_ticks()?, wal(&mut side.raw).await?);
    let (started, mut all) = (Instant::now(), 0);
    loop {
        let purged = match what {
            "strip" => side.strip(me).await?,
            _ => side.delete(me).await?,
        };
        if purged == 0 {
            break;
        }
        all += purged;
    }
    let each = |value: f64| value / all as f64;
    let server = processor_time(&mut side.raw).await?.saturating_sub(before.0);
    say(&format!(
        "{what:<10} {:>12.1} {:>14.1} {:>14.1} {:>12.0}",
        each(started.elapsed().as_micros() as f64),
        each(server as f64 * 10_000.0),
        each((processor_ticks()? - before.1) as f64 * 10_000.0),
        each((wal(&mut side.raw).await? - before.2) as f64),
    ));
    Ok(())
}

/// Writes as much as so many callers can beside the purge, which begins when its pace is known, and returns how much a second.
async fn beside(side: &mut Side, in_flight: usize, time: Duration) -> Result<f64> {
    let forget = sqlx::query("UPDATE unanimo.cluster SET purge_clock_ms = NULL");
    forget.execute(&mut side.raw).await?;
    let world = World::on(&side.url, DAY).await?;
    world.begin(Shape::Tcc, in_flight, PACED).await?;
    // The clocks are believed now: somebody has purged a moment ago.
    let trust = sqlx::query("UPDATE unanimo.cluster SET purge_clock_ms = $1");
    trust.bind(i64::try_from(now().0)?).execute(&mut side.raw).await?;
    let (before, started) = (side.due().await?, Instant::now());
    let measured = world.begin(Shape::Tcc, in_flight, time * 4).await?;
    let took = started.elapsed();
    let after = side.due().await?;
    world.stop().await;
    side.fence_all().await?;
    let each = |n: i64| n as f64 / took.as_secs_f64();
    let (stripped, deleted) = (each(before.0 - after.0), each(before.1 - after.1));
    let written = measured.per_second();
    say(&format!(
        "{in_flight:>3} in flight, {:>7} due: {written:>6.0} TCC/s, p99 {:>5.1} ms; {stripped:>6.0} stripped and {deleted:>6.0} \
         deleted a second, {:.2} times as many; {} and {} are left",
        before.1,
        measured.quantile_ms(0.99),
        stripped.min(deleted) / written,
        after.0,
        after.1,
    ));
    Ok(written)
}
