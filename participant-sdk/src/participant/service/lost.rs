//! Losses of handlers that could not be recorded when they came: they are recorded later, and at the latest by a stop.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;

use super::{Inner, Service};
use crate::barrier::{Losses, Unrecorded};
use crate::resource::Resource;

/// Pauses between two attempts: the first one, and the longest. A stop makes only the first one.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Sees to it at the end of an operation, however that ends, also where nobody waits for it any more.
pub(super) struct RecordsLosses<R: Resource>(pub(super) Arc<Inner<R>>);

impl<R: Resource> Drop for RecordsLosses<R> {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let Inner { resource, records, .. } = &*self.0;
        if let Some(at_work) = AtWork::begin(resource.losses(), records) {
            runtime.spawn(record(Arc::downgrade(&self.0), at_work));
        }
    }
}

/// A task that records losses is at work. Each service has its own: another one that has a clone of its resource may
/// end first.
struct AtWork(Arc<AtomicBool>);

impl AtWork {
    /// Begins if there are losses, and nobody is at work.
    fn begin(losses: &Losses, is_at_work: &Arc<AtomicBool>) -> Option<Self> {
        let begins = !losses.is_empty() && !is_at_work.swap(true, Ordering::SeqCst);
        begins.then(|| Self(Arc::clone(is_at_work)))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Records all of them, for as long as the service is there.
async fn record<R: Resource>(inner: Weak<Inner<R>>, mut at_work: AtWork) {
    let mut pause = PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let Some(inner) = inner.upgrade() else { return };
        pause = (pause * 2).min(PAUSE_MAX);
        if inner.resource.record_losses().await {
            drop(at_work);
            // One may have come just before, and have found this at work.
            match AtWork::begin(inner.resource.losses(), &inner.records) {
                Some(again) => (at_work, pause) = (again, PAUSE),
                None => return,
            }
        }
    }
}

impl<R: Resource> Service<R> {
    /// Begins to record what is not recorded yet, where no operation ends that would. Another service may have left it:
    /// all that have clones of one resource share its losses.
    pub(in crate::participant) fn record_losses(&self) {
        drop(RecordsLosses(Arc::clone(&self.inner)));
    }

    /// Waits until nothing is at work, and each loss is recorded. Nothing is begun any more.
    pub(in crate::participant) async fn drain(&self) {
        let resource = &self.inner.resource;
        let (mut over, mut is_over) = (pin!(self.over()), false);
        while !is_over || !resource.losses().is_empty() {
            tokio::select! {
                () = &mut over, if !is_over => is_over = true,
                () = tokio::time::sleep(PAUSE) => {}
            }
            if !resource.losses().is_empty() {
                let resource = resource.clone();
                // In a task of its own: whoever ends this one cuts off no database work.
                let _ = tokio::spawn(async move { resource.record_losses().await }).await;
            }
        }
    }

    /// Waits until nothing is at work, and begins nothing any more.
    async fn over(&self) {
        for (slots, count) in
            [(&self.prepare_slots, self.slots.0), (&self.phase_two_slots, self.slots.1)]
        {
            let all = u32::try_from(count).unwrap_or(u32::MAX);
            if let Ok(permits) = slots.acquire_many(all).await {
                permits.forget();
            }
            slots.close();
        }
    }

    /// Returns the branches of losses that are not recorded yet.
    pub(in crate::participant) fn unrecorded(&self) -> Vec<Unrecorded> {
        self.inner.resource.losses().branches()
    }
}
