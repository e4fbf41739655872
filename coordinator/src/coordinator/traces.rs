//! The start of what sends spans to their collector.

use std::sync::Arc;

use tokio::task::JoinSet;
use unanimo_core::Incarnation;

use crate::config::Config;
use crate::env::Env;
use crate::metrics::Metrics;
use crate::spans::Spans;

/// Files by which the collector is reached.
#[cfg(feature = "otlp")]
#[derive(Clone)]
pub(super) struct Files {
    headers: crate::spans::Headers,
    tls: unanimo_tls::Client,
}

#[cfg(feature = "otlp")]
impl Files {
    /// Reads the files, if there is a collector, and reads them again when they change.
    pub(super) fn load(config: &Config) -> Result<Option<Self>, unanimo_tls::Error> {
        if config.otlp_endpoint.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            headers: crate::spans::Headers::load(config.otlp_headers_file.path())?,
            tls: unanimo_tls::Client::load(config.collector_tls())?,
        }))
    }

    /// Returns why the files that are there now are not used; `None` if they are.
    pub(super) fn stale(&self) -> Option<String> {
        self.headers.stale().or_else(|| self.tls.stale())
    }
}

/// Starts to send spans, if there is a collector.
#[cfg(feature = "otlp")]
pub(super) fn start(
    files: Option<&Files>,
    config: &Config,
    env: &Arc<dyn Env>,
    me: Incarnation,
    metrics: &Arc<Metrics>,
    collecting: &mut JoinSet<()>,
) -> Result<Spans, unanimo_tls::Error> {
    use crate::config::OtlpProtocol;
    use crate::spans::Protocol;

    let Some(Files { headers, tls }) = files.cloned() else { return Ok(Spans::default()) };
    let collector = crate::spans::Collector {
        url: config.otlp_endpoint.clone(),
        protocol: match config.otlp_protocol {
            OtlpProtocol::Grpc => Protocol::Grpc,
            OtlpProtocol::Http => Protocol::Http,
        },
        headers,
        tls,
        node: config.node.as_str().to_owned(),
    };
    let ratio = config.otlp_sampling.get();
    let (spans, waiting) = Spans::new(Arc::clone(env), me, ratio, Arc::clone(metrics));
    collecting.spawn(crate::spans::collect(&collector, waiting, Arc::clone(metrics))?);
    Ok(spans)
}

/// Files of a collector that cannot be there.
#[cfg(not(feature = "otlp"))]
#[derive(Clone)]
pub(super) enum Files {}

#[cfg(not(feature = "otlp"))]
impl Files {
    #[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
    pub(super) fn load(_config: &Config) -> Result<Option<Self>, unanimo_tls::Error> {
        Ok(None)
    }

    pub(super) fn stale(&self) -> Option<String> {
        match *self {}
    }
}

/// Makes no spans: the rules refuse the setting of a collector.
#[cfg(not(feature = "otlp"))]
#[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
pub(super) fn start(
    _files: Option<&Files>,
    _config: &Config,
    _env: &Arc<dyn Env>,
    _me: Incarnation,
    _metrics: &Arc<Metrics>,
    _collecting: &mut JoinSet<()>,
) -> Result<Spans, unanimo_tls::Error> {
    Ok(Spans::default())
}
