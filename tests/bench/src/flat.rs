//! Flatness: what everything costs beside many finished transactions, and beside few, in turn in the same run; and the
//! same while somebody holds a snapshot of the database open.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::{Connection, Executor, PgConnection};
use unanimo_coordinator::store::Retention;
use unanimo_tests::postgres::Server;

use crate::layout::{costs, create, now};
use crate::reads::{DAY, Figures, Load, Side};
use crate::say;
use crate::world::{Shape, World};

/// Finished transactions of the smaller side: more than a page of a list looks at.
const FEW: i64 = 10_000;

/// Transactions that one run of the purge takes for each of its two steps.
const RUN: u64 = 2_000;

/// Transactions on each side that are purged, beside all others, at a time.
const DUE: u64 = 30_000;

/// Transactions that are due while others are written: more than are purged meanwhile.
const DUE_UNDER_LOAD: u64 = 400_000;

/// Repetitions of what is timed. The middle one counts.
const TIMES: usize = 15;

/// Batches of each kind between two turns of the sides, each of which has a session of its own: many, so that what a session
/// does at first counts little.
const ROUNDS: usize = 20;

/// Pause between load and what is read afterwards.
const QUIET: Duration = Duration::from_secs(15);

/// Transactions under way at once.
const IN_FLIGHT: usize = 64;

/// Memory that a server with so many rows would be given, and a log that is not written out all the time.
pub(crate) const SETTINGS: &str = "fsync = on\nshared_buffers = 1GB\nmax_wal_size = 2GB\n";

/// Retention by which nothing is due.
pub(crate) const LONG: Retention =
    Retention { details: Duration::from_secs(30 * 86_400), gids: Duration::from_secs(60 * 86_400) };

type Sides = [Side; 2];

/// Takes the figures.
pub(crate) async fn measure(count: i64, time: Duration, hold: Duration) -> Result<ExitCode> {
    let server = Server::start_with(SETTINGS);
    let mut sides =
        [Side::new(server.database().await).await?, Side::new(server.database().await).await?];
    let loading = Instant::now();
    for (side, count) in sides.iter_mut().zip([FEW, count]) {
        let hours = |hours: i64| i64::try_from(now().0).unwrap_or_default() - hours * 3_600_000;
        let span_ms = 3_600_000;
        side.end(2 * DUE, 72).await?;
        side.load(Load { number: 2, count, since_ms: hours(20), span_ms: 19 * span_ms }, true)
            .await?;
        side.raw.execute("VACUUM ANALYZE").await?;
    }
    let bytes: i64 = sqlx::query_scalar("SELECT pg_database_size(current_database())")
        .fetch_one(&mut sides[1].raw)
        .await?;
    say(&format!("{count} finished, {} MiB, loaded in {:.0?}", bytes >> 20, loading.elapsed()));
    say(&format!("{:<34} {FEW:>10} {count:>10}   ratio", "finished transactions"));

    reads(&mut sides, "").await?;
    written(&mut sides).await?;
    purged(&mut sides, "purge of 2,000, ms").await?;
    vacuumed(&mut sides).await?;
    throughput(&sides, time).await?;
    held(&mut sides, time, hold).await?;
    purged_under_load(&mut sides[1], time).await?;
    Ok(ExitCode::SUCCESS)
}

/// Prints each figure of both sides.
fn tell(prefix: &str, figures: &[Figures; 2]) {
    let [few, many] = figures.each_ref().map(Figures::middle);
    for ((what, few), (_, many)) in few.iter().zip(many) {
        let what = format!("{prefix}{what}");
        say(&format!("{what:<34} {few:>10.2} {many:>10.2}   {:.2}", many / few));
    }
}

async fn reads(sides: &mut Sides, prefix: &str) -> Result<()> {
    let mut figures: [Figures; 2] = Default::default();
    for side in sides.iter() {
        // A coordinator does that now and then, and another one has worked here.
        let me = create(&side.store, "keeps names").await?;
        side.store.transactions().keep_names(me).await?;
    }
    for _ in 0..TIMES {
        for (side, figures) in sides.iter_mut().zip(&mut figures) {
            side.read(figures).await?;
        }
    }
    tell(prefix, &figures);
    Ok(())
}

/// Measures what PostgreSQL spends on each transaction.
async fn written(sides: &mut Sides) -> Result<()> {
    let mut figures: [Figures; 2] = Default::default();
    for _ in 0..TIMES / 3 {
        for (side, figures) in sides.iter_mut().zip(&mut figures) {
            let me = create(&side.store, "writes").await?;
            let costs = costs(&side.store, me, &mut side.raw, ROUNDS).await?;
            figures.add("processor time of a TCC, µs", costs.processor_us);
            figures.add("WAL of a TCC, bytes", costs.wal);
        }
    }
    tell("", &figures);
    Ok(())
}

/// Purges what is due, in turn, until all of it is gone.
async fn purged(sides: &mut Sides, what: &'static str) -> Result<()> {
    let mut figures: [Figures; 2] = Default::default();
    let mut owners = Vec::new();
    for side in sides.iter() {
        owners.push(create(&side.store, "purges").await?);
    }
    // Both steps of a run take as many.
    for _ in 0..DUE / RUN {
        for ((side, figures), me) in sides.iter().zip(&mut figures).zip(&owners) {
            let started = Instant::now();
            let purged = (side.strip(*me).await?, side.delete(*me).await?);
            ensure!(purged == (RUN, RUN), "as many are due: {purged:?}");
            figures.add(what, started.elapsed().as_secs_f64() * 1000.0);
        }
    }
    tell("", &figures);
    Ok(())
}

async fn vacuumed(sides: &mut Sides) -> Result<()> {
    let mut figures: [Figures; 2] = Default::default();
    for (side, figures) in sides.iter_mut().zip(&mut figures) {
        let started = Instant::now();
        side.raw.execute("VACUUM unanimo.log").await?;
        side.raw.execute("VACUUM unanimo.gids").await?;
        figures.add("vacuum behind the purge, s", started.elapsed().as_secs_f64());
    }
    tell("", &figures);
    Ok(())
}

async fn worlds(sides: &Sides) -> Result<[World; 2]> {
    for side in sides {
        side.fence_all().await?;
    }
    Ok([World::on(&sides[0].url, LONG).await?, World::on(&sides[1].url, LONG).await?])
}

async fn loaded(world: &World, time: Duration, figures: &mut Figures) -> Result<()> {
    let measured = world.begin(Shape::Tcc, IN_FLIGHT, time).await?;
    figures.add("TCC per second", measured.per_second());
    figures.add("p99, ms", measured.quantile_ms(0.99));
    Ok(())
}

async fn throughput(sides: &Sides, time: Duration) -> Result<()> {
    let (worlds, mut figures) = (worlds(sides).await?, <[Figures; 2]>::default());
    for _ in 0..TIMES / 3 {
        for (world, figures) in worlds.iter().zip(&mut figures) {
            loaded(world, time, figures).await?;
        }
    }
    tell("", &figures);
    for world in worlds {
        world.stop().await;
    }
    Ok(())
}

/// Holds a snapshot of the larger side open, under load; and then takes the figures with it.
async fn held(sides: &mut Sides, time: Duration, hold: Duration) -> Result<()> {
    let mut holder = PgConnection::connect(&sides[1].url).await?;
    holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    holder.execute("SELECT 1 FROM unanimo.parked LIMIT 1").await?;
    let (worlds, mut figures) = (worlds(sides).await?, <[Figures; 2]>::default());
    let mut last: [Figures; 2] = Default::default();
    let started = Instant::now();
    while started.elapsed() < hold {
        for (side, world) in worlds.iter().enumerate() {
            loaded(world, time, &mut figures[side]).await?;
            if started.elapsed() > hold * 4 / 5 {
                loaded(world, time, &mut last[side]).await?;
            }
        }
    }
    say(&format!("-- with a snapshot of the larger one held open for {hold:?} under load"));
    tell("", &figures);
    tell("its last part: ", &last);
    for world in worlds {
        world.stop().await;
    }
    // What was begun within the last seconds is looked through for what is open: that is load, and no history.
    tokio::time::sleep(QUIET).await;
    reads(sides, "").await?;
    purged(sides, "purge of 2,000, ms").await?;
    holder.execute("COMMIT").await?;
    Ok(())
}

/// Lets a coordinator purge while it is given as much work as it takes.
async fn purged_under_load(side: &mut Side, time: Duration) -> Result<()> {
    let me = create(&side.store, "strips").await?;
    side.end(DUE_UNDER_LOAD, 60).await?;
    while side.strip(me).await? > 0 {}
    side.end(DUE_UNDER_LOAD, 60).await?;
    // The clocks are believed from the start: somebody has purged a moment ago.
    let trust = sqlx::query("UPDATE unanimo.cluster SET purge_clock_ms = $1");
    trust.bind(i64::try_from(now().0)?).execute(&mut side.raw).await?;
    side.fence_all().await?;
    let world = World::on(&side.url, DAY).await?;
    let (before, started) = (side.due().await?, Instant::now());
    let mut figures = Figures::default();
    loaded(&world, time * 3, &mut figures).await?;
    let took = started.elapsed();
    let after = side.due().await?;
    world.stop().await;
    let is_left = after.0 > 0 && before.1 - after.1 < i64::try_from(DUE_UNDER_LOAD)?;
    ensure!(is_left, "there was something to purge all the time: {before:?}, {after:?}");
    let written = figures.middle().first().map_or(0.0, |(_, value)| *value);
    let each = |n: i64| n as f64 / took.as_secs_f64();
    let (stripped, deleted) = (each(before.0 - after.0), each(before.1 - after.1));
    say(&format!(
        "-- under load: {written:.0} TCC per second written; {stripped:.0} per second stripped, {deleted:.0} deleted, \
         which is {:.2} times as many",
        stripped.min(deleted) / written
    ));
    Ok(())
}
