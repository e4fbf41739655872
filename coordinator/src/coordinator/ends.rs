//! Ends of the tasks without which a coordinator cannot go on.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tonic_health::server::HealthReporter;

use super::listen::{Addresses, Listeners, Sockets};
use super::tls::Tls;
use super::{Ended, StartError, Status};
use crate::admin;
use crate::api::http::{Http, Slot};
use crate::api::{self, Api};
use crate::cluster::birth::Patience;
use crate::cluster::lease;
use crate::config::Config;
use crate::engine::{self, Handle, adoption, quotas, sleepers};
use crate::env::Env;
use crate::store::{self, Store, journal};

/// Waits until the servers are told to stop.
pub(super) async fn stopped(mut stop: watch::Receiver<()>) {
    // The error is that nobody can tell it any more.
    drop(stop.changed().await);
}

/// Starts the server of gRPC, and fills the place of the API over HTTP, which asks the same parts.
pub(super) fn serve_grpc(
    vital: &mut JoinSet<Option<Ended>>,
    sockets: Sockets,
    (config, tls): (&Config, &Tls),
    api: Api,
    http: &Slot,
    stop: &watch::Receiver<()>,
) -> Result<(Addresses, HealthReporter), StartError> {
    let (grpc, addresses) = sockets.listen(config.listen)?;
    let (health, health_service) = tonic_health::server::health_reporter();
    let health_service = health_service.max_decoding_message_size(api::OTHERS_BYTES_MAX);
    let stack = api::Stack::new(api);
    let served = Http::new(stack.clone(), config.http_callers());
    http.set(served).expect("it starts once");
    let end = stopped(stop.clone());
    let serving = api::serve(stack, grpc, tls.server(), health.clone(), health_service, end);
    vital.spawn(grpc_end(serving, stop.clone()));
    Ok((addresses, health))
}

/// Turns the end of the gRPC server into a reason. Until then it has `_serves`.
async fn grpc_end(
    serving: impl Future<Output = Result<(), tonic::transport::Error>>,
    _serves: watch::Receiver<()>,
) -> Option<Ended> {
    let why = store::in_full(&serving.await.err()?);
    Some(Ended::Server { what: "gRPC", why })
}

/// Starts the servers of HTTP: that of health and metrics, and that of the API if it has an address of its own.
pub(super) fn serve_http(
    vital: &mut JoinSet<Option<Ended>>,
    listeners: Listeners,
    (config, tls, env): (&Config, &Tls, &Arc<dyn Env>),
    status: &Arc<Status>,
    api: &Slot,
    stop: &watch::Receiver<()>,
) {
    let ended = |what, served: std::io::Result<()>| {
        Some(Ended::Server { what, why: served.err()?.to_string() })
    };
    let at_admin = config.admin_serves_api().then(|| Slot::clone(api));
    let (status, serves, stopped) = (Arc::clone(status), stop.clone(), self::stopped(stop.clone()));
    let callers = config.descriptors().callers;
    let address = listeners.admin.local_addr().unwrap_or(config.admin_listen);
    let readers = tls.readers(config, env, address);
    let age_max = config.connection_age_max.0;
    let at = |listener, room| admin::At { listener, room, age_max, tls: tls.server() };
    let at_it = at(listeners.admin, callers.admin);
    let served = admin::serve(at_it, (status, readers), at_admin, stopped);
    vital.spawn(async move {
        let end = ended("health and metrics", served.await);
        drop(serves);
        end
    });
    if let Some(listener) = listeners.http {
        let (api, serves, stopped) = (Slot::clone(api), stop.clone(), self::stopped(stop.clone()));
        let served = admin::serve_api(at(listener, callers.http), api, stopped);
        vital.spawn(async move {
            let end = ended("the API over HTTP", served.await);
            drop(serves);
            end
        });
    }
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

/// Starts what drives transactions, and what brings them to memory.
pub(super) fn drive(
    helpers: &mut JoinSet<()>,
    engine: &Handle,
    driving: engine::Service,
    adoption_wanted: Arc<Notify>,
) {
    helpers.spawn(driving.run());
    helpers.spawn(adoption::Service::new(engine.clone(), adoption_wanted).run());
    helpers.spawn(sleepers::Service::new(engine.clone()).run());
    helpers.spawn(quotas::Service::new(engine.clone()).run());
}
