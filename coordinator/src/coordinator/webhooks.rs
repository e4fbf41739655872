//! Webhooks: their start.

use std::sync::Arc;

use tokio::task::JoinSet;
use unanimo_core::Incarnation;

use crate::env::Env;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::{api, feed, webhook};

/// Parts that webhooks work with.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) me: Incarnation,
    pub(super) store: &'a Arc<dyn Store>,
    pub(super) env: &'a Arc<dyn Env>,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) feed: &'a feed::Handle,
}

/// Starts the tasks of webhooks, if a file names any, and returns the handle for those who ask for them.
pub(super) fn start(
    tasks: &mut JoinSet<()>,
    files: Option<&webhook::Files>,
    parts: Parts<'_>,
) -> webhook::Handle {
    let Parts { me, store, env, metrics, feed } = parts;
    let handle = webhook::Handle::new(files, store.cluster_id());
    if let Some(files) = files.cloned() {
        let parts = webhook::Parts {
            me,
            store: Arc::clone(store),
            env: Arc::clone(env),
            metrics: Arc::clone(metrics),
            follower: feed.follower(),
            render: Arc::new(api::event_json),
        };
        tasks.spawn(webhook::Service::new(parts, files, handle.clone()).run());
    }
    handle
}
