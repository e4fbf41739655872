//! Settings for each part of the coordinator.

use unanimo_core::{Backoff, Limits, Policy};
use unanimo_tls::{ClientFiles, HANDSHAKES_MAX, ServerFiles};

use super::Config;
use super::values::KeysAt;
use crate::descriptors::{Callers, Parts, Room};
use crate::identity::{IssuerOptions, KeySource, KeysOnWeb, Quota, Quotas, ShareBounds};
use crate::outbound::Plain;
use crate::participants::allow;
use crate::participants::breaker::Pauses;
use crate::participants::directory;
use crate::store::{PostgresOptions, Retention};
use crate::{api, engine};

impl Config {
    pub(crate) fn engine(&self) -> engine::Options {
        let limits = Limits {
            branches_max: self.branches_max,
            payload_bytes_max: self.payload_bytes_max,
            payloads_bytes_max: self.payloads_bytes_max,
            output_bytes_max: self.output_bytes_max,
            outputs_bytes_max: self.outputs_bytes_max,
            metadata_bytes_max: self.metadata_bytes_max,
            timeout_max: self.timeout_max.0,
            timeout_default: self.timeout_default.0,
            ..Limits::default()
        };
        let policy = Policy {
            limits,
            prepare_backoff: Backoff {
                base: self.prepare_backoff.0,
                cap: self.prepare_backoff_max.0,
            },
            phase_two_backoff: Backoff {
                base: self.phase_two_backoff.0,
                cap: self.phase_two_backoff_max.0,
            },
            retry_after_max: self.retry_after_max.0,
            stalled_after: self.stalled_after.0,
            clock_skew: self.clock_skew.0,
            record: self.history.0,
            ..Policy::default()
        };
        let bounds = engine::Bounds {
            transactions_max: self.transactions_max,
            bytes_max: self.live_bytes_max,
            share_percent: self.participant_share,
        };
        engine::Options {
            policy,
            bounds,
            call_timeout: self.call_timeout.0,
            gid_retention: self.gid_retention.0,
            quotas: Quotas::new(self.quota(), None),
        }
    }

    /// Returns how much each namespace may have open.
    pub(crate) fn quota_of_namespace(&self) -> Quota {
        let transactions = self.open_transactions_per_namespace;
        Quota { transactions, bytes: self.open_bytes_per_namespace }
    }

    /// Returns how much each identity may have open that says nothing else.
    pub(crate) fn quota(&self) -> Quota {
        let transactions = self.open_transactions_per_identity;
        Quota { transactions, bytes: self.open_bytes_per_identity }
    }

    pub(crate) fn directory(&self) -> directory::Options {
        directory::Options {
            slots: self.participant_slots,
            keep_alive_interval: self.keep_alive_interval.0,
            message_bytes_max: self.message_bytes_max,
            // Two messages at least: one server's may take a part of it.
            replies_bytes_max: self.live_bytes_max.max(self.message_bytes_max.saturating_mul(2)),
            participants_max: self.participants_max,
            participants_per_namespace: self.participants_per_namespace,
            connections_max: self.descriptors().participants,
            prepare_pauses: Pauses {
                base: self.prepare_backoff.0,
                cap: self.prepare_backoff_max.0,
            },
            phase_two_pauses: Pauses {
                base: self.phase_two_backoff.0,
                cap: self.phase_two_backoff_max.0,
            },
        }
    }

    /// Returns the descriptors that callers may take where there are enough.
    pub(crate) fn callers(&self) -> Callers {
        let handshakes = if self.tls_cert.is_set() { HANDSHAKES_MAX } else { 0 };
        let of = |connections, reserved| Room { connections, reserved, handshakes };
        let http = self.http_listen.0.map(|_| of(self.connections_max, 0));
        Callers {
            grpc: of(self.connections_max, api::RESERVED_MAX),
            admin: of(api::ADMIN_CONNECTIONS_MAX, 0),
            http: http.unwrap_or_default(),
        }
    }

    /// Returns the parts of the process's descriptors. The limit is raised for them, if it may be.
    pub(crate) fn descriptors(&self) -> Parts {
        Parts::of_process(self.callers(), self.postgres_connections as usize)
    }

    pub(crate) fn api(&self) -> api::Options {
        api::Options {
            message_bytes_max: self.message_bytes_max,
            // One message at least.
            upload_bytes_max: self.live_bytes_max.max(self.message_bytes_max),
            // One answer at least.
            unread_bytes_max: self.live_bytes_max.max(self.answer_bytes_max()),
            connections: self.descriptors().callers.grpc,
            connection_age_max: self.connection_age_max.0,
            header_bytes_max: u32::try_from(self.metadata_bytes_max).unwrap_or(u32::MAX),
            wait_max: self.wait_max.0,
            gid_retention: self.gid_retention.0,
            endpoint_allow: self.endpoint_allow.0.clone(),
            plaintext: self.plaintext(),
            viewers_see_payloads: self.viewers_see_payloads,
        }
    }

    pub(crate) fn postgres(&self) -> PostgresOptions {
        PostgresOptions {
            pool_connections: self.postgres_connections,
            statement_timeout: self.statement_timeout.0,
            schema: self.database_schema.as_str().to_owned(),
            ..PostgresOptions::default()
        }
    }

    pub(crate) fn retention(&self) -> Retention {
        Retention { details: self.retention.0, gids: self.gid_retention.0 }
    }

    /// Files of the servers; `None` without TLS.
    pub(crate) fn server_tls(&self) -> Option<ServerFiles> {
        let (cert, key) = self.tls_cert.path().zip(self.tls_key.path())?;
        let files = ServerFiles::new(cert, key);
        Some(match self.tls_client_ca.path() {
            Some(client_ca) => files.client_ca(client_ca),
            None => files,
        })
    }

    /// Files for the way to the collector of spans.
    #[cfg(feature = "otlp")]
    pub(crate) fn collector_tls(&self) -> ClientFiles {
        let files = ClientFiles::new();
        match self.otlp_tls_ca.path() {
            Some(ca) => files.ca(ca),
            None => files,
        }
    }

    /// Files for the way to receivers of webhooks.
    pub(crate) fn webhook_tls(&self) -> ClientFiles {
        let files = ClientFiles::new();
        match self.webhook_tls_ca.path() {
            Some(ca) => files.ca(ca),
            None => files,
        }
    }

    /// Files for the calls to participants.
    pub(crate) fn participant_tls(&self) -> ClientFiles {
        let mut files = ClientFiles::new();
        if let Some(ca) = self.participant_tls_ca.path() {
            files = files.ca(ca);
        }
        let pair = self.participant_tls_cert.path().zip(self.participant_tls_key.path());
        if let Some((cert, key)) = pair {
            files = files.identity(cert, key);
        }
        match self.participant_tls_name.as_str() {
            "" => files,
            name => files.server_name(name),
        }
    }

    /// Returns how much each identity may call.
    pub(crate) fn shares(&self) -> ShareBounds {
        ShareBounds { rate: self.identity_rate, calls: self.identity_calls }
    }

    /// Returns how much the identities of each namespace may call together.
    pub(crate) fn shares_of_namespaces(&self) -> ShareBounds {
        ShareBounds { rate: self.namespace_rate, calls: self.namespace_calls }
    }

    /// Returns how much callers without an identity may call from each address.
    pub(crate) fn shares_of_addresses(&self) -> ShareBounds {
        ShareBounds { rate: self.address_rate, calls: self.address_calls }
    }

    /// Settings of the issuer of tokens; `None` without one.
    pub(crate) fn issuer(&self) -> Option<IssuerOptions> {
        let web = |url: Option<&str>| {
            KeySource::Web(KeysOnWeb {
                url: url.map(str::to_owned),
                plain: self.plain(),
                tls: self
                    .jwt_keys_ca
                    .path()
                    .map_or_else(ClientFiles::new, |ca| ClientFiles::new().ca(ca)),
                refresh: self.jwt_keys_refresh.0,
                age_max: self.jwt_keys_age_max.0,
            })
        };
        let keys = match self.jwt_keys.place()? {
            KeysAt::File(path) => KeySource::File(path.to_owned()),
            KeysAt::Url(url) => web(Some(url)),
            KeysAt::Discovered => web(None),
        };
        Some(IssuerOptions {
            keys,
            issuer: self.jwt_issuer.clone(),
            audience: self.jwt_audience.clone(),
            leeway: self.jwt_leeway.0,
            claim: self.jwt_claim.clone(),
        })
    }

    /// Returns which servers may be asked for keys without TLS.
    pub(crate) fn plain(&self) -> Plain {
        if self.insecure { Plain::Anywhere } else { Plain::Loopback }
    }

    /// Tells whether only known clients can call the services.
    pub(crate) fn knows_clients(&self) -> bool {
        self.tls_cert.is_set() && (self.tls_client_ca.is_set() || self.identities.is_set())
    }

    /// Tells whether the API over HTTP may be served at the address of health and metrics: where gRPC might be.
    pub(crate) fn admin_serves_api(&self) -> bool {
        let is_safe = self.admin_listen.ip().is_loopback() || self.knows_clients() || self.insecure;
        self.http_listen.0.is_none() && is_safe
    }

    /// Returns who may reach the API over HTTP.
    pub(crate) fn http_callers(&self) -> api::http::Callers {
        api::http::Callers {
            demand_certificates: self.tls_client_ca.is_set(),
            hosts: match self.identities.is_set() || self.tls_client_ca.is_set() {
                true => api::http::Hosts::Any,
                false => api::http::Hosts::Own(self.http_hosts.0.clone()),
            },
            origins: self.http_origins.0.clone().into(),
            trace_link: self.trace_link.as_str().into(),
        }
    }

    /// Returns which endpoints of participants may be without TLS.
    pub(crate) fn plaintext(&self) -> allow::Plaintext {
        match self.tls_cert.is_set() && !self.insecure {
            true => allow::Plaintext::Loopback,
            false => allow::Plaintext::Anywhere,
        }
    }
}
