//! Rules for the collector of spans.

use super::{Config, Rules, allow};

impl Config {
    pub(super) fn check_collector(&self, rules: &mut Rules) {
        let url = &self.otlp_endpoint;
        rules.check(!url.is_empty() || !self.otlp_tls_ca.is_set(), "otlp-tls-ca", || {
            "needs otlp-endpoint".to_owned()
        });
        if url.is_empty() {
            return;
        }
        rules.check(cfg!(feature = "otlp"), "otlp-endpoint", || {
            "must not be set: this build of the program has no traces (its feature otlp is off)"
                .to_owned()
        });
        let form = allow::parse_grpc(url).map_err(allow::Error::from);
        if let Err(error) = form.and_then(|_| self.plaintext().check(url)) {
            rules.check(false, "otlp-endpoint", || match error {
                allow::Error::Invalid(violation) => violation.rule,
                error => error.to_string(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "otlp")]
    fn a_collector_is_reached_as_participants_are() {
        let check = |url: &str, with_tls: bool, expected: &str| {
            let file = |path: &str| path.parse().expect("any text");
            let mut config = Config { otlp_endpoint: url.to_owned(), ..Config::default() };
            if with_tls {
                (config.tls_cert, config.tls_key) = (file("cert.pem"), file("key.pem"));
            }
            let found: Vec<_> = config.violations().iter().map(ToString::to_string).collect();
            assert_eq!(found.join("; "), expected, "{url}");
        };
        for url in ["", "http://127.0.0.1:4317", "https://collector:4317"] {
            check(url, true, "");
        }
        check("http://collector:4317", false, "");
        check(
            "http://collector:4317",
            true,
            "otlp-endpoint endpoint http://collector:4317 is on another machine and without TLS: it must begin \
             with https://, unless the coordinator's setting insecure allows it",
        );
        check(
            "collector:4317",
            false,
            "otlp-endpoint must be http://HOST:PORT or https://HOST:PORT, is \"collector:4317\"",
        );
    }
}
