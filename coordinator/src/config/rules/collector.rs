//! Rules for the collector of spans.

use super::{Config, Rules, allow};
use crate::config::{OtlpProtocol, TRACE_ID};
use crate::outbound::{Plain, parse_url};

impl Config {
    pub(super) fn check_collector(&self, rules: &mut Rules) {
        let of_trace = &self.trace_link;
        let is_address = ["https://", "http://"].iter().any(|scheme| of_trace.starts_with(scheme))
            && of_trace.bytes().all(|byte| byte.is_ascii_graphic())
            && of_trace.matches(TRACE_ID).count() == 1;
        rules.check(of_trace.is_empty() || is_address, "trace-link", || {
            format!(
                "must begin with https:// or http://, and have {TRACE_ID} once, where the id goes"
            )
        });
        let url = &self.otlp_endpoint;
        rules.check(!url.is_empty() || !self.otlp_tls_ca.is_set(), "otlp-tls-ca", || {
            "needs otlp-endpoint".to_owned()
        });
        rules.check(
            !url.is_empty() || !self.otlp_headers_file.is_set(),
            "otlp-headers-file",
            || "needs otlp-endpoint".to_owned(),
        );
        if url.is_empty() {
            return;
        }
        rules.check(cfg!(feature = "otlp"), "otlp-endpoint", || {
            "must not be set: this build of the program has no traces (its feature otlp is off)"
                .to_owned()
        });
        match self.otlp_protocol {
            OtlpProtocol::Grpc => {
                let form = allow::parse_grpc(url).map_err(allow::Error::from);
                if let Err(error) = form.and_then(|_| self.plaintext().check(url)) {
                    rules.check(false, "otlp-endpoint", || match error {
                        allow::Error::Invalid(violation) => violation.rule,
                        error => error.to_string(),
                    });
                }
            }
            OtlpProtocol::Http => {
                let plain = match self.plaintext() {
                    allow::Plaintext::Loopback => Plain::Loopback,
                    allow::Plaintext::Anywhere => Plain::Anywhere,
                };
                if let Err(rule) = parse_url(url, plain) {
                    rules.check(false, "otlp-endpoint", || rule.to_owned());
                }
                rules.check(!url.contains('?'), "otlp-endpoint", || "must have no `?`".to_owned());
            }
        }
        // A header may be a key, whatever else goes without TLS.
        let is_open = parse_url(url, self.plain()).is_err();
        rules.check(!self.otlp_headers_file.is_set() || !is_open, "otlp-headers-file", || {
            "needs an otlp-endpoint that begins with https://, or is on this machine, unless insecure is set"
                .to_owned()
        });
    }
}

#[cfg(all(test, feature = "otlp"))]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_trace_has_a_place_for_its_id() {
        for (url, is_good) in [
            ("", true),
            ("https://jaeger.example/trace/{trace_id}", true),
            ("http://localhost:3000/explore?trace={trace_id}&x=1", true),
            ("https://jaeger.example/trace/", false),
            ("https://jaeger.example/{trace_id}/{trace_id}", false),
            ("javascript:alert({trace_id})", false),
            ("https://jaeger.example/ {trace_id}", false),
        ] {
            let config = Config { trace_link: url.to_owned(), ..Config::default() };
            assert_eq!(config.violations().is_empty(), is_good, "{url}: {:?}", config.violations());
        }
    }

    #[test]
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

    #[test]
    fn a_collector_over_http_may_have_a_path_and_gets_no_key_in_the_open() {
        let check = |url: &str, protocol, with_headers: bool, expected: &str| {
            let mut config = Config {
                otlp_endpoint: url.to_owned(),
                otlp_protocol: protocol,
                ..Config::default()
            };
            if with_headers {
                config.otlp_headers_file = "headers.toml".parse().expect("any text");
            }
            let found: Vec<_> = config.violations().iter().map(ToString::to_string).collect();
            assert_eq!(found.join("; "), expected, "{url}");
        };
        let (grpc, http) = (OtlpProtocol::Grpc, OtlpProtocol::Http);
        check("https://collector/otlp", http, true, "");
        check("http://127.0.0.1:4318", http, true, "");
        check("http://collector:4318", http, false, "");
        check(
            "https://collector/otlp",
            grpc,
            false,
            "otlp-endpoint must be http://HOST:PORT or https://HOST:PORT, is \"https://collector/otlp\"",
        );
        check("https://collector/otlp?a=b", http, false, "otlp-endpoint must have no `?`");
        check(
            "collector:4318",
            http,
            false,
            "otlp-endpoint must be https://HOST/PATH, or http://HOST/PATH",
        );
        let open = "otlp-headers-file needs an otlp-endpoint that begins with https://, or is on this machine, \
                    unless insecure is set";
        check("http://collector:4318", http, true, open);
        check("http://collector:4317", grpc, true, open);
        check("", grpc, true, "otlp-headers-file needs otlp-endpoint");
    }
}
