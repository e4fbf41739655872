//! A participant as a gRPC server that registers itself.

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
use super::{Error, InDoubt, Participant, Service, Sweep, Sweeper, groups};
use crate::causes::in_full;
use crate::resource::Resource;

/// Bytes of a gRPC message: the coordinator's default.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Many unread small messages must not end a connection.
const WINDOW_BYTES: u32 = 64 << 20;

/// Longest wait of a stop for calls under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Address at which a participant is served, and coordinators that are told.
#[derive(Clone, Debug)]
pub struct Serve {
    listen: String,
    advertise: Option<String>,
    coordinators: Vec<String>,
    sweep: Option<Sweep>,
}

impl Serve {
    /// Listens on `HOST:PORT`; port 0 takes a free one.
    pub fn on(listen: impl Into<String>) -> Self {
        Self {
            listen: listen.into(),
            advertise: None,
            coordinators: Vec::new(),
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
    /// Serves it: listens, registers, keeps registered. Dropping the result ends it at once;
    /// [`Serving::stop`] lets calls under way end.
    ///
    /// # Errors
    /// The address cannot be used, or the participant [cannot be](Self::service).
    pub async fn serve(self, serve: Serve) -> Result<Serving, Error> {
        self.service()?.serve(serve).await
    }
}

impl<R: Resource> Service<R> {
    /// Serves it, as [`Participant::serve`] does, where the service is needed besides: to
    /// [join](Self::joiner) transactions. After [`Serving::stop`] it begins nothing any more.
    ///
    /// # Errors
    /// The address cannot be used.
    pub async fn serve(&self, serve: Serve) -> Result<Serving, Error> {
        let service = self.clone();
        let Serve { listen, advertise, coordinators, sweep } = serve;
        let failed = |source| Error::Listen { address: listen.clone(), source };
        let listener = TcpListener::bind(&listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let endpoint = match advertise {
            Some(endpoint) => endpoint,
            None if address.ip().is_unspecified() => return Err(Error::Advertise(address)),
            None => format!("http://{address}"),
        };
        // Of this life of the process, whichever coordinator hears it.
        let (name, instance_id) = (service.participant(), Uuid::now_v7().to_string());
        let registrations = coordinators
            .iter()
            .map(|coordinator| Registration::new(coordinator, name, &endpoint, &instance_id))
            .collect::<Result<Vec<_>, _>>()?;
        let sweeper = match sweep {
            Some(sweep) if !coordinators.is_empty() => Some(service.sweep(coordinators, sweep)?),
            _ => None,
        };

        let (stop, stopped) = watch::channel(false);
        // Without it every small message waits for an acknowledgement of the one before.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let served = ParticipantServiceServer::new(service.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let mut until = stopped.clone();
        let serving = Server::builder()
            .initial_connection_window_size(WINDOW_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .add_service(served)
            .serve_with_incoming_shutdown(incoming, async move {
                // An error says that the other end is gone: that is a stop, too.
                let _ = until.wait_for(|stop| *stop).await;
            });
        let server = tokio::spawn(async move {
            if let Err(error) = serving.await {
                let error = in_full(&error);
                tracing::error!(error, "the participant is served no longer");
            }
            // Calls whose callers went away are still at work.
            service.drain().await;
        });
        let registered = registrations.iter().map(Registration::registered).collect();
        groups::watch(self.clone(), registrations.iter().map(Registration::group).collect());
        let registering = registrations
            .into_iter()
            .map(|registration| tokio::spawn(registration.run(stopped.clone())))
            .collect();
        tracing::info!(%address, endpoint, "participant is served");
        Ok(Serving { address, endpoint, sweeper, stop, server, registering, registered })
    }
}

/// A participant that is served.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    endpoint: String,
    /// Ends first: it needs the slots that the server waits for when it stops.
    sweeper: Option<Sweeper>,
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
        self.stop.send_replace(true);
        let sweeper = self.sweeper.take();
        let ends = async {
            if let Some(sweeper) = sweeper {
                sweeper.stop().await;
            }
            for registering in &mut self.registering {
                let _ = registering.await;
            }
            let _ = (&mut self.server).await;
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, ends).await.is_err() {
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
