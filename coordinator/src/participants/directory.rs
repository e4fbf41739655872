//! Names of participants, and where they answer.

mod place;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint as Dial};
use unanimo_core::ParticipantName;
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;

pub use self::place::{ENDPOINTS_MAX, Place};
use super::ParticipantService;
use super::databases::Databases;
use super::own::{self, Own};

/// Keep-alive intervals without a registration after which an endpoint is gone.
const INTERVALS_UNTIL_GONE: u32 = 3;

/// Longest time to wait for a participant's connection. It is on a near network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection on which nothing is answered for so long is closed, and its calls have failed. The
/// ping is what finds out that a host has vanished without a word.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Flow-control windows. Wide: small messages of many calls share a connection, and none should
/// wait for another's.
const WINDOW_BYTES: u32 = 16 << 20;

/// Settings of the calls to participants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Calls under way at one participant: Prepares, and apart from them Commits and Cancels.
    pub slots: usize,
    /// Interval in which participants are to register again.
    pub keep_alive_interval: Duration,
    /// Largest message that is accepted from a participant.
    pub message_bytes_max: usize,
}

/// Reason for which a participant cannot be given new work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody ever registered or configured this name.
    #[error("participant {0} is not known: it never registered, and is not configured")]
    Unknown(ParticipantName),
    /// The coordinator started a moment ago, and nobody has registered this name yet.
    #[error("participant {0} has not registered yet: the coordinator started a moment ago")]
    NotYet(ParticipantName),
    /// It was registered, and is not alive.
    #[error("participant {0} is gone: none of its endpoints has registered lately")]
    Gone(ParticipantName),
}

/// Registration of an endpoint, as its participant stated it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// The life of the participant's process; empty until it has registered here.
    pub instance: String,
    /// Features that it knows.
    pub features: Vec<String>,
    /// Name and version of its SDK.
    pub sdk: String,
}

/// All participants. Cheap to share; looked up on every call, changed rarely.
#[derive(Debug)]
pub struct Directory {
    options: Options,
    databases: Databases,
    started: Instant,
    entries: RwLock<BTreeMap<ParticipantName, Arc<Entry>>>,
    /// Participants that came back, and whose waiting calls are to be sent.
    returned: RwLock<Vec<ParticipantName>>,
    returning: Notify,
}

/// A participant.
#[derive(Debug)]
pub(crate) struct Entry {
    endpoints: RwLock<Vec<Endpoint>>,
    local: Option<Local>,
    /// Phase two has slots of its own: Prepares that wait for locks of branches in doubt must not
    /// starve the Commits that free them.
    pub(crate) prepare_slots: Semaphore,
    pub(crate) phase_two_slots: Semaphore,
}

/// A participant inside this process.
#[derive(Clone)]
enum Local {
    Service(Arc<dyn ParticipantService>),
    /// The coordinator itself.
    Own(Arc<dyn Own>),
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("in-process")
    }
}

#[derive(Debug)]
struct Endpoint {
    url: String,
    configured: bool,
    registered: Registered,
    last_seen: Instant,
    /// One connection for Prepares and one for the rest: HTTP/2 bounds the calls on a connection.
    prepare: ParticipantServiceClient<Channel>,
    phase_two: ParticipantServiceClient<Channel>,
}

/// A way to call a participant.
#[derive(Clone)]
pub(crate) enum Route {
    /// Over gRPC.
    Remote(ParticipantServiceClient<Channel>),
    /// In this process.
    Local(Arc<dyn ParticipantService>),
    /// The coordinator itself.
    Own(Arc<dyn Own>),
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Remote(_) => "remote",
            Self::Local(_) => "local",
            Self::Own(_) => "own",
        })
    }
}

/// An endpoint as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its address.
    pub url: String,
    /// Named in the configuration.
    pub configured: bool,
    /// Time since it registered; zero for a configured one.
    pub silent_for: Duration,
    /// It is called for new work.
    pub alive: bool,
    /// Its last registration.
    pub registered: Registered,
}

impl Directory {
    /// Makes an empty directory.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            databases: Databases::new(options.keep_alive_interval * INTERVALS_UNTIL_GONE),
            options,
            started: Instant::now(),
            entries: RwLock::default(),
            returned: RwLock::default(),
            returning: Notify::new(),
        }
    }

    /// Returns the participants' databases.
    #[must_use]
    pub fn databases(&self) -> &Databases {
        &self.databases
    }

    /// Returns the interval in which participants are to register again.
    #[must_use]
    pub fn keep_alive_interval(&self) -> Duration {
        self.options.keep_alive_interval
    }

    fn gone_after(&self) -> Duration {
        self.options.keep_alive_interval * INTERVALS_UNTIL_GONE
    }

    fn entry(&self, name: &ParticipantName) -> Option<Arc<Entry>> {
        read(&self.entries).get(name).map(Arc::clone)
    }

    fn entry_or_new(&self, name: &ParticipantName) -> Arc<Entry> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(name.clone()).or_insert_with(|| Arc::new(self.new_entry(None)));
        Arc::clone(entry)
    }

    fn new_entry(&self, local: Option<Local>) -> Entry {
        // A child waits for its own participants, and a slot that it held meanwhile would be missing to
        // the children below it, or behind it. There are no more of them than live transactions.
        let slots = match local {
            Some(Local::Own(_)) => Semaphore::MAX_PERMITS,
            Some(Local::Service(_)) | None => self.options.slots,
        };
        Entry {
            endpoints: RwLock::default(),
            local,
            prepare_slots: Semaphore::new(slots),
            phase_two_slots: Semaphore::new(slots),
        }
    }

    /// Adds a participant that lives in this process.
    pub fn add_local(&self, name: ParticipantName, service: Arc<dyn ParticipantService>) {
        self.insert_local(name, Local::Service(service));
    }

    /// Adds the coordinator itself, in the place of whoever has its name.
    pub(crate) fn add_own(&self, service: Arc<dyn Own>) {
        self.insert_local(own::name(), Local::Own(service));
    }

    fn insert_local(&self, name: ParticipantName, local: Local) {
        let entry = Arc::new(self.new_entry(Some(local)));
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(name, entry);
    }

    /// Adds a name without an endpoint: it is known, and gone.
    pub fn add_name(&self, name: &ParticipantName) {
        self.entry_or_new(name);
    }

    /// Adds an endpoint of the configuration; it is never gone.
    pub fn add_configured(&self, name: &ParticipantName, url: &str) {
        self.keep(name, url, Registered::default(), true);
    }

    /// Notes that an endpoint is alive. If it was not there, or was gone, or is another process
    /// than before, whatever waits for the participant goes out at once.
    pub fn seen(&self, name: &ParticipantName, url: &str, registered: Registered) {
        if self.keep(name, url, registered, false) {
            self.returned.write().unwrap_or_else(PoisonError::into_inner).push(name.clone());
            self.returning.notify_one();
        }
    }

    /// Tells whether the endpoint was not there, gone, or another process.
    fn keep(
        &self,
        name: &ParticipantName,
        url: &str,
        registered: Registered,
        configured: bool,
    ) -> bool {
        let entry = self.entry_or_new(name);
        let mut endpoints = entry.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(known) = endpoints.iter_mut().find(|endpoint| endpoint.url == url) {
            let gone = now - known.last_seen > self.gone_after();
            let other = known.registered.instance != registered.instance;
            known.last_seen = now;
            known.registered = registered;
            known.configured |= configured;
            return gone || other;
        }
        endpoints.push(Endpoint {
            url: url.to_owned(),
            configured,
            registered,
            last_seen: now,
            prepare: self.dial(url),
            phase_two: self.dial(url),
        });
        true
    }

    /// Takes an endpoint away.
    pub fn remove(&self, name: &ParticipantName, url: &str) {
        if let Some(entry) = self.entry(name) {
            let mut endpoints = entry.endpoints.write().unwrap_or_else(PoisonError::into_inner);
            endpoints.retain(|endpoint| endpoint.configured || endpoint.url != url);
        }
    }

    fn dial(&self, url: &str) -> ParticipantServiceClient<Channel> {
        let dial = Dial::from_shared(url.to_owned())
            .expect("endpoints are checked before they are stored")
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .initial_connection_window_size(WINDOW_BYTES)
            .initial_stream_window_size(WINDOW_BYTES);
        ParticipantServiceClient::new(dial.connect_lazy())
            .max_decoding_message_size(self.options.message_bytes_max)
            .max_encoding_message_size(self.options.message_bytes_max)
    }

    /// Checks that new work may name this participant.
    ///
    /// # Errors
    /// It may not.
    pub fn check(&self, name: &ParticipantName) -> Result<(), Error> {
        let Some(entry) = self.entry(name) else {
            // Participants register at intervals: what is not there may only not have come yet.
            return Err(match self.started.elapsed() <= self.gone_after() {
                true => Error::NotYet(name.clone()),
                false => Error::Unknown(name.clone()),
            });
        };
        if entry.local.is_some() {
            return Ok(());
        }
        let endpoints = read(&entry.endpoints);
        if endpoints.iter().any(|endpoint| endpoint.is_alive(self.gone_after())) {
            Ok(())
        } else {
            Err(Error::Gone(name.clone()))
        }
    }

    /// The participant, if its name is known.
    pub(crate) fn find(&self, name: &ParticipantName) -> Option<Arc<Entry>> {
        self.entry(name)
    }

    /// A way to call it. Attempts take turns among the endpoints that are alive; what is owed is
    /// also sent to endpoints that were not heard of lately, if there are no others.
    pub(crate) fn route(&self, entry: &Entry, prepare: bool, attempt: u32) -> Option<Route> {
        match &entry.local {
            Some(Local::Service(service)) => return Some(Route::Local(Arc::clone(service))),
            Some(Local::Own(own)) => return Some(Route::Own(Arc::clone(own))),
            None => {}
        }
        let endpoints = read(&entry.endpoints);
        let alive: Vec<&Endpoint> =
            endpoints.iter().filter(|endpoint| endpoint.is_alive(self.gone_after())).collect();
        let candidates = if alive.is_empty() { endpoints.iter().collect() } else { alive };
        let index = (attempt.max(1) as usize - 1).checked_rem(candidates.len())?;
        let endpoint = candidates[index];
        let client = if prepare { &endpoint.prepare } else { &endpoint.phase_two };
        Some(Route::Remote(client.clone()))
    }

    /// Everybody but the coordinator itself, by name.
    #[must_use]
    pub fn list(&self) -> Vec<(ParticipantName, Vec<Shown>)> {
        let entries = read(&self.entries);
        let show = |(name, entry): (&ParticipantName, &Arc<Entry>)| {
            let local = entry.local.as_ref().map(|_| Shown {
                url: "in-process".to_owned(),
                configured: true,
                silent_for: Duration::ZERO,
                alive: true,
                registered: Registered::default(),
            });
            let endpoints = read(&entry.endpoints);
            let remote = endpoints.iter().map(|endpoint| Shown {
                url: endpoint.url.clone(),
                configured: endpoint.configured,
                silent_for: endpoint.silent_for(),
                alive: endpoint.is_alive(self.gone_after()),
                registered: endpoint.registered.clone(),
            });
            (name.clone(), local.into_iter().chain(remote).collect())
        };
        let others = |(_, entry): &(&ParticipantName, &Arc<Entry>)| {
            !matches!(entry.local, Some(Local::Own(_)))
        };
        entries.iter().filter(others).map(show).collect()
    }

    /// Waits until participants have come back, and says which.
    pub async fn returned(&self) -> Vec<ParticipantName> {
        loop {
            let names =
                std::mem::take(&mut *self.returned.write().unwrap_or_else(PoisonError::into_inner));
            if !names.is_empty() {
                return names;
            }
            self.returning.notified().await;
        }
    }
}

impl Endpoint {
    fn silent_for(&self) -> Duration {
        if self.configured { Duration::ZERO } else { self.last_seen.elapsed() }
    }

    fn is_alive(&self, gone_after: Duration) -> bool {
        self.silent_for() <= gone_after
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    // Nothing panics half way through a change.
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
