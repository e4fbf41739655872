//! A participant as a gRPC server that registers itself.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use unanimo_proto::v1::participant_service_server::ParticipantServiceServer;
use uuid::Uuid;

use super::registration::Registration;
use super::service::Of;
use super::{Error, InDoubt, Participant, Service, Sweep, Sweeper, groups};
use crate::causes::in_full;
use crate::resource::Resource;

/// Bytes of a gRPC message: the coordinator's default.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Bytes of all headers of a call.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// Pause between trials of a silent connection, and longest wait for the answer of each.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Many unread small messages must not end a connection.
const WINDOW_BYTES: u32 = 64 << 20;

/// Pause between leaving the coordinators and taking no more calls: those that were sent before the
/// coordinators knew arrive in it.
const LEAVE_PAUSE: Duration = Duration::from_millis(100);

/// Longest wait of a stop for calls under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Address at which a participant is served, and coordinators that are told.
#[derive(Clone, Debug)]
pub struct Serve {
    listen: String,
    advertise: Option<String>,
    coordinators: Vec<String>,
    /// Coordinators that are asked and not told.
    asked: Vec<String>,
    message_bytes_max: usize,
    sweep: Option<Sweep>,
}

impl Serve {
    /// Listens on `HOST:PORT`; port 0 takes a free one.
    pub fn on(listen: impl Into<String>) -> Self {
        Self {
            listen: listen.into(),
            advertise: None,
            coordinators: Vec::new(),
            asked: Vec::new(),
            message_bytes_max: MESSAGE_BYTES_MAX,
            sweep: Some(Sweep::default()),
        }
    }

    /// Registers with the coordinator at this `http://HOST:PORT`, and stays registered. Called again it
    /// adds another one: a node of the same coordinator group, or of another group. Each group's
    /// transactions, and what is in doubt of them, are kept apart by the group's id.
    #[must_use]
    pub fn register_with(mut self, coordinator: impl Into<String>) -> Self {
        self.coordinators.push(coordinator.into());
        self
    }

    /// Asks the coordinator at this `http://HOST:PORT` about what is in doubt, and about rows that may be
    /// purged, without registering with it. For a participant whose endpoints are in the coordinator's own
    /// configuration: without this nobody looks after what is in doubt, and rows are kept for ever.
    #[must_use]
    pub fn ask(mut self, coordinator: impl Into<String>) -> Self {
        self.asked.push(coordinator.into());
        self
    }

    /// Bounds a gRPC message, in either direction. Default 8 MiB, the coordinator's default.
    #[must_use]
    pub fn message_bytes_at_most(mut self, bytes: usize) -> Self {
        self.message_bytes_max = bytes;
        self
    }

    /// Names the address at which the coordinator reaches this process: `http://HOST:PORT`. Without it:
    /// the address that is listened on.
    #[must_use]
    pub fn advertise(mut self, endpoint: impl Into<String>) -> Self {
        self.advertise = Some(endpoint.into());
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
}

impl<R: Resource> Participant<R> {
    /// Serves it. It listens, serves Commits and Cancels, and looks after what is in doubt; then it [sets
    /// up](Self::set_up) the database; then it serves Prepares, registers, and keeps registered. Dropping
    /// the result ends it at once; [`Serving::stop`] lets calls under way end.
    ///
    /// It returns once the database is set up, however long branches in doubt are in the way.
    ///
    /// # Errors
    /// The address cannot be used, the database cannot be set up, or the participant [cannot
    /// be](Self::service).
    pub async fn serve(self, serve: Serve) -> Result<Serving, Error> {
        self.service()?.serve(serve).await
    }
}

impl<R: Resource> Service<R> {
    /// Serves it, as [`Participant::serve`] does, where the service is needed besides: to
    /// [join](Self::joiner) transactions. After [`Serving::stop`] it begins nothing any more.
    ///
    /// # Errors
    /// The address cannot be used, or the database cannot be set up.
    pub async fn serve(&self, serve: Serve) -> Result<Serving, Error> {
        let Serve { listen, advertise, coordinators, asked, message_bytes_max, sweep } = serve;
        let failed = |source| Error::Listen { address: listen.clone(), source };
        let listener = TcpListener::bind(&listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let endpoint = match advertise {
            Some(endpoint) => endpoint,
            None if address.ip().is_unspecified() => return Err(Error::Advertise(address)),
            None => format!("http://{address}"),
        };
        let (stop, stopped) = watch::channel(false);
        let (leave, left) = watch::channel(false);
        let server = self.listen(listener, stopped, message_bytes_max);
        let mut serving = Serving {
            address,
            endpoint,
            sweeper: None,
            leave,
            stop,
            server,
            registering: Vec::new(),
            registered: Vec::new(),
        };
        let all: Vec<String> = coordinators.iter().cloned().chain(asked).collect();
        serving.sweeper = match sweep {
            Some(sweep) if !all.is_empty() => Some(self.sweep(all, sweep)?),
            Some(_) => {
                tracing::warn!(
                    participant = self.participant(),
                    "no coordinator is named: nobody looks after what is in doubt here, and barrier rows are \
                     kept for ever; name one with `register_with` or `ask`"
                );
                None
            }
            None => None,
        };
        self.set_up().await?;
        let resource = &self.inner.resource;
        resource.is_there().await.map_err(|fault| Error::Session(fault.to_string()))?;
        self.register(&mut serving, &coordinators, &left)?;
        tracing::info!(%address, endpoint = serving.endpoint, "participant is served");
        Ok(serving)
    }

    fn listen(
        &self,
        listener: TcpListener,
        mut until: watch::Receiver<bool>,
        message_bytes_max: usize,
    ) -> JoinHandle<()> {
        let service = self.clone();
        // Without it every small message waits for an acknowledgement of the one before.
        let incoming =
            TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(KEEP_ALIVE));
        let served = ParticipantServiceServer::new(service.clone())
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(message_bytes_max);
        let serving = Server::builder()
            .initial_connection_window_size(WINDOW_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .http2_max_header_list_size(HEADERS_BYTES_MAX)
            .add_service(served)
            .serve_with_incoming_shutdown(incoming, async move {
                // An error says that the other end is gone: that is a stop, too.
                let _ = until.wait_for(|stop| *stop).await;
            });
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                let error = in_full(&error);
                tracing::error!(error, "the participant is served no longer");
            }
            // Calls whose callers went away are still at work.
            service.drain().await;
        })
    }

    fn register(
        &self,
        serving: &mut Serving,
        coordinators: &[String],
        stopped: &watch::Receiver<bool>,
    ) -> Result<(), Error> {
        // Of this life of the process, whichever coordinator hears it.
        let instance_id = Uuid::now_v7().to_string();
        let database_id = self.inner.resource.database_id().unwrap_or_default();
        // Branches of a time when it had another name are called under that one.
        let Of { name, formerly, .. } = &self.inner.of;
        let names: BTreeSet<&String> = std::iter::once(name).chain(formerly).collect();
        let of_all = coordinators
            .iter()
            .flat_map(|coordinator| names.iter().map(move |name| (coordinator, *name)));
        let registrations = of_all.map(|(coordinator, name)| {
            let endpoint = &serving.endpoint;
            Registration::new(coordinator, name, endpoint, &instance_id, database_id)
        });
        let registrations = registrations.collect::<Result<Vec<_>, _>>()?;
        serving.registered = registrations.iter().map(Registration::registered).collect();
        let own =
            registrations.iter().filter(|registration| registration.is_of(self.participant()));
        groups::watch(self.clone(), own.map(Registration::group).collect());
        let run = |registration: Registration| tokio::spawn(registration.run(stopped.clone()));
        serving.registering = registrations.into_iter().map(run).collect();
        Ok(())
    }
}

/// A participant that is served.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    endpoint: String,
    /// Ends first: it needs the slots that the server waits for when it stops.
    sweeper: Option<Sweeper>,
    /// Deregisters.
    leave: watch::Sender<bool>,
    /// Ends the server.
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    registering: Vec<JoinHandle<()>>,
    registered: Vec<watch::Receiver<bool>>,
}

impl Serving {
    /// The address that is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint that is registered.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
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

    /// Waits until every coordinator has the registration.
    pub async fn registered(&mut self) {
        for registered in &mut self.registered {
            // An error says that the registration ended.
            let _ = registered.wait_for(|registered| *registered).await;
        }
    }

    /// Deregisters, takes no more calls, and waits for those under way, for at most 30 s. What they
    /// leave open is ended by another process of this participant, or by the next one.
    pub async fn stop(mut self) {
        self.leave.send_replace(true);
        let sweeper = self.sweeper.take();
        let ends = async {
            if let Some(sweeper) = sweeper {
                sweeper.stop().await;
            }
            for registering in &mut self.registering {
                let _ = registering.await;
            }
            if !self.registering.is_empty() {
                tokio::time::sleep(LEAVE_PAUSE).await;
            }
            self.stop.send_replace(true);
            let _ = (&mut self.server).await;
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, ends).await.is_err() {
            self.stop.send_replace(true);
            tracing::warn!("calls are still under way after {DRAIN_TIMEOUT:?}; stopping anyway");
        }
    }

    /// Serves until the process is told to end (SIGTERM, or Ctrl-C), and then [stops](Self::stop).
    ///
    /// # Errors
    /// Signals cannot be listened to.
    pub async fn until_stopped(self) -> std::io::Result<()> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::select! {
                _ = terminate.recv() => {}
                interrupted = tokio::signal::ctrl_c() => interrupted?,
            }
        }
        #[cfg(not(unix))]
        tokio::signal::ctrl_c().await?;
        self.stop().await;
        Ok(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.server.abort();
        self.registering.iter().for_each(JoinHandle::abort);
    }
}
