//! A coordinator, put together: what runs, in which order it starts, and in which it stops.

mod maintenance;
mod status;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use unanimo_core::{Incarnation, ParticipantName};

pub use self::status::Status;
use crate::api::{self, Api};
use crate::cluster::{birth, lease};
use crate::config::Config;
use crate::engine::{self, Handle, adoption};
use crate::env::{Env, SystemEnv};
use crate::metrics::Metrics;
use crate::participants::ParticipantService;
use crate::participants::directory::{Directory, Registered};
use crate::store::journal::{self, Observer};
use crate::store::{self, Store};
use crate::{admin, store::Registration};

/// Time that requests under way may take to end once nothing is in flight any more and those who
/// follow a transaction were told of the stop.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// Time that the journal may take to write what is left at the end.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// Failure to start a coordinator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// No incarnation could be created.
    #[error(transparent)]
    Birth(#[from] birth::Error),
    /// An address is in use.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

/// Reason for which a coordinator ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// It was fenced.
    #[error("{0}: it stops, and another incarnation adopts what it had in flight")]
    Fenced(lease::Fenced),
    /// The store is in a state that only a restart can clear.
    #[error("{0}")]
    Fatal(String),
    /// A server failed.
    #[error("serve {what}: {why}")]
    Server {
        /// The server.
        what: &'static str,
        /// Its error.
        why: String,
    },
}

/// A coordinator to be started. The library's entry: the binary is a thin shell around it.
pub struct Builder {
    config: Config,
    env: Arc<dyn Env>,
    locals: Vec<(ParticipantName, Arc<dyn ParticipantService>)>,
    network: bool,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let locals: Vec<_> = self.locals.iter().map(|(name, _)| name).collect();
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("locals", &locals)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// A coordinator with this configuration, which must have no
    /// [violations](Config::violations).
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, env: Arc::new(SystemEnv), locals: Vec::new(), network: true }
    }

    /// Adds a participant that lives in this process and is called without a network. Its calls
    /// may be dropped half way, as a network's may: what must not be, belongs in a task of its own.
    #[must_use]
    pub fn participant(
        mut self,
        name: ParticipantName,
        service: Arc<dyn ParticipantService>,
    ) -> Self {
        self.locals.push((name, service));
        self
    }

    /// Serves nothing: the coordinator is used through [`Running::engine`] alone.
    #[must_use]
    pub fn without_network(mut self) -> Self {
        self.network = false;
        self
    }

    /// Starts it: opens and migrates the store, creates an incarnation, and serves. What
    /// earlier incarnations left is adopted while it serves.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(self) -> Result<Running, StartError> {
        let Self { config, env, locals, network } = self;
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let store = store::open(config.database_url.expose(), &config.postgres()).await?;
        let listeners = match network {
            true => Some((bind(config.listen).await?, bind(config.admin_listen).await?)),
            false => None,
        };
        let created = birth::create(&*store, config.node.as_str(), config.lease.0).await?;
        let me = created.incarnation;
        let (lease, renewing) = lease::lease(Arc::clone(&store), me, config.lease.0, created.at);

        let metrics = Arc::new(Metrics::default());
        let directory = Arc::new(Directory::new(config.directory()));
        fill(&directory, &config, locals, store.endpoints().list().await?);
        let observer: Arc<dyn Observer> = Arc::clone(&metrics) as _;
        let (journal, journaling, completions) = journal::journal(Arc::clone(&store), me, observer);
        let adoption_wanted = Arc::new(Notify::new());
        let (engine, driving) = engine::engine(engine::Parts {
            me,
            options: config.engine(),
            env: Arc::clone(&env),
            store: Arc::clone(&store),
            directory: Arc::clone(&directory),
            metrics: Arc::clone(&metrics),
            lease: lease.clone(),
            journal: journal.clone(),
            completions,
            adoption_wanted: Arc::clone(&adoption_wanted),
        });
        let status = Arc::new(Status::new(
            Arc::clone(&store),
            engine.clone(),
            lease.clone(),
            journal.clone(),
            Arc::clone(&metrics),
        ));

        let mut helpers = JoinSet::new();
        helpers.spawn(driving.run());
        helpers.spawn(adoption::Service::new(engine.clone(), adoption_wanted).run());
        helpers.spawn(maintenance::wake_returned(Arc::clone(&directory), engine.clone()));
        let purging = maintenance::Purge {
            store: Arc::clone(&store),
            me,
            retention: config.retention(),
            interval: config.purge_interval.0,
            metrics: Arc::clone(&metrics),
        };
        helpers.spawn(purging.run());
        helpers.spawn(maintenance::count_attention(Arc::clone(&store), Arc::clone(&metrics)));

        let mut vital = JoinSet::new();
        vital.spawn(async move { Some(Ended::Fenced(renewing.run().await)) });
        vital.spawn(journal_end(journaling, Arc::clone(&store)));

        let mut addresses = None;
        let (stop_serving, serving_stopped) = oneshot::channel();
        let (health, health_service) = tonic_health::server::health_reporter();
        if let Some((grpc, admin)) = listeners {
            addresses = Some((local(&grpc, config.listen), local(&admin, config.admin_listen)));
            let api = Api {
                engine: engine.clone(),
                store: Arc::clone(&store),
                directory,
                metrics,
                env,
                me,
                options: Arc::new(config.api()),
                registering: Arc::default(),
            };
            let reporter = health.clone();
            vital.spawn(async move {
                let stop = async { drop(serving_stopped.await) };
                match api::serve(api, grpc, reporter, health_service, stop).await {
                    Ok(()) => None,
                    Err(error) => Some(Ended::Server { what: "gRPC", why: store::in_full(&error) }),
                }
            });
            let status = Arc::clone(&status);
            vital.spawn(async move {
                let error = admin::serve(admin, status).await.err()?;
                Some(Ended::Server { what: "health and metrics", why: error.to_string() })
            });
        }
        let body = Body { store, me, journal, health, status, helpers, vital, stop_serving };
        Ok(Running { engine, me, addresses, body, drain_timeout: config.drain_timeout.0 })
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    if !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "other machines can reach this address, and there is no authentication: whoever does \
             can start, commit and roll back transactions"
        );
    }
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

/// Everybody whom the configuration, this process and earlier registrations name.
fn fill(
    directory: &Directory,
    config: &Config,
    locals: Vec<(ParticipantName, Arc<dyn ParticipantService>)>,
    registrations: Vec<Registration>,
) {
    for Registration { name, endpoint, .. } in registrations {
        directory.add_name(&name);
        if let Some(endpoint) = endpoint {
            // As if it had just been seen: it had no chance to register while nobody listened.
            directory.seen(&name, &endpoint, Registered::default());
        }
    }
    for (name, urls) in &config.participants {
        urls.iter().for_each(|url| directory.add_configured(name, url));
    }
    for (name, service) in locals {
        directory.add_local(name, service);
    }
}

async fn journal_end(journaling: journal::Service, store: Arc<dyn Store>) -> Option<Ended> {
    match journaling.run().await {
        Ok(()) => None,
        Err(journal::Error::Fenced(me)) => Some(Ended::Fenced(lease::fenced(&*store, me).await)),
        Err(journal::Error::Fatal(why)) => Some(Ended::Fatal(why)),
    }
}

/// A coordinator that runs. Dropping it is a crash: nothing is drained, nothing handed over.
#[derive(Debug)]
pub struct Running {
    engine: Handle,
    me: Incarnation,
    /// Of gRPC, and of health and metrics.
    addresses: Option<(SocketAddr, SocketAddr)>,
    body: Body,
    drain_timeout: Duration,
}

/// Running parts of a coordinator. Dropping them aborts every task.
#[derive(Debug)]
struct Body {
    store: Arc<dyn Store>,
    me: Incarnation,
    journal: journal::Handle,
    health: tonic_health::server::HealthReporter,
    status: Arc<Status>,
    /// They never end by themselves.
    helpers: JoinSet<()>,
    /// The first of these to end with a reason ends all.
    vital: JoinSet<Option<Ended>>,
    stop_serving: oneshot::Sender<()>,
}

impl Running {
    /// The engine, to be used without a network.
    #[must_use]
    pub fn engine(&self) -> &Handle {
        &self.engine
    }

    /// This life of the coordinator.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.me
    }

    /// Where gRPC is served.
    #[must_use]
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.addresses.map(|(grpc, _)| grpc)
    }

    /// Where health and metrics are served.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.addresses.map(|(_, admin)| admin)
    }

    /// Waits until it ends by itself: it is fenced, or something failed that only a restart mends.
    pub async fn ended(&mut self) -> Ended {
        self.body.next_end().await
    }

    /// Stops in good order: takes no new work, lets what is in flight end for as long as
    /// `drain-timeout`, writes what is left, and gives up its right to write.
    ///
    /// # Errors
    /// It ended by itself meanwhile.
    pub async fn stop(mut self) -> Result<(), Ended> {
        self.body.health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        self.body.status.drain();
        self.engine.drain();
        let drained = async {
            while self.engine.in_flight().0 > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            ended = self.body.next_end() => return Err(ended),
            () = tokio::time::sleep(self.drain_timeout) => {
                let (left, _) = self.engine.in_flight();
                tracing::info!(left, "the drain timeout is over; a later incarnation adopts the transactions that are left");
            }
            () = drained => {}
        }
        self.engine.end_watches();
        self.body.leave().await
    }
}

impl Body {
    async fn next_end(&mut self) -> Ended {
        loop {
            let end = tokio::select! {
                Some(end) = self.vital.join_next() => end,
                // A helper ends only by a panic.
                Some(end) = self.helpers.join_next() => end.map(|()| None),
                else => std::future::pending().await,
            };
            match end {
                Ok(None) => {}
                Ok(Some(ended)) => return ended,
                Err(error) => return Ended::Fatal(format!("a part of the coordinator: {error}")),
            }
        }
    }

    /// Stops serving, then deciding, then writing; then gives up the right to
    /// write is given up, so that a successor need not wait for a lease.
    async fn leave(self) -> Result<(), Ended> {
        let Self { store, me, journal, helpers, mut vital, stop_serving, .. } = self;
        // Nobody listens if there was nothing to serve.
        let _ = stop_serving.send(());
        let served = tokio::time::timeout(LAST_REQUESTS, vital.join_next()).await;
        if let Ok(Some(Ok(Some(ended)))) = served {
            return Err(ended);
        }
        drop(helpers);
        journal.close();
        let written = async {
            while journal.backlog() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(LAST_WRITES, written).await.is_err() {
            tracing::warn!(
                "the journal did not write everything before the stop; the calls are repeated after the next start"
            );
        }
        drop(vital);
        if let Err(error) =
            store.incarnations().fence(me, "by itself: it stopped in good order").await
        {
            tracing::warn!(%error, "failed to give up the right to write; a successor has to wait for the lease");
        }
        store.close().await;
        Ok(())
    }
}
