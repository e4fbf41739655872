//! Load of a number of workers for a time.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

/// Time to warm up, in which nothing is counted.
const WARM_UP: Duration = Duration::from_secs(1);

/// Result of a measurement.
pub(crate) struct Measured {
    latencies_us: Histogram<u64>,
    time: Duration,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        count(self.latencies_us.len()) / self.time.as_secs_f64()
    }

    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        count(self.latencies_us.value_at_quantile(quantile)) / 1000.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn count(number: u64) -> f64 {
    number as f64
}

/// Runs workers, each of which repeats one operation, and counts operations that begin after the
/// warm-up and end in time.
pub(crate) async fn run<W, F>(
    workers: impl IntoIterator<Item = W>,
    time: Duration,
) -> Result<Measured>
where
    W: FnMut() -> F + Send + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let start = Instant::now() + WARM_UP;
    let end = start + time;
    let workers: Vec<_> = workers
        .into_iter()
        .map(|mut work| {
            tokio::spawn(async move {
                let mut latencies_us = Histogram::<u64>::new(3)?;
                loop {
                    let began = Instant::now();
                    work().await?;
                    let ended = Instant::now();
                    if ended > end {
                        return Ok::<_, anyhow::Error>(latencies_us);
                    }
                    if began > start {
                        let us = u64::try_from((ended - began).as_micros())?;
                        latencies_us.record(us.max(1))?;
                    }
                }
            })
        })
        .collect();
    let mut latencies_us = Histogram::new(3)?;
    for worker in workers {
        latencies_us.add(worker.await??)?;
    }
    Ok(Measured { latencies_us, time })
}
