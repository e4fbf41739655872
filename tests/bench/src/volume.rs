//! Many transactions on the embedded store: the time that they take, and the memory.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use unanimo_coordinator::config::{DatabaseUrl, Period};
use unanimo_coordinator::engine::{Answer, Handle, Until};
use unanimo_coordinator::{Builder, Config, Running};
use unanimo_core::{
    ActionName, BranchId, BranchSpec, Definition, Drive, Gid, Mode, ParticipantName, Start,
    StepSpec, TraceContext,
};

use crate::memory::resident_mib;
use crate::say;
use crate::world::Willing;

/// Transactions under way at once.
const IN_FLIGHT: usize = 256;

/// Longest wait for one of them.
const PATIENCE: Duration = Duration::from_secs(600);

/// Steps of a saga.
const STEPS: usize = 10;

/// Time ahead of a sleeper's start.
const TOMORROW: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs sagas of ten steps in a chain to their ends.
pub(crate) async fn sagas(count: u64) -> Result<ExitCode> {
    let folder = tempfile::tempdir()?;
    let running = start(folder.path()).await?;
    let before = resident_mib()?;
    let (took, peak) = run(running.engine(), count, Until::Ended, |gid| saga(gid, STEPS)).await?;
    let per_second = count_of(count) / took.as_secs_f64();
    say(&format!(
        "{count} sagas of {STEPS} steps ended in {took:.1?}: {per_second:.0} sagas/s, {:.0} steps/s; \
         memory {before} MiB before, {peak} MiB at most, {} MiB after",
        per_second * count_of(STEPS as u64),
        resident_mib()?
    ));
    stop(running).await;
    Ok(ExitCode::SUCCESS)
}

/// Begins sagas that start tomorrow, or whose second step is due tomorrow.
pub(crate) async fn sleepers(count: u64, begun: bool) -> Result<ExitCode> {
    let folder = tempfile::tempdir()?;
    let running = start(folder.path()).await?;
    let before = resident_mib()?;
    let sleeper = move |gid: &str| match begun {
        false => Ok(Definition { start: Start::After(TOMORROW), ..saga(gid, 2)? }),
        true => {
            let mut saga = Definition { timeout: Some(2 * TOMORROW), ..saga(gid, 2)? };
            saga.branches[1].step.delay = Some(TOMORROW);
            Ok(saga)
        }
    };
    let (took, peak) = run(running.engine(), count, Until::Durable, sleeper).await?;
    all_asleep(running.engine()).await?;
    let what = if begun { "whose second step is due" } else { "that start" };
    let after = resident_mib()?;
    say(&format!(
        "{count} sagas {what} tomorrow begun in {took:.1?}: {:.0}/s; memory {before} MiB before, {peak} MiB at most, \
         {after} MiB once all sleep, which is {:.1} bytes for each",
        count_of(count) / took.as_secs_f64(),
        count_of((after.saturating_sub(before)) << 20) / count_of(count),
    ));
    stop(running).await;
    let (began, before) = (Instant::now(), resident_mib()?);
    let running = start(folder.path()).await?;
    say(&format!(
        "restarted in {:.1?}; memory {before} MiB before, {} MiB after",
        began.elapsed(),
        resident_mib()?
    ));
    stop(running).await;
    Ok(ExitCode::SUCCESS)
}

/// Waits until none is in memory.
async fn all_asleep(engine: &Handle) -> Result<()> {
    let began = Instant::now();
    while engine.in_flight().0 > 0 {
        ensure!(began.elapsed() < PATIENCE, "{} are in memory", engine.in_flight().0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn start(folder: &std::path::Path) -> Result<Running> {
    let any = ([127, 0, 0, 1], 0).into();
    let url = format!("sqlite:{}", folder.join("unanimo.db").display());
    let config = Config {
        database_url: DatabaseUrl::new(url),
        listen: any,
        admin_listen: any,
        timeout_max: Period::secs(4 * TOMORROW.as_secs()),
        ..Config::default()
    };
    let bank = ParticipantName::new("bank")?;
    Ok(Builder::new(config).without_network().participant(bank, Arc::new(Willing)).start().await?)
}

async fn stop(running: Running) {
    // The figures are complete: an error of the stop does not matter.
    let _ = running.stop().await;
}

/// Begins `count` transactions, and returns the time and the most memory that it took.
async fn run(
    engine: &Handle,
    count: u64,
    until: Until,
    definition: impl Fn(&str) -> Result<Definition> + Clone + Send + 'static,
) -> Result<(Duration, u64)> {
    let began = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let work = |engine: Handle| {
        let (next, definition) = (Arc::clone(&next), definition.clone());
        async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, anyhow::Error>(());
                }
                let definition = definition(&format!("volume-{number}"))?;
                let by = tokio::time::Instant::now() + PATIENCE;
                let answer = engine.begin(definition, until, by).await?;
                ensure!(matches!(answer, Answer::View(_)), "no answer within {PATIENCE:?}");
            }
        }
    };
    let workers: Vec<_> = (0..IN_FLIGHT).map(|_| tokio::spawn(work(engine.clone()))).collect();
    let mut peak = 0;
    while next.load(Ordering::Relaxed) < count && !workers.iter().any(|w| w.is_finished()) {
        peak = peak.max(resident_mib()?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for worker in workers {
        worker.await??;
    }
    Ok((began.elapsed(), peak.max(resident_mib()?)))
}

/// A saga of so many steps in a chain.
fn saga(gid: &str, steps: usize) -> Result<Definition> {
    let id = |number: usize| BranchId::new(&format!("step-{number}"));
    let step = |number: usize| {
        let mut step = StepSpec::default();
        if number > 0 {
            step.depends_on = vec![id(number - 1)?];
        }
        Ok(BranchSpec {
            branch_id: id(number)?,
            participant: ParticipantName::new("bank")?,
            action: ActionName::new("work")?,
            payload: bytes::Bytes::from_static(b"ten euros").into(),
            mode: Mode::Saga,
            step,
        })
    };
    Ok(Definition {
        gid: Gid::new(gid)?,
        mode: Mode::Saga,
        drive: Drive::Declarative,
        branches: (0..steps).map(step).collect::<Result<_>>()?,
        timeout: None,
        start: Start::AtOnce,
        locks: Vec::new(),
        parent: None,
        children: Vec::new(),
        metadata: Default::default(),
        trace: TraceContext::default(),
        initiator: String::new(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn count_of(number: u64) -> f64 {
    number as f64
}
