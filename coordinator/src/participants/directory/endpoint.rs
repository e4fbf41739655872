//! One endpoint of a participant, and the instances behind it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connections::{Connections, Dialled, Open};
use super::health::{Failed, Health, Standing};
use super::held::{Held, Part, bytes_of};
use super::listing::Versions;
use super::{CallKind, Registered, Shown};
use crate::participants::ParticipantService;
use crate::participants::own::Own;
use crate::participants::transport::Client;

/// Most instances that are told apart behind one address. With more, one that comes is not taken for a
/// process that was started again.
pub(super) const INSTANCES_MAX: usize = 64;

/// A way to call a participant.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "there are few, and each is beside a connection")]
pub(crate) enum Route {
    /// Over the network, on connections that are counted for as long as this is kept.
    Remote(Client, Arc<Open>),
    /// In this process.
    Local(Arc<dyn ParticipantService>),
    /// The coordinator itself.
    Own(Arc<dyn Own>),
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Remote(..) => "remote",
            Self::Local(_) => "local",
            Self::Own(_) => "own",
        })
    }
}

/// When an instance was seen last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    at: Instant,
    /// It was silent for so long before.
    before: Duration,
    /// Part of that time in which no coordinator ran, and nobody could register.
    pardoned: Duration,
}

impl Seen {
    /// Makes the record of an instance that an earlier coordinator saw.
    pub(super) fn stored(now: Instant, silent: Duration, pardoned: Duration) -> Self {
        Self { at: now, before: silent, pardoned: pardoned.min(silent) }
    }

    fn now(now: Instant) -> Self {
        Self { at: now, before: Duration::ZERO, pardoned: Duration::ZERO }
    }

    fn silent_for(&self, now: Instant) -> Duration {
        self.before + (now - self.at)
    }

    fn is_alive(&self, now: Instant, gone_after: Duration) -> bool {
        self.silent_for(now) - self.pardoned <= gone_after
    }
}

#[derive(Debug)]
struct Instance {
    registered: Registered,
    seen: Seen,
    /// It has registered with this coordinator, and not only with an earlier one.
    here: bool,
    part: Part,
}

/// An endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Its number, unlike any other one's in this process.
    pub(super) id: u64,
    pub(super) url: String,
    local: Option<Box<Route>>,
    slots: usize,
    /// Instances of all endpoints.
    held: Arc<Held>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    configured: bool,
    instances: Vec<Instance>,
    /// There are more instances than are told apart.
    crowded: bool,
    /// Boxed: it is large, and most endpoints of very many are not called.
    dialled: Option<Box<Dialled>>,
    health: Health,
}

impl State {
    /// Adds an instance. Most endpoints have one, and keep no room for more.
    fn add(&mut self, instance: Instance) {
        self.instances.reserve_exact(1);
        self.instances.push(instance);
    }
}

impl Endpoint {
    pub(super) fn remote(id: u64, url: &str, slots: usize, held: Arc<Held>) -> Self {
        Self { id, url: url.to_owned(), local: None, slots, held, state: Mutex::default() }
    }

    pub(super) fn local(id: u64, route: Route, slots: usize) -> Self {
        let state = Mutex::new(State { configured: true, ..State::default() });
        let (url, held) = ("in-process".to_owned(), Arc::default());
        Self { id, url, local: Some(Box::new(route)), slots, held, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn configure(&self) {
        self.state().configured = true;
    }

    pub(super) fn is_configured(&self) -> bool {
        self.state().configured
    }

    /// Adds an instance that an earlier coordinator saw.
    pub(super) fn add_stored(&self, registered: Registered, seen: Seen) {
        let instance = self.instance(registered, seen, false);
        self.state().add(instance);
    }

    fn instance(&self, registered: Registered, seen: Seen, here: bool) -> Instance {
        let part = self.held.part(bytes_of(&self.url, &registered));
        Instance { registered, seen, here, part }
    }

    /// Returns the bytes that an instance holds here, if it is known, and whether it has stated itself what it is: of one
    /// that only an earlier coordinator saw, no more than its name is known.
    pub(super) fn bytes_of(&self, instance: &str) -> Option<(usize, bool)> {
        let state = self.state();
        let known = state.instances.iter().find(|i| i.registered.instance == instance);
        known.map(|known| (known.part.bytes(), known.here))
    }

    /// Returns the number of its instances, and their bytes.
    pub(super) fn held(&self) -> (usize, usize) {
        let state = self.state();
        (state.instances.len(), state.instances.iter().map(|i| i.part.bytes()).sum())
    }

    /// Notes a registration, and tells whether a process came back: the endpoint was gone, or the
    /// instance was not known.
    pub(super) fn seen(&self, registered: Registered, now: Instant, gone_after: Duration) -> bool {
        let come = self.instance(registered, Seen::now(now), true);
        let mut state = self.state();
        let alive = |i: &&Instance| i.seen.is_alive(now, gone_after);
        let living = state.instances.iter().filter(alive).count();
        let known =
            state.instances.iter_mut().find(|i| i.registered.instance == come.registered.instance);
        let is_new = known.is_none();
        match known {
            Some(instance) => *instance = come,
            None => state.add(come),
        }
        living == 0 || (is_new && !state.crowded)
    }

    /// Returns the instance that is to leave if one more registers: the longest silent one of too many.
    pub(super) fn surplus(&self, instance: &str, now: Instant) -> Option<String> {
        let mut state = self.state();
        let known = state.instances.iter().any(|i| i.registered.instance == instance);
        if known || state.instances.len() < INSTANCES_MAX {
            state.crowded &= state.instances.len() > INSTANCES_MAX / 2;
            return None;
        }
        state.crowded = true;
        let oldest = state.instances.iter().max_by_key(|i| i.seen.silent_for(now));
        oldest.map(|instance| instance.registered.instance.clone())
    }

    /// Takes an instance away, and tells whether the endpoint goes with it.
    pub(super) fn leave(&self, instance: &str) -> bool {
        let mut state = self.state();
        state.instances.retain(|i| {
            let id = &i.registered.instance;
            !(id.is_empty() || id == instance)
        });
        !state.configured && state.instances.is_empty()
    }

    /// Returns the instances of which nothing was heard for so long.
    pub(super) fn silent_instances(&self, now: Instant, since: Duration) -> Vec<String> {
        let state = self.state();
        let silent = state.instances.iter().filter(|i| i.seen.silent_for(now) > since);
        silent.map(|instance| instance.registered.instance.clone()).collect()
    }

    pub(super) fn instances(&self) -> Vec<String> {
        self.state().instances.iter().map(|i| i.registered.instance.clone()).collect()
    }

    pub(super) fn is_alive(&self, now: Instant, gone_after: Duration) -> bool {
        let state = self.state();
        state.configured || state.instances.iter().any(|i| i.seen.is_alive(now, gone_after))
    }

    /// Time since any of its instances was seen; zero for a configured one.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        let state = self.state();
        if state.configured {
            return Duration::ZERO;
        }
        state.instances.iter().map(|i| i.seen.silent_for(now)).min().unwrap_or(Duration::MAX)
    }

    /// Returns its standing, whether it is known only by an earlier coordinator's word, and how many
    /// calls are under way, `None` if every slot is taken.
    pub(super) fn offer(&self, kind: CallKind, now: Instant) -> (Standing, bool, Option<usize>) {
        let state = self.state();
        let hearsay = !state.configured && !state.instances.iter().any(|i| i.here);
        let calls = state.health.calls(kind);
        (state.health.standing(now), hearsay, (calls < self.slots).then_some(calls))
    }

    /// Counts the calls under way.
    pub(super) fn under_way(&self) -> usize {
        self.state().health.under_way()
    }

    /// Takes a slot, if there is one.
    pub(super) fn take(&self, kind: CallKind, now: Instant) -> bool {
        let health = &mut self.state().health;
        let free = health.calls(kind) < self.slots;
        if free {
            health.take(kind, now);
        }
        free
    }

    pub(super) fn release(&self, kind: CallKind) {
        self.state().health.release(kind);
    }

    pub(super) fn answered(&self, now: Instant) {
        self.state().health.answered(now);
    }

    pub(super) fn failed(&self, failed: Failed, now: Instant) -> Option<Duration> {
        self.state().health.failed(failed, now)
    }

    /// Returns the way to call it for a branch that fails or not; `None` if there is no room for its
    /// connections.
    pub(super) fn route(
        &self,
        kind: CallKind,
        fails: bool,
        connections: &Connections,
    ) -> Option<Route> {
        if let Some(local) = &self.local {
            return Some(Route::clone(local));
        }
        let mut state = self.state();
        if state.dialled.is_none() {
            state.dialled = Some(Box::new(connections.dial(&self.url)?));
        }
        let dialled = state.dialled.as_mut()?;
        let now = Instant::now();
        let (client, open) = dialled.client(kind, fails, &self.url, connections, now)?;
        Some(Route::Remote(client, open))
    }

    /// Closes its connections for calls that fail if there was none for long.
    pub(super) fn close_failing(&self, now: Instant, idle_max: Duration) {
        if let Some(dialled) = &mut self.state().dialled {
            dialled.close_failing(now, idle_max);
        }
    }

    /// Closes its connections if no call is under way, and it is gone or was not called for long.
    pub(super) fn close_idle(&self, now: Instant, gone_after: Duration, idle_max: Duration) {
        let alive = self.is_alive(now, gone_after);
        let mut state = self.state();
        let idle = state.dialled.as_ref().is_some_and(|dialled| dialled.is_idle(now, idle_max));
        if state.health.under_way() == 0 && (idle || !alive) {
            state.dialled = None;
        }
    }

    #[cfg(test)]
    pub(super) fn is_dialled(&self) -> bool {
        self.state().dialled.is_some()
    }

    /// Counts its instances under their versions.
    pub(super) fn count_versions(
        &self,
        counted: &mut Versions,
        now: Instant,
        gone_after: Duration,
    ) {
        for Instance { registered, seen, here, .. } in &self.state().instances {
            let is_alive = seen.is_alive(now, gone_after);
            counted.add(here.then_some(registered), seen.silent_for(now), is_alive);
        }
    }

    pub(super) fn shown(&self, now: Instant, gone_after: Duration) -> Shown {
        let (silent_for, alive) = (self.silent_for(now), self.is_alive(now, gone_after));
        let state = self.state();
        let last = state.instances.iter().min_by_key(|i| i.seen.silent_for(now));
        Shown {
            url: self.url.clone(),
            configured: state.configured,
            silent_for,
            alive,
            registered: last.map(|last| last.registered.clone()).unwrap_or_default(),
        }
    }
}
