//! Ends of the tasks without which a coordinator cannot go on.

use std::sync::Arc;

use tokio::net::TcpListener;

use super::{Ended, Status};
use crate::admin;
use crate::cluster::birth::Patience;
use crate::cluster::lease;
use crate::store::{self, Store, journal};

/// Turns the end of the gRPC server into a reason.
pub(super) fn grpc_end(served: Result<(), tonic::transport::Error>) -> Option<Ended> {
    let why = store::in_full(&served.err()?);
    Some(Ended::Server { what: "gRPC", why })
}

pub(super) async fn serve_admin(
    listener: TcpListener,
    tls: Option<admin::Tls>,
    status: Arc<Status>,
) -> Option<Ended> {
    let error = admin::serve(listener, tls, status).await.err()?;
    Some(Ended::Server { what: "health and metrics", why: error.to_string() })
}

pub(super) async fn lease_end(renewing: lease::Service, store: Arc<dyn Store>) -> Option<Ended> {
    match renewing.run().await {
        lease::End::Fenced(by) => Some(fenced(&*store, by).await),
        lease::End::Elsewhere(why) => Some(Ended::Elsewhere(why)),
    }
}

pub(super) async fn journal_end(
    journaling: journal::Service,
    store: Arc<dyn Store>,
) -> Option<Ended> {
    match journaling.run().await {
        Ok(()) => None,
        Err(journal::Error::Fenced(me)) => {
            let by = lease::fenced(&*store, me).await;
            Some(fenced(&*store, by).await)
        }
        Err(journal::Error::Elsewhere(why)) => Some(Ended::Elsewhere(why)),
        Err(journal::Error::Fatal(why)) => Some(Ended::Fatal(why)),
    }
}

/// Notes that this process was alive when it was fenced: if a supervisor starts it again, it must not
/// fence its successor in turn.
async fn fenced(store: &dyn Store, fenced: lease::Fenced) -> Ended {
    let mut patience = Patience::default();
    while let Err(error) = store.incarnations().note_displaced(fenced.incarnation).await {
        // It has to end, and does not wait for space.
        let waited = match error.is_full() {
            true => Err(error),
            false => patience.wait(error, &|_| {}).await,
        };
        if let Err(error) = waited {
            let error = store::in_full(&error);
            tracing::warn!(
                error,
                "failed to note that this incarnation was alive when it was fenced"
            );
            break;
        }
    }
    Ended::Fenced(fenced)
}
