//! Losses of handlers that could not be recorded when they came: they are recorded later.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;

use super::Inner;
use crate::resource::Resource;

/// Pauses between two attempts: the first one, and the longest.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Sees to it at the end of an operation, however that ends, also where nobody waits for it any more.
pub(super) struct RecordsLosses<R: Resource>(pub(super) Arc<Inner<R>>);

impl<R: Resource> Drop for RecordsLosses<R> {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.0.resource.losses().begin() {
            runtime.spawn(record(Arc::downgrade(&self.0)));
        }
    }
}

/// Records all of them, for as long as the participant is there.
async fn record<R: Resource>(inner: Weak<Inner<R>>) {
    let mut pause = PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let Some(inner) = inner.upgrade() else { return };
        if inner.resource.record_losses().await {
            return;
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
