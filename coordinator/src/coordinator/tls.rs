//! TLS of the servers, and of the calls to participants.

use std::path::Path;
use std::sync::Arc;

use unanimo_core::Incarnation;
use unanimo_tls::{Client, Error, File, RELOAD_INTERVAL, Reload, Server};

use crate::admin;
use crate::audit::{self, Fingerprint, Trail};
use crate::config::Config;
use crate::env::Env;
use crate::identity::{self, AllTold, Identities, Issuer, Known, Shares};
use crate::metrics::Metrics;
use crate::participants::directory::Directory;
use crate::participants::tokens::Tokens;
use crate::store::Store;

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

    /// Begins the audit of an incarnation, with what is used from now on.
    pub(super) fn audit(
        &self,
        store: &Arc<dyn Store>,
        env: &Arc<dyn Env>,
        metrics: &Arc<Metrics>,
        me: Incarnation,
    ) -> Trail {
        let (store, env, metrics) = (Arc::clone(store), Arc::clone(env), Arc::clone(metrics));
        let trail = Trail::new(store, env, metrics, me);
        self.audit_changes(&trail);
        trail
    }

    /// Has changes of who may call, and of tokens, entered in the audit; and what is used from now on.
    fn audit_changes(&self, trail: &Trail) {
        let changes = |setting: &'static str| {
            let trail = trail.clone();
            move |before: &AllTold, now: &AllTold| {
                audit::changes(setting, before, now)
                    .into_iter()
                    .for_each(|entry| trail.later(entry));
            }
        };
        let started = |setting, told: &AllTold, fingerprint| {
            trail.later(audit::started(setting, told, fingerprint));
        };
        if let Some(identities) = &self.known.identities {
            let changed = changes("identities");
            identities.on_change(move |before, now| changed(&before.told(), &now.told()));
            started("identities", &identities.current().told(), Fingerprint::Shown);
        }
        if let Some(issuer) = &self.known.issuer {
            let changed = changes("jwt-keys");
            issuer.on_change(move |before, now| changed(&before, &now));
            started("jwt-keys", &issuer.told(), Fingerprint::Shown);
        }
        if let Some(told) = self.tokens.told() {
            let changed = changes("participant-tokens");
            self.tokens.on_change(move |before, now| changed(&before, &now));
            started("participant-tokens", &told, Fingerprint::Kept);
        }
        if let Some(server) = &self.server {
            let trail = trail.clone();
            let what = "the servers' certificate or the authorities of clients";
            server.on_change(move || trail.later(audit::changed("tls-cert, tls-client-ca", what)));
        }
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
