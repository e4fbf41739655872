//! Keys of an issuer that are fetched from it over HTTP, and fetched again before they are old.
//!
//! A fetch that fails changes nothing: the keys that are there count until they are too old. A token with a key that is
//! not known has them fetched at once, and no sooner than some seconds after the last time: who invents names of keys
//! makes the issuer no work.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use unanimo_tls::{Client, ClientFiles, Error, File};
use uuid::Uuid;

use super::Bad;
use super::keys::{self, Keys};
use crate::alarm::KEYS_NOT_FETCHED;
use crate::identity::AllTold;
use crate::outbound::{Bounds, Outbound, Plain, parse_url, without_query};

/// Bounds of a request.
const BOUNDS: Bounds = Bounds { patience: Duration::from_secs(5), body_bytes_max: 1 << 20 };

/// Longest wait for the first keys at a start.
const FIRST_MAX: Duration = Duration::from_secs(5);

/// Least time between two fetches, unless they are refreshed more often or there are no keys. For as long a token with
/// a key that is not among the new ones is refused for good.
const INTERVAL_MIN: Duration = Duration::from_secs(10);

/// First pause after a fetch that failed, while there are no keys; it doubles with each.
const PAUSE: Duration = Duration::from_secs(1);

/// Part of the interval by which a refresh may come earlier, so that many coordinators do not ask at once.
const JITTER: f64 = 0.2;

/// Place of keys that are fetched.
#[derive(Clone)]
pub(crate) struct Web {
    /// Address of the key set; without it the issuer tells it.
    pub(crate) url: Option<String>,
    /// Servers that may be asked without TLS.
    pub(crate) plain: Plain,
    /// Authorities of the servers.
    pub(crate) tls: ClientFiles,
    /// Interval at which the keys are fetched again.
    pub(crate) refresh: Duration,
    /// Age at which keys that cannot be fetched again count no more.
    pub(crate) age_max: Duration,
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.as_deref().map(without_query);
        f.debug_struct("Web").field("url", &url).finish_non_exhaustive()
    }
}

/// Description of an issuer by itself (OpenID Connect Discovery).
#[derive(Deserialize)]
struct Description {
    issuer: String,
    jwks_uri: String,
}

type Told = dyn Fn(AllTold, AllTold) + Send + Sync;

/// Keys that are fetched.
pub(super) struct Fetched {
    web: Web,
    issuer: String,
    tls: Client,
    outbound: Outbound,
    state: RwLock<State>,
    /// Wakes the fetch.
    wanted: Arc<Notify>,
    /// Set once a fetch has ended.
    tried: watch::Sender<bool>,
    told: OnceLock<Box<Told>>,
}

#[derive(Default)]
struct State {
    /// The last good ones, and when their fetch began.
    good: Option<(Arc<Keys>, Instant)>,
    /// Fetches that failed since.
    failures: u32,
    /// Reason of the last failure, once it is told; with it whether there were keys in use.
    told: Option<(String, bool)>,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("web", &self.web).finish_non_exhaustive()
    }
}

impl Fetched {
    /// Begins to fetch the keys of this issuer, for as long as the result lives.
    ///
    /// # Errors
    /// The file of authorities cannot be used.
    pub(super) fn start(web: Web, issuer: String) -> Result<Arc<Self>, Error> {
        let tls = Client::load(web.tls.clone())?;
        let outbound = Outbound::new(&tls);
        let (tried, _) = watch::channel(false);
        let (state, wanted, told) = (RwLock::default(), Arc::default(), OnceLock::new());
        let fetched = Arc::new(Self { web, issuer, tls, outbound, state, wanted, tried, told });
        tokio::spawn(follow(Arc::downgrade(&fetched)));
        Ok(fetched)
    }

    /// Waits until the first fetch has ended, for a bounded time.
    pub(super) async fn tried(&self) {
        let mut tried = self.tried.subscribe();
        let _ = tokio::time::timeout(FIRST_MAX, tried.wait_for(|tried| *tried)).await;
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        // Nothing in here panics half way through a change.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the keys that count; `None` if there are none, or they are too old.
    pub(super) fn current(&self) -> Option<Arc<Keys>> {
        self.read().current(self.web.age_max)
    }

    /// Tells what to answer for a key that is not known, and has the keys fetched if they are not new.
    pub(super) fn missing(&self) -> Bad {
        let is_new =
            self.read().good.as_ref().is_some_and(|(_, at)| at.elapsed() < self.interval_min());
        if is_new {
            return Bad::Key;
        }
        self.wanted.notify_one();
        Bad::KeyNotYet
    }

    /// Returns why the file of authorities is not used; `None` if it is.
    pub(super) fn stale(&self) -> Option<String> {
        self.tls.stale()
    }

    /// Returns why the keys are not fetched; `None` if they are.
    pub(super) fn failure(&self) -> Option<String> {
        self.read().told.as_ref().map(|(why, _)| why.clone())
    }

    /// Describes the keys that were fetched last.
    pub(super) fn told(&self) -> AllTold {
        self.read().good.as_ref().map(|(keys, _)| keys.told()).unwrap_or_default()
    }

    /// Tells of each change of the keys that takes effect from now on.
    pub(super) fn on_change(&self, told: impl Fn(AllTold, AllTold) + Send + Sync + 'static) {
        let _ = self.told.set(Box::new(told));
    }

    fn interval_min(&self) -> Duration {
        INTERVAL_MIN.min(self.web.refresh)
    }

    /// Fetches the keys.
    async fn fetch(&self) -> Result<Keys, String> {
        let url = match &self.web.url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        let content = self.get(&url).await?;
        let file = File::new("keys of the issuer", without_query(&url));
        let keys = keys::read(&file, &content).map_err(|error| error.to_string())?;
        // A server that has just started, or that somebody repairs, may answer so: the former keys go on.
        match keys.is_empty() {
            true => Err(format!("{}: it has no key that can be used", without_query(&url))),
            false => Ok(keys),
        }
    }

    /// Asks the issuer where its keys are.
    async fn discover(&self) -> Result<String, String> {
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let content = self.get(&url).await?;
        let bad = |rule: &str| format!("{url}: {rule}");
        let found: Description = serde_json::from_slice(&content)
            .map_err(|_| bad("it must be a JSON object with the texts issuer and jwks_uri"))?;
        if found.issuer != self.issuer {
            return Err(bad("its issuer must be jwt-issuer, to the letter"));
        }
        parse_url(&found.jwks_uri, self.web.plain)
            .map_err(|rule| bad(&format!("its jwks_uri {rule}")))?;
        Ok(found.jwks_uri)
    }

    async fn get(&self, url: &str) -> Result<Bytes, String> {
        let bad = |why: &dyn fmt::Display| format!("{}: {why}", without_query(url));
        let request = Request::get(url)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("unanimo/", env!("CARGO_PKG_VERSION")))
            .body(Bytes::new())
            .map_err(|_| bad(&"it is no address"))?;
        let answer = self.outbound.send(request, BOUNDS).await.map_err(|failure| bad(&failure))?;
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            status if status.is_redirection() => Err(bad(&format_args!(
                "the answer is {}, and redirections are not followed",
                status.as_u16()
            ))),
            status => Err(bad(&format_args!("the answer is {}", status.as_u16()))),
        }
    }

    /// Takes what a fetch that began then has brought, and returns the longest pause before the next one.
    fn take(&self, found: Result<Keys, String>, begun: Instant) -> Duration {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let pause = match found {
            Ok(keys) => {
                let keys = Arc::new(keys);
                let former = state.good.replace((Arc::clone(&keys), begun));
                state.failures = 0;
                let was_told = state.told.take().is_some();
                drop(state);
                // Who wanted them meanwhile has them.
                let _ = pin!(self.wanted.notified()).enable();
                let before = former.map(|(keys, _)| keys.told()).unwrap_or_default();
                let now = keys.told();
                if was_told || before != now {
                    let names = now.keys().cloned().collect::<Vec<_>>().join(", ");
                    tracing::info!(
                        keys = names,
                        "the keys of the issuer were fetched and are used"
                    );
                }
                if let Some(told) = self.told.get() {
                    told(before, now);
                }
                self.web.refresh.mul_f64(1.0 - JITTER * random())
            }
            Err(why) => {
                let in_use = state.current(self.web.age_max).is_some();
                state.failures = state.failures.saturating_add(1);
                // One failure while there are keys is nothing that anybody must look at.
                let is_told = state.told.as_ref().is_some_and(|(_, told)| *told == in_use);
                if !is_told && (!in_use || state.failures > 1) {
                    let error = why.clone();
                    match in_use {
                        true => tracing::error!(
                            alarm = KEYS_NOT_FETCHED,
                            error,
                            "the keys of the issuer cannot be fetched; the former ones stay in use until they are \
                             as old as jwt-keys-age-max"
                        ),
                        false => tracing::error!(
                            alarm = KEYS_NOT_FETCHED,
                            error,
                            "the keys of the issuer cannot be fetched, and there are none that count: its tokens \
                             are refused"
                        ),
                    }
                    state.told = Some((why, in_use));
                }
                match in_use {
                    true => self.interval_min(),
                    false => PAUSE
                        .saturating_mul(1 << state.failures.saturating_sub(1).min(4))
                        .min(self.interval_min()),
                }
            }
        };
        self.tried.send_replace(true);
        pause
    }
}

impl State {
    fn current(&self, age_max: Duration) -> Option<Arc<Keys>> {
        let (keys, at) = self.good.as_ref()?;
        (at.elapsed() < age_max).then(|| Arc::clone(keys))
    }
}

/// Returns a random number from 0 to 1.
fn random() -> f64 {
    let (_, bits) = Uuid::new_v4().as_u64_pair();
    f64::from((bits & u64::from(u32::MAX)) as u32) / f64::from(u32::MAX)
}

/// Fetches again and again.
async fn follow(fetched: Weak<Fetched>) {
    loop {
        let Some(this) = fetched.upgrade() else { return };
        let begun = Instant::now();
        let found = this.fetch().await;
        let pause = this.take(found, begun);
        let (wanted, sooner) = (Arc::clone(&this.wanted), begun + this.interval_min().min(pause));
        drop(this);
        tokio::select! {
            () = sleep_until(begun + pause) => {}
            () = wanted.notified() => sleep_until(sooner).await,
        }
    }
}
