//! Assembly of a coordinator: its parts, and the order in which they start and stop.

mod ends;
mod known;
mod listen;
mod maintenance;
mod opening;
mod purge_clock;
mod shown;
mod status;
mod tls;
mod traces;
mod webhooks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use unanimo_core::{Incarnation, ParticipantName};

use self::listen::{Addresses, Sockets};
pub use self::status::Status;
use crate::api::children::Children;
use crate::api::http::Slot;
use crate::api::{self, Api};
use crate::audit::Trail;
use crate::cluster::lease;
use crate::config::{Config, Setting};
use crate::engine::{self, Handle};
use crate::env::{Env, SystemEnv};
use crate::metrics::Metrics;
use crate::participants::ParticipantService;
use crate::store::{self, Relocation, Store, journal};
use crate::webhook::Handle as Webhooks;

/// Time that requests may still take once no transaction is in flight and the streams of
/// WatchTransaction have ended.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// Time that the journal may take for its last writes at the stop.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// Failure to start a coordinator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened, or no incarnation be created in it.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The address cannot be listened on, for example because it is in use.
    #[error("listen on {address} (`{setting}`)")]
    Listen {
        /// Key of the setting that names it.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A file of TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] unanimo_tls::Error),
}

/// Reason for which a coordinator ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The incarnation was fenced.
    #[error("{0}; the coordinator stops, and another incarnation adopts its transactions")]
    Fenced(lease::Fenced),
    /// The database is not the one that was opened any more, or has no tables any more.
    #[error(
        "the database was moved, restored or removed under this process: {0}; the coordinator stops, \
         and writes nothing there"
    )]
    Elsewhere(String),
    /// The store is in a state that only a restart can clear.
    #[error("{0}")]
    Fatal(String),
    /// A server failed.
    #[error("serve {what}: {why}")]
    Server {
        /// Name of the server.
        what: &'static str,
        /// Its error.
        why: String,
    },
}

/// Builder of a coordinator, and the entry to this library. The program `unanimo` is a command line
/// around it.
pub struct Builder {
    config: Config,
    env: Arc<dyn Env>,
    locals: Vec<(ParticipantName, Arc<dyn ParticipantService>)>,
    network: bool,
    relocated: Option<Relocation>,
    settings: Vec<Setting>,
}

impl Builder {
    /// Makes a builder with this configuration, which must have no
    /// [violations](Config::violations).
    #[must_use]
    pub fn new(config: Config) -> Self {
        let env = Arc::new(SystemEnv);
        let (locals, settings) = (Vec::new(), Vec::new());
        Self { config, env, locals, network: true, relocated: None, settings }
    }

    /// Adds a participant of this process, which is called without a network. A call may be dropped
    /// before it has answered, as a call over a network: work that must not be dropped belongs in a
    /// task of its own.
    #[must_use]
    pub fn participant(
        mut self,
        name: ParticipantName,
        service: Arc<dyn ParticipantService>,
    ) -> Self {
        self.locals.push((name, service));
        self
    }

    /// Sets the source of the time of day and of identifiers; by default the system.
    #[must_use]
    pub fn env(mut self, env: Arc<dyn Env>) -> Self {
        self.env = env;
        self
    }

    /// Disables both servers. The coordinator is then used through [`Running::engine`] alone.
    #[must_use]
    pub fn without_network(mut self) -> Self {
        self.network = false;
        self
    }

    /// Says that the database was moved, or is a copy of one that goes on. Without that word a
    /// database that is not where it was used last is refused.
    #[must_use]
    pub fn relocated(mut self, relocation: Relocation) -> Self {
        self.relocated = Some(relocation);
        self
    }

    /// Tells the settings in force with their sources, as [`Loaded::settings`](crate::config::Loaded::settings) returns
    /// them, for operators to see.
    #[must_use]
    pub fn settings(mut self, settings: Vec<Setting>) -> Self {
        self.settings = settings;
        self
    }

    /// Starts the coordinator: opens the store, creates an incarnation, and serves. Transactions of
    /// earlier incarnations are adopted while it serves.
    ///
    /// While another node serves the same database this waits, as a standby, without a limit. Health
    /// and metrics are served from the first moment. gRPC is served once it can be: until then
    /// connections are refused.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(self) -> Result<Running, StartError> {
        let Self { config, env, locals, network, relocated, settings } = self;
        let metrics = Arc::new(Metrics::default());
        let status = Arc::new(Status::new(Arc::clone(&metrics)));
        let mut tasks = Tasks::default();
        let (mut sockets, http) = (None, Slot::default());
        let (stop_serving, stop) = watch::channel(());
        let tls = tls::Tls::load(&config)?;
        if network {
            let (bound, at) = Sockets::bind(&config).await?;
            sockets = Some(bound);
            ends::serve_http(&mut tasks.vital, at, (&config, &tls, &env), &status, &http, &stop);
        }
        let (store, created) = opening::take_turn(&config, relocated, &status).await?;
        let (me, leased_at) = (created.incarnation, env.now());
        let (lease, renewing) = lease::lease(Arc::clone(&store), me, config.lease.0, created.at);
        tasks.vital.spawn(ends::lease_end(renewing, Arc::clone(&store)));
        let directory = tls.directory(&config);
        let registrations = opening::registrations(&*store, &status).await?;
        known::fill(&directory, &config, locals, registrations, env.now());
        let (journal, journaling, completions) =
            journal::journal(Arc::clone(&store), me, Arc::clone(&metrics) as _);
        let adoption_wanted = Arc::new(Notify::new());
        let (engine, driving) = engine::engine(engine::Parts {
            me,
            options: tls.engine(&config),
            clock: opening::clock(&*store, &env, &status).await?,
            store: Arc::clone(&store),
            directory: Arc::clone(&directory),
            metrics: Arc::clone(&metrics),
            lease: lease.clone(),
            journal: journal.clone(),
            completions,
            adoption_wanted: Arc::clone(&adoption_wanted),
            spans: tls.spans(&config, &env, me, &metrics, &mut tasks.collecting)?,
        });
        directory.add_own(Arc::new(Children::new(engine.downgrade())));
        tasks.helpers.spawn(tls.clone().watch(Arc::clone(&metrics)));
        ends::drive(&mut tasks.helpers, &engine, driving, adoption_wanted);
        let audit = tls.audit(&store, &env, &metrics, me).await;
        let purging = maintenance::Purge::new(&config, me, &store, &env, &metrics, &audit);
        let feed = maintenance::start(&mut tasks.helpers, (&engine, &journal), &directory, purging);
        tasks.vital.spawn(ends::journal_end(journaling, Arc::clone(&store)));
        let about = api::About::new((&config, settings), leased_at, &lease, &journal);
        let api = Api {
            engine: engine.clone(),
            store: Arc::clone(&store),
            directory,
            metrics,
            env,
            me,
            known: tls.known.clone(),
            audit: audit.clone(),
            feed: feed.follower(),
            webhooks: Webhooks::new(tls.webhooks.as_ref(), store.cluster_id()),
            options: Arc::new(config.api()),
            about: Arc::new(about),
        };
        webhooks::start(&mut tasks.helpers, tls.webhooks.as_ref(), &api, &lease);
        let serve = |sockets| {
            ends::serve_grpc(&mut tasks.vital, sockets, (&config, &tls), api, &http, &stop)
        };
        let (addresses, health) = sockets.map(serve).transpose()?.unzip();
        status.has_started(status::Started {
            store: Arc::clone(&store),
            engine: engine.clone(),
            lease,
            journal: journal.clone(),
        });
        let body = Body { store, me, journal, audit, health, status, tasks, stop_serving };
        Ok(Running { engine, feed, me, addresses, body, drain_timeout: config.drain_timeout.0 })
    }
}

/// Running coordinator. Dropping it is like a crash: it waits for nothing and writes nothing more.
#[derive(Debug)]
pub struct Running {
    engine: Handle,
    feed: crate::feed::Handle,
    me: Incarnation,
    /// Addresses on which it serves; `None` without a network.
    addresses: Option<Addresses>,
    body: Body,
    drain_timeout: Duration,
}

/// Running parts of a coordinator. Dropping them aborts every task.
#[derive(Debug)]
struct Body {
    store: Arc<dyn Store>,
    me: Incarnation,
    journal: journal::Handle,
    audit: Trail,
    /// Tells the health over gRPC, where that is served.
    health: Option<tonic_health::server::HealthReporter>,
    status: Arc<Status>,
    tasks: Tasks,
    /// Tells the servers to stop. Each has a receiver until it has answered what was under way.
    stop_serving: watch::Sender<()>,
}

/// Tasks of a coordinator.
#[derive(Debug, Default)]
struct Tasks {
    /// Tasks that do not end by themselves, except by a panic.
    helpers: JoinSet<()>,
    /// Tasks of which the first one that ends with a reason ends the coordinator.
    vital: JoinSet<Option<Ended>>,
    /// Sends spans to their collector. Whatever becomes of it, the coordinator goes on.
    collecting: JoinSet<()>,
}

impl Running {
    /// Returns the engine, for use without a network.
    #[must_use]
    pub fn engine(&self) -> &Handle {
        &self.engine
    }

    /// Returns the coordinator's incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.me
    }

    /// Returns the address on which gRPC is served; `None` without a network.
    #[must_use]
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.addresses.map(|of| of.grpc)
    }

    /// Returns the address on which health and metrics are served; `None` without a network.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.addresses.map(|of| of.admin)
    }

    /// Waits until the coordinator ends by itself: because it is fenced, or because of a failure
    /// after which only a restart helps.
    pub async fn ended(&mut self) -> Ended {
        self.body.next_end().await
    }

    /// Stops in good order: refuses new work, waits up to `drain-timeout` for transactions in
    /// flight to end (not for those that start later), writes the remaining transitions, and gives up its right to write.
    ///
    /// # Errors
    /// The coordinator ended by itself meanwhile.
    pub async fn stop(mut self) -> Result<(), Ended> {
        if let Some(health) = &self.body.health {
            api::tell_health(health, tonic_health::ServingStatus::NotServing).await;
        }
        self.body.status.drain();
        self.engine.drain();
        let drained = async {
            while self.engine.at_work().await > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            ended = self.body.next_end() => return Err(ended),
            () = tokio::time::sleep(self.drain_timeout) => {
                let (left, _) = self.engine.in_flight();
                tracing::info!(left, "the drain timeout is over; transactions left are adopted later");
            }
            () = drained => {}
        }
        self.engine.end_watches();
        self.feed.end_watches();
        self.body.leave().await
    }
}

impl Body {
    async fn next_end(&mut self) -> Ended {
        loop {
            let end = tokio::select! {
                Some(end) = self.tasks.vital.join_next() => end,
                // A helper ends only by a panic, which is the error.
                Some(end) = self.tasks.helpers.join_next() => end.map(|()| None),
                else => std::future::pending().await,
            };
            match end {
                Ok(None) => {}
                Ok(Some(ended)) => return ended,
                Err(error) => {
                    return Ended::Fatal(format!("a task of the coordinator failed: {error}"));
                }
            }
        }
    }

    /// Stops serving, then deciding, then writing. Then it gives up the right to write, so that a
    /// successor need not wait for the end of the lease; only its last spans come after that.
    async fn leave(mut self) -> Result<(), Ended> {
        let stop_serving = self.stop_serving.clone();
        // Without a network there is no receiver.
        let _ = stop_serving.send(());
        tokio::select! {
            ended = self.next_end() => return Err(ended),
            _ = tokio::time::timeout(LAST_REQUESTS, stop_serving.closed()) => {}
        }
        let Self { store, me, journal, audit, tasks, .. } = self;
        let Tasks { helpers, vital, mut collecting } = tasks;
        // An act needs what the helpers drive.
        audit.stop().await;
        drop(helpers);
        journal.close();
        let written = async {
            while journal.backlog() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(LAST_WRITES, written).await.is_err() {
            tracing::warn!(
                "the journal did not write everything before the stop; after the next start the \
                 coordinator repeats the calls"
            );
        }
        drop(vital);
        let _ = tokio::time::timeout(LAST_REQUESTS, audit.finish()).await;
        if let Err(error) =
            store.incarnations().fence(me, "by itself: it stopped in good order").await
        {
            let error = store::in_full(&error);
            tracing::warn!(error, "failed to give up the lease; a successor waits for its end");
        }
        // A successor does not wait for the collector.
        let _ = tokio::time::timeout(LAST_REQUESTS, collecting.join_next()).await;
        store.close().await;
        Ok(())
    }
}
