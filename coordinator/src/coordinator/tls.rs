//! TLS of the servers, and of the calls to participants.

use std::sync::Arc;

use unanimo_tls::{Client, Error, RELOAD_INTERVAL, Server};

use crate::admin;
use crate::config::Config;
use crate::metrics::Metrics;

/// TLS of a coordinator.
#[derive(Clone)]
pub(super) struct Tls {
    server: Option<Server>,
    knows_clients: bool,
    pub(super) participants: Client,
}

impl Tls {
    /// Reads the files of the configuration.
    pub(super) fn load(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            server: config.server_tls().map(Server::load).transpose()?,
            knows_clients: config.knows_clients(),
            participants: Client::load(config.participant_tls())?,
        })
    }

    /// Returns that of gRPC; `None` without TLS.
    pub(super) fn grpc(&self) -> Option<Server> {
        self.server.clone()
    }

    /// Returns that of health and metrics; `None` without TLS.
    pub(super) fn admin(&self) -> Option<admin::Tls> {
        let server = self.server.clone()?;
        Some(admin::Tls { server, knows_clients: self.knows_clients })
    }

    /// Keeps the gauge of the alarm of files that have changed and cannot be used.
    pub(super) async fn watch(self, metrics: Arc<Metrics>) {
        loop {
            let server = self.server.as_ref().and_then(Server::stale);
            let stale =
                usize::from(server.is_some()) + usize::from(self.participants.stale().is_some());
            metrics.files_not_used(stale);
            tokio::time::sleep(RELOAD_INTERVAL).await;
        }
    }
}
