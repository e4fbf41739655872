//! TLS of the servers, and of the calls to participants.

use std::path::Path;
use std::sync::Arc;

use unanimo_tls::{Client, Error, File, RELOAD_INTERVAL, Reload, Server};

use crate::admin;
use crate::config::Config;
use crate::identity::{self, Identities, Issuer, Known, Shares};
use crate::metrics::Metrics;
use crate::participants::directory::Directory;
use crate::participants::tokens::Tokens;

/// TLS of a coordinator.
#[derive(Clone)]
pub(super) struct Tls {
    server: Option<Server>,
    demands_certificates: bool,
    participants: Client,
    tokens: Tokens,
    pub(super) known: Known,
}

impl Tls {
    /// Reads the files of the configuration.
    pub(super) fn load(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            server: config.server_tls().map(Server::load).transpose()?,
            demands_certificates: config.tls_client_ca.is_set(),
            participants: Client::load(config.participant_tls())?,
            tokens: config
                .participant_tokens
                .path()
                .map(Tokens::load)
                .transpose()?
                .unwrap_or_default(),
            known: Known {
                identities: config.identities.path().map(identities).transpose()?,
                issuer: config.issuer().map(Issuer::load).transpose()?,
                shares: Shares::new(config.shares()),
                denials: Arc::default(),
            },
        })
    }

    /// Makes the directory of participants, which are called with this TLS.
    pub(super) fn directory(&self, config: &Config) -> Arc<Directory> {
        let (tls, tokens) = (self.participants.clone(), self.tokens.clone());
        Arc::new(Directory::with_tls(config.directory(), tls, tokens))
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
            let stale = [
                self.server.as_ref().and_then(Server::stale),
                self.participants.stale(),
                self.tokens.stale(),
                self.known.identities.as_ref().and_then(|file| file.stale()),
                self.known.issuer.as_ref().and_then(Issuer::stale),
            ];
            metrics.files_not_used(stale.iter().flatten().count());
            tokio::time::sleep(RELOAD_INTERVAL).await;
        }
    }
}

fn identities(path: &Path) -> Result<Arc<Reload<Identities>>, Error> {
    let file = File::new("identities", path);
    let files = vec![file.clone()];
    Reload::start(files, move |contents| identity::read(&file, &contents[0]))
}
