//! Samples of the counters, for the numbers of the last ten minutes.

use std::sync::Arc;

use tokio::time::{Instant, MissedTickBehavior};

use crate::engine::Handle;
use crate::env::Env;
use crate::metrics::{Metrics, STEP};

/// Samples of all counters between two of the calls to each participant.
const STEPS_A_MINUTE: u32 = 12;

/// Takes them without end.
pub(super) async fn sample(engine: Handle, env: Arc<dyn Env>, metrics: Arc<Metrics>) {
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut taken = 0;
    loop {
        ticks.tick().await;
        let now = Instant::now();
        metrics.sample(now, env.now(), engine.in_flight().0);
        taken += 1;
        if taken % STEPS_A_MINUTE == 0 {
            metrics.sample_calls(now);
        }
    }
}
