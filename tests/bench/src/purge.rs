//! The purge: what each transaction costs it, and what it leaves to those that are written meanwhile.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::Executor;
use unanimo_core::Incarnation;
use unanimo_tests::postgres::Server;

use crate::layout::{create, now, processor_time, wal};
use crate::memory::processor_ticks;
use crate::reads::{DAY, Load, Side};
use crate::say;
use crate::world::{Shape, World};

/// Transactions under way at once.
const IN_FLIGHT: usize = 64;

/// Memory that a server would be given, and a log that is not written out all the time.
const SETTINGS: &str = "fsync = on\nshared_buffers = 512MB\nmax_wal_size = 2GB\n";

/// Time from the deletion of details until the gid may go, and a little: half of its retention.
const HALF: Duration = Duration::from_secs(13 * 3_600);

/// Takes the figures.
pub(crate) async fn measure(count: i64, time: Duration) -> Result<ExitCode> {
    let server = Server::start_with(SETTINGS);
    let mut side = Side::new(server.database().await).await?;
    let me = create(&side.store, "purges").await?;
    say(&format!(
        "{:<10} {:>12} {:>14} {:>14} {:>12}",
        "each", "µs in all", "of PostgreSQL", "of the process", "bytes of WAL"
    ));
    load(&mut side, 1, count).await?;
    step(&mut side, me, "strip").await?;
    step(&mut side, me, "delete").await?;
    side.fence_all().await?;

    let alone = beside(&mut side, "nothing is due", time).await?;
    load(&mut side, 2, count).await?;
    strip(&mut side, HALF).await?;
    load(&mut side, 3, count).await?;
    let due = beside(&mut side, "all of it is due", time).await?;
    say(&format!("{:.2} of the throughput is left", due / alone));
    Ok(ExitCode::SUCCESS)
}

async fn load(side: &mut Side, number: i32, count: i64) -> Result<()> {
    let since_ms = i64::try_from(now().0)? - 60 * 3_600_000;
    side.load(Load { number, count, since_ms, span_ms: 3_600_000 }, false).await?;
    side.raw.execute("VACUUM ANALYZE").await?;
    Ok(())
}

/// Deletes the details of all that is due, so long ago.
async fn strip(side: &mut Side, ago: Duration) -> Result<()> {
    let me = create(&side.store, "strips").await?;
    let at = unanimo_core::Timestamp(now().0 - u64::try_from(ago.as_millis())?);
    while side.store.purge().strip(me, DAY, at).await? > 0 {}
    side.fence_all().await
}

/// Runs one step until nothing is left.
async fn step(side: &mut Side, me: Incarnation, what: &str) -> Result<()> {
    let at = now();
    let before =
        (processor_time(&mut side.raw).await?, processor_ticks()?, wal(&mut side.raw).await?);
    let (started, mut all) = (Instant::now(), 0);
    loop {
        let purge = side.store.purge();
        let purged = match what {
            "strip" => purge.strip(me, DAY, at).await?,
            _ => purge.delete(me, DAY, at.after(HALF)).await?,
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

/// Writes as much as can be written beside the purge, and returns how much a second.
async fn beside(side: &mut Side, when: &str, time: Duration) -> Result<f64> {
    // The clocks are believed from the start: somebody has purged a moment ago.
    let trust = sqlx::query("UPDATE unanimo.cluster SET purge_clock_ms = $1");
    trust.bind(i64::try_from(now().0)?).execute(&mut side.raw).await?;
    let world = World::on(&side.url, DAY).await?;
    let (before, started) = (side.due().await?, Instant::now());
    let measured = world.begin(Shape::Tcc, IN_FLIGHT, time * 5).await?;
    let took = started.elapsed();
    let after = side.due().await?;
    world.stop().await;
    side.fence_all().await?;
    let each = |n: i64| n as f64 / took.as_secs_f64();
    say(&format!(
        "{when:<18} {:>6.0} TCC/s, p99 {:>6.1} ms; {:.0} stripped and {:.0} deleted a second",
        measured.per_second(),
        measured.quantile_ms(0.99),
        each(before.0 - after.0),
        each(before.1 - after.1),
    ));
    Ok(measured.per_second())
}
