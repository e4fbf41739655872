//! Waiting on conditions instead of on time.

use std::time::{Duration, Instant};

/// How long a test waits for what must happen. Far beyond what it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until the answer is `Some`.
///
/// # Panics
/// It is not within [`PATIENCE`].
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The same for a test without a runtime.
///
/// # Panics
/// It is not within [`PATIENCE`].
pub fn block_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
