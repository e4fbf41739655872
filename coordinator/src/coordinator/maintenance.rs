//! Maintenance: periodic work of the coordinator.

mod pace;
mod places;
mod pulse;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use unanimo_core::{Incarnation, Timestamp};

use self::pace::Pace;
use super::purge_clock::{PurgeClock, Reading, Verdict};
use crate::alarm::CLOCK_SKEW;
use crate::audit::Trail;
use crate::config::Config;
use crate::engine::{Handle, unreadable};
use crate::env::Env;
use crate::feed;
use crate::metrics::Metrics;
use crate::participants::directory::Directory;
use crate::store::{self, PurgeTimes, Purged, Retention, Store, in_full, journal};
use crate::suspension::Moment;

/// Pause between two counts of the transactions that need attention.
const ATTENTION_INTERVAL: Duration = Duration::from_secs(5);

/// Pause between two looks at what clients' names are looked for by.
const NAMES_INTERVAL: Duration = Duration::from_secs(30);

/// Looks that fail one after the other of which a log line is written: ten minutes of them.
const NAMES_FAILURES_TOLD: u32 = 20;

/// Pieces in which one run deletes old events: other purges wait for it.
const EVENT_PURGES_MAX: u32 = 20;

/// Shortest pause between two purges of events, unless `purge-interval` is shorter: a run of them has statements of its
/// own, whether anything is due or not.
const EVENT_PURGE_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest pause between two purges of the audit: what is to go from it is a year old.
const AUDIT_PURGE_INTERVAL: Duration = Duration::from_secs(60);

/// Part of the retention of gids since the last purge from which on a start raises an alarm: a day by default.
const SUSPICIOUS_PARTS: u32 = 7;

/// Shortest time since the last purge from which on it does.
const SUSPICIOUS_MIN: Duration = Duration::from_secs(60 * 60);

/// Starts all of it, and returns the handle of the feed, which is made of what the journal has written.
pub(super) fn start(
    tasks: &mut JoinSet<()>,
    (engine, journal): (&Handle, &journal::Handle),
    directory: &Arc<Directory>,
    purge: Purge,
) -> feed::Handle {
    let (store, metrics) = (Arc::clone(&purge.store), Arc::clone(&purge.metrics));
    let (env, me) = (Arc::clone(&purge.env), purge.me);
    let (feed, sampled) = (feed::Handle::default(), Arc::clone(&env));
    let parts = feed::Parts {
        me,
        store: Arc::clone(&store),
        env,
        metrics: Arc::clone(&metrics),
        journal: journal.clone(),
    };
    tasks.spawn(feed::Service::new(parts, feed.clone()).run());
    tasks.spawn(unreadable::Service::new(engine.clone()).run());
    tasks.spawn(pulse::sample(engine.clone(), sampled, Arc::clone(&metrics)));
    tasks.spawn(wake_returned(Arc::clone(directory), engine.clone()));
    let (engine, directory) = (engine.clone(), Arc::clone(directory));
    tasks.spawn(places::forget_stale(engine, directory, Arc::clone(&store), me));
    tasks.spawn(purge.audit.clone().run());
    tasks.spawn(purge.run());
    tasks.spawn(keep_names(Arc::clone(&store), me));
    tasks.spawn(count_attention(store, metrics));
    feed
}

/// Purges transactions whose retention is over.
#[derive(Debug)]
pub(super) struct Purge {
    pub(super) store: Arc<dyn Store>,
    pub(super) env: Arc<dyn Env>,
    pub(super) me: Incarnation,
    pub(super) retention: Retention,
    pub(super) audit: Trail,
    pub(super) audit_retention: Duration,
    /// The purge of the audit: it may wait for writes, and nothing waits for it.
    pub(super) purging_audit: JoinSet<()>,
    /// When that began last.
    pub(super) audit_purged: Option<Instant>,
    pub(super) events_retention: Duration,
    /// When events were purged last.
    pub(super) events_purged: Option<Instant>,
    /// Some more were due then.
    pub(super) events_left: bool,
    pub(super) interval: Duration,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: PurgeClock,
    /// Last verdict of the clocks, if that was no time.
    pub(super) doubt: Option<Verdict>,
}

impl Purge {
    /// Makes the purge of a new incarnation, which has no doubt yet.
    pub(super) fn new(
        config: &Config,
        me: Incarnation,
        store: &Arc<dyn Store>,
        env: &Arc<dyn Env>,
        metrics: &Arc<Metrics>,
        audit: &Trail,
    ) -> Self {
        Self {
            store: Arc::clone(store),
            env: Arc::clone(env),
            me,
            retention: config.retention(),
            audit: audit.clone(),
            audit_retention: config.audit_retention.0,
            purging_audit: JoinSet::new(),
            audit_purged: None,
            events_retention: config.events_retention.0,
            events_purged: None,
            events_left: false,
            interval: config.purge_interval.0,
            metrics: Arc::clone(metrics),
            clock: PurgeClock::default(),
            doubt: None,
        }
    }
}

impl Purge {
    async fn run(mut self) {
        let mut pace = Pace::default();
        loop {
            let started = Instant::now();
            let purged = self.once().await;
            self.metrics.purged(purged);
            pace.note(self.metrics.begun_so_far(), Instant::now());
            let pause = pace.pause_after(purged, started.elapsed(), self.interval);
            let longest = if self.events_left { EVENT_PURGE_INTERVAL } else { self.interval };
            tokio::time::sleep(pause.min(longest)).await;
        }
    }

    /// Purges as far as it can: one part that fails does not hold up the other.
    async fn once(&mut self) -> Purged {
        let PurgeTimes { database, last } = match self.store.purge().times().await {
            Ok(times) => times,
            Err(error) => {
                warn_failed(&error);
                self.events_left = false;
                return Purged::default();
            }
        };
        let reading = Reading { own: self.env.now(), database, at: Moment::now() };
        let verdict = self.clock.judge(reading, last, self.retention.gids);
        self.tell(verdict, reading, last);
        match verdict {
            Verdict::Agreed(now) => {
                let (purge, me, retention) = (self.store.purge(), self.me, self.retention);
                // At once: each waits for the database most of its time, and they have no transaction in common.
                let (stripped, deleted) =
                    tokio::join!(purge.strip(me, retention, now), purge.delete(me, retention, now));
                self.purge_audit(now);
                self.purge_events(now).await;
                if stripped.is_ok() && deleted.is_ok() {
                    self.metrics.purge_succeeded(now);
                }
                Purged { stripped: count(stripped), deleted: count(deleted) }
            }
            Verdict::Unproven | Verdict::Differ | Verdict::Stepped => {
                self.events_left = false;
                Purged::default()
            }
        }
    }

    /// Begins to remove entries of the audit whose own retention is over, unless that is under way, or was a moment
    /// ago.
    fn purge_audit(&mut self, now: Timestamp) {
        while self.purging_audit.try_join_next().is_some() {}
        let is_due = self.audit_purged.is_none_or(|last| last.elapsed() >= AUDIT_PURGE_INTERVAL);
        if self.audit_retention.is_zero() || !self.purging_audit.is_empty() || !is_due {
            return;
        }
        self.audit_purged = Some(Instant::now());
        let (audit, retention) = (self.audit.clone(), self.audit_retention);
        self.purging_audit.spawn(async move {
            match audit.purge(now, retention).await {
                Ok(0) => {}
                Ok(purged) => tracing::info!(purged, "entries of the audit were purged"),
                Err(error) => warn_failed(&error),
            }
        });
    }

    /// Removes events whose own retention is over, in pieces.
    async fn purge_events(&mut self, now: Timestamp) {
        let retention = u64::try_from(self.events_retention.as_millis()).unwrap_or(u64::MAX);
        let pause = EVENT_PURGE_INTERVAL.min(self.interval);
        let is_due = self.events_purged.is_none_or(|last| last.elapsed() >= pause);
        if retention == 0 || !is_due {
            return;
        }
        self.events_purged = Some(Instant::now());
        let before = Timestamp(now.0.saturating_sub(retention));
        let mut left = EVENT_PURGES_MAX;
        while left > 0 {
            match self.store.feed().purge(self.me, self.events_retention, now).await {
                Ok(0) => break,
                Ok(_) => left -= 1,
                Err(error) => {
                    warn_failed(&error);
                    break;
                }
            }
        }
        self.events_left = left == 0;
        if let Err(error) = self.store.webhooks().purge_dead(self.me, before).await {
            warn_failed(&error);
        }
    }

    /// Raises the alarm when the clocks begin to disagree, and clears it when they agree again.
    fn tell(&mut self, verdict: Verdict, reading: Reading, last: Option<Timestamp>) {
        let doubt = Some(verdict).filter(|verdict| !matches!(verdict, Verdict::Agreed(_)));
        if doubt == self.doubt {
            return;
        }
        let Reading { own, database, .. } = reading;
        // Of a first start nothing is there to be purged.
        let is_old =
            doubt == Some(Verdict::Unproven) && is_suspicious(own, last, self.retention.gids);
        let is_alarm = is_old || matches!(doubt, Some(Verdict::Differ | Verdict::Stepped));
        self.metrics.clock_skew(is_alarm);
        let (own, database, last) =
            (shown(own), shown(database), last.map(|last| tracing::field::display(shown(last))));
        match doubt {
            None => tracing::info!("the clocks agree; ended transactions are purged again"),
            Some(Verdict::Differ) => tracing::error!(
                alarm = CLOCK_SKEW,
                own,
                database,
                "the clocks of coordinator and database differ; nothing is purged"
            ),
            Some(Verdict::Stepped) => tracing::error!(
                alarm = CLOCK_SKEW,
                own,
                database,
                last_purge = last,
                "the clocks were set; nothing is purged until they are back, or have run evenly for an \
                 hour"
            ),
            Some(Verdict::Unproven) if is_old => tracing::error!(
                alarm = CLOCK_SKEW,
                own,
                database,
                last_purge = last,
                "the last purge was long ago: nobody ran, or the clocks are ahead; they are believed, and \
                 what is old by them is purged, once they have run evenly for an hour"
            ),
            Some(Verdict::Unproven | Verdict::Agreed(_)) => tracing::info!(
                own,
                database,
                last_purge = last,
                "nothing is purged until the clocks have run evenly for an hour: the last purge was \
                 long ago"
            ),
        }
        self.doubt = doubt;
    }
}

/// Returns the number of what was purged. A failure is told with its cause, which names the statement.
fn count(purged: Result<u64, store::Error>) -> u64 {
    purged.unwrap_or_else(|error| {
        warn_failed(&error);
        0
    })
}

fn warn_failed(error: &store::Error) {
    let error = in_full(error);
    tracing::warn!(error, "failed to purge ended transactions; it is repeated");
}

/// Tells whether the last purge was so long ago that a person should look at the clocks before they are
/// believed: by a wrong one much of what is kept would be purged.
fn is_suspicious(now: Timestamp, last: Option<Timestamp>, gids: Duration) -> bool {
    last.is_some_and(|last| last.until(now) > (gids / SUSPICIOUS_PARTS).max(SUSPICIOUS_MIN))
}

/// Formats a time for a log line.
fn shown(time: Timestamp) -> String {
    let ms = i64::try_from(time.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| time.0.to_string(), |t| t.to_string())
}

/// Updates the gauges of the alarms at each [`ATTENTION_INTERVAL`].
async fn count_attention(store: Arc<dyn Store>, metrics: Arc<Metrics>) {
    loop {
        match store.transactions().attention().await {
            Ok(count) => metrics.attention(count),
            Err(error) => {
                let error = in_full(&error);
                tracing::debug!(error, "failed to count the transactions that need attention");
            }
        }
        tokio::time::sleep(ATTENTION_INTERVAL).await;
    }
}

/// Keeps what clients' names are looked for by. Without it each new one is looked for in more places.
async fn keep_names(store: Arc<dyn Store>, me: Incarnation) {
    let mut failures: u32 = 0;
    loop {
        match store.transactions().keep_names(me).await {
            Ok(()) => failures = 0,
            Err(error) => {
                let error = in_full(&error);
                failures = failures.saturating_add(1);
                if failures.is_multiple_of(NAMES_FAILURES_TOLD) {
                    tracing::warn!(
                        error,
                        failures,
                        "failed to keep what clients' names are looked for by; new gids are looked for in more places"
                    );
                } else {
                    tracing::debug!(error, "failed to keep what clients' names are looked for by");
                }
            }
        }
        tokio::time::sleep(NAMES_INTERVAL).await;
    }
}

/// Most names in a log line.
const NAMES_SHOWN: usize = 8;

/// Sends waiting calls to participants that have registered again.
async fn wake_returned(directory: Arc<Directory>, engine: Handle) {
    loop {
        let mut names = directory.returned().await;
        names.sort();
        names.dedup();
        tracing::info!(
            participants = ?&names[..names.len().min(NAMES_SHOWN)], count = names.len(),
            "participants have registered; calls that wait for them are sent"
        );
        engine.returned(names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::kept::Kept;
    use crate::env::SystemEnv;

    /// Transactions are purged though the audit waits for a database that does not answer.
    #[tokio::test]
    async fn a_purge_of_the_audit_that_hangs_holds_up_no_other() {
        let kept = Kept::new().await;
        let (store, env, metrics) =
            (kept.store(), Arc::new(SystemEnv) as Arc<dyn Env>, Arc::default());
        let audit = Trail::new(Arc::clone(&store), Arc::clone(&env), Arc::clone(&metrics), kept.me);
        let config = Config::default();
        let mut purge = Purge::new(&config, kept.me, &store, &env, &metrics, &audit);
        kept.hang(true);
        for _ in 0..3 {
            let once = tokio::time::timeout(Duration::from_secs(20), purge.once()).await;
            once.expect("it does not wait for the audit");
            tokio::task::yield_now().await;
        }
        assert_eq!(purge.purging_audit.len(), 1, "one is under way");
        kept.hang(false);
        purge.purging_audit.join_next().await.expect("one").expect("no panic");
        purge.once().await;
        assert!(purge.purging_audit.is_empty(), "not twice in a minute");
        assert!(purge.doubt.is_none(), "the clocks of a new database agree");
    }
}
