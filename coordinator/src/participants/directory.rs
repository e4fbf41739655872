//! Names of participants, and where they answer.
//!
//! A participant has endpoints, which are addresses, and behind each address one instance or several: a
//! balancer is one address of many processes. An endpoint is alive while any of its instances is, and goes
//! with the last one that leaves. Nothing is dialled before the first call.

mod connections;
mod endpoint;
mod entry;
mod health;
mod held;
mod invitation;
mod kind;
pub(crate) mod listing;
mod options;
mod place;
mod sweep;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use unanimo_core::ParticipantName;
use unanimo_proto::over_http;

use self::connections::Connections;
pub(crate) use self::endpoint::Route;
use self::endpoint::{Endpoint, Seen};
pub(crate) use self::entry::{Entry, Taken};
pub(crate) use self::health::Failed;
use self::held::Held;
pub(crate) use self::invitation::Invitation;
pub use self::kind::CallKind;
pub use self::options::Options;
pub use self::place::{
    ENDPOINTS_MAX, INSTANCES_TOTAL_MAX, NamePlace, NamesBound, Place, REGISTRATIONS_BYTES_MAX,
};
pub use self::sweep::Stale;
pub use self::turns::Turn;
use self::turns::Turns;
use super::ParticipantService;
use super::databases::Databases;
use super::load::{Load, Loads};
use super::own::{self, Own};
use super::tokens::Tokens;

/// Keep-alive intervals without a registration after which an endpoint is gone.
const INTERVALS_UNTIL_GONE: u32 = 3;

/// Reason for which a participant cannot be given new work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody ever registered or configured this name.
    #[error("participant {} is not known: it never registered, and is not configured", .0.local())]
    Unknown(ParticipantName),
    /// The coordinator started a moment ago, and nobody has registered this name yet.
    #[error("participant {} has not registered yet: the coordinator started a moment ago", .0.local())]
    NotYet(ParticipantName),
    /// It was registered, and is not alive.
    #[error("participant {} is gone: none of its endpoints has registered lately", .0.local())]
    Gone(ParticipantName),
    /// Its last calls have failed.
    #[error(
        "participant {} fails, and takes no new work until it answers again; last: {error}",
        .name.local()
    )]
    Failing {
        /// The participant.
        name: ParticipantName,
        /// Error of the last call.
        error: String,
    },
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
    turns: Turns,
    started: Instant,
    entries: RwLock<BTreeMap<ParticipantName, Arc<Entry>>>,
    loads: Loads,
    /// Sum of the registrations of all.
    held: Arc<Held>,
    connections: Connections,
    tokens: Tokens,
    /// The last number of an endpoint.
    numbers: AtomicU64,
    /// Stored names for which there is no place.
    unplaced: RwLock<BTreeSet<ParticipantName>>,
    /// Participants that came back, and whose waiting calls are to be sent.
    returned: RwLock<Vec<ParticipantName>>,
    returning: Notify,
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
    /// The last registration of any of its instances.
    pub registered: Registered,
}

impl Directory {
    /// Makes an empty directory; participants with TLS need certificates of public authorities.
    pub fn new(options: Options) -> Self {
        let tls = unanimo_tls::Client::load(Default::default()).expect("there are no files");
        Self::with_tls(options, tls, Tokens::default())
    }

    /// Makes an empty one of participants that are called with this TLS and these tokens.
    pub(crate) fn with_tls(options: Options, tls: unanimo_tls::Client, tokens: Tokens) -> Self {
        let connections = Connections::new(&options, tls);
        Self {
            databases: Databases::new(options.keep_alive_interval * INTERVALS_UNTIL_GONE),
            turns: Turns::default(),
            options,
            started: Instant::now(),
            entries: RwLock::default(),
            loads: Loads::default(),
            held: Arc::default(),
            connections,
            tokens,
            numbers: AtomicU64::new(0),
            unplaced: RwLock::default(),
            returned: RwLock::default(),
            returning: Notify::new(),
        }
    }

    /// Returns the tokens that are sent to participants.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
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

    /// Returns the time of silence after which an endpoint is gone.
    #[must_use]
    pub fn gone_after(&self) -> Duration {
        self.options.keep_alive_interval * INTERVALS_UNTIL_GONE
    }

    fn entry(&self, name: &ParticipantName) -> Option<Arc<Entry>> {
        read(&self.entries).get(name).map(Arc::clone)
    }

    fn entry_or_new(&self, name: &ParticipantName) -> Arc<Entry> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Entry::new(&self.options, Vec::new(), false, self.load_of(name)));
        Arc::clone(entries.entry(name.clone()).or_insert_with(new))
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds a participant that lives in this process.
    pub fn add_local(&self, name: ParticipantName, service: Arc<dyn ParticipantService>) {
        self.insert_local(name, Route::Local(service), self.options.slots, false);
    }

    /// Adds the coordinator itself, in the place of whoever has its name.
    pub(crate) fn add_own(&self, service: Arc<dyn Own>) {
        // A child waits for its own participants, and a slot that it held meanwhile would be missing to
        // the children below it, or behind it. There are no more of them than live transactions.
        self.insert_local(own::name(), Route::Own(service), Semaphore::MAX_PERMITS, true);
    }

    fn insert_local(&self, name: ParticipantName, route: Route, slots: usize, own: bool) {
        let endpoint = Arc::new(Endpoint::local(self.number(), route, slots));
        let load = self.load_of(&name);
        let entry = Arc::new(Entry::new(&self.options, vec![endpoint], own, load));
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(name, entry);
    }

    /// Adds a name without an endpoint: it is known, and gone.
    pub fn add_name(&self, name: &ParticipantName) {
        self.entry_or_new(name);
    }

    /// Adds an endpoint of the configuration; it is never gone.
    pub fn add_configured(&self, name: &ParticipantName, url: &str) {
        self.endpoint_or_new(name, url).configure();
    }

    /// Adds an instance that registered with an earlier coordinator, and was not heard of since. In the
    /// time that is `pardoned` no coordinator ran, and nobody could register.
    pub fn add_stored(
        &self,
        name: &ParticipantName,
        url: &str,
        instance: String,
        silent_for: Duration,
        pardoned: Duration,
    ) {
        let registered = Registered { instance, ..Registered::default() };
        let seen = Seen::stored(Instant::now(), silent_for, pardoned);
        self.endpoint_or_new(name, url).add_stored(registered, seen);
    }

    /// Notes that an instance is alive at an endpoint. If that was not there, or was gone, or the instance
    /// is a new one, whatever waits for the participant is sent.
    pub fn seen(&self, name: &ParticipantName, url: &str, registered: Registered) {
        self.seen_at(name, url, registered, Instant::now());
    }

    fn seen_at(&self, name: &ParticipantName, url: &str, registered: Registered, now: Instant) {
        let gone_after = self.gone_after();
        let entry = self.entry_or_new(name);
        self.unplaced.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        entry.heard.store(true, Ordering::Relaxed);
        *entry.touched.lock().unwrap_or_else(PoisonError::into_inner) = now;
        let came_back = self.endpoint_or_new(name, url).seen(registered, now, gone_after);
        if came_back {
            CallKind::ALL.into_iter().for_each(|kind| entry.breaker(kind).returned(now));
            entry.endpoints_changed();
            self.returned.write().unwrap_or_else(PoisonError::into_inner).push(name.clone());
            self.returning.notify_one();
        }
    }

    fn endpoint_or_new(&self, name: &ParticipantName, url: &str) -> Arc<Endpoint> {
        let entry = self.entry_or_new(name);
        let mut endpoints = entry.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = endpoints.iter().find(|endpoint| endpoint.url == url) {
            return Arc::clone(known);
        }
        let held = Arc::clone(&self.held);
        let endpoint = Arc::new(Endpoint::remote(self.number(), url, self.options.slots, held));
        endpoints.push(Arc::clone(&endpoint));
        endpoint
    }

    /// Takes an instance away from an endpoint, and the endpoint with the last one. Calls under way there
    /// go on.
    pub fn leave(&self, name: &ParticipantName, url: &str, instance: &str) {
        self.databases.left(name, url, instance);
        if let Some(entry) = self.entry(name) {
            let mut endpoints = entry.endpoints.write().unwrap_or_else(PoisonError::into_inner);
            endpoints.retain(|endpoint| endpoint.url != url || !endpoint.leave(instance));
        }
    }

    /// Tells whether the name is known, or may be in a moment.
    ///
    /// # Errors
    /// It is not.
    pub fn knows(&self, name: &ParticipantName) -> Result<(), Error> {
        if self.entry(name).is_some() {
            return Ok(());
        }
        // Participants register at intervals: what is not there may only not have come yet.
        Err(match self.has_just_started() {
            true => Error::NotYet(name.clone()),
            false => Error::Unknown(name.clone()),
        })
    }

    fn has_just_started(&self) -> bool {
        self.started.elapsed() <= self.gone_after()
    }

    /// Returns the participant, if it is alive.
    fn living(&self, name: &ParticipantName, now: Instant) -> Result<Arc<Entry>, Error> {
        self.knows(name)?;
        let Some(entry) = self.entry(name) else { return Err(Error::Unknown(name.clone())) };
        let alive = |endpoint: &Arc<Endpoint>| endpoint.is_alive(now, self.gone_after());
        if !read(&entry.endpoints).iter().any(alive) {
            let heard = entry.heard.load(Ordering::Relaxed);
            return Err(match !heard && self.has_just_started() {
                true => Error::NotYet(name.clone()),
                false => Error::Gone(name.clone()),
            });
        }
        Ok(entry)
    }

    /// Returns the load of a participant, whether its name is known or not.
    pub(crate) fn load_of(&self, name: &ParticipantName) -> Arc<Load> {
        self.loads.of(name)
    }

    /// The participant, if its name is known.
    pub(crate) fn find(&self, name: &ParticipantName) -> Option<Arc<Entry>> {
        self.entry(name)
    }

    /// Takes a slot at one of the participant's endpoints, when there is one.
    pub(crate) async fn take(
        &self,
        entry: &Arc<Entry>,
        kind: CallKind,
        avoid: &[u64],
    ) -> Option<Taken> {
        entry.take(kind, avoid, self.gone_after()).await
    }

    /// Counts the endpoints of a participant that could be asked.
    pub(crate) fn count_endpoints(&self, entry: &Entry) -> usize {
        read(&entry.endpoints).len()
    }

    /// Returns the way to call an endpoint, for a branch that fails or not.
    ///
    /// # Errors
    /// There is no room for its connections.
    pub(crate) fn route(&self, taken: &Taken, fails: bool) -> Result<Route, String> {
        let route = || taken.endpoint.route(taken.kind, fails, &self.connections);
        // Others keep connections that they do not use: those for calls that fail are missed the least.
        let left = || {
            self.close_failing(Duration::ZERO);
            route()
        };
        let given_back = || {
            self.close_idle(Duration::ZERO);
            route()
        };
        if let Some(route) = route() {
            return Ok(route);
        }
        // A call over HTTP/1.1 has a place of its own, and there are many: it waits for others' rather than close them.
        let is_single = over_http::base(taken.url()).is_some();
        if is_single && !self.connections.may_close(Instant::now()) {
            return Err(self.connections.no_room());
        }
        left().or_else(given_back).ok_or_else(|| self.connections.no_room())
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

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    // Nothing panics half way through a change.
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
