//! Webhooks: events of the feed, sent to receivers by HTTP, each at least once and in order.
//!
//! They are in a file, which is read again when it changes. Each has a task and a durable place of its own, so that a
//! receiver that does not answer holds up no other one, and no transaction.

mod attempt;
mod delivery;
mod file;
mod message;
mod service;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ring::hmac;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use unanimo_core::Timestamp;
use unanimo_tls::{Client, Error, File, Reload};

pub(crate) use self::attempt::Taken;
pub(crate) use self::service::{Parts, Service};
use crate::feed::{Event, Kind};
use crate::identity::{AllTold, Told};
use crate::outbound::Outbound;

/// Most webhooks: each has a task, and labels of metrics.
pub const WEBHOOKS_MAX: usize = 32;

/// Most test events under way at once.
const TESTS_MAX: usize = 4;

/// Ranges of dead letters that are noted one by one while one is sent again; of more than that all are taken to be asked for.
const ASKED_MAX: usize = 32;

/// Makes JSON of an event, as it is told over HTTP; nothing of one that cannot be read.
pub(crate) type Render = Arc<dyn Fn(&crate::store::FeedRow) -> Option<Vec<u8>> + Send + Sync>;

/// Place of a webhook that has none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Begin {
    /// It begins with what comes from now on.
    #[default]
    New,
    /// It begins with the oldest event that is kept.
    Oldest,
}

/// A webhook, as it is configured. What it prints of itself has no secret.
#[derive(Clone)]
pub(crate) struct Webhook {
    pub(crate) name: String,
    pub(crate) url: http::Uri,
    /// The kinds that are sent; all if there are none.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) gid_prefix: String,
    pub(crate) participant: Option<String>,
    begin: Begin,
    /// For how long an answer is waited for.
    timeout: Duration,
    /// For how long a receiver may take nothing before an event is given up.
    give_up_after: Duration,
    /// Longest pause between two attempts.
    backoff_max: Duration,
    headers: Vec<(http::HeaderName, http::HeaderValue)>,
    secrets: Vec<hmac::Key>,
    told: Told,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Webhook {
    /// Tells whether an event is to be sent.
    fn takes(&self, event: &Event) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && event.gid.starts_with(&self.gid_prefix)
            && self.participant.as_ref().is_none_or(|name| event.participants.contains(name))
    }

    /// Returns the address without what may be a secret of it.
    pub(crate) fn shown_url(&self) -> String {
        file::shown(&self.url)
    }
}

/// All webhooks, by name.
#[derive(Debug, Default)]
pub(crate) struct Webhooks {
    all: BTreeMap<String, Arc<Webhook>>,
}

impl Webhooks {
    /// Describes them.
    pub(crate) fn told(&self) -> AllTold {
        self.all.iter().map(|(name, webhook)| (name.clone(), webhook.told.clone())).collect()
    }
}

/// Settings that entries of the file have to fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Receivers may be on other machines without TLS.
    pub(crate) insecure: bool,
    /// Time for which events are kept.
    pub(crate) retention: Duration,
}

/// Files that say where events go.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    webhooks: Arc<Reload<Webhooks>>,
    tls: Client,
}

impl Files {
    /// Reads the file of webhooks.
    ///
    /// # Errors
    /// It is malformed, or an entry breaks a rule. The message repeats no value of the file.
    pub(crate) fn load(path: &Path, tls: Client, rules: Rules) -> Result<Self, Error> {
        let file = File::new("webhooks", path);
        let files = vec![file.clone()];
        let read = move |contents: &[Vec<u8>]| file::read(&file, &contents[0], rules);
        Ok(Self { webhooks: Reload::start(files, read)?, tls })
    }

    /// Returns why the files that are there now are not used; nothing if they are.
    pub(crate) fn stale(&self) -> Option<String> {
        self.webhooks.stale().or_else(|| self.tls.stale())
    }

    /// Describes the webhooks in use.
    pub(crate) fn told(&self) -> AllTold {
        self.webhooks.current().told()
    }

    /// Tells of each change.
    pub(crate) fn on_change(&self, told: impl Fn(&AllTold, &AllTold) + Send + Sync + 'static) {
        self.webhooks.on_change(move |before, now| told(&before.told(), &now.told()));
    }
}

/// State of a webhook, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Events up to this revision were taken, are dead letters, or were not asked for.
    pub(crate) after: u64,
    /// Since when the receiver has taken nothing, if the last attempt failed.
    pub(crate) failing_since: Option<Timestamp>,
    /// The receiver has said that it is gone.
    pub(crate) is_stopped: bool,
    /// The last failure; empty if the last attempt succeeded.
    pub(crate) last_error: String,
    /// When the event happened that is to be taken next, while there is one.
    pub(crate) next_at: Option<Timestamp>,
}

/// A webhook that runs.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) webhook: Arc<Webhook>,
    standing: Arc<Mutex<Standing>>,
    wake: Arc<Notify>,
    /// Dead letters that were asked for since the last one was begun to be sent again.
    asked: Arc<Mutex<Vec<RangeInclusive<u64>>>>,
    /// A test event was taken: a receiver that was gone is back.
    is_back: Arc<std::sync::atomic::AtomicBool>,
    /// When it was told to end.
    ends: Arc<OnceLock<Instant>>,
}

impl Live {
    fn new(webhook: Arc<Webhook>) -> Self {
        let (standing, wake, asked, is_back, ends) = Default::default();
        Self { webhook, standing, wake, asked, is_back, ends }
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        // Nothing in here panics half way through a change.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns its state.
    pub(crate) fn standing(&self) -> Standing {
        self.lock().clone()
    }

    /// Tells it to end, and returns how long ago it was told so first.
    fn end(&self) -> Duration {
        let told = *self.ends.get_or_init(Instant::now);
        self.wake();
        told.elapsed()
    }

    fn is_to_end(&self) -> bool {
        self.ends.get().is_some()
    }

    fn asked(&self) -> MutexGuard<'_, Vec<RangeInclusive<u64>>> {
        // Nothing in here panics half way through a change.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that dead letters of these revisions are to be sent again, before they are durably due: an attempt that is
    /// under way may be of one of them, and says nothing of what its receiver does by now.
    pub(crate) fn ask(&self, revisions: RangeInclusive<u64>) {
        let mut asked = self.asked();
        if asked.len() >= ASKED_MAX {
            asked.clear();
            asked.push(0..=u64::MAX);
        }
        asked.push(revisions);
    }

    fn forget_asked(&self) {
        self.asked().clear();
    }

    /// Tells whether a dead letter was asked for since the last one was begun to be sent again.
    fn is_asked(&self, revision: u64) -> bool {
        self.asked().iter().any(|revisions| revisions.contains(&revision))
    }

    /// Has it look for dead letters that are due, and ends its pause.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Handle for those who ask for webhooks. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    live: Arc<Mutex<BTreeMap<String, Live>>>,
    outbound: Option<Outbound>,
    source: Arc<str>,
    tests: Arc<Semaphore>,
}

impl Handle {
    /// Makes the handle of a coordinator group's webhooks, if it has any.
    pub(crate) fn new(files: Option<&Files>, cluster_id: &str) -> Self {
        Self {
            live: Arc::default(),
            outbound: files.map(|files| Outbound::new(&files.tls)),
            source: message::source(cluster_id).into(),
            tests: Arc::new(Semaphore::new(TESTS_MAX)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Live>> {
        // Nothing in here panics half way through a change.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns all that run, by name.
    pub(crate) fn all(&self) -> Vec<Live> {
        self.lock().values().cloned().collect()
    }

    /// Returns the one of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Live> {
        self.lock().get(name).cloned()
    }

    /// Takes a place for a test event; nothing if too many are under way.
    pub(crate) fn test_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.tests).try_acquire_owned().ok()
    }

    /// Sends a test event once, and tells what came of it. A receiver that takes it is no longer gone.
    pub(crate) async fn test(&self, live: &Live, id: &str, now: Timestamp) -> Taken {
        let Some(outbound) = &self.outbound else { return Taken::Not("no webhooks".into(), None) };
        let body = message::test_event(&self.source, id, now);
        let id = format!("test-{id}");
        let taken = attempt::send(outbound, &live.webhook, (&id, now), body).await;
        if matches!(taken, Taken::Yes(_)) && live.standing().is_stopped {
            live.is_back.store(true, std::sync::atomic::Ordering::SeqCst);
            live.wake();
        }
        taken
    }
}
