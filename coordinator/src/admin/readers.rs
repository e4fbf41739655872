//! Those who may read what a process tells of itself: its metrics, which name the participants of all tenants, and what keeps
//! it from being ready, which may have words of its database.

use std::sync::Arc;

use http::HeaderMap;
use unanimo_tls::Peer;

use crate::api::sees_the_process;
use crate::env::Env;
use crate::identity::{Known, authorization};

/// Path by which denials are told in the log.
const METRICS: &str = "/metrics";

/// Those who may read it.
#[derive(Clone, Debug)]
pub(crate) struct Readers {
    pub(crate) known: Known,
    pub(crate) env: Arc<dyn Env>,
    /// Each client of TLS shows a certificate, or is nobody.
    pub(crate) demand_certificates: bool,
    /// Metrics need no identity.
    pub(crate) metrics_are_open: bool,
    /// Only programs of this machine reach the address.
    pub(crate) is_local: bool,
}

impl Readers {
    /// Returns the reason for which whoever asks is told nothing of what keeps the process from being ready.
    fn refusal(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Option<&'static str> {
        let names = peer.and_then(|peer| peer.names.as_deref());
        if self.demand_certificates && names.is_none() {
            return Some("a client certificate is needed\n");
        }
        let header = authorization(headers);
        let is_known =
            self.is_local || sees_the_process(&self.known, self.env.now(), header, names);
        (!is_known).then_some(
            "an identity without a namespace and with the role viewer or operator is needed: its token, or its name in the \
             certificate\n",
        )
    }

    /// Tells whether whoever asks may hear what keeps the process from being ready.
    pub(super) fn may_hear(&self, headers: &HeaderMap, peer: Option<&Peer>) -> bool {
        self.refusal(headers, peer).is_none()
    }

    /// Returns the reason for which whoever asks may not read the metrics.
    pub(super) fn denied(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Option<&'static str> {
        let has_certificate = peer.is_some_and(|peer| peer.names.is_some());
        if self.metrics_are_open && (has_certificate || !self.demand_certificates) {
            return None;
        }
        let why = self.refusal(headers, peer)?;
        self.known.denials.note("", METRICS, "nobody who may read the metrics");
        Some(why)
    }
}
