//! A participant as a gRPC server that registers itself.

mod exposed;
mod listen;
mod told;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use unanimo_tls::ServerFiles;

use self::listen::Listen;
use self::told::Told;
use super::accept::Accepted;
use super::incoming::Incoming;
use super::metrics::Metrics;
use super::register::{MESSAGE_BYTES_MAX, Register, Registration, STOPPED};
use super::{Error, InDoubt, Participant, Service, Sweep};
use crate::causes::in_full;
use crate::channel::{self, Coordinator};
use crate::resource::Resource;

/// Bytes of all headers of a call.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// Pause between trials of a silent connection, and longest wait for the answer of each.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Many unread small messages must not end a connection.
const WINDOW_BYTES: u32 = 64 << 20;

/// Address at which a participant is served, and coordinators that are told.
#[derive(Clone, Debug)]
pub struct Serve {
    listen: Listen,
    advertise: Option<String>,
    message_bytes_max: usize,
    tls: Option<ServerFiles>,
    insecure: bool,
    /// Its endpoint is not known yet.
    register: Register,
}

impl Serve {
    /// Listens on `HOST:PORT`; port 0 takes a free one.
    pub fn on(listen: impl Into<String>) -> Self {
        Self::listening(Listen::Address(listen.into()))
    }

    /// Takes connections of this listener, such as one that the process was given when it was started.
    #[must_use]
    pub fn from_listener(listener: std::net::TcpListener) -> Self {
        Self::listening(Listen::Listener(Arc::new(listener)))
    }

    fn listening(listen: Listen) -> Self {
        Self {
            listen,
            advertise: None,
            message_bytes_max: MESSAGE_BYTES_MAX,
            tls: None,
            insecure: false,
            register: Register::at(""),
        }
    }

    /// Serves with TLS: with this certificate, and, with [`ServerFiles::client_ca`], only for coordinators that
    /// show a certificate themselves. The files are read again when they change; connections that are open go
    /// on, until the certificate expires that the coordinator has shown. The certificate must have the host of the [endpoint](Self::advertise).
    #[must_use]
    pub fn tls(mut self, files: ServerFiles) -> Self {
        self.tls = Some(files);
        self
    }

    /// Allows an address that other machines can reach to be served without TLS, or to everybody: without
    /// [`ServerFiles::client_ca`] and [`Participant::accept`] whoever reaches it can commit. For a network that encrypts
    /// by itself and lets only the coordinators through, such as a service mesh: then the log has no warning.
    #[must_use]
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Registers with this coordinator, `http://HOST:PORT` or a [`Coordinator`], and stays registered. Called
    /// again it adds another one: a node of the same coordinator group, or of another group. Each group's
    /// transactions, and what is in doubt of them, are kept apart by the group's id.
    #[must_use]
    pub fn register_with(mut self, coordinator: impl Into<Coordinator>) -> Self {
        self.register = self.register.with(coordinator);
        self
    }

    /// Asks this coordinator about what is in doubt, and about rows that may be purged, without registering
    /// with it. For a participant whose endpoints are in the coordinator's own configuration: without this
    /// nobody looks after what is in doubt, and rows are kept for ever.
    #[must_use]
    pub fn ask(mut self, coordinator: impl Into<Coordinator>) -> Self {
        self.register = self.register.ask(coordinator);
        self
    }

    /// Bounds a gRPC message, in either direction. Default 8 MiB, the coordinator's default.
    #[must_use]
    pub fn message_bytes_at_most(mut self, bytes: usize) -> Self {
        self.message_bytes_max = bytes;
        self
    }

    /// Names the address at which the coordinator reaches this process: `http://HOST:PORT`, with TLS
    /// `https://HOST:PORT`. Without it:
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
        self.register = self.register.sweep(sweep);
        self
    }

    /// Leaves that to another process of this participant.
    #[must_use]
    pub fn without_sweep(mut self) -> Self {
        self.register = self.register.without_sweep();
        self
    }

    /// Bounds the wait of [`Serving::stop`] for what is under way. Default 30 s. Make it shorter than what
    /// the process is given before it is killed.
    #[must_use]
    pub fn drain_at_most(mut self, drain: Duration) -> Self {
        self.register = self.register.drain_at_most(drain);
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
    /// An address cannot be used, or the database cannot be set up.
    pub async fn serve(&self, serve: Serve) -> Result<Serving, Error> {
        let Serve { listen, advertise, message_bytes_max, tls, insecure, mut register } = serve;
        let accepted = self.inner.of.accepted.clone();
        accepted.check(tls.as_ref())?;
        let exposed = exposed::of(tls.as_ref(), &accepted).filter(|_| !insecure);
        let tls = tls.map(unanimo_tls::Server::load).transpose().map_err(Error::Tls)?;
        if let Some(endpoint) = &advertise {
            let bad = |bad: channel::BadAddress| Error::Endpoint {
                endpoint: bad.endpoint,
                rule: bad.rule,
            };
            let has_tls = channel::is_address(endpoint).map_err(bad)?;
            if tls.is_some() && !has_tls {
                let rule = "it is served with TLS, so it must be https".to_owned();
                return Err(Error::Endpoint { endpoint: endpoint.clone(), rule });
            }
        }
        let (listener, address) = listen.begin().await?;
        if let Some(exposed) = exposed.filter(|_| !address.ip().is_loopback()) {
            tracing::warn!(participant = self.inner.of.name.as_str(), %address, "{exposed}");
        }
        let endpoint = match advertise {
            Some(endpoint) => endpoint,
            None if address.ip().is_unspecified() => return Err(Error::Advertise(address)),
            None if tls.is_some() => format!("https://{address}"),
            None => format!("http://{address}"),
        };
        register.endpoint(endpoint.clone());
        let drain = register.drain();
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = watch::channel(None);
        self.look_at_place().await;
        let server = self.listen(listener, (tls, accepted), (stopped, end), message_bytes_max);
        let registration = self.prepare_registration(register);
        // It ends the server where one of the next steps fails.
        let (server, registration) = match registration {
            Ok(registration) => (server, registration),
            Err(error) => {
                server.abort();
                return Err(error);
            }
        };
        let mut serving = Serving { address, endpoint, registration, stop, server, ended, drain };
        self.set_up().await?;
        self.check_sessions().await?;
        serving.registration.begin(self);
        tracing::info!(%address, endpoint = serving.endpoint, "participant is served");
        Ok(serving)
    }

    fn listen(
        &self,
        listener: TcpListener,
        (tls, accepted): (Option<unanimo_tls::Server>, Accepted),
        (mut until, end): (watch::Receiver<bool>, watch::Sender<Option<String>>),
        message_bytes_max: usize,
    ) -> JoinHandle<()> {
        let service = self.clone();
        // Without it every small message waits for an acknowledgement of the one before.
        let incoming =
            TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(KEEP_ALIVE));
        let served = service.server_of_messages(message_bytes_max);
        let server = Server::builder()
            .initial_connection_window_size(WINDOW_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .http2_max_header_list_size(HEADERS_BYTES_MAX)
            .layer(InterceptorLayer::new(accepted))
            .add_service(served);
        let incoming = Incoming::new(incoming, end.clone());
        let stop = async move {
            // An error says that the other end is gone: that is a stop, too.
            let _ = until.wait_for(|stop| *stop).await;
        };
        tokio::spawn(async move {
            let served = match tls {
                None => server.serve_with_incoming_shutdown(incoming, stop).await,
                Some(tls) => server.serve_with_incoming_shutdown(tls.grpc(incoming), stop).await,
            };
            let error = match served {
                Ok(()) => "it was told to".to_owned(),
                Err(error) => {
                    let error = in_full(&error);
                    tracing::error!(error, "the participant is served no longer");
                    error
                }
            };
            end.send_if_modified(|end| end.is_none() && end.replace(error).is_none());
            // Calls whose callers went away are still at work.
            service.drain().await;
        })
    }
}

/// A participant that is served.
#[must_use = "dropping it ends the participant"]
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    endpoint: String,
    /// Ends first: its sweeper needs the slots that the server waits for when it stops.
    registration: Registration,
    /// Ends the server.
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    /// The server has ended, for this reason.
    ended: watch::Receiver<Option<String>>,
    drain: Duration,
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
        self.registration.in_doubt()
    }

    /// The same, to be followed: it changes with each sweep.
    #[must_use]
    pub fn watch_in_doubt(&self) -> Option<watch::Receiver<InDoubt>> {
        self.registration.watch_in_doubt()
    }

    /// Returns what the participant has done since it was made, and what it holds in doubt.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.registration.metrics()
    }

    /// Waits until every coordinator has the registration, as [`Registration::registered`] does.
    ///
    /// # Errors
    /// A coordinator refuses it. It is asked again all the same, for the refusal may be mended there.
    pub async fn registered(&mut self) -> Result<(), Error> {
        self.registration.registered().await
    }

    /// Waits until the server has ended by itself, such as by a fault of its listener; returns the reason. For
    /// services with signals of their own: without this a process would live on that nobody can call.
    pub async fn ended(&mut self) -> String {
        let ended = self.ended.wait_for(Option::is_some).await;
        // An error says that its task was ended.
        let reason = ended.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| "its task has ended".to_owned())
    }

    /// Deregisters, takes no more calls, waits for those under way, and records what handlers have [lost](super#lost-transactions)
    /// and the database has not taken before, for at most 30 s or the time of
    /// [`Serve::drain_at_most`], of which coordinators that do not answer, and a sweep that does not end, take one half. What
    /// they leave open is ended by another process of this participant, or by the next one.
    ///
    /// # Errors
    /// The database has not taken the record of a loss. It has stopped all the same.
    pub async fn stop(mut self) -> Result<(), Error> {
        let drain = self.drain;
        let ends = async {
            self.registration.leave_within(drain / 2).await;
            self.stop.send_replace(true);
            let _ = (&mut self.server).await;
        };
        if tokio::time::timeout(drain, ends).await.is_err() {
            self.stop.send_replace(true);
            self.registration.close();
            tracing::warn!("calls are still under way after {drain:?}; stopping anyway");
        }
        self.registration.recorded()
    }

    /// Serves until the process is told to end (SIGTERM, or Ctrl-C), and then [stops](Self::stop). Told so
    /// once more, it waits for nothing any more.
    ///
    /// # Errors
    /// Signals cannot be listened to, the server has ended by itself, or the database has not taken the record of what a
    /// handler has lost.
    pub async fn until_stopped(mut self) -> io::Result<()> {
        let mut told = Told::listen()?;
        tokio::select! {
            told = told.once() => told?,
            reason = self.ended() => {
                let mut text = format!("the participant is served no longer: {reason}");
                if let Err(error) = self.stop().await {
                    text.push_str(&format!("; failed to {error}"));
                }
                return Err(io::Error::other(text));
            }
        }
        let unrecorded = self.registration.unrecorded();
        let stopped = tokio::select! {
            stopped = self.stop() => stopped,
            told = told.once() => {
                told?;
                tracing::warn!("told to end once more: calls that are under way are not waited for");
                Error::unless_recorded(&unrecorded(), STOPPED)
            }
        };
        stopped.map_err(|error| io::Error::other(format!("failed to {error}")))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.server.abort();
    }
}
