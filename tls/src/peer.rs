//! The other end of a connection.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

/// The other end of a connection that was accepted. tonic puts it into each request's extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its address, if the system knows it.
    pub address: Option<SocketAddr>,
    /// Names in its certificate, which an accepted authority has signed: URIs (such as SPIFFE ids) first, then
    /// DNS names, each as it is. `None` if it showed no certificate.
    pub names: Option<Arc<[String]>>,
}

/// Returns the names in a certificate.
pub(crate) fn names(certificate: &CertificateDer<'_>) -> Arc<[String]> {
    // It was verified, so it can be read.
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return Arc::default() };
    parsed.valid_uri_names().chain(parsed.valid_dns_names()).map(str::to_owned).collect()
}
