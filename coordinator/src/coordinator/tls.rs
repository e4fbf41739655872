//! TLS of the servers, and of the calls to participants.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinSet;
use unanimo_core::Incarnation;
use unanimo_tls::{Client, Error, File, RELOAD_INTERVAL, Reload, Server};

use super::traces;
use crate::admin;
use crate::audit::{self, Fingerprint, Trail};
use crate::config::Config;
use crate::engine;
use crate::env::Env;
use crate::identity::{self, AllTold, Identities, Issuer, Known, Quotas, Shares};
use crate::metrics::Metrics;
use crate::participants::directory::Directory;
use crate::participants::tokens::Tokens;
use crate::spans::Spans;
use crate::store::Store;
use crate::webhook;

/// Settings of the servers' TLS, as the audit names them.
const TLS_SETTINGS: &str = "tls-cert, tls-client-ca";

/// Words of the audit about a setting that is not used.
const NOT_SET: &str = "in use from the start: not set";

/// TLS of a coordinator.
#[derive(Clone)]
pub(super) struct Tls {
    server: Option<Server>,
    demands_certificates: bool,
    /// Settings of an issuer beside its keys, for the audit.
    of_issuer: Option<String>,
    participants: Client,
    tokens: Tokens,
    pub(super) known: Known,
    pub(super) webhooks: Option<webhook::Files>,
    collector: Option<traces::Files>,
}

impl Tls {
    /// Reads the files of the configuration.
    pub(super) fn load(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            server: config.server_tls().map(Server::load).transpose()?,
            demands_certificates: config.tls_client_ca.is_set(),
            of_issuer: config.issuer().map(|of| {
                format!("issuer {}; audience {}; claim {}", of.issuer, of.audience, of.claim)
            }),
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
                namespaces: Shares::new(config.shares_of_namespaces()),
                addresses: Shares::new(config.shares_of_addresses()),
                denials: Arc::default(),
            },
            webhooks: config.webhooks.path().map(|path| webhooks(path, config)).transpose()?,
            collector: traces::Files::load(config)?,
        })
    }

    /// Returns the settings of the engine, with the quotas of identities and namespaces.
    pub(super) fn engine(&self, config: &Config) -> engine::Options {
        let quotas = Quotas::new(config.quota(), self.known.identities.clone())
            .with_namespaces(config.quota_of_namespace());
        engine::Options { quotas, ..config.engine() }
    }

    /// Makes the directory of participants, which are called with this TLS.
    pub(super) fn directory(&self, config: &Config) -> Arc<Directory> {
        let (tls, tokens) = (self.participants.clone(), self.tokens.clone());
        Arc::new(Directory::with_tls(config.directory(), tls, tokens))
    }

    /// Starts to send spans, if there is a collector.
    pub(super) fn spans(
        &self,
        config: &Config,
        env: &Arc<dyn Env>,
        me: Incarnation,
        metrics: &Arc<Metrics>,
        collecting: &mut JoinSet<()>,
    ) -> Result<Spans, Error> {
        traces::start(self.collector.as_ref(), config, env, me, metrics, collecting)
    }

    /// Returns that of the servers; `None` without TLS.
    pub(super) fn server(&self) -> Option<Server> {
        self.server.clone()
    }

    /// Returns those who may read the metrics at this address.
    pub(super) fn readers(
        &self,
        config: &Config,
        env: &Arc<dyn Env>,
        address: SocketAddr,
    ) -> admin::Readers {
        admin::Readers {
            known: self.known.clone(),
            env: Arc::clone(env),
            demand_certificates: self.server.is_some() && self.demands_certificates,
            metrics_are_open: config.metrics_open,
            is_local: address.ip().is_loopback(),
        }
    }

    /// Begins the audit of an incarnation, with what is used from now on: the keys of an issuer that are fetched are
    /// waited for, for a bounded time.
    pub(super) async fn audit(
        &self,
        store: &Arc<dyn Store>,
        env: &Arc<dyn Env>,
        metrics: &Arc<Metrics>,
        me: Incarnation,
    ) -> Trail {
        let (store, env, metrics) = (Arc::clone(store), Arc::clone(env), Arc::clone(metrics));
        let trail = Trail::new(store, env, metrics, me);
        if let Some(issuer) = &self.known.issuer {
            issuer.ready().await;
        }
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
        let identities = self.known.identities.as_ref().map(|identities| {
            let changed = changes("identities");
            identities.on_change(move |before, now| {
                before.moved(now).iter().for_each(identity::Moved::warn);
                changed(&before.told(), &now.told());
            });
            identities.current().told()
        });
        started(trail, "identities", identities.map(|told| (told, Fingerprint::Shown)));
        let keys = self.known.issuer.as_ref().map(|issuer| {
            let changed = changes("jwt-keys");
            issuer.on_change(move |before, now| changed(&before, &now));
            issuer.told()
        });
        started(trail, "jwt-keys", keys.map(|told| (told, Fingerprint::Shown)));
        if let Some(of_issuer) = &self.of_issuer {
            let what = format!("in use from the start: {of_issuer}");
            trail.later(audit::changed("jwt-issuer, jwt-audience, jwt-claim", &what));
        }
        let tokens = self.tokens.told().inspect(|_| {
            let changed = changes("participant-tokens");
            self.tokens.on_change(move |before, now| changed(&before, &now));
        });
        started(trail, "participant-tokens", tokens.map(|told| (told, Fingerprint::Kept)));
        if let Some(webhooks) = &self.webhooks {
            webhooks.on_change(changes("webhooks"));
            started(trail, "webhooks", Some((webhooks.told(), Fingerprint::Kept)));
        }
        let in_use = match (&self.server, self.demands_certificates) {
            (None, _) => return trail.besides(audit::changed(TLS_SETTINGS, NOT_SET)),
            (Some(_), false) => "in use from the start: tls-cert",
            (Some(_), true) => "in use from the start: tls-cert, tls-client-ca",
        };
        trail.later(audit::changed(TLS_SETTINGS, in_use));
        if let Some(server) = &self.server {
            let trail = trail.clone();
            let what = "the servers' certificate or the authorities of clients";
            server.on_change(move || trail.later(audit::changed(TLS_SETTINGS, what)));
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
                self.webhooks.as_ref().and_then(webhook::Files::stale),
                self.collector.as_ref().and_then(traces::Files::stale),
            ];
            metrics.files_not_used(stale.iter().flatten().count());
            if let Some(issuer) = &self.known.issuer {
                metrics.keys_not_fetched(issuer.unfetched().is_some());
            }
            tokio::time::sleep(RELOAD_INTERVAL).await;
        }
    }
}

/// Has the audit tell what is used from the start; that nothing is, beside other entries alone.
fn started(trail: &Trail, setting: &str, told: Option<(AllTold, Fingerprint)>) {
    match told {
        Some((told, fingerprint)) => trail.later(audit::started(setting, &told, fingerprint)),
        None => trail.besides(audit::changed(setting, NOT_SET)),
    }
}

fn webhooks(path: &Path, config: &Config) -> Result<webhook::Files, Error> {
    // Zero keeps them for ever.
    let kept = Some(config.events_retention.0).filter(|kept| !kept.is_zero());
    let retention = kept.unwrap_or(std::time::Duration::MAX);
    let rules = webhook::Rules { insecure: config.insecure, retention };
    webhook::Files::load(path, Client::load(config.webhook_tls())?, rules)
}

fn identities(path: &Path) -> Result<Arc<Reload<Identities>>, Error> {
    let file = File::new("identities", path);
    let files = vec![file.clone()];
    Reload::start(files, move |contents| {
        let identities = identity::read(&file, &contents[0])?;
        if identities.is_empty() {
            tracing::warn!(file = %file.path.display(), "nobody is in the file of identities: every call is refused");
        }
        Ok(identities)
    })
}
