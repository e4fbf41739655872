//! The start of what sends spans to their collector.

use std::sync::Arc;

use tokio::task::JoinSet;
use unanimo_core::Incarnation;

use crate::config::Config;
use crate::env::Env;
use crate::metrics::Metrics;
use crate::spans::Spans;

/// Starts to send spans, if there is a collector.
#[cfg(feature = "otlp")]
pub(super) fn start(
    config: &Config,
    env: &Arc<dyn Env>,
    me: Incarnation,
    metrics: &Arc<Metrics>,
    collecting: &mut JoinSet<()>,
) -> Result<Spans, unanimo_tls::Error> {
    use crate::config::OtlpProtocol;
    use crate::spans::{Headers, Protocol};

    if config.otlp_endpoint.is_empty() {
        return Ok(Spans::default());
    }
    let collector = crate::spans::Collector {
        url: config.otlp_endpoint.clone(),
        protocol: match config.otlp_protocol {
            OtlpProtocol::Grpc => Protocol::Grpc,
            OtlpProtocol::Http => Protocol::Http,
        },
        headers: Headers::load(config.otlp_headers_file.path())?,
        tls: unanimo_tls::Client::load(config.collector_tls())?,
        node: config.node.as_str().to_owned(),
    };
    let ratio = config.otlp_sampling.get();
    let (spans, waiting) = Spans::new(Arc::clone(env), me, ratio, Arc::clone(metrics));
    collecting.spawn(crate::spans::collect(&collector, waiting, Arc::clone(metrics))?);
    Ok(spans)
}

/// Makes no spans: the rules refuse the setting of a collector.
#[cfg(not(feature = "otlp"))]
#[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
pub(super) fn start(
    _config: &Config,
    _env: &Arc<dyn Env>,
    _me: Incarnation,
    _metrics: &Arc<Metrics>,
    _collecting: &mut JoinSet<()>,
) -> Result<Spans, unanimo_tls::Error> {
    Ok(Spans::default())
}
