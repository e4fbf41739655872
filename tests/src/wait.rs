//! Waiting for conditions instead of for a time.

use std::time::{Duration, Instant};

/// Longest time that a test waits for a condition: much longer than it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Repeats `ask` until it returns `Some`.
///
/// # Panics
/// It does not within [`PATIENCE`].
pub async fn until<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    until_for(PATIENCE, what, ask).await
}

/// Repeats `ask` until it returns `Some`, for work that takes longer than [`PATIENCE`].
///
/// # Panics
/// It does not within `patience`.
pub async fn until_for<T>(
    patience: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < patience, "waited {patience:?} for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Repeats `ask` until it returns `Some`, in a test without a runtime.
///
/// # Panics
/// It does not within [`PATIENCE`].
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
