//! A participant in a server of the service's own: registration, keep-alive and sweeper.

mod leaving;

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use unanimo_proto::v1::participant_service_server::ParticipantServiceServer;
use uuid::Uuid;

use super::directory::{Entry, State};
use super::metrics::{Figures, Metrics};
use super::service::MESSAGE_REST_BYTES_MAX;
use super::{Error, InDoubt, Service, Sweep, Sweeper, groups};
use crate::barrier::Unrecorded;
use crate::channel::{self, Coordinator};
use crate::resource::Resource;

/// Bytes of a gRPC message: the coordinator's default.
pub(super) const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Reason for which losses are not recorded any more.
pub(super) const STOPPED: &str = "the participant has stopped";

/// Longest wait of a stop for calls under way, if nothing else is said.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Coordinators that are told where a participant is, and asked about what is in doubt.
#[derive(Clone, Debug)]
pub struct Register {
    endpoint: String,
    coordinators: Vec<Coordinator>,
    /// Coordinators that are asked and not told.
    asked: Vec<Coordinator>,
    sweep: Option<Sweep>,
    drain: Duration,
}

impl Register {
    /// Tells this address at which coordinators reach the service: `http://HOST:PORT`.
    pub fn at(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            coordinators: Vec::new(),
            asked: Vec::new(),
            sweep: Some(Sweep::default()),
            drain: DRAIN_TIMEOUT,
        }
    }

    pub(super) fn endpoint(&mut self, endpoint: String) {
        self.endpoint = endpoint;
    }

    /// Registers with this coordinator, and stays registered. Called again it adds another one: a node
    /// of the same coordinator group, or of another group. Each group's transactions, and what is in doubt
    /// of them, are kept apart by the group's id.
    #[must_use]
    pub fn with(mut self, coordinator: impl Into<Coordinator>) -> Self {
        self.coordinators.push(coordinator.into());
        self
    }

    /// Asks this coordinator about what is in doubt, and about rows that may be purged, without registering
    /// with it. For a participant whose endpoints are in the coordinator's own configuration: without this
    /// nobody looks after what is in doubt, and rows are kept for ever.
    #[must_use]
    pub fn ask(mut self, coordinator: impl Into<Coordinator>) -> Self {
        self.asked.push(coordinator.into());
        self
    }

    /// Sets how it looks after branches [in doubt](super#in-doubt), asking the coordinators that it
    /// registers with. Without it: as by [`Sweep::default`].
    #[must_use]
    pub fn sweep(mut self, sweep: Sweep) -> Self {
        self.sweep = Some(sweep);
        self
    }

    /// Leaves that to another process of this participant.
    #[must_use]
    pub fn without_sweep(mut self) -> Self {
        self.sweep = None;
        self
    }

    /// Bounds the wait of [`Registration::stop`] for what is under way. Default 30 s. Make it shorter than
    /// what the process is given before it is killed.
    #[must_use]
    pub fn drain_at_most(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    pub(super) fn drain(&self) -> Duration {
        self.drain
    }
}

impl<R: Resource> Service<R> {
    /// Makes a gRPC service of it, for a server of one's own: it is added to tonic's `Server`, or to
    /// `tonic::service::Routes`, which become a router of axum. It needs no layer of its own. Messages have
    /// at most 8 MiB, the coordinator's default, in either direction: see [`Self::server_of_messages`].
    ///
    /// Give the server a keep-alive of HTTP/2 (tonic's `http2_keepalive_interval`): without one it holds
    /// connections of coordinators that have vanished. Raise its bound of headers to 64 KiB (tonic's
    /// `http2_max_header_list_size`), as [`Serve`](super::Serve) does: a call whose metadata are over it is refused.
    #[must_use]
    pub fn server(&self) -> ParticipantServiceServer<Self> {
        self.server_of_messages(MESSAGE_BYTES_MAX)
    }

    /// The same with messages of at most this many bytes, for a coordinator whose `message-bytes-max` is another one.
    #[must_use]
    pub fn server_of_messages(&self, bytes_max: usize) -> ParticipantServiceServer<Self> {
        let told_max = bytes_max.max(MESSAGE_REST_BYTES_MAX);
        self.inner.message_bytes_max.store(told_max, Ordering::Relaxed);
        ParticipantServiceServer::new(self.clone())
            .max_decoding_message_size(bytes_max)
            .max_encoding_message_size(bytes_max)
    }

    /// Makes a participant of a service that is served by a server of one's own: looks after what is in
    /// doubt, [sets up](super::Participant::set_up) the database, registers, and keeps registered. The
    /// server must be serving already: branches that a former life of the process left prepared may be in
    /// the set-up's way, and only their Commits and Cancels end them.
    ///
    /// ```no_run
    /// # #[cfg(feature = "sqlite")]
    /// # async fn example(participant: unanimo_sdk::Participant<unanimo_sdk::Sqlite>)
    /// #     -> Result<(), Box<dyn std::error::Error>> {
    /// use axum::Router;
    /// use axum::routing::get;
    /// use tokio::net::TcpListener;
    /// use tonic::service::Routes;
    /// use unanimo_sdk::Register;
    ///
    /// let service = participant.service()?;
    /// // One server for the coordinator's calls and for the service's own.
    /// let app = Routes::new(service.server()).into_axum_router();
    /// let app: Router = app.route("/health", get(async || "well"));
    /// let listener = TcpListener::bind("0.0.0.0:7701").await?;
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// let server = tokio::spawn(async move {
    ///     let stopped = async { drop(stopped.await) };
    ///     axum::serve(listener, app).with_graceful_shutdown(stopped).await
    /// });
    ///
    /// let register = Register::at("http://shop-1:7701").with("http://coordinator:7610");
    /// let mut registration = service.register(register).await?;
    /// registration.registered().await?;
    /// tokio::signal::ctrl_c().await?;
    ///
    /// // First the coordinators know, and what is under way ends; then the server stops.
    /// let recorded = registration.stop().await;
    /// let _ = stop.send(());
    /// server.await??;
    /// recorded?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// An address is none, or the database cannot be set up.
    pub async fn register(&self, register: Register) -> Result<Registration, Error> {
        self.look_at_place().await;
        let mut registration = self.prepare_registration(register)?;
        self.set_up().await?;
        self.check_sessions().await?;
        registration.begin(self);
        Ok(registration)
    }

    /// Checks the addresses, and begins to look after what is in doubt. The rest begins later.
    pub(super) fn prepare_registration(&self, register: Register) -> Result<Registration, Error> {
        let Register { endpoint, coordinators, asked, sweep, drain } = register;
        channel::is_address(&endpoint)
            .map_err(|bad| Error::Endpoint { endpoint: bad.endpoint, rule: bad.rule })?;
        // Of this life of the process, whichever coordinator hears it.
        let instance_id = Uuid::now_v7().to_string();
        let name = self.participant();
        // Branches of a time when it had another name are called under that one.
        let formerly = self.inner.of.formerly.iter().map(String::as_str);
        let names: BTreeSet<&str> = std::iter::once(name).chain(formerly).collect();
        let of_all = coordinators
            .iter()
            .flat_map(|coordinator| names.iter().map(move |name| (coordinator.clone(), *name)));
        let entries = of_all
            .map(|(coordinator, name)| Entry::new(coordinator, name, &endpoint, &instance_id))
            .collect::<Result<Vec<_>, _>>()?;
        let groups = asked.iter().cloned().map(groups::Asked::new).collect::<Result<_, _>>()?;
        let all: Vec<Coordinator> = coordinators.into_iter().chain(asked).collect();
        let sweeper = match sweep {
            Some(sweep) if !all.is_empty() => Some(self.sweep(all, sweep)?),
            Some(_) => {
                tracing::warn!(
                    participant = name,
                    "no coordinator is named: nobody looks after what is in doubt here, and barrier rows are \
                     kept for ever; name one with `register_with`, `with` or `ask`"
                );
                None
            }
            None => None,
        };
        // A former name may be another service's by now: that is told in the log, and hinders nothing.
        let own = entries.iter().filter(|entry| entry.is_of(name));
        let states = own.map(|entry| (entry.coordinator(), entry.state())).collect();
        let [service, closing, recording] = [(); 3].map(|()| self.clone());
        Ok(Registration {
            sweeper,
            leave: watch::Sender::new(false),
            entries,
            asked: groups,
            registering: Vec::new(),
            states,
            drained: Some(Box::pin(async move { service.drain().await })),
            close: Box::new(move || closing.close()),
            unrecorded: Arc::new(move || recording.unrecorded()),
            drain,
            figures: Arc::clone(&self.inner.figures),
        })
    }
}

/// Returns the branches of losses of handlers that are not recorded yet.
pub(super) type Look = Arc<dyn Fn() -> Vec<Unrecorded> + Send + Sync>;

/// Registrations of a participant, which are kept alive, and its sweeper. [`Self::stop`] ends them in good
/// order. Dropping it ends them at once: the coordinators then notice that by themselves, three missed
/// registrations later.
#[must_use = "dropping it ends the registration and the sweeper"]
pub struct Registration {
    /// Ends first: it needs the slots that are waited for in the end.
    sweeper: Option<Sweeper>,
    /// Deregisters.
    leave: watch::Sender<bool>,
    /// Not begun yet.
    entries: Vec<Entry>,
    /// Not asked for their groups yet.
    asked: Vec<groups::Asked>,
    /// Registrations that are kept, by their coordinators.
    registering: Vec<(String, JoinHandle<()>)>,
    /// The coordinators' names, and what they say.
    states: Vec<(String, watch::Receiver<State>)>,
    /// Waits for what is under way.
    drained: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    /// Begins nothing any more.
    close: Box<dyn Fn() + Send + Sync>,
    unrecorded: Look,
    drain: Duration,
    figures: Arc<Figures>,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("states", &self.states).finish_non_exhaustive()
    }
}

impl Registration {
    /// Registers, and keeps registered.
    pub(super) fn begin<R: Resource>(&mut self, service: &Service<R>) {
        let entries = std::mem::take(&mut self.entries);
        let own = entries.iter().filter(|entry| entry.is_of(service.participant()));
        let (groups, asked) = (own.map(Entry::group).collect(), std::mem::take(&mut self.asked));
        groups::watch(service.clone(), groups, asked, self.leave.subscribe());
        let run = |entry: Entry| {
            let coordinator = entry.coordinator();
            (coordinator, tokio::spawn(entry.run(service.clone(), self.leave.subscribe())))
        };
        self.registering = entries.into_iter().map(run).collect();
    }

    /// Returns the branches that the sweeper left [in doubt](super#in-doubt); `None` if there is no
    /// sweeper.
    #[must_use]
    pub fn in_doubt(&self) -> Option<InDoubt> {
        self.sweeper.as_ref().map(Sweeper::in_doubt)
    }

    /// The same, to be followed: it changes with each sweep.
    #[must_use]
    pub fn watch_in_doubt(&self) -> Option<watch::Receiver<InDoubt>> {
        self.sweeper.as_ref().map(Sweeper::watch)
    }

    /// Returns what the participant has done since it was made, and what it holds in doubt.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.figures.read()
    }

    /// Waits until every coordinator has the registration of the participant's name. Those of
    /// [former names](super::Participant::formerly) are not waited for: a refusal of theirs is in the log.
    ///
    /// # Errors
    /// A coordinator refuses it. It is asked again all the same, for the refusal may be mended there. Or the
    /// registration has ended.
    pub async fn registered(&mut self) -> Result<(), Error> {
        for (coordinator, state) in &mut self.states {
            let told = state.wait_for(|state| *state != State::Waiting).await;
            let coordinator = coordinator.clone();
            match told.as_deref() {
                Ok(State::Refused(reason)) => {
                    return Err(Error::Refused { coordinator, reason: reason.clone() });
                }
                Ok(_) => {}
                Err(_) => return Err(Error::NotRegistered { coordinator }),
            }
        }
        Ok(())
    }

    /// Ends the sweeper, deregisters, waits for operations under way, and records what handlers have [lost](super#lost-transactions)
    /// and the database has not taken before, for at most the time of
    /// [`Register::drain_at_most`], of which coordinators that do not answer, and a sweep that does not end, take one half.
    /// Then nothing is begun any more, and the server may stop: it comes last.
    /// Branches that it leaves open are ended by another process of this participant, or by the next one.
    ///
    /// # Errors
    /// The database has not taken the record of a loss. It has stopped all the same.
    pub async fn stop(mut self) -> Result<(), Error> {
        let drain = self.drain;
        let drained = self.drained.take();
        let ends = async {
            self.leave_within(drain / 2).await;
            if let Some(drained) = drained {
                drained.await;
            }
        };
        if tokio::time::timeout(drain, ends).await.is_err() {
            self.close();
            tracing::warn!("operations are still under way after {drain:?}; stopping anyway");
        }
        self.recorded()
    }

    /// Fails if a loss of a handler is not recorded.
    pub(super) fn recorded(&self) -> Result<(), Error> {
        Error::unless_recorded(&(self.unrecorded)(), STOPPED)
    }

    pub(super) fn unrecorded(&self) -> Look {
        Arc::clone(&self.unrecorded)
    }

    /// Begins nothing any more, where what is under way is not waited for.
    pub(super) fn close(&self) {
        (self.close)();
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.end_registering();
    }
}
