//! Rules for settings, alone and together.

mod collector;
mod issuer;

use std::fmt::Display;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use unanimo_core::{BRANCHES_MAX, Violation};

use super::{Config, Period};
use crate::participants::{allow, own};

/// Longest duration of a setting. A longer one is a mistake, and could overflow a sum.
const PERIOD_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Shortest retention of the audit: whoever sets less by mistake has no night to find out.
const AUDIT_RETENTION_MIN: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Default)]
struct Rules(Vec<Violation>);

impl Rules {
    fn check(&mut self, holds: bool, key: &str, rule: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation::new(key, rule()));
        }
    }

    fn at_most<T: PartialOrd + Display>(&mut self, low: (&str, T), high: (&str, T)) {
        let ((key, low), (high_key, high)) = (low, high);
        self.check(low <= high, key, || format!("must be at most {high_key}, {high}; is {low}"));
    }
}

impl Config {
    /// Returns every rule that the settings break, with the setting's key.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let mut rules = Rules::default();
        self.check_addresses(&mut rules);
        self.check_issuer(&mut rules);
        self.check_collector(&mut rules);
        self.check_periods(&mut rules);
        self.check_sizes(&mut rules);
        rules.0
    }

    fn check_addresses(&self, rules: &mut Rules) {
        let (listen, admin) = (self.listen, self.admin_listen);
        rules.check(listen.ip().is_loopback() || self.knows_clients() || self.insecure, "listen", || {
            format!(
                "must be a loopback address, is {listen}: every program that reaches the port can do \
                 anything; set tls-cert, tls-key and tls-client-ca or identities, so that clients are known, or \
                 set insecure to allow it"
            )
        });
        if let Some(http) = self.http_listen.0 {
            let is_safe = http.ip().is_loopback() || self.knows_clients() || self.insecure;
            rules.check(is_safe, "http-listen", || {
                format!(
                    "must be a loopback address, is {http}: every program that reaches the port can do anything; \
                     set tls-cert, tls-key and tls-client-ca or identities, so that clients are known, or set \
                     insecure to allow it"
                )
            });
        }
        rules.check(
            admin.ip().is_loopback() || self.tls_cert.is_set() || self.insecure,
            "admin-listen",
            || {
                format!(
                    "must be a loopback address, is {admin}: it would be served without TLS; set tls-cert \
                     and tls-key, or set insecure to allow it"
                )
            },
        );
        self.check_files(rules);
        for (name, urls) in &self.participants {
            rules.check(name.local() != own::NAME, &format!("participants.{name}"), || {
                own::RESERVED.to_owned()
            });
            let bad = urls.iter().filter_map(|url| self.plaintext().check(url).err());
            for error in bad {
                rules.check(false, &format!("participants.{name}"), || match error {
                    allow::Error::Invalid(violation) => violation.rule,
                    error => error.to_string(),
                });
            }
        }
        if let Err(error) = EnvFilter::builder().parse(&self.log) {
            let rule = format!("must be a level or target=level, separated by commas: {error}");
            rules.check(false, "log", || rule);
        }
        // The filter would take a single word for a target, and log nothing else.
        let alone = self.log.split(',').map(str::trim).filter(|part| !part.contains(['=', '[']));
        for word in alone.filter(|word| word.parse::<LevelFilter>().is_err()) {
            rules.check(false, "log", || {
                format!(
                    "must be a level (off, error, warn, info, debug, trace) or target=level, \
                     separated by commas: {word:?} is neither"
                )
            });
        }
        let url = self.database_url.expose();
        let known = ["postgres://", "postgresql://", "sqlite:"];
        rules.check(known.iter().any(|scheme| url.starts_with(scheme)), "database-url", || {
            "must begin with postgres:// or sqlite:".to_owned()
        });
        if let Some(file) = self.database_url.file() {
            let file = file.to_string_lossy();
            // SQLite would take an empty name and `:memory:` for databases that vanish at the end.
            let is_file = !file.is_empty() && !file.starts_with(':') && !file.contains('?');
            rules.check(is_file, "database-url", || {
                format!("must name a file after sqlite:, without parameters; is {url:?}")
            });
        }
    }

    /// Checks that files that belong together are all set.
    fn check_files(&self, rules: &mut Rules) {
        let pairs = [
            (("tls-cert", &self.tls_cert), ("tls-key", &self.tls_key)),
            (
                ("participant-tls-cert", &self.participant_tls_cert),
                ("participant-tls-key", &self.participant_tls_key),
            ),
        ];
        for ((cert, cert_file), (key, key_file)) in pairs {
            let together = cert_file.is_set() == key_file.is_set();
            rules.check(together, cert, || format!("must be set together with {key}"));
        }
        rules.check(
            self.webhooks.is_set() || !self.webhook_tls_ca.is_set(),
            "webhook-tls-ca",
            || "needs webhooks".to_owned(),
        );
        rules.check(
            self.tls_cert.is_set() || !self.tls_client_ca.is_set(),
            "tls-client-ca",
            || "needs tls-cert and tls-key".to_owned(),
        );
    }

    fn check_periods(&self, rules: &mut Rules) {
        let periods: [(&str, Period); 23] = [
            ("lease", self.lease),
            ("jwt-leeway", self.jwt_leeway),
            ("jwt-keys-refresh", self.jwt_keys_refresh),
            ("jwt-keys-age-max", self.jwt_keys_age_max),
            ("connection-age-max", self.connection_age_max),
            ("wait-max", self.wait_max),
            ("drain-timeout", self.drain_timeout),
            ("call-timeout", self.call_timeout),
            ("keep-alive-interval", self.keep_alive_interval),
            ("prepare-backoff", self.prepare_backoff),
            ("prepare-backoff-max", self.prepare_backoff_max),
            ("phase-two-backoff", self.phase_two_backoff),
            ("phase-two-backoff-max", self.phase_two_backoff_max),
            ("retry-after-max", self.retry_after_max),
            ("stalled-after", self.stalled_after),
            ("timeout-default", self.timeout_default),
            ("timeout-max", self.timeout_max),
            ("retention", self.retention),
            ("gid-retention", self.gid_retention),
            ("audit-retention", self.audit_retention),
            ("purge-interval", self.purge_interval),
            ("statement-timeout", self.statement_timeout),
            ("clock-skew", self.clock_skew),
        ];
        for (key, Period(period)) in periods {
            let at_least = match key {
                "lease" | "jwt-keys-refresh" => Duration::from_secs(1),
                "clock-skew" | "drain-timeout" | "jwt-leeway" | "connection-age-max"
                | "audit-retention" => Duration::ZERO,
                _ => Duration::from_millis(1),
            };
            rules.check(period >= at_least, key, || format!("must be at least {at_least:?}"));
            rules.check(period <= PERIOD_MAX, key, || "must be at most 100 years".to_owned());
        }
        let Period(audit) = self.audit_retention;
        rules.check(audit.is_zero() || audit >= AUDIT_RETENTION_MIN, "audit-retention", || {
            "must be at least 24h, or 0s for ever".to_owned()
        });
        rules.at_most(
            ("prepare-backoff", self.prepare_backoff),
            ("prepare-backoff-max", self.prepare_backoff_max),
        );
        rules.at_most(
            ("phase-two-backoff", self.phase_two_backoff),
            ("phase-two-backoff-max", self.phase_two_backoff_max),
        );
        rules.at_most(("jwt-leeway", self.jwt_leeway), ("five minutes", Period::secs(300)));
        rules.at_most(
            ("jwt-keys-refresh", self.jwt_keys_refresh),
            ("jwt-keys-age-max", self.jwt_keys_age_max),
        );
        rules.at_most(("timeout-default", self.timeout_default), ("timeout-max", self.timeout_max));
        rules.at_most(("retention", self.retention), ("gid-retention", self.gid_retention));
    }

    fn check_sizes(&self, rules: &mut Rules) {
        let counts: [(&str, usize); 10] = [
            ("transactions-max", self.transactions_max),
            ("live-bytes-max", self.live_bytes_max),
            ("connections-max", self.connections_max),
            ("participant-share", self.participant_share),
            ("participants-max", self.participants_max),
            ("participant-slots", self.participant_slots),
            ("branches-max", self.branches_max),
            ("postgres-connections", self.postgres_connections as usize),
            ("message-bytes-max", self.message_bytes_max),
            ("metadata-bytes-max", self.metadata_bytes_max),
        ];
        for (key, count) in counts {
            rules.check(count >= 1, key, || "must be at least 1".to_owned());
        }
        rules.at_most(
            ("participant-share", self.participant_share),
            ("all of them in percent", 100),
        );
        let configured = self.participants.len();
        rules.check(configured <= self.participants_max, "participants-max", || {
            format!("must be at least the number of configured participants, {configured}")
        });
        rules.check(self.branches_max <= BRANCHES_MAX, "branches-max", || {
            format!("must be at most {BRANCHES_MAX}; is {}", self.branches_max)
        });
        rules.at_most(
            ("payload-bytes-max", self.payload_bytes_max),
            ("payloads-bytes-max", self.payloads_bytes_max),
        );
        rules.at_most(
            ("output-bytes-max", self.output_bytes_max),
            ("outputs-bytes-max", self.outputs_bytes_max),
        );
        // The rest of a message is for names and lengths.
        let content = self.payloads_bytes_max.saturating_add(self.metadata_bytes_max);
        let room = self.message_bytes_max / 4 * 3;
        rules.at_most(
            ("payloads-bytes-max + metadata-bytes-max", content),
            ("three quarters of message-bytes-max", room),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Config), expected: &str) {
        let mut config = Config::default();
        change(&mut config);
        let found: Vec<String> = config.violations().iter().map(Violation::to_string).collect();
        assert_eq!(found.join("; "), expected);
    }

    #[test]
    fn each_rule_names_its_key() {
        check(|_| {}, "");
        check(
            |c| c.listen = ([0, 0, 0, 0], 7610).into(),
            "listen must be a loopback address, is 0.0.0.0:7610: every program that reaches the port can \
             do anything; set tls-cert, tls-key and tls-client-ca or identities, so that clients are known, or \
             set insecure to allow it",
        );
        let file = |path: &str| path.parse().expect("any text");
        let with_tls = move |c: &mut Config| {
            (c.tls_cert, c.tls_key) = (file("cert.pem"), file("key.pem"));
            c.listen = ([0, 0, 0, 0], 7610).into();
            c.admin_listen = ([0, 0, 0, 0], 7611).into();
        };
        check(
            |c| {
                with_tls(c);
                c.tls_client_ca = file("ca.pem");
            },
            "",
        );
        check(
            |c| {
                with_tls(c);
                c.tls_client_ca = file("ca.pem");
                let name = unanimo_core::ParticipantName::new("bank").expect("a name");
                let urls = ["http://127.0.0.1:1", "https://bank:1", "http://bank:1"];
                c.participants.insert(name, urls.map(str::to_owned).to_vec());
            },
            "participants.bank endpoint http://bank:1 is on another machine and without TLS: it must begin \
             with https://, unless the coordinator's setting insecure allows it",
        );
        check(
            |c| c.admin_listen = ([0, 0, 0, 0], 7611).into(),
            "admin-listen must be a loopback address, is 0.0.0.0:7611: it would be served without TLS; set \
             tls-cert and tls-key, or set insecure to allow it",
        );
        check(|c| c.tls_key = file("x"), "tls-cert must be set together with tls-key");
        check(
            |c| c.jwt_leeway = Period::secs(301),
            "jwt-leeway must be at most five minutes, 5m; is 5m 1s",
        );
        check(|c| c.tls_client_ca = file("x"), "tls-client-ca needs tls-cert and tls-key");
        check(
            |c| c.participant_tls_cert = file("x"),
            "participant-tls-cert must be set together with participant-tls-key",
        );
        check(
            |c| {
                c.listen = ([0, 0, 0, 0], 7610).into();
                c.insecure = true;
            },
            "",
        );
        check(|c| c.lease = Period::millis(999), "lease must be at least 1s");
        check(|c| c.call_timeout = Period::millis(0), "call-timeout must be at least 1ms");
        check(|c| c.clock_skew = Period::millis(0), "");
        check(
            |c| c.gid_retention = Period::secs(60),
            "retention must be at most gid-retention, 1m; is 24h",
        );
        check(
            |c| c.phase_two_backoff = Period::secs(31),
            "phase-two-backoff must be at most phase-two-backoff-max, 30s; is 31s",
        );
        check(
            |c| c.timeout_default = Period::secs(100_000),
            "timeout-default must be at most timeout-max, 24h; is 27h 46m 40s",
        );
        check(|c| c.participant_slots = 0, "participant-slots must be at least 1");
        check(
            |c| c.participant_share = 101,
            "participant-share must be at most all of them in percent, 100; is 101",
        );
        check(|c| c.branches_max = 2000, "branches-max must be at most 1024; is 2000");
        check(
            |c| c.message_bytes_max = 2 << 20,
            "payloads-bytes-max + metadata-bytes-max must be at most three quarters of \
             message-bytes-max, 1572864; is 1589248",
        );
        check(
            |c| c.log = "loud=noise".to_owned(),
            "log must be a level or target=level, separated by commas: error parsing level filter: \
             expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a \
             number 0-5",
        );
        check(
            |c| c.database_url = "mysql://x".parse().expect("any text"),
            "database-url must begin with postgres:// or sqlite:",
        );
        check(
            |c| c.database_url = "".parse().expect("any text"),
            "database-url must begin with postgres:// or sqlite:",
        );
        for url in ["sqlite:", "sqlite://", "sqlite::memory:", "sqlite:x.db?mode=ro"] {
            check(
                |c| c.database_url = url.parse().expect("any text"),
                &format!(
                    "database-url must name a file after sqlite:, without parameters; is {url:?}"
                ),
            );
        }
        check(
            |c| {
                let name = unanimo_core::ParticipantName::new("bank").expect("a name");
                c.participants.insert(name, vec!["bank:7000".to_owned()]);
            },
            "participants.bank must be http://HOST:PORT or https://HOST:PORT, or without gRPC \
             http+json://HOST:PORT/BASE or https+json://HOST:PORT/BASE, is \"bank:7000\"",
        );
    }
}
