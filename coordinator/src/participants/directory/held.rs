//! Count of the memory that registrations hold: the lengths of their texts, and what each takes beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Registered;

/// Bytes that an instance takes beside its texts: its own record, an endpoint's, which it may be the only one of, and that of
/// its database.
const INSTANCE_BYTES: usize = 640;

/// Bytes that a feature takes beside its name.
const FEATURE_BYTES: usize = 40;

/// Sum of all instances and of their bytes.
#[derive(Debug, Default)]
pub(super) struct Held {
    instances: AtomicUsize,
    bytes: AtomicUsize,
}

impl Held {
    /// Returns the number of instances, and of their bytes.
    pub(super) fn now(&self) -> (usize, usize) {
        (self.instances.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Counts an instance, for as long as the part is kept.
    pub(super) fn part(self: &Arc<Self>, bytes: usize) -> Part {
        self.instances.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Part { held: Arc::clone(self), bytes }
    }
}

/// Part of the sum that is one instance's; taken off when it is dropped.
#[derive(Debug)]
pub(super) struct Part {
    held: Arc<Held>,
    bytes: usize,
}

impl Part {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.held.instances.fetch_sub(1, Ordering::Relaxed);
        self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Returns the bytes that an instance holds.
pub(super) fn bytes_of(url: &str, registered: &Registered) -> usize {
    let Registered { instance, features, sdk } = registered;
    let features: usize = features.iter().map(|name| name.len() + FEATURE_BYTES).sum();
    // Address and instance are kept beside its database as well.
    INSTANCE_BYTES + 2 * (url.len() + instance.len()) + features + sdk.len()
}
