//! Memory of the coordinator's process over time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Pid;
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_millis(250);

pub(super) struct Memory {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<u64>>,
    pid: Pid,
}

/// Resident memory, in KiB, at equal distances of time.
pub(super) struct Samples(Vec<u64>);

impl Memory {
    pub(super) fn watch(pid: Pid) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut samples = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                samples.extend(resident_kib(pid));
                tokio::time::sleep(EVERY).await;
            }
            samples
        });
        Self { stop, task, pid }
    }

    /// Ends the watch.
    pub(super) async fn stop(self) -> Samples {
        self.stop.store(true, Ordering::Relaxed);
        assert!(resident_kib(self.pid).is_some(), "the coordinator lived through all of it");
        Samples(self.task.await.unwrap())
    }
}

impl Samples {
    /// Checks that the most of the last third is not much more than that of the second (promise L5).
    pub(super) fn check(&self, growth_max: u64) {
        let third = self.0.len() / 3;
        let most = |range: std::ops::Range<usize>| self.0[range].iter().copied().max().unwrap();
        let (first, middle, last) =
            (most(0..third), most(third..2 * third), most(2 * third..self.0.len()));
        super::say(&format!(
            "memory at most in each third: {} / {} / {} MiB",
            first / 1024,
            middle / 1024,
            last / 1024
        ));
        let growth = last.saturating_sub(middle);
        assert!(growth <= growth_max, "L5: it grew by {growth} KiB; at most {growth_max}");
    }
}

fn resident_kib(pid: Pid) -> Option<u64> {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let status = std::fs::read_to_string(path).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
