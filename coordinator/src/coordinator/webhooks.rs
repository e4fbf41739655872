//! Webhooks: their start.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::api::{self, Api};
use crate::cluster::lease::Lease;
use crate::webhook::{Files, Parts, Service};

/// Starts the tasks of webhooks, if a file names any.
pub(super) fn start(tasks: &mut JoinSet<()>, files: Option<&Files>, api: &Api, lease: &Lease) {
    let Some(files) = files.cloned() else { return };
    let parts = Parts {
        me: api.me,
        lease: lease.clone(),
        store: Arc::clone(&api.store),
        env: Arc::clone(&api.env),
        metrics: Arc::clone(&api.metrics),
        follower: api.feed.clone(),
        render: Arc::new(api::event_json),
    };
    tasks.spawn(Service::new(parts, files, api.webhooks.clone()).run());
}
