//! Callers that a participant accepts, by the names in their certificates.

use std::sync::Arc;

use tonic::service::Interceptor;
use tonic::{Request, Status};
use unanimo_tls::Peer;

/// Names of which a caller's certificate must have one; any caller is accepted if there are none.
#[derive(Clone, Debug, Default)]
pub(super) struct Accepted(Arc<[String]>);

impl FromIterator<String> for Accepted {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

impl Interceptor for Accepted {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        // Without TLS there is no peer, and no name.
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.names.as_deref());
        let is_accepted = |name| self.0.contains(name);
        match self.0.is_empty() || peer.is_some_and(|names| names.iter().any(is_accepted)) {
            true => Ok(request),
            false => Err(Status::permission_denied(
                "this participant accepts calls of other coordinators: no name in the certificate is \
                 one of them",
            )),
        }
    }
}
