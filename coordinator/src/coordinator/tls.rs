//! TLS of the servers, and of the calls to participants.

use std::path::Path;
use std::sync::Arc;

use unanimo_tls::{Client, Error, File, RELOAD_INTERVAL, Reload, Server};

use crate::admin;
use crate::config::Config;
use crate::identity::{self, Identities};
use crate::metrics::Metrics;

/// TLS of a coordinator.
#[derive(Clone)]
pub(super) struct Tls {
    server: Option<Server>,
    demands_certificates: bool,
    pub(super) participants: Client,
    pub(super) identities: Option<Arc<Reload<Identities>>>,
}

impl Tls {
    /// Reads the files of the configuration.
    pub(super) fn load(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            server: config.server_tls().map(Server::load).transpose()?,
            demands_certificates: config.tls_client_ca.is_set(),
            participants: Client::load(config.participant_tls())?,
            identities: config.identities.path().map(identities).transpose()?,
        })
    }

    /// Returns that of gRPC; `None` without TLS.
    pub(super) fn grpc(&self) -> Option<Server> {
        self.server.clone()
    }

    /// Returns that of health and metrics; `None` without TLS.
    pub(super) fn admin(&self) -> Option<admin::Tls> {
        let server = self.server.clone()?;
        Some(admin::Tls { server, knows_clients: self.demands_certificates })
    }

    /// Keeps the gauge of the alarm of files that have changed and cannot be used.
    pub(super) async fn watch(self, metrics: Arc<Metrics>) {
        loop {
            let server = self.server.as_ref().and_then(Server::stale);
            let stale =
                usize::from(server.is_some()) + usize::from(self.participants.stale().is_some());
            let identities = self.identities.as_ref().and_then(|file| file.stale());
            metrics.files_not_used(stale + usize::from(identities.is_some()));
            tokio::time::sleep(RELOAD_INTERVAL).await;
        }
    }
}

fn identities(path: &Path) -> Result<Arc<Reload<Identities>>, Error> {
    let file = File::new("identities", path);
    let files = vec![file.clone()];
    Reload::start(files, move |contents| identity::read(&file, &contents[0]))
}
