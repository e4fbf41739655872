//! Callers that a participant accepts, by the names in their certificates.

use std::sync::Arc;

use tonic::service::Interceptor;
use tonic::{Request, Status};
use unanimo_tls::{Peer, ServerFiles};

use crate::participant::Error;

/// Names of which a caller's certificate must have one; any caller is accepted if none were given.
#[derive(Clone, Debug, Default)]
pub(super) struct Accepted(Option<Arc<[String]>>);

impl FromIterator<String> for Accepted {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self(Some(names.into_iter().collect()))
    }
}

impl Accepted {
    /// Checks that somebody can have one of the names, where callers are served with this TLS.
    pub(super) fn check(&self, tls: Option<&ServerFiles>) -> Result<(), Error> {
        let Some(names) = &self.0 else { return Ok(()) };
        let rule = match tls.is_some_and(ServerFiles::has_client_ca) {
            _ if names.is_empty() => {
                "Serve::accept has no name: name the coordinators that are accepted"
            }
            true => return Ok(()),
            false => {
                "Serve::accept compares names in verified certificates: give Serve::tls files with \
                 ServerFiles::client_ca"
            }
        };
        Err(Error::Tls(unanimo_tls::Error::Settings(rule)))
    }
}

impl Interceptor for Accepted {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        // Without TLS there is no peer, and no name.
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.names.as_deref());
        let Some(accepted) = &self.0 else { return Ok(request) };
        match peer.is_some_and(|names| names.iter().any(|name| accepted.contains(name))) {
            true => Ok(request),
            false => Err(Status::permission_denied(
                "this participant accepts calls of other coordinators: no name in the certificate is \
                 one of them",
            )),
        }
    }
}
